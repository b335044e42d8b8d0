//! What is written down about one frame (8 bytes) and about one block of 512 frames (24 bytes).
//!
//! Before: [`crate::addr`]. After: [`super::Frames`], which keeps these consistent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many frames make a block of 2 MiB.
pub const FRAMES_PER_BLOCK: usize = 512;

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nobody uses it; its bytes mean nothing.
    Free = 0,
    /// Not ours to give away: firmware, the running image, holes, broken memory.
    Reserved = 1,
    /// Data of EL2.
    Hyp = 2,
    /// A node of an address space: a stage 2 table.
    Node = 3,
    /// Memory of guests.
    Guest = 4,
    /// A page of the boot set, or of an image. The set or the image itself holds one count, so no guest ever owns such a page
    /// alone.
    Image = 5,
    /// The page of zeros that stands for every page that was read but never written. EL2 holds one count.
    Zero = 6,
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = 7;
}

/// The record of one frame.
///
/// ```text
/// 63      56 55  52 51      48 47     32 31              0
/// |    0    |  flags |  kind  |  pins   | reference count |   in use
/// |    0    |  flags |  Node  |  marks  | reference count |   a node: it is never pinned
/// |         0        |  Free  |  next   |        0        |   free: the next free frame of the same block
/// ```
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub(super) struct Record(u64);

/// Where a count ends.
pub(super) const COUNT_END: u32 = 1 << 31;

const PINS_SHIFT: u32 = 32;
const PINS_MASK: u64 = 0xffff << PINS_SHIFT;
const KIND_SHIFT: u32 = 48;
/// Of a node: see [`crate::stage2`]. Of a page: the merger's table refers to it.
const SEALED: u64 = 1 << 52;
const MARKS_SHIFT: u32 = PINS_SHIFT;

/// How many marks the record of a node has.
pub const MARKS: usize = 16;

impl Record {
    /// Returns the record of a frame in use that one entry points to.
    #[inline]
    pub(super) const fn used(kind: Kind) -> Self {
        Self((kind as u64) << KIND_SHIFT | 1)
    }

    /// Returns the record of a free frame; `next` is the next free frame of the same block.
    #[inline]
    pub(super) const fn free(next: u16) -> Self {
        Self((next as u64) << PINS_SHIFT)
    }

    #[inline]
    pub(super) const fn kind(self) -> Kind {
        match self.0 >> KIND_SHIFT & 0xf {
            0 => Kind::Free,
            2 => Kind::Hyp,
            3 => Kind::Node,
            4 => Kind::Guest,
            5 => Kind::Image,
            6 => Kind::Zero,
            _ => Kind::Reserved,
        }
    }

    #[inline]
    pub(super) const fn next(self) -> u16 {
        (self.0 >> PINS_SHIFT) as u16
    }

