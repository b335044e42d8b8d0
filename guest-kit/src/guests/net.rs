//! What frames cost, in ticks of the virtual counter, which are instructions as for [`bench`](mod@super::bench): from a NIC of
//! this VM to another one of it, both in one segment. Whose memory a frame comes from and goes to is all the same to EL2.
//!
//! Boot arguments: `count=N` (default 20) rounds after a warm-up of as many.

use super::nic::{self, NOTIFY, STATUS, write};
use crate::rt::ram::Ram;
use crate::rt::sysreg;
use crate::{machine, test};

/// CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, EVENT_IDX; VERSION_1: what Linux agrees upon, as far as frames show it.
const AGREED: [u32; 2] = [1 | 1 << 1 | 1 << 7 | 1 << 11 | 1 << 15 | 1 << 29, 1];

const NEXT: u64 = 1;
const WRITE: u64 = 2;

const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const SIZES: [u64; 2] = [1024, 256];

const HEADER: u64 = 12;
/// Ethernet, IPv4 and TCP without options.
const HEADERS: u64 = 14 + 20 + 20;

/// Runs the guest.
pub fn main() {
    let ram = Ram::largest();
    let count = machine::number("count", 20).max(1);
    for (name, batch, payload, buffer) in
        [("frame_1500", 64, 1460, 2048), ("frame_1500_alone", 1, 1460, 2048), ("frame_64k", 4, 65160, 4096)]
    {
        let mut world = World::start(ram, payload, buffer);
        (0..count).for_each(|_| _ = world.round(batch));
        let ticks: u64 = (0..count).map(|_| world.round(batch)).sum();
        test::bench(name, count * batch, ticks / (count * batch));
    }
    test::done(0, 0, 0);
}

/// A queue in memory, whose chains have their heads so many descriptors apart.
struct Queue {
    at: u64,
    size: u64,
    apart: u64,
    index: u64,
}

impl Queue {
    fn start(ram: Ram, nic: u64, queue: u64, at: u64, apart: u64) -> Self {
        let size = SIZES[queue as usize];
        (0..0x4000).step_by(8).for_each(|offset| ram.write(at + 0x8000 + offset, 0));
        nic::set_up(nic, queue, size, [at, at + 0x8000, at + 0xa000]);
        let mut this = Self { at, size, apart, index: 0 };
        this.offer(ram, 0);
        this
    }

    fn describe(&self, ram: Ram, index: u64, at: u64, bytes: u64, flags: u64) {
        ram.write(self.at + 16 * index, at);
        ram.write(self.at + 16 * index + 8, bytes | flags << 32 | (index + 1) << 48);
    }

    /// Makes so many more chains available; the device never has a reason to tell.
    fn offer(&mut self, ram: Ram, chains: u64) {
        let head = |entry: u64| entry * self.apart % self.size;
        self.index = (self.index + chains) & 0xffff;
        // From the second word on: four entries each; before the first two are flags and index, behind the last the event.
        for word in 1..=self.size / 4 {
            let entries = (0..4).map(|n| (word * 4 - 2 + n, n));
            let event = (self.index + 0x7000) & 0xffff;
            let value = |entry: u64| if entry < self.size { head(entry) } else { event };
            ram.write(self.at + 0x8000 + 8 * word, entries.fold(0, |all, (entry, n)| all | value(entry) << (16 * n)));
        }
        sysreg::barrier();
        ram.write(self.at + 0x8000, self.index << 16 | head(0) << 32 | head(1) << 48);
    }

    fn used(&self, ram: Ram) -> u64 {
        ram.read(self.at + 0xa000) >> 16 & 0xffff
    }
}

/// Two NICs: the first sends, the second receives.
struct World {
    ram: Ram,
    send: Queue,
    receive: Queue,
    /// How many buffers a frame takes.
    buffers: u64,
}

impl World {
    fn start(ram: Ram, payload: u64, buffer: u64) -> Self {
        [0, 1].into_iter().for_each(|nic| nic::negotiate(nic, AGREED));
        let at = ram.start();
        // A large frame is in three pieces, as Linux has it.
        let pieces: &[u64] =
            if payload > 1460 { &[HEADER + HEADERS, payload / 2, payload / 2] } else { &[HEADER + HEADERS + 1460] };
        let send = Queue::start(ram, 0, SEND, at, if pieces.len() == 1 { 1 } else { 4 });
        let receive = Queue::start(ram, 1, RECEIVE, at + 0x1_0000, 1);
        let (frame, buffers) = (at + 0x2_0000, at + 0x4_0000);
        for chain in (0..send.size).step_by(send.apart as usize) {
            let mut start = frame;
            for (piece, bytes) in (0..).zip(pieces) {
                let is_last = piece + 1 == pieces.len() as u64;
                send.describe(ram, chain + piece, start, *bytes, if is_last { 0 } else { NEXT });
                start += bytes;
            }
        }
        for chain in 0..receive.size {
            ram.write(buffers + chain * buffer, 0);
            receive.describe(ram, chain, buffers + chain * buffer, buffer, WRITE);
        }
        (0..payload + 512).step_by(8).for_each(|offset| ram.write(frame + offset, offset));
        write_frame(ram, frame, payload);
        [0, 1].into_iter().for_each(|nic| write(nic, STATUS, 15));
        Self { ram, send, receive, buffers: (HEADER + HEADERS + payload).div_ceil(buffer) }
    }

    /// Sends so many frames with one store. Returns what that took.
    fn round(&mut self, batch: u64) -> u64 {
        self.receive.offer(self.ram, batch * self.buffers);
        self.send.offer(self.ram, batch);
        let start = sysreg::cntvct();
        write(0, NOTIFY, SEND as u32);
        let ticks = sysreg::cntvct() - start;
        let (sent, received) = (self.send.used(self.ram), self.receive.used(self.ram));
        assert_eq!((sent, received), (self.send.index, self.receive.index), "frames were lost");
        ticks
    }
}

/// Writes header and frame: TCP, whose checksum the receiver computes and which is cut if it is too long.
fn write_frame(ram: Ram, at: u64, payload: u64) {
    let length = (HEADERS - 14 + payload) as u16;
    let gso = if payload > 1460 { 1 } else { 0 };
    let header = [1, gso, HEADERS as u8, 0, (1448 & 0xff) as u8, (1448 >> 8) as u8, 34, 0, 16, 0, 0, 0];
    let ip = [0x45, 0, (length >> 8) as u8, length as u8, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let tcp = [0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    let bytes = header.into_iter().chain(nic::mac(1)).chain(nic::mac(0)).chain([8, 0]).chain(ip).chain(tcp);
    let mut word = 0u64;
    for (index, byte) in (0u64..).zip(bytes.chain([0; 6])) {
        word |= u64::from(byte) << (8 * (index % 8));
        if index % 8 == 7 {
            ram.write(at + index - 7, word);
            word = 0;
        }
    }
}
