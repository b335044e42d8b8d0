//! Whose memory is it? Counted by looking, not by keeping books.
//!
//! Before: [`super::AddressSpace`]. After: what is reported of a VM.
//!
//! What is shared is divided: each reference to a frame carries an equal part of it, and what a shared node leads to is
//! divided among the references to the node in the same way. So the parts of all VMs together make up all that they use,
//! each frame once. The boot set, the page of zeros and the merger hold references of their own, whose parts no VM has.

use super::AddressSpace;
use super::entry::{ENTRIES, Entry, Level};
use super::port::TableMem;
use crate::addr::{PAGE_SIZE, Pa};
use crate::frames::{FRAMES_PER_BLOCK, FrameStore};

/// A whole frame in the unit of parts. A part is rounded down once at each level of the tree, so that a page is wrong by
/// less than three units, and 512 GiB of them by less than a quarter of a page.
const WHOLE: u64 = 1 << 32;

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
    /// Its part of what is shared, nodes included, in 2⁻³² frames.
    pub part: u64,
}

impl Census {
    /// Returns what would be needed besides if the address space shared nothing, in bytes: what is shared, less its part.
    pub const fn saved(&self) -> u64 {
        let part = self.part.div_ceil(WHOLE / PAGE_SIZE);
        ((self.shared + self.shared_nodes) * PAGE_SIZE).saturating_sub(part)
    }

    /// Counts a page with so many references, below a node of which a part of this weight is the address space's.
    fn page(&mut self, weight: u64, references: u32) {
        if weight == WHOLE && references == 1 {
            self.private += 1;
        } else {
            self.shared += 1;
            self.part += weight / u64::from(references.max(1));
        }
    }

    /// Counts a node. Returns the weight of what is below.
    fn node(&mut self, weight: u64, references: u32) -> u64 {
        let weight = weight / u64::from(references.max(1));
        if weight == WHOLE {
            self.private_nodes += 1;
        } else {
            self.shared_nodes += 1;
            self.part += weight;
        }
        weight
    }
}

impl AddressSpace {
    /// Counts what the address space uses now. Looks at every entry; takes the frame table's lock node by node. What others
    /// share or give up meanwhile is counted as it is found.
    pub fn census(&self, frames: &impl FrameStore, mem: &impl TableMem) -> Census {
        let mut census = Census::default();
        count(frames, mem, self.root, Level::One, WHOLE, &mut census);
        census
    }
}

fn count(frames: &impl FrameStore, mem: &impl TableMem, node: Pa, level: Level, above: u64, census: &mut Census) {
    let weight = census.node(above, frames.with(|frames| frames.count(node)));
    if level == Level::Three {
        return frames.with(|frames| {
            for raw in mem.read_all(node).flatten() {
                if let Entry::Leaf { pa, .. } = Entry::decode(raw, level) {
                    census.page(weight, frames.references(pa));
                }
            }
        });
    }
    let below = if level == Level::One { Level::Two } else { Level::Three };
    for index in 0..ENTRIES {
        match Entry::decode(mem.read(node, index), level) {
            Entry::Absent => {}
            Entry::Lazy(child) | Entry::Table(child) => count(frames, mem, child, below, weight, census),
            Entry::Leaf { pa, .. } => frames.with(|frames| {
                for page in 0..FRAMES_PER_BLOCK as u64 {
                    census.page(weight, frames.references(Pa(pa.0 + page * PAGE_SIZE)));
                }
            }),
        }
    }
}
