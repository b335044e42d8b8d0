//! Queues as drivers use them, and each known way to break one.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec::Vec;

/// Where the memory of the guest starts.
pub(crate) const RAM: u64 = 0x4000_0000;
/// How much there is.
pub(crate) const RAM_SIZE: usize = 0x4_0000;

/// A guest's memory.
#[derive(Clone)]
pub(crate) struct Mem {
    pub(crate) bytes: Vec<u8>,
    /// The machine has memory for what is written.
    pub(crate) has_memory: bool,
    /// How often it was read.
    pub(crate) reads: usize,
}

impl Mem {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; RAM_SIZE], has_memory: true, reads: 0 }
    }

    fn range(&self, at: Ipa, length: usize) -> Result<std::ops::Range<usize>, Fault> {
        let start = at.0.checked_sub(RAM).ok_or(Fault::OutsideRam)?;
        let end = start.checked_add(length as u64).filter(|&end| end <= RAM_SIZE as u64).ok_or(Fault::OutsideRam)?;
        Ok(start as usize..end as usize)
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        let range = self.range(Ipa(at), bytes.len()).unwrap();
        self.bytes[range].copy_from_slice(bytes);
    }

    pub(crate) fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let range = self.range(Ipa(at), N).unwrap();
        self.bytes[range].try_into().unwrap()
    }
}

impl GuestMem for Mem {
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        self.reads += 1;
        to.copy_from_slice(&self.bytes[self.range(at, to.len())?]);
        Ok(())
    }

    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        let range = self.range(at, from.len())?;
        if !self.has_memory {
            return Err(Fault::OutOfMemory);
        }
        self.bytes[range].copy_from_slice(from);
        Ok(())
    }

    fn holds(&self, at: Ipa, bytes: u64) -> bool {
        self.range(at, bytes as usize).is_ok()
    }
}

/// A descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) at: u64,
    pub(crate) bytes: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// The driver's side of a queue, without any care.
pub(crate) struct Driver {
    pub(crate) at: u64,
    pub(crate) size: u16,
    index: u16,
    taken: u16,
}

impl Driver {
    pub(crate) fn new(at: u64, size: u16) -> Self {
        Self { at, size, index: 0, taken: 0 }
    }

    /// Returns the device's side.
    pub(crate) fn queue(&self) -> Virtq {
        let queue = Virtq {
            size: self.size,
            is_ready: true,
            has_events: true,
            has_indirect: true,
            descriptors: Ipa(self.at),
            available: Ipa(self.available()),
            used: Ipa(self.used()),
            ..Virtq::default()
        };
        assert!(queue.is_well_placed());
        queue
    }

    pub(crate) fn available(&self) -> u64 {
        self.at + 16 * u64::from(self.size)
    }

