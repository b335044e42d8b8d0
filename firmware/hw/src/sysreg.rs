//! System registers by name. `aarch64-cpu` names most of EL2's; what it lacks, and the guest's registers that are
//! moved as plain numbers, go through these two macros.

/// Reads a system register.
macro_rules! read {
    ($name:ident) => {{
        let value: u64;
        // SAFETY: reading a system register has no effect on memory; the callers name registers that exist.
        unsafe { core::arch::asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register. What the register does is up to the caller: the block that calls this is the place to
/// argue why it is right.
macro_rules! write {
    ($name:ident, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers written through this macro hold the guest's state or configure traps of the guest;
        // none changes what EL2's own mappings or stack mean. Memory is named as clobbered to keep order.
        unsafe { core::arch::asm!(concat!("msr ", stringify!($name), ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// Waits until register writes have taken effect.
macro_rules! isb {
    () => {
        // SAFETY: a barrier.
        unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
    };
}

/// Waits until memory accesses are complete.
macro_rules! dsb {
    ($kind:literal) => {
        // SAFETY: a barrier.
        unsafe { core::arch::asm!(concat!("dsb ", $kind), options(nostack, preserves_flags)) }
    };
}

pub(crate) use {dsb, isb, read, write};
