//! Who uses which frame of physical memory: the frame table and the allocator, which are one thing.
//!
//! Before: [`crate::addr`]. After: [`crate::stage2`], whose entries the counts speak of.
//!
//! - Every frame of 4 KiB has a record of 8 bytes: kind, *reference count* (how many page entries point to it) and
//!   *pins* (how many users of its physical address there are beside entries). A frame is free when both are zero.
//! - Every block of 2 MiB has a record of its own: *block references* (how many block entries point to the whole) and
//!   the head of the list of its free frames, which is threaded through their records. Free memory is never touched.
//! - A block that is in use as a whole may have page entries to single frames at the same time: this is what a clone
//!   leaves that split its own mapping of a block to write one page. A frame is used by one alone if it has one reference
//!   and its block none; a block if it has one reference and none of its frames any.
//! - A whole free block is a *free block*; a block of which some frames are free is a *partial block*. Frames come from
//!   partial blocks first. The last frame that comes back makes the block whole again: there is no other merging.
//!
//! Setting up costs 24 bytes of writes per 2 MiB; the records of frames are written when a block is broken up, and the
//! storage need not be zeroed. A count that would overflow stays at its maximum, and that frame is never freed.

mod adopt;
mod many;
mod promise;
mod record;
mod spans;
#[cfg(test)]
mod tests;

pub use many::GROUP;
pub use record::{FRAMES_PER_BLOCK, Kind, MARKS};
pub use spans::MAX_BANKS;

use crate::addr::{BLOCK_SIZE, PAGE_SHIFT, PAGE_SIZE, Pa};
use core::cell::RefCell;
use core::ops::Range;
use record::{Block, NO_BLOCK, NO_FRAME, Record, State};
use spans::Spans;
use zerocopy::{FromBytes, IntoBytes};

/// No frame is free. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Why a frame table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// More than [`MAX_BANKS`] banks.
    TooManyBanks,
    /// A bank ends before it starts, lies above 2⁴⁸ or overlaps another one.
    BadBank,
    /// The storage has less than [`Frames::words_needed`] words.
    StorageTooSmall,
}

/// The range is not free RAM. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFree;

/// The address is not that of an image frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotImage;

/// The frame has as many pins as can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyPins;

/// How much memory there is and what for, in frames of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    by_kind: [usize; Kind::COUNT],
    /// How many whole blocks of 2 MiB are free.
    pub free_blocks: usize,
    /// How many of the free frames are promised.
    pub promised: usize,
}

impl Stats {
    /// Returns how many frames are of this kind.
    pub fn frames(&self, kind: Kind) -> usize {
        self.by_kind[kind as usize]
    }
}

/// The frame table of the machine.
pub struct Frames<'a> {
    spans: Spans,
    blocks: &'a mut [Block],
    records: &'a mut [Record],
    free_blocks: u32,
    partial_blocks: u32,
    stats: Stats,
    zero: Option<Pa>,
    version: u64,
}

