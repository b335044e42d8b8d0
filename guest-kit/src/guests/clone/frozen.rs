//! Freezes, and says in every VM that goes on from there who it is. What Salp promises a clone before its first
//! instruction is verified.
//!
//! Settings, in the clone's configuration or the boot arguments: `then=off` (default), `then=wait` (answers lines on its
//! console: `ping`, `off`) or `then=again` (freezes again); `brief` leaves out all but the first line. Boot arguments:
//! `touch=N` (default 0) words that are written before, spread over all of RAM; `delay=US` (default 0) asleep before the
//! first write to memory.
//!
//! ```text
//! READY
//! CLONE index=I name=NAME first=N        (or THAWED, in the VM that was frozen)
//! CONFIG key=value
//! RANDOM 64 digits
//! WALL seconds
//! IDENTITY uuid=… generation=…
//! NETWORK mac=… epoch=N
//! ```

use salp_hvc::device::{GENERATION_INTID, GENERATION_PAGE};

use super::{Hex, Settings, fail, must, touch};
use crate::machine::number;
use crate::rt::{mmio, sysreg};
use crate::{gic, input, println, psci, salp, timer};

/// The data register of the PL031.
const RTC: u64 = 0x0901_0000;

/// Runs the role.
pub fn main() {
    touch(number("touch", 0));
    let delay = timer::ticks(number("delay", 0));
    gic::set_edge(GENERATION_INTID, true);
    loop {
        let before = Snapshot::now();
        println!("READY");
        let thawed = must("FREEZE", salp::freeze_and_pause(delay));
        let settings = Settings::read();
        let who = if thawed.index == 0 { "THAWED" } else { "CLONE" };
        println!("{who} index={} name={} first={}", thawed.index, must("IDENTITY", salp::name()), thawed.first);
        if settings.get("brief").is_none() {
            report(&settings, &before, thawed);
        }
        must("ACKNOWLEDGE", salp::acknowledge());
        if !must("IDENTITY", salp::present()).is_acknowledged {
            fail(format_args!("the identity is not acknowledged"));
        }
        match settings.get("then") {
            Some("wait") => answer(thawed.index),
            Some("again") => {}
            _ => return,
        }
    }
}

/// What changes, and what never goes back.
struct Snapshot {
    uuid: [u8; 16],
    generation: [u8; 16],
    index: u64,
    epoch: u64,
    mac: [u8; 6],
    virtual_count: u64,
    physical_count: u64,
    wall: u32,
}

impl Snapshot {
    fn now() -> Self {
        let present = must("IDENTITY", salp::present());
        Self {
            uuid: must("IDENTITY", salp::uuid()),
            generation: must("IDENTITY", salp::generation()),
            index: present.index,
            epoch: present.epoch,
            mac: present.mac,
            virtual_count: sysreg::cntvct(),
            physical_count: sysreg::cntpct(),
            wall: mmio::read32(RTC),
        }
    }
}

fn report(settings: &Settings, before: &Snapshot, thawed: salp::Freeze) {
    for line in settings.config.lines() {
        println!("CONFIG {line}");
    }
    let random: [Option<u64>; 4] = core::array::from_fn(|_| salp::random());
    let [Some(a), Some(b), Some(c), Some(d)] = random else { fail(format_args!("no random bits")) };
    println!("RANDOM {a:016x}{b:016x}{c:016x}{d:016x}");
    let now = Snapshot::now();
    println!("WALL {}", now.wall);
    println!("IDENTITY uuid={} generation={}", Hex(&now.uuid), Hex(&now.generation));
    println!("NETWORK mac={} epoch={}", Hex(&now.mac), now.epoch);
    if now.virtual_count < before.virtual_count {
        fail(format_args!("the virtual counter went from {} back to {}", before.virtual_count, now.virtual_count));
    }
    if thawed.first < before.physical_count || now.physical_count < thawed.first {
        fail(format_args!("the physical counter went back: {} then {}", before.physical_count, thawed.first));
    }
    if now.wall < before.wall {
        fail(format_args!("the clock went from {} back to {}", before.wall, now.wall));
    }
    let in_memory = [GENERATION_PAGE, GENERATION_PAGE + 8].map(mmio::read64);
    if in_memory != [0, 8].map(|at| u64::from_le_bytes(core::array::from_fn(|byte| now.generation[at + byte]))) {
        fail(format_args!("another VM generation id in memory: {in_memory:x?}"));
    }
    if thawed.index != 0 {
        if thawed.index != now.index {
            fail(format_args!("it woke up as clone {}, and is clone {}", thawed.index, now.index));
        }
        is_new(before, &now);
    }
}

/// Verifies that a clone has an identity of its own.
fn is_new(before: &Snapshot, now: &Snapshot) {
    if now.uuid == before.uuid || now.generation == before.generation || now.mac == before.mac {
        fail(format_args!("the clone's UUID, generation or MAC address is its source's"));
    }
    if now.mac[0] & 3 != 2 {
        fail(format_args!("{} is no local address of one station", Hex(&now.mac)));
    }
    if now.epoch == before.epoch {
        fail(format_args!("the epoch is still {}", now.epoch));
    }
    if !gic::read_bit(gic::ISPENDR, GENERATION_INTID) {
        fail(format_args!("no interrupt tells of the new generation"));
    }
    gic::write_bit(gic::ICPENDR, GENERATION_INTID);
}

/// Answers lines until one says `off`.
fn answer(index: u64) -> ! {
    input::init();
    loop {
        match input::read_line().as_str() {
            "ping" => println!("pong {index}"),
            "off" => psci::system_off(),
            line => println!("what is {line:?}?"),
        }
    }
}
