//! Operations in a loop of known length, to be timed. Before: `guests::bench`. After: EL2.
//!
//! Each loop has a twin without the operation; the difference of their times is what the operation takes, its own
//! instruction included.

use core::arch::global_asm;

use super::ram::Ram;
use super::sysreg;

/// An operation that can be repeated.
pub struct Operation {
    /// The name of its figure.
    pub name: &'static str,
    /// What its loop holds in x20: an address, a function id, a value.
    pub operand: u64,
    code: unsafe extern "C" fn(u64, u64),
    empty: unsafe extern "C" fn(u64, u64),
}

impl Operation {
    /// Returns the ticks that `count` operations take, and those of as many turns without the operation.
    pub fn time(&self, count: u64) -> (u64, u64) {
        self.time_with(self.operand, count)
    }

    /// Does as [`Self::time`], with another operand.
    pub fn time_with(&self, operand: u64, count: u64) -> (u64, u64) {
        let timed = |code: unsafe extern "C" fn(u64, u64)| {
            let start = sysreg::cntvct();
            // SAFETY: the loops keep what the procedure call standard says and write no memory; a call to EL2 is one
            // that has no effect, and interrupts come to the vectors of this file, which keep all but x10 and x11.
            unsafe { code(count, operand) };
            sysreg::cntvct() - start
        };
        (timed(self.code), timed(self.empty))
    }
}

macro_rules! operations {
    ($($name:ident $empty:ident $figure:literal $operand:expr, $before:literal, $text:literal;)*) => {
        unsafe extern "C" { $(fn $name(count: u64, operand: u64); fn $empty(count: u64, operand: u64);)* }

        /// Every operation that is timed by itself.
        pub const OPERATIONS: &[Operation] = &[
            $(Operation { name: $figure, operand: $operand, code: $name, empty: $empty }),*
        ];

        global_asm!($(
            operation_loop!($name, $before, $text),
            operation_loop!($empty, $before, ""),
        )*);
    };
}

macro_rules! operation_loop {
    ($name:ident, $before:literal, $text:literal) => {
        concat!(
            ".section .text.",
            stringify!($name),
            ", \"ax\"\n",
            ".balign 64\n",
            ".global ",
            stringify!($name),
            "\n",
            stringify!($name),
            ":\n",
            "stp x19, x20, [sp, #-16]!\n",
            "mov x19, x0\n",
            "mov x20, x1\n",
            "1:\n",
            $before,
            "\n",
            $text,
            "\n",
            "subs x19, x19, #1\n",
            "b.ne 1b\n",
            "ldp x19, x20, [sp], #16\n",
            "ret\n",
        )
    };
}

operations! {
    time_hvc time_hvc_empty "hvc_smccc_version" 0x8000_0000, "mov w0, w20", "hvc #0";
    time_psci time_psci_empty "hvc_psci_version" 0x8400_0000, "mov w0, w20", "hvc #0";
    time_id time_id_empty "id_register_read" 0, "", "mrs x0, id_aa64pfr0_el1";
    time_gicd time_gicd_empty "mmio_read_gicd_typer" 0x0800_0004, "", "ldr w0, [x20]";
    time_gicd_ctlr time_gicd_ctlr_empty "mmio_read_gicd_ctlr" 0x0800_0000, "", "ldr w0, [x20]";
    time_uart time_uart_empty "mmio_read_pl011_fr" 0x0900_0018, "", "ldr w0, [x20]";
    time_gicd_write time_gicd_write_empty "mmio_write_gicd_isenabler" 0x0800_0104, "", "str wzr, [x20]";
    time_sgi time_sgi_empty "sgi_to_self" 0, "mov x11, #0", "msr s3_0_c12_c11_5, x20\n2: cbz x11, 2b";
}

unsafe extern "C" {
    fn time_writes(count: u64, offset: u64, step: u64, mask: u64, base: u64);
    static timing_vectors: u8;
    static guest_vectors: u8;
}

/// Takes interrupts as shortly as can be: acknowledges, ends, and sets x11, until [`usual_vectors`].
pub fn timing_vectors_on() {
    set_vectors((&raw const timing_vectors).cast());
}

/// Goes back to the runtime's vectors.
pub fn usual_vectors() {
    set_vectors((&raw const guest_vectors).cast());
}

fn set_vectors(vectors: *const ()) {
    // SAFETY: both are whole tables; the short one sends all but interrupts to the runtime's.
    unsafe { core::arch::asm!("msr vbar_el1, {0}", "isb", in(reg) vectors, options(nostack)) };
}

/// Returns the ticks of `count` writes of a word in `ram`: at byte i × `step` modulo `span`, a power of two.
///
/// # Panics
///
/// If `span` is longer than `ram` or no power of two.
pub fn time_page_writes(ram: &Ram, count: u64, step: u64, span: u64) -> u64 {
    assert!(span.is_power_of_two() && span <= ram.end() - ram.start() && step.is_multiple_of(8));
    let start = sysreg::cntvct();
    // SAFETY: every address is in `ram`, where no Rust object lives.
    unsafe { time_writes(count, 0, step, span - 1, ram.start()) };
    sysreg::cntvct() - start
}

global_asm!(
    r#"
    .section .text.time_writes, "ax"
    .balign 64
    .global time_writes
time_writes:
    str     x0, [x4, x1]
    add     x1, x1, x2
    and     x1, x1, x3
    subs    x0, x0, #1
    b.ne    time_writes
    ret

    .section .text.vectors.timing, "ax"
    .balign 0x800
    .global timing_vectors
timing_vectors:
    .rept   4
    b       guest_vectors
    .balign 0x80
    .endr
    b       guest_vectors + 0x200
    .balign 0x80
    mrs     x10, s3_0_c12_c12_0
    msr     s3_0_c12_c12_1, x10
    mov     x11, #1
    eret
    .balign 0x80
    b       guest_vectors + 0x300
    .balign 0x80
    b       guest_vectors + 0x380
    .balign 0x80
    "#
);
