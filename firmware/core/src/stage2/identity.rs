//! The identity page: one page below RAM that a VM shares with nobody, because it says who the VM is.
//!
//! Before: [`super::access`]. After: who gives a VM its generation id. The root entry that leads to the page leads to no
//! RAM, so forking, sealing and reverting, which go over the root entries of RAM, leave it alone: a clone begins without
//! it, a VM that is reverted keeps its own.

use super::AddressSpace;
use super::entry::{Entry, Level};
use super::fault::Fault;
use super::port::{Filled, TableMem, Tlb};
use crate::addr::{Ipa, PAGE_SIZE, Pa};
use crate::frames::{FrameStore, Frames};

/// Where it is: the page that holds the VM generation id.
pub const IDENTITY_PAGE: Ipa = Ipa(salp_hvc::device::GENERATION_PAGE);

/// How many frames it is made of: itself and two nodes.
pub(super) const IDENTITY_FRAMES: usize = 3;

// No root entry leads to both: RAM begins with an entry.
const _: () = assert!(salp_hvc::bootset::RAM_BASE.is_multiple_of(Level::One.entry_size()));
const _: () = assert!(IDENTITY_PAGE.0 < salp_hvc::bootset::RAM_BASE);

/// Gives the page back, and the nodes that lead to it, which lead to nothing else. No TLB knows the VM any more.
pub(super) fn release(frames: &mut Frames<'_>, mem: &impl TableMem, root: Pa) {
    let [one, two, three] = [Level::One, Level::Two, Level::Three].map(|level| level.index(IDENTITY_PAGE));
    let Entry::Table(middle) = Entry::decode(mem.read(root, one), Level::One) else { return };
    if let Entry::Table(bottom) = Entry::decode(mem.read(middle, two), Level::Two) {
        if let Entry::Leaf { pa, .. } = Entry::decode(mem.read(bottom, three), Level::Three) {
            frames.put(pa);
        }
        frames.free(bottom);
    }
    frames.free(middle);
}

impl AddressSpace {
    /// Returns true if the VM has the page: [`AddressSpace::put_identity`] was called.
    pub fn has_identity_page(&self, mem: &impl TableMem) -> bool {
        self.translate(mem, IDENTITY_PAGE).is_some_and(|(_, is_writable)| is_writable)
    }

    /// Writes what the VM is to know itself by to the start of the page, made if there is none. Guests map it as device
    /// memory, so nothing is left in caches alone.
    ///
    /// # Errors
    ///
    /// There is no memory; nothing has changed then.
    pub fn put_identity(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        bytes: &[u8; 16],
    ) -> Result<(), Fault> {
        self.write(frames, mem, tlb, IDENTITY_PAGE, bytes)?;
        let (pa, _) = self.translate(mem, IDENTITY_PAGE).ok_or(Fault::OutsideRam)?;
        mem.sync_for_guest(pa, PAGE_SIZE, Filled::Zeros);
        Ok(())
    }
}
