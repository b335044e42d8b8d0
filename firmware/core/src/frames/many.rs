//! One reference more or less for everything that the entries of a node of pages point to, in few instructions an entry.
//!
//! Before: [`super::record`]. After: [`crate::stage2`], which copies nodes and gives them back. What was allocated together
//! is found together: four entries in a row mostly point to four frames in a row whose records are equal. The loops keep
//! what they need in registers and leave what is rare to the methods for one frame.

use super::record::{Block, COUNT_END, FRAMES_PER_BLOCK, Kind, NO_FRAME, Record};
use super::spans::Spans;
use super::{Frames, not_ram};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, Pa};

/// How many entries are looked at together.
pub const GROUP: usize = 4;

/// The bits of an entry that hold the address of a frame.
const ADDRESS: u64 = (1 << 48) - PAGE_SIZE;

/// Returns the position, in a span that begins at frame number `base`, of the frame that an entry points to.
#[inline(always)]
const fn position(entry: u64, base: u64) -> usize {
    ((entry & ADDRESS) >> PAGE_SHIFT).wrapping_sub(base) as usize
}

/// Returns true if none of four entries is in use.
#[inline(always)]
const fn is_empty([first, second, third, fourth]: [u64; GROUP]) -> bool {
    first == 0 && second | third | fourth == 0
}

/// Returns the records of the frames that four entries point to, and the position of the first, if they are a row of equal
/// ones. A row begins below `limit`, so that there are records for all of it.
#[inline(always)]
fn row(records: &mut [Record], entries: [u64; GROUP], base: u64, limit: u32) -> Option<(usize, &mut [Record; GROUP])> {
    let [first, second, third, fourth] = entries;
    let difference = second ^ first.wrapping_add(PAGE_SIZE)
        | third ^ first.wrapping_add(2 * PAGE_SIZE)
        | fourth ^ first.wrapping_add(3 * PAGE_SIZE);
    if difference != 0 {
        return None;
    }
    let index = position(first, base);
    if index >= limit as usize {
        return None;
    }
    let row = records.get_mut(index..index.wrapping_add(GROUP))?.first_chunk_mut::<GROUP>()?;
    let [a, b, c, d] = *row;
    if a.differs(b) | a.differs(c) | a.differs(d) == 0 { Some((index, row)) } else { None }
}

/// A block in use as a whole of which many entries in a row point to single frames, as in the node that mapped it by pages: its
/// own record is looked at once.
struct Home {
    /// The position of its first frame; beyond all if there is none.
    first: usize,
    /// How many of its frames no page entry refers to any more, since that was last written down.
    lost: usize,
}

impl Home {
    const NONE: Self = Self { first: u32::MAX as usize + 1, lost: 0 };

    /// Returns true if it has the frame at this position.
    #[inline(always)]
    const fn has(&self, index: usize) -> bool {
        index.wrapping_sub(self.first) < FRAMES_PER_BLOCK
    }

    /// Returns true if it has the row of frames that begins here; if it does not and their block is in use as a whole, that
    /// takes its place.
    #[inline(always)]
    fn takes_row(&mut self, blocks: &mut [Block], index: usize) -> bool {
        index.wrapping_sub(self.first) <= FRAMES_PER_BLOCK - GROUP || self.moves(blocks, index)
    }

    #[cold]
    fn moves(&mut self, blocks: &mut [Block], index: usize) -> bool {
        let is_whole = |block: &Block| !block.is_split() && index % FRAMES_PER_BLOCK <= FRAMES_PER_BLOCK - GROUP;
        let moves = blocks.get(index / FRAMES_PER_BLOCK).is_some_and(is_whole);
        if moves {
            self.write_down(blocks);
            self.first = index - index % FRAMES_PER_BLOCK;
        }
        moves
    }

    /// Writes down what its block has lost.
    fn write_down(&mut self, blocks: &mut [Block]) {
        let lost = core::mem::take(&mut self.lost);
        if let Some(block) = blocks.get_mut(self.first / FRAMES_PER_BLOCK) {
            block.free = block.free.wrapping_add(lost as u16);
        }
    }
}

/// Counts one entry less. Returns false if that is not simple; nothing is done then.
#[inline(always)]
fn lower(
    blocks: &mut [Block],
    records: &mut [Record],
    entry: u64,
    base: u64,
    home: &mut Home,
    freed: &mut usize,
) -> bool {
    let index = position(entry, base);
    let Some(record) = records.get_mut(index) else { return entry == 0 };
    if home.has(index) && *record == Record::used(Kind::Guest) {
        *record = record.lowered();
        home.lost = home.lost.wrapping_add(1);
        return true;
    }
    if record.is_plural() {
        *record = record.lowered();
        return true;
    }
    if *record != Record::used(Kind::Guest) {
        return false;
    }
    let Some(block) = blocks.get_mut(index / FRAMES_PER_BLOCK) else { return false };
    let (free, head) = (block.free, block.head);
    if head != NO_FRAME {
        // Its frames live on their own. This is not the first free one, nor may it be the last: no list of blocks changes.
        if free == FRAMES_PER_BLOCK as u16 - 1 {
            return false;
        }
        *record = Record::free(head);
        block.head = (index % FRAMES_PER_BLOCK) as u16;
        *freed = freed.wrapping_add(1);
    } else if block.is_split() {
        return false;
    } else {
        // It is in use as part of the block.
        *record = record.lowered();
    }
    block.free = free.wrapping_add(1);
    true
}

