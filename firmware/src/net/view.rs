//! A VM's memory as its virtio devices see it: by copy, with the regions that were used last remembered. Before: [`super`]
//! and [`crate::drive`], which hold the lock of the memory as long as this lives; after: [`salp_core::stage2`].
//!
//! Beside that of a receiver there may be the memory of a sender, whose lock is held too; it is only read.

use crate::machine::Store;
use salp_core::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use salp_core::dev::virtq::GuestMem;
use salp_core::stage2::{Access, AddressSpace, Fault, Place, Region, TableMem};
use salp_hw::memory::{Ram, VmTlb};

/// How many regions are remembered: those of rings and buffers that one frame has to do with.
const REGIONS: usize = 4;

/// What is copied where there is nothing to copy from.
const ZEROS: [u8; 256] = [0; 256];

/// A VM's memory.
pub struct View<'a> {
    memory: &'a mut AddressSpace,
    tlb: VmTlb,
    /// By bits of the region's number.
    regions: [Region; REGIONS],
    /// The sender's memory, if it is not this one.
    sender: Option<&'a AddressSpace>,
    /// Its region that was used last.
    source: Region,
}

impl<'a> View<'a> {
    /// Returns a view of this memory, beside that of the sender if it is another VM's.
    pub const fn new(memory: &'a mut AddressSpace, tlb: VmTlb, sender: Option<&'a AddressSpace>) -> Self {
        Self { memory, tlb, regions: [Region::NONE; REGIONS], sender, source: Region::NONE }
    }

    /// Returns where an address of RAM is, if it was ever written.
    #[inline]
    fn find(&mut self, at: Ipa) -> Option<Place> {
        let region = &mut self.regions[(at.0 / BLOCK_SIZE) as usize % REGIONS];
        if !region.contains(at) {
            *region = self.memory.region(&Ram, at);
        }
        region.find(&Ram, at)
    }

    /// Returns where the guest may write without a fault, and how many bytes there are.
    #[inline]
    fn target(&mut self, at: Ipa) -> Result<(Pa, usize), Fault> {
        match self.find(at) {
            Some(place) if place.is_writable => Ok((place.pa, place.bytes)),
            _ => self.make_target(at),
        }
    }

    #[cold]
    fn make_target(&mut self, at: Ipa) -> Result<(Pa, usize), Fault> {
        if !self.memory.ram().contains(&at) {
            return Err(Fault::OutsideRam);
        }
        self.memory.fault(&Store, &Ram, &self.tlb, at, Access::Write)?;
        self.forget();
        self.find(at).map(|place| (place.pa, place.bytes)).ok_or(Fault::OutsideRam)
    }

    /// Returns where an address of the sender's is, and how many bytes there are; `None` if they are zeros.
    fn origin(&mut self, at: Ipa) -> (Option<Pa>, usize) {
        if !self.source.contains(at) {
            self.source = self.sender.unwrap_or(self.memory).region(&Ram, at);
        }
        match self.source.find(&Ram, at) {
            Some(place) => (Some(place.pa), place.bytes),
            None => (None, ((PAGE_SIZE - at.page_offset()) as usize).min(ZEROS.len())),
        }
    }

    /// Forgets what leads to memory: that has changed.
    const fn forget(&mut self) {
        self.regions = [Region::NONE; REGIONS];
        self.source = Region::NONE;
    }

    #[cold]
    fn read_slowly(&self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        if at < self.memory.ram().start { Err(Fault::OutsideRam) } else { self.memory.read(&Ram, at, to) }
    }

    #[cold]
    fn write_slowly(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        if at < self.memory.ram().start {
            return Err(Fault::OutsideRam);
        }
        let written = self.memory.write(&Store, &Ram, &self.tlb, at, from);
        self.forget();
        written
    }
}

impl GuestMem for View<'_> {
    // Always in place: mostly it is known how few bytes there are.
    #[inline(always)]
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        match self.find(at) {
            Some(place) if to.len() <= place.bytes => Ram.copy_from_guest(place.pa, to),
            _ => return self.read_slowly(at, to),
        }
        Ok(())
    }

    #[inline(always)]
    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        match self.find(at) {
            Some(place) if place.is_writable && from.len() <= place.bytes => Ram.copy_to_guest(place.pa, from),
            _ => return self.write_slowly(at, from),
        }
        Ok(())
    }

    fn holds(&self, at: Ipa, bytes: u64) -> bool {
        let ram = self.memory.ram();
        at >= ram.start && at.checked_add(bytes).is_some_and(|end| end <= ram.end)
    }

    fn fetch(&mut self, mut from: Ipa, to: &mut [u8]) {
        let mut left = to;
        while !left.is_empty() {
            let (pa, bytes) = self.origin(from);
            let Some(part) = left.split_off_mut(..bytes.min(left.len())) else { break };
            match pa {
                Some(pa) => Ram.copy_from_guest(pa, part),
                None => part.fill(0),
            }
            from = Ipa(from.0 + part.len() as u64);
        }
    }

    fn carry(&mut self, from: Ipa, to: Ipa, bytes: usize) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes {
            // First where to: that may change where from, if both are of one VM.
            let (target, room) = self.target(Ipa(to.0 + done as u64))?;
            let (origin, more) = self.origin(Ipa(from.0 + done as u64));
            let count = room.min(more).min(bytes - done);
            match origin {
                Some(pa) => Ram.copy_among_guests(pa, target, count),
                None => Ram.copy_to_guest(target, ZEROS.get(..count).unwrap_or_default()),
            }
            done += count;
        }
        Ok(())
    }
}
