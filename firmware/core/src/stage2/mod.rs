//! Address spaces of VMs: copy-on-write radix trees whose nodes and leaves are reference counted, walked by the MMU.
//!
//! Before: [`crate::frames`], which counts. After: the VM, which owns an [`AddressSpace`] under its lock.
//!
//! The tree *is* the stage 2 table: a root of 512 entries of 1 GiB, nodes of 2 MiB entries, nodes of pages. Nodes and
//! pages are shared between VMs; forking copies the root's entries. What keeps that sound:
//!
//! 1. A leaf is writable only if the frame, and every node on the way to it, has one reference.
//! 2. A node is *sealed* when none of its leaves is writable and each of its children is sealed or *lazy*, that is, linked
//!    by an entry that the MMU does not walk. The frame table has a mark for it.
//! 3. A node with several references, or below one that has, is linked valid only if it is sealed.
//!
//! So an unsealed shared node is in no TLB, and sealing it (once, by whoever touches it first) is plain stores. What is
//! sealed stays as it is until its last user writes: every VM changes only nodes that are its own, with two exceptions
//! that change no guest byte and are made under the frame table's lock: in a shared sealed node a lazy entry becomes
//! valid, and an absent page becomes the page of zeros.
//!
//! Writing to a shared page copies the nodes on the way, then the page. A page, block or node whose other users are
//! gone is simply used again. A block of 2 MiB that is shared is mapped by pages in the VM that writes to it.
//!
//! Locks: an `AddressSpace` is used under its VM's lock (`&mut self`), the frame table's lock is taken inside, for
//! short: pages are zeroed and copied outside. vCPUs of the VM run on during a fault, but not during
//! [`fork`](AddressSpace::fork), [`seal`](AddressSpace::seal), [`revert`](AddressSpace::revert) and destruction.
//!
//! Every operation takes the frames it needs first and edits entries then, so that running out of memory changes
//! nothing. What an entry pointed to is given back after the TLBs have forgotten the entry.
//!
//! Around the tree:
//!
//! - One page below RAM, the [identity page](IDENTITY_PAGE), is never shared: it says who the VM is.
//! - A VM can be [promised](AddressSpace::set_promise) free frames, so that what sharing may make it copy is there
//!   (`promise.rs`).
//! - Pages of equal contents become one in the background (`merge.rs`).
//! - Going back to a snapshot puts right what was changed, by marks at the nodes (`revert.rs`).
//! - What sharing saves is counted exactly (`census.rs`).

mod access;
mod census;
mod edit;
mod entry;
mod fault;
mod fork;
mod identity;
mod image;
mod merge;
mod port;
mod promise;
mod region;
mod revert;
mod supply;
mod teardown;
#[cfg(test)]
mod tests;

pub use access::PinError;
pub use census::Census;
pub use entry::{ENTRIES, Level, MemAttr};
pub use fault::{Access, Fault, Resolved};
pub use fork::ForkError;
pub use identity::IDENTITY_PAGE;
pub use image::MapError;
pub use merge::{MergeProgress, Merger};
pub use port::{Filled, TableMem, Tlb};
pub use region::{Place, Region};
pub use revert::RevertError;
pub use teardown::Teardown;

use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{FrameStore, Frames, Kind, OutOfMemory};
use core::ops::Range;
use promise::Account;
use salp_hvc::bootset::RAM_BASE;
use salp_hvc::handover;

/// How many bits a guest physical address has; VTCR_EL2.T0SZ is 64 less this, SL0 says level 1.
pub const IPA_BITS: u32 = 39;

/// In which portions memory is given to a VM that touches it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In blocks of 2 MiB while memory is plentiful, for speed; else in pages.
    #[default]
    Blocks,
    /// In pages of 4 KiB, for density; pages that are only read cost nothing.
    SmallPages,
}

/// What happened in an address space since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Faults that found nothing to do: another vCPU was faster.
    pub spurious: u64,
    /// Faults that only made a lazy entry valid.
    pub linked: u64,
    /// Pages or blocks that were made writable again without a copy.
    pub reclaimed: u64,
    /// Pages that were read first and became the page of zeros.
    pub zero_mapped: u64,
    /// Pages that were filled with zeros.
    pub zeroed_pages: u64,
    /// Blocks that were filled with zeros.
    pub zeroed_blocks: u64,
    /// Pages that were copied.
    pub copied_pages: u64,
    /// Nodes that were copied.
    pub copied_nodes: u64,
    /// Blocks that were mapped by pages from then on.
    pub split_blocks: u64,
    /// Pages that became one with an equal page, of zeros or of another VM.
    pub merged_pages: u64,
}

/// Why an address space cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The RAM is empty, not made of whole pages, below [`RAM_BASE`], or beyond [`IPA_BITS`].
    BadRange,
    /// No frame is free.
    OutOfMemory,
}

impl From<OutOfMemory> for CreateError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The memory of one VM.
///
/// Give it back with [`AddressSpace::destroy`] or [`AddressSpace::into_teardown`]: dropping it loses its frames.
#[derive(Debug)]
#[must_use = "dropping an address space loses its frames"]
pub struct AddressSpace {
    root: Pa,
    ram_start: Ipa,
    ram_end: Ipa,
    policy: Policy,
    attr: MemAttr,
    pinned: u32,
    /// What its contents are called, 0 if they have no name: see [`revert`].
    version: u64,
    base: u64,
    account: Account,
    counters: Counters,
}

