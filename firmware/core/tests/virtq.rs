//! Queues as the driver of others writes them (rust-vmm's `virtio-queue`), and their device's side to compare with: what both
//! understand, they understand alike, and what is refused here has touched nothing that it may not.
//!
//! Not a unit test: the memory of that crate is mapped by the host, which Miri does not do.

use proptest::prelude::*;
use salp_core::addr::Ipa;
use salp_core::dev::virtq::{Breach, GuestMem, QueueError, Virtq};
use salp_core::stage2::Fault;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// How many entries queues have.
const SIZE: u16 = 8;
/// Where the used ring is. That of [`MockSplitQueue`] lies upon its available ring.
const USED: u64 = 0x1000;
/// Where buffers are.
const DATA: u64 = 0x4000;
/// Where the first part of the memory ends. Behind it is nothing up to the second part.
const END: u64 = 0x8000;
/// Where the second part is: [`MockSplitQueue`] has its indirect tables there.
const TABLES: u64 = 0x3000_0000;
const TABLES_SIZE: u64 = 0x1000;
/// Flags of descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// How much a device wants of a chain.
const WANTED: usize = 4096;

/// Their memory, and what was done to it.
struct Mem<'a> {
    memory: &'a GuestMemoryMmap,
    reads: usize,
    /// Where something was written, and how much.
    written: Vec<(u64, usize)>,
    /// What the guest writes meanwhile: one byte for each access.
    noise: std::vec::IntoIter<(u16, u8)>,
}

impl<'a> Mem<'a> {
    fn new(memory: &'a GuestMemoryMmap) -> Self {
        Self { memory, reads: 0, written: Vec::new(), noise: Vec::new().into_iter() }
    }

    /// Rewrites a byte of the rings, the table or the indirect table.
    fn disturb(&mut self) {
        if let Some((place, byte)) = self.noise.next() {
            let place = u64::from(place % 0x200);
            let at = if place < 0x100 { place } else { TABLES + place - 0x100 };
            self.memory.write_obj(byte, GuestAddress(at)).unwrap();
        }
    }
}

impl GuestMem for Mem<'_> {
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        self.reads += 1;
        let read = self.memory.read_slice(to, GuestAddress(at.0));
        self.disturb();
        read.map_err(|_| Fault::OutsideRam)
    }

    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        self.written.push((at.0, from.len()));
        let written = self.memory.write_slice(from, GuestAddress(at.0));
        self.disturb();
        written.map_err(|_| Fault::OutsideRam)
    }

    fn holds(&self, at: Ipa, bytes: u64) -> bool {
        self.memory.check_range(GuestAddress(at.0), bytes as usize, Permissions::Read)
    }
}

/// Returns memory full of a pattern.
fn memory() -> GuestMemoryMmap {
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), END as usize), (GuestAddress(TABLES), TABLES_SIZE as usize)])
            .unwrap();
    let pattern: Vec<u8> = (DATA..END).map(|at| (at ^ at >> 8) as u8).collect();
    memory.write_slice(&pattern, GuestAddress(DATA)).unwrap();
    memory
}

/// Returns a copy of this memory.
fn copy_of(memory: &GuestMemoryMmap) -> GuestMemoryMmap {
    let copy = self::memory();
    for (start, length) in [(0, END), (TABLES, TABLES_SIZE)] {
        let mut bytes = vec![0; length as usize];
        memory.read_slice(&mut bytes, GuestAddress(start)).unwrap();
        copy.write_slice(&bytes, GuestAddress(start)).unwrap();
    }
    copy
}

/// Returns the device's side of their queue.
fn queue_of(driver: &MockSplitQueue<'_, GuestMemoryMmap>) -> Virtq {
    let mut queue = Virtq::default();
    (queue.size, queue.is_ready, queue.has_events, queue.has_indirect) = (SIZE, true, true, true);
    queue.descriptors = Ipa(driver.desc_table_addr().0);
    queue.available = Ipa(driver.avail_addr().0);
    queue.used = Ipa(USED);
    assert!(queue.is_well_placed());
    queue
}

/// Makes the chain with this head available.
fn offer(driver: &MockSplitQueue<'_, GuestMemoryMmap>, head: u16) {
    let index = driver.avail().idx().load();
    driver.avail().ring().ref_at((index % SIZE).into()).unwrap().store(head);
    driver.avail().idx().store(index.wrapping_add(1));
}

