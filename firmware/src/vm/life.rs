//! How a VM lives: where it is in its life, and what makes it stand still in between.
//!
//! Before: [`super::Vm`], whose parts these change. After: the scheduler, which keeps a held VM off all CPUs, and
//! [`crate::operation`], which makes VMs stand still.

use super::{Vm, promise_shared};
use crate::console::log;
use crate::events;
use crate::machine::{self, Store};
use crate::operation::{Answer, Asker};
use core::fmt;
use core::sync::atomic::Ordering;
use salp_core::addr::Ipa;
use salp_core::sched::{VCPUS_PER_VM, VcpuRef};
use salp_hvc::events::{FROZEN, NO_MEMORY, UNFROZEN};
use salp_hvc::status;
use salp_hw::memory::Ram;

/// Where a VM is in its life. Only who finds a VM `Running` decides what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Its vCPUs run, unless something holds it.
    Running,
    /// It turned itself off.
    Off,
    /// It wants to start again.
    Reset,
    /// It cannot go on.
    Crashed,
    /// A manager destroys it.
    Destroyed,
    /// A manager turns it off.
    Stopped,
    /// A manager starts it again.
    Restarted,
    /// Its heartbeat did not come.
    Hung,
    /// Its last vCPU has left; it is being taken down.
    Ending,
}

impl Fate {
    pub(super) const MASK: u32 = 0xff;

    fn of(control: u32) -> Self {
        match control & Self::MASK {
            0 => Self::Running,
            1 => Self::Off,
            2 => Self::Reset,
            3 => Self::Crashed,
            4 => Self::Destroyed,
            5 => Self::Stopped,
            6 => Self::Restarted,
            7 => Self::Hung,
            _ => Self::Ending,
        }
    }
}

/// Why a VM's vCPUs are kept off all CPUs: bits of one word, beside its [`Fate`]. It runs when there is none left.
pub mod hold {
    /// Frozen, by its own call or a manager's.
    pub const FROZEN: u32 = 1 << 8;
    /// The machine has no memory for it.
    pub const NO_MEMORY: u32 = 1 << 9;
    /// An operation needs it to stand still.
    pub const OPERATION: u32 = 1 << 10;
    /// It is a snapshot.
    pub const SNAPSHOT: u32 = 1 << 11;
    /// It is off, without memory, and can be started.
    pub const OFF: u32 = 1 << 12;
    /// It fails again and again: it waits before it goes on.
    pub const BACKOFF: u32 = 1 << 15;
    /// All that outlives a hand-over: no operation is going on then.
    pub const ALL: u32 = FROZEN | NO_MEMORY | SNAPSHOT | OFF | BACKOFF;
}

/// The vCPU that froze its VM, and how: it goes on after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freezer {
    /// By a call, which returns the clone's index.
    Call(usize),
    /// By a store to the guest device.
    Store(usize),
}

impl Vm {
    /// Returns 0 while the VM runs, else its [`Fate`] and the bits of [`hold`].
    #[inline]
    pub fn control(&self) -> u32 {
        self.control.load(Ordering::Relaxed)
    }

    /// Returns where the VM is in its life.
    #[inline]
    pub fn fate(&self) -> Fate {
        Fate::of(self.control())
    }

    /// Returns true if this holds the VM.
    pub fn is_held_by(&self, why: u32) -> bool {
        self.control() & why != 0
    }

    /// Keeps the VM's vCPUs off all CPUs for this reason. Returns true if none is on one; else the last to leave calls
    /// [`crate::operation::attend`].
    pub fn hold(&self, why: u32) -> bool {
        let mut scheduler = machine::get().scheduler.lock();
        self.control.fetch_or(why, Ordering::AcqRel);
        // From here on it waits for somebody else than a CPU.
        self.vcpus.iter().flatten().for_each(|vcpu| vcpu.left.store(0, Ordering::Relaxed));
        let kicks = scheduler.hold(self.slot);
        let quiet = scheduler.is_quiet(self.slot);
        drop(scheduler);
        machine::kick(kicks);
        quiet
    }