/// A frame table that several CPUs share: lends it to one of them at a time, for a short while.
///
/// The firmware implements this for its spin lock. Code under `with` may read and write tables and invalidate TLBs, but
/// zeroes and copies pages outside.
pub trait FrameStore {
    /// Calls `f` with the table while nobody else has it.
    fn with<R>(&self, f: impl FnOnce(&mut Frames<'_>) -> R) -> R;
}

impl FrameStore for RefCell<Frames<'_>> {
    fn with<R>(&self, f: impl FnOnce(&mut Frames<'_>) -> R) -> R {
        f(&mut self.borrow_mut())
    }
}

#[cold]
#[inline(never)]
fn not_ram(pa: Pa) -> ! {
    panic!("{pa} is not RAM")
}

const BLOCK_WORDS: usize = size_of::<Block>() / size_of::<u64>();

impl<'a> Frames<'a> {
    /// Returns how many words of storage the table of these banks needs: 8 bytes per frame and 24 per block of 2 MiB.
    ///
    /// # Errors
    ///
    /// As [`Frames::new`].
    pub fn words_needed(banks: &[Range<Pa>]) -> Result<usize, SetupError> {
        let frames = Spans::new(banks)?.frames();
        Ok(frames + frames / FRAMES_PER_BLOCK * BLOCK_WORDS)
    }

    /// Makes the table of a machine with these banks of RAM, all of it free. A frame that a bank covers in part is not
    /// used. What the storage holds does not matter; it must itself be [reserved](Self::reserve) if it lies in a bank.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the banks or the storage.
    pub fn new(banks: &[Range<Pa>], storage: &'a mut [u64]) -> Result<Self, SetupError> {
        let spans = Spans::new(banks)?;
        let frames = spans.frames();
        let block_words = frames / FRAMES_PER_BLOCK * BLOCK_WORDS;
        let storage = storage.get_mut(..block_words + frames).ok_or(SetupError::StorageTooSmall)?;
        let (blocks, records) = storage.split_at_mut(block_words);
        // Both are whole numbers of records, aligned as words.
        let blocks = <[Block]>::mut_from_bytes(blocks.as_mut_bytes()).map_err(|_| SetupError::StorageTooSmall)?;
        let records = <[Record]>::mut_from_bytes(records.as_mut_bytes()).map_err(|_| SetupError::StorageTooSmall)?;
        blocks.fill(Block::new(State::Reserved));
        let mut stats = Stats { by_kind: [0; Kind::COUNT], free_blocks: 0, promised: 0 };
        stats.by_kind[Kind::Reserved as usize] = frames;
        let mut this = Self {
            spans,
            blocks,
            records,
            free_blocks: NO_BLOCK,
            partial_blocks: NO_BLOCK,
            stats,
            zero: None,
            version: 0,
        };
        for bank in banks.iter().rev() {
            this.open(bank);
        }
        Ok(this)
    }

    /// Takes RAM out of use for good. Parts that lie outside RAM, or are already reserved, are passed over.
    ///
    /// # Errors
    ///
    /// Part of the range is in use.
    pub fn reserve(&mut self, range: Range<Pa>) -> Result<(), NotFree> {
        self.claim(range, Kind::Reserved)
    }

    /// Takes the frames of the boot set, each with the one reference that the set holds. They may be mapped into guests
    /// but are never written in place.
    ///
    /// # Errors
    ///
    /// Part of the range is not free RAM.
    pub fn adopt_image(&mut self, range: Range<Pa>) -> Result<(), NotFree> {
        self.claim(range, Kind::Image)
    }

    /// Takes a free frame, with one reference. Its bytes are whatever was there last.
    ///
    /// # Errors
    ///
    /// No frame is free that is not promised.
    pub fn alloc(&mut self, kind: Kind) -> Result<Pa, OutOfMemory> {
        if self.unpromised() == 0 {
            return Err(OutOfMemory);
        }
        let mut at = self.partial_blocks;
        if at == NO_BLOCK {
            at = self.free_blocks;
            if at == NO_BLOCK {
                return Err(OutOfMemory);
            }
            self.unlink_free(at);
            self.blocks[at as usize].set_state(State::Split);
            self.push_partial(at);
        }
        let first = at as usize * FRAMES_PER_BLOCK;
        let block = &mut self.blocks[at as usize];
        let offset = block.head;
        let index;
        if offset == NO_FRAME {
            index = first + usize::from(block.fresh);
            block.fresh += 1;
        } else {
            index = first + usize::from(offset);
            block.head = self.records[index].next();
        }
        block.free -= 1;
        if block.free == 0 {
            self.unlink_partial(at);
        }
        self.records[index] = Record::used(kind);
        self.account(Kind::Free, kind, 1);
        Ok(self.spans.address(index))
    }

    /// Takes a free block of 2 MiB for a guest, with one block reference. Its bytes are whatever was there last.
    ///
    /// # Errors
    ///
    /// No whole block is free, or not so many frames that are not promised; single frames may be.
    pub fn alloc_block(&mut self) -> Result<Pa, OutOfMemory> {
        let at = self.free_blocks;
        if at == NO_BLOCK || self.unpromised() < FRAMES_PER_BLOCK {
            return Err(OutOfMemory);
        }
        self.unlink_free(at);
        let block = &mut self.blocks[at as usize];
        block.set_state(State::Block);
        block.refs = 1;
        self.account(Kind::Free, Kind::Guest, FRAMES_PER_BLOCK);
        Ok(self.spans.address(at as usize * FRAMES_PER_BLOCK))
    }

    /// Returns true if so much memory is free in whole blocks that one may be given to a guest that asked for a page: more
    /// than an eighth of all memory.
    pub fn blocks_are_plentiful(&self) -> bool {
        self.stats.free_blocks > self.blocks.len() / 8
    }

    /// Counts one more entry that points to a page or node, to which there is one already.
    #[inline(always)]
    pub fn get(&mut self, pa: Pa) {
        let index = self.index(pa);
        let record = &mut self.records[index];
        *record = record.incremented();
    }

    /// Counts one more page entry that points to a frame to which there is one already, or of a block in use as a whole.
    pub fn get_page(&mut self, pa: Pa) {
        let index = self.index(pa);
        if self.records[index].is_unreferenced() {
            let block = &mut self.blocks[index / FRAMES_PER_BLOCK];
            assert!(block.state() == State::Block, "a page entry to a frame that is not in use");
            block.free -= 1;
        }
        self.records[index] = self.records[index].incremented();
    }

    /// Counts one more page entry that points to an image frame.
    ///
    /// # Errors
    ///
    /// This is not an image frame.
    pub fn get_image(&mut self, pa: Pa) -> Result<(), NotImage> {
        let index = self.spans.index(pa).filter(|&index| self.is_written(index)).ok_or(NotImage)?;
        let record = self.records[index];
        if record.kind() != Kind::Image || record.count() == 0 {
            return Err(NotImage);
        }
        self.records[index] = record.incremented();
        Ok(())
    }

    /// Makes a page of guest memory, whose one entry is that of an image, an image frame.
    pub fn make_image(&mut self, pa: Pa) {
        let index = self.index(pa);
        let record = self.records[index];
        if record.kind() == Kind::Guest {
            self.records[index] = record.with_kind(Kind::Image);
            self.account(Kind::Guest, Kind::Image, 1);
        }
    }

    /// Counts one more entry that points to a node. Returns true if the node is marked as sealed.
    #[inline]
    pub fn get_node(&mut self, node: Pa) -> bool {
        let index = self.index(node);
        let record = &mut self.records[index];
        *record = record.incremented();
        record.is_sealed()
    }

    /// Counts one page entry less; the frame is free if it was the last. The TLBs must have forgotten the entry.
    /// Returns true if the frame is free now.
    #[inline(always)]
    pub fn put(&mut self, pa: Pa) -> bool {
        self.put_page(pa).1
    }

    /// Counts one page entry less, as [`Frames::put`] does. Returns also what the frame was used for.
    #[inline(always)]
    pub fn put_page(&mut self, pa: Pa) -> (Kind, bool) {
        let index = self.index(pa);
        let slot = &mut self.records[index];
        let record = slot.decremented();
        *slot = record;
        (record.kind(), record.is_unreferenced() && self.unreferenced(index))
    }

    /// Counts one entry less that points to a node. Returns true if it was the last: the caller is then the only one
    /// who knows the node, gives back what its entries point to, and last the node itself with [`Frames::free`].
    #[inline]
    pub fn release_node(&mut self, pa: Pa) -> bool {
        let index = self.index(pa);
        let record = self.records[index].decremented();
        if record.count() == 0 {
            return true;
        }
        self.records[index] = record;
        false
    }

    /// Gives back a frame that the caller alone refers to, a node or another.
    pub fn free(&mut self, pa: Pa) {
        let index = self.index(pa);
        let mut record = self.records[index];
        assert!(record.count() == 1, "a frame was freed that others use");
        if record.kind() == Kind::Node {
            record = record.unmarked();
        }
        let record = record.decremented();
        self.records[index] = record;
        if record.is_unreferenced() {
            self.unreferenced(index);
        }
    }

    /// Counts one more block entry that points to a block. The block is one in use as a whole, or one of which every frame
    /// is an image frame.
    pub fn get_block(&mut self, pa: Pa) {
        let at = self.block_index(pa);
        let block = &mut self.blocks[at];
        match block.state() {
            State::Block => block.refs = block.refs.saturating_add(1),
            State::Split if block.free == 0 => {
                block.set_state(State::Block);
                block.refs = 1;
            }
            _ => panic!("a block entry to a block that is not in use"),
        }
    }

    /// Counts one block entry less; those of its frames that no page entry refers to are free if it was the last. The
    /// TLBs must have forgotten the entry.
    pub fn put_block(&mut self, pa: Pa) {
        let at = self.block_index(pa);
        let block = &mut self.blocks[at];
        assert!(block.state() == State::Block && block.refs != 0, "a block was given back more often than taken");
        if block.refs != u32::MAX {
            block.refs -= 1;
        }
        if block.refs != 0 {
            return;
        }
        let freed = usize::from(block.free);
        self.account(Kind::Guest, Kind::Free, freed);
        let block = &mut self.blocks[at];
        if freed == FRAMES_PER_BLOCK {
            self.push_free(at as u32);
        } else {
            block.set_state(State::Split);
            self.relist(at);
            if freed != 0 {
                self.push_partial(at as u32);
            }
        }
    }

    /// Turns one block entry into 512 page entries, one to each frame of the block.
    pub fn split_block(&mut self, pa: Pa) {
        let at = self.block_index(pa);
        let block = &mut self.blocks[at];
        assert!(block.state() == State::Block, "only a block can be split");
        let records = &mut self.records[at * FRAMES_PER_BLOCK..][..FRAMES_PER_BLOCK];
        if block.fresh == 0 {
            records.fill(Record::used(Kind::Guest));
            block.fresh = FRAMES_PER_BLOCK as u16;
        } else {
            many::raise(records);
        }
        block.free = 0;
        self.put_block(pa);
    }

    /// Returns how many page entries point to the frame.
    #[inline]
    pub fn count(&self, pa: Pa) -> u32 {
        let index = self.index(pa);
        if self.is_written(index) { self.records[index].count() } else { 0 }
    }

    /// Returns how many block entries point to the block that holds this address.
    pub fn block_count(&self, pa: Pa) -> u32 {
        self.blocks[self.index(pa) / FRAMES_PER_BLOCK].refs
    }

    /// Returns how many entries lead to the frame: page entries, and block entries to the whole of its block.
    pub fn references(&self, pa: Pa) -> u32 {
        self.count(pa).saturating_add(self.block_count(pa))
    }

    /// Returns how many pins the frame has.
    pub fn pins(&self, pa: Pa) -> u16 {
        let index = self.index(pa);
        if self.is_written(index) && self.records[index].kind() != Kind::Free { self.records[index].pins() } else { 0 }
    }

    /// Returns what the frame is used for, or `None` outside RAM.
    pub fn kind(&self, pa: Pa) -> Option<Kind> {
        let index = self.spans.index(pa)?;
        Some(match self.blocks[index / FRAMES_PER_BLOCK].state() {
            State::Reserved => Kind::Reserved,
            State::Free => Kind::Free,
            State::Block if !self.is_written(index) => Kind::Guest,
            State::Split if !self.is_written(index) => Kind::Free,
            _ => self.records[index].kind(),
        })
    }

    /// Returns what a frame is used for that a page entry points to.
    #[inline]
    pub fn kind_in_use(&self, pa: Pa) -> Kind {
        self.records[self.index(pa)].kind()
    }

    /// Returns true if every frame of the block at `pa` is an image frame.
    pub fn is_image_block(&self, pa: Pa) -> bool {
        let Some(index) = self.spans.index(pa).filter(|index| index % FRAMES_PER_BLOCK == 0) else { return false };
        self.is_written(index + FRAMES_PER_BLOCK - 1)
            && self.records[index..index + FRAMES_PER_BLOCK].iter().all(|record| record.kind() == Kind::Image)
    }

    /// Returns true if several entries point to the node.
    #[inline(always)]
    pub fn is_shared_node(&self, node: Pa) -> bool {
        self.records[self.index(node)].count() > 1
    }

    /// Returns true if one page entry and nothing else refers to the memory of this frame.
    #[inline]
    pub fn is_exclusive(&self, pa: Pa) -> bool {
        let index = self.index(pa);
        self.records[index].count() == 1 && self.blocks[index / FRAMES_PER_BLOCK].refs == 0
    }

    /// Returns true if one block entry and nothing else refers to the memory of this block.
    #[inline]
    pub fn is_exclusive_block(&self, pa: Pa) -> bool {
        let block = &self.blocks[self.block_index(pa)];
        block.refs == 1 && usize::from(block.free) == FRAMES_PER_BLOCK
    }

    /// Notes that the physical address of a frame with a page entry is in use beside its entries: the frame is not freed
    /// before it is unpinned.
    ///
    /// # Errors
    ///
    /// There are too many pins already.
    pub fn pin(&mut self, pa: Pa) -> Result<(), TooManyPins> {
        let index = self.index(pa);
        let record = self.records[index];
        assert!(record.count() != 0, "only a frame in use can be pinned");
        self.records[index] = record.with_pins(record.pins().checked_add(1).ok_or(TooManyPins)?);
        Ok(())
    }

    /// Takes a pin back. The frame is free if nothing else refers to it.
    pub fn unpin(&mut self, pa: Pa) {
        let index = self.index(pa);
        let record = self.records[index];
        assert!(record.pins() != 0, "a frame was unpinned more often than pinned");
        let record = record.with_pins(record.pins() - 1);
        self.records[index] = record;
        if record.is_unreferenced() {
            self.unreferenced(index);
        }
    }

    /// Returns true if the node is marked as sealed.
    #[inline]
    pub fn is_sealed(&self, node: Pa) -> bool {
        self.records[self.index(node)].is_sealed()
    }

    /// Marks a node as sealed, or not: see [`crate::stage2`].
    #[inline]
    pub fn set_sealed(&mut self, node: Pa, sealed: bool) {
        let index = self.index(node);
        self.records[index] = self.records[index].with_sealed(sealed);
    }

    /// Marks the entry of a node as changed, and with it all those that the mark stands for: one of [`MARKS`] equal parts.
    #[inline]
    pub fn mark(&mut self, node: Pa, entry: usize) {
        let index = self.index(node);
        self.records[index] = self.records[index].marked(entry / (FRAMES_PER_BLOCK / MARKS));
    }

    /// Marks the entry of a node as changed, and the node as not sealed. Returns true if it was sealed.
    #[inline]
    pub fn set_changed(&mut self, node: Pa, entry: usize) -> bool {
        let index = self.index(node);
        let record = self.records[index];
        self.records[index] = record.with_sealed(false).marked(entry / (FRAMES_PER_BLOCK / MARKS));
        record.is_sealed()
    }

    /// Takes all marks off a node. Returns them, one a bit.
    pub fn take_marks(&mut self, node: Pa) -> u16 {
        let index = self.index(node);
        let record = self.records[index];
        self.records[index] = record.unmarked();
        record.marks()
    }

    /// Returns a number for contents of an address space that was never returned before, and is not zero.
    pub const fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Returns the page of zeros, once there is one.
    #[inline]
    pub fn zero_page(&self) -> Option<Pa> {
        self.zero
    }

    /// Makes a frame of kind [`Kind::Zero`], full of zeros, the page of zeros. Its one reference is kept for good.
    pub fn set_zero_page(&mut self, pa: Pa) {
        assert!(self.kind(pa) == Some(Kind::Zero) && self.zero.is_none(), "there is one page of zeros");
        self.zero = Some(pa);
    }

    /// Returns how much memory there is and what for.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    #[inline(always)]
    fn index(&self, pa: Pa) -> usize {
        match self.spans.index(pa) {
            Some(index) => index,
            None => not_ram(pa),
        }
    }

    #[inline]
    fn block_index(&self, pa: Pa) -> usize {
        assert!(pa.is_aligned(BLOCK_SIZE), "{pa} is not a block");
        self.index(pa) / FRAMES_PER_BLOCK
    }

    /// Returns true if the record of this frame means something.
    fn is_written(&self, index: usize) -> bool {
        let block = &self.blocks[index / FRAMES_PER_BLOCK];
        matches!(block.state(), State::Block | State::Split) && index % FRAMES_PER_BLOCK < usize::from(block.fresh)
    }

    #[inline]
    fn account(&mut self, from: Kind, to: Kind, frames: usize) {
        self.stats.by_kind[from as usize] -= frames;
        self.stats.by_kind[to as usize] += frames;
    }

    /// A frame has lost its last page entry and pin. Returns true if it is free now.
    #[inline(never)]
    fn unreferenced(&mut self, index: usize) -> bool {
        let at = index / FRAMES_PER_BLOCK;
        let block = &mut self.blocks[at];
        block.free += 1;
        if block.state() == State::Block {
            return false;
        }
        let kind = self.records[index].kind();
        self.records[index] = Record::free(block.head);
        block.head = (index % FRAMES_PER_BLOCK) as u16;
        self.freed(at, kind, 1);
        true
    }

    /// So many frames of a split block have just become free.
    #[inline]
    fn freed(&mut self, at: usize, kind: Kind, frames: usize) {
        let free = usize::from(self.blocks[at].free);
        if free == frames {
            self.push_partial(at as u32);
        } else if free == FRAMES_PER_BLOCK {
            self.unlink_partial(at as u32);
            self.push_free(at as u32);
        }
        self.account(kind, Kind::Free, frames);
    }

    fn push_free(&mut self, at: u32) {
        self.blocks[at as usize] = Block::new(State::Free);
        let head = self.free_blocks;
        self.free_blocks = self.push(at, head);
        self.stats.free_blocks += 1;
    }

    fn unlink_free(&mut self, at: u32) {
        let head = self.free_blocks;
        self.free_blocks = self.unlink(at, head);
        self.stats.free_blocks -= 1;
    }

    fn push_partial(&mut self, at: u32) {
        let head = self.partial_blocks;
        self.partial_blocks = self.push(at, head);
    }

    fn unlink_partial(&mut self, at: u32) {
        let head = self.partial_blocks;
        self.partial_blocks = self.unlink(at, head);
    }

    /// Puts a block in front of a list. Returns the new head.
    fn push(&mut self, at: u32, head: u32) -> u32 {
        if head != NO_BLOCK {
            self.blocks[head as usize].prev = at;
        }
        let block = &mut self.blocks[at as usize];
        block.prev = NO_BLOCK;
        block.next = head;
        at
    }

    /// Takes a block out of a list. Returns the new head.
    fn unlink(&mut self, at: u32, head: u32) -> u32 {
        let Block { prev, next, .. } = self.blocks[at as usize];
        if next != NO_BLOCK {
            self.blocks[next as usize].prev = prev;
        }
        if prev == NO_BLOCK {
            return next;
        }
        self.blocks[prev as usize].next = next;
        head
    }

    /// Lists the free frames of a block anew, lowest first.
    fn relist(&mut self, at: usize) {
        let records = &mut self.records[at * FRAMES_PER_BLOCK..][..FRAMES_PER_BLOCK];
        let mut head = NO_FRAME;
        for (offset, record) in records.iter_mut().enumerate().rev() {
            if record.kind() == Kind::Free || record.is_unreferenced() {
                *record = Record::free(head);
                head = offset as u16;
            }
        }
        self.blocks[at].head = head;
    }

    /// Makes every record of a block that is free as a whole, or split, mean something.
    fn break_up(&mut self, at: usize) {
        if self.blocks[at].state() == State::Free {
            self.unlink_free(at as u32);
            self.blocks[at].set_state(State::Split);
            self.push_partial(at as u32);
        }
        let fresh = usize::from(self.blocks[at].fresh);
        self.records[at * FRAMES_PER_BLOCK..][fresh..FRAMES_PER_BLOCK].fill(Record::free(NO_FRAME));
        self.blocks[at].fresh = FRAMES_PER_BLOCK as u16;
    }

    /// Makes the whole frames of a bank free. They are reserved until then.
    fn open(&mut self, bank: &Range<Pa>) {
        let bottom = bank.start.0.div_ceil(PAGE_SIZE);
        // From the top, so that the lists begin at the bottom.
        let mut end = bank.end.0 >> PAGE_SHIFT;
        while end > bottom {
            let start = bottom.max((end - 1) / FRAMES_PER_BLOCK as u64 * FRAMES_PER_BLOCK as u64);
            let frames = (end - start) as usize;
            let first = self.index(Pa(start << PAGE_SHIFT));
            let at = first / FRAMES_PER_BLOCK;
            self.account(Kind::Reserved, Kind::Free, frames);
            if frames == FRAMES_PER_BLOCK {
                self.push_free(at as u32);
            } else {
                if self.blocks[at].state() == State::Reserved {
                    self.records[at * FRAMES_PER_BLOCK..][..FRAMES_PER_BLOCK].fill(Record::used(Kind::Reserved));
                    let block = &mut self.blocks[at];
                    block.set_state(State::Split);
                    block.fresh = FRAMES_PER_BLOCK as u16;
                }
                if self.blocks[at].free == 0 {
                    self.push_partial(at as u32);
                }
                self.records[first..][..frames].fill(Record::free(NO_FRAME));
                self.blocks[at].free += frames as u16;
                self.relist(at);
                if usize::from(self.blocks[at].free) == FRAMES_PER_BLOCK {
                    self.unlink_partial(at as u32);
                    self.push_free(at as u32);
                }
            }
            end = start;
        }
    }

    /// Takes a range out of free memory.
    fn claim(&mut self, range: Range<Pa>, kind: Kind) -> Result<(), NotFree> {
        assert!(self.stats.promised == 0, "what is set up comes before promises");
        let start = range.start.0 >> PAGE_SHIFT;
        let end = range.end.0.div_ceil(PAGE_SIZE).max(start);
        let is_reservation = kind == Kind::Reserved;
        // First look, block by block, then act: all or nothing.
        for act in [false, true] {
            let mut number = start;
            while number < end {
                let stop = end.min((number / FRAMES_PER_BLOCK as u64 + 1) * FRAMES_PER_BLOCK as u64);
                match self.spans.index(Pa(number << PAGE_SHIFT)) {
                    Some(first) if act => self.claim_in_block(first, (stop - number) as usize, kind),
                    Some(first) => self.check_in_block(first, (stop - number) as usize, is_reservation)?,
                    None if is_reservation => {}
                    None => return Err(NotFree),
                }
                number = stop;
            }
        }
        Ok(())
    }

    fn check_in_block(&self, first: usize, frames: usize, is_reservation: bool) -> Result<(), NotFree> {
        let is_ok = match self.blocks[first / FRAMES_PER_BLOCK].state() {
            State::Free => true,
            State::Reserved => is_reservation,
            State::Block => false,
            State::Split => (first..first + frames).all(|index| {
                !self.is_written(index)
                    || match self.records[index].kind() {
                        Kind::Free => true,
                        Kind::Reserved => is_reservation,
                        _ => false,
                    }
            }),
        };
        if is_ok { Ok(()) } else { Err(NotFree) }
    }

    fn claim_in_block(&mut self, first: usize, frames: usize, kind: Kind) {
        let at = first / FRAMES_PER_BLOCK;
        match self.blocks[at].state() {
            State::Reserved => return,
            State::Free if frames == FRAMES_PER_BLOCK && kind == Kind::Reserved => {
                self.unlink_free(at as u32);
                self.blocks[at] = Block::new(State::Reserved);
                return self.account(Kind::Free, Kind::Reserved, FRAMES_PER_BLOCK);
            }
            _ => {}
        }
        self.break_up(at);
        let mut taken = 0;
        for record in &mut self.records[first..][..frames] {
            if record.kind() == Kind::Free {
                *record = Record::used(kind);
                taken += 1;
            }
        }
        let had = self.blocks[at].free;
        self.blocks[at].free -= taken;
        if taken != 0 && taken == had {
            self.unlink_partial(at as u32);
        }
        self.relist(at);
        self.account(Kind::Free, kind, usize::from(taken));
    }
}
