//! What happens when a guest touches memory that the MMU does not let it touch: the one place that makes memory.
//!
//! Before: [`super::edit`] and [`super::supply`]. After: [`super::access`] and the VM's abort handler.
//!
//! Three steps: *plan*, take the frames that are needed (frame table locked), *fill* the page or block (not locked),
//! *commit*. If the path is the VM's own, which is usual, the commit is one entry. Else it locks the frame table again,
//! walks down and edits. In between other VMs may have stopped sharing what is on the path, so that less is needed than
//! was taken, never more: what is left over goes back.

use super::edit::{self, Edit};
use super::entry::{self, Entry, Level, WRITABLE};
use super::port::{TableMem, Tlb};
use super::supply::{self, Fill, Need, Supply};
use super::{AddressSpace, Policy};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{FRAMES_PER_BLOCK, FrameStore, Frames, Kind, OutOfMemory};

/// What the guest wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read data, or a table walk of its own.
    Read,
    /// Write data.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// How a fault was resolved: the guest may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Nothing was to be done: another vCPU was faster.
    Spurious,
    /// A lazy entry was made valid.
    Linked,
    /// A page or block that is the VM's own again was made writable.
    Reclaimed,
    /// The page of zeros was mapped.
    ZeroMapped,
    /// A new page of zeros was mapped.
    Zeroed,
    /// A new block of zeros was mapped.
    ZeroedBlock,
    /// A private copy of the page was mapped.
    Copied,
}

/// Why a fault cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no memory at this address.
    OutsideRam,
    /// No frame is free. Nothing has changed; trying again later is right.
    OutOfMemory,
}

impl From<OutOfMemory> for Fault {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// What an address must be good for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Read,
    Write,
    /// Written, and mapped by a page and not by a block.
    WritePage,
}

/// An entry of a node that is the VM's own, and what is in it.
struct OwnEntry {
    node: Pa,
    index: usize,
    raw: u64,
}

/// How a fault goes on after the first look.
enum Plan {
    /// It is resolved.
    Done(Resolved),
    /// A page was taken: fill it and put it there.
    Page { own: OwnEntry, fill: Fill, page: Pa },
    /// A page or block, and perhaps nodes, were taken: fill it and commit.
    Path(Fill, Supply),
}

impl AddressSpace {
    /// Makes the address good for the access, if there is memory: zeros on first touch, a private copy on the first write to
    /// what is shared. The guest then tries again.
    ///
    /// # Errors
    ///
    /// The VM has no memory there, or the machine none for it; nothing has changed then.
    pub fn fault(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        access: Access,
    ) -> Result<Resolved, Fault> {
        let want = if access == Access::Write { Want::Write } else { Want::Read };
        self.resolve(frames, mem, tlb, ipa, want)
    }

    pub(super) fn resolve(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        want: Want,
    ) -> Result<Resolved, Fault> {
        if !self.is_memory(ipa) {
            return Err(Fault::OutsideRam);
        }
        let ipa = ipa.page();
        if self.is_forked(ipa) {
            self.version = 0;
        }
        let plan = frames.with(|frames| self.plan(frames, mem, tlb, ipa, want))?;
        let resolved = match plan {
            Plan::Done(resolved) => resolved,
            Plan::Page { own, fill, page } => {
                supply::fill_page(mem, fill, page);
                self.commit_page(frames, mem, tlb, ipa, &own, page)
            }
            Plan::Path(fill, mut supply) => {
                supply.fill(mem, fill);
                frames.with(|frames| self.commit(frames, mem, tlb, ipa, want, &mut supply))
            }
        };
        self.count_event(resolved);
        Ok(resolved)
    }

