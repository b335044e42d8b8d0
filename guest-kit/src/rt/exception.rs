//! What the vectors lead to. Before: the CPU. After: the hooks of a test, or a report and the end of the guest.
//!
//! Handlers get a [`Frame`] and may change it; what it holds is what the vCPU goes on with. A test that expects an
//! exception wraps the code in [`catch`], which records the first exception and steps over what caused it.

use core::arch::{asm, global_asm};
use core::mem::transmute;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::cpu;
use crate::machine::MAX_CPUS;

/// ESR_ELx.EC values that the guests speak of (Arm ARM D24.2.40).
pub mod class {
    /// Unknown reason: an UNDEFINED instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// A trapped access to FP, SIMD or SVE.
    pub const FP: u64 = 0x07;
    /// Illegal execution state.
    pub const ILLEGAL_STATE: u64 = 0x0e;
    /// SVC.
    pub const SVC: u64 = 0x15;
    /// A trapped MSR, MRS or system instruction.
    pub const SYSTEM: u64 = 0x18;
    /// Instruction abort from EL0.
    pub const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    /// Instruction abort from EL1.
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    /// PC alignment fault.
    pub const PC_ALIGNMENT: u64 = 0x22;
    /// Data abort from EL0.
    pub const DATA_ABORT_LOWER: u64 = 0x24;
    /// Data abort from EL1.
    pub const DATA_ABORT: u64 = 0x25;
    /// Breakpoint from EL0; from EL1 it is one more, as with the next three.
    pub const BREAKPOINT_LOWER: u64 = 0x30;
    /// Software step from EL0.
    pub const STEP_LOWER: u64 = 0x32;
    /// Watchpoint from EL0.
    pub const WATCHPOINT_LOWER: u64 = 0x34;
    /// BRK.
    pub const BRK: u64 = 0x3c;
}

/// The registers of what was interrupted.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where it goes on.
    pub elr: u64,
    /// The state it goes on in.
    pub spsr: u64,
    /// Why, for synchronous exceptions.
    pub esr: u64,
    /// Which address, for aborts.
    pub far: u64,
    /// Which vector: four of each of EL1 on SP_EL0, EL1, EL0, EL0 in AArch32.
    pub vector: u64,
}

/// One synchronous exception.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exception {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
}

impl Exception {
    /// Returns the exception class, one of [`class`].
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Returns the instruction specific syndrome.
    pub fn iss(&self) -> u64 {
        self.esr & 0x1ff_ffff
    }

    /// Returns the fault status code of an abort (DFSC or IFSC).
    pub fn status(&self) -> u64 {
        self.esr & 0x3f
    }
}

impl Frame {
    /// Returns the exception that made this frame.
    pub fn exception(&self) -> Exception {
        Exception { esr: self.esr, far: self.far, elr: self.elr, spsr: self.spsr }
    }
}

/// A handler of synchronous exceptions; returns false for what is not its business.
pub type SyncHook = fn(&mut Frame) -> bool;
/// A handler of interrupts.
pub type IrqHook = fn(&mut Frame);

static SYNC_HOOKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static IRQ_HOOK: AtomicUsize = AtomicUsize::new(0);

struct Catch {
    armed: AtomicBool,
    count: AtomicU32,
    first: [AtomicU64; 4],
}

static CATCHES: [Catch; MAX_CPUS] = [const {
    Catch { armed: AtomicBool::new(false), count: AtomicU32::new(0), first: [const { AtomicU64::new(0) }; 4] }
}; MAX_CPUS];

/// Code that goes on elsewhere than where the exception came from; returns if the exception is not its business.
pub(super) type Landing = fn(&Frame);

static LANDINGS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Sets where this vCPU goes on after any exception but an interrupt; `None`: where it was.
pub(super) fn set_landing(landing: Option<Landing>) {
    LANDINGS[cpu::index()].store(landing.map_or(0, |landing| landing as usize), Ordering::SeqCst);
}

fn land(frame: &Frame) {
    match LANDINGS[cpu::index()].load(Ordering::SeqCst) {
        0 => {}
        // SAFETY: the slot holds zero or what `set_landing` made of a `Landing`.
        landing => unsafe { transmute::<usize, Landing>(landing)(frame) },
    }
}

/// Sets who handles synchronous exceptions of this vCPU before [`catch`] does; `None`: nobody.
pub fn set_sync_hook(hook: Option<SyncHook>) {
    SYNC_HOOKS[cpu::index()].store(hook.map_or(0, |hook| hook as usize), Ordering::Release);
}

/// Sets who handles interrupts of all vCPUs; `None`: nobody, and then one is the end of the guest.
pub fn set_irq_hook(hook: Option<IrqHook>) {
    IRQ_HOOK.store(hook.map_or(0, |hook| hook as usize), Ordering::Release);
}

