//! Ways to end a guest for good. Before: the guest `crash`. After: nothing.

use core::arch::asm;

/// Puts the vectors where nothing is and causes an exception.
pub fn vectors() -> ! {
    // SAFETY: no Rust code runs after this on this vCPU.
    unsafe { asm!("msr vbar_el1, {0}", "isb", "brk #1", "b .", in(reg) 0x0b00_0000u64, options(noreturn)) }
}

/// Puts the translation tables where nothing is.
pub fn tables() -> ! {
    // SAFETY: no Rust code runs after this on this vCPU.
    unsafe {
        asm!("msr ttbr0_el1, {0}", "tlbi vmalle1", "dsb sy", "isb", "brk #1", "b .", in(reg) 0x0b00_0000u64,
            options(noreturn))
    }
}
