//! Forking and sealing address spaces: work in proportion to root entries.
//!
//! Before: [`super::fault`], which later pays for what is touched. After: the VM's fork, and [`super::revert`].

use super::edit;
use super::entry::{self, ENTRIES, Entry, Level, VALID};
use super::fault::Want;
use super::port::{TableMem, Tlb};
use super::{AddressSpace, Counters};
use crate::addr::{Ipa, Pa};
use crate::frames::{FrameStore, GROUP, Kind, OutOfMemory};
use core::ops::Range;

/// Why an address space cannot be forked. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkError {
    /// No frame is free.
    OutOfMemory,
    /// There are pinned pages that the caller did not name, or named ones that are not pinned.
    Pinned,
}

impl From<OutOfMemory> for ForkError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Tells a child that is never entered from here: nothing to invalidate.
struct NoTlb;

impl Tlb for NoTlb {
    fn invalidate_leaf(&self, _: Ipa, _: Level) {}
    fn invalidate_leaf_local(&self, _: Ipa) {}
    fn invalidate_range(&self, _: Ipa, _: u64) {}
    fn invalidate_vm(&self) {}
}

impl AddressSpace {
    /// Makes a second address space with the same contents. vCPUs of this one must be stopped; they may go on when this
    /// returns. `pinned` names the pinned pages by rising address: the child gets copies of them at once, and this keeps the
    /// frames themselves, writable.
    ///
    /// # Errors
    ///
    /// There is no memory for it, or `pinned` is wrong.
    pub fn fork(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        pinned: &[Ipa],
    ) -> Result<Self, ForkError> {
        self.check_pinned(frames, mem, pinned)?;
        let is_settled = self.version != 0;
        let (root, version) = frames.with(|frames| {
            let version = if self.version == 0 { frames.next_version() } else { self.version };
            Ok::<_, OutOfMemory>((frames.alloc(Kind::Node)?, version))
        })?;
        mem.zero_page(root);
        (self.version, self.base) = (version, version);
        let account = self.account.fork();
        let mut child = Self { root, account, counters: Counters::default(), pinned: 0, ..*self };
        if is_settled {
            self.share_settled(frames, mem, root);
        } else {
            self.share(frames, mem, tlb, root);
        }
        if let Err(OutOfMemory) = self.divide_pinned(&mut child, frames, mem, tlb, pinned) {
            child.destroy(frames, mem, &NoTlb);
            // As it was: the pinned pages are this VM's own, so nothing is needed to make them writable.
            self.reclaim(frames, mem, tlb, pinned).expect("a path of its own");
            return Err(ForkError::OutOfMemory);
        }
        Ok(child)
    }

    /// Shares what root entries lead to with a new root. Those that the MMU walks without a fault on the first write become lazy.
    fn share(&self, frames: &impl FrameStore, mem: &impl TableMem, tlb: &impl Tlb, root: Pa) {
        let mut is_unlinked = false;
        let entries = self.root_entries().map(|index| (index, mem.read(self.root, index)));
        let each = |index, raw, is_sealed: bool| {
            let mut raw = raw;
            if raw & VALID != 0 && !is_sealed {
                raw = entry::unlinked(raw);
                mem.unlink(self.root, index, raw);
                is_unlinked = true;
            }
            mem.write(root, index, raw);
        };
        frames.with(|frames| frames.get_nodes(entries, each));
        if is_unlinked {
            tlb.invalidate_vm();
        }
    }

    /// Does the same for contents that have a version: whatever the MMU walks is sealed, else the first write would change them
    /// without a fault.
    fn share_settled(&self, frames: &impl FrameStore, mem: &impl TableMem, root: Pa) {
        let Range { start, end } = self.root_entries();
        let groups = start / GROUP..end.div_ceil(GROUP);
        // The first entry leads to the identity page, and those beside RAM's nowhere.
        let of_ram = |(number, [first, second, third, fourth]): (usize, [u64; GROUP])| {
            (number, [if number == 0 { 0 } else { first }, second, third, fourth])
        };
        let entries = groups.clone().zip(mem.read_groups(self.root, groups)).map(of_ram);
        frames.with(|frames| frames.get_groups(entries, |number, group| mem.write_group(root, number, group)));
    }

    fn check_pinned(&self, frames: &impl FrameStore, mem: &impl TableMem, pinned: &[Ipa]) -> Result<(), ForkError> {
        let is_pinned = |ipa: &Ipa| {
            self.translate(mem, *ipa).is_some_and(|(pa, _)| frames.with(|frames| frames.pins(pa.page())) != 0)
        };
        let is_rising = pinned.windows(2).all(|pair| pair[0].page() < pair[1].page());
        let is_complete = pinned.len() == self.pinned as usize && is_rising && pinned.iter().all(is_pinned);
        if is_complete { Ok(()) } else { Err(ForkError::Pinned) }
    }

    /// Gives the child its own copies of the pinned pages, and this its own path to them.
    fn divide_pinned(
        &mut self,
        child: &mut Self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        pinned: &[Ipa],
    ) -> Result<(), OutOfMemory> {
        for &ipa in pinned {
            child.resolve(frames, mem, &NoTlb, ipa, Want::WritePage).map_err(|_| OutOfMemory)?;
        }
        self.reclaim(frames, mem, tlb, pinned)
    }

    fn reclaim(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        pinned: &[Ipa],
    ) -> Result<(), OutOfMemory> {
        for &ipa in pinned {
            self.resolve(frames, mem, tlb, ipa, Want::WritePage).map_err(|_| OutOfMemory)?;
        }
        Ok(())
    }

    /// Seals all of it, once: forks made from here on read everything without a fault and cost no invalidation. vCPUs must
    /// be stopped. The first fault of each kind undoes it as needed. Work is in proportion to what is not sealed yet.
    pub fn seal(&mut self, frames: &impl FrameStore, mem: &impl TableMem, tlb: &impl Tlb) {
        let mut is_unlinked = false;
        for index in self.root_entries() {
            let raw = mem.read(self.root, index);
            let node = entry::address(raw);
            if raw & VALID != 0 && !frames.with(|frames| frames.is_sealed(node)) {
                mem.unlink(self.root, index, entry::lazy(node));
                is_unlinked = true;
            }
        }
        if is_unlinked {
            tlb.invalidate_vm();
        }
        for index in self.root_entries() {
            let raw = mem.read(self.root, index);
            if raw == 0 {
                continue;
            }
            let node = entry::address(raw);
            frames.with(|frames| edit::seal(frames, mem, node, Level::Two));
            for below in 0..ENTRIES {
                // Locked anew each time: others that share the node may be linking the same child.
                frames.with(|frames| {
                    if let Entry::Lazy(child) = Entry::decode(mem.read(node, below), Level::Two) {
                        edit::seal(frames, mem, child, Level::Three);
                        mem.publish(node, below, entry::table(child));
                    }
                });
            }
            if raw & VALID == 0 || is_unlinked {
                mem.publish(self.root, index, entry::table(node));
            }
        }
        if self.version == 0 {
            self.version = frames.with(|frames| frames.next_version());
        }
    }

    pub(super) const fn root_node(&self) -> Pa {
        self.root
    }
}