impl AddressSpace {
    /// Makes an address space with RAM in this range, all zeros, and takes one frame for it.
    ///
    /// # Errors
    ///
    /// The range is not one of RAM, or no frame is free.
    pub fn new(
        frames: &impl FrameStore,
        mem: &impl TableMem,
        ram: Range<Ipa>,
        policy: Policy,
        attr: MemAttr,
    ) -> Result<Self, CreateError> {
        let is_aligned = ram.start.is_aligned(PAGE_SIZE) && ram.end.is_aligned(PAGE_SIZE);
        if !is_aligned || ram.start >= ram.end || ram.start.0 < RAM_BASE || ram.end.0 > 1 << IPA_BITS {
            return Err(CreateError::BadRange);
        }
        let root = frames.with(|frames| {
            if frames.zero_page().is_none() {
                let zero = frames.alloc(Kind::Zero)?;
                mem.zero_page(zero);
                mem.sync_for_guest(zero, PAGE_SIZE, Filled::Zeros);
                frames.set_zero_page(zero);
            }
            frames.alloc(Kind::Node)
        })?;
        mem.zero_page(root);
        Ok(Self {
            root,
            ram_start: ram.start,
            ram_end: ram.end,
            policy,
            attr,
            pinned: 0,
            version: 0,
            base: 0,
            account: Account::default(),
            counters: Counters::default(),
        })
    }

    /// Returns what a hand-over has of it beside its tables, which stay in place.
    pub const fn record(&self) -> handover::Memory {
        let Counters { spurious, linked, reclaimed, zero_mapped, zeroed_pages, zeroed_blocks, .. } = self.counters;
        let Counters { copied_pages, copied_nodes, split_blocks, merged_pages, .. } = self.counters;
        handover::Memory {
            root: self.root.0,
            ram: [self.ram_start.0, self.ram_end.0],
            small_pages: matches!(self.policy, Policy::SmallPages) as u32,
            attributes: self.attr as u32,
            pinned: self.pinned as u64,
            version: self.version,
            base: self.base,
            account: self.account.record(),
            counters: [
                spurious,
                linked,
                reclaimed,
                zero_mapped,
                zeroed_pages,
                zeroed_blocks,
                copied_pages,
                copied_nodes,
                split_blocks,
                merged_pages,
            ],
        }
    }

    /// Returns the address space in a record, whose tables are in place. `None` if there is no such one. What the tables say is
    /// not looked at: it is as good as the memory that they are in.
    pub fn restored(frames: &Frames<'_>, record: &handover::Memory) -> Option<Self> {
        let [ram_start, ram_end] = record.ram.map(Ipa);
        let root = Pa(record.root);
        let is_ram = ram_start.is_aligned(PAGE_SIZE)
            && ram_end.is_aligned(PAGE_SIZE)
            && ram_start < ram_end
            && ram_start.0 >= RAM_BASE
            && ram_end.0 <= 1 << IPA_BITS;
        let is_root = root.is_aligned(PAGE_SIZE) && frames.kind(root) == Some(Kind::Node) && frames.count(root) == 1;
        let [spurious, linked, reclaimed, zero_mapped, zeroed_pages, zeroed_blocks, counters @ ..] = record.counters;
        let [copied_pages, copied_nodes, split_blocks, merged_pages] = counters;
        (is_ram && is_root && record.small_pages <= 1).then_some(Self {
            root,
            ram_start,
            ram_end,
            policy: if record.small_pages == 1 { Policy::SmallPages } else { Policy::Blocks },
            attr: match record.attributes {
                0b0110 => MemAttr::ForcedWriteBack,
                0b1111 => MemAttr::WriteBack,
                _ => return None,
            },
            pinned: u32::try_from(record.pinned).ok()?,
            version: record.version,
            base: record.base,
            account: Account::restored(frames, record.account)?,
            counters: Counters {
                spurious,
                linked,
                reclaimed,
                zero_mapped,
                zeroed_pages,
                zeroed_blocks,
                copied_pages,
                copied_nodes,
                split_blocks,
                merged_pages,
            },
        })
    }

    /// Returns the address of the root node, for VTTBR_EL2.BADDR.
    pub const fn root(&self) -> Pa {
        self.root
    }

    /// Returns where the RAM is.
    pub const fn ram(&self) -> Range<Ipa> {
        self.ram_start..self.ram_end
    }

    /// Returns what happened since the address space was made.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns true if there is memory: RAM or the identity page.
    #[inline]
    fn is_memory(&self, ipa: Ipa) -> bool {
        ipa >= self.ram_start && ipa < self.ram_end || ipa.page() == IDENTITY_PAGE
    }

    /// Returns true if the block that holds `ipa` is RAM as a whole.
    fn is_ram_block(&self, ipa: Ipa) -> bool {
        let start = ipa.0 & !(BLOCK_SIZE - 1);
        start >= self.ram_start.0 && start + BLOCK_SIZE <= self.ram_end.0
    }

    /// Returns the positions of the root entries that lead to RAM.
    fn root_entries(&self) -> Range<usize> {
        Level::One.index(self.ram_start)..Level::One.index(Ipa(self.ram_end.0 - 1)) + 1
    }
}