    /// Does what can be done at once; else takes the frames that are needed.
    fn plan(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        want: Want,
    ) -> Result<Plan, OutOfMemory> {
        let Some([middle, bottom]) = self.own_path(frames, mem, ipa) else {
            let is_block_wanted = self.policy == Policy::Blocks
                && want != Want::WritePage
                && frames.blocks_are_plentiful()
                && self.account.can_spare(frames, FRAMES_PER_BLOCK + 1);
            let need = self.survey(frames, mem, ipa, want, is_block_wanted);
            let is_copy = want != Want::Read && !matches!(need.fill, Fill::Zeros | Fill::ZeroBlock);
            let mut supply = Supply::take(frames, &mut self.account, &need, is_copy)?;
            return Ok(match need.fill {
                Fill::Nothing => Plan::Done(self.commit(frames, mem, tlb, ipa, want, &mut supply)),
                fill => Plan::Path(fill, supply),
            });
        };
        // The usual case: only the leaf is missing, and nobody else can change what leads to it.
        let index = Level::Three.index(ipa);
        let raw = mem.read(bottom, index);
        let mut edit = Edit::new(mem, tlb, ipa);
        if raw & WRITABLE != 0 {
            edit.forget_local();
            return Ok(Plan::Done(Resolved::Spurious));
        }
        if want == Want::Read {
            return Ok(Plan::Done(self.map_zero(frames, &mut edit, bottom, index, raw).unwrap_or(Resolved::Spurious)));
        }
        let pa = entry::address(raw);
        let plan = if raw != 0 && frames.is_exclusive(pa) {
            edit.make_writable(bottom, index, raw);
            self.account.unshare(1);
            Plan::Done(Resolved::Reclaimed)
        } else {
            let is_copy = raw != 0 && Some(pa) != frames.zero_page();
            let fill = if is_copy { Fill::Copy(pa) } else { Fill::Zeros };
            let page = self.account.take_page(frames, is_copy)?;
            Plan::Page { own: OwnEntry { node: bottom, index, raw }, fill, page }
        };
        if frames.set_changed(bottom, index) {
            // What links a node that is not sealed is not sealed either.
            frames.set_sealed(middle, false);
        }
        Ok(plan)
    }

    /// Returns the nodes on the way to a page if they are this VM's own and the MMU walks them.
    #[inline]
    fn own_path(&self, frames: &Frames<'_>, mem: &impl TableMem, ipa: Ipa) -> Option<[Pa; 2]> {
        let own = |node, level: Level| match Entry::decode(mem.read(node, level.index(ipa)), level) {
            Entry::Table(child) if !frames.is_shared_node(child) => Some(child),
            _ => None,
        };
        let middle = own(self.root, Level::One)?;
        Some([middle, own(middle, Level::Two)?])
    }

    /// Puts a new page where nothing, or a page to be copied, was. The frame table is needed only to give that back.
    fn commit_page(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        own: &OwnEntry,
        page: Pa,
    ) -> Resolved {
        let new = entry::leaf(page, Level::Three, self.attr, true);
        Edit::new(mem, tlb, ipa).store(own.node, own.index, Level::Three, own.raw, new);
        if own.raw == 0 {
            self.own(ipa, 1);
            return Resolved::Zeroed;
        }
        let old = entry::address(own.raw);
        let (kind, _) = frames.with(|frames| frames.put_page(old));
        self.replaced(ipa, kind)
    }

    /// So many frames became the VM's own at an address where it had none.
    #[inline]
    const fn own(&mut self, ipa: Ipa, count: usize) {
        if self.is_forked(ipa) {
            self.account.own(count);
        }
    }

    /// A page of this kind was replaced by one of the VM's own.
    #[inline]
    fn replaced(&mut self, ipa: Ipa, kind: Kind) -> Resolved {
        if kind == Kind::Guest {
            self.account.unshare(1);
        } else {
            self.own(ipa, 1);
        }
        if kind == Kind::Zero { Resolved::Zeroed } else { Resolved::Copied }
    }

    fn count_event(&mut self, resolved: Resolved) {
        let counters = &mut self.counters;
        let counter = match resolved {
            Resolved::Spurious => &mut counters.spurious,
            Resolved::Linked => &mut counters.linked,
            Resolved::Reclaimed => &mut counters.reclaimed,
            Resolved::ZeroMapped => &mut counters.zero_mapped,
            Resolved::Zeroed => &mut counters.zeroed_pages,
            Resolved::ZeroedBlock => &mut counters.zeroed_blocks,
            Resolved::Copied => &mut counters.copied_pages,
        };
        *counter = counter.wrapping_add(1);
    }

    /// Maps the page of zeros if nothing is mapped.
    fn map_zero<M: TableMem, T: Tlb>(
        &self,
        frames: &mut Frames<'_>,
        edit: &mut Edit<'_, M, T>,
        node: Pa,
        index: usize,
        raw: u64,
    ) -> Option<Resolved> {
        if raw != 0 {
            return None;
        }
        let zero = frames.zero_page().expect("made with the first address space");
        frames.get(zero);
        edit.store(node, index, Level::Three, raw, entry::leaf(zero, Level::Three, self.attr, false));
        Some(Resolved::ZeroMapped)
    }

