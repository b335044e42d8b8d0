//! Images: what VMs are made from. Before: [`resources`](crate::resources). After: [`hypervisor`](crate::hypervisor).
//!
//! Their bytes and labels lie at EL2 and outlive this guest; here is nothing but what labels mean ([`label`]), how bytes
//! come in ([`upload`]), and a hash that can be interrupted ([`hash`]).

pub mod hash;
pub mod label;
pub mod upload;

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::OnceCell;

use salp_hvc::manager::ImageInfo;

use crate::hypervisor::{self, Hypervisor};
use crate::message::Failure;
use crate::systems::boot::Boots;
use crate::systems::notes::Notes;
use label::{Kind, Label};

/// Where images are.
pub const IMAGES: &str = "/redfish/v1/Oem/Salp/Images";

/// The longest name.
pub const MAX_NAME: usize = label::NAME - 1;

/// How long an image may stay without its next byte, in seconds.
pub const PATIENCE: u64 = 3600;

/// Returns whether this can be an image's name.
pub fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_good) && !text.starts_with('.')
}

/// Images with their labels, from where VMs start, and what is said of them, looked at once and then remembered: for one
/// request that shows many VMs.
#[derive(Debug, Default)]
pub struct Library(OnceCell<Vec<(ImageInfo, Label)>>, OnceCell<Boots>, OnceCell<Notes>);

impl Library {
    /// Returns all images with a label.
    pub fn all(&self, hypervisor: &dyn Hypervisor) -> &[(ImageInfo, Label)] {
        self.0.get_or_init(|| labelled(hypervisor).collect())
    }

    /// Returns from where VMs start.
    pub fn boots(&self, hypervisor: &dyn Hypervisor) -> &Boots {
        self.1.get_or_init(|| Boots::recall(hypervisor))
    }

    /// Returns what is said of VMs.
    pub fn notes(&self, hypervisor: &dyn Hypervisor) -> &Notes {
        self.2.get_or_init(|| Notes::recall(hypervisor))
    }
}

fn labelled(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = (ImageInfo, Label)> + '_ {
    let known = |info: ImageInfo| Label::read(&info.label).map(|label| (info, label));
    hypervisor::images(hypervisor).filter_map(known)
}

/// Returns the images that people see.
pub fn visible(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = (ImageInfo, Label)> + '_ {
    labelled(hypervisor).filter(|(_, label)| label.kind().is_visible())
}

/// Returns the image with this name.
pub fn find(hypervisor: &dyn Hypervisor, name: &str) -> Option<(ImageInfo, Label)> {
    visible(hypervisor).find(|(_, label)| label.name() == name)
}

/// Removes what nobody waits for any more: images without their next byte for long, and what was made for VMs that are gone.
pub fn sweep(hypervisor: &mut dyn Hypervisor, now: u64) {
    let is_over = |info: &ImageInfo| {
        Label::read(&info.label).is_some_and(|label| match label.kind() {
            Kind::Fetched if info.finished.get() == 1 => info.users.get() == 0,
            kind if kind.is_visible() => info.finished.get() == 0 && now.saturating_sub(label.time.get()) > PATIENCE,
            _ => info.users.get() == 0,
        })
    };
    let over: Vec<u64> = hypervisor::images(hypervisor).filter(is_over).map(|info| info.id.get()).collect();
    for id in over {
        // One that got a user meanwhile stays.
        let _ = hypervisor.delete_image(id);
    }
}

/// Returns the image that a link leads to.
pub fn by_link(hypervisor: &dyn Hypervisor, link: &str) -> Option<(ImageInfo, Label)> {
    let name = link.strip_prefix(IMAGES)?.strip_prefix('/')?;
    find(hypervisor, name.strip_suffix('/').unwrap_or(name))
}

/// Returns that there is an image of this name already.
pub fn taken(name: &str) -> Failure {
    Failure::new(409, "ResourceAlreadyExists", &["SalpImage", "Name", name])
}

/// Returns where the image with this label is.
pub fn path(label: &Label) -> String {
    [IMAGES, label.name()].join("/")
}
