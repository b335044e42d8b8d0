//! A manager's calls about images, the VMs that are made from them, and power ([`salp_hvc::manager`]), one function each.

use salp_hvc::bootset::{NicRecord, SegmentRecord, VmRecord};
use salp_hvc::host;
use salp_hvc::manager::{self, ImageInfo, LABEL, MAX_DESCRIPTION};
use zerocopy::{FromZeros, IntoBytes};

use super::{Answer, call, record};

/// What describes a VM, as it lies in memory.
#[derive(Clone, Debug)]
pub struct Description(heapless::Vec<u8, MAX_DESCRIPTION>);

impl Description {
    /// Returns the description of a VM with these segments and NICs; `None` if it is longer than can be.
    pub fn new(vm: &VmRecord, segments: &[SegmentRecord], nics: &[NicRecord]) -> Option<Self> {
        let vm = VmRecord { segment_count: (segments.len() as u32).into(), ..*vm };
        let mut bytes = heapless::Vec::new();
        for part in [vm.as_bytes(), segments.as_bytes(), nics.as_bytes()] {
            bytes.extend_from_slice(part).ok()?;
        }
        Some(Self(bytes))
    }

    fn place(&self) -> [u64; 2] {
        [address(&self.0), self.0.len() as u64]
    }
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

/// Returns the label that `text` is, cut off if it is too long.
fn label(text: &str) -> [u8; LABEL] {
    let mut label = [0; LABEL];
    for (to, from) in label.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    label
}

/// Makes a VM, which is off, and returns its identifier.
pub fn vm_create(description: &Description) -> Answer<u64> {
    call(manager::VM_CREATE, description.place()).map(|[id, ..]| id)
}

/// Describes a VM anew that is off.
pub fn vm_change(id: u64, description: &Description) -> Answer<()> {
    let [address, size] = description.place();
    call(manager::VM_CHANGE, [id, address, size]).map(drop)
}

/// Starts a VM that is off.
pub fn vm_start(id: u64) -> Answer<()> {
    call(manager::VM_START, [id]).map(drop)
}

/// Starts a VM that is off from what another description says, until it is off (`lasts`) or its next life.
pub fn vm_start_from(id: u64, from: &Description, lasts: bool) -> Answer<()> {
    let [at, size] = from.place();
    call(host::VM_START_FROM, [id, at, size, lasts.into()]).map(drop)
}

/// Turns a VM off at once.
pub fn vm_stop(id: u64) -> Answer<()> {
    call(manager::VM_STOP, [id]).map(drop)
}

/// Starts a VM again from its first state.
pub fn vm_reset(id: u64) -> Answer<()> {
    call(manager::VM_RESET, [id]).map(drop)
}

/// Makes an empty image of so many bytes, and returns its identifier.
pub fn image_create(size: u64, text: &str) -> Answer<u64> {
    let info = ImageInfo { size: size.into(), label: label(text), ..ImageInfo::new_zeroed() };
    call(manager::IMAGE_CREATE, [address(info.as_bytes())]).map(|[id, ..]| id)
}

/// Writes bytes at an offset of an image that is not finished.
pub fn image_write(id: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
    call(manager::IMAGE_WRITE, [id, offset, address(bytes), bytes.len() as u64]).map(drop)
}

/// Reads bytes at an offset of an image.
pub fn image_read(id: u64, offset: u64, bytes: &mut [u8]) -> Answer<()> {
    let size = bytes.len() as u64;
    let address = bytes.as_mut_ptr().expose_provenance() as u64;
    call(manager::IMAGE_READ, [id, offset, address, size]).map(drop)
}

/// Finishes an image.
pub fn image_finish(id: u64) -> Answer<()> {
    call(manager::IMAGE_FINISH, [id]).map(drop)
}

/// Deletes an image.
pub fn image_delete(id: u64) -> Answer<()> {
    call(manager::IMAGE_DELETE, [id]).map(drop)
}

/// Returns the image with the least identifier above `after`.
pub fn image_next(after: u64) -> Answer<ImageInfo> {
    record(manager::IMAGE_NEXT, |address| [after, address, 0])
}

/// Gives an image a label.
pub fn image_label(id: u64, text: &str) -> Answer<()> {
    call(manager::IMAGE_LABEL, [id, address(&label(text))]).map(drop)
}
