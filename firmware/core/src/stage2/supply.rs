//! The frames that a fault needs, taken before anything changes.
//!
//! Before: [`super::promise`], which says whether they may be taken. After: [`super::fault`], which puts them into the tree.

use super::port::{Filled, TableMem};
use super::promise::Account;
use crate::addr::{BLOCK_SIZE, PAGE_SIZE, Pa};
use crate::frames::{FRAMES_PER_BLOCK, Frames, Kind, OutOfMemory};

/// What a new page or block must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Nothing,
    Zeros,
    ZeroBlock,
    Copy(Pa),
}

/// What a fault needs.
pub(super) struct Need {
    pub(super) nodes: usize,
    pub(super) fill: Fill,
}

impl Need {
    const fn frames(&self) -> usize {
        self.nodes
            + match self.fill {
                Fill::Nothing => 0,
                Fill::Zeros | Fill::Copy(_) => 1,
                Fill::ZeroBlock => FRAMES_PER_BLOCK,
            }
    }
}

/// Frames taken for a fault, not yet part of any address space.
#[derive(Default)]
pub(super) struct Supply {
    nodes: [Option<Pa>; 2],
    page: Option<Pa>,
    block: Option<Pa>,
    /// How many of them came out of the promise.
    drawn: usize,
}

impl Supply {
    /// Takes all that is needed or nothing, for copies of what is shared or for memory that is touched for the first time.
    pub(super) fn take(
        frames: &mut Frames<'_>,
        account: &mut Account,
        need: &Need,
        is_copy: bool,
    ) -> Result<Self, OutOfMemory> {
        let mut this = Self { drawn: account.draw(frames, need.frames(), is_copy), ..Self::default() };
        match this.fetch(frames, need) {
            Ok(()) => Ok(this),
            Err(error) => {
                this.release(frames);
                account.refund(frames, this.drawn, this.drawn);
                Err(error)
            }
        }
    }

    fn fetch(&mut self, frames: &mut Frames<'_>, need: &Need) -> Result<(), OutOfMemory> {
        for slot in self.nodes.iter_mut().take(need.nodes) {
            *slot = Some(frames.alloc(Kind::Node)?);
        }
        match need.fill {
            Fill::Nothing => {}
            Fill::Zeros | Fill::Copy(_) => self.page = Some(frames.alloc(Kind::Guest)?),
            Fill::ZeroBlock => self.block = Some(frames.alloc_block()?),
        }
        Ok(())
    }

    pub(super) fn node(&mut self) -> Pa {
        let [first, second] = &mut self.nodes;
        first.take().or_else(|| second.take()).expect("the survey counts every node that the commit takes")
    }

    pub(super) fn page(&mut self) -> Pa {
        self.page.take().expect("the survey sees every page that the commit takes")
    }

    pub(super) const fn has_block(&self) -> bool {
        self.block.is_some()
    }

    pub(super) const fn block(&mut self) -> Option<Pa> {
        self.block.take()
    }

    /// Fills the page or block that was taken.
    pub(super) fn fill(&self, mem: &impl TableMem, fill: Fill) {
        match (self.page, self.block) {
            (Some(page), _) => fill_page(mem, fill, page),
            (_, Some(block)) => {
                mem.zero_block(block);
                mem.sync_for_guest(block, BLOCK_SIZE, Filled::Zeros);
            }
            _ => {}
        }
    }

    /// Gives back what was not used.
    pub(super) fn put_back(&mut self, frames: &mut Frames<'_>, account: &mut Account) {
        let count = self.release(frames);
        account.refund(frames, count, self.drawn);
    }

    /// Frees what is left. Returns how many frames that was.
    fn release(&mut self, frames: &mut Frames<'_>) -> usize {
        let mut count = 0;
        let [first, second] = &mut self.nodes;
        for slot in [first, second, &mut self.page] {
            if let Some(pa) = slot.take() {
                frames.free(pa);
                count += 1;
            }
        }
        if let Some(pa) = self.block.take() {
            frames.put_block(pa);
            count += FRAMES_PER_BLOCK;
        }
        count
    }
}

/// Fills a page that was taken.
pub(super) fn fill_page(mem: &impl TableMem, fill: Fill, page: Pa) {
    match fill {
        Fill::Copy(from) => {
            mem.copy_page(from, page);
            mem.sync_for_guest(page, PAGE_SIZE, Filled::Copy);
        }
        _ => {
            mem.zero_page(page);
            mem.sync_for_guest(page, PAGE_SIZE, Filled::Zeros);
        }
    }
}
