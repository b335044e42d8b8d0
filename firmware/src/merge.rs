//! Merging in the background: which VM's pages are looked at, when, and for how much of a CPU.
//!
//! Before: [`crate::vcpu`], whose CPU has a moment. After: [`salp_core::stage2`], which merges.
//!
//! Steps are short. After each one the first CPU leaves merging alone for so long that merging has its share of a CPU and no
//! more; after a pass over all VMs that found little, for longer.

use crate::machine::{self, Machine, Store};
use crate::vm::{Fate, Records, Vm, hold};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use salp_board::facts::Board;
use salp_core::addr::Ipa;
use salp_core::handover::Full;
use salp_core::stage2::Merger;
use salp_hvc::handover::kind;
use salp_hw::lock::Mutex;
use salp_hw::memory::Ram;
use salp_hw::{boot, cpu};
use zerocopy::IntoBytes;

/// Which VMs may have pages in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// None: no page is merged.
    Off,
    /// Those that descend from one VM of the boot set.
    Family,
    /// All: the operator trusts them with each other.
    All,
}

/// What the operator wants: `merge=off|family|all` and `merge-budget=PERCENT` of a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    scope: Scope,
    percent: u64,
}

impl Policy {
    /// Reads the options; what makes no sense counts as not said.
    pub fn of(board: &Board<'_>) -> Self {
        let scope = match board.option("merge") {
            Some("off") => Scope::Off,
            Some("all") => Scope::All,
            _ => Scope::Family,
        };
        let percent = board.option("merge-budget").and_then(|text| text.parse().ok()).unwrap_or(1);
        Self { scope, percent: percent.clamp(1, 100) }
    }
}

/// How many pages a step looks at.
const PAGES: usize = 8;

/// How many places of the table a step visits between passes.
const SLOTS: usize = 256;

/// How long merging rests after a pass that merged little, in seconds.
const REST: u64 = 10;

/// How many pages a pass must merge to be followed by the next at once.
const WORTH: usize = 64;

struct Pass {
    merger: Merger<'static>,
    slot: usize,
    cursor: Ipa,
    /// All VMs were visited: the table is.
    is_over: bool,
    merged: usize,
}

static PASS: Mutex<Option<Pass>> = Mutex::new(None);
/// When the next step is due, by the counter.
static DUE: AtomicU64 = AtomicU64::new(0);
static WANTED: AtomicBool = AtomicBool::new(false);

/// Returns when this CPU must have a moment for merging.
pub fn due(cpu: usize) -> Option<u64> {
    (cpu == 0 && WANTED.load(Ordering::Relaxed)).then(|| DUE.load(Ordering::Relaxed))
}

/// Notes whether there are VMs that may have pages in common. The first pass begins a second later; when there are none any
/// more, nothing is kept for them.
pub fn want(machine: &Machine, families: usize, vms: usize) {
    let wanted = match machine.merge.scope {
        Scope::Off => false,
        Scope::Family => families != 0,
        Scope::All => vms > 1,
    };
    match (WANTED.swap(wanted, Ordering::Relaxed), wanted) {
        (false, true) => DUE.store(cpu::counter() + cpu::counter_frequency(), Ordering::Relaxed),
        (true, false) => _ = give_back(),
        _ => {}
    }
}

/// Writes what a hand-over has of the table, if there is one. The pass is begun anew.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_record(out: &mut Records<'_>) -> Result<(), Full> {
    match PASS.lock().as_ref() {
        Some(pass) => out.write(kind::MERGING, 0, &[pass.merger.record().as_bytes()]),
        None => Ok(()),
    }
}

/// Takes over the table as it was before a hand-over. Returns false if it cannot be.
pub fn restore(record: &salp_hvc::handover::Merging) -> bool {
    let storage = boot::get().take_merger_table(false);
    let Some(merger) = storage.and_then(|storage| Merger::restored(storage, record)) else { return false };
    *PASS.lock() = Some(Pass { merger, slot: 0, cursor: Ipa(0), is_over: false, merged: 0 });
    true
}

/// Takes a step, if it is due. Called by CPUs that have a moment.
pub fn step(now: u64) {
    if !WANTED.load(Ordering::Relaxed) || now < DUE.load(Ordering::Relaxed) {
        return;
    }
    let Some(mut pass) = PASS.try_lock() else { return };
    if pass.is_none() {
        let Some(storage) = boot::get().take_merger_table(true) else { return };
        *pass = Some(Pass { merger: Merger::new(storage), slot: 0, cursor: Ipa(0), is_over: false, merged: 0 });
    }
    let Some(pass) = pass.as_mut() else { return };
    let machine = machine::get();
    let rest = pass.step(machine.merge.scope);
    let end = cpu::counter();
    let pause = if rest {
        REST * cpu::counter_frequency()
    } else {
        end.wrapping_sub(now).saturating_mul(100 / machine.merge.percent - 1)
    };
    DUE.store(end.saturating_add(pause), Ordering::Relaxed);
}

impl Pass {
    /// Returns true if it is time to rest.
    fn step(&mut self, scope: Scope) -> bool {
        if self.is_over {
            if self.merger.release_unused(&Store, SLOTS) {
                self.is_over = false;
                machine::get().memory_may_be_back();
                return core::mem::take(&mut self.merged) < WORTH;
            }
            return false;
        }
        let at_end = machine::slot(self.slot).read().as_deref().is_none_or(|vm| self.merge(vm, scope));
        if at_end {
            let next = machine::next_used(self.slot + 1);
            self.is_over = next.is_none();
            self.slot = next.unwrap_or(0);
            self.cursor = Ipa(0);
        }
        false
    }

    /// Merges some pages of a VM. Returns true if it is done with it for this pass.
    fn merge(&mut self, vm: &Vm, scope: Scope) -> bool {
        if vm.fate() != Fate::Running || vm.is_held_by(hold::SNAPSHOT | hold::OPERATION | hold::FROZEN) {
            return true;
        }
        let domain = if scope == Scope::All { 0 } else { vm.family };
        let Some(mut memory) = vm.memory.try_lock() else { return false };
        let Some(memory) = memory.as_mut() else { return true };
        let Self { merger, cursor, .. } = self;
        let progress = memory.merge_step(&Store, &Ram, &vm.tlb(), merger, domain, cursor, PAGES);
        self.merged += progress.merged + progress.zeroed;
        progress.at_end
    }
}

/// Gives back what merging alone keeps, because memory has run out. Returns true if that was something.
pub fn give_back() -> bool {
    let Some(mut pass) = PASS.try_lock() else { return false };
    match pass.as_mut() {
        Some(pass) if pass.merger.stable() != 0 => {
            pass.merger.release_all(&Store);
            true
        }
        _ => false,
    }
}
