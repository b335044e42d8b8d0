//! Several VMs on one test machine. After every operation all is checked: what each VM reads, what each TLB remembers, and
//! that all tables, counted anew, give the counts in the frame table.

use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{FRAMES_PER_BLOCK, Kind, OutOfMemory};
use crate::stage2::entry::{Entry, VALID};
use crate::stage2::{
    Access, AddressSpace, Census, CreateError, ENTRIES, Fault, ForkError, IDENTITY_PAGE, Level, MapError, MemAttr,
    MergeProgress, Merger, PinError, Policy, RevertError, TableMem,
};
use crate::testing::{Machine, VmName, VmTlb};
use salp_hvc::bootset::RAM_BASE;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

/// Memory with an odd start, a hole, and two banks that meet in one block.
pub const BANKS: [Range<Pa>; 3] =
    [Pa(0x8000_0000)..Pa(0x8060_0000), Pa(0x4010_1000)..Pa(0x4075_0000), Pa(0x4075_3000)..Pa(0x40a0_0800)];

/// RAM of a VM on both sides of a boundary of 1 GiB: part of a block, two blocks, part of a block.
pub const RAM: Range<Ipa> = Ipa(0x7fd0_0000)..Ipa(0x8030_0000);

/// Where images are.
pub const IMAGE: Range<Pa> = Pa(0x8020_0000)..Pa(0x8040_3000);

/// A page in a region that is not RAM as a whole.
pub const PAGE: Ipa = Ipa(0x7fd0_0000);

/// A page in a region of 2 MiB that is.
pub const IN_BLOCK: Ipa = Ipa(0x7fe4_2000);

/// Runs a story on a machine of its own and checks that all memory is back at the end.
pub fn on_machine(story: impl FnOnce(&mut World<'_>)) {
    let mut storage = Machine::storage(&BANKS);
    let machine = Machine::new(&BANKS, &mut storage, first_word);
    let mut slots = [0; SLOTS];
    let mut world = World::new(&machine, &mut slots);
    let free = world.free();
    story(&mut world);
    world.check();
    world.finish(free);
}

/// Storage of the merger: few places, so that it is full soon.
pub const SLOTS: usize = 16 * Merger::WORDS_PER_PAGE;

/// Returns what memory holds at first: the image, and garbage elsewhere, which no VM may ever see.
pub const fn first_word(pa: Pa) -> u64 {
    pa.0 ^ 0x1234_5678_9abc_def0
}

pub struct Vm {
    pub name: VmName,
    pub space: AddressSpace,
    /// What it must read, by address of the word; what is not here is zero.
    pub bytes: HashMap<Ipa, u64>,
    /// Where image pages were mapped.
    pub image: Vec<(Range<Ipa>, Pa)>,
    pub pins: BTreeMap<Ipa, Pa>,
    pub is_sealed: bool,
    /// Which images it was made from.
    pub images: BTreeSet<usize>,
    /// With whom it may share what is equal.
    pub domain: u64,
    /// Where merging goes on.
    pub cursor: Ipa,
}

impl Vm {
    /// Returns what the model says.
    pub fn expected(&self, ipa: Ipa) -> u64 {
        if let Some(&value) = self.bytes.get(&ipa) {
            return value;
        }
        let image = self.image.iter().find(|(range, _)| range.contains(&ipa));
        image.map_or(0, |(range, pa)| first_word(Pa(pa.0 + (ipa.0 - range.start.0))))
    }
}

/// An image that a manager fills.
pub struct Image {
    /// Its name, never used again.
    pub name: usize,
    pub space: AddressSpace,
    /// What was written, by offset of the word.
    pub words: BTreeMap<u64, u64>,
    pub is_finished: bool,
}

pub struct World<'a> {
    pub machine: &'a Machine<'a>,
    pub vms: Vec<Vm>,
    pub images: Vec<Image>,
    pub merger: Merger<'a>,
    next: VmName,
    /// Frames taken away to make memory scarce.
    hogged: Vec<Pa>,
    /// Frames pinned by VMs that are gone.
    orphans: BTreeSet<Pa>,
}

