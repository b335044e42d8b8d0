//! A VM's memory as its virtio devices see it: by copy, with the pages or blocks that were used last remembered. Before: [`super`]
//! and [`crate::drive`], which hold the lock of the memory as long as this lives; after: [`salp_core::stage2`].

use crate::machine::Store;
use salp_core::addr::{Ipa, PAGE_SIZE};
use salp_core::dev::virtq::GuestMem;
use salp_core::stage2::{AddressSpace, Fault, TableMem, Window};
use salp_hw::memory::{Ram, VmTlb};

/// How many pages are remembered: those of rings and buffers that one frame has to do with.
const WINDOWS: usize = 8;

/// A VM's memory.
pub struct View<'a> {
    memory: &'a mut AddressSpace,
    tlb: VmTlb,
    /// By bits of the page's number.
    windows: [Window; WINDOWS],
}

impl<'a> View<'a> {
    /// Returns a view of this memory.
    pub const fn new(memory: &'a mut AddressSpace, tlb: VmTlb) -> Self {
        Self { memory, tlb, windows: [Window::EMPTY; WINDOWS] }
    }

    /// Returns the page or block that an address of RAM is in; an empty one if it was never written or is none.
    #[inline]
    fn window(&mut self, at: Ipa) -> &Window {
        let page = at.0 / PAGE_SIZE;
        let window = &mut self.windows[(page ^ (page / WINDOWS as u64)) as usize % WINDOWS];
        if window.find(at, 0).is_none() && at >= self.memory.ram().start {
            *window = self.memory.window(&Ram, at);
        }
        window
    }
}

impl GuestMem for View<'_> {
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        match self.window(at).find(at, to.len()) {
            Some(pa) => {
                Ram.copy_from_guest(pa, to);
                Ok(())
            }
            None if at < self.memory.ram().start => Err(Fault::OutsideRam),
            None => self.memory.read(&Ram, at, to),
        }
    }

    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        let window = self.window(at);
        if let Some(pa) = window.find(at, from.len())
            && window.is_writable()
        {
            Ram.copy_to_guest(pa, from);
            return Ok(());
        }
        if at < self.memory.ram().start {
            return Err(Fault::OutsideRam);
        }
        // This may put other pages in place.
        self.windows = [Window::EMPTY; WINDOWS];
        self.memory.write(&Store, &Ram, &self.tlb, at, from)
    }
}
