//! Whose memory is it? Counted by looking, not by keeping books.
//!
//! Before: [`super::AddressSpace`]. After: what is reported of a VM.

use super::AddressSpace;
use super::entry::{ENTRIES, Entry, Level};
use super::port::TableMem;
use crate::addr::{PAGE_SIZE, Pa};
use crate::frames::{FRAMES_PER_BLOCK, FrameStore};

/// What an address space uses, in frames of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Guest memory that nobody else uses.
    pub private: u64,
    /// Guest memory that others use too, boot images and the page of zeros included.
    pub shared: u64,
    /// Nodes that nobody else uses, the root included.
    pub private_nodes: u64,
    /// Nodes that others use too.
    pub shared_nodes: u64,
}

impl AddressSpace {
    /// Counts what the address space uses now. Looks at every entry; takes the frame table's lock node by node.
    pub fn census(&self, frames: &impl FrameStore, mem: &impl TableMem) -> Census {
        let mut census = Census::default();
        count(frames, mem, self.root, Level::One, false, &mut census);
        census
    }
}

fn count(
    frames: &impl FrameStore,
    mem: &impl TableMem,
    node: Pa,
    level: Level,
    is_above_shared: bool,
    census: &mut Census,
) {
    let is_shared = is_above_shared || frames.with(|frames| frames.count(node)) > 1;
    *(if is_shared { &mut census.shared_nodes } else { &mut census.private_nodes }) += 1;
    let below = if level == Level::One { Level::Two } else { Level::Three };
    for index in 0..ENTRIES {
        match Entry::decode(mem.read(node, index), level) {
            Entry::Absent => {}
            Entry::Lazy(child) | Entry::Table(child) => count(frames, mem, child, below, is_shared, census),
            Entry::Leaf { pa, .. } if level == Level::Three => {
                let is_private = !is_shared && frames.with(|frames| frames.is_exclusive(pa));
                *(if is_private { &mut census.private } else { &mut census.shared }) += 1;
            }
            Entry::Leaf { pa, .. } => {
                let private = if is_shared { 0 } else { frames.with(|frames| private_pages(frames, pa)) };
                census.private += private;
                census.shared += FRAMES_PER_BLOCK as u64 - private;
            }
        }
    }
}

/// Returns how many pages of a block only this one block entry refers to.
fn private_pages(frames: &crate::frames::Frames<'_>, block: Pa) -> u64 {
    if frames.block_count(block) != 1 {
        return 0;
    }
    (0..FRAMES_PER_BLOCK as u64).filter(|page| frames.count(Pa(block.0 + page * PAGE_SIZE)) == 0).count() as u64
}