impl<'a> World<'a> {
    pub fn new(machine: &'a Machine<'a>, slots: &'a mut [u64]) -> Self {
        machine.frames.borrow_mut().adopt_image(IMAGE).expect("it is free");
        Self {
            machine,
            vms: Vec::new(),
            images: Vec::new(),
            merger: Merger::new(slots),
            next: 0,
            hogged: Vec::new(),
            orphans: BTreeSet::new(),
        }
    }

    fn tlb(&self, vm: usize, cpu: usize) -> VmTlb<'a> {
        VmTlb { machine: self.machine, vm: self.vms[vm].name, cpu }
    }

    /// That of an image: no MMU walks its tree.
    const fn no_tlb(&self) -> VmTlb<'a> {
        VmTlb { machine: self.machine, vm: VmName::MAX, cpu: 0 }
    }

    fn add(&mut self, space: AddressSpace, of: Option<usize>) -> usize {
        let name = self.next;
        self.next += 1;
        self.machine.enter(name, space.root());
        let (bytes, image) =
            of.map_or_else(Default::default, |of| (self.vms[of].bytes.clone(), self.vms[of].image.clone()));
        let domain = of.map_or(u64::from(name % 2), |of| self.vms[of].domain);
        let images = of.map_or_else(BTreeSet::new, |of| self.vms[of].images.clone());
        let cursor = Ipa(0);
        self.vms.push(Vm {
            name,
            space,
            bytes,
            image,
            pins: BTreeMap::new(),
            is_sealed: false,
            images,
            domain,
            cursor,
        });
        self.vms.len() - 1
    }

    pub fn create(&mut self, policy: Policy) -> Result<usize, CreateError> {
        let space = AddressSpace::new(&self.machine.frames, self.machine, RAM, policy, MemAttr::WriteBack)?;
        Ok(self.add(space, None))
    }

    /// Maps the image: a block and two pages at the boundary, three pages elsewhere.
    pub fn map_image(&mut self, vm: usize) {
        for (ipa, pa, bytes) in [
            (Ipa(0x8000_0000), IMAGE.start, BLOCK_SIZE + 2 * PAGE_SIZE),
            (Ipa(0x7fd0_1000), Pa(IMAGE.start.0 + 5 * PAGE_SIZE), 3 * PAGE_SIZE - 8),
        ] {
            let vm = &mut self.vms[vm];
            vm.space.map_image(&self.machine.frames, self.machine, ipa, pa, bytes).expect("it fits");
            vm.image.push((ipa..Ipa((ipa.0 + bytes).next_multiple_of(PAGE_SIZE)), pa));
        }
    }

    /// Makes an image of so many bytes, for which frames are set aside.
    pub fn create_image(&mut self, size: u64) -> Result<usize, CreateError> {
        let ram = Ipa(RAM_BASE)..Ipa(RAM_BASE + size);
        let (frames, machine, tlb) = (&self.machine.frames, self.machine, self.no_tlb());
        let mut space = AddressSpace::new(frames, machine, ram, Policy::Blocks, MemAttr::WriteBack)?;
        let promise = space.full_promise();
        if let Err(error) = space.set_promise(frames, promise) {
            space.destroy(frames, machine, &tlb);
            return Err(error.into());
        }
        let name = self.next as usize;
        self.next += 1;
        self.images.push(Image { name, space, words: BTreeMap::new(), is_finished: false });
        Ok(self.images.len() - 1)
    }

    /// Writes words into an image that is not finished.
    pub fn fill_image(&mut self, image: usize, offset: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let tlb = self.no_tlb();
        let image = &mut self.images[image];
        let at = Ipa(RAM_BASE + offset);
        image.space.fill_image(&self.machine.frames, self.machine, &tlb, at, &bytes).expect("its frames are set aside");
        let (pa, _) = image.space.translate(self.machine, at).expect("it was written");
        assert!(!self.machine.is_cached(pa), "a guest whose caches are off sees it");
        image.words.extend((offset..).step_by(8).zip(words.iter().copied()));
    }

    pub fn finish_image(&mut self, image: usize) {
        let image = &mut self.images[image];
        image.space.finish_image(&self.machine.frames, self.machine).expect("its frames are set aside");
        image.is_finished = true;
    }

    /// Maps `bytes` bytes at `offset` of an image into a VM.
    pub fn map_from(&mut self, vm: usize, ipa: Ipa, image: usize, offset: u64, bytes: u64) -> Result<(), MapError> {
        let (vm, image) = (&mut self.vms[vm], &self.images[image]);
        let from = Ipa(RAM_BASE + offset);
        // Part of it may be there if it fails.
        vm.images.insert(image.name);
        vm.space.map_from(&self.machine.frames, self.machine, ipa, &image.space, from, bytes)?;
        let words = image.words.range(offset..offset + bytes.next_multiple_of(PAGE_SIZE));
        vm.bytes.extend(words.map(|(at, &word)| (Ipa(ipa.0 + at - offset), word)));
        Ok(())
    }

    /// Returns true if a VM was made from the image, or from one that was.
    pub fn is_used(&self, image: usize) -> bool {
        self.vms.iter().any(|vm| vm.images.contains(&self.images[image].name))
    }

    /// Deletes an image that no VM uses.
    pub fn delete_image(&mut self, image: usize) {
        assert!(!self.is_used(image));
        let image = self.images.remove(image);
        image.space.destroy(&self.machine.frames, self.machine, &self.no_tlb());
    }

    /// The VM is told who it is.
    pub fn put_identity(&mut self, vm: usize, identity: u128) -> Result<(), Fault> {
        let tlb = self.tlb(vm, 0);
        let vm = &mut self.vms[vm];
        vm.space.put_identity(&self.machine.frames, self.machine, &tlb, &identity.to_le_bytes())?;
        let (pa, is_writable) = vm.space.translate(self.machine, IDENTITY_PAGE).expect("it is there");
        assert!(is_writable && !self.machine.is_cached(pa), "a guest that maps it as device memory sees it");
        vm.bytes.insert(IDENTITY_PAGE, identity as u64);
        vm.bytes.insert(Ipa(IDENTITY_PAGE.0 + 8), (identity >> 64) as u64);
        Ok(())
    }

    /// Sets frames aside for a VM.
    pub fn set_promise(&mut self, vm: usize, count: usize) -> Result<(), OutOfMemory> {
        self.vms[vm].space.set_promise(&self.machine.frames, count)
    }

    /// Does a step of merging.
    pub fn merge(&mut self, vm: usize, pages: usize) -> MergeProgress {
        let tlb = self.tlb(vm, 0);
        let vm = &mut self.vms[vm];
        vm.space.merge_step(
            &self.machine.frames,
            self.machine,
            &tlb,
            &mut self.merger,
            vm.domain,
            &mut vm.cursor,
            pages,
        )
    }

    /// Does a step of merging, during which a vCPU stores a word if it can do so without a fault.
    pub fn merge_while(&mut self, vm: usize, pages: usize, store: Option<(Ipa, u64)>) -> MergeProgress {
        let name = self.vms[vm].name;
        let store = store.filter(|(ipa, _)| RAM.contains(ipa));
        self.machine.meanwhile.set(store.map(|(ipa, value)| (name, 1, ipa, value)));
        let progress = self.merge(vm, pages);
        self.machine.meanwhile.set(None);
        if let Some((ipa, value)) = store
            && self.machine.is_stored.take()
        {
            self.vms[vm].bytes.insert(ipa, value);
        }
        progress
    }

    /// Merges all of every VM, so many times.
    pub fn merge_all(&mut self, passes: usize) -> MergeProgress {
        let mut total = MergeProgress::default();
        for _ in 0..passes {
            for vm in 0..self.vms.len() {
                loop {
                    let progress = self.merge(vm, 7);
                    total.scanned += progress.scanned;
                    total.merged += progress.merged;
                    total.zeroed += progress.zeroed;
                    if progress.at_end {
                        break;
                    }
                }
                self.check();
            }
        }
        total
    }

    /// Guest code touches a word; EL2 handles the faults.
    fn touch(&mut self, vm: usize, cpu: usize, ipa: Ipa, is_write: bool) -> Result<Pa, Fault> {
        let tlb = self.tlb(vm, cpu);
        for _ in 0..4 {
            let vm = &mut self.vms[vm];
            if let Some(pa) = self.machine.mmu(vm.name, cpu, ipa, is_write) {
                return Ok(pa);
            }
            let access = if is_write { Access::Write } else { Access::Read };
            let promise = vm.space.promise();
            let result = vm.space.fault(&self.machine.frames, self.machine, &tlb, ipa, access);
            // Two nodes and a page.
            assert!(result != Err(Fault::OutOfMemory) || promise < 3, "a promise is not honoured");
            result?;
        }
        panic!("VM {} faults for ever at {ipa}", self.vms[vm].name);
    }

    pub fn guest_read(&mut self, vm: usize, cpu: usize, ipa: Ipa) -> Result<u64, Fault> {
        let blocks = self.vms[vm].space.counters().zeroed_blocks;
        let pa = self.touch(vm, cpu, ipa, false)?;
        // A new block is writable at once.
        self.vms[vm].is_sealed &= self.vms[vm].space.counters().zeroed_blocks == blocks;
        let value = self.machine.word(pa);
        assert_eq!(value, self.vms[vm].expected(ipa), "VM {} reads at {ipa}", self.vms[vm].name);
        Ok(value)
    }

    pub fn guest_write(&mut self, vm: usize, cpu: usize, ipa: Ipa, value: u64) -> Result<(), Fault> {
        let pa = self.touch(vm, cpu, ipa, true)?;
        self.machine.set_word(pa, value);
        self.vms[vm].bytes.insert(ipa, value);
        self.vms[vm].is_sealed = false;
        Ok(())
    }

    /// A device writes words.
    pub fn device_write(&mut self, vm: usize, ipa: Ipa, words: &[u64]) -> Result<(), Fault> {
        let tlb = self.tlb(vm, 0);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let vm = &mut self.vms[vm];
        vm.space.write(&self.machine.frames, self.machine, &tlb, ipa, &bytes)?;
        for (index, &word) in words.iter().enumerate() {
            vm.bytes.insert(Ipa(ipa.0 + index as u64 * 8), word);
        }
        vm.is_sealed = false;
        Ok(())
    }

    pub fn fork(&mut self, vm: usize) -> Result<usize, ForkError> {
        let tlb = self.tlb(vm, 0);
        let pinned: Vec<Ipa> = self.vms[vm].pins.keys().copied().collect();
        let child = self.vms[vm].space.fork(&self.machine.frames, self.machine, &tlb, &pinned)?;
        if !pinned.is_empty() {
            self.vms[vm].is_sealed = false;
        }
        let child = self.add(child, Some(vm));
        // Who the source is says nothing of the child.
        self.vms[child].bytes.retain(|ipa, _| RAM.contains(ipa));
        self.vms[child].is_sealed = self.vms[vm].is_sealed;
        Ok(child)
    }

    pub fn seal(&mut self, vm: usize) {
        let tlb = self.tlb(vm, 0);
        self.vms[vm].space.seal(&self.machine.frames, self.machine, &tlb);
        self.vms[vm].is_sealed = true;
    }

    pub fn revert(&mut self, vm: usize, to: usize) -> Result<(), RevertError> {
        let tlb = self.tlb(vm, 0);
        let mut own = self.vms.remove(vm);
        let other = &self.vms[if to > vm { to - 1 } else { to }];
        let result = own.space.revert(&self.machine.frames, self.machine, &tlb, &other.space);
        if result.is_ok() {
            own.bytes.retain(|ipa, _| !RAM.contains(ipa));
            own.bytes.extend(other.bytes.iter().filter(|(ipa, _)| RAM.contains(ipa)));
            own.image = other.image.clone();
            own.domain = other.domain;
            own.images = other.images.clone();
            // Its own nodes may have lazy entries.
            own.is_sealed = false;
        }
        self.vms.insert(vm, own);
        result
    }

    pub fn destroy(&mut self, vm: usize) {
        let tlb = self.tlb(vm, 0);
        let vm = self.vms.remove(vm);
        self.orphans.extend(vm.pins.values());
        let mut teardown = vm.space.into_teardown(&tlb);
        self.machine.leave(vm.name);
        while !teardown.step(&self.machine.frames, self.machine) {}
    }

    pub fn pin(&mut self, vm: usize, page: Ipa) -> Result<Pa, PinError> {
        let tlb = self.tlb(vm, 0);
        let vm = &mut self.vms[vm];
        let pa = vm.space.pin(&self.machine.frames, self.machine, &tlb, page)?;
        vm.is_sealed = false;
        vm.pins.insert(page, pa);
        Ok(pa)
    }

    pub fn unpin(&mut self, vm: usize, page: Ipa) {
        let vm = &mut self.vms[vm];
        let was_pinned = vm.space.unpin(&self.machine.frames, self.machine, page);
        assert_eq!(was_pinned, vm.pins.remove(&page).is_some());
    }

    /// The devices that pinned pages of VMs that are gone let go of them.
    pub fn drop_orphans(&mut self) {
        for pa in std::mem::take(&mut self.orphans) {
            self.machine.frames.borrow_mut().unpin(pa);
        }
    }

    /// Leaves only so many frames free.
    pub fn squeeze(&mut self, left: usize) {
        self.relax();
        let mut frames = self.machine.frames.borrow_mut();
        while let Ok(pa) = frames.alloc(Kind::Hyp) {
            self.hogged.push(pa);
        }
        for pa in self.hogged.drain(self.hogged.len().saturating_sub(left)..) {
            frames.free(pa);
        }
    }

    /// Makes memory plentiful again.
    pub fn relax(&mut self) {
        let mut frames = self.machine.frames.borrow_mut();
        for pa in self.hogged.drain(..) {
            frames.free(pa);
        }
    }

    /// Checks everything.
    pub fn check(&self) {
        self.machine.check_tlbs();
        if cfg!(miri) {
            // Looking at every entry takes Miri minutes.
            return;
        }
        let mut recount = Recount::default();
        for vm in &self.vms {
            self.check_bytes(vm);
            assert_eq!(*recount.nodes.entry(vm.space.root()).or_default(), 0, "a root has one user");
            recount.nodes.insert(vm.space.root(), 1);
            self.recount(vm.space.root(), Level::One, &mut recount);
            let mut faultless = vm.is_sealed;
            self.check_rights(vm.space.root(), Level::One, true, false, &mut faultless);
            assert_eq!(faultless, vm.is_sealed, "VM {} was sealed, and would take a fault to read", vm.name);
            for (&ipa, &pa) in &vm.pins {
                assert_eq!(vm.space.translate(self.machine, ipa).expect("it is there").0, pa, "a pinned page moved");
            }
            self.check_identity(vm);
        }
        for image in &self.images {
            recount.nodes.insert(image.space.root(), 1);
            self.recount(image.space.root(), Level::One, &mut recount);
            let is_finished = image.is_finished;
            self.check_image(image);
            self.check_rights(image.space.root(), Level::One, !is_finished, false, &mut true);
        }
        for pa in self.merger.frames() {
            *recount.pages.entry(pa).or_default() += 1;
        }
        self.check_counts(&recount);
        self.check_domains();
        self.check_promises();
        self.check_census(&recount);
    }

    /// Nobody else has a node on the way to the identity page, nor the page.
    fn check_identity(&self, vm: &Vm) {
        let frames = self.machine.frames.borrow();
        for (_, _, node) in self.machine.walk(vm.space.root(), IDENTITY_PAGE).tables {
            assert_eq!(frames.count(node), 1, "the way to who VM {} is, is shared", vm.name);
        }
        if let Some((pa, _)) = vm.space.translate(self.machine, IDENTITY_PAGE) {
            assert!(frames.zero_page() == Some(pa) || frames.is_exclusive(pa), "who VM {} is, is shared", vm.name);
        }
    }

    /// An image holds what was written; a finished one is read-only, and its frames are its own to give.
    fn check_image(&self, image: &Image) {
        for (&offset, &value) in &image.words {
            let (ipa, mut word) = (Ipa(RAM_BASE + offset), [0; 8]);
            image.space.read(self.machine, ipa, &mut word).expect("RAM");
            assert_eq!(u64::from_le_bytes(word), value, "image {} has another value at {offset:#x}", image.name);
            let (pa, is_writable) = image.space.translate(self.machine, ipa).expect("it was written");
            let kind = if image.is_finished { Kind::Image } else { Kind::Guest };
            assert_eq!(self.machine.frames.borrow().kind(pa), Some(kind), "image {} at {offset:#x}", image.name);
            assert!(!(image.is_finished && is_writable), "image {} can be written", image.name);
        }
    }

    fn check_bytes(&self, vm: &Vm) {
        for (&ipa, &value) in &vm.bytes {
            let mut word = [0; 8];
            vm.space.read(self.machine, ipa, &mut word).expect("RAM");
            assert_eq!(u64::from_le_bytes(word), value, "VM {} has another value at {ipa}", vm.name);
        }
    }

    /// Compares every byte of a VM with the model.
    pub fn check_all_bytes(&self, vm: usize) {
        let vm = &self.vms[vm];
        let mut page = [0; PAGE_SIZE as usize];
        for at in (RAM.start.0..RAM.end.0).step_by(PAGE_SIZE as usize).chain([IDENTITY_PAGE.0]) {
            vm.space.read(self.machine, Ipa(at), &mut page).expect("RAM");
            for (index, word) in page.as_chunks::<8>().0.iter().enumerate() {
                let ipa = Ipa(at + index as u64 * 8);
                assert_eq!(u64::from_le_bytes(*word), vm.expected(ipa), "VM {} at {ipa}", vm.name);
            }
        }
    }

    /// Counts every entry of every node once.
    fn recount(&self, node: Pa, level: Level, counts: &mut Recount) {
        for index in 0..ENTRIES {
            self.recount_entry(self.machine.read(node, index), level, counts);
        }
    }

    fn recount_entry(&self, raw: u64, level: Level, counts: &mut Recount) {
        match Entry::decode(raw, level) {
            Entry::Absent => {}
            Entry::Lazy(child) | Entry::Table(child) => {
                let count = counts.nodes.entry(child).or_default();
                *count += 1;
                if *count == 1 {
                    self.recount(child, if level == Level::One { Level::Two } else { Level::Three }, counts);
                }
            }
            Entry::Leaf { pa, .. } if level == Level::Two => *counts.blocks.entry(pa).or_default() += 1,
            Entry::Leaf { pa, .. } => *counts.pages.entry(pa).or_default() += 1,
        }
    }

    /// Checks who may write, and what is marked as sealed. `faultless` becomes false if reading may fault.
    fn check_rights(&self, node: Pa, level: Level, is_valid: bool, is_shared: bool, faultless: &mut bool) {
        let frames = self.machine.frames.borrow();
        let is_shared = is_shared || frames.count(node) > 1;
        let is_marked = level != Level::One && frames.is_sealed(node);
        assert!(is_marked || !is_valid || !is_shared, "{node} is shared and linked valid, but not sealed");
        drop(frames);
        let below = if level == Level::One { Level::Two } else { Level::Three };
        for index in 0..ENTRIES {
            let raw = self.machine.read(node, index);
            match Entry::decode(raw, level) {
                Entry::Absent => {}
                Entry::Lazy(child) | Entry::Table(child) => {
                    let is_child_marked = self.machine.frames.borrow().is_sealed(child);
                    assert!(!is_marked || raw & VALID == 0 || is_child_marked, "{node} is not really sealed");
                    *faultless &= raw & VALID != 0;
                    self.check_rights(child, below, is_valid && raw & VALID != 0, is_shared, faultless);
                }
                Entry::Leaf { pa, is_writable } => {
                    let frames = self.machine.frames.borrow();
                    assert!(!(is_marked && is_writable), "{node} is marked as sealed and has a writable leaf");
                    assert!(!(is_valid && is_writable && is_shared), "{pa} can be written through a shared path");
                    let is_exclusive =
                        if level == Level::Two { frames.is_exclusive_block(pa) } else { frames.is_exclusive(pa) };
                    assert!(!is_writable || is_exclusive, "{pa} is shared and writable");
                }
            }
        }
    }

    fn check_counts(&self, recount: &Recount) {
        let frames = self.machine.frames.borrow();
        for (&node, &count) in &recount.nodes {
            assert_eq!((frames.kind(node), frames.count(node)), (Some(Kind::Node), count), "node {node}");
        }
        for (&pa, &count) in &recount.pages {
            let kept = u32::from(IMAGE.contains(&pa) || frames.kind(pa) == Some(Kind::Zero));
            assert_eq!(frames.count(pa), count + kept, "page {pa}");
        }
        for (&pa, &count) in &recount.blocks {
            assert_eq!(frames.block_count(pa), count, "block {pa}");
        }
        let guest = recount.guest_frames(|pa| frames.kind(pa) == Some(Kind::Guest), &self.orphans);
        let stats = frames.stats();
        assert_eq!(stats.frames(Kind::Guest), guest.len(), "guest frames");
        assert_eq!(stats.frames(Kind::Node), recount.nodes.len(), "nodes");
        assert_eq!(stats.frames(Kind::Hyp), self.hogged.len());
    }

    /// No frame with contents is in VMs of two domains.
    fn check_domains(&self) {
        let mut domains: BTreeMap<Pa, u64> = BTreeMap::new();
        for vm in &self.vms {
            let mut own = Recount::default();
            self.recount(vm.space.root(), Level::One, &mut own);
            for pa in self.guest_frames(&own) {
                let domain = *domains.entry(pa).or_insert(vm.domain);
                assert_eq!(domain, vm.domain, "{pa} is in two domains");
            }
        }
    }

    fn check_promises(&self) {
        let stats = self.machine.frames.borrow().stats();
        let spaces = self.vms.iter().map(|vm| &vm.space).chain(self.images.iter().map(|image| &image.space));
        let promised: usize = spaces.map(AddressSpace::promise).sum();
        assert_eq!(stats.promised, promised);
        assert!(promised <= stats.frames(Kind::Free), "promised frames are free");
        for vm in &self.vms {
            let mut own = Recount::default();
            for index in Level::One.index(RAM.start)..=Level::One.index(RAM.end) {
                self.recount_entry(self.machine.read(vm.space.root(), index), Level::One, &mut own);
            }
            // Nodes that only lead to pages of zeros may have been made by others.
            let guest = self.guest_entries(&own);
            let owned = vm.space.owned_pages();
            assert!((guest..=guest + own.nodes.len()).contains(&owned), "{owned} instead of {guest} and nodes");
            let full = vm.space.full_promise();
            assert!(vm.space.fork_promise() >= vm.space.promise().min(full) && owned <= full);
        }
    }

    /// Returns how many pages of guest memory what was recounted maps.
    fn guest_entries(&self, recount: &Recount) -> usize {
        let frames = self.machine.frames.borrow();
        let is_guest = |pa: Pa| frames.kind(pa) == Some(Kind::Guest);
        let pages = recount.pages.iter().filter(|&(&pa, _)| is_guest(pa)).map(|(_, &count)| count as usize);
        let blocks = recount.blocks.iter().filter(|&(&pa, _)| is_guest(pa));
        pages.sum::<usize>() + blocks.map(|(_, &count)| count as usize * FRAMES_PER_BLOCK).sum::<usize>()
    }

    /// Returns the frames of guests that what was recounted leads to.
    fn guest_frames(&self, recount: &Recount) -> BTreeSet<Pa> {
        let frames = self.machine.frames.borrow();
        recount.guest_frames(|pa| frames.kind(pa) == Some(Kind::Guest), &BTreeSet::new())
    }

    /// The public census says the same as the recount, and the parts of all VMs make up what there is.
    fn check_census(&self, recount: &Recount) {
        let mut parts = 0;
        for vm in &self.vms {
            let census = vm.space.census(&self.machine.frames, self.machine);
            let mut expected = Census::default();
            self.brute_census(recount, vm.space.root(), Level::One, Parts::default(), &mut expected);
            assert_eq!(census, expected, "VM {}", vm.name);
            assert!(census.saved() <= (census.shared + census.shared_nodes) * PAGE_SIZE);
            parts += (census.private + census.private_nodes) << 32;
            parts += census.part;
        }
        let frames = self.machine.frames.borrow();
        let has_contents = |pa: &Pa| matches!(frames.kind(*pa), Some(Kind::Image | Kind::Zero));
        let kept = recount.pages.keys().chain(recount.blocks.keys()).any(has_contents);
        let stats = frames.stats();
        let all = ((stats.frames(Kind::Guest) + stats.frames(Kind::Node)) as u64) << 32;
        if !kept && self.images.is_empty() && self.merger.stable() == 0 && self.orphans.is_empty() {
            assert!(parts <= all && all - parts < 1 << 20, "{parts:#x} of {all:#x}");
        }
    }

    /// Counts as the census does, from the recount. `parts` is by how much each node above is divided, the lowest last.
    fn brute_census(&self, recount: &Recount, node: Pa, level: Level, parts: Parts, census: &mut Census) {
        let parts = parts.divided(recount.nodes[&node]);
        if parts.is_whole() {
            census.private_nodes += 1;
        } else {
            census.shared_nodes += 1;
            census.part += parts.of_frame();
        }
        for index in 0..ENTRIES {
            match Entry::decode(self.machine.read(node, index), level) {
                Entry::Absent => {}
                Entry::Lazy(child) | Entry::Table(child) => {
                    let below = if level == Level::One { Level::Two } else { Level::Three };
                    self.brute_census(recount, child, below, parts.clone(), census);
                }
                Entry::Leaf { pa, .. } => {
                    let pages = if level == Level::Two { FRAMES_PER_BLOCK as u64 } else { 1 };
                    for page in 0..pages {
                        let pa = Pa(pa.0 + page * PAGE_SIZE);
                        let block = Pa(pa.0 & !(BLOCK_SIZE - 1));
                        let kind = self.machine.frames.borrow().kind(pa);
                        let references = recount.pages.get(&pa).unwrap_or(&0)
                            + recount.blocks.get(&block).unwrap_or(&0)
                            + u32::from(IMAGE.contains(&pa) || kind == Some(Kind::Zero));
                        let parts = parts.divided(references);
                        if parts.is_whole() {
                            census.private += 1;
                        } else {
                            census.shared += 1;
                            census.part += parts.of_frame();
                        }
                    }
                }
            }
        }
    }

    /// Ends all VMs and checks that all memory is back.
    pub fn finish(mut self, free_at_start: usize) {
        self.relax();
        while !self.vms.is_empty() {
            self.destroy(self.vms.len() / 2);
            self.check();
        }
        while !self.images.is_empty() {
            self.delete_image(self.images.len() / 2);
            self.check();
        }
        self.merger.release_all(&self.machine.frames);
        self.drop_orphans();
        let stats = self.machine.frames.borrow().stats();
        assert_eq!(stats.frames(Kind::Guest) + stats.frames(Kind::Node), 0);
        assert_eq!(stats.frames(Kind::Free) + stats.frames(Kind::Zero), free_at_start, "all memory is back");
    }

    /// Returns how many frames are free and not promised.
    pub fn unpromised(&self) -> usize {
        self.machine.frames.borrow().unpromised()
    }

    /// Returns how many frames are free.
    pub fn free(&self) -> usize {
        self.machine.frames.borrow().stats().frames(Kind::Free)
    }
}

