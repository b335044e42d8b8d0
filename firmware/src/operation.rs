//! What managers do to VMs: an operation that needs a VM to stand still is carried out by whoever finds it so, the asker's
//! CPU if no vCPU of it is on one, else the CPU that the last of them leaves. Nobody waits spinning.
//!
//! Before: [`crate::manage`] and [`crate::monitor`], who ask. After: [`crate::fork`], and the answer to the asker.

use crate::commands;
use crate::console::log;
use crate::events;
use crate::fork;
use crate::machine;
use crate::vm::{Fate, Vm, hold};
use core::sync::atomic::{AtomicUsize, Ordering};
use salp_core::calls::manage::CloneSpec;
use salp_core::identity::Name;
use salp_core::sched::VcpuRef;
use salp_hvc::events::REVERTED;
use salp_hvc::status;
use salp_hw::lock::Mutex;

/// What is done to a VM that stands still.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// Clones are made of it.
    Clone(&'a CloneSpec),
    /// It goes on standing still.
    Freeze,
    /// Its state is kept under a name.
    Snapshot(Name),
    /// Its state is kept, to go back to if it fails.
    Checkpoint,
    /// It goes back to the state of this snapshot, by identifier.
    Revert(u64),
}

/// Who asked, and gets the [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Nobody.
    Nobody,
    /// A vCPU of a manager, which is blocked in its call.
    Vcpu {
        /// The vCPU.
        vcpu: VcpuRef,
        /// The identifier of its VM.
        vm: u64,
        /// The life of the VM that asks: who was brought back meanwhile has not asked.
        life: u32,
    },
    /// The monitor.
    Monitor,
}

/// How an operation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A status of [`salp_hvc::status`].
    pub status: i64,
    /// x1 to x3 of a call.
    pub values: [u64; 3],
}

impl Answer {
    /// Returns an answer without values.
    pub const fn of(status: i64) -> Self {
        Self { status, values: [0; 3] }
    }

    /// Returns the values, or why not.
    ///
    /// # Errors
    ///
    /// The status, if it says that it was not done.
    pub const fn into_result(self) -> Result<[u64; 3], i64> {
        if self.status == status::OK { Ok(self.values) } else { Err(self.status) }
    }
}

impl From<Result<[u64; 3], i64>> for Answer {
    fn from(result: Result<[u64; 3], i64>) -> Self {
        match result {
            Ok(values) => Self { status: status::OK, values },
            Err(status) => Self::of(status),
        }
    }
}

/// An operation that waits for its VM to stand still.
struct Waiting {
    what: Kept,
    asker: Asker,
}

/// [`What`], kept for later.
#[allow(clippy::large_enum_variant)] // There are few places, each as large as the largest.
enum Kept {
    Clone(CloneSpec),
    Other(What<'static>),
}

impl Kept {
    fn new(what: What<'_>) -> Self {
        match what {
            What::Clone(spec) => Self::Clone(spec.clone()),
            What::Freeze => Self::Other(What::Freeze),
            What::Checkpoint => Self::Other(What::Checkpoint),
            What::Snapshot(name) => Self::Other(What::Snapshot(name)),
            What::Revert(id) => Self::Other(What::Revert(id)),
        }
    }

    fn as_what(&self) -> What<'_> {
        match self {
            Self::Clone(spec) => What::Clone(spec),
            Self::Other(what) => *what,
        }
    }
}

/// Names a waiting operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(usize);

/// How many operations can wait for VMs to stand still, which takes as long as a vCPU takes to leave its CPU.
const TICKETS: usize = 4;

static WAITING: [Mutex<Option<Waiting>>; TICKETS] = [const { Mutex::new(None) }; TICKETS];

/// How many VMs stand still for an operation, or are about to.
static PAUSES: AtomicUsize = AtomicUsize::new(0);

/// Returns true if a VM stands still for an operation, or is about to: work that can wait should.
pub fn is_any_pausing() -> bool {
    PAUSES.load(Ordering::Relaxed) != 0
}

