//! Going back to a snapshot: work in proportion to what was changed since.
//!
//! Before: [`super::fork`], which made the snapshot. After: the VM's revert.
//!
//! Contents have a *version*, a number that is never used twice: an address space gets one when it is forked or sealed and
//! loses it with its first fault. Its *base* is the version that it shared all of when it was forked or reverted last. What
//! it has changed since then is in nodes of its own, whose changed entries are marked in the frame table, 32 by 32. So
//! a VM whose base is the snapshot's version is put right in place: entry by entry where there are marks, and its nodes stay
//! its own, for it is likely to write there again. Otherwise it gives its nodes up and shares the snapshot's.

use super::AddressSpace;
use super::entry::{self, ENTRIES, Entry, Level, MemAttr, VALID, WRITABLE};
use super::port::{TableMem, Tlb};
use super::teardown::{self, Teardown};
use crate::addr::{PAGE_SIZE, Pa};
use crate::frames::{FrameStore, Frames, GROUP, Kind, MARKS};
use core::ops::Range;

/// Why an address space cannot be reverted. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevertError {
    /// The state to go back to is not sealed, or of another shape.
    NotASnapshot,
    /// Pages of one of the two are pinned.
    Pinned,
}

/// How many groups of entries a mark stands for.
const GROUPS_PER_MARK: usize = ENTRIES / GROUP / MARKS;

impl AddressSpace {
    /// Goes back to the contents of a sealed address space that this one was forked from, or that was forked from it.
    /// vCPUs must be stopped. Takes no memory; work is in proportion to what was changed, or, if this one was not forked from
    /// just these contents or reverted to them last, to what is private.
    ///
    /// # Errors
    ///
    /// The other one is not sealed, or pages of one of them are pinned.
    pub fn revert(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        snapshot: &Self,
    ) -> Result<(), RevertError> {
        if self.pinned != 0 || snapshot.pinned != 0 {
            return Err(RevertError::Pinned);
        }
        if self.ram() != snapshot.ram() {
            return Err(RevertError::NotASnapshot);
        }
        let is_sealed = |index| {
            let raw = mem.read(snapshot.root, index);
            raw & VALID == 0 || frames.with(|frames| frames.is_sealed(entry::address(raw)))
        };
        if !self.root_entries().all(is_sealed) {
            return Err(RevertError::NotASnapshot);
        }
        // Break all (a lazy entry remembers what was there), forget, make all. What is the same in both stays.
        for index in self.root_entries() {
            let (own, other) = (mem.read(self.root, index), mem.read(snapshot.root, index));
            if own & VALID != 0 && differs(own, other) != 0 {
                mem.unlink(self.root, index, entry::unlinked(own));
            }
        }
        tlb.invalidate_vm();
        let is_base = self.base != 0 && self.base == snapshot.version;
        for index in self.root_entries() {
            let (own, other) = (mem.read(self.root, index), mem.read(snapshot.root, index));
            let new = if differs(own, other) == 0 {
                // A sealed node may be valid here too.
                own | other & VALID
            } else if is_base && own != 0 && other != 0 && self.is_own(frames, entry::address(own)) {
                self.restore(frames, mem, entry::address(own), entry::address(other));
                entry::table(entry::address(own))
            } else {
                self.exchange(frames, mem, own, other);
                other
            };
            if new != own {
                mem.publish(self.root, index, new);
            }
        }
        self.account.become_like(&snapshot.account);
        (self.version, self.base) = (snapshot.version, snapshot.version);
        Ok(())
    }

    fn is_own(&self, frames: &impl FrameStore, node: Pa) -> bool {
        frames.with(|frames| !frames.is_shared_node(node))
    }

    /// Gives up what a root entry leads to, and shares what the other one does.
    fn exchange(&mut self, frames: &impl FrameStore, mem: &impl TableMem, own: u64, other: u64) {
        if other != 0 {
            frames.with(|frames| frames.get(entry::address(other)));
        }
        if own != 0 {
            let mut rest = Teardown::of_node(entry::address(own));
            while !self.giving_back(frames, |frames| rest.step_locked(frames, mem)) {}
        }
    }

    /// Puts a node of level 2 right that no MMU reaches: what is below it becomes as it is below `other`. The frame table is
    /// locked anew for each entry.
    fn restore(&mut self, frames: &impl FrameStore, mem: &impl TableMem, node: Pa, other: Pa) {
        let marks = frames.with(|frames| frames.take_marks(node));
        for groups in marked_groups(marks) {
            let theirs = mem.read_groups(other, groups.clone());
            for_each_difference(mem, node, groups, theirs, |index, own, theirs| {
                let attr = self.attr;
                self.giving_back(frames, |frames| restore_entry(frames, mem, attr, node, index, own, theirs));
            });
        }
        frames.with(|frames| frames.set_sealed(node, true));
    }

