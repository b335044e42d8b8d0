//! Merging: pages of equal contents become one page, by and by, in the background.
//!
//! Before: [`super::edit`], which changes leaves of running VMs. After: whoever has time left, with one VM's lock.
//!
//! The *merger* is a table from the hash of a page's contents to a frame. What it finds first it notes as a *hint*: hash and
//! frame, never trusted. When another page has the hash of a hint, that page is made read-only and the table takes a
//! reference to its frame: it is *stable*, for a frame with two references is never written. When a page has the hash of a
//! stable frame it is made read-only, compared byte for byte, and if equal its entry leads to the stable frame from then on.
//! So a step needs the lock of one VM, and two VMs meet in the table only. A page of zeros becomes the page of zeros.
//!
//! The hash of equal contents differs for different *domains*: VMs of one domain share, others never do. Only pages below
//! nodes that are the VM's own are looked at; what is below shared nodes is shared already. Blocks are left alone, but when
//! memory is scarce one that is half zeros is mapped by pages. A VM that has a promise is not merged: what it shared anew
//! would have to be promised again, and nothing would be gained.

use super::AddressSpace;
use super::edit::Edit;
use super::entry::{self, Entry, Level, WRITABLE};
use super::port::{TableMem, Tlb};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{FrameStore, Frames, Kind};
use salp_hvc::handover;

/// How many places in the table a hash may be found at.
const WINDOW: usize = 8;

/// How many pages of a block are looked at before it is mapped by pages.
const SAMPLES: u64 = 8;

const USED: u64 = 1 << 0;
/// The table holds a reference to the frame.
const STABLE: u64 = 1 << 1;
/// A hint that was met since the last visit.
const MET: u64 = 1 << 2;
/// A stable frame that had at most one user at the last visit.
const ALONE: u64 = 1 << 3;

/// One place of the table: a hash, and a frame with flags in its low bits, or zeros.
type Slot = [u64; 2];

/// What the table knows of a hash.
enum Found {
    /// Nothing; this place may be used for it, if there is one.
    Nothing(Option<usize>),
    /// The frame of a hint, and its place.
    Hint(usize, Pa),
    /// A stable frame.
    Stable(Pa),
}

/// The table of what was seen. It holds references to frames: give them back with [`Merger::release_all`] before it goes.
#[derive(Debug)]
pub struct Merger<'a> {
    slots: &'a mut [Slot],
    /// The place to be visited next.
    next: usize,
    stable: usize,
}

impl<'a> Merger<'a> {
    /// How many words of storage the table needs for each page that it remembers.
    pub const WORDS_PER_PAGE: usize = 2;

    /// Makes an empty table of all of the storage.
    pub fn new(storage: &'a mut [u64]) -> Self {
        let (slots, _) = storage.as_chunks_mut();
        slots.fill([0; 2]);
        Self { slots, next: 0, stable: 0 }
    }

    /// Takes over a table with what it holds. `None` if it cannot hold that.
    pub fn restored(storage: &'a mut [u64], record: &handover::Merging) -> Option<Self> {
        let (slots, _) = storage.as_chunks_mut();
        let (next, stable) = (record.next as usize, record.stable as usize);
        (next <= slots.len() && stable <= slots.len()).then_some(Self { slots, next, stable })
    }

    /// Returns what a hand-over has of it beside its storage.
    pub const fn record(&self) -> handover::Merging {
        handover::Merging { stable: self.stable as u64, next: self.next as u64 }
    }

    /// Returns how many frames the table holds a reference to.
    pub const fn stable(&self) -> usize {
        self.stable
    }

    /// Visits so many places of the table: forgets hints that were not met since the last visit, gives back frames that
    /// nobody uses, and those that at most one VM used at the last visit too. To be called between passes over all VMs, until
    /// it returns true: all places were visited.
    pub fn release_unused(&mut self, frames: &impl FrameStore, slots: usize) -> bool {
        for _ in 0..slots {
            let Some(slot) = self.slots.get_mut(self.next) else { break };
            self.next += 1;
            let [_, word] = slot;
            if *word & STABLE == 0 {
                *word = if *word & MET != 0 { *word & !MET } else { 0 };
                continue;
            }
            let pa = entry::address(*word);
            let is_released = frames.with(|frames| {
                let users = frames.references(pa) - 1;
                let is_released = users == 0 || users == 1 && *word & ALONE != 0;
                if is_released {
                    frames.set_sealed(pa, false);
                    frames.put(pa);
                }
                *word = if users == 1 { *word | ALONE } else { *word & !ALONE };
                is_released
            });
            if is_released {
                *word = 0;
                self.stable -= 1;
            }
        }
        let is_done = self.next >= self.slots.len();
        if is_done {
            self.next = 0;
        }
        is_done
    }

