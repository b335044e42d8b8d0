//! Giving an address space back, in steps: work in proportion to what nobody else uses.
//!
//! Before: [`super::AddressSpace`]. After: nothing.

use super::AddressSpace;
use super::entry::{self, ENTRIES, Entry, Level};
use super::port::{TableMem, Tlb};
use crate::addr::Pa;
use crate::frames::{FrameStore, Frames};

/// What is left of an address space. No TLB knows it any more.
#[derive(Debug)]
#[must_use = "finish it, or frames are lost"]
pub struct Teardown {
    /// The node of each level that is being emptied, and the entry to look at next.
    at: [Option<(Pa, usize)>; 2],
}

impl AddressSpace {
    /// Gives all memory back. No vCPU may run in it. The frames of pinned pages stay until they are unpinned.
    pub fn destroy(self, frames: &impl FrameStore, mem: &impl TableMem, tlb: &impl Tlb) {
        self.into_teardown(tlb).finish(frames, mem);
    }

    /// Prepares to give all memory back by and by. No vCPU may run in it. The VMID may be used anew at once.
    pub fn into_teardown(self, tlb: &impl Tlb) -> Teardown {
        tlb.invalidate_vm();
        Teardown { at: [Some((self.root_node(), 0)), None] }
    }
}

impl Teardown {
    /// A node of level 2 that an entry pointed to which no TLB knows any more.
    pub(super) const fn of_node(node: Pa) -> Self {
        Self { at: [None, Some((node, 0))] }
    }

    /// Gives all of the rest back.
    pub fn finish(mut self, frames: &impl FrameStore, mem: &impl TableMem) {
        while !self.step(frames, mem) {}
    }

    /// Gives back what hangs off one entry or, if that is a node, at most what hangs off the 512 entries of that. Returns
    /// true when all is given back.
    pub fn step(&mut self, frames: &impl FrameStore, mem: &impl TableMem) -> bool {
        frames.with(|frames| self.step_locked(frames, mem))
    }

    fn step_locked(&mut self, frames: &mut Frames<'_>, mem: &impl TableMem) -> bool {
        let [one, two] = &mut self.at;
        if let Some((node, next)) = two {
            if *next == 0 && !frames.release_node(*node) {
                *two = None;
                return one.is_none();
            }
            while *next < ENTRIES {
                let raw = mem.read(*node, *next);
                *next += 1;
                match Entry::decode(raw, Level::Two) {
                    Entry::Absent => {}
                    Entry::Leaf { pa, .. } => {
                        frames.put_block(pa);
                        return false;
                    }
                    Entry::Lazy(child) | Entry::Table(child) => {
                        release_pages(frames, mem, child);
                        return false;
                    }
                }
            }
            frames.free(*node);
            *two = None;
            return one.is_none();
        }
        if let Some((node, next)) = one {
            while *next < ENTRIES {
                let raw = mem.read(*node, *next);
                *next += 1;
                if raw != 0 {
                    *two = Some((entry::address(raw), 0));
                    return false;
                }
            }
            frames.free(*node);
            *one = None;
        }
        true
    }
}

/// Gives back one reference to a node of pages, and the pages if it was the last.
fn release_pages(frames: &mut Frames<'_>, mem: &impl TableMem, node: Pa) {
    if !frames.release_node(node) {
        return;
    }
    for index in 0..ENTRIES {
        let raw = mem.read(node, index);
        if raw != 0 {
            frames.put(entry::address(raw));
        }
    }
    frames.free(node);
}
