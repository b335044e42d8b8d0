//! A machine for tests on the host: physical memory, an MMU that walks the tables in it, and TLBs that remember.
//!
//! The model is stricter than hardware. It fails the test when
//! - a TLB holds a translation that the tables no longer give, once an operation has returned or made an entry valid;
//! - a valid entry changes into another valid one otherwise than in its permission (break-before-make);
//! - an entry is stored without order in a node that an MMU can reach;
//! - a walker reaches a node through a cached table entry that has changed.

use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{Frames, GROUP};
use crate::stage2::{ENTRIES, Filled, Level, TableMem, Tlb};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;
const WRITABLE: u64 = 1 << 7;
const ACCESS_FLAG: u64 = 1 << 10;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Names a VM.
pub type VmName = u32;

/// How many CPUs have TLBs.
pub const CPUS: usize = 2;

type Page = Box<[u64; ENTRIES]>;

#[derive(Clone, Copy)]
struct CachedLeaf {
    pa: Pa,
    is_writable: bool,
}

#[derive(Default)]
struct SoftTlb {
    /// By page of the guest.
    leaves: BTreeMap<Ipa, CachedLeaf>,
    /// Tables of level 2 and 3, by the start of what they cover and its size.
    tables: BTreeMap<(u64, Ipa), Pa>,
}

/// What one entry of a live node was when the walker looked.
pub struct Walk {
    /// The tables passed: size of what the entry covers, its start, the node it points to.
    pub tables: Vec<(u64, Ipa, Pa)>,
    /// The page at the end, and whether it is writable.
    pub leaf: Option<(Pa, bool)>,
}

/// The machine.
pub struct Machine<'a> {
    /// The frame table.
    pub frames: RefCell<Frames<'a>>,
    pages: RefCell<HashMap<Pa, Page>>,
    /// What a word holds before anybody wrote to its page.
    untouched: fn(Pa) -> u64,
    roots: RefCell<BTreeMap<VmName, Pa>>,
    tlbs: RefCell<BTreeMap<(VmName, usize), SoftTlb>>,
    live: RefCell<Option<BTreeSet<Pa>>>,
    /// Pages and blocks that EL2 has filled and not yet synchronised for a guest.
    unsynced: RefCell<BTreeSet<Pa>>,
    /// An entry was unlinked and walkers may not see it yet.
    is_unordered: Cell<bool>,
    /// Pages of guests that EL2 has written to and not synchronised since.
    cached: RefCell<BTreeSet<Pa>>,
    /// A store that a vCPU of a VM tries right after EL2 has looked at a page to merge it.
    pub meanwhile: Cell<Option<(VmName, usize, Ipa, u64)>>,
    /// That store was done.
    pub is_stored: Cell<bool>,
    /// How many invalidations there were.
    pub invalidations: Cell<usize>,
}

impl<'a> Machine<'a> {
    /// Makes a machine with this memory. The storage should be as [`Machine::storage`] makes it; `untouched` says what
    /// memory holds at first.
    pub fn new(banks: &[Range<Pa>], storage: &'a mut [u64], untouched: fn(Pa) -> u64) -> Self {
        Self {
            frames: RefCell::new(Frames::new(banks, storage).expect("good banks")),
            pages: RefCell::default(),
            untouched,
            roots: RefCell::default(),
            tlbs: RefCell::default(),
            live: RefCell::default(),
            unsynced: RefCell::default(),
            cached: RefCell::default(),
            is_unordered: Cell::new(false),
            meanwhile: Cell::new(None),
            is_stored: Cell::new(false),
            invalidations: Cell::new(0),
        }
    }

    /// Returns storage for the frame table of these banks, full of garbage.
    pub fn storage(banks: &[Range<Pa>]) -> Vec<u64> {
        vec![0xdead_beef_5a5a_a5a5; Frames::words_needed(banks).expect("good banks")]
    }

    /// Lets a VM's CPUs walk the tables from `root`.
    pub fn enter(&self, vm: VmName, root: Pa) {
        self.roots.borrow_mut().insert(vm, root);
        self.live.replace(None);
        for cpu in 0..CPUS {
            self.tlbs.borrow_mut().insert((vm, cpu), SoftTlb::default());
        }
    }

