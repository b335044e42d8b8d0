//! The identity page: one page below RAM that a VM shares with nobody, because it says who the VM is.
//!
//! Before: [`super::access`]. After: who gives a VM its generation id. The root entry that leads to the page leads to no
//! RAM, so forking, sealing and reverting, which go over the root entries of RAM, leave it alone: a clone begins without
//! it, a VM that is reverted keeps its own.

use super::AddressSpace;
use super::fault::Fault;
use super::port::{Filled, TableMem, Tlb};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::frames::FrameStore;

/// Where it is: the page that holds the VM generation id.
pub const IDENTITY_PAGE: Ipa = Ipa(salp_hvc::device::GENERATION_PAGE);

// No root entry leads to both: RAM begins with an entry.
const _: () = assert!(salp_hvc::bootset::RAM_BASE.is_multiple_of(super::Level::One.entry_size()));
const _: () = assert!(IDENTITY_PAGE.0 < salp_hvc::bootset::RAM_BASE);

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