/// Does this to the VM with identifier `id`. Returns the answer if it is done; else the asker gets it later.
pub fn submit(id: u64, what: What<'_>, asker: Asker) -> Option<Answer> {
    let machine = machine::get();
    let Some(slot) = machine::directory().lock().by_id(id) else { return Some(Answer::of(status::NOT_FOUND)) };
    let guard = machine::slot(slot).read();
    let Some(vm) = guard.as_deref().filter(|vm| vm.id == id && vm.fate() == Fate::Running) else {
        return Some(Answer::of(status::NOT_FOUND));
    };
    if let Err(error) = check(vm, what, asker) {
        return Some(Answer::of(error));
    }
    if vm.is_busy.swap(true, Ordering::AcqRel) {
        return Some(Answer::of(status::BUSY));
    }
    PAUSES.fetch_add(1, Ordering::Relaxed);
    vm.pause_begins();
    if vm.hold(hold::OPERATION) {
        return Some(perform(vm, what));
    }
    let free = WAITING.iter().enumerate().find_map(|(index, place)| {
        let mut place = place.lock();
        place.is_none().then(|| {
            *place = Some(Waiting { what: Kept::new(what), asker });
            Ticket(index)
        })
    });
    let Some(ticket) = free else {
        finish(vm);
        return Some(Answer::of(status::BUSY));
    };
    *vm.pending.lock() = Some(ticket);
    // The last vCPU may have left before the ticket was there.
    if machine.scheduler.lock().is_quiet(slot) {
        take_up(vm);
    }
    None
}

fn check(vm: &Vm, what: What<'_>, asker: Asker) -> Result<(), i64> {
    if matches!(asker, Asker::Vcpu { vcpu, .. } if vcpu.slot() == vm.slot) && !matches!(what, What::Checkpoint) {
        // It would wait for itself.
        return Err(status::INVALID);
    }
    let is_snapshot = vm.is_held_by(hold::SNAPSHOT);
    match what {
        _ if vm.is_held_by(hold::OFF) => Err(status::WRONG_STATE),
        // A manager's calls under way are not its own state alone.
        What::Clone(_) | What::Snapshot(_) | What::Revert(_) if vm.spec.is_manager() => Err(status::DENIED),
        What::Clone(_) => Ok(()),
        What::Freeze if vm.is_held_by(hold::FROZEN) => Err(status::WRONG_STATE),
        _ if is_snapshot => Err(status::WRONG_STATE),
        _ => Ok(()),
    }
}

/// Does what is due for a VM that has come to stand still: called by the CPU that its last vCPU has left.
pub fn attend(slot: usize) {
    let guard = machine::slot(slot).read();
    let Some(vm) = guard.as_deref() else { return };
    if vm.seal() {
        log!("{}: is frozen", vm.name());
    }
    take_up(vm);
}

/// Carries out the operation that waits for the VM, if there is one. Exactly one caller finds it.
fn take_up(vm: &Vm) {
    let Some(ticket) = vm.pending.lock().take() else { return };
    let Some(waiting) = WAITING[ticket.0 % TICKETS].lock().take() else { return };
    let answer = perform(vm, waiting.what.as_what());
    deliver(waiting.asker, answer);
}

/// Carries out an operation on a VM that stands still and is busy with it, and lets it go on.
fn perform(vm: &Vm, what: What<'_>) -> Answer {
    let mut is_let_go = false;
    let result = match what {
        What::Clone(spec) => fork::clones(vm, spec, || {
            is_let_go = true;
            finish(vm);
        })
        .map(|made| [made.count, made.first, made.first + made.count - 1]),
        What::Freeze => {
            vm.set_frozen(true, None);
            if vm.seal() {
                log!("{}: is frozen", vm.name());
            }
            Ok([0; 3])
        }
        What::Snapshot(name) => fork::snapshot(vm, name).map(|id| [id, 0, 0]),
        What::Checkpoint => fork::checkpoint(vm).map(|()| [0; 3]),
        What::Revert(id) => revert(vm, id).map(|()| [0; 3]),
    };
    if !is_let_go {
        finish(vm);
    }
    result.into()
}

fn revert(vm: &Vm, id: u64) -> Result<(), i64> {
    let slot = machine::directory().lock().by_id(id).ok_or(status::NOT_FOUND)?;
    let guard = machine::slot(slot).read();
    let snapshot = guard.as_deref().filter(|snapshot| snapshot.id == id).ok_or(status::NOT_FOUND)?;
    fork::revert(vm, snapshot)?;
    events::tell(vm, REVERTED, 0);
    Ok(())
}

fn finish(vm: &Vm) {
    vm.is_busy.store(false, Ordering::Release);
    vm.let_go(hold::OPERATION);
    vm.pause_ends();
    PAUSES.fetch_sub(1, Ordering::Relaxed);
}