    /// The VM is gone. Fails if a TLB remembers anything of it.
    pub fn leave(&self, vm: VmName) {
        self.roots.borrow_mut().remove(&vm);
        self.live.replace(None);
        for cpu in 0..CPUS {
            let tlb = self.tlbs.borrow_mut().remove(&(vm, cpu)).expect("it was entered");
            assert!(tlb.leaves.is_empty() && tlb.tables.is_empty(), "a TLB remembers VM {vm}, which is gone");
        }
    }

    /// Does what a CPU does when VM code touches memory. Returns where it is, or `None` if the CPU takes a fault.
    pub fn mmu(&self, vm: VmName, cpu: usize, ipa: Ipa, is_write: bool) -> Option<Pa> {
        let page = ipa.page();
        let mut tlbs = self.tlbs.borrow_mut();
        let tlb = tlbs.get_mut(&(vm, cpu)).expect("it was entered");
        let leaf = match tlb.leaves.get(&page) {
            Some(&leaf) => leaf,
            None => {
                let walk = self.walk(self.roots.borrow()[&vm], page);
                for (size, start, node) in walk.tables {
                    tlb.tables.insert((size, start), node);
                }
                let (pa, is_writable) = walk.leaf?;
                let leaf = CachedLeaf { pa, is_writable };
                tlb.leaves.insert(page, leaf);
                leaf
            }
        };
        if is_write && !leaf.is_writable {
            // It stays in the TLB, and faults again, until it is invalidated.
            return None;
        }
        Some(Pa(leaf.pa.0 + ipa.page_offset()))
    }

    /// Walks the tables as the MMU does, without a TLB.
    pub fn walk(&self, root: Pa, ipa: Ipa) -> Walk {
        let mut walk = Walk { tables: Vec::new(), leaf: None };
        let mut node = root;
        for level in [Level::One, Level::Two, Level::Three] {
            let raw = self.read(node, level.index(ipa));
            if raw & VALID == 0 {
                return walk;
            }
            let start = Ipa(ipa.0 & !(level.entry_size() - 1));
            if level != Level::Three && raw & TABLE_OR_PAGE != 0 {
                node = Pa(raw & ADDRESS);
                walk.tables.push((level.entry_size(), start, node));
            } else {
                assert!(level != Level::One, "blocks of 1 GiB are not in use");
                assert!(level != Level::Three || raw & TABLE_OR_PAGE != 0, "a reserved descriptor");
                assert_ne!(raw & ACCESS_FLAG, 0, "the access flag is set");
                walk.leaf = Some((Pa((raw & ADDRESS) + (ipa.page().0 - start.0)), raw & WRITABLE != 0));
                return walk;
            }
        }
        walk
    }

    /// Fails if a TLB remembers what is no longer so.
    pub fn check_tlbs(&self) {
        assert!(!self.is_unordered.get(), "walkers may still see an entry that was unlinked");
        for (&(vm, cpu), tlb) in &*self.tlbs.borrow() {
            let root = self.roots.borrow()[&vm];
            for (&ipa, leaf) in &tlb.leaves {
                let now = self.walk(root, ipa).leaf;
                let is_stale = now.is_none_or(|(pa, is_writable)| pa != leaf.pa || leaf.is_writable && !is_writable);
                assert!(
                    !is_stale,
                    "CPU {cpu} remembers {ipa} of VM {vm} at {}, writable {}; now {now:?}",
                    leaf.pa, leaf.is_writable
                );
            }
            for (&(size, start), &node) in &tlb.tables {
                let is_current = self.walk(root, start).tables.contains(&(size, start, node));
                assert!(is_current, "CPU {cpu} remembers table {node} for {start} of VM {vm}");
            }
        }
    }

    /// Returns one word of memory.
    pub fn word(&self, pa: Pa) -> u64 {
        self.read(pa.page(), pa.page_offset() as usize / 8)
    }

    /// Does what a vCPU was going to do while EL2 looked at a page: a store, if its MMU and TLB let it.
    fn run_meanwhile(&self) {
        if let Some((vm, cpu, ipa, value)) = self.meanwhile.take()
            && let Some(pa) = self.mmu(vm, cpu, ipa, true)
        {
            self.set_word(pa, value);
            self.is_stored.set(true);
        }
    }

    /// Stores one word as guest code does.
    pub fn set_word(&self, pa: Pa, value: u64) {
        self.with_page(pa.page(), |page| page[pa.page_offset() as usize / 8] = value);
    }

