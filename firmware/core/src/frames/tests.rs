//! The frame table against a slow model: who refers to what, one entry at a time.

use super::record::COUNT_END;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const BANKS: [Range<Pa>; 4] = [
    Pa(0x8000_0000)..Pa(0x8080_0000),
    Pa(0x4010_1000)..Pa(0x4035_0800),
    Pa(0x4035_3000)..Pa(0x4040_0000),
    Pa(0x10_0000_0000)..Pa(0x10_0020_0000),
];

fn storage(banks: &[Range<Pa>]) -> Vec<u64> {
    vec![u64::MAX / 3; Frames::words_needed(banks).unwrap()]
}

/// Returns the whole frames of the banks.
fn ram() -> BTreeSet<Pa> {
    BANKS
        .iter()
        .flat_map(|bank| (bank.start.0.div_ceil(PAGE_SIZE)..bank.end.0 / PAGE_SIZE).map(|n| Pa(n * PAGE_SIZE)))
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn every_whole_frame_of_every_bank_is_given_once() {
    let mut words = storage(&BANKS);
    let mut frames = Frames::new(&BANKS, &mut words).unwrap();
    let mut given = BTreeSet::new();
    while let Ok(pa) = frames.alloc(Kind::Guest) {
        assert!(given.insert(pa), "{pa} was given twice");
    }
    assert_eq!(given, ram());
    assert_eq!(frames.stats().frames(Kind::Free), 0);
    for &pa in &given {
        assert!(frames.put(pa));
    }
    assert_eq!(frames.stats().frames(Kind::Free), given.len());
    // 4 blocks, one that begins at its bank's odd start, one; the one with a hole never becomes whole.
    assert_eq!(frames.stats().free_blocks, 4 + 1);
}

#[test]
fn two_banks_that_complete_a_block_make_it_whole() {
    let banks = [Pa(0x20_0000)..Pa(0x30_0000), Pa(0x30_0000)..Pa(0x40_0000)];
    let mut words = storage(&banks);
    assert_eq!(Frames::new(&banks, &mut words).unwrap().stats().free_blocks, 1);
}

#[test]
fn a_table_for_64_gib_takes_a_five_hundredth_of_it() {
    let words = Frames::words_needed(&[Pa(0x4000_0000)..Pa(0x4000_0000 + (64 << 30))]).unwrap();
    assert!(words * 8 * 500 < 64 << 30);
}

#[test]
fn bad_banks_and_small_storage_are_refused() {
    let bank = |start, end| Pa(start)..Pa(end);
    let new = |banks: &[Range<Pa>]| Frames::words_needed(banks).map(|_| ());
    assert_eq!(new(&[bank(0x2000, 0x1000)]), Err(SetupError::BadBank));
    assert_eq!(new(&[bank(0, (1 << 48) + 1)]), Err(SetupError::BadBank));
    assert_eq!(new(&[bank(0, 0x3000), bank(0x2000, 0x4000)]), Err(SetupError::BadBank));
    assert_eq!(new(&vec![bank(0, 0); MAX_BANKS + 1]), Err(SetupError::TooManyBanks));
    assert_eq!(new(&[]), Ok(()));
    let mut words = storage(&BANKS);
    let short = words.len() - 1;
    assert!(matches!(Frames::new(&BANKS, &mut words[..short]), Err(SetupError::StorageTooSmall)));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn what_is_reserved_is_never_given_and_what_is_in_use_cannot_be_reserved() {
    let mut words = storage(&BANKS);
    let mut frames = Frames::new(&BANKS, &mut words).unwrap();
    // An odd range over several blocks, one that overlaps it, one that reaches out of RAM.
    let reserved =
        [Pa(0x801f_f800)..Pa(0x8060_0001), Pa(0x8060_0000)..Pa(0x8060_3000), Pa(0x3000_0000)..Pa(0x4010_2000)];
    for range in &reserved {
        frames.reserve(range.clone()).unwrap();
    }
    let block = frames.alloc_block().unwrap();
    let page = frames.alloc(Kind::Hyp).unwrap();
    let before = frames.stats();
    assert_eq!(frames.reserve(block..Pa(block.0 + 1)), Err(NotFree));
    assert_eq!(frames.reserve(page..Pa(page.0 + PAGE_SIZE)), Err(NotFree));
    assert_eq!(frames.adopt_image(Pa(0x8060_2000)..Pa(0x8060_4000)), Err(NotFree));
    assert_eq!(frames.adopt_image(Pa(0x5000_0000)..Pa(0x5000_1000)), Err(NotFree));
    assert_eq!(frames.stats(), before);
    while let Ok(pa) = frames.alloc(Kind::Guest) {
        let is_reserved = reserved.iter().any(|range| range.start.page() <= pa && pa < range.end);
        assert!(!is_reserved, "{pa} is reserved");
        assert_eq!(frames.kind(pa), Some(Kind::Guest));
    }
    assert_eq!(frames.kind(Pa(0x8030_0000)), Some(Kind::Reserved));
    assert_eq!(frames.kind(Pa(0x5000_0000)), None);
}

#[test]
fn a_count_that_reaches_its_end_stays_there_and_the_frame_is_never_freed() {
    let mut words = storage(&BANKS);
    let mut frames = Frames::new(&BANKS, &mut words).unwrap();
    let pa = frames.alloc(Kind::Guest).unwrap();
    let index = frames.index(pa);
    // 2³¹ - 3 calls of `get`.
    let record: u64 = zerocopy::transmute!(frames.records[index]);
    frames.records[index] = zerocopy::transmute!(record + u64::from(COUNT_END - 3));
    for _ in 0..5 {
        frames.get(pa);
    }
    assert_eq!(frames.count(pa), COUNT_END);
    for _ in 0..5 {
        assert!(!frames.put(pa));
    }
    assert_eq!(frames.kind(pa), Some(Kind::Guest));
}

#[derive(Clone, Debug)]
enum Op {
    Alloc,
    AllocBlock,
    Get(usize),
    Put(usize),
    GetOfBlock(usize, usize),
    GetBlock(usize),
    PutBlock(usize),
    Split(usize),
    GetMany(usize, usize),
    PutMany(usize, usize),
    Pin(usize),
    Unpin(usize),
    Fill(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let any = || 0..10_000usize;
    prop_oneof![
        4 => Just(Op::Alloc),
        3 => Just(Op::AllocBlock),
        3 => any().prop_map(Op::Get),
        4 => any().prop_map(Op::Put),
        3 => (any(), any()).prop_map(|(at, page)| Op::GetOfBlock(at, page)),
        3 => any().prop_map(Op::GetBlock),
        4 => any().prop_map(Op::PutBlock),
        3 => any().prop_map(Op::Split),
        3 => (any(), any()).prop_map(|(from, many)| Op::GetMany(from, many)),
        3 => (any(), any()).prop_map(|(from, many)| Op::PutMany(from, many)),
        1 => any().prop_map(Op::Pin),
        1 => any().prop_map(Op::Unpin),
        1 => any().prop_map(Op::Fill),
    ]
}

/// Every reference there is, by what it refers to.
#[derive(Default)]
struct Model {
    pages: BTreeMap<Pa, u32>,
    blocks: BTreeMap<Pa, u32>,
    pins: BTreeMap<Pa, u16>,
}

impl Model {
    fn pick<V>(map: &BTreeMap<Pa, V>, at: usize) -> Option<Pa> {
        map.keys().nth(at % map.len().max(1)).copied()
    }

    fn block_of(pa: Pa) -> Pa {
        Pa(pa.0 & !(BLOCK_SIZE - 1))
    }

    fn used(&self) -> BTreeSet<Pa> {
        let blocks = self.blocks.keys().flat_map(|block| (0..512).map(|page| Pa(block.0 + page * PAGE_SIZE)));
        blocks.chain(self.pages.keys().copied()).chain(self.pins.keys().copied()).collect()
    }

    /// Returns pages in a row, with a few moved so that rows are broken.
    fn some(&self, from: usize, many: usize) -> Vec<Pa> {
        let mut pages: Vec<_> = self.pages.keys().copied().skip(from % 700).take(many % 600).collect();
        for at in (from % 7..pages.len()).step_by(1 + many % 13) {
            pages.swap(at, from % (at + 1));
        }
        pages
    }

    fn forget(&mut self, pa: Pa) {
        let count = self.pages.get_mut(&pa).unwrap();
        *count -= 1;
        if *count == 0 {
            self.pages.remove(&pa);
        }
    }

    fn put(&mut self, frames: &mut Frames<'_>, pa: Pa) {
        self.forget(pa);
        let is_free = frames.put(pa);
        let is_kept = self.pages.contains_key(&pa)
            || self.pins.contains_key(&pa)
            || self.blocks.contains_key(&Self::block_of(pa));
        assert_eq!(is_free, !is_kept);
    }

    fn check(&self, frames: &Frames<'_>, all: &BTreeSet<Pa>) {
        let used = self.used();
        assert_eq!(frames.stats().frames(Kind::Guest), used.len());
        assert_eq!(frames.stats().frames(Kind::Free), all.len() - used.len());
        for &pa in all {
            let expected = if used.contains(&pa) { Kind::Guest } else { Kind::Free };
            assert_eq!(frames.kind(pa), Some(expected), "{pa}");
            let count = self.pages.get(&pa).copied().unwrap_or(0);
            let block_refs = self.blocks.get(&Self::block_of(pa)).copied().unwrap_or(0);
            assert_eq!((frames.count(pa), frames.block_count(pa)), (count, block_refs), "{pa}");
            assert_eq!(frames.pins(pa), self.pins.get(&pa).copied().unwrap_or(0));
            if count != 0 {
                assert_eq!(frames.is_exclusive(pa), count == 1 && block_refs == 0);
            }
        }
        for (&block, &refs) in &self.blocks {
            let is_alone = self.pages.keys().chain(self.pins.keys()).all(|&pa| Self::block_of(pa) != block);
            assert_eq!(frames.is_exclusive_block(block), refs == 1 && is_alone);
        }
        let whole = all.iter().filter(|pa| pa.is_aligned(BLOCK_SIZE)).filter(|block| {
            (0..512).map(|page| Pa(block.0 + page * PAGE_SIZE)).all(|pa| all.contains(&pa) && !used.contains(&pa))
        });
        assert_eq!(frames.stats().free_blocks, whole.count());
    }

    fn apply(&mut self, frames: &mut Frames<'_>, op: &Op) {
        match *op {
            Op::Alloc => match frames.alloc(Kind::Guest) {
                Ok(pa) => {
                    let is_used = self.pages.contains_key(&pa)
                        || self.pins.contains_key(&pa)
                        || self.blocks.contains_key(&Self::block_of(pa));
                    assert!(!is_used, "{pa} is in use");
                    self.pages.insert(pa, 1);
                }
                Err(OutOfMemory) => assert_eq!(frames.stats().frames(Kind::Free), 0),
            },
            Op::AllocBlock => match frames.alloc_block() {
                Ok(block) => {
                    let used = self.used();
                    assert!((0..512).all(|page| !used.contains(&Pa(block.0 + page * PAGE_SIZE))));
                    self.blocks.insert(block, 1);
                }
                Err(OutOfMemory) => assert_eq!(frames.stats().free_blocks, 0),
            },
            Op::Get(at) => {
                if let Some(pa) = Self::pick(&self.pages, at) {
                    frames.get(pa);
                    *self.pages.get_mut(&pa).unwrap() += 1;
                }
            }
            Op::Put(at) => {
                if let Some(pa) = Self::pick(&self.pages, at) {
                    self.put(frames, pa);
                }
            }
            Op::GetMany(from, many) => {
                let pages = self.some(from, many);
                frames.get_all(entries(&pages));
                for pa in pages {
                    *self.pages.get_mut(&pa).unwrap() += 1;
                }
            }
            Op::PutMany(from, many) => {
                let pages = self.some(from, many);
                let free = frames.stats().frames(Kind::Free);
                let freed = frames.put_all(entries(&pages));
                assert_eq!(frames.stats().frames(Kind::Free), free + freed);
                for pa in pages {
                    self.forget(pa);
                }
            }
            Op::GetOfBlock(at, page) => {
                // One that was mapped by pages: its frames have records.
                let was_split = |block: Pa| self.pages.keys().any(|&pa| Self::block_of(pa) == block);
                if let Some(block) = Self::pick(&self.blocks, at).filter(|&block| was_split(block)) {
                    let pa = Pa(block.0 + (page % 512) as u64 * PAGE_SIZE);
                    frames.get_page(pa);
                    *self.pages.entry(pa).or_default() += 1;
                }
            }
            Op::GetBlock(at) => {
                if let Some(block) = Self::pick(&self.blocks, at) {
                    frames.get_block(block);
                    *self.blocks.get_mut(&block).unwrap() += 1;
                }
            }
            Op::PutBlock(at) => {
                if let Some(block) = Self::pick(&self.blocks, at) {
                    self.drop_block(block);
                    frames.put_block(block);
                }
            }
            Op::Split(at) => {
                if let Some(block) = Self::pick(&self.blocks, at) {
                    self.drop_block(block);
                    frames.split_block(block);
                    for page in 0..512 {
                        *self.pages.entry(Pa(block.0 + page * PAGE_SIZE)).or_default() += 1;
                    }
                }
            }
            Op::Pin(at) => {
                if let Some(pa) = Self::pick(&self.pages, at) {
                    frames.pin(pa).unwrap();
                    *self.pins.entry(pa).or_default() += 1;
                }
            }
            Op::Unpin(at) => {
                if let Some(pa) = Self::pick(&self.pins, at) {
                    self.unpin(frames, pa);
                }
            }
            Op::Fill(many) => {
                for _ in 0..many % 1500 {
                    self.apply(frames, &Op::Alloc);
                }
            }
        }
    }

    fn unpin(&mut self, frames: &mut Frames<'_>, pa: Pa) {
        frames.unpin(pa);
        let pins = self.pins.get_mut(&pa).unwrap();
        *pins -= 1;
        if *pins == 0 {
            self.pins.remove(&pa);
        }
    }

    fn drop_block(&mut self, block: Pa) {
        let refs = self.blocks.get_mut(&block).unwrap();
        *refs -= 1;
        if *refs == 0 {
            self.blocks.remove(&block);
        }
    }
}

/// Returns the entries of pages of a guest, as a node has them.
fn entries(pages: &[Pa]) -> impl Iterator<Item = [u64; GROUP]> {
    pages.chunks(GROUP).map(|chunk| std::array::from_fn(|at| chunk.get(at).map_or(0, |pa| pa.0 | 0x7c3)))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "looks at thousands of frames after every step")]
    fn frames_are_free_exactly_when_nothing_refers_to_them(
        ops in prop::collection::vec(op(), 1..60)
    ) {
        let mut words = storage(&BANKS);
        let mut frames = Frames::new(&BANKS, &mut words).unwrap();
        let all = ram();
        let mut model = Model::default();
        for op in &ops {
            model.apply(&mut frames, op);
            model.check(&frames, &all);
        }
        while let Some(pa) = Model::pick(&model.pins, 0) {
            model.unpin(&mut frames, pa);
        }
        while let Some(block) = Model::pick(&model.blocks, 0) {
            model.drop_block(block);
            frames.put_block(block);
        }
        while let Some(pa) = Model::pick(&model.pages, 0) {
            model.put(&mut frames, pa);
        }
        model.check(&frames, &all);
    }
}
