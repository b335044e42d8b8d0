//! Guests that go wrong, each in one way. Boot argument `kind=`:
//!
//! - `storm` (default): vectors where nothing is, then an exception, and so exceptions for ever;
//! - `tables`: translation tables where nothing is;
//! - `sleep`: every vCPU in WFI with everything masked and no timer;
//! - `all-off`: every vCPU turns itself off;
//! - `panic`: the guest's own panic, which reports and turns the machine off;
//! - `reset`: starts the machine again for ever.

use crate::rt::{cpu, ruin, sysreg};
use crate::{machine, println, psci, words};

/// Runs the guest.
pub fn main() {
    let kind = words::get(machine::bootargs(), "kind").unwrap_or("storm");
    println!("crash: {kind}");
    match kind {
        "storm" => {
            cpu::start_all(|_| ruin::vectors());
            ruin::vectors()
        }
        "tables" => ruin::tables(),
        "sleep" => {
            cpu::start_all(sleep);
            sleep(0)
        }
        "all-off" => {
            psci::cpu_off();
        }
        "panic" => panic!("as asked"),
        "reset" => psci::system_reset(),
        other => println!("FAIL crash: there is no kind {other}"),
    }
}

fn sleep(_: u64) {
    sysreg::mask_all();
    loop {
        sysreg::wfi();
    }
}
