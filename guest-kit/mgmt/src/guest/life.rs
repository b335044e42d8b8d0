//! This guest's own life: the checkpoint that EL2 brings it back to, and the heartbeat that tells that it is well. Before:
//! `main` and the loop. After: EL2. On plain QEMU there is nobody to tell.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_kit::{machine, words};
use salp_hvc::manager;

use super::{calls, clock};

/// How often it beats, in milliseconds.
pub const BEAT: u64 = 500;
/// How long EL2 waits for a beat, in milliseconds: the slowest thing that is done in one go fits many times.
const PATIENCE: u64 = 3_000;

/// When the next beat is due; 0 for never: nobody listens.
static DUE: AtomicU64 = AtomicU64::new(0);

/// Why this guest is at its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It has just made it.
    First,
    /// It was brought back to it: for the how manieth time, and why.
    Again(u64, u64),
    /// There are no checkpoints.
    Mortal,
}

/// Makes the present state the checkpoint; returns again whenever this guest is brought back to it.
pub fn checkpoint() -> Begin {
    let begin = match calls::call(manager::CHECKPOINT, []) {
        Ok([0, ..]) => Begin::First,
        Ok([count, why, _]) => Begin::Again(count, why),
        Err(_) => return Begin::Mortal,
    };
    DUE.store(clock::milliseconds().max(1), Ordering::Relaxed);
    begin
}

/// Tells that this guest is well, if it is time to.
pub fn beat() {
    let (due, now) = (DUE.load(Ordering::Relaxed), clock::milliseconds());
    if due != 0 && now >= due {
        DUE.store(now + BEAT, Ordering::Relaxed);
        // Who does not listen any more needs no heartbeat.
        let _ = calls::call(manager::HEARTBEAT, [PATIENCE]);
    }
}

/// Takes note of a request. Crashes or hangs at every N-th if the boot arguments say `fault=crash:N` or `fault=hang:N`: for who
/// wants to see what clients and VMs notice of it.
///
/// # Panics
///
/// If that was asked for.
pub fn note_request() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some((how, every)) = words::get(machine::bootargs(), "fault").and_then(|fault| fault.split_once(':')) else {
        return;
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    if every.parse().is_ok_and(|every: u64| count >= every) {
        assert!(how == "hang", "the boot arguments ask for it");
        loop {
            core::hint::spin_loop();
        }
    }
}