/// Returns the buffers of the first available chain as their device's side understands them.
fn theirs(driver: &MockSplitQueue<'_, GuestMemoryMmap>, memory: &GuestMemoryMmap) -> Vec<(u64, u32, bool)> {
    let mut queue: Queue = driver.create_queue().unwrap();
    queue.set_used_ring_address(Some(USED as u32), None);
    let chain = queue.iter(memory).unwrap().next().expect("a chain");
    chain.map(|it| (it.addr().0, it.len(), it.is_write_only())).collect()
}

/// What a device did with a chain.
struct Used {
    read: Vec<u8>,
    written: Vec<(u64, usize)>,
}

/// Reads and writes a chain as far as a device wants it.
fn use_up(queue: &mut Virtq, mem: &mut Mem<'_>) -> Result<Option<Used>, QueueError> {
    let Some(mut chain) = queue.pop(mem)? else { return Ok(None) };
    let mut read = vec![0; WANTED];
    let count = chain.read(mem, &mut read)?;
    read.truncate(count);
    mem.written.clear();
    let count = chain.write(mem, &[0xa5; WANTED])?;
    let written = std::mem::take(&mut mem.written);
    queue.push(mem, chain.head, count as u32)?;
    queue.publish(mem)?;
    Ok(Some(Used { read, written }))
}

/// Returns what a device does with these buffers.
fn expected(buffers: &[(u64, u32, bool)], memory: &GuestMemoryMmap) -> Used {
    let split = buffers.iter().position(|&(_, _, is_writing)| is_writing).unwrap_or(buffers.len());
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for &(at, length, _) in &buffers[..split] {
        let mut part = vec![0; (WANTED - read.len()).min(length as usize)];
        memory.read_slice(&mut part, GuestAddress(at)).unwrap();
        read.extend(part);
    }
    let mut left = WANTED;
    for &(at, length, _) in &buffers[split..] {
        let count = left.min(length as usize);
        left -= count;
        written.extend((count > 0).then_some((at, count)));
    }
    Used { read, written }
}

/// Returns how the walk of the first chain ends when these descriptors are in the table and those in the indirect one.
fn verdict(table: &[Descriptor], indirect: &[Descriptor]) -> Result<(), QueueError> {
    let memory = memory();
    let driver = MockSplitQueue::new(&memory, SIZE);
    fill(&driver, &memory, table, indirect);
    offer(&driver, 0);
    let mut mem = Mem::new(&memory);
    let verdict = use_up(&mut queue_of(&driver), &mut mem);
    assert!(mem.reads <= 2 * usize::from(SIZE) * 2, "{} reads", mem.reads);
    verdict.map(|used| assert!(used.is_some()))
}

fn fill(
    driver: &MockSplitQueue<'_, GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
    table: &[Descriptor],
    indirect: &[Descriptor],
) {
    for (index, &it) in table.iter().enumerate() {
        driver.desc_table().store(index as u16, RawDescriptor::from(it)).unwrap();
    }
    for (index, &it) in indirect.iter().enumerate() {
        memory.write_obj(RawDescriptor::from(it), GuestAddress(TABLES + 16 * index as u64)).unwrap();
    }
}

/// A descriptor of the indirect table.
fn to_table(entries: u32) -> Descriptor {
    Descriptor::new(TABLES, 16 * entries, INDIRECT, 0)
}

