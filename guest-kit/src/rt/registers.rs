//! The whole register file across one event. Before: tests that say what an event must preserve. After: EL2.

use core::arch::global_asm;

/// Every register that a call or a switch of vCPUs could spoil.
#[derive(Clone, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Floating-point control and status.
    pub fp: [u64; 2],
    /// Keeps `q` aligned.
    pub unused: u64,
    /// q0 to q31, lower half first.
    pub q: [[u64; 2]; 32],
}

/// FPCR bits that every CPU has: rounding mode, flush to zero, default NaN, alternative half precision.
const FPCR_BITS: u64 = 3 << 22 | 1 << 24 | 1 << 25 | 1 << 26;
/// FPSR bits that every CPU has: the cumulative exceptions and saturation.
const FPSR_BITS: u64 = 0x1f | 1 << 7 | 1 << 27;

/// What happens between loading and storing the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `HVC #0`, with the function in x0.
    Hvc,
    /// `WFI`.
    Wfi,
    /// x30 turns of an empty loop.
    Spin,
}

unsafe extern "C" {
    fn registers_hvc(before: *const Registers, after: *mut Registers);
    fn registers_wfi(before: *const Registers, after: *mut Registers);
    fn registers_spin(before: *const Registers, after: *mut Registers);
}

impl Registers {
    /// Returns a pattern that differs in every register and for every seed.
    pub fn pattern(seed: u64) -> Self {
        let mut random = crate::random::Random::new(seed);
        let mut registers = Self { x: [0; 31], fp: [0; 2], unused: 0, q: [[0; 2]; 32] };
        registers.x.fill_with(|| random.draw());
        registers.q.as_flattened_mut().fill_with(|| random.draw());
        registers.fp = [random.draw() & FPCR_BITS, random.draw() & FPSR_BITS];
        registers
    }

    /// Loads these registers, lets `event` happen, and returns what the registers are then.
    #[inline(never)]
    pub fn across(&self, event: Event) -> Self {
        let mut after = self.clone();
        let (before, out) = (&raw const *self, &raw mut after);
        // SAFETY: the functions keep what the procedure call standard says, write only `after`, and Rust code for this
        // target uses no FP register. An HVC changes no memory of the guest unless the caller asks for it.
        unsafe {
            match event {
                Event::Hvc => registers_hvc(before, out),
                Event::Wfi => registers_wfi(before, out),
                Event::Spin => registers_spin(before, out),
            }
        }
        after
    }

    /// Returns the name and number of the first register, from `first_x` on and without x30 if `skip_x30`, that
    /// differs from `other`.
    pub fn difference(&self, other: &Self, first_x: usize, skip_x30: bool) -> Option<(&'static str, usize)> {
        let last = if skip_x30 { 30 } else { 31 };
        let x = (first_x..last).find(|&i| self.x[i] != other.x[i]).map(|i| ("x", i));
        let q = || (0..32).find(|&i| self.q[i] != other.q[i]).map(|i| ("q", i));
        let fp = || (0..2).find(|&i| self.fp[i] != other.fp[i]).map(|i| (["fpcr", "fpsr"][i], i));
        x.or_else(q).or_else(fp)
    }
}

global_asm!(
    r#"
    .arch   armv8-a+fp+simd
    .macro  registers_across name, event:vararg
    .section .text.\name, "ax"
    .global \name
\name:
    sub     sp, sp, #128
    stp     x18, x19, [sp]
    stp     x20, x21, [sp, #16]
    stp     x22, x23, [sp, #32]
    stp     x24, x25, [sp, #48]
    stp     x26, x27, [sp, #64]
    stp     x28, x29, [sp, #80]
    stp     x30, x1, [sp, #96]
    add     x1, x0, #272
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     q\n, [x1], #16
    .endr
    ldp     x1, x2, [x0, #248]
    msr     fpcr, x1
    msr     fpsr, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    \event
    stp     x0, x1, [sp, #112]
    ldr     x0, [sp, #104]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp, #112]
    stp     x2, x3, [x0]
    mrs     x1, fpcr
    mrs     x2, fpsr
    stp     x1, x2, [x0, #248]
    msr     fpcr, xzr
    add     x1, x0, #272
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [x1], #16
    .endr
    ldp     x18, x19, [sp]
    ldp     x20, x21, [sp, #16]
    ldp     x22, x23, [sp, #32]
    ldp     x24, x25, [sp, #48]
    ldp     x26, x27, [sp, #64]
    ldp     x28, x29, [sp, #80]
    ldr     x30, [sp, #96]
    add     sp, sp, #128
    ret
    .endm
    .macro  registers_loop
9:  subs    x30, x30, #1
    b.ne    9b
    .endm
    registers_across registers_hvc, hvc #0
    registers_across registers_wfi, wfi
    registers_across registers_spin, registers_loop
    "#
);
