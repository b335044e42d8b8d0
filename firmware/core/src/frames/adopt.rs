//! The frame table of one image of the hypervisor, taken over by the next as it lies in memory.
//!
//! Before: [`super::Frames`], which the image before has made. After: [`crate::handover`], whose record says what is not in the
//! storage. Nothing here depends on the amount of memory.

use super::record::{FRAMES_PER_BLOCK, NO_BLOCK, Record, State};
use super::{BLOCK_WORDS, Frames, Kind, OutOfMemory, Spans, Stats};
use crate::addr::{BLOCK_SIZE, PAGE_SHIFT, PAGE_SIZE, Pa};
use core::ops::Range;
use salp_hvc::handover;
use zerocopy::{FromBytes, IntoBytes};

impl<'a> Frames<'a> {
    /// Returns what a hand-over has of the table beside its storage.
    pub fn record(&self) -> handover::Frames {
        let mut by_kind = [0; 8];
        by_kind.iter_mut().zip(self.stats.by_kind).for_each(|(to, count)| *to = count as u64);
        handover::Frames {
            by_kind,
            free_blocks: self.stats.free_blocks as u64,
            promised: self.stats.promised as u64,
            lists: [self.free_blocks, self.partial_blocks],
            zero: self.zero.map_or(0, |zero| zero.0),
            version: self.version,
        }
    }

    /// Takes over the table of a machine with these banks of RAM as it lies in `storage`. `None` if it cannot be theirs. The storage
    /// is not looked at as a whole, and not changed.
    pub fn adopt(banks: &[Range<Pa>], storage: &'a mut [u64], record: &handover::Frames) -> Option<Self> {
        let spans = Spans::new(banks).ok()?;
        let frames = spans.frames();
        let block_words = frames / FRAMES_PER_BLOCK * BLOCK_WORDS;
        let (blocks, records) = storage.get_mut(..block_words + frames)?.split_at_mut(block_words);
        let blocks = <[_]>::mut_from_bytes(blocks.as_mut_bytes()).ok()?;
        let records = <[_]>::mut_from_bytes(records.as_mut_bytes()).ok()?;
        let mut stats = Stats { by_kind: [0; Kind::COUNT], free_blocks: 0, promised: 0 };
        stats.by_kind.iter_mut().zip(record.by_kind).for_each(|(to, count)| *to = count as usize);
        stats.free_blocks = usize::try_from(record.free_blocks).ok()?;
        stats.promised = usize::try_from(record.promised).ok()?;
        let sum = record.by_kind.iter().try_fold(0u64, |sum, &count| sum.checked_add(count))?;
        let [free_blocks, partial_blocks] = record.lists;
        let this = Self {
            spans,
            blocks,
            records,
            free_blocks,
            partial_blocks,
            stats,
            zero: (record.zero != 0).then_some(Pa(record.zero)),
            version: record.version,
        };
        let is_list = |head: u32, state| {
            head == NO_BLOCK || this.blocks.get(head as usize).is_some_and(|block| block.state() == state)
        };
        let is_sound = sum == frames as u64
            && stats.free_blocks <= stats.frames(Kind::Free) / FRAMES_PER_BLOCK
            && stats.promised <= stats.frames(Kind::Free)
            && (stats.free_blocks == 0) == (free_blocks == NO_BLOCK)
            && is_list(free_blocks, State::Free)
            && is_list(partial_blocks, State::Split)
            && this.zero.is_none_or(|zero| zero.is_aligned(PAGE_SIZE) && this.kind(zero) == Some(Kind::Zero));
        is_sound.then_some(this)
    }

    /// Takes so many free blocks of 2 MiB, one behind the other in memory, whose frames live on their own, each with one
    /// reference. Their bytes are whatever was there last.
    ///
    /// # Errors
    ///
    /// There are no such blocks, or others were promised their frames.
    pub fn alloc_blocks(&mut self, kind: Kind, count: usize) -> Result<Pa, OutOfMemory> {
        if self.unpromised() < count * FRAMES_PER_BLOCK {
            return Err(OutOfMemory);
        }
        let first = self.find_blocks(count).ok_or(OutOfMemory)?;
        for at in first..first + count {
            self.unlink_free(at as u32);
            let block = &mut self.blocks[at];
            block.set_state(State::Split);
            (block.free, block.fresh) = (0, FRAMES_PER_BLOCK as u16);
            self.records[at * FRAMES_PER_BLOCK..][..FRAMES_PER_BLOCK].fill(Record::used(kind));
        }
        self.account(Kind::Free, kind, count * FRAMES_PER_BLOCK);
        Ok(self.spans.address(first * FRAMES_PER_BLOCK))
    }

    /// Returns the first of so many free blocks.
    fn find_blocks(&self, count: usize) -> Option<usize> {
        let address = |at: usize| self.spans.address(at * FRAMES_PER_BLOCK).0;
        let mut run = 0;
        for (at, block) in self.blocks.iter().enumerate() {
            let goes_on = run > 0 && address(at) == address(at - 1) + BLOCK_SIZE;
            run = match block.state() {
                State::Free => 1 + if goes_on { run } else { 0 },
                _ => 0,
            };
            if run == count {
                return Some(at + 1 - count);
            }
        }
        None
    }