    #[inline]
    pub(super) const fn count(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub(super) const fn pins(self) -> u16 {
        ((self.0 & PINS_MASK) >> PINS_SHIFT) as u16
    }

    #[inline]
    pub(super) const fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    #[inline]
    pub(super) const fn with_sealed(self, sealed: bool) -> Self {
        Self(if sealed { self.0 | SEALED } else { self.0 & !SEALED })
    }

    /// Returns the marks of a node.
    #[inline]
    pub(super) const fn marks(self) -> u16 {
        (self.0 >> MARKS_SHIFT) as u16
    }

    /// Returns this with one mark more.
    #[inline]
    pub(super) const fn marked(self, mark: usize) -> Self {
        Self(self.0 | 1 << (MARKS_SHIFT as usize + mark % MARKS))
    }

    /// Returns this without marks.
    #[inline]
    pub(super) const fn unmarked(self) -> Self {
        Self(self.0 & !(0xffff << MARKS_SHIFT))
    }

    /// Returns this with one reference more. A count that reaches its end stays there and the frame is never freed.
    #[inline(always)]
    pub(super) const fn incremented(self) -> Self {
        Self(self.0.wrapping_add((self.count() < COUNT_END) as u64))
    }

    /// Returns this with one reference less. The count must not be zero.
    #[inline(always)]
    pub(super) const fn decremented(self) -> Self {
        assert!(self.count() != 0, "a frame was given back more often than it was taken");
        Self(self.0.wrapping_sub((self.count() < COUNT_END) as u64))
    }

    /// Returns zero if both are equal: for the comparison of several without a branch each.
    #[inline(always)]
    pub(super) const fn differs(self, other: Self) -> u64 {
        self.0 ^ other.0
    }

    /// Returns true if the frame stays in use with one reference less and its count is not at its end.
    #[inline(always)]
    pub(super) const fn is_plural(self) -> bool {
        // As a signed number the end is negative.
        self.count().cast_signed() > 1
    }

    /// Returns this with one reference less: of a record that has one and whose count is not at its end.
    #[inline(always)]
    pub(super) const fn lowered(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// Returns this with one reference more: of a record whose count is not at its end.
    #[inline(always)]
    pub(super) const fn raised(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Returns this with another kind.
    pub(super) const fn with_kind(self, kind: Kind) -> Self {
        Self(self.0 & !(0xf << KIND_SHIFT) | (kind as u64) << KIND_SHIFT)
    }

    /// Returns this with other pins.
    #[inline]
    pub(super) const fn with_pins(self, pins: u16) -> Self {
        Self(self.0 & !PINS_MASK | (pins as u64) << PINS_SHIFT)
    }

    /// Returns true if neither an entry nor a pin keeps the frame.
    #[inline]
    pub(super) const fn is_unreferenced(self) -> bool {
        self.0 & (PINS_MASK | u32::MAX as u64) == 0
    }
}

/// What is common to the 512 frames of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not ours to give away, as a whole. The records of its frames mean nothing.
    Reserved,
    /// Free as a whole. The records of its frames mean nothing.
    Free,
    /// At least one block entry points to the whole of it; its frames may have page entries besides.
    Block,
    /// Its frames live on their own.
    Split,
}

/// The end of a list of frames inside a block.
pub(super) const NO_FRAME: u16 = u16::MAX;

/// The end of a list of blocks.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// The record of a block of 512 frames.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Block {
    /// The neighbours in the list of free blocks or in the list of blocks with free frames.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// How many block entries point to the whole of it.
    pub(super) refs: u32,
    /// How many of its frames no page entry and no pin refers to. Those of a `Split` block are free.
    pub(super) free: u16,
    /// The first frame in the list of its free frames.
    pub(super) head: u16,
    /// Records from here on were never written since the block was last whole; such frames have no references. In a
    /// `Split` block they are free without being in the list, so that a block is broken up without 512 writes.
    pub(super) fresh: u16,
    state: u16,
    reserved: u32,
}

const _: () = assert!(size_of::<Block>() == 24 && size_of::<Record>() == 8);

impl Block {
    pub(super) const fn new(state: State) -> Self {
        let mut block = Self {
            prev: NO_BLOCK,
            next: NO_BLOCK,
            refs: 0,
            free: if matches!(state, State::Reserved) { 0 } else { FRAMES_PER_BLOCK as u16 },
            head: NO_FRAME,
            fresh: 0,
            state: 0,
            reserved: 0,
        };
        block.set_state(state);
        block
    }

    #[inline]
    pub(super) const fn state(&self) -> State {
        match self.state {
            1 => State::Free,
            2 => State::Block,
            3 => State::Split,
            _ => State::Reserved,
        }
    }

    /// Returns true if its frames live on their own.
    #[inline(always)]
    pub(super) const fn is_split(&self) -> bool {
        self.state == 3
    }

    #[inline]
    pub(super) const fn set_state(&mut self, state: State) {
        self.state = match state {
            State::Reserved => 0,
            State::Free => 1,
            State::Block => 2,
            State::Split => 3,
        };
    }
}
