//! The board's watchdog, which resets the machine when this image does not live any more on all its CPUs.
//!
//! Before: [`crate::watch`], which looks when a round is due; [`crate::vcpu`], whose CPUs answer. After: [`salp_core::watchdog`].
//!
//! In a *round* every CPU that runs is kicked, and answers where it takes that interrupt: EL2 runs with interrupts masked and
//! takes them in its loop alone. The last one to answer pets the watchdog. So it is not petted if no CPU looks after what is due, or
//! one of them is stuck anywhere, on a lock too; what a guest does has no part in it. The first stage has armed it before this image
//! was started, the image before when it handed over.

use crate::console::log;
use crate::handover;
use crate::machine;
use crate::watch;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use salp_core::watchdog::{PATIENCE_MS, Watchdog};
use salp_hvc::calls::{WATCHDOG_ARMED, WATCHDOG_EXPIRED};
use salp_hw::lock::Mutex;
use salp_hw::watchdog::BoardWatchdog;
use salp_hw::{boot, cpu};

/// How long it is from one round to the next, in milliseconds: long enough for an idle machine to stay idle.
const ROUND_MS: u64 = 5_000;

/// How long a hand-over may take until VMs run, whichever image runs them, in milliseconds: longer than until it falls back.
const HAND_OVER_MS: u32 = 10_000;

/// There is no watchdog.
const NEVER: u64 = u64::MAX;

static WATCHDOG: Mutex<Option<BoardWatchdog>> = Mutex::new(None);
/// When the next round is due.
static DUE: AtomicU64 = AtomicU64::new(NEVER);
/// The CPUs that have not answered in this round, one bit each.
static AWAITED: AtomicU8 = AtomicU8::new(0);
static WAS_EXPIRED: AtomicBool = AtomicBool::new(false);

/// Arms it, and begins with rounds: this image's loop is about to run on all CPUs, or runs again.
pub fn begin() {
    let mut watchdog = WATCHDOG.lock();
    if watchdog.is_none() {
        *watchdog = boot::watchdog();
    }
    let Some(watchdog) = &mut *watchdog else {
        if boot::get().handed.is_none() {
            log!("there is no watchdog: should this hypervisor hang, nothing resets the machine");
        }
        return;
    };
    // Another loader than our own leaves that to be seen here.
    let was_expired = watchdog.take_expired() || boot::get().loaded.was_expired;
    WAS_EXPIRED.fetch_or(was_expired, Ordering::Relaxed);
    watchdog.arm(PATIENCE_MS);
    next_round(cpu::counter());
}

/// Gives what comes next less time: a hand-over.
pub fn hurry() {
    WATCHDOG.lock().iter_mut().for_each(|watchdog| watchdog.arm(HAND_OVER_MS));
}

/// Begins a round if one is due.
pub fn look(now: u64) {
    match DUE.load(Ordering::Acquire) {
        NEVER => {}
        due if now < due => watch::remind(due),
        _ => {
            // Who has not answered in the one before is asked again.
            let cpus = handover::cpus();
            AWAITED.store(cpus, Ordering::Release);
            next_round(now);
            machine::kick(cpus);
        }
    }
}

fn next_round(now: u64) {
    let due = now + cpu::counter_frequency() / 1000 * ROUND_MS;
    DUE.store(due, Ordering::Release);
    watch::remind(due);
}

/// Takes note that CPU `index` has taken a kick.
pub fn answer(index: usize) {
    let this = 1 << index;
    if AWAITED.load(Ordering::Acquire) & this != 0 && AWAITED.fetch_and(!this, Ordering::AcqRel) == this {
        WATCHDOG.lock().iter_mut().for_each(Watchdog::pet);
    }
}

/// Returns true if it made the machine's last reset.
pub fn was_expired() -> bool {
    WAS_EXPIRED.load(Ordering::Relaxed)
}

/// Returns what managers are told: `WATCHDOG_…` bits.
pub fn flags() -> u32 {
    let is_armed = DUE.load(Ordering::Relaxed) != NEVER;
    [(is_armed, WATCHDOG_ARMED), (was_expired(), WATCHDOG_EXPIRED)]
        .into_iter()
        .filter_map(|(is_so, flag)| is_so.then_some(flag))
        .sum()
}
