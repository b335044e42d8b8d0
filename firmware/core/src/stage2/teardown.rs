//! Giving an address space back, in steps: work in proportion to what nobody else uses.
//!
//! Before: [`super::AddressSpace`]. After: nothing.

use super::AddressSpace;
use super::entry::{self, ENTRIES, Entry, Level};
use super::identity;
use super::port::{TableMem, Tlb};
use crate::addr::{Ipa, Pa};
use crate::frames::{FrameStore, Frames};

/// What is left of an address space. No TLB knows it any more.
#[derive(Debug)]
#[must_use = "finish it, or frames are lost"]
pub struct Teardown {
    root: Option<Rest>,
    middle: Option<Rest>,
    /// Where the last node of level 2 ends, with RAM.
    end: usize,
    /// Frames that were promised.
    promise: usize,
    /// The identity page may be there still.
    has_identity: bool,
}

/// A node that is being emptied: its entries from `next` to `end`.
#[derive(Debug)]
struct Rest {
    node: Pa,
    next: usize,
    end: usize,
}

impl Rest {
    /// Returns the next entry that is in use.
    fn take(&mut self, mem: &impl TableMem) -> Option<u64> {
        let mut next = self.next;
        let mut raw = 0;
        while next < self.end && raw == 0 {
            raw = mem.read(self.node, next);
            next += 1;
        }
        self.next = next;
        (raw != 0).then_some(raw)
    }
}

impl AddressSpace {
    /// Gives all memory back. No vCPU may run in it. The frames of pinned pages stay until they are unpinned.
    pub fn destroy(self, frames: &impl FrameStore, mem: &impl TableMem, tlb: &impl Tlb) {
        self.into_teardown(tlb).finish(frames, mem);
    }

    /// Prepares to give all memory back by and by. No vCPU may run in it. The VMID may be used anew at once.
    pub fn into_teardown(self, tlb: &impl Tlb) -> Teardown {
        tlb.invalidate_vm();
        let entries = self.root_entries();
        let root = Rest { node: self.root_node(), next: entries.start, end: entries.end };
        let end = Level::Two.index(Ipa(self.ram_end.0 - 1)) + 1;
        Teardown { root: Some(root), middle: None, end, promise: self.promise(), has_identity: true }
    }
}

impl Teardown {
    /// A node of level 2 that an entry pointed to which no TLB knows any more.
    pub(super) const fn of_node(node: Pa) -> Self {
        Self {
            root: None,
            middle: Some(Rest { node, next: 0, end: ENTRIES }),
            end: ENTRIES,
            promise: 0,
            has_identity: false,
        }
    }

    /// Gives all of the rest back.
    pub fn finish(mut self, frames: &impl FrameStore, mem: &impl TableMem) {
        while !self.step(frames, mem) {}
    }

    /// Gives back what hangs off one entry that nobody else uses or, if that is a node, at most what hangs off the 512 entries
    /// of that. Returns true when all is given back.
    pub fn step(&mut self, frames: &impl FrameStore, mem: &impl TableMem) -> bool {
        frames.with(|frames| self.step_locked(frames, mem))
    }

    pub(super) fn step_locked(&mut self, frames: &mut Frames<'_>, mem: &impl TableMem) -> bool {
        frames.unpromise(core::mem::take(&mut self.promise));
        if let Some(middle) = &mut self.middle {
            if middle.next != 0 || frames.release_node(middle.node) {
                while let Some(raw) = middle.take(mem) {
                    if release(frames, mem, raw) {
                        return false;
                    }
                }
                frames.free(middle.node);
            }
            self.middle = None;
            return self.root.is_none();
        }
        let Some(root) = &mut self.root else { return true };
        if core::mem::take(&mut self.has_identity) {
            identity::release(frames, mem, root.node);
        }
        if let Some(raw) = root.take(mem) {
            let end = if root.next == root.end { self.end } else { ENTRIES };
            self.middle = Some(Rest { node: entry::address(raw), next: 0, end });
            return false;
        }
        frames.free(root.node);
        self.root = None;
        true
    }
}

/// Gives back what an entry of a node of level 2 leads to. Returns true if that was more than one reference.
pub(super) fn release(frames: &mut Frames<'_>, mem: &impl TableMem, raw: u64) -> bool {
    match Entry::decode(raw, Level::Two) {
        Entry::Absent => false,
        Entry::Leaf { pa, .. } => {
            frames.put_block(pa);
            true
        }
        Entry::Lazy(node) | Entry::Table(node) => {
            let is_last = frames.release_node(node);
            if is_last {
                frames.put_all(mem.read_all(node));
                frames.free(node);
            }
            is_last
        }
    }
}
