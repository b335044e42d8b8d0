//! Honest overcommit: what an address space may count on when memory runs out.
//!
//! Before: [`crate::frames`], which keeps promised frames free. After: [`super::fault`], which draws on the promise, and the
//! VM's owner, who makes it.
//!
//! Sharing is a debt: what a fork shares may have to be copied later, when no frame is free. A *promise* is a number of free
//! frames that only this address space may take. One without a promise may take what is not promised. Copies are taken out
//! of the promise; so is memory that the VM touches for the first time, but of that part only which exceeds what may have
//! to be copied, as long as there is other memory. So a source that was promised what its fork may make it copy gets all of
//! its memory back, whatever its clones do. Frames that came out of the promise and are given back go back into it.

use super::AddressSpace;
use super::entry::Level;
use super::identity::IDENTITY_FRAMES;
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{FrameStore, Frames, Kind, OutOfMemory};

/// What an address space owes and is promised, in frames.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// Set aside for it.
    promise: usize,
    /// Taken out of the promise since it was made, and not given back.
    drawn: usize,
    /// Frames of guest memory and nodes that RAM is made of, written by the VM or by those it was forked from. Boot images,
    /// the page of zeros and the root are no part of it.
    owned: usize,
    /// Of these, so many at most were shared by a fork since they were last the VM's own.
    shared: usize,
}

impl Account {
    /// Returns what a hand-over has of it.
    pub(super) const fn record(&self) -> [u64; 4] {
        [self.promise as u64, self.drawn as u64, self.owned as u64, self.shared as u64]
    }

    /// Returns the one in a record. `None` if more is promised than the machine has promised.
    pub(super) fn restored(frames: &Frames<'_>, record: [u64; 4]) -> Option<Self> {
        let [promise, drawn, owned, shared] = record.map(|count| count as usize);
        (promise <= frames.stats().promised).then_some(Self { promise, drawn, owned, shared })
    }

    /// Takes the promise of so many frames back as far as they come out of it, so that they can be taken. Returns how many
    /// those are.
    #[inline]
    pub(super) fn draw(&mut self, frames: &mut Frames<'_>, count: usize, is_copy: bool) -> usize {
        if self.promise == 0 { 0 } else { self.draw_some(frames, count, is_copy) }
    }

    /// Takes one page for a guest.
    #[inline]
    pub(super) fn take_page(&mut self, frames: &mut Frames<'_>, is_copy: bool) -> Result<Pa, OutOfMemory> {
        // What was drawn is there to be taken.
        self.draw(frames, 1, is_copy);
        frames.alloc(Kind::Guest)
    }

    /// Takes a node for memory that is there already.
    pub(super) fn take_node(&mut self, frames: &mut Frames<'_>) -> Result<Pa, OutOfMemory> {
        self.draw(frames, 1, false);
        frames.alloc(Kind::Node)
    }

    fn draw_some(&mut self, frames: &mut Frames<'_>, count: usize, is_copy: bool) -> usize {
        let kept = if is_copy { 0 } else { self.shared };
        let mut drawn = self.promise.saturating_sub(kept).min(count);
        if count - drawn > frames.unpromised() {
            drawn = self.promise.min(count);
        }
        frames.unpromise(drawn);
        self.promise -= drawn;
        self.drawn += drawn;
        drawn
    }

    /// Returns true if a draw of so many frames for memory that is touched for the first time leaves alone what may have to
    /// be copied.
    pub(super) fn can_spare(&self, frames: &Frames<'_>, count: usize) -> bool {
        frames.unpromised() + self.promise.saturating_sub(self.shared) >= count
    }

    /// So many frames have just been given back, of which at most `drawn` came out of the promise.
    pub(super) fn refund(&mut self, frames: &mut Frames<'_>, count: usize, drawn: usize) {
        let back = count.min(drawn).min(self.drawn);
        // They are free now, so this works; if not, less is promised than was.
        if back != 0 && frames.promise(back).is_ok() {
            self.promise += back;
            self.drawn -= back;
        }
    }

    /// So many frames were written that were not there before.
    #[inline]
    pub(super) const fn own(&mut self, count: usize) {
        self.owned += count;
    }

    /// So many frames are gone from the RAM.
    pub(super) const fn lose(&mut self, count: usize) {
        self.owned = self.owned.saturating_sub(count);
    }

    /// So many frames are shared that were not.
    pub(super) const fn share(&mut self, count: usize) {
        self.shared += count;
    }

    /// Returns true if the address space was promised something, taken or not.
    pub(super) const fn is_promised(&self) -> bool {
        self.promise + self.drawn != 0
    }

    /// So many frames became the VM's own again.
    #[inline]
    pub(super) const fn unshare(&mut self, count: usize) {
        self.shared = self.shared.saturating_sub(count);
    }

    /// Everything is shared from now on with one that has the same contents. Returns its account.
    pub(super) const fn fork(&mut self) -> Self {
        self.shared = self.owned;
        Self { promise: 0, drawn: 0, owned: self.owned, shared: self.owned }
    }

    /// Everything is shared from now on with `other`.
    pub(super) const fn become_like(&mut self, other: &Self) {
        self.owned = other.owned;
        self.shared = other.owned;
    }
}

impl AddressSpace {
    /// Returns how many frames are set aside for this address space and not taken yet.
    pub const fn promise(&self) -> usize {
        self.account.promise
    }

    /// Sets so many frames aside for this address space from now on, instead of those that are.
    ///
    /// # Errors
    ///
    /// The machine cannot promise so many; nothing has changed then.
    pub fn set_promise(&mut self, frames: &impl FrameStore, count: usize) -> Result<(), OutOfMemory> {
        let now = self.account.promise;
        frames.with(|frames| {
            if count > now {
                frames.promise(count - now)?;
            } else {
                frames.unpromise(now - count);
            }
            Ok(())
        })?;
        self.account.promise = count;
        self.account.drawn = 0;
        Ok(())
    }

    /// Returns of how many frames the RAM is made that the VM, or those it was forked from, have written: guest memory and
    /// the nodes that lead to it, shared or not.
    pub const fn owned_pages(&self) -> usize {
        self.account.owned
    }

    /// Returns how many frames must be set aside for this address space so that a fork of it, now, takes nothing from it: at
    /// most so many it may have to copy, and what it was promised before stays promised. An upper bound: what becomes its
    /// own again because clones have died needs no copy, so set less aside when the clones are gone.
    pub fn fork_promise(&self) -> usize {
        (self.account.promise + self.account.owned).min(self.full_promise())
    }

    /// Returns how many frames this address space may have to copy because of forks that were made, at most.
    pub const fn shared_pages(&self) -> usize {
        self.account.shared
    }

    /// Returns how many frames all of the RAM is made of, if it is mapped by pages, and the identity page: with so many
    /// set aside, an address space that shares everything never lacks memory.
    pub fn full_promise(&self) -> usize {
        let nodes = |size: u64| ((self.ram_end.0 - 1) / size - self.ram_start.0 / size + 1) as usize;
        let pages = ((self.ram_end.0 - self.ram_start.0) / PAGE_SIZE) as usize;
        pages + nodes(BLOCK_SIZE) + nodes(Level::One.entry_size()) + IDENTITY_FRAMES
    }

    /// Returns true if what lies at this address may be shared by a fork.
    #[inline]
    pub(super) const fn is_forked(&self, ipa: Ipa) -> bool {
        ipa.0 >= self.ram_start.0
    }
}