#[test]
fn each_way_to_break_their_rules_is_a_breach() {
    let good = Descriptor::new(DATA, 16, 0, 0);
    let next = |index| Descriptor::new(DATA, 16, NEXT, index);
    for (name, table, indirect, breach) in [
        ("a loop", vec![next(1), next(0)], vec![], Breach::Loop),
        ("a loop in a table", vec![to_table(2)], vec![next(1), next(1)], Breach::Loop),
        ("a next outside the table", vec![next(SIZE)], vec![], Breach::Index),
        ("a next outside an indirect table", vec![to_table(2)], vec![next(2)], Breach::Index),
        ("a table in a table", vec![to_table(2)], vec![to_table(1)], Breach::Indirect),
        ("itself as a table", vec![Descriptor::new(0, 16, INDIRECT, 0)], vec![], Breach::Indirect),
        (
            "more behind a table",
            vec![Descriptor::new(TABLES, 16, INDIRECT | NEXT, 1), good],
            vec![good],
            Breach::Indirect,
        ),
        ("half a descriptor", vec![Descriptor::new(TABLES, 24, INDIRECT, 0)], vec![good, good], Breach::Indirect),
        ("a giant table", vec![Descriptor::new(TABLES, 0xffff_fff0, INDIRECT, 0)], vec![good], Breach::Indirect),
        ("a table in a hole", vec![Descriptor::new(END, 16, INDIRECT, 0)], vec![], Breach::Outside),
        ("a table at the end of all addresses", vec![Descriptor::new(!15, 32, INDIRECT, 0)], vec![], Breach::Outside),
        ("no bytes", vec![Descriptor::new(DATA, 0, 0, 0)], vec![], Breach::Empty),
        ("no bytes in a table", vec![to_table(1)], vec![Descriptor::new(DATA, 0, 0, 0)], Breach::Empty),
        ("a buffer over the end", vec![Descriptor::new(END - 8, 16, 0, 0)], vec![], Breach::Outside),
        ("a giant buffer over the end", vec![Descriptor::new(END - 8, u32::MAX, WRITE, 0)], vec![], Breach::Outside),
        ("a buffer around all addresses", vec![Descriptor::new(u64::MAX - 7, 16, 0, 0)], vec![], Breach::Outside),
        ("reading behind writing", vec![Descriptor::new(DATA, 16, WRITE | NEXT, 1), good], vec![], Breach::Order),
    ] {
        assert_eq!(verdict(&table, &indirect), Err(breach.into()), "{name}");
    }
}

#[test]
fn their_chains_come_through_however_often_indexes_wrap_around() {
    let memory = memory();
    let driver = MockSplitQueue::new(&memory, SIZE);
    for index in 0..SIZE {
        let it = Descriptor::new(DATA + 16 * u64::from(index), 4, WRITE, 0);
        driver.desc_table().store(index, RawDescriptor::from(it)).unwrap();
    }
    let (mut queue, mut mem) = (queue_of(&driver), Mem::new(&memory));
    for number in 0..0x1_8000_u32 {
        let head = (number * 5) as u16 % SIZE;
        offer(&driver, head);
        let mut chain = queue.pop(&mut mem).unwrap().unwrap();
        assert_eq!(chain.write(&mut mem, &number.to_le_bytes()), Ok(4));
        queue.push(&mut mem, chain.head, 4).unwrap();
        queue.publish(&mut mem).unwrap();
        let entry = USED + 4 + 8 * u64::from(number as u16 % SIZE);
        let used: [u32; 2] = memory.read_obj(GuestAddress(entry)).unwrap();
        assert_eq!(used, [u32::from(head), 4]);
        assert_eq!(memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), (number + 1) as u16);
        mem.written.clear();
    }
    assert!(queue.pop(&mut mem).unwrap().is_none());
}

/// Descriptors that are nearly right, in places where mistakes are.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let at = prop_oneof![
        6 => DATA..END - 0x400,
        1 => END - 64..END + 64,
        1 => 0..USED + 64,
        1 => TABLES - 16..TABLES + TABLES_SIZE + 16,
        1 => Just(u64::MAX - 15),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![8 => 1u32..300, 1 => Just(0), 1 => Just(0x0800_0000)];
    (at, length, 0u16..4, 0..SIZE + 1).prop_map(|(at, length, flags, next)| Descriptor::new(at, length, flags, next))
}

/// A table whose descriptors are anything, or lead to the indirect table.
fn table() -> impl Strategy<Value = Vec<Descriptor>> {
    let leads = (0u32..20, 0u16..9).prop_map(|(entries, more)| {
        Descriptor::new(TABLES, 16 * entries + u32::from(more / 8), INDIRECT | u16::from(more == 7), 1)
    });
    proptest::collection::vec(prop_oneof![5 => descriptor(), 1 => leads], usize::from(SIZE))
}