    /// Returns true if caches may hold what EL2 wrote to the page: a guest that maps it as device memory does not see it.
    pub fn is_cached(&self, page: Pa) -> bool {
        self.cached.borrow().contains(&page)
    }

    fn with_page<R>(&self, pa: Pa, f: impl FnOnce(&mut Page) -> R) -> R {
        assert!(pa.is_aligned(PAGE_SIZE));
        let untouched = || Box::new(std::array::from_fn(|index| (self.untouched)(Pa(pa.0 + index as u64 * 8))));
        f(self.pages.borrow_mut().entry(pa).or_insert_with(untouched))
    }

    /// Returns true if an MMU can reach the node.
    fn is_live(&self, node: Pa) -> bool {
        let mut live = self.live.borrow_mut();
        live.get_or_insert_with(|| {
            let mut live = BTreeSet::new();
            let mut todo: Vec<_> = self.roots.borrow().values().map(|&root| (root, 0)).collect();
            while let Some((node, depth)) = todo.pop() {
                if live.insert(node) && depth < 2 {
                    let valid = (0..ENTRIES).map(|index| self.read(node, index)).filter(|raw| raw & 3 == 3);
                    todo.extend(valid.map(|raw| (Pa(raw & ADDRESS), depth + 1)));
                }
            }
            live
        })
        .contains(&node)
    }

    /// Fails if an entry maps a page that EL2 has filled and not synchronised.
    fn check_synced(&self, entry: u64) {
        let is_leaf = entry & VALID != 0 && entry & ACCESS_FLAG != 0;
        let is_unsynced = is_leaf && self.unsynced.borrow().contains(&Pa(entry & ADDRESS));
        assert!(!is_unsynced, "a page was not synchronised for the guest");
    }

    fn change_tlb(&self, vm: VmName, only: Option<usize>, f: impl Fn(&mut SoftTlb)) {
        self.invalidations.set(self.invalidations.get() + 1);
        self.is_unordered.set(false);
        for (_, tlb) in self
            .tlbs
            .borrow_mut()
            .iter_mut()
            .filter(|((name, cpu), _)| *name == vm && only.is_none_or(|only| only == *cpu))
        {
            f(tlb);
        }
    }
}