    pub(crate) fn used(&self) -> u64 {
        (self.available() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    pub(crate) fn describe(&self, mem: &mut Mem, table: u64, index: u16, it: Descriptor) {
        let Descriptor { at, bytes, flags, next } = it;
        let word = u128::from(at) | u128::from(bytes) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        mem.put(table + 16 * u64::from(index), &word.to_le_bytes());
    }

    /// Writes a chain of buffers to the table, from this index on.
    pub(crate) fn chain(&self, mem: &mut Mem, head: u16, buffers: &[(u64, u32, u16)]) {
        for (offset, &(at, bytes, flags)) in buffers.iter().enumerate() {
            let index = head + offset as u16;
            let has_next = offset + 1 < buffers.len();
            let flags = flags | if has_next { NEXT } else { 0 };
            self.describe(mem, self.at, index, Descriptor { at, bytes, flags, next: index + 1 });
        }
    }

    pub(crate) fn offer(&mut self, mem: &mut Mem, head: u16) {
        mem.put(self.available() + 4 + 2 * u64::from(self.index % self.size), &head.to_le_bytes());
        self.index = self.index.wrapping_add(1);
        mem.put(self.available() + 2, &self.index.to_le_bytes());
    }

    pub(crate) fn want_events_at(&self, mem: &mut Mem, index: u16) {
        mem.put(self.available() + 4 + 2 * u64::from(self.size), &index.to_le_bytes());
    }

    /// Takes a used entry: its head, and how much was written.
    pub(crate) fn take(&mut self, mem: &Mem) -> Option<(u32, u32)> {
        if u16::from_le_bytes(mem.get(self.used() + 2)) == self.taken {
            return None;
        }
        let at = self.used() + 4 + 8 * u64::from(self.taken % self.size);
        self.taken = self.taken.wrapping_add(1);
        Some((u32::from_le_bytes(mem.get(at)), u32::from_le_bytes(mem.get(at + 4))))
    }
}

const QUEUE: u64 = RAM + 0x1000;
const DATA: u64 = RAM + 0x8000;
const TABLE: u64 = RAM + 0x6000;

fn world(size: u16) -> (Mem, Driver, Virtq) {
    let driver = Driver::new(QUEUE, size);
    let queue = driver.queue();
    (Mem::new(), driver, queue)
}

#[test]
fn a_chain_is_read_then_written_and_comes_back() {
    let (mut mem, mut driver, mut queue) = world(8);
    mem.put(DATA, b"hello, ");
    mem.put(DATA + 100, b"device");
    let buffers = [(DATA, 7, 0), (DATA + 100, 6, 0), (DATA + 200, 3, WRITE), (DATA + 300, 90, WRITE)];
    driver.chain(&mut mem, 2, &buffers);
    driver.offer(&mut mem, 2);
    let mut chain = queue.pop(&mut mem).unwrap().unwrap();
    let mut bytes = [0; 20];
    assert_eq!(chain.read(&mut mem, &mut bytes[..9]), Ok(9));
    assert_eq!(chain.has_more_to_read(&mut mem), Ok(true));
    assert_eq!(chain.read(&mut mem, &mut bytes[9..]), Ok(4));
    assert_eq!(&bytes[..13], b"hello, device");
    assert_eq!(chain.has_more_to_read(&mut mem), Ok(false));
    assert_eq!(chain.write(&mut mem, b"answer"), Ok(6));
    assert_eq!((mem.get(DATA + 200), mem.get(DATA + 300)), (*b"ans", *b"wer"));
    queue.push(&mut mem, chain.head, 6).unwrap();
    assert_eq!(driver.take(&mem), None, "not yet");
    queue.publish(&mut mem).unwrap();
    assert_eq!(driver.take(&mem), Some((2, 6)));
    assert!(queue.pop(&mut mem).unwrap().is_none());
}

#[test]
fn what_is_to_be_written_is_reached_without_reading() {
    let (mut mem, mut driver, mut queue) = world(4);
    driver.chain(&mut mem, 0, &[(DATA, 5, 0), (DATA + 64, 2, WRITE)]);
    driver.offer(&mut mem, 0);
    let mut chain = queue.pop(&mut mem).unwrap().unwrap();
    assert_eq!(chain.write(&mut mem, b"abc"), Ok(2), "there is no more room");
    assert_eq!(mem.get(DATA + 64), *b"ab");
}

#[test]
fn an_indirect_table_ends_a_chain() {
    let (mut mem, mut driver, mut queue) = world(8);
    driver.chain(&mut mem, 0, &[(DATA, 2, 0), (TABLE, 32, INDIRECT)]);
    driver.describe(&mut mem, TABLE, 0, Descriptor { at: DATA + 2, bytes: 2, flags: NEXT, next: 1 });
    driver.describe(&mut mem, TABLE, 1, Descriptor { at: DATA + 4, bytes: 2, flags: 0, next: 9 });
    mem.put(DATA, b"abcdef");
    driver.offer(&mut mem, 0);
    let mut chain = queue.pop(&mut mem).unwrap().unwrap();
    let mut bytes = [0; 9];
    assert_eq!(chain.read(&mut mem, &mut bytes), Ok(6));
    assert_eq!(&bytes[..6], b"abcdef");
}

/// Reads three bytes of a chain and lists the rest, at most so much.
fn list(buffers: &[(u64, u32, u16)], most: usize) -> Result<Option<(usize, Vec<Piece>)>, QueueError> {
    let (mut mem, mut driver, mut queue) = world(8);
    driver.chain(&mut mem, 0, buffers);
    driver.offer(&mut mem, 0);
    let mut chain = queue.pop(&mut mem).unwrap().unwrap();
    let mut pieces = heapless::Vec::<Piece, 2>::new();
    chain.read(&mut mem, &mut [0; 3])?;
    let total = chain.list(&mut mem, most, &mut pieces)?;
    Ok(total.map(|total| (total, pieces.to_vec())))
}

#[test]
fn a_chain_tells_where_the_rest_of_it_is() {
    let pieces = vec![Piece { at: Ipa(DATA + 3), bytes: 4 }, Piece { at: Ipa(DATA + 100), bytes: 6 }];
    let buffers = [(DATA, 7, 0), (DATA + 100, 6, 0), (DATA + 200, 3, WRITE)];
    assert_eq!(list(&buffers, 10), Ok(Some((10, pieces))));
    assert_eq!(list(&buffers, 9), Ok(None), "more than wanted");
    assert_eq!(list(&[(DATA, 7, 0), (DATA, 1, 0), (DATA, 1, 0)], 10), Ok(None), "more pieces than there is room for");
    assert_eq!(list(&[(DATA, 3, 0), (RAM - 4, 6, 0)], 10), Err(Breach::Outside.into()));
    assert_eq!(list(&[(DATA, 3, 0), (RAM + RAM_SIZE as u64 - 10, 11, 0)], 10), Ok(None), "memory as far as is wanted");
}

#[test]
fn pieces_of_a_senders_memory_fill_buffers_whatever_their_sizes() {
    let (mut mem, mut driver, mut queue) = world(8);
    mem.put(DATA, b"memory, or ");
    driver.chain(&mut mem, 0, &[(DATA + 100, 3, WRITE), (DATA + 200, 1, WRITE), (DATA + 300, 90, WRITE)]);
    driver.offer(&mut mem, 0);
    let pieces = [Piece { at: Ipa(DATA + 8), bytes: 3 }, Piece { at: Ipa(DATA), bytes: 6 }];
    let mut source = Source::new([b"fr", b"o", b"m "], &pieces);
    let mut chain = queue.pop(&mut mem).unwrap().unwrap();
    assert_eq!(chain.fill(&mut mem, &mut source), Ok(14));
    assert!(source.is_empty());
    assert_eq!((mem.get(DATA + 100), mem.get(DATA + 200), mem.get(DATA + 300)), (*b"fro", *b"m", *b" or memory"));
}

#[test]
fn the_driver_is_told_when_it_asked_to_be() {
    let (mut mem, mut driver, mut queue) = world(8);
    driver.chain(&mut mem, 0, &[(DATA, 1, WRITE)]);
    driver.want_events_at(&mut mem, 2);
    let told: Vec<bool> = (0..5)
        .map(|_| {
            driver.offer(&mut mem, 0);
            let chain = queue.pop(&mut mem).unwrap().unwrap();
            queue.push(&mut mem, chain.head, 0).unwrap();
            queue.publish(&mut mem).unwrap();
            queue.should_interrupt(&mut mem).unwrap()
        })
        .collect();
    assert_eq!(told, [false, false, true, false, false]);
    queue.has_events = false;
    for (flags, expected) in [(0, true), (NO_INTERRUPT, false)] {
        mem.put(driver.available(), &flags.to_le_bytes());
        driver.offer(&mut mem, 0);
        let chain = queue.pop(&mut mem).unwrap().unwrap();
        queue.push(&mut mem, chain.head, 0).unwrap();
        queue.publish(&mut mem).unwrap();
        assert_eq!(queue.should_interrupt(&mut mem), Ok(expected));
        assert_eq!(queue.should_interrupt(&mut mem), Ok(false), "once");
    }
}

#[test]
fn the_device_asks_for_the_next_chain_and_sees_one_that_came_meanwhile() {
    let (mut mem, mut driver, mut queue) = world(8);
    driver.chain(&mut mem, 0, &[(DATA, 1, 0)]);
    driver.offer(&mut mem, 0);
    queue.pop(&mut mem).unwrap().unwrap();
    assert_eq!(queue.arm(&mut mem), Ok(false));
    assert_eq!(mem.get(driver.used() + 4 + 64), 1u16.to_le_bytes());
    driver.offer(&mut mem, 0);
    assert_eq!(queue.arm(&mut mem), Ok(true));
}

#[test]
fn what_was_taken_can_be_given_back() {
    let (mut mem, mut driver, mut queue) = world(4);
    driver.chain(&mut mem, 0, &[(DATA, 1, WRITE)]);
    driver.offer(&mut mem, 0);
    driver.offer(&mut mem, 0);
    let mark = queue.mark();
    for _ in 0..2 {
        let chain = queue.pop(&mut mem).unwrap().unwrap();
        queue.push(&mut mem, chain.head, 1).unwrap();
    }
    queue.rewind(mark);
    assert_eq!(queue.mark(), mark);
    assert!(queue.pop(&mut mem).unwrap().is_some() && queue.pop(&mut mem).unwrap().is_some());
    assert!(queue.pop(&mut mem).unwrap().is_none());
}

#[test]
fn a_machine_without_memory_is_nobodys_breach() {
    let (mut mem, mut driver, mut queue) = world(4);
    driver.chain(&mut mem, 0, &[(DATA, 1, WRITE)]);
    driver.offer(&mut mem, 0);
    mem.has_memory = false;
    let mut chain = queue.pop(&mut mem).unwrap().unwrap();
    assert_eq!(chain.write(&mut mem, b"x"), Err(QueueError::NoMemory(Ipa(DATA))));
}

/// Reads and writes all of the chain at head 0 of a queue of eight. Returns what was wrong with it.
fn breach_of(break_it: impl FnOnce(&mut Mem, &Driver)) -> Option<Breach> {
    let (mut mem, mut driver, mut queue) = world(8);
    driver.chain(&mut mem, 0, &[(DATA, 4, 0), (DATA + 16, 4, WRITE)]);
    driver.offer(&mut mem, 0);
    break_it(&mut mem, &driver);
    let breach = walk(&mut queue, &mut mem).err();
    assert!(mem.reads < 40, "{} reads", mem.reads);
    breach.map(|error| match error {
        QueueError::Breach(breach) => breach,
        QueueError::NoMemory(at) => panic!("no memory at {at}"),
    })
}

fn walk(queue: &mut Virtq, mem: &mut Mem) -> Result<(), QueueError> {
    while let Some(mut chain) = queue.pop(mem)? {
        chain.read(mem, &mut [0; 4096])?;
        chain.write(mem, &[1; 4096])?;
        queue.push(mem, chain.head, 0)?;
    }
    queue.publish(mem)?;
    queue.should_interrupt(mem)?;
    queue.arm(mem).map(drop)
}

#[test]
fn a_chain_in_order_is_no_breach() {
    assert_eq!(breach_of(|_, _| {}), None);
}

#[test]
fn a_chain_that_loops_is_a_breach() {
    let to_itself = |mem: &mut Mem, driver: &Driver| {
        driver.describe(mem, QUEUE, 0, Descriptor { at: DATA, bytes: 1, flags: NEXT, next: 0 });
    };
    assert_eq!(breach_of(to_itself), Some(Breach::Loop));
    let in_a_table = |mem: &mut Mem, driver: &Driver| {
        driver.describe(mem, QUEUE, 0, Descriptor { at: TABLE, bytes: 32, flags: INDIRECT, next: 0 });
        driver.describe(mem, TABLE, 0, Descriptor { at: DATA, bytes: 1, flags: NEXT, next: 1 });
        driver.describe(mem, TABLE, 1, Descriptor { at: DATA, bytes: 1, flags: NEXT, next: 0 });
    };
    assert_eq!(breach_of(in_a_table), Some(Breach::Loop));
}

#[test]
fn a_buffer_outside_memory_is_a_breach() {
    let outside = [(0, 4), (RAM - 2, 4), (RAM + RAM_SIZE as u64 - 2, 4), (u64::MAX, 4), (u64::MAX - 1, u32::MAX)];
    for (at, bytes) in outside {
        let change = |mem: &mut Mem, driver: &Driver| {
            driver.describe(mem, QUEUE, 0, Descriptor { at, bytes, flags: 0, next: 0 });
        };
        assert_eq!(breach_of(change), Some(Breach::Outside), "{bytes} bytes at {at:#x}");
    }
}

#[test]
fn a_buffer_larger_than_memory_is_used_as_far_as_it_is_needed() {
    let giant = |mem: &mut Mem, driver: &Driver| {
        driver.describe(mem, QUEUE, 0, Descriptor { at: DATA, bytes: u32::MAX, flags: 0, next: 0 });
    };
    assert_eq!(breach_of(giant), None);
}

#[test]
fn an_empty_buffer_is_a_breach() {
    let empty = |mem: &mut Mem, driver: &Driver| {
        driver.describe(mem, QUEUE, 0, Descriptor { at: DATA, bytes: 0, flags: NEXT, next: 1 });
    };
    assert_eq!(breach_of(empty), Some(Breach::Empty));
}

#[test]
fn a_buffer_to_read_behind_one_to_write_is_a_breach() {
    let mixed = |mem: &mut Mem, driver: &Driver| {
        driver.chain(mem, 0, &[(DATA, 4, WRITE), (DATA, 4, 0)]);
    };
    assert_eq!(breach_of(mixed), Some(Breach::Order));
}

#[test]
fn an_index_beyond_its_table_is_a_breach() {
    let next = |mem: &mut Mem, driver: &Driver| {
        driver.describe(mem, QUEUE, 0, Descriptor { at: DATA, bytes: 1, flags: NEXT, next: 8 });
    };
    assert_eq!(breach_of(next), Some(Breach::Index));
    let head = |mem: &mut Mem, driver: &Driver| mem.put(driver.available() + 4, &8u16.to_le_bytes());
    assert_eq!(breach_of(head), Some(Breach::Index));
}

#[test]
fn an_available_index_that_jumps_is_a_breach() {
    for index in [9u16, 0x8000, 0xffff] {
        let jump = |mem: &mut Mem, driver: &Driver| mem.put(driver.available() + 2, &index.to_le_bytes());
        assert_eq!(breach_of(jump), Some(Breach::Jump));
    }
}

#[test]
fn indirect_inside_indirect_is_a_breach() {
    let nested = |mem: &mut Mem, driver: &Driver| {
        driver.describe(mem, QUEUE, 0, Descriptor { at: TABLE, bytes: 16, flags: INDIRECT, next: 0 });
        driver.describe(mem, TABLE, 0, Descriptor { at: TABLE, bytes: 16, flags: INDIRECT, next: 0 });
    };
    assert_eq!(breach_of(nested), Some(Breach::Indirect));
}

#[test]
fn an_indirect_table_of_a_wrong_size_is_a_breach() {
    for (bytes, flags) in [(8, INDIRECT), (17, INDIRECT), (16 * 9, INDIRECT), (!15, INDIRECT), (16, INDIRECT | NEXT)] {
        let wrong = |mem: &mut Mem, driver: &Driver| {
            driver.describe(mem, QUEUE, 0, Descriptor { at: TABLE, bytes, flags, next: 1 });
        };
        assert_eq!(breach_of(wrong), Some(Breach::Indirect), "{bytes} bytes, flags {flags}");
    }
}

#[test]
fn an_indirect_table_that_was_not_negotiated_is_a_breach() {
    let (mut mem, mut driver, mut queue) = world(8);
    queue.has_indirect = false;
    driver.chain(&mut mem, 0, &[(TABLE, 16, INDIRECT)]);
    driver.offer(&mut mem, 0);
    assert_eq!(walk(&mut queue, &mut mem), Err(Breach::Indirect.into()));
}

#[test]
fn rings_outside_memory_are_a_breach() {
    let (mut mem, driver, queue) = world(8);
    for bad in [
        Virtq { available: Ipa(RAM - 0x1000), ..queue.clone() },
        Virtq { available: Ipa(u64::MAX - 1), ..queue.clone() },
    ] {
        assert_eq!(walk(&mut bad.clone(), &mut mem), Err(Breach::Outside.into()));
    }
    for bad in [Virtq { used: Ipa(0), ..queue.clone() }, Virtq { descriptors: Ipa(!15), ..queue }] {
        let mut driver = Driver::new(driver.at, 8);
        driver.chain(&mut mem, 0, &[(DATA, 1, 0)]);
        driver.offer(&mut mem, 0);
        assert_eq!(walk(&mut bad.clone(), &mut mem), Err(Breach::Outside.into()));
    }
}

/// Memory that a guest rewrites while it is read.
struct Rewriting {
    mem: Mem,
    noise: VecDeque<(u16, u8)>,
}

impl GuestMem for Rewriting {
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        self.mem.read(at, to)?;
        if let Some((offset, byte)) = self.noise.pop_front() {
            self.mem.bytes[0x1000 + usize::from(offset) % 0x400] = byte;
        }
        Ok(())
    }

    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        self.mem.write(at, from)
    }

