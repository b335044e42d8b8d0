//! What EL2 does to a VM at a certain time: a manager whose heartbeat does not come is brought back to its checkpoint, as one
//! that crashes is; a power button that was pressed is released.
//!
//! Before: [`crate::life`], by which managers ask for it; [`crate::machine::end_vm`], where every life ends. After:
//! [`crate::fork`].
//!
//! A checkpoint is a copy of the VM, as a snapshot is, in no slot: nobody finds it but its VM. What is due at a certain time
//! is noted in the VM; [`due`] is the earliest of all VMs, which the alarm of every CPU covers. It is looked after by a CPU
//! that has no vCPU loaded ([`serve`]), whatever the manager does with its own.

use crate::console::log;
use crate::exits;
use crate::fork;
use crate::handover;
use crate::machine;
use crate::operation::Answer;
use crate::vm::{self, Fate, Vcpu, Vm, hold};
use crate::watchdog;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use salp_core::addr::Pa;
use salp_core::recovery::Failures;
use salp_hvc::manager::{RECOVERY_CRASH, RECOVERY_HANG};
use salp_hvc::status;
use salp_hw::cpu;
use salp_hw::lock::Mutex;
use salp_hw::own::Own;

/// Nothing is due.
const NEVER: u64 = u64::MAX;

/// For how long a power button is pressed, in milliseconds: longer than a driver waits for it to settle.
const PRESS_MS: u64 = 100;

/// Into how many spells the time between two heartbeats is cut. A machine that stood still for a while, as an emulated one does
/// whose host is busy, has lost one of them: who was given no time to beat is not hung.
const SPELLS: u64 = 3;

/// The earliest time at which something may be due.
static NEXT: AtomicU64 = AtomicU64::new(NEVER);

/// What EL2 watches over of a VM.
pub struct Watch {
    /// When there must have been a heartbeat, or the VM may go on.
    due: AtomicU64,
    /// When the power button is released.
    release: AtomicU64,
    /// How many ticks may pass between two heartbeats; 0 if none is expected.
    within: AtomicU64,
    /// How many spells have gone by since the last one.
    missed: AtomicU64,
    /// How often its vCPUs had come back to EL2 when the last spell was over.
    exits: AtomicU64,
    /// A call of it is being carried out.
    is_calling: AtomicBool,
    checkpoint: Mutex<Option<Own<Vm>>>,
    failures: Mutex<Failures>,
}

/// Returns when something is due, if anything is.
#[inline]
pub fn due() -> Option<u64> {
    Some(NEXT.load(Ordering::Relaxed)).filter(|&next| next != NEVER)
}

/// Returns true if something is due.
#[inline]
pub fn is_due(now: u64) -> bool {
    NEXT.load(Ordering::Relaxed) <= now
}

/// Does what is due. No vCPU is loaded on this CPU, and no lock is held.
pub fn serve() {
    let now = cpu::counter();
    if !is_due(now) {
        return;
    }
    // What is noted from here on is either seen below or noted behind it.
    NEXT.swap(NEVER, Ordering::AcqRel);
    handover::look(now);
    watchdog::look(now);
    let slots = machine::directory().lock().slots();
    for slot in slots {
        let ended = machine::slot(slot).read().as_deref().and_then(|vm| vm.watch.look(vm, now));
        if let Some(fate) = ended {
            machine::end_vm(slot, fate);
        }
    }
}

/// Notes a time at which something is due.
fn note(place: &AtomicU64, time: u64) {
    place.store(time, Ordering::Release);
    NEXT.fetch_min(time, Ordering::AcqRel);
}

/// Makes a CPU look after what is due at this time, or before.
pub fn remind(time: u64) {
    NEXT.fetch_min(time, Ordering::AcqRel);
}