    /// Does something that gives memory back. What came out of the promise goes back into it.
    fn giving_back<R>(&mut self, frames: &impl FrameStore, f: impl FnOnce(&mut Frames<'_>) -> R) -> R {
        frames.with(|frames| {
            let free = frames.stats().frames(Kind::Free);
            let result = f(frames);
            let freed = frames.stats().frames(Kind::Free) - free;
            self.account.refund(frames, freed, freed);
            result
        })
    }
}

/// Puts an entry of a node of level 2 right: in place, if it leads to a node of the VM's own.
fn restore_entry(
    frames: &mut Frames<'_>,
    mem: &impl TableMem,
    attr: MemAttr,
    node: Pa,
    index: usize,
    own: u64,
    theirs: u64,
) {
    let own_child = match Entry::decode(own, Level::Two) {
        Entry::Lazy(child) | Entry::Table(child) if !frames.is_shared_node(child) => Some(child),
        _ => None,
    };
    match (own_child, Entry::decode(theirs, Level::Two)) {
        (Some(child), Entry::Lazy(their_child) | Entry::Table(their_child)) => {
            restore_pages(frames, mem, child, |groups| mem.read_groups(their_child, groups));
        }
        (Some(child), Entry::Leaf { pa, .. }) => {
            restore_pages(frames, mem, child, |groups| pages_of_block(pa, attr, groups));
        }
        (_, decoded) => {
            match decoded {
                Entry::Absent => {}
                Entry::Leaf { pa, .. } => frames.get_block(pa),
                Entry::Lazy(child) | Entry::Table(child) => frames.get(child),
            }
            teardown::release(frames, mem, own);
            return mem.write(node, index, theirs);
        }
    }
    // It stays the VM's own, and differs.
    frames.mark(node, index);
    mem.write(node, index, entry::table(entry::address(own)));
}

/// Puts a node of pages right that no MMU reaches; `theirs` gives the groups of entries that it must have.
fn restore_pages<I: Iterator<Item = [u64; GROUP]>>(
    frames: &mut Frames<'_>,
    mem: &impl TableMem,
    node: Pa,
    theirs: impl Fn(Range<usize>) -> I,
) {
    let marks = frames.take_marks(node);
    for groups in marked_groups(marks) {
        let theirs = theirs(groups.clone());
        for_each_difference(mem, node, groups, theirs, |index, own, theirs| {
            if theirs != 0 {
                frames.get_page(entry::address(theirs));
            }
            if own != 0 {
                frames.put(entry::address(own));
            }
            mem.write(node, index, theirs);
        });
    }
    frames.set_sealed(node, true);
}

/// Returns the groups of entries that each of these marks stands for.
fn marked_groups(mut marks: u16) -> impl Iterator<Item = Range<usize>> {
    core::iter::from_fn(move || {
        let mark = marks.trailing_zeros() as usize;
        marks &= marks.wrapping_sub(1);
        (mark < MARKS).then_some(mark * GROUPS_PER_MARK..(mark + 1) * GROUPS_PER_MARK)
    })
}

/// Returns the entries of a node that maps a shared block by pages.
fn pages_of_block(block: Pa, attr: MemAttr, groups: Range<usize>) -> impl Iterator<Item = [u64; GROUP]> {
    let first = Pa(block.0 + (groups.start * GROUP) as u64 * PAGE_SIZE);
    let mut next = entry::leaf(first, Level::Three, attr, false);
    groups.map(move |_| {
        let first = next;
        next += GROUP as u64 * PAGE_SIZE;
        [first, first + PAGE_SIZE, first + 2 * PAGE_SIZE, first + 3 * PAGE_SIZE]
    })
}

/// Returns zero if two entries lead to the same.
const fn differs(own: u64, other: u64) -> u64 {
    (own ^ other) & !(VALID | WRITABLE)
}

/// Calls `f` with the place and both entries where one in these groups leads elsewhere than `theirs`.
fn for_each_difference(
    mem: &impl TableMem,
    node: Pa,
    groups: Range<usize>,
    theirs: impl Iterator<Item = [u64; GROUP]>,
    mut f: impl FnMut(usize, u64, u64),
) {
    let start = groups.start;
    for (number, ([a, b, c, d], [p, q, r, s])) in mem.read_groups(node, groups).zip(theirs).enumerate() {
        if differs(a, p) | differs(b, q) | differs(c, r) | differs(d, s) == 0 {
            continue;
        }
        let first = (start + number) * GROUP;
        for (offset, (own, theirs)) in [(a, p), (b, q), (c, r), (d, s)].into_iter().enumerate() {
            if differs(own, theirs) != 0 {
                f(first + offset, own, theirs);
            }
        }
    }
}
