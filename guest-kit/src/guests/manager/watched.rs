//! A manager that fails, in each of these ways `times=` times (default 2), and is brought back to its checkpoint: `kinds=`,
//! separated by commas.
//!
//! - `crash`: it turns its only vCPU off;
//! - `storm`: an exception that it cannot take, for ever;
//! - `hang`: a loop with everything masked;
//! - `sleep`: a sleep that nothing ends;
//! - `off`, `reset`: the end that it asks for itself;
//! - `blocked`: in the middle of making clones of the VM `vm=`, again and again.
//!
//! Heartbeats are due within `within=` milliseconds (default 20). `BACK count=N reason=N kind=KIND ticks=N` tells of each
//! return, and how long it took from the failure, or from the time when the heartbeat was due, to the first instruction. It does
//! not turn itself off in the end: that is a failure, too.

use core::sync::atomic::{AtomicU64, Ordering};

use salp_hvc::manager::{RECOVERY_CRASH, RECOVERY_HANG};
use salp_hvc::status;

use super::{all, fail, must, source};
use crate::machine::{self, number};
use crate::rt::{ruin, sysreg};
use crate::salp::{self, Name, Refused, Request};
use crate::{println, psci, test, timer, words};

/// The record that tells the next life of this one: its number, why it ends, and when.
const NOTE: u64 = 7;
/// What the names of clones begin with.
const STRAY: &str = "stray";

/// Something that a life leaves in memory.
static DIRT: AtomicU64 = AtomicU64::new(0);

/// Runs the scenario.
pub fn main() -> ! {
    let recovery = must("CHECKPOINT", salp::checkpoint());
    let now = sysreg::cntpct();
    must("HEARTBEAT", salp::heartbeat(0));
    if DIRT.swap(1, Ordering::Relaxed) != 0 {
        fail(format_args!("memory is not what it was at the checkpoint"));
    }
    let kinds = words::get(machine::bootargs(), "kinds").unwrap_or("crash,hang,sleep,off,reset,blocked");
    let kind = |life: u64| kinds.split(',').cycle().nth(life as usize % kinds.split(',').count()).unwrap_or("crash");
    if recovery.count > 0 {
        let [life, reason, at] = recalled();
        if (life + 1, reason) != (recovery.count, recovery.reason) {
            fail(format_args!("{recovery:?} after life {life}, which should end with {reason}"));
        }
        let ticks = now.saturating_sub(at);
        println!("BACK count={} reason={reason} kind={} ticks={ticks}", recovery.count, kind(life));
    }
    destroy_strays();
    let end = number("times", 2) * kinds.split(',').count() as u64;
    if recovery.count >= end {
        must("KEEP", salp::keep(NOTE, b""));
        test::done(1, 0, 0);
        loop {
            timer::sleep(1000);
        }
    }
    live_and_fail(recovery.count, kind(recovery.count))
}

fn live_and_fail(life: u64, kind: &str) -> ! {
    let within = number("within", 20);
    must("HEARTBEAT", salp::heartbeat(within));
    let now = sysreg::cntpct();
    let hangs = matches!(kind, "storm" | "hang" | "sleep" | "blocked");
    let (reason, at) = if hangs { (RECOVERY_HANG, now + timer::ticks(within * 1000)) } else { (RECOVERY_CRASH, now) };
    let note = [life, reason, at].map(u64::to_le_bytes);
    must("KEEP", salp::keep(NOTE, note.as_flattened()));
    sysreg::mask_all();
    match kind {
        "hang" => loop {
            core::hint::spin_loop();
        },
        "sleep" => loop {
            sysreg::wfi();
        },
        "blocked" => make_strays(life),
        "off" => psci::system_off(),
        "reset" => psci::system_reset(),
        "storm" => ruin::vectors(),
        _ => {
            psci::cpu_off();
            fail(format_args!("its vCPU is on"))
        }
    }
}

fn recalled() -> [u64; 3] {
    let mut note = [[0; 8]; 3];
    must("RECALL", salp::recall(NOTE, note.as_flattened_mut()));
    note.map(u64::from_le_bytes)
}

/// Makes clones for ever, mostly blocked in the call.
fn make_strays(life: u64) -> ! {
    let source = source().id.get();
    for round in 0u64.. {
        let name = Name::new(format_args!("{STRAY}-{life}-{round}"));
        must("VM_CLONE", salp::vm_clone(&Request::new(source, 20, name)));
        destroy_strays();
    }
    fail(format_args!("nobody misses this VM"))
}

/// Destroys clones, those too that an earlier life asked for and that are still being made.
fn destroy_strays() {
    for info in all().filter(|info| Name(info.name).text().starts_with(STRAY)) {
        match salp::vm_destroy(info.id.get()) {
            Ok(()) | Err(Refused(status::NOT_FOUND | status::BUSY)) => {}
            Err(refused) => fail(format_args!("VM_DESTROY: {refused:?}")),
        }
    }
}