proptest! {
    #[test]
    fn what_both_sides_understand_they_understand_alike(table in table(), indirect in table(), head in 0..SIZE) {
        let memory = memory();
        let driver = MockSplitQueue::new(&memory, SIZE);
        fill(&driver, &memory, &table, &indirect);
        offer(&driver, head);
        let buffers = theirs(&driver, &memory);
        let mut mem = Mem::new(&memory);
        // The buffers to write may be those to read, or the table.
        let copy = copy_of(&memory);
        match use_up(&mut queue_of(&driver), &mut mem) {
            Ok(used) => {
                let (used, expected) = (used.unwrap(), expected(&buffers, &copy));
                prop_assert_eq!(used.read, expected.read);
                prop_assert_eq!(used.written, expected.written);
            }
            Err(QueueError::Breach(_)) => {}
            Err(QueueError::NoMemory(at)) => panic!("no memory at {at}"),
        }
        prop_assert!(mem.reads <= 4 * usize::from(SIZE));
    }

    #[test]
    fn a_refused_chain_has_written_nothing_but_buffers_to_write(table in table(), indirect in table(), head in 0..SIZE + 1) {
        let memory = memory();
        let driver = MockSplitQueue::new(&memory, SIZE);
        fill(&driver, &memory, &table, &indirect);
        offer(&driver, head);
        let mut mem = Mem::new(&memory);
        if use_up(&mut queue_of(&driver), &mut mem).is_err() {
            let may_write = |at: u64, length: usize| table.iter().chain(&indirect).any(|it| {
                it.is_write_only() && it.addr().0 <= at && length <= it.len() as usize
            });
            for (at, length) in mem.written {
                prop_assert!(may_write(at, length), "{} bytes at {:#x}", length, at);
            }
        }
    }

    #[test]
    fn a_table_that_is_rewritten_while_it_is_walked_takes_bounded_work(
        table in table(), indirect in table(), noise in proptest::collection::vec(any::<(u16, u8)>(), 0..300),
    ) {
        let memory = memory();
        let driver = MockSplitQueue::new(&memory, SIZE);
        fill(&driver, &memory, &table, &indirect);
        (0..SIZE).for_each(|head| offer(&driver, head));
        let (mut queue, mut mem) = (queue_of(&driver), Mem::new(&memory));
        mem.noise = noise.into_iter();
        for _ in 0..100 {
            (mem.reads, mem.written) = (0, Vec::new());
            let goes_on = matches!(use_up(&mut queue, &mut mem), Ok(Some(_)));
            prop_assert!(mem.reads <= 4 * usize::from(SIZE) + 4 && mem.written.len() <= 2 * usize::from(SIZE) + 2);
            prop_assert!(queue.is_valid());
            if !goes_on {
                break;
            }
        }
    }

    #[test]
    fn a_queue_that_is_reset_in_the_middle_starts_anew(
        steps in proptest::collection::vec((0u8..4, 0..SIZE), 0..60), table in table(), indirect in table(),
    ) {
        let memory = memory();
        let driver = MockSplitQueue::new(&memory, SIZE);
        let (mut queue, mut mem) = (queue_of(&driver), Mem::new(&memory));
        fill(&driver, &memory, &table, &indirect);
        let mut held = None;
        for (step, head) in steps {
            match step {
                0 => offer(&driver, head),
                1 => held = queue.pop(&mut mem).ok().flatten(),
                // The half of a chain; of a queue that may be another one by now.
                2 => if let Some(mut chain) = held.take() {
                    let _ = chain.read(&mut mem, &mut [0; 100]);
                    let _ = queue.push(&mut mem, chain.head, 0);
                    let _ = queue.publish(&mut mem);
                },
                _ => queue.stop(),
            }
            prop_assert!(queue.is_valid());
            prop_assert!(queue.is_ready || queue.pop(&mut mem).is_ok_and(|chain| chain.is_none()));
        }
        queue.stop();
        let driver = MockSplitQueue::new(&memory, SIZE);
        driver.desc_table().store(3, RawDescriptor::from(Descriptor::new(DATA, 5, 0, 0))).unwrap();
        offer(&driver, 3);
        queue.is_ready = true;
        let used = use_up(&mut queue, &mut mem).unwrap().expect("the first chain");
        prop_assert_eq!(used.read.len(), 5);
        prop_assert_eq!(memory.read_obj::<[u32; 2]>(GuestAddress(USED + 4)).unwrap(), [3, 0]);
    }
}