    /// Takes back a reason to keep the VM's vCPUs off all CPUs; they go on if it was the last.
    pub fn let_go(&self, why: u32) {
        let mut scheduler = machine::get().scheduler.lock();
        let before = self.control.fetch_and(!why, Ordering::AcqRel);
        let released = before & why != 0 && before & !why & !Fate::MASK == 0;
        let kicks = if released { scheduler.release(self.slot) } else { 0 };
        drop(scheduler);
        machine::kick(kicks);
    }

    /// Notes that an operation makes the VM stand still from now on.
    pub fn pause_begins(&self) {
        self.pause.store(salp_hw::cpu::counter(), Ordering::Relaxed);
    }

    /// Notes that the VM may go on.
    pub fn pause_ends(&self) {
        let began = self.pause.load(Ordering::Relaxed);
        self.pause.store(salp_hw::cpu::counter().wrapping_sub(began), Ordering::Relaxed);
    }

    /// Returns for how long the VM stood still for the last operation, in nanoseconds.
    pub fn last_pause(&self) -> u64 {
        machine::nanoseconds(self.pause.load(Ordering::Relaxed))
    }

    /// Takes back a reason to keep a VM off all CPUs that the scheduler does not hold.
    pub fn clear_hold(&self, why: u32) {
        self.control.fetch_and(!why, Ordering::AcqRel);
    }

    /// Makes the VM frozen, or not, while an operation holds it.
    pub fn set_frozen(&self, frozen: bool, freezer: Option<Freezer>) {
        if frozen {
            self.control.fetch_or(hold::FROZEN, Ordering::AcqRel);
        } else {
            self.control.fetch_and(!hold::FROZEN, Ordering::AcqRel);
        }
        *self.freezer.lock() = freezer;
        self.is_sealed.store(false, Ordering::Relaxed);
    }

    /// Freezes the VM by one of its vCPUs. Returns false if another one was faster.
    pub fn freeze_by(&self, freezer: Freezer) -> bool {
        {
            let mut first = self.freezer.lock();
            if first.is_some() {
                return false;
            }
            *first = Some(freezer);
        }
        self.hold(hold::FROZEN);
        true
    }

    /// Returns who froze the VM from inside.
    pub fn freezer(&self) -> Option<Freezer> {
        *self.freezer.lock()
    }

    /// Lets a frozen VM go on, after promising it what it may have to copy because of its clones.
    ///
    /// # Errors
    ///
    /// It is not frozen, or the machine cannot promise so much: a status.
    pub fn unfreeze(&self) -> Result<(), i64> {
        if !self.is_held_by(hold::FROZEN) || self.is_held_by(hold::SNAPSHOT) {
            return Err(status::WRONG_STATE);
        }
        if let Some(memory) = self.memory.lock().as_mut() {
            promise_shared(memory).map_err(|_| status::NO_MEMORY)?;
        }
        *self.freezer.lock() = None;
        self.is_sealed.store(false, Ordering::Relaxed);
        self.let_go(hold::FROZEN);
        events::tell(self, UNFROZEN, 0);
        Ok(())
    }

    /// Returns true if it goes on once no operation has it any more.
    pub fn runs_on(&self) -> bool {
        !self.is_held_by(hold::FROZEN | hold::SNAPSHOT)
    }

    /// Seals the memory of a frozen VM whose vCPUs are all off their CPUs, once: its clones read without a fault then. Returns
    /// true if this call did it.
    pub fn seal(&self) -> bool {
        let is_due = self.is_held_by(hold::FROZEN) && !self.is_sealed.swap(true, Ordering::AcqRel);
        if is_due && let Some(memory) = self.memory.lock().as_mut() {
            memory.seal(&Store, &Ram, &self.tlb());
        }
        if is_due {
            events::tell(self, FROZEN, 0);
        }
        is_due
    }

    /// Stops the VM for this reason, unless it is stopping already, or off and not to be destroyed: every vCPU leaves its CPU.
    /// Returns true if it did.
    pub fn stop(&self, fate: Fate) -> bool {
        let running = |control: u32| {
            let can_stop = control & hold::OFF == 0 || fate == Fate::Destroyed;
            (Fate::of(control) == Fate::Running && can_stop).then_some(control & !Fate::MASK | fate as u32)
        };
        let stopped = self.control.fetch_update(Ordering::AcqRel, Ordering::Relaxed, running).is_ok();
        if stopped {
            let mut scheduler = machine::get().scheduler.lock();
            let kicks =
                (0..VCPUS_PER_VM).fold(0, |set, index| set | scheduler.turn_off(VcpuRef::new(self.slot, index)));
            drop(scheduler);
            machine::kick(kicks);
        }
        stopped
    }

