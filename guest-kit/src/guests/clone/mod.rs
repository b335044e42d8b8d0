//! A guest to be cloned. Boot argument `role=`, the first unless it says otherwise:
//!
//! | role | what it does |
//! |---|---|
//! | [`frozen`] | freezes; whoever goes on says who it is, and what the machine looks like |
//! | [`checker`] | verifies for ever that its memory is its own |
//! | [`timers`] | counts timer interrupts and software interrupts, none of which may be lost or doubled |
//! | `spin` ([`gaps`]) | measures for how long it was stopped |
//! | [`dirty`] | measures first reads and first writes of pages that are shared |
//!
//! Whatever is wrong is a line `FAIL role: reason`, and the guest turns itself off.

mod checker;
mod dirty;
mod frozen;
mod gaps;
mod timers;

use core::fmt;

use crate::rt::ram::Ram;
use crate::rt::sysreg;
use crate::salp::{self, Config};
use crate::{gic, machine, println, psci, timer, words};

/// Runs the guest.
pub fn main() {
    gic::init();
    // Interrupts stay masked, but end a WFI.
    gic::enable(timer::VIRTUAL_INTID);
    match role() {
        "frozen" => frozen::main(),
        "checker" => checker::main(),
        "timers" => timers::main(),
        "spin" => gaps::main(),
        "dirty" => dirty::main(),
        _ => fail(format_args!("there is no such role")),
    }
}

fn role() -> &'static str {
    words::get(machine::bootargs(), "role").unwrap_or("frozen")
}

/// Ends the guest because something is wrong.
fn fail(reason: fmt::Arguments<'_>) -> ! {
    println!("FAIL {}: {reason}", role());
    psci::system_off()
}

/// Returns what Salp answers to a call that it may not refuse.
fn must<T>(what: &str, answer: salp::Answer<T>) -> T {
    answer.unwrap_or_else(|refused| fail(format_args!("{what}: {refused:?}")))
}

/// What this VM is told to do: the configuration that it was cloned with, and the boot arguments behind it.
struct Settings {
    config: Config,
}

impl Settings {
    /// Reads the present configuration.
    fn read() -> Self {
        Self { config: must("CONFIG", salp::config()) }
    }

    /// Returns the value of `key=value`.
    fn get(&self, key: &str) -> Option<&str> {
        words::get(&self.config, key).or_else(|| words::get(machine::bootargs(), key))
    }
}

/// Writes `count` words, from the start of RAM to its end.
fn touch(count: u64) {
    let ram = Ram::largest();
    let step = ((ram.end() - ram.start()) / count.max(1)) & !4095;
    (0..count).for_each(|index| ram.write(ram.start() + index * step, index));
}

/// Sleeps for ever.
fn sleep_for_ever() -> ! {
    loop {
        sysreg::wfi();
    }
}

/// Shows bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