/// Lets the frozen VM with identifier `id` go on.
pub fn unfreeze(id: u64) -> Answer {
    with(id, |vm| vm.unfreeze().map(|()| [0; 3]))
}

/// Destroys the VM or snapshot with identifier `id`, turns it off, or starts it again, as `fate` says. Returns the answer if it
/// is done; else the asker gets it later.
pub fn end(id: u64, fate: Fate, asker: Asker) -> Option<Answer> {
    let machine = machine::get();
    let Some(slot) = machine::directory().lock().by_id(id) else { return Some(Answer::of(status::NOT_FOUND)) };
    {
        let guard = machine::slot(slot).read();
        let Some(vm) = guard.as_deref().filter(|vm| vm.id == id) else {
            return Some(Answer::of(status::NOT_FOUND));
        };
        if matches!(asker, Asker::Vcpu { vcpu, .. } if vcpu.slot() == slot) {
            // It would wait for itself.
            return Some(Answer::of(status::INVALID));
        }
        if fate != Fate::Destroyed && vm.is_held_by(hold::OFF | hold::SNAPSHOT) {
            return Some(Answer::of(status::WRONG_STATE));
        }
        if vm.is_busy.swap(true, Ordering::AcqRel) {
            return Some(Answer::of(status::BUSY));
        }
        {
            // Whoever ends it looks for the asker when this is let go.
            let mut mourner = vm.mourner.lock();
            if !vm.stop(fate) {
                // It is ending, or starting again, by itself.
                vm.is_busy.store(false, Ordering::Release);
                return Some(Answer::of(status::BUSY));
            }
            *mourner = asker;
        }
        if !machine.scheduler.lock().is_off(slot) {
            return None;
        }
        // Whoever begins its end answers; here it is this call.
        vm.begin_end()?;
        *vm.mourner.lock() = Asker::Nobody;
    }
    Some(Answer::of(machine::end_vm(slot, fate)))
}

/// Starts the VM with identifier `id`, which is off.
pub fn start(id: u64) -> Answer {
    with(id, |vm| {
        if !vm.is_held_by(hold::OFF) {
            return Err(status::WRONG_STATE);
        }
        if vm.is_busy.swap(true, Ordering::AcqRel) {
            return Err(status::BUSY);
        }
        // Another may have started it in between.
        let is_off = vm.is_held_by(hold::OFF);
        let result = if is_off { machine::get().start_vm(vm) } else { Err(status::WRONG_STATE) };
        vm.is_busy.store(false, Ordering::Release);
        result.map(|()| [0; 3])
    })
}

/// Does something with the VM with identifier `id`.
pub fn with(id: u64, act: impl FnOnce(&Vm) -> Result<[u64; 3], i64>) -> Answer {
    let slot = machine::directory().lock().by_id(id);
    let guard = slot.map(|slot| machine::slot(slot).read());
    let vm = guard.as_ref().and_then(|guard| guard.as_deref()).filter(|vm| vm.id == id);
    vm.map_or(Err(status::NOT_FOUND), act).into()
}

/// Answers who waits for an operation on a VM that has ended instead.
pub fn bury(vm: &Vm) {
    if let Some(ticket) = vm.pending.lock().take()
        && let Some(waiting) = WAITING[ticket.0 % TICKETS].lock().take()
    {
        finish(vm);
        deliver(waiting.asker, Answer::of(status::NOT_FOUND));
    }
}

/// Gives the asker its answer.
pub fn deliver(asker: Asker, answer: Answer) {
    match asker {
        Asker::Nobody => {}
        Asker::Monitor => commands::deliver(answer),
        Asker::Vcpu { vcpu, vm: id, life } => {
            let guard = machine::slot(vcpu.slot()).read();
            let Some(vm) = guard.as_deref().filter(|vm| vm.id == id) else { return };
            let Some(mut place) = vm.vcpu(vcpu.index()).map(|vcpu| vcpu.answer.lock()) else { return };
            // A new life begins before it takes the answers to the old one's calls away.
            if vm.life.load(Ordering::Acquire) != life {
                return;
            }
            *place = Some(answer);
            let kicks = machine::get().scheduler.lock().answer(vcpu);
            drop(place);
            machine::kick(kicks);
        }
    }
}