    /// Gives back frames that EL2 has for itself, reserved at its start or taken since. What is used otherwise, or lies outside
    /// RAM, is left alone.
    pub fn give_up(&mut self, range: Range<Pa>) {
        for number in range.start.0.div_ceil(PAGE_SIZE)..range.end.0 >> PAGE_SHIFT {
            let Some(index) = self.spans.index(Pa(number << PAGE_SHIFT)) else { continue };
            let at = index / FRAMES_PER_BLOCK;
            if self.blocks[at].state() == State::Reserved {
                self.records[at * FRAMES_PER_BLOCK..][..FRAMES_PER_BLOCK].fill(Record::used(Kind::Reserved));
                self.blocks[at].set_state(State::Split);
                self.blocks[at].fresh = FRAMES_PER_BLOCK as u16;
            }
            if self.is_written(index)
                && matches!(self.records[index].kind(), Kind::Reserved | Kind::Hyp)
                && self.records[index].count() == 1
            {
                self.free(Pa(number << PAGE_SHIFT));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bank(mib: u64) -> Range<Pa> {
        Pa(0x4000_0000)..Pa(0x4000_0000 + (mib << 20))
    }

    fn storage(mib: u64) -> Vec<u64> {
        vec![0; Frames::words_needed(&[bank(mib)]).unwrap()]
    }

    #[test]
    fn a_table_that_is_taken_over_goes_on_as_before() {
        let mut words = storage(16);
        let mut frames = Frames::new(&[bank(16)], &mut words).unwrap();
        frames.reserve(Pa(0x4000_0000)..Pa(0x4030_0000)).unwrap();
        let kept = frames.alloc(Kind::Guest).unwrap();
        let block = frames.alloc_block().unwrap();
        frames.promise(100).unwrap();
        let (record, stats) = (frames.record(), frames.stats());
        let mut frames = Frames::adopt(&[bank(16)], &mut words, &record).unwrap();
        assert_eq!((frames.stats(), frames.record()), (stats, record));
        frames.unpromise(100);
        assert!(frames.put(kept));
        frames.put_block(block);
        assert_eq!(frames.stats().frames(Kind::Free), 13 * 256);
        assert!(Frames::adopt(&[bank(18)], &mut storage(18), &record).is_none(), "not of this machine");
    }

    #[test]
    fn what_an_image_had_for_itself_is_free_when_it_is_given_up() {
        let mut words = storage(16);
        let mut frames = Frames::new(&[bank(16)], &mut words).unwrap();
        frames.reserve(Pa(0x4000_0000)..Pa(0x4030_0000)).unwrap();
        frames.adopt_image(Pa(0x4030_0000)..Pa(0x4031_0000)).unwrap();
        let blocks = frames.alloc_blocks(Kind::Hyp, 2).unwrap();
        assert_eq!(frames.stats().frames(Kind::Hyp), 1024);
        frames.give_up(blocks..Pa(blocks.0 + 2 * BLOCK_SIZE));
        frames.give_up(Pa(0x3ff0_0000)..Pa(0x4040_0000));
        assert_eq!(frames.stats().frames(Kind::Free), 16 * 256 - 16, "all but the boot set");
        assert_eq!((frames.stats().free_blocks, frames.stats().frames(Kind::Image)), (7, 16));
    }

    #[test]
    fn blocks_that_are_taken_together_are_neighbours() {
        let banks = [bank(6), Pa(0x8000_0000)..Pa(0x8080_0000)];
        let mut words = vec![0; Frames::words_needed(&banks).unwrap()];
        let mut frames = Frames::new(&banks, &mut words).unwrap();
        frames.reserve(Pa(0x4020_0000)..Pa(0x4020_1000)).unwrap();
        assert_eq!(frames.alloc_blocks(Kind::Hyp, 2), Ok(Pa(0x8000_0000)), "not of two banks");
        assert_eq!(frames.alloc_blocks(Kind::Hyp, 3), Err(OutOfMemory));
        assert_eq!(frames.alloc_blocks(Kind::Hyp, 1), Ok(Pa(0x4000_0000)));
        frames.promise(1024).unwrap();
        assert_eq!(frames.alloc_blocks(Kind::Hyp, 2), Err(OutOfMemory), "they are promised");
    }

    proptest! {
        #[test]
        fn no_record_makes_a_table_that_counts_wrongly(words in proptest::collection::vec(any::<u64>(), 13), small: bool) {
            let mut record = handover::Frames::read_from_bytes(words.as_bytes()).unwrap();
            if small {
                record.by_kind = record.by_kind.map(|count| count % 1024);
            }
            if let Some(frames) = Frames::adopt(&[bank(2)], &mut storage(2), &record) {
                prop_assert_eq!(record.by_kind.iter().sum::<u64>(), 512);
                prop_assert!(frames.stats().promised <= frames.stats().frames(Kind::Free));
            }
        }
    }
}
