//! Images: the machine's one table of them, and managers' calls that fill and read it.
//!
//! Before: [`crate::make`]. After: [`salp_core::images`], which says what is right. Bytes go through a page of this CPU's stack:
//! no lock of a VM's is held together with the table's but that of a VM's slot, and of memory and drive while a guest reads a medium.

use crate::machine::Store;
use crate::manage;
use crate::vm::{Records, Vm};
use salp_core::addr::{Ipa, PAGE_SIZE};
use salp_core::bootset::{Segment, VmSpec};
use salp_core::dev::drive::{self, Medium};
use salp_core::frames::FrameStore;
use salp_core::handover::Full;
use salp_core::images::{Images, is_own};
use salp_core::stage2::{AddressSpace, MapError};
use salp_hvc::handover::kind;
use salp_hvc::manager::{ImageInfo, LABEL};
use salp_hvc::status;
use salp_hw::boot;
use salp_hw::lock::RwLock;
use salp_hw::memory::{Ram, VmTlb};
use spin::Once;
use zerocopy::{FromZeros, IntoBytes};

static IMAGES: Once<&'static RwLock<Images>> = Once::new();

/// No MMU walks the tree of an image.
const TLB: VmTlb = VmTlb { vttbr: 0 };

fn images() -> &'static RwLock<Images> {
    IMAGES.call_once(|| boot::get().keep(const { RwLock::new(Images::new()) }))
}

/// Makes an image as the record in a manager's memory says. Returns its identifier.
///
/// # Errors
///
/// A status.
pub fn create(manager: &Vm, from: Ipa) -> Result<u64, i64> {
    let mut wanted = ImageInfo::new_zeroed();
    manage::read(manager, from, wanted.as_mut_bytes())?;
    images().write().create(&Store, &Ram, &TLB, &wanted)
}

/// Makes an image of EL2's own out of these bytes. Returns its identifier.
///
/// # Errors
///
/// A status; nothing is made then.
pub fn create_own(bytes: &[u8]) -> Result<u64, i64> {
    images().write().create_own(&Store, &Ram, &TLB, bytes)
}

/// Which bytes of an image are copied, and where they are in a manager's memory.
#[derive(Clone, Copy)]
pub struct Copy {
    /// The image.
    pub image: u64,
    /// Where in it.
    pub offset: u64,
    /// Where in the manager's memory.
    pub at: Ipa,
    /// How many.
    pub size: u64,
}

impl Copy {
    /// Copies bytes of a manager's into the image, or out of it, page by page. What can be wrong is found out before the first.
    ///
    /// # Errors
    ///
    /// A status.
    pub fn carry_out(self, manager: &Vm, is_write: bool) -> Result<(), i64> {
        let Self { image, offset, at, size } = self;
        images().read().check_copy(image, offset, size, is_write)?;
        let ram = manager.spec.ram();
        if at < ram.start || at.checked_add(size).is_none_or(|end| end > ram.end) {
            return Err(status::BAD_ADDRESS);
        }
        let mut buffer = [0; PAGE_SIZE as usize];
        for done in (0..size).step_by(buffer.len()) {
            let at = Ipa(at.0 + done);
            let part = buffer.get_mut(..(size - done).min(PAGE_SIZE) as usize).unwrap_or_default();
            if is_write {
                manage::read(manager, at, part)?;
                images().write().write(&Store, &Ram, &TLB, image, offset + done, part)?;
            } else {
                images().read().read(&Ram, image, offset + done, part)?;
                manage::write(manager, at, part)?;
            }
        }
        Ok(())
    }
}

/// Returns the size of a finished image.
///
/// # Errors
///
/// A status.
pub fn size(id: u64) -> Result<u64, i64> {
    let images = images().read();
    let info = id.checked_sub(1).and_then(|before| images.after(before)).filter(|info| info.id.get() == id);
    let info = info.ok_or(status::NOT_FOUND)?;
    if info.finished.get() == 0 {
        return Err(status::WRONG_STATE);
    }
    Ok(info.size.get())
}