/// Returns true, once, if a time has come that was noted.
fn is_up(place: &AtomicU64, now: u64) -> bool {
    let time = place.load(Ordering::Acquire);
    if time > now {
        NEXT.fetch_min(time, Ordering::AcqRel);
        return false;
    }
    // Who notes another time meanwhile wants that one.
    place.compare_exchange(time, NEVER, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

impl Watch {
    /// Returns that of a VM that nothing is expected of.
    pub const fn new() -> Self {
        Self {
            due: AtomicU64::new(NEVER),
            release: AtomicU64::new(NEVER),
            within: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            exits: AtomicU64::new(0),
            is_calling: AtomicBool::new(false),
            checkpoint: Mutex::new(None),
            failures: Mutex::new(Failures::NONE),
        }
    }

    /// Takes note of a heartbeat. The next one must come within so many milliseconds; 0 for never.
    pub fn heartbeat(&self, milliseconds: u64) {
        self.within.store(milliseconds.saturating_mul(cpu::counter_frequency()) / 1000, Ordering::Relaxed);
        self.expect(cpu::counter());
    }

    /// Takes note that a call of the VM's begins to be carried out, or has its answer.
    pub fn set_calling(&self, is_calling: bool) {
        self.is_calling.store(is_calling, Ordering::Relaxed);
    }

    /// Expects a heartbeat in time from now on.
    fn expect(&self, now: u64) {
        self.missed.store(0, Ordering::Relaxed);
        self.begin_spell(now);
    }

    fn begin_spell(&self, now: u64) {
        let within = self.within.load(Ordering::Relaxed);
        self.set_due(if within == 0 { NEVER } else { now.saturating_add(within / SPELLS) });
    }

    fn set_due(&self, due: u64) {
        note(&self.due, due);
    }

    /// Presses the power button of the VM for a moment.
    pub fn press(&self, vm: &Vm) {
        exits::press_power(vm, true);
        note(&self.release, cpu::counter() + cpu::counter_frequency() / 1000 * PRESS_MS);
    }

    /// Releases the power button, stops the VM if it is hung, or lets it go on after a failure. Returns why it ended if the caller has to end it.
    fn look(&self, vm: &Vm, now: u64) -> Option<Fate> {
        if is_up(&self.release, now) {
            exits::press_power(vm, false);
        }
        if !is_up(&self.due, now) {
            return None;
        }
        if vm.is_held_by(hold::BACKOFF) {
            self.expect(now);
            vm.let_go(hold::BACKOFF);
            return None;
        }
        if vm.is_held_by(hold::FROZEN | hold::NO_MEMORY) {
            // It cannot beat.
            self.expect(now);
            return None;
        }
        let exits = vm.exits();
        let has_stood_still = self.exits.swap(exits, Ordering::Relaxed) == exits;
        let waits = self.is_calling.load(Ordering::Relaxed) || vm.vcpu(0).is_some_and(Vcpu::waits);
        if has_stood_still && waits {
            // For one and the same call, or for a CPU, all the time: the slow one is not the VM.
            self.begin_spell(now);
            return None;
        }
        if self.missed.fetch_add(1, Ordering::Relaxed) + 1 < SPELLS {
            self.begin_spell(now);
            return None;
        }
        if vm.is_busy.swap(true, Ordering::AcqRel) {
            // What is being done to it is done first.
            self.set_due(now + cpu::counter_frequency() / 1000);
            return None;
        }
        let stopped = vm.stop(Fate::Hung);
        vm.is_busy.store(false, Ordering::Release);
        // Else the CPU that its vCPU leaves ends it.
        let is_off = stopped && machine::get().scheduler.lock().is_off(vm.slot);
        if is_off { vm.begin_end() } else { None }
    }

    /// Keeps a checkpoint in place of the one before.
    pub fn replace_checkpoint(&self, checkpoint: Own<Vm>) {
        let before = self.checkpoint.lock().replace(checkpoint);
        before.into_iter().for_each(vm::discard);
    }

    /// Does something with the checkpoint, if there is one.
    pub fn with_checkpoint<R>(&self, act: impl FnOnce(&Vm) -> R) -> Option<R> {
        self.checkpoint.lock().as_deref().map(act)
    }

    /// Does something with the checkpoint and its frame, if there is one.
    pub fn with_checkpoint_in_frame<R>(&self, act: impl FnOnce(&Vm, Pa) -> R) -> Option<R> {
        self.checkpoint.lock().as_ref().map(|kept| act(kept, kept.frame()))
    }

    /// Returns what a hand-over has of it beside the checkpoint: when a heartbeat is due, and when the button is released, how long
    /// a heartbeat may take, and failures.
    pub fn record(&self) -> (u64, u64, u64, [u64; 3]) {
        let [due, release, within] = [&self.due, &self.release, &self.within].map(|time| time.load(Ordering::Relaxed));
        (due, release, within, self.failures.lock().record())
    }

    /// Takes over what a record of a hand-over says.
    pub fn restore(&self, record: &salp_hvc::handover::Vm) {
        self.within.store(record.within, Ordering::Relaxed);
        note(&self.due, record.due);
        note(&self.release, record.release);
        if record.within != 0 && record.holds & hold::BACKOFF == 0 {
            // The time of the hand-over does not count.
            self.expect(cpu::counter());
        }
        *self.failures.lock() = Failures::restored(record.failures);
    }

    /// Expects nothing any more, and keeps nothing.
    pub fn end(&self) {
        self.within.store(0, Ordering::Relaxed);
        self.due.store(NEVER, Ordering::Relaxed);
        let kept = self.checkpoint.lock().take();
        kept.into_iter().for_each(vm::discard);
    }
}

/// Takes a VM that has ended so back to its checkpoint. Returns `None` if it has none, false if that cannot be done.
pub fn take_back(vm: &Vm, fate: Fate, what: &str) -> Option<bool> {
    let reason = match fate {
        Fate::Hung => RECOVERY_HANG,
        Fate::Crashed | Fate::Off | Fate::Reset => RECOVERY_CRASH,
        _ => return None,
    };
    vm.watch.with_checkpoint(|checkpoint| {
        let now = cpu::counter();
        let (count, delay) = {
            let mut failures = vm.watch.failures.lock();
            let delay = failures.note(now, cpu::counter_frequency());
            (failures.count, delay)
        };
        let answer = Answer { status: status::OK, values: [count, reason, 0] };
        if let Err(error) = fork::take_back(vm, checkpoint, answer) {
            log!("{}: {what}: it cannot be taken back to its checkpoint ({error}) and restarts", vm.name());
            return false;
        }
        log!("{}: {what}: taken back to its checkpoint ({count})", vm.name());
        if delay == 0 {
            vm.watch.expect(now);
        } else {
            vm.hold(hold::BACKOFF);
            vm.watch.set_due(now.saturating_add(delay));
        }
        true
    })
}
