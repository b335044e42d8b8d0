//! Table entries: stage 2 descriptors of the VMSAv8-64 with the 4 KiB granule (Arm ARM D8.3), and the *lazy* entry.
//!
//! ```text
//! 63   55 54  53 52       47          12 11 10 9  8 7    6 5     2 1 0
//! |  0   | XN=0 |    0    |   address   | 0|AF| SH=3| S2AP |MemAttr|1 1|  page (level 3);  0 1: block (level 2)
//! |  0                    |   address   |             0            |1 1|  table (levels 1, 2)
//! |  0                    |   address   |             0            |1 0|  lazy: a table that the MMU must not walk yet
//! |  0                                                               0 |  absent: reads as zeros
//! ```
//!
//! The MMU ignores all other bits of an entry whose bit 0 is clear, so a lazy entry keeps the address of its node.
//! Before: [`crate::frames`]. After: [`super::AddressSpace`].

use crate::addr::{Ipa, Pa};

/// How many entries a node has.
pub const ENTRIES: usize = 512;

pub(super) const VALID: u64 = 1 << 0;
pub(super) const TABLE_OR_PAGE: u64 = 1 << 1;
const ACCESS_FLAG: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const READABLE: u64 = 1 << 6;
pub(super) const WRITABLE: u64 = 1 << 7;
const ADDRESS: u64 = (1 << 48) - (1 << 12);

/// How the memory attributes of a leaf are written (Arm ARM D8.6.6): both say normal memory, write-back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemAttr {
    /// `0b1111`: the guest's own attributes may make it weaker.
    #[default]
    WriteBack = 0b1111,
    /// `0b0110` with FEAT_S2FWB (HCR_EL2.FWB = 1): write-back whatever the guest says, so that what EL2 wrote is seen by a
    /// guest whose MMU is off.
    ForcedWriteBack = 0b0110,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: all zeros, not yet allocated.
    Absent,
    /// A node below that the MMU must not walk yet.
    Lazy(Pa),
    /// A node below.
    Table(Pa),
    /// A page at level 3, a block at level 2.
    Leaf { pa: Pa, is_writable: bool },
}

impl Entry {
    /// Returns what an entry of a node at `level` says.
    #[inline]
    pub(super) const fn decode(raw: u64, level: Level) -> Self {
        let pa = address(raw);
        if raw & VALID == 0 {
            if raw & TABLE_OR_PAGE == 0 { Self::Absent } else { Self::Lazy(pa) }
        } else if raw & TABLE_OR_PAGE != 0 && !matches!(level, Level::Three) {
            Self::Table(pa)
        } else {
            Self::Leaf { pa, is_writable: raw & WRITABLE != 0 }
        }
    }
}

/// Returns the address in an entry.
#[inline]
pub(super) const fn address(raw: u64) -> Pa {
    Pa(raw & ADDRESS)
}

/// Returns the entry of a node that the MMU may walk.
#[inline]
pub(super) const fn table(node: Pa) -> u64 {
    node.0 | TABLE_OR_PAGE | VALID
}

/// Returns the entry of a node that the MMU must not walk yet.
#[inline]
pub(super) const fn lazy(node: Pa) -> u64 {
    node.0 | TABLE_OR_PAGE
}

/// Returns the entry of the same node that the MMU must not walk any more.
#[inline]
pub(super) const fn unlinked(table: u64) -> u64 {
    table & !VALID
}

/// Returns the entry of a page (level 3) or block (level 2) that a guest may read, execute and, if so, write.
#[inline]
pub(super) const fn leaf(pa: Pa, level: Level, attr: MemAttr, is_writable: bool) -> u64 {
    let kind = if matches!(level, Level::Three) { TABLE_OR_PAGE | VALID } else { VALID };
    let write = if is_writable { WRITABLE } else { 0 };
    pa.0 | kind | write | READABLE | INNER_SHAREABLE | ACCESS_FLAG | (attr as u64) << 2
}

/// The level of a node. An input address has 39 bits, so the walk starts at level 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Entries of 1 GiB.
    One,
    /// Entries of 2 MiB.
    Two,
    /// Entries of 4 KiB.
    Three,
}

impl Level {
    #[inline(always)]
    const fn shift(self) -> u32 {
        match self {
            Self::One => 30,
            Self::Two => 21,
            Self::Three => 12,
        }
    }

    /// Returns how many bytes one entry stands for.
    #[inline]
    pub const fn entry_size(self) -> u64 {
        1 << self.shift()
    }

    /// Returns the position of the entry for `ipa`.
    #[inline]
    pub const fn index(self, ipa: Ipa) -> usize {
        (ipa.0 >> self.shift()) as usize % ENTRIES
    }
}