/// Counts one more page entry for each of these frames.
pub(super) fn raise(records: &mut [Record]) {
    let (rows, rest) = records.as_chunks_mut::<GROUP>();
    for row in rows {
        let [a, b, c, d] = *row;
        *row = [a.incremented(), b.incremented(), c.incremented(), d.incremented()];
    }
    for record in rest {
        *record = record.incremented();
    }
}

/// Counts one more entry that points to a node, if there is one. `others` are the records behind those of the first span.
#[inline(always)]
fn raise_node(records: &mut [Record], others: &mut [Record], spans: &Spans, entry: u64, base: u64) {
    if entry == 0 {
        return;
    }
    match records.get_mut(position(entry, base)) {
        Some(record) if record.count() < COUNT_END => *record = record.raised(),
        Some(_) => {}
        None => raise_node_beyond(records.len(), others, spans, Pa(entry & ADDRESS)),
    }
}

#[cold]
#[inline(never)]
fn raise_node_beyond(first: usize, others: &mut [Record], spans: &Spans, node: Pa) {
    let index = spans.index(node).and_then(|index| index.checked_sub(first));
    let Some(record) = index.and_then(|index| others.get_mut(index)) else { not_ram(node) };
    *record = record.incremented();
}

impl Frames<'_> {
    /// Returns the first frame number of the span that most frames are of, and how many rows may begin there.
    #[inline(always)]
    fn window(&self) -> (u64, u32) {
        let (base, frames) = self.spans.first();
        (base, frames.min(u32::MAX as usize) as u32 - (GROUP as u32 - 1))
    }

    /// Counts one more page entry for each of these entries: words with the address of a frame in bits 47 to 12, or zero.
    pub fn get_all(&mut self, mut entries: impl Iterator<Item = [u64; GROUP]>) {
        loop {
            let (base, limit) = self.window();
            let records = &mut self.records[..limit as usize + (GROUP - 1)];
            let entries = loop {
                let Some(entries) = entries.next() else { return };
                if let Some((_, row)) = row(records, entries, base, limit) {
                    let record = row[0].incremented();
                    *row = [record, record, record, record];
                } else if !is_empty(entries) {
                    break entries;
                }
            };
            for raw in entries {
                if raw != 0 {
                    self.get(Pa(raw & ADDRESS));
                }
            }
        }
    }

    /// Counts one more entry that points to a node for each of these that is not zero. Calls `each` with its place, itself,
    /// and true if the node is marked as sealed.
    pub fn get_nodes(
        &mut self,
        mut entries: impl Iterator<Item = (usize, u64)>,
        mut each: impl FnMut(usize, u64, bool),
    ) {
        loop {
            let (base, frames) = self.spans.first();
            let records = &mut self.records[..frames];
            let (place, raw) = loop {
                let Some((place, raw)) = entries.next() else { return };
                if raw == 0 {
                    continue;
                }
                let Some(record) = records.get_mut(position(raw, base)) else { break (place, raw) };
                *record = record.incremented();
                each(place, raw, record.is_sealed());
            };
            let is_sealed = self.get_node(Pa(raw & ADDRESS));
            each(place, raw, is_sealed);
        }
    }

    /// Counts one more entry that points to a node for each of these that is not zero. Calls `each` with the number of each
    /// group, and itself.
    #[inline]
    pub fn get_groups(
        &mut self,
        groups: impl Iterator<Item = (usize, [u64; GROUP])>,
        mut each: impl FnMut(usize, [u64; GROUP]),
    ) {
        let (base, frames) = self.spans.first();
        let (records, others) = self.records.split_at_mut(frames);
        let spans = &self.spans;
        for (number, [a, b, c, d]) in groups {
            raise_node(records, others, spans, a, base);
            raise_node(records, others, spans, b, base);
            raise_node(records, others, spans, c, base);
            raise_node(records, others, spans, d, base);
            each(number, [a, b, c, d]);
        }
    }

    /// Counts one page entry less for each of these entries, as [`Frames::put`] does. Returns how many frames are free now
    /// that were not.
    #[inline(never)]
    pub fn put_all(&mut self, mut entries: impl Iterator<Item = [u64; GROUP]>) -> usize {
        let mut freed = 0;
        let mut others = 0;
        let mut home = Home::NONE;
        loop {
            let (base, limit) = self.window();
            let records = &mut self.records[..limit as usize + (GROUP - 1)];
            let blocks = &mut *self.blocks;
            let rest = loop {
                let Some(entries) = entries.next() else { break None };
                if let Some((index, row)) = row(records, entries, base, limit) {
                    let record = row[0].lowered();
                    if row[0] == Record::used(Kind::Guest) && home.takes_row(blocks, index) {
                        *row = [record, record, record, record];
                        home.lost = home.lost.wrapping_add(GROUP);
                        continue;
                    }
                    if row[0].is_plural() {
                        *row = [record, record, record, record];
                        continue;
                    }
                }
                if is_empty(entries) {
                    continue;
                }
                let [a, b, c, d] = entries;
                if !lower(blocks, records, a, base, &mut home, &mut freed) {
                    break Some([a, b, c, d]);
                }
                if !lower(blocks, records, b, base, &mut home, &mut freed) {
                    break Some([0, b, c, d]);
                }
                if !lower(blocks, records, c, base, &mut home, &mut freed) {
                    break Some([0, 0, c, d]);
                }
                if !lower(blocks, records, d, base, &mut home, &mut freed) {
                    break Some([0, 0, 0, d]);
                }
            };
            home.write_down(blocks);
            let Some(rest) = rest else { break };
            for raw in rest {
                if raw != 0 {
                    others += usize::from(self.put(Pa(raw & ADDRESS)));
                }
            }
        }
        self.account(Kind::Guest, Kind::Free, freed);
        freed + others
    }
}
