//! Running instructions that were made at run time, whatever they do. Before: the hostile guest. After: the vectors,
//! which come back here with any exception; a snippet that causes none ends at the `BRK` behind it.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use super::exception::{Exception, Frame, set_landing};
use super::ram::Ram;
use super::{cpu, sysreg};
use crate::machine::{self, MAX_CPUS};

/// How many registers a snippet is given: x0 to x17.
pub const REGISTERS: usize = 18;
const END: u32 = 0xd420_0000 | 0x7e57 << 5;

struct Slot {
    stack: AtomicU64,
    registers: [AtomicU64; REGISTERS],
    exception: [AtomicU64; 4],
}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        stack: AtomicU64::new(0),
        registers: [const { AtomicU64::new(0) }; REGISTERS],
        exception: [const { AtomicU64::new(0) }; 4],
    }
}; MAX_CPUS];

unsafe extern "C" {
    fn generated_enter(code: u64, registers: *const u64, stack: *mut u64);
}

/// A page of snippets of one instruction each.
pub struct Snippets {
    ram: Ram,
}

/// How many snippets a page holds.
pub const SNIPPETS: usize = 512;

/// What became of a snippet.
pub struct Outcome {
    /// x0 to x17 at its end.
    pub registers: [u64; REGISTERS],
    /// The exception it caused, if any.
    pub exception: Option<Exception>,
}

impl Snippets {
    /// Makes the page at the start of `ram`.
    pub fn new(ram: Ram) -> Self {
        Self { ram }
    }

    /// Writes `instructions`, at most [`SNIPPETS`], to the page.
    ///
    /// The instructions may be any that touch no RAM and no control register that the runtime depends on.
    pub fn load(&self, instructions: &[u32]) {
        for (index, &instruction) in instructions.iter().take(SNIPPETS).enumerate() {
            self.ram.write(self.ram.start() + index as u64 * 8, u64::from(instruction) | u64::from(END) << 32);
        }
        self.ram.publish_code(self.ram.start(), 4096);
    }

    /// Runs snippet `index` with these registers.
    pub fn run(&self, index: usize, registers: &[u64; REGISTERS]) -> Outcome {
        assert!(index < SNIPPETS);
        run_at(self.ram.start() + index as u64 * 8, registers)
    }
}

/// Branches to `address`, where nothing of RAM is, with these registers.
///
/// # Panics
///
/// If `address` is in RAM.
pub fn branch(address: u64, registers: &[u64; REGISTERS]) -> Outcome {
    assert!(address < machine::ram_start() || address >= machine::ram_end(), "{address:#x} is RAM");
    run_at(address, registers)
}

fn run_at(address: u64, registers: &[u64; REGISTERS]) -> Outcome {
    let (slot, daif) = (&SLOTS[cpu::index()], sysreg::daif());
    set_landing(Some(leave));
    // SAFETY: the snippet is one instruction that touches no RAM, by the contract of `load`; every exception, and the
    // BRK behind it, comes back through `leave` with this stack and the callee-saved registers that it holds.
    unsafe { generated_enter(address, registers.as_ptr(), slot.stack.as_ptr()) };
    set_landing(None);
    // SAFETY: puts back the masks that were there before.
    unsafe { asm!("msr daif, {0}", "isb", in(reg) daif, options(nostack)) };
    let [esr, far, elr, spsr] = slot.exception.each_ref().map(|value| value.load(Ordering::SeqCst));
    let ended = esr >> 26 == 0x3c && esr & 0xffff == 0x7e57;
    Outcome {
        registers: slot.registers.each_ref().map(|value| value.load(Ordering::SeqCst)),
        exception: (!ended).then_some(Exception { esr, far, elr, spsr }),
    }
}

/// Ends the snippet of this vCPU by the exception of `frame`.
fn leave(frame: &Frame) {
    let slot = &SLOTS[cpu::index()];
    for (place, value) in slot.registers.iter().zip(frame.x) {
        place.store(value, Ordering::SeqCst);
    }
    for (place, value) in slot.exception.iter().zip([frame.esr, frame.far, frame.elr, frame.spsr]) {
        place.store(value, Ordering::SeqCst);
    }
    let stack = slot.stack.load(Ordering::SeqCst);
    // SAFETY: `stack` is what `generated_enter` saved on this vCPU's stack and has not returned from.
    unsafe { asm!("mov x0, {0}", "b generated_leave", in(reg) stack, options(noreturn)) }
}

global_asm!(
    r#"
    .section .text.generated, "ax"
generated_enter:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x9, sp
    str     x9, [x2]
    mov     x18, x0
    ldp     x2, x3, [x1, #16]
    ldp     x4, x5, [x1, #32]
    ldp     x6, x7, [x1, #48]
    ldp     x8, x9, [x1, #64]
    ldp     x10, x11, [x1, #80]
    ldp     x12, x13, [x1, #96]
    ldp     x14, x15, [x1, #112]
    ldp     x16, x17, [x1, #128]
    ldp     x0, x1, [x1]
    br      x18
generated_leave:
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