impl TableMem for Machine<'_> {
    fn read(&self, node: Pa, index: usize) -> u64 {
        self.with_page(node, |page| page[index])
    }

    fn read_groups(&self, node: Pa, groups: Range<usize>) -> impl Iterator<Item = [u64; GROUP]> {
        groups.map(move |group| std::array::from_fn(|offset| self.read(node, group * GROUP + offset)))
    }

    fn write(&self, node: Pa, index: usize, value: u64) {
        assert!(!self.is_live(node), "a plain store to {node}, which an MMU can reach");
        self.check_synced(value);
        self.with_page(node, |page| page[index] = value);
    }

    fn write_group(&self, node: Pa, group: usize, values: [u64; GROUP]) {
        for (offset, value) in values.into_iter().enumerate() {
            self.write(node, group * GROUP + offset, value);
        }
    }

    fn write_row(&self, node: Pa, first: u64, step: u64) {
        for index in 0..ENTRIES {
            self.write(node, index, first + index as u64 * step);
        }
    }

    fn clear_all(&self, node: Pa, bits: u64) {
        for index in 0..ENTRIES {
            self.write(node, index, self.read(node, index) & !bits);
        }
    }

    fn publish(&self, node: Pa, index: usize, value: u64) {
        let old = self.with_page(node, |page| std::mem::replace(&mut page[index], value));
        self.live.replace(None);
        self.is_unordered.set(false);
        if value & VALID == 0 {
            return;
        }
        if old & VALID != 0 {
            assert_eq!(old & !WRITABLE, value & !WRITABLE, "entry {index} of {node} changed without a break");
        }
        self.check_synced(value);
        self.check_tlbs();
    }

    fn unlink(&self, node: Pa, index: usize, value: u64) {
        assert_eq!(value & VALID, 0, "only a publication orders what a valid entry leads to");
        self.with_page(node, |page| page[index] = value);
        self.live.replace(None);
        self.is_unordered.set(true);
    }

    fn zero_page(&self, page: Pa) {
        assert!(!self.is_live(page), "{page} is a node that an MMU can reach");
        self.with_page(page, |page| page.fill(0));
        self.unsynced.borrow_mut().insert(page);
    }

    fn zero_block(&self, block: Pa) {
        assert!(block.is_aligned(BLOCK_SIZE));
        for page in 0..ENTRIES as u64 {
            self.with_page(Pa(block.0 + page * PAGE_SIZE), |page| page.fill(0));
            self.unsynced.borrow_mut().remove(&Pa(block.0 + page * PAGE_SIZE));
        }
        self.unsynced.borrow_mut().insert(block);
    }

    fn copy_page(&self, from: Pa, to: Pa) {
        assert!(!self.is_live(to), "{to} is a node that an MMU can reach");
        let bytes = self.with_page(from, |page| page.clone());
        self.with_page(to, |page| *page = bytes);
        self.unsynced.borrow_mut().insert(to);
    }

    fn hash_page(&self, page: Pa) -> u64 {
        // Weak, so that different pages have the same hash now and then.
        let hash = self.with_page(page, |page| page.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        self.run_meanwhile();
        hash
    }

    fn is_zero(&self, page: Pa) -> bool {
        let is_zero = self.with_page(page, |page| page.iter().all(|&word| word == 0));
        if is_zero {
            self.run_meanwhile();
        }
        is_zero
    }

    fn equal(&self, page: Pa, other: Pa) -> bool {
        let bytes = self.with_page(page, |page| page.clone());
        let is_equal = self.with_page(other, |other| *other == bytes);
        self.run_meanwhile();
        is_equal
    }

    fn sync_for_guest(&self, pa: Pa, bytes: u64, _: Filled) {
        assert!(bytes == PAGE_SIZE || bytes == BLOCK_SIZE);
        self.unsynced.borrow_mut().remove(&pa);
        self.cached.borrow_mut().remove(&pa);
    }

    fn copy_from_guest(&self, from: Pa, to: &mut [u8]) {
        assert!(from.page_offset() + to.len() as u64 <= PAGE_SIZE);
        self.with_page(from.page(), |page| {
            for (at, byte) in (from.page_offset() as usize..).zip(to) {
                *byte = page[at / 8].to_le_bytes()[at % 8];
            }
        });
    }

    fn copy_to_guest(&self, to: Pa, from: &[u8]) {
        assert!(to.page_offset() + from.len() as u64 <= PAGE_SIZE);
        self.cached.borrow_mut().insert(to.page());
        self.with_page(to.page(), |page| {
            for (at, &byte) in (to.page_offset() as usize..).zip(from) {
                let mut word = page[at / 8].to_le_bytes();
                word[at % 8] = byte;
                page[at / 8] = u64::from_le_bytes(word);
            }
        });
    }
}

/// The TLBs of one VM, seen from one CPU.
pub struct VmTlb<'a> {
    /// The machine.
    pub machine: &'a Machine<'a>,
    /// The VM.
    pub vm: VmName,
    /// The CPU that invalidates.
    pub cpu: usize,
}

impl Tlb for VmTlb<'_> {
    fn invalidate_leaf(&self, ipa: Ipa, level: Level) {
        // Only leaves: cached tables stay, as with a TTL hint.
        let start = ipa.0 & !(level.entry_size() - 1);
        self.machine.change_tlb(self.vm, None, |tlb| {
            tlb.leaves.retain(|at, _| at.0.wrapping_sub(start) >= level.entry_size());
        });
    }

    fn invalidate_leaf_local(&self, ipa: Ipa) {
        self.machine.change_tlb(self.vm, Some(self.cpu), |tlb| {
            tlb.leaves.remove(&ipa.page());
        });
    }

    fn invalidate_range(&self, ipa: Ipa, bytes: u64) {
        let overlaps = |start: u64, size: u64| start < ipa.0 + bytes && ipa.0 < start + size;
        self.machine.change_tlb(self.vm, None, |tlb| {
            tlb.leaves.retain(|at, _| !overlaps(at.0, PAGE_SIZE));
            tlb.tables.retain(|&(size, start), _| !overlaps(start.0, size));
        });
    }

    fn invalidate_vm(&self) {
        self.machine.change_tlb(self.vm, None, |tlb| *tlb = SoftTlb::default());
    }
}