    /// Finds out what the commit will need, at most. Changes nothing.
    fn survey(&self, frames: &Frames<'_>, mem: &impl TableMem, ipa: Ipa, want: Want, is_block_wanted: bool) -> Need {
        let is_write = want != Want::Read;
        let mut node = self.root;
        let mut nodes = 0;
        let mut is_shared = false;
        for level in [Level::One, Level::Two] {
            match Entry::decode(mem.read(node, level.index(ipa)), level) {
                Entry::Absent => {
                    nodes += usize::from(level == Level::One);
                    // Not below a shared node: another VM may put pages of zeros there before the commit.
                    if is_block_wanted && !is_shared && self.is_ram_block(ipa) {
                        return Need { nodes, fill: Fill::ZeroBlock };
                    }
                    return Need { nodes: nodes + 1, fill: if is_write { Fill::Zeros } else { Fill::Nothing } };
                }
                Entry::Lazy(child) | Entry::Table(child) => {
                    is_shared = is_shared || frames.is_shared_node(child);
                    nodes += usize::from(is_write && is_shared);
                    node = child;
                }
                Entry::Leaf { .. } if !is_write => return Need { nodes, fill: Fill::Nothing },
                Entry::Leaf { pa, .. } => {
                    if !is_shared && frames.is_exclusive_block(pa) {
                        return Need { nodes: nodes + usize::from(want == Want::WritePage), fill: Fill::Nothing };
                    }
                    return Need { nodes: nodes + 1, fill: Fill::Copy(page_of_block(pa, ipa)) };
                }
            }
        }
        let fill = match Entry::decode(mem.read(node, Level::Three.index(ipa)), Level::Three) {
            _ if !is_write => Fill::Nothing,
            Entry::Leaf { pa, .. } if Some(pa) == frames.zero_page() => Fill::Zeros,
            Entry::Leaf { pa, .. } if is_shared || !frames.is_exclusive(pa) => Fill::Copy(pa),
            Entry::Leaf { .. } => Fill::Nothing,
            _ => Fill::Zeros,
        };
        Need { nodes, fill }
    }

    /// Walks down and edits. Cannot fail.
    fn commit<M: TableMem, T: Tlb>(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &M,
        tlb: &T,
        ipa: Ipa,
        want: Want,
        supply: &mut Supply,
    ) -> Resolved {
        let mut edit = Edit::new(mem, tlb, ipa);
        let (resolved, released) = if want == Want::Read && !supply.has_block() {
            (self.commit_read(frames, mem, &mut edit, ipa, supply), None)
        } else {
            self.commit_write(frames, mem, &mut edit, ipa, want, supply)
        };
        edit.finish();
        if let Some(page) = released {
            frames.put(page);
        }
        supply.put_back(frames, &mut self.account);
        resolved
    }

    /// Makes the path valid and an absent page the page of zeros. Nodes may stay shared: nothing here changes a byte that
    /// any VM reads.
    fn commit_read<M: TableMem, T: Tlb>(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &M,
        edit: &mut Edit<'_, M, T>,
        ipa: Ipa,
        supply: &mut Supply,
    ) -> Resolved {
        let mut resolved = Resolved::Spurious;
        let mut node = self.root;
        let mut is_shared = false;
        for (level, below) in [(Level::One, Level::Two), (Level::Two, Level::Three)] {
            let index = level.index(ipa);
            let raw = mem.read(node, index);
            node = match Entry::decode(raw, level) {
                Entry::Absent => {
                    let fresh = supply.node();
                    self.own(ipa, 1);
                    mem.zero_page(fresh);
                    frames.set_sealed(fresh, true);
                    frames.mark(node, index);
                    edit.link_new(node, index, level, raw, fresh);
                    fresh
                }
                Entry::Table(child) => {
                    is_shared = is_shared || frames.is_shared_node(child);
                    child
                }
                Entry::Lazy(child) => {
                    is_shared = is_shared || frames.is_shared_node(child);
                    if is_shared {
                        edit::seal(frames, mem, child, below);
                    } else if !frames.is_sealed(child) {
                        frames.set_sealed(node, false);
                    }
                    edit.store(node, index, level, raw, entry::table(child));
                    resolved = Resolved::Linked;
                    child
                }
                Entry::Leaf { .. } => return resolved,
            };
        }
        let index = Level::Three.index(ipa);
        let raw = mem.read(node, index);
        self.map_zero(frames, edit, node, index, raw).unwrap_or(resolved)
    }