/// Runs `f` and returns the first synchronous exception that it caused on this vCPU, if any.
///
/// The instruction that caused one is stepped over; after a branch to nowhere the vCPU goes on at the return address
/// in x30.
pub fn catch(f: impl FnOnce()) -> Option<Exception> {
    let slot = &CATCHES[cpu::index()];
    RECORDER.store(record as SyncHook as usize, Ordering::Release);
    slot.count.store(0, Ordering::SeqCst);
    slot.armed.store(true, Ordering::SeqCst);
    f();
    slot.armed.store(false, Ordering::SeqCst);
    let [esr, far, elr, spsr] = slot.first.each_ref().map(|value| value.load(Ordering::SeqCst));
    (slot.count.load(Ordering::SeqCst) > 0).then_some(Exception { esr, far, elr, spsr })
}

/// Returns how many exceptions the last [`catch`] on this vCPU saw.
pub fn caught() -> u32 {
    CATCHES[cpu::index()].count.load(Ordering::SeqCst)
}

/// Steps over the instruction that caused a synchronous exception.
pub fn step_over(frame: &mut Frame) {
    match frame.exception().class() {
        // A branch to where no instruction can be fetched: as if the function there had returned.
        class::INSTRUCTION_ABORT | class::PC_ALIGNMENT => frame.elr = frame.x[30],
        class::SVC => {}
        class::ILLEGAL_STATE => {
            frame.spsr &= !(1 << 20);
            frame.elr = frame.elr.wrapping_add(4);
        }
        _ => frame.elr = frame.elr.wrapping_add(4),
    }
}

fn record(frame: &mut Frame) -> bool {
    let slot = &CATCHES[cpu::index()];
    if !slot.armed.load(Ordering::SeqCst) {
        return false;
    }
    if slot.count.fetch_add(1, Ordering::SeqCst) == 0 {
        for (place, value) in slot.first.iter().zip([frame.esr, frame.far, frame.elr, frame.spsr]) {
            place.store(value, Ordering::SeqCst);
        }
    }
    step_over(frame);
    true
}

/// Who records for [`catch`]; set by it, so that guests that catch nothing do without.
static RECORDER: AtomicUsize = AtomicUsize::new(0);

fn caught_here(frame: &mut Frame) -> bool {
    match RECORDER.load(Ordering::Acquire) {
        0 => false,
        // SAFETY: the slot holds zero or what `catch` made of `record`.
        recorder => unsafe { transmute::<usize, SyncHook>(recorder)(frame) },
    }
}

fn hooked(frame: &mut Frame) -> bool {
    match SYNC_HOOKS[cpu::index()].load(Ordering::Acquire) {
        0 => false,
        // SAFETY: the slot holds zero or what `set_sync_hook` made of a `SyncHook`.
        hook => unsafe { transmute::<usize, SyncHook>(hook)(frame) },
    }
}

#[unsafe(no_mangle)]
extern "C" fn guest_exception(frame: &mut Frame) {
    let vector = frame.vector;
    if vector & 3 != 1 {
        land(frame);
    }
    match vector {
        0 | 4 if hooked(frame) || caught_here(frame) => {}
        _ if vector & 3 == 1 => match IRQ_HOOK.load(Ordering::Acquire) {
            0 => unexpected(frame),
            // SAFETY: the slot holds zero or what `set_irq_hook` made of an `IrqHook`.
            hook => unsafe { transmute::<usize, IrqHook>(hook)(frame) },
        },
        _ => unexpected(frame),
    }
}

/// Ends the guest: it neither expected nor caused this.
fn unexpected(frame: &Frame) -> ! {
    let Frame { x, elr, spsr, esr, far, vector } = frame;
    panic!("exception at vector {vector}: esr {esr:#x} elr {elr:#x} far {far:#x} spsr {spsr:#x} x30 {:#x}", x[30]);
}

/// Raises a synchronous exception by `BRK #imm` with the immediate 0x5a5.
#[inline(never)]
pub fn brk() {
    // SAFETY: the vectors take it; callers expect it.
    unsafe { asm!("brk #0x5a5", options(nostack)) };
}

global_asm!(
    r#"
    .macro vector number
    .balign 0x80
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\number
    b       guest_vector
    .endm

    .section .text.vectors, "ax"
    .balign 0x800
    .global guest_vectors
guest_vectors:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vector  \n
    .endr

guest_vector:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el1
    stp     x30, x1, [sp, #240]
    mrs     x1, spsr_el1
    mrs     x2, esr_el1
    stp     x1, x2, [sp, #256]
    mrs     x1, far_el1
    stp     x1, x0, [sp, #272]
    mov     x0, sp
    bl      guest_exception
    ldp     x30, x1, [sp, #240]
    ldr     x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp]
    add     sp, sp, #288
    eret
    "#
);
