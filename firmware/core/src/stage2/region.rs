//! Where guest memory is, looked up without changing anything.
//!
//! Before: [`super::entry`]. After: [`super::access`], and the memory of VMs as their devices see it, which goes through here
//! again and again: what leads to 2 MiB is looked at once, each page in them when it is wanted.

use super::AddressSpace;
use super::entry::{self, Level, TABLE_OR_PAGE, VALID, WRITABLE};
use super::port::TableMem;
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};

/// A place in a VM's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub pa: Pa,
    /// How many bytes follow, to the end of its page or block.
    pub bytes: usize,
    /// A guest may write there without a fault.
    pub is_writable: bool,
}

/// What leads to 2 MiB of a VM's memory. It holds until an operation changes the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    start: u64,
    /// The entry of the node of level 2.
    raw: u64,
    /// [`VALID`] if all on the way is.
    rights: u64,
}

impl Region {
    /// No memory.
    pub const NONE: Self = Self { start: u64::MAX, raw: 0, rights: 0 };

    /// Returns true if an address is in it.
    #[inline]
    pub const fn contains(&self, ipa: Ipa) -> bool {
        ipa.0 & !(BLOCK_SIZE - 1) == self.start
    }

    /// Returns where an address in it is; `None` if it reads as zeros or is no memory.
    #[inline]
    pub fn find(&self, mem: &impl TableMem, ipa: Ipa) -> Option<Place> {
        let (leaf, size) = if self.raw & TABLE_OR_PAGE != 0 {
            (mem.read(entry::address(self.raw), Level::Three.index(ipa)), PAGE_SIZE)
        } else {
            (self.raw, BLOCK_SIZE)
        };
        if leaf & VALID == 0 {
            return None;
        }
        let offset = ipa.0 & (size - 1);
        let is_writable = self.rights & leaf >> WRITABLE.trailing_zeros() & VALID != 0;
        Some(Place { pa: Pa(entry::address(leaf).0 | offset), bytes: (size - offset) as usize, is_writable })
    }
}

impl AddressSpace {
    /// Returns what leads to the 2 MiB around an address of RAM; [`Region::NONE`] if it is none.
    pub fn region(&self, mem: &impl TableMem, ipa: Ipa) -> Region {
        if self.ram().contains(&ipa) { self.region_of(mem, ipa) } else { Region::NONE }
    }

    #[inline]
    fn region_of(&self, mem: &impl TableMem, ipa: Ipa) -> Region {
        let first = mem.read(self.root, Level::One.index(ipa));
        let raw = if first == 0 { 0 } else { mem.read(entry::address(first), Level::Two.index(ipa)) };
        Region { start: ipa.0 & !(BLOCK_SIZE - 1), raw, rights: first & raw & VALID }
    }

    /// Returns where an address is, and whether a guest may write there without a fault. `None` if it reads as zeros or
    /// is no memory of the VM.
    pub fn translate(&self, mem: &impl TableMem, ipa: Ipa) -> Option<(Pa, bool)> {
        let region = if self.is_memory(ipa) { self.region_of(mem, ipa) } else { Region::NONE };
        region.find(mem, ipa).map(|place| (place.pa, place.is_writable))
    }
}