    /// Makes the path the VM's own, and the leaf. Returns also the page that the leaf pointed to before, to be given back
    /// when the edit is finished.
    fn commit_write<M: TableMem, T: Tlb>(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &M,
        edit: &mut Edit<'_, M, T>,
        ipa: Ipa,
        want: Want,
        supply: &mut Supply,
    ) -> (Resolved, Option<Pa>) {
        let mut resolved = Resolved::Spurious;
        let mut node = self.root;
        for (level, below) in [(Level::One, Level::Two), (Level::Two, Level::Three)] {
            let index = level.index(ipa);
            let raw = mem.read(node, index);
            node = match Entry::decode(raw, level) {
                Entry::Absent
                    if level == Level::Two
                        && let Some(block) = supply.block() =>
                {
                    self.own(ipa, FRAMES_PER_BLOCK);
                    frames.mark(node, index);
                    edit.store(node, index, level, raw, entry::leaf(block, level, self.attr, true));
                    return (Resolved::ZeroedBlock, None);
                }
                Entry::Absent => {
                    let fresh = supply.node();
                    self.own(ipa, 1);
                    mem.zero_page(fresh);
                    frames.mark(node, index);
                    edit.link_new(node, index, level, raw, fresh);
                    fresh
                }
                Entry::Lazy(child) | Entry::Table(child) if frames.is_shared_node(child) => {
                    let fresh = supply.node();
                    edit::seal(frames, mem, child, below);
                    edit::copy(frames, mem, child, fresh, below);
                    frames.mark(node, index);
                    edit.link_new(node, index, level, raw, fresh);
                    // Under the frame table's lock until the TLBs have forgotten it, and others use it anyway.
                    let is_last = frames.release_node(child);
                    assert!(!is_last, "a shared node has other users");
                    self.account.unshare(1);
                    self.counters.copied_nodes = self.counters.copied_nodes.wrapping_add(1);
                    fresh
                }
                Entry::Table(child) => child,
                Entry::Lazy(child) => {
                    edit.store(node, index, level, raw, entry::table(child));
                    resolved = Resolved::Linked;
                    child
                }
                Entry::Leaf { pa, is_writable } => {
                    if want != Want::WritePage {
                        if is_writable {
                            edit.forget_local();
                            return (resolved, None);
                        }
                        if frames.is_exclusive_block(pa) {
                            edit.make_writable(node, index, raw);
                            self.account.unshare(FRAMES_PER_BLOCK);
                            return (Resolved::Reclaimed, None);
                        }
                    }
                    let fresh = supply.node();
                    self.own(ipa, 1);
                    mem.write_row(fresh, entry::leaf(pa, Level::Three, self.attr, is_writable), PAGE_SIZE);
                    frames.split_block(pa);
                    frames.mark(node, index);
                    edit.link_new(node, index, level, raw, fresh);
                    self.counters.split_blocks = self.counters.split_blocks.wrapping_add(1);
                    fresh
                }
            };
            // Something below is going to be writable.
            frames.set_sealed(node, false);
        }
        let index = Level::Three.index(ipa);
        let raw = mem.read(node, index);
        frames.mark(node, index);
        match Entry::decode(raw, Level::Three) {
            Entry::Leaf { is_writable: true, .. } => {
                edit.forget_local();
                (resolved, None)
            }
            Entry::Leaf { pa, .. } if frames.is_exclusive(pa) => {
                edit.make_writable(node, index, raw);
                self.account.unshare(1);
                (Resolved::Reclaimed, None)
            }
            Entry::Leaf { pa, .. } => {
                let new = entry::leaf(supply.page(), Level::Three, self.attr, true);
                edit.store(node, index, Level::Three, raw, new);
                (self.replaced(ipa, frames.kind_in_use(pa)), Some(pa))
            }
            _ => {
                let new = entry::leaf(supply.page(), Level::Three, self.attr, true);
                edit.store(node, index, Level::Three, raw, new);
                self.own(ipa, 1);
                (Resolved::Zeroed, None)
            }
        }
    }
}

/// Returns the page of the block at `pa` that the page at `ipa` is.
const fn page_of_block(pa: Pa, ipa: Ipa) -> Pa {
    Pa(pa.0 + (ipa.page().0 & (BLOCK_SIZE - 1)))
}