/// By how much a frame is divided, at each level.
#[derive(Clone, Default)]
struct Parts(Vec<u32>);

impl Parts {
    fn divided(&self, by: u32) -> Self {
        let mut parts = self.clone();
        parts.0.push(by);
        parts
    }

    fn is_whole(&self) -> bool {
        self.0.iter().all(|&by| by == 1)
    }

    fn of_frame(&self) -> u64 {
        self.0.iter().fold(1 << 32, |part, &by| part / u64::from(by))
    }
}

/// Reference counts found by looking at every entry.
#[derive(Default)]
struct Recount {
    nodes: BTreeMap<Pa, u32>,
    pages: BTreeMap<Pa, u32>,
    blocks: BTreeMap<Pa, u32>,
}

impl Recount {
    fn guest_frames(&self, is_guest: impl Fn(Pa) -> bool, orphans: &BTreeSet<Pa>) -> BTreeSet<Pa> {
        let of_blocks = self
            .blocks
            .keys()
            .flat_map(|block| (0..FRAMES_PER_BLOCK as u64).map(|page| Pa(block.0 + page * PAGE_SIZE)));
        self.pages.keys().copied().chain(of_blocks).chain(orphans.iter().copied()).filter(|&pa| is_guest(pa)).collect()
    }
}

/// Returns the addresses that random tests use: few, so that VMs meet; in every kind of region.
pub fn places() -> Vec<Ipa> {
    let pages = [
        IDENTITY_PAGE.0,
        0x7fd0_0000,
        0x7fd0_1000,
        0x7fd0_3000,
        0x7fdf_f000,
        0x7fe0_0000,
        0x7fe4_2000,
        0x7fff_f000,
        0x8000_0000,
        0x8000_1000,
        0x801f_f000,
        0x8020_0000,
        0x8020_1000,
        0x802f_f000,
    ];
    pages.map(Ipa).to_vec()
}