    /// Gives all frames back and forgets all hints. After this a page that was shared with the table alone is the VM's own
    /// again, so that writing to it needs no memory.
    pub fn release_all(&mut self, frames: &impl FrameStore) {
        for slots in self.slots.chunks_mut(64) {
            frames.with(|frames| {
                for [_, word] in slots {
                    if *word & STABLE != 0 {
                        frames.set_sealed(entry::address(*word), false);
                        frames.put(entry::address(*word));
                    }
                    *word = 0;
                }
            });
        }
        (self.next, self.stable) = (0, 0);
    }

    /// Returns the frames that the table refers to.
    #[cfg(test)]
    pub(super) fn frames(&self) -> impl Iterator<Item = Pa> {
        self.slots.iter().filter(|[_, word]| word & STABLE != 0).map(|[_, word]| entry::address(*word))
    }

    fn find(&self, hash: u64) -> Found {
        let len = self.slots.len();
        let first = ((u128::from(hash) * len as u128) >> 64) as usize;
        let (mut free, mut old) = (None, None);
        for offset in 0..WINDOW.min(len) {
            let at = (first + offset) % len;
            match self.slots[at] {
                [known, word] if known == hash && word != 0 => {
                    let pa = entry::address(word);
                    return if word & STABLE != 0 { Found::Stable(pa) } else { Found::Hint(at, pa) };
                }
                [_, 0] => free = free.or(Some(at)),
                [_, word] if word & (STABLE | MET) == 0 => old = old.or(Some(at)),
                _ => {}
            }
        }
        Found::Nothing(free.or(old))
    }

    fn note(&mut self, at: usize, hash: u64, pa: Pa, flags: u64) {
        self.slots[at] = [hash, pa.0 | USED | flags];
        self.stable += usize::from(flags & STABLE != 0);
    }
}

/// Returns the hash of a page for a domain. For one hash of contents this differs for each domain, and for one domain it
/// differs for each hash: both steps can be undone.
const fn mix(contents: u64, domain: u64) -> u64 {
    let mut hash = contents ^ domain.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// What a step of merging did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeProgress {
    /// How many pages it looked at.
    pub scanned: usize,
    /// How many became one with an equal one.
    pub merged: usize,
    /// How many became the page of zeros.
    pub zeroed: usize,
    /// It reached the end of the RAM; the next step begins at the start.
    pub at_end: bool,
}

/// A page that may be merged.
struct Candidate {
    node: Pa,
    index: usize,
    raw: u64,
}

/// What there is at an address.
enum Spot {
    /// Nothing to merge in so many bytes.
    Nothing(u64),
    Page(Candidate),
    /// A block that is the VM's own, while memory is scarce.
    Block {
        node: Pa,
        raw: u64,
    },
}

impl AddressSpace {
    /// Goes on merging at `cursor`, for `pages` pages at most; regions without pages count as one. vCPUs of the VM may run.
    /// Any cursor outside the RAM means its start. Of a VM that has a promise nothing is merged.
    #[expect(clippy::too_many_arguments, reason = "what faults need, and what merging needs")]
    pub fn merge_step(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        merger: &mut Merger<'_>,
        domain: u64,
        cursor: &mut Ipa,
        pages: usize,
    ) -> MergeProgress {
        let mut progress = MergeProgress::default();
        let mut at = if self.ram().contains(cursor) { cursor.page() } else { self.ram_start };
        if self.account.is_promised() {
            at = self.ram_end;
        }
        for _ in 0..pages {
            if at >= self.ram_end {
                break;
            }
            let size = match frames.with(|frames| self.spot(frames, mem, at)) {
                Spot::Nothing(size) => size,
                Spot::Page(candidate) => {
                    progress.scanned += 1;
                    self.merge_page(frames, mem, tlb, merger, domain, at, &candidate, &mut progress);
                    PAGE_SIZE
                }
                Spot::Block { node, raw } => {
                    if self.thin_out(frames, mem, tlb, at, node, raw) {
                        0
                    } else {
                        BLOCK_SIZE
                    }
                }
            };
            if size != 0 {
                at = Ipa((at.0 & !(size - 1)) + size);
            }
        }
        progress.at_end = at >= self.ram_end;
        *cursor = if progress.at_end { self.ram_start } else { at };
        progress
    }

    /// Says what may be merged at an address.
    fn spot(&self, frames: &Frames<'_>, mem: &impl TableMem, ipa: Ipa) -> Spot {
        let mut node = self.root;
        for level in [Level::One, Level::Two] {
            let raw = mem.read(node, level.index(ipa));
            node = match Entry::decode(raw, level) {
                Entry::Table(child) if !frames.is_shared_node(child) => child,
                Entry::Leaf { pa, .. } if !frames.blocks_are_plentiful() && frames.is_exclusive_block(pa) => {
                    return Spot::Block { node, raw };
                }
                _ => return Spot::Nothing(level.entry_size()),
            };
        }
        let index = Level::Three.index(ipa);
        let raw = mem.read(node, index);
        let pa = entry::address(raw);
        // What the table refers to is sealed.
        let is_candidate =
            raw != 0 && frames.kind_in_use(pa) == Kind::Guest && frames.pins(pa) == 0 && !frames.is_sealed(pa);
        if is_candidate { Spot::Page(Candidate { node, index, raw }) } else { Spot::Nothing(PAGE_SIZE) }
    }

