//! The call that returns once for each clone. Before: [`crate::salp`]. After: EL2, and the first instructions of a clone.

use core::arch::asm;

use salp_hvc::calls::FREEZE;

/// What the registers hold when the VM goes on.
#[derive(Clone, Copy, Debug)]
pub struct Thawed {
    /// Zero, or why the VM was not frozen.
    pub status: i64,
    /// The clone's index, 0 for the VM that made the call.
    pub index: u64,
    /// The physical counter, read by the first instruction after the call.
    pub first: u64,
}

/// Freezes this VM. Whoever goes on reads the physical counter with its first instruction, and then sleeps for `pause`
/// ticks of the virtual counter, before it writes to any memory. For a pause, interrupts are masked and the virtual
/// timer's is enabled in the GIC; the timer is off afterwards.
pub fn freeze(pause: u64) -> Thawed {
    let (status, index, first);
    // SAFETY: the call changes no memory of this VM (SMCCC allows it to change x0 to x17). What follows it touches
    // registers only, of which the timer's have no say in what Rust code means.
    unsafe {
        asm!(
            "hvc #0",
            "mrs x2, cntpct_el0",
            "cbz {pause}, 3f",
            "isb",
            "mrs x3, cntvct_el0",
            "add x3, x3, {pause}",
            "msr cntv_cval_el0, x3",
            "mov x4, #1",
            "msr cntv_ctl_el0, x4",
            "2: wfi",
            "isb",
            "mrs x4, cntvct_el0",
            "cmp x4, x3",
            "b.lo 2b",
            "msr cntv_ctl_el0, xzr",
            "isb",
            "3:",
            pause = in(reg) pause,
            inout("x0") u64::from(FREEZE) => status,
            out("x1") index,
            out("x2") first,
            out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    Thawed { status, index, first }
}