    fn holds(&self, at: Ipa, bytes: u64) -> bool {
        self.mem.holds(at, bytes)
    }
}

proptest! {
    #[test]
    fn chains_arrive_whole_and_in_order(sizes in proptest::collection::vec((1usize..200, 1u32..60), 1..100)) {
        let (mut mem, mut driver, mut queue) = world(16);
        for (number, (length, part)) in sizes.into_iter().enumerate() {
            let content: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
            mem.put(DATA, &content);
            let parts: Vec<_> = (0..length as u32).step_by(part.max(length as u32 / 15 + 1) as usize).collect();
            let buffers: Vec<_> = parts
                .iter()
                .enumerate()
                .map(|(n, &start)| (DATA + u64::from(start), parts.get(n + 1).map_or(length as u32, |&end| end) - start, 0))
                .collect();
            driver.chain(&mut mem, 0, &buffers);
            driver.offer(&mut mem, 0);
            let mut chain = queue.pop(&mut mem).unwrap().unwrap();
            let mut read = vec![0; 300];
            let count = chain.read(&mut mem, &mut read).unwrap();
            prop_assert_eq!(&read[..count], &content[..]);
            queue.push(&mut mem, chain.head, 0).unwrap();
            queue.publish(&mut mem).unwrap();
            prop_assert_eq!(driver.take(&mem), Some((0, 0)));
        }
    }

    #[test]
    fn a_queue_that_is_rewritten_under_our_hands_takes_bounded_work(
        start in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..200),
        noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..200),
    ) {
        let (mut mem, mut driver, mut queue) = world(8);
        for head in 0..8 {
            driver.chain(&mut mem, head, &[(DATA, 64, if head % 2 == 0 { WRITE } else { 0 })]);
            driver.offer(&mut mem, head);
        }
        for (offset, byte) in start {
            mem.bytes[0x1000 + usize::from(offset) % 0x400] = byte;
        }
        let mut mem = Rewriting { mem, noise: noise.into() };
        for _ in 0..64 {
            let Ok(Some(mut chain)) = queue.pop(&mut mem) else { break };
            let before = mem.mem.reads;
            if chain.read(&mut mem, &mut [0; 5000]).is_err() || chain.write(&mut mem, &[0; 5000]).is_err() {
                break;
            }
            prop_assert!(mem.mem.reads - before <= 2 * (2 * 8 + 5000));
            if queue.push(&mut mem, chain.head, 0).is_err() || queue.publish(&mut mem).is_err() {
                break;
            }
            prop_assert!(queue.is_valid());
        }
    }
}
