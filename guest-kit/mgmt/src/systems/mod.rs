//! VMs and what they are made from. Before: [`resources`](crate::resources). After: [`hypervisor`](crate::hypervisor).
//!
//! [`definition`] is what a person asked for, [`unpack`] opens compressed kernels, [`build`] turns a definition into the
//! records and the image that EL2 makes the VM from; [`boot`] is from where a VM starts, [`notes`] is what people say of it.

pub mod boot;
pub mod build;
pub mod definition;
pub mod notes;
pub mod unpack;

use alloc::vec;
use salp_board::kernel::Source;
use salp_hvc::calls::VmInfo;
use salp_hvc::manager::{ImageInfo, MAX_COPY};

use crate::hypervisor::Hypervisor;
use crate::images::Library;
use crate::images::label::{Kind, Label};
use definition::Definition;

/// The bytes of an image.
pub struct Stored<'a> {
    hypervisor: &'a dyn Hypervisor,
    id: u64,
    size: u64,
}

impl<'a> Stored<'a> {
    /// Returns the bytes of this image.
    pub fn new(hypervisor: &'a dyn Hypervisor, info: &ImageInfo) -> Self {
        Self { hypervisor, id: info.id.get(), size: info.size.get() }
    }
}

impl Source for Stored<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let mut at = offset;
        bytes.chunks_mut(MAX_COPY as usize).all(|piece| {
            let is_read = self.hypervisor.read_image(self.id, at, piece).is_ok();
            at += piece.len() as u64;
            is_read
        })
    }
}

/// Returns how many VMs and snapshots are made from an image, also those whose memory holds nothing of it as it is: its kernel
/// was unpacked for them, or laid out.
pub fn users(hypervisor: &dyn Hypervisor, library: &Library, image: &ImageInfo) -> u32 {
    let named = |(made, label): &(ImageInfo, Label)| {
        let is_made = label.kind() == Kind::Hidden && label.name() == build::MADE;
        let mut head = [0; definition::HEAD];
        let is_read = is_made && Stored::new(hypervisor, made).read(label.received.get(), &mut head);
        (is_read && Definition::names(&head, image.id.get())).then_some(made.users.get())
    };
    library.all(hypervisor).iter().filter_map(named).sum::<u32>().max(image.users.get())
}

/// Returns what a VM was made from: its own definition, or that of the VM that it descends from; none for VMs of the boot
/// set.
pub fn definition(hypervisor: &dyn Hypervisor, library: &Library, vm: &VmInfo) -> Option<Definition> {
    let owned = |owner: u64| {
        library.all(hypervisor).iter().rfind(|(_, label)| {
            label.kind() == Kind::Hidden && label.owner.get() == owner && label.name() == build::MADE
        })
    };
    let (info, label) = owned(vm.id.get()).or_else(|| owned(vm.family.get()))?;
    let offset = label.received.get();
    let mut bytes = vec![0; info.size.get().checked_sub(offset)? as usize];
    Stored::new(hypervisor, info).read(offset, &mut bytes).then_some(())?;
    Definition::read(vm, &bytes)
}
