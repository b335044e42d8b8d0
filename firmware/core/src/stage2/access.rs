//! EL2's own access to guest memory, by copy, and pins.
//!
//! Before: [`super::fault`]. After: devices and calls that move bytes in and out of a guest.

use super::AddressSpace;
use super::fault::{Fault, Want};
use super::identity::IDENTITY_PAGE;
use super::port::{TableMem, Tlb};
use crate::addr::{Ipa, PAGE_SIZE, Pa};
use crate::frames::FrameStore;

/// Why a page cannot be pinned. Nothing has changed, but the page may be the VM's own now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinError {
    /// The page cannot be made the VM's own.
    Fault(Fault),
    /// It has too many pins already.
    TooManyPins,
}

/// Calls `f` for the part of each page that a range of `len` bytes covers: its address, and where it is in the range.
pub(super) fn for_each_page<E>(
    ipa: Ipa,
    len: usize,
    mut f: impl FnMut(Ipa, core::ops::Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = 0;
    while done < len {
        let at = Ipa(ipa.0 + done as u64);
        let part = ((PAGE_SIZE - at.page_offset()) as usize).min(len - done);
        f(at, done..done + part)?;
        done += part;
    }
    Ok(())
}

impl AddressSpace {
    fn check_range(&self, ipa: Ipa, len: usize) -> Result<(), Fault> {
        let end = ipa.checked_add(len as u64).ok_or(Fault::OutsideRam)?;
        let is_in = |start: Ipa, stop: Ipa| ipa >= start && end <= stop;
        let is_memory = is_in(self.ram_start, self.ram_end) || is_in(IDENTITY_PAGE, Ipa(IDENTITY_PAGE.0 + PAGE_SIZE));
        if is_memory { Ok(()) } else { Err(Fault::OutsideRam) }
    }

    /// Copies bytes out. Takes no memory: what was never written reads as zeros.
    ///
    /// # Errors
    ///
    /// Part of the range is no RAM; the buffer is not changed then.
    pub fn read(&self, mem: &impl TableMem, ipa: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        self.check_range(ipa, to.len())?;
        for_each_page(ipa, to.len(), |at, part| {
            let to = &mut to[part];
            match self.translate(mem, at) {
                Some((pa, _)) => mem.copy_from_guest(pa, to),
                None => to.fill(0),
            }
            Ok(())
        })
    }

    /// Copies bytes in, after making every page of the range the VM's own.
    ///
    /// # Errors
    ///
    /// Part of the range is no RAM, or there is no memory; no byte is changed then.
    pub fn write(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        from: &[u8],
    ) -> Result<(), Fault> {
        self.check_range(ipa, from.len())?;
        for_each_page(ipa, from.len(), |at, _| match self.translate(mem, at) {
            Some((_, true)) => Ok(()),
            _ => self.resolve(frames, mem, tlb, at, Want::Write).map(drop),
        })?;
        for_each_page(ipa, from.len(), |at, part| {
            let (pa, _) = self.translate(mem, at).ok_or(Fault::OutsideRam)?;
            mem.copy_to_guest(pa, &from[part]);
            Ok(())
        })
    }

    /// Makes the page at `ipa` the VM's own and keeps it at its physical address, which is returned, until it is unpinned.
    /// A fork gives the child a copy of it. Each page of RAM can be pinned once.
    ///
    /// # Errors
    ///
    /// There is no RAM or no memory for it, or the page is pinned already.
    pub fn pin(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
    ) -> Result<Pa, PinError> {
        if !self.ram().contains(&ipa) {
            return Err(PinError::Fault(Fault::OutsideRam));
        }
        self.resolve(frames, mem, tlb, ipa, Want::WritePage).map_err(PinError::Fault)?;
        let (pa, _) = self.translate(mem, ipa.page()).ok_or(PinError::Fault(Fault::OutsideRam))?;
        frames.with(|frames| {
            if frames.pins(pa) != 0 {
                return Err(PinError::TooManyPins);
            }
            frames.pin(pa).map_err(|_| PinError::TooManyPins)
        })?;
        self.pinned += 1;
        Ok(pa)
    }

    /// Takes back what [`AddressSpace::pin`] did. Returns false if the page was not pinned.
    pub fn unpin(&mut self, frames: &impl FrameStore, mem: &impl TableMem, ipa: Ipa) -> bool {
        let Some((pa, _)) = self.translate(mem, ipa.page()) else { return false };
        let was_pinned = self.pinned != 0
            && frames.with(|frames| {
                let was_pinned = frames.pins(pa) != 0;
                if was_pinned {
                    frames.unpin(pa);
                }
                was_pinned
            });
        self.pinned -= u32::from(was_pinned);
        was_pinned
    }
}
