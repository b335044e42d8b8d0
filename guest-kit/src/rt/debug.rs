//! The self-hosted debug registers (Arm ARM D2), and code to debug. Before: `guests::debug`. After: the CPU.

use core::arch::{asm, global_asm};

use super::sysreg;

/// How many breakpoints and watchpoints the tests use; Armv8 has at least two of each.
pub const UNITS: usize = 2;

/// DBGBCR: on, EL1 only, whole instruction.
pub const BREAK_EL1: u64 = 1 | 1 << 1 | 0xf << 5;
/// DBGBCR: on, EL0 only, whole instruction.
pub const BREAK_EL0: u64 = 1 | 2 << 1 | 0xf << 5;
/// DBGWCR: on, EL1 only, all eight bytes; add [`LOADS`] or [`STORES`].
pub const WATCH_EL1: u64 = 1 | 1 << 1 | 0xff << 5;
/// DBGWCR: on, EL0 only, all eight bytes.
pub const WATCH_EL0: u64 = 1 | 2 << 1 | 0xff << 5;
/// DBGWCR: loads.
pub const LOADS: u64 = 1 << 3;
/// DBGWCR: stores.
pub const STORES: u64 = 2 << 3;
/// MDSCR_EL1: software step.
pub const STEP: u64 = 1;
/// MDSCR_EL1: debug exceptions of EL1's own code.
pub const KERNEL: u64 = 1 << 13;
/// MDSCR_EL1: breakpoints and watchpoints.
pub const MONITOR: u64 = 1 << 15;
/// SPSR_EL1: the next instruction is stepped over.
pub const SPSR_STEP: u64 = 1 << 21;

unsafe extern "C" {
    fn debug_target();
    fn debug_steps();
    fn debug_el0();
    fn debug_el0_brk();
}

macro_rules! units {
    ($($read:ident $write:ident $doc:literal $first:literal $second:literal;)*) => {$(
        #[doc = concat!("Returns ", $doc, " `unit`.")]
        pub fn $read(unit: usize) -> u64 {
            assert!(unit < UNITS);
            let value: u64;
            // SAFETY: reads a debug register.
            unsafe {
                match unit {
                    0 => asm!(concat!("mrs {0}, ", $first), out(reg) value, options(nostack)),
                    _ => asm!(concat!("mrs {0}, ", $second), out(reg) value, options(nostack)),
                }
            }
            value
        }

        #[doc = concat!("Writes ", $doc, " `unit`.")]
        pub fn $write(unit: usize, value: u64) {
            assert!(unit < UNITS);
            // SAFETY: a debug register only causes exceptions, which the vectors take.
            unsafe {
                match unit {
                    0 => asm!(concat!("msr ", $first, ", {0}"), "isb", in(reg) value, options(nostack)),
                    _ => asm!(concat!("msr ", $second, ", {0}"), "isb", in(reg) value, options(nostack)),
                }
            }
        }
    )*};
}

units! {
    break_value set_break_value "DBGBVR_EL1 of breakpoint" "dbgbvr0_el1" "dbgbvr1_el1";
    break_control set_break_control "DBGBCR_EL1 of breakpoint" "dbgbcr0_el1" "dbgbcr1_el1";
    watch_value set_watch_value "DBGWVR_EL1 of watchpoint" "dbgwvr0_el1" "dbgwvr1_el1";
    watch_control set_watch_control "DBGWCR_EL1 of watchpoint" "dbgwcr0_el1" "dbgwcr1_el1";
}

/// Turns all of it off.
pub fn off() {
    sysreg::mask_debug();
    sysreg::set_mdscr(0);
    for unit in 0..UNITS {
        set_break_control(unit, 0);
        set_watch_control(unit, 0);
    }
}

/// Returns the address of an instruction that [`run_target`] executes once.
pub fn target() -> u64 {
    debug_target as *const () as u64
}

/// Executes the instruction at [`target`].
pub fn run_target() {
    // SAFETY: a function that does nothing.
    unsafe { debug_target() }
}

/// Returns the address of the `BRK` of [`run_steps`], which four other instructions and a return follow.
pub fn steps() -> u64 {
    debug_steps as *const () as u64
}

/// Executes `BRK #1` and four more instructions.
pub fn run_steps() {
    // SAFETY: a function that does nothing, if the hook steps over its `BRK`.
    unsafe { debug_steps() }
}

/// Returns the address of code for EL0: `NOP`, a load from and a store to x0, `SVC #7`.
pub fn el0_code() -> u64 {
    debug_el0 as *const () as u64
}

/// Returns the address of code for EL0: `BRK #9`.
pub fn el0_brk() -> u64 {
    debug_el0_brk as *const () as u64
}

global_asm!(
    r#"
    .section .text.debug, "ax"
    .balign 8
debug_target:
    nop
    ret
debug_steps:
    brk     #1
    mov     x0, #1
    mov     x0, #2
    mov     x0, #3
    mov     x0, #4
    ret
debug_el0:
    nop
    ldr     x1, [x0]
    str     x1, [x0]
    svc     #7
debug_el0_brk:
    brk     #9
    "#
);
