//! The vCPUs of this guest: which one runs this, and starting the others. Before: a guest. After: PSCI, then `start`.

use core::mem::transmute;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::sysreg;
use crate::machine::{self, MAX_CPUS};
use crate::psci;

static ENTRIES: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

unsafe extern "C" {
    fn _secondary();
}

/// Returns the index of the vCPU that runs this: its lowest affinity field.
#[inline(always)]
pub fn index() -> usize {
    (sysreg::mpidr() & 7) as usize
}

/// Returns the address that PSCI CPU_ON is given, for tests that make the call themselves after [`set_entry`].
pub fn entry_address() -> u64 {
    _secondary as *const () as u64
}

/// Sets what vCPU `cpu` runs when it is turned on; when the function returns the vCPU turns itself off.
pub fn set_entry(cpu: usize, entry: fn(u64)) {
    ENTRIES[cpu].store(entry as usize, Ordering::Release);
    sysreg::barrier();
}

/// Turns vCPU `cpu` on to run `entry(context)`, and returns what PSCI CPU_ON said.
pub fn start(cpu: usize, entry: fn(u64), context: u64) -> i64 {
    set_entry(cpu, entry);
    psci::cpu_on(machine::mpidr(cpu), entry_address(), context)
}

/// Turns on every vCPU but this one, to run `entry(index)`. Returns how many there are with this one.
///
/// # Panics
///
/// If PSCI refuses: a guest can do nothing sensible then.
pub fn start_all(entry: fn(u64)) -> usize {
    let count = machine::cpu_count();
    for cpu in (0..count).filter(|&cpu| cpu != index()) {
        let answer = start(cpu, entry, cpu as u64);
        assert!(answer == psci::SUCCESS, "CPU_ON of vCPU {cpu}: {answer}");
    }
    count
}

/// Waits until PSCI says that vCPU `cpu` is off; false after `milliseconds`.
pub fn wait_off(cpu: usize, milliseconds: u64) -> bool {
    crate::timer::wait_until(milliseconds, || psci::affinity_info(machine::mpidr(cpu), 0) == psci::OFF)
}

/// Runs the function that this vCPU was started for.
pub fn run_started(context: u64) {
    match ENTRIES[index()].load(Ordering::Acquire) {
        0 => panic!("vCPU {} was started for nothing", index()),
        // SAFETY: the slot holds zero or what `set_entry` made of a `fn(u64)`.
        entry => unsafe { transmute::<usize, fn(u64)>(entry)(context) },
    }
}

/// Waits a moment in a loop that polls another CPU, by YIELD: an emulator that runs one CPU at a time goes on to the next.
#[inline]
pub fn relax() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) };
}