/// Copies bytes of an image of this size from an offset on. Behind its end are zeros.
pub fn read(id: u64, size: u64, offset: u64, to: &mut [u8]) {
    for (part, at) in to.chunks_mut(PAGE_SIZE as usize).zip((offset..).step_by(PAGE_SIZE as usize)) {
        let (bytes, behind) = part.split_at_mut(part.len().min(size.saturating_sub(at) as usize));
        behind.fill(0);
        // One that is gone meanwhile has another digest.
        if !bytes.is_empty() && images().read().read(&Ram, id, at, bytes).is_err() {
            bytes.fill(0);
        }
    }
}

/// Writes what a hand-over has of them.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_records(out: &mut Records<'_>) -> Result<(), Full> {
    images().read().records().try_for_each(|record| out.write(kind::IMAGE, 0, &[record.as_bytes()]))
}

/// Takes over an image as it was before a hand-over. Returns false if that cannot be.
pub fn restore(record: &salp_hvc::handover::Image) -> bool {
    Store.with(|frames| images().write().restore(frames, record))
}

/// Returns the last identifier that was given.
pub fn last_id() -> u64 {
    images().read().last_id()
}

/// Gives no identifier up to this any more.
pub fn skip_to(id: u64) {
    images().write().skip_to(id);
}

/// Finishes an image.
///
/// # Errors
///
/// A status.
pub fn finish(id: u64) -> Result<(), i64> {
    images().write().finish(&Store, &Ram, id)
}

/// Deletes an image that nobody uses.
///
/// # Errors
///
/// A status.
pub fn delete(id: u64) -> Result<(), i64> {
    let memory = images().write().remove(id)?;
    memory.destroy(&Store, &Ram, &TLB);
    Ok(())
}

/// Gives an image the label in a manager's memory.
///
/// # Errors
///
/// A status.
pub fn label(manager: &Vm, id: u64, from: Ipa) -> Result<(), i64> {
    let mut label = [0; LABEL];
    manage::read(manager, from, &mut label)?;
    images().write().label(id, label)
}

/// Describes the image with the least identifier above this.
pub fn next(after: u64) -> Option<ImageInfo> {
    images().read().after(after).copied()
}

/// Checks that there is what a description names, and counts a user more of it.
///
/// # Errors
///
/// A status.
pub fn hold(spec: &VmSpec) -> Result<(), i64> {
    images().write().hold(spec)
}

/// Counts a user more of what a description names, for a copy of a user, or a user less. An image of EL2's own goes with the last.
pub fn count_user(spec: &VmSpec, is_more: bool) {
    if spec.segments().any(|segment| segment.image != 0) {
        images().write().count_user(spec, is_more);
    }
    if !is_more {
        for segment in spec.segments().filter(|segment| is_own(segment.image)) {
            // Others use it, or it went with another segment.
            let _ = delete(segment.image);
        }
    }
}

/// Counts a user more of a finished image: it is in a drive.
///
/// # Errors
///
/// A status.
pub fn insert(id: u64) -> Result<Medium, i64> {
    images().write().insert(id)
}

/// Counts a user less of an image that has left a drive.
pub fn eject(medium: Medium) {
    images().write().eject(medium);
}

/// The bytes of images, for drives.
pub struct Media;

impl drive::Media for Media {
    fn read(&self, image: u64, offset: u64, to: &mut [u8]) -> bool {
        images().read().read(&Ram, image, offset, to).is_ok()
    }
}

/// Maps a segment of an image into a VM's new memory.
///
/// # Errors
///
/// As for [`AddressSpace::map_from`].
pub fn map(memory: &mut AddressSpace, segment: &Segment) -> Result<(), MapError> {
    images().read().map(&Store, &Ram, memory, segment)
}
