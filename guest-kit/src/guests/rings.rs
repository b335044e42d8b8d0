//! A NIC's driver that breaks the rules of its rings, in every known way. Each time the device must ask for a reset, and send
//! the next frame after it. Needs a VM with a NIC.
//!
//! Boot arguments: `times=N` (default 20) how often each way is gone.

use salp_hvc::bootset::VIRTIO_BASE;

use super::nic::{self, NOTIFY, STATUS};
use crate::rt::mmio;
use crate::rt::ram::Ram;
use crate::rt::sysreg;
use crate::test::Outcome;
use crate::{cases, check, check_eq, machine};

const NEEDS_RESET: u32 = 64;
const LIVE: u32 = 15;

const NEXT: u64 = 1;
const INDIRECT: u64 = 4;

/// The queue of frames to send, and its size.
const SEND: u32 = 1;
const SIZE: u64 = 8;

/// A header and a frame.
const LENGTH: u64 = 12 + 60;

/// Runs the guest.
pub fn main() {
    cases!(
        a_chain_loops,
        a_buffer_is_outside,
        a_buffer_is_giant,
        a_buffer_is_empty,
        a_table_is_in_a_table,
        a_table_is_no_table,
        an_index_jumps,
        a_head_is_no_head,
        rings_are_nowhere,
        a_reset_comes_in_the_middle,
    );
}

fn write(register: u64, value: u32) {
    nic::write(0, register, value);
}

fn status() -> u32 {
    mmio::read32(nic::address(0, STATUS))
}

/// A queue in memory.
struct Rings {
    ram: Ram,
    at: u64,
}

impl Rings {
    /// Resets the device and gives it a queue with nothing in it.
    fn start() -> Self {
        let ram = Ram::largest();
        let rings = Self { ram, at: ram.start() };
        (0..0x5000).step_by(8).for_each(|offset| ram.write(rings.at + offset, 0));
        // VIRTIO_F_INDIRECT_DESC and VIRTIO_F_VERSION_1.
        nic::negotiate(0, [1 << 28, 1]);
        rings.place(rings.at);
        write(STATUS, LIVE);
        rings
    }

    fn place(&self, at: u64) {
        nic::set_up(0, SEND.into(), SIZE, [at, at + 0x1000, at + 0x2000]);
    }

    fn data(&self) -> u64 {
        self.at + 0x3000
    }

    fn table(&self) -> u64 {
        self.at + 0x4000
    }

    fn describe(&self, table: u64, index: u64, at: u64, bytes: u64, flags: u64, next: u64) {
        self.ram.write(table + 16 * index, at);
        self.ram.write(table + 16 * index + 8, bytes | flags << 32 | next << 48);
    }

    /// Makes chains available, the first from this head, and tells the device.
    fn offer(&self, index: u64, head: u64) {
        self.ram.write(self.at + 0x1000, index << 16 | head << 32);
        sysreg::barrier();
        write(NOTIFY, SEND);
    }

    /// Writes a frame to everybody, from this NIC, and describes it.
    fn frame(&self) {
        let mac = nic::mac(0).fold(0, |mac, byte| mac << 8 | u64::from(byte));
        let bytes = |word: u64| u64::from_be_bytes(word.to_le_bytes());
        // Twelve bytes of header; then six of 0xff, the address, and a type that is nobody's.
        self.ram.write(self.data() + 8, bytes(0xffff_ffff));
        self.ram.write(self.data() + 16, bytes(0xffff << 48 | mac));
        self.ram.write(self.data() + 24, bytes(0x88b5 << 48));
        self.describe(self.at, 0, self.data(), LENGTH, 0, 0);
    }

    fn used(&self) -> u64 {
        self.ram.read(self.at + 0x2000) >> 16 & 0xffff
    }
}

/// Sends a frame as it should be sent.
fn sends() -> Outcome {
    let rings = Rings::start();
    check_eq!(status(), LIVE, "the status after a start");
    rings.frame();
    rings.offer(1, 0);
    check_eq!(rings.used(), 1, "the used index after a frame");
    check_eq!(status(), LIVE, "the status after a frame");
    Ok(())
}

/// Breaks a rule, again and again; a frame is sent in between.
fn breaks(rule: impl Fn(&Rings)) -> Outcome {
    for _ in 0..machine::number("times", 20) {
        let rings = Rings::start();
        rings.frame();
        rule(&rings);
        check!(status() & NEEDS_RESET != 0, "the device goes on: status {:#x}", status());
        write(NOTIFY, SEND);
        sends()?;
    }
    Ok(())
}

fn a_chain_loops() -> Outcome {
    breaks(|rings| {
        rings.describe(rings.at, 0, rings.data(), 8, NEXT, 1);
        rings.describe(rings.at, 1, rings.data(), 8, NEXT, 0);
        rings.offer(1, 0);
    })
}

fn a_buffer_is_outside() -> Outcome {
    for at in [0, VIRTIO_BASE, machine::ram_end() - 8, machine::ram_end(), u64::MAX - 8] {
        breaks(|rings| {
            rings.describe(rings.at, 0, at, LENGTH, 0, 0);
            rings.offer(1, 0);
        })?;
    }
    Ok(())
}

fn a_buffer_is_giant() -> Outcome {
    // It is in memory as far as a frame can reach: no frame, but no breach.
    for _ in 0..machine::number("times", 20) {
        let rings = Rings::start();
        rings.describe(rings.at, 0, rings.data(), u32::MAX.into(), 0, 0);
        rings.offer(1, 0);
        check_eq!((status(), rings.used()), (LIVE, 1), "status and used index");
        sends()?;
    }
    Ok(())
}

fn a_buffer_is_empty() -> Outcome {
    breaks(|rings| {
        rings.describe(rings.at, 0, rings.data(), 0, 0, 0);
        rings.offer(1, 0);
    })
}

fn a_table_is_in_a_table() -> Outcome {
    breaks(|rings| {
        rings.describe(rings.at, 0, rings.table(), 16, INDIRECT, 0);
        rings.describe(rings.table(), 0, rings.table(), 16, INDIRECT, 0);
        rings.offer(1, 0);
    })
}

fn a_table_is_no_table() -> Outcome {
    for (bytes, flags) in [(8, 0), (17, 0), (16 * (SIZE + 1), 0), (0xffff_fff0, 0), (16, NEXT)] {
        breaks(|rings| {
            rings.describe(rings.at, 0, rings.table(), bytes, INDIRECT | flags, 1);
            rings.offer(1, 0);
        })?;
    }
    Ok(())
}

fn an_index_jumps() -> Outcome {
    for index in [SIZE + 1, 0x8000, 0xffff] {
        breaks(|rings| rings.offer(index, 0))?;
    }
    Ok(())
}

fn a_head_is_no_head() -> Outcome {
    breaks(|rings| rings.offer(1, SIZE))?;
    breaks(|rings| {
        rings.describe(rings.at, 0, rings.data(), 8, NEXT, 0xffff);
        rings.offer(1, 0);
    })
}

fn rings_are_nowhere() -> Outcome {
    for at in [0, machine::ram_end(), !0xffff] {
        breaks(|rings| {
            rings.place(at);
            write(NOTIFY, SEND);
        })?;
    }
    Ok(())
}

fn a_reset_comes_in_the_middle() -> Outcome {
    for _ in 0..machine::number("times", 20) {
        let rings = Rings::start();
        rings.frame();
        rings.ram.write(rings.at + 0x1000, 1 << 16);
        write(STATUS, 0);
        write(NOTIFY, SEND);
        check_eq!(rings.used(), 0, "the used index after a reset");
        sends()?;
    }
    Ok(())
}