    /// Stops the VM because it cannot go on, with the reason in the log.
    pub fn crash(&self, vcpu: usize, why: fmt::Arguments<'_>) {
        if self.fate() == Fate::Running {
            log!("{}: vCPU {vcpu} stopped the VM: {why}", self.name());
            self.stop(Fate::Crashed);
        }
    }

    /// Prepares another life of the VM, after its end. Nobody who waits for an answer waits for it any more: its calls under way
    /// are not that life's. `answer` is what its first vCPU gets.
    pub fn new_life(&self, answer: Option<Answer>) {
        self.life.fetch_add(1, Ordering::AcqRel);
        let answers = core::iter::once(answer).chain(core::iter::repeat(None));
        for (index, answer) in (0..self.vcpus()).zip(answers) {
            if let Some(vcpu) = self.vcpu(index) {
                *vcpu.answer.lock() = answer;
            }
        }
    }

    /// Returns who waits for the end of this life, once.
    pub fn take_mourner(&self) -> Asker {
        core::mem::replace(&mut *self.mourner.lock(), Asker::Nobody)
    }

    /// Claims the end of a VM whose vCPUs have all left. Exactly one caller gets it, and learns why the VM stopped.
    pub fn begin_end(&self) -> Option<Fate> {
        let stopped = |control: u32| {
            let is_due = !matches!(Fate::of(control), Fate::Running | Fate::Ending);
            is_due.then_some(control & !Fate::MASK | Fate::Ending as u32)
        };
        let before = self.control.fetch_update(Ordering::AcqRel, Ordering::Relaxed, stopped).ok()?;
        Some(Fate::of(before))
    }

    /// Begins a life: the first vCPU is on. One that a manager starts is as its description says, frozen or not, whatever it was
    /// before; one that starts itself again may have been asked to stand still in between.
    pub fn begin(&self, by_manager: bool) {
        let (mut gone, mut new) = (Fate::MASK, 0);
        if by_manager {
            gone |= hold::OFF | hold::FROZEN | hold::NO_MEMORY;
            new = if self.spec.starts_frozen() { hold::FROZEN } else { 0 };
            self.forget_freezer();
        }
        let mut scheduler = machine::get().scheduler.lock();
        let before = self.control.fetch_and(!gone, Ordering::AcqRel) & !gone;
        self.control.fetch_or(new, Ordering::AcqRel);
        // Its vCPUs are off: nothing else changes.
        let mut kicks = if before | new == 0 { scheduler.release(self.slot) } else { scheduler.hold(self.slot) };
        kicks |= scheduler.turn_on(VcpuRef::new(self.slot, 0));
        drop(scheduler);
        machine::kick(kicks);
    }

    /// Is off from here on, and nothing holds it any more but that. The VM has no vCPU on any CPU, and no memory.
    pub fn rest(&self) {
        self.forget_freezer();
        let over = Fate::MASK | hold::FROZEN | hold::NO_MEMORY | hold::BACKOFF;
        let resting = |control: u32| Some(control & !over | hold::OFF);
        let _ = self.control.fetch_update(Ordering::AcqRel, Ordering::Relaxed, resting);
    }

    fn forget_freezer(&self) {
        *self.freezer.lock() = None;
        self.is_sealed.store(false, Ordering::Relaxed);
    }

    /// Stands still until the machine has memory again.
    pub fn starve(&self, ipa: Ipa) {
        let is_news = !self.is_held_by(hold::NO_MEMORY);
        self.hold(hold::NO_MEMORY);
        if is_news {
            log!(
                "{}: the machine has no memory left for it (at {ipa}): it stands still until there is some",
                self.name()
            );
            events::tell(self, NO_MEMORY, 0);
        }
        // Memory that came back in between must not be missed.
        machine::get().note_starved();
        machine::get().memory_may_be_back();
    }
}
