//! How entries are changed: one edit of one path, and the two operations on whole nodes.
//!
//! Before: [`super::entry`]. After: [`super::fault`], which decides what to change.

use super::entry::{self, ENTRIES, Level, TABLE_OR_PAGE, VALID, WRITABLE};
use super::port::{TableMem, Tlb};
use crate::addr::{Ipa, Pa};
use crate::frames::Frames;

/// An entry of a live node that gets its new value when everything below is in place.
struct Pending {
    node: Pa,
    index: usize,
    level: Level,
    old: u64,
    new: u64,
}

/// A change along the path to one address. New nodes are filled while no MMU can reach them; the topmost entry that leads
/// to them is replaced last, and there is at most one break-before-make in an edit.
pub(super) struct Edit<'a, M, T> {
    mem: &'a M,
    tlb: &'a T,
    ipa: Ipa,
    pending: Option<Pending>,
}

impl<'a, M: TableMem, T: Tlb> Edit<'a, M, T> {
    pub(super) fn new(mem: &'a M, tlb: &'a T, ipa: Ipa) -> Self {
        Self { mem, tlb, ipa, pending: None }
    }

    /// Links a new node, now or (if it hangs off a live one) at the end: what is stored from here on is below it.
    pub(super) fn link_new(&mut self, node: Pa, index: usize, level: Level, old: u64, child: Pa) {
        let new = entry::table(child);
        if self.pending.is_some() {
            self.mem.write(node, index, new);
        } else {
            self.pending = Some(Pending { node, index, level, old, new });
        }
    }

    /// Changes an entry.
    pub(super) fn store(&mut self, node: Pa, index: usize, level: Level, old: u64, new: u64) {
        if self.pending.is_some() {
            self.mem.write(node, index, new);
        } else {
            replace(self.mem, self.tlb, self.ipa, &Pending { node, index, level, old, new });
        }
    }

    /// Makes a leaf writable. Only the permission changes, which needs no break (Arm ARM D8.16.1); but a TLB may have
    /// kept the old one and would go on faulting.
    pub(super) fn make_writable(&mut self, node: Pa, index: usize, old: u64) {
        if self.pending.is_some() {
            self.mem.write(node, index, old | WRITABLE);
        } else {
            self.mem.publish(node, index, old | WRITABLE);
            self.tlb.invalidate_leaf_local(self.ipa);
        }
    }

    /// Nothing to change: the entry allows what this CPU's TLB may not know yet.
    pub(super) fn forget_local(&mut self) {
        if self.pending.is_none() {
            self.tlb.invalidate_leaf_local(self.ipa);
        }
    }

    /// Makes the change visible. After this no TLB remembers what was there before.
    pub(super) fn finish(self) {
        if let Some(pending) = &self.pending {
            replace(self.mem, self.tlb, self.ipa, pending);
        }
    }
}

/// Gives an entry of a live node another meaning: break, make the TLBs forget, make (Arm ARM D8.16.1). Nothing else
/// changes where a valid entry points to.
fn replace<M: TableMem, T: Tlb>(mem: &M, tlb: &T, ipa: Ipa, change: &Pending) {
    let &Pending { node, index, level, old, new } = change;
    if old & VALID != 0 {
        mem.publish(node, index, 0);
        match entry::Entry::decode(old, level) {
            entry::Entry::Table(_) => {
                let size = level.entry_size();
                tlb.invalidate_range(Ipa(ipa.0 & !(size - 1)), size);
            }
            _ => tlb.invalidate_leaf(ipa, level),
        }
    }
    mem.publish(node, index, new);
}

/// Seals a node that no MMU can reach, if it is not sealed yet: its leaves become read-only, and those of its children
/// lazy that are not sealed.
pub(super) fn seal<M: TableMem>(frames: &mut Frames<'_>, mem: &M, node: Pa, level: Level) {
    if frames.is_sealed(node) {
        return;
    }
    frames.set_sealed(node, true);
    if level == Level::Three {
        // Leaves, and absent ones, to which it does nothing.
        return mem.clear_all(node, WRITABLE);
    }
    for index in 0..ENTRIES {
        let old = mem.read(node, index);
        let new = match entry::Entry::decode(old, level) {
            entry::Entry::Table(child) if !frames.is_sealed(child) => entry::lazy(child),
            entry::Entry::Leaf { .. } => old & !WRITABLE,
            _ => continue,
        };
        mem.write(node, index, new);
    }
}

/// Makes `to` a copy of the sealed node `from`: whatever the entries point to has one reference more.
pub(super) fn copy<M: TableMem>(frames: &mut Frames<'_>, mem: &M, from: Pa, to: Pa, level: Level) {
    mem.copy_page(from, to);
    frames.set_sealed(to, true);
    if level == Level::Three {
        return frames.get_all(mem.read_all(to));
    }
    for index in 0..ENTRIES {
        let raw = mem.read(to, index);
        if raw & TABLE_OR_PAGE != 0 {
            // A node below, lazy or not.
            frames.get(entry::address(raw));
        } else if raw != 0 {
            frames.get_block(entry::address(raw));
        }
    }
}
