//! Running code at EL0 until it causes an exception. Before: a test. After: the vectors, which come back here.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use super::exception::{Exception, Frame, set_landing};
use super::{cpu, mmu};
use crate::machine::MAX_CPUS;

/// The vector of synchronous exceptions of EL0 in AArch64.
const VECTOR_EL0: u64 = 8;

static STACKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static LAST: [[AtomicU64; 4]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 4] }; MAX_CPUS];

unsafe extern "C" {
    fn el0_enter(code: u64, argument: u64, spsr: u64, saved_sp: *mut u64);
}

/// Runs `code`, a function of [`super::instruction`] or other code of the image, at EL0 with `argument` in x0, until
/// it causes a synchronous exception, and returns that. `spsr` adds to the state it starts in, such as the step bit.
///
/// Addresses in the result are EL0's: they are `mmu::open_to_el0()` above those of the image.
pub fn run(code: u64, argument: u64, spsr: u64) -> Exception {
    let offset = mmu::open_to_el0();
    let me = cpu::index();
    set_landing(Some(leave));
    // SAFETY: the code runs at EL0, where it can only change the RAM that its instructions name; the exception that
    // ends it comes back through `leave` with this stack.
    unsafe { el0_enter(code + offset, argument, spsr, STACKS[me].as_ptr()) };
    set_landing(None);
    let [esr, far, elr, spsr] = LAST[me].each_ref().map(|value| value.load(Ordering::SeqCst));
    Exception { esr, far, elr, spsr }
}

/// Ends [`run`] with the exception of `frame`, if it comes from EL0.
fn leave(frame: &Frame) {
    if frame.vector != VECTOR_EL0 {
        return;
    }
    let me = cpu::index();
    for (place, value) in LAST[me].iter().zip([frame.esr, frame.far, frame.elr, frame.spsr]) {
        place.store(value, Ordering::SeqCst);
    }
    let sp = STACKS[me].load(Ordering::SeqCst);
    // SAFETY: `sp` is what `el0_enter` saved on this vCPU's stack and has not returned from.
    unsafe { asm!("mov x0, {0}", "b el0_leave", in(reg) sp, options(noreturn)) }
}

global_asm!(
    r#"
    .section .text.el0, "ax"
el0_enter:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x9, sp
    str     x9, [x3]
    msr     elr_el1, x0
    msr     spsr_el1, x2
    mov     x0, x1
    eret
el0_leave:
    mov     sp, x0
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret
    "#
);
