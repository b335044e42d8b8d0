//! Where RAM is: from physical addresses to positions in the frame table and back.
//!
//! Before: [`crate::addr`]. After: [`super::Frames`]. Machines have few banks of RAM, with holes in between and
//! anywhere in the address space; the table has no records for the holes. Spans begin and end at multiples of 2 MiB, so
//! that a block of 512 records is a naturally aligned block of memory.

use super::SetupError;
use super::record::FRAMES_PER_BLOCK;
use crate::addr::{BLOCK_SIZE, PAGE_SHIFT, Pa};
use core::ops::Range;

/// The greatest number of banks of RAM.
pub const MAX_BANKS: usize = 16;

/// A run of blocks that has RAM in every block.
#[derive(Clone, Copy, Default)]
struct Span {
    /// The frame number (address / 4 KiB) of its first frame.
    base: u64,
    /// How many frames.
    frames: u64,
    /// The position of its first frame in the table.
    first: usize,
}

/// All spans, by rising address.
#[derive(Clone)]
pub(super) struct Spans {
    spans: [Span; MAX_BANKS],
    len: usize,
}

impl Spans {
    /// Returns the spans that cover the banks, which may come in any order but must not overlap.
    pub(super) fn new(banks: &[Range<Pa>]) -> Result<Self, SetupError> {
        let mut sorted = [(0, 0); MAX_BANKS];
        let sorted = sorted.get_mut(..banks.len()).ok_or(SetupError::TooManyBanks)?;
        for (slot, bank) in sorted.iter_mut().zip(banks) {
            // The index must fit 32 bits and an address the 48 bits of a descriptor.
            if bank.end.0 > 1 << 48 || bank.start > bank.end {
                return Err(SetupError::BadBank);
            }
            *slot = (bank.start.0, bank.end.0);
        }
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(SetupError::BadBank);
        }
        let mut this = Self { spans: [Span::default(); MAX_BANKS], len: 0 };
        let mut first = 0;
        for &(start, end) in sorted.iter().filter(|(start, end)| start != end) {
            let base = start / BLOCK_SIZE * FRAMES_PER_BLOCK as u64;
            let end = end.div_ceil(BLOCK_SIZE) * FRAMES_PER_BLOCK as u64;
            match this.len.checked_sub(1).map(|last| &mut this.spans[last]) {
                // Two banks that meet in one block, or touch, are one span.
                Some(last) if last.base + last.frames >= base => {
                    first += (end - (last.base + last.frames)) as usize;
                    last.frames = end - last.base;
                }
                _ => {
                    this.spans[this.len] = Span { base, frames: end - base, first };
                    this.len += 1;
                    first += (end - base) as usize;
                }
            }
        }
        if this.frames() / FRAMES_PER_BLOCK >= u32::MAX as usize {
            return Err(SetupError::BadBank);
        }
        Ok(this)
    }

    /// Returns how many frames the table holds.
    pub(super) fn frames(&self) -> usize {
        self.spans[..self.len].last().map_or(0, |last| last.first + last.frames as usize)
    }

    /// Returns the first frame number and the size, in frames, of the first span. It starts at position 0.
    #[inline(always)]
    pub(super) fn first(&self) -> (u64, usize) {
        let [first, ..] = &self.spans;
        (first.base, first.frames as usize)
    }

    /// Returns the position of the frame that holds `pa`, or `None` outside RAM.
    #[inline(always)]
    pub(super) fn index(&self, pa: Pa) -> Option<usize> {
        // Most machines have one bank that matters; the first one starts at position 0.
        let [first, ..] = &self.spans;
        let offset = (pa.0 >> PAGE_SHIFT).wrapping_sub(first.base);
        if offset < first.frames { Some(offset as usize) } else { self.index_beyond(pa) }
    }

    #[cold]
    fn index_beyond(&self, pa: Pa) -> Option<usize> {
        let number = pa.0 >> PAGE_SHIFT;
        self.spans[..self.len].iter().skip(1).find_map(|span| {
            let offset = number.wrapping_sub(span.base);
            (offset < span.frames).then(|| span.first + offset as usize)
        })
    }

    /// Returns the address of the frame at a position of the table.
    #[inline]
    pub(super) fn address(&self, index: usize) -> Pa {
        let [first, ..] = &self.spans;
        if (index as u64) < first.frames {
            return Pa((first.base + index as u64) << PAGE_SHIFT);
        }
        self.address_beyond(index)
    }

    #[cold]
    fn address_beyond(&self, index: usize) -> Pa {
        for span in self.spans.iter().take(self.len) {
            let offset = index.wrapping_sub(span.first) as u64;
            if offset < span.frames {
                return Pa((span.base + offset) << PAGE_SHIFT);
            }
        }
        panic!("no frame has this index");
    }
}