    #[expect(clippy::too_many_arguments, reason = "as for the step")]
    fn merge_page(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        merger: &mut Merger<'_>,
        domain: u64,
        ipa: Ipa,
        page: &Candidate,
        progress: &mut MergeProgress,
    ) {
        let pa = entry::address(page.raw);
        if mem.is_zero(pa) {
            let zero = frames.with(|frames| frames.zero_page()).expect("made with the first address space");
            if self.replace_if(frames, mem, tlb, ipa, page, zero, || mem.is_zero(pa)) {
                self.account.lose(1);
                progress.zeroed += 1;
            }
            return;
        }
        let hash = || mix(mem.hash_page(pa), domain);
        let seen = hash();
        match merger.find(seen) {
            Found::Nothing(at) => {
                if let Some(at) = at {
                    merger.note(at, seen, pa, MET);
                }
            }
            Found::Hint(at, other) if other == pa => merger.note(at, seen, pa, MET),
            Found::Hint(at, _) => {
                self.protect(mem, tlb, ipa, page);
                if hash() != seen {
                    return self.allow(mem, tlb, ipa, page);
                }
                frames.with(|frames| {
                    frames.get(pa);
                    frames.set_sealed(pa, true);
                });
                self.account.share(1);
                merger.note(at, seen, pa, STABLE);
            }
            Found::Stable(other) => {
                if self.replace_if(frames, mem, tlb, ipa, page, other, || mem.equal(pa, other)) {
                    self.account.share(1);
                    progress.merged += 1;
                }
            }
        }
    }

    /// Lets the entry of a page lead to `other` if `is_equal` still says so once no vCPU can write to the page.
    #[expect(clippy::too_many_arguments, reason = "as for the step")]
    fn replace_if(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        page: &Candidate,
        other: Pa,
        is_equal: impl FnOnce() -> bool,
    ) -> bool {
        self.protect(mem, tlb, ipa, page);
        if !is_equal() {
            self.allow(mem, tlb, ipa, page);
            return false;
        }
        frames.with(|frames| {
            frames.get(other);
            self.restructure(frames, page.node, page.index);
        });
        let new = entry::leaf(other, Level::Three, self.attr, false);
        Edit::new(mem, tlb, ipa).store(page.node, page.index, Level::Three, page.raw, new);
        frames.with(|frames| frames.put(entry::address(page.raw)));
        self.counters.merged_pages = self.counters.merged_pages.wrapping_add(1);
        true
    }

    /// Notes that an entry is about to lead elsewhere, to equal contents: who was forked from this VM goes back to it entry by
    /// entry only if nothing has changed here, and this VM, if it goes back, shares again what it shared.
    fn restructure(&mut self, frames: &mut Frames<'_>, node: Pa, index: usize) {
        frames.mark(node, index);
        if self.version != 0 {
            self.version = frames.next_version();
        }
    }

    /// Makes a page read-only: while the VM's lock is held, it stays as it is.
    fn protect(&self, mem: &impl TableMem, tlb: &impl Tlb, ipa: Ipa, page: &Candidate) {
        if page.raw & WRITABLE != 0 {
            let mut edit = Edit::new(mem, tlb, ipa);
            edit.store(page.node, page.index, Level::Three, page.raw, page.raw & !WRITABLE);
        }
    }

    /// Takes [`AddressSpace::protect`] back.
    fn allow(&self, mem: &impl TableMem, tlb: &impl Tlb, ipa: Ipa, page: &Candidate) {
        if page.raw & WRITABLE != 0 {
            Edit::new(mem, tlb, ipa).make_writable(page.node, page.index, page.raw);
        }
    }

    /// Maps a block by pages, if it seems to be zeros for the better part. Returns true if it did.
    fn thin_out(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        node: Pa,
        raw: u64,
    ) -> bool {
        let block = entry::address(raw);
        let sample = |number: u64| mem.is_zero(Pa(block.0 + number * (BLOCK_SIZE / SAMPLES)));
        if (0..SAMPLES).filter(|&number| sample(number)).count() < SAMPLES as usize / 2 {
            return false;
        }
        let Ok(fresh) = frames.with(|frames| frames.alloc(Kind::Node)) else { return false };
        mem.write_row(fresh, entry::leaf(block, Level::Three, self.attr, raw & WRITABLE != 0), PAGE_SIZE);
        let index = Level::Two.index(ipa);
        frames.with(|frames| {
            frames.split_block(block);
            // What links it is sealed only if the block was read-only.
            frames.set_sealed(fresh, raw & WRITABLE == 0);
            self.restructure(frames, node, index);
        });
        self.account.own(1);
        self.counters.split_blocks = self.counters.split_blocks.wrapping_add(1);
        Edit::new(mem, tlb, ipa).store(node, index, Level::Two, raw, entry::table(fresh));
        true
    }
}
