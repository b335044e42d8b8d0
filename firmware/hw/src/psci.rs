//! Calls to the firmware below, by SMC (PSCI 1.1, SMCCC 1.2).

use salp_core::addr::Pa;
use smccc::Smc;

/// Turns the machine off.
pub fn system_off() -> ! {
    let _ = smccc::psci::system_off::<Smc>();
    halt()
}

/// Resets the machine.
pub fn system_reset() -> ! {
    let _ = smccc::psci::system_reset::<Smc>();
    halt()
}

/// Stops this CPU for good: what is left when the firmware below refuses.
pub fn halt() -> ! {
    loop {
        // SAFETY: waits for an event, changes nothing.
        unsafe { core::arch::asm!("wfe", options(nomem, nostack)) };
    }
}

/// Has the firmware below carry out a workaround for the CPU's flaws (SMCCC_ARCH_WORKAROUND_n).
pub fn workaround(function: u32, argument: u64) {
    let _ = smccc::smc32(function, [argument as u32, 0, 0, 0, 0, 0, 0]);
}

/// Starts CPU `mpidr` at `entry` with `argument` in x0.
///
/// # Errors
///
/// What the firmware below answered.
pub fn cpu_on(mpidr: u64, entry: Pa, argument: Pa) -> Result<(), smccc::psci::Error> {
    smccc::psci::cpu_on::<Smc>(mpidr, entry.0, argument.0)
}

/// Returns what the firmware below answers to SMCCC_ARCH_FEATURES for `function`: negative if it does not implement it.
pub fn arch_features(function: u32) -> i32 {
    const ARCH_FEATURES: u32 = 0x8000_0001;
    const NOT_SUPPORTED: i32 = -1;
    let psci_features = smccc::smc32(0x8400_000a, [0x8000_0000, 0, 0, 0, 0, 0, 0])[0] as i32;
    if psci_features == NOT_SUPPORTED {
        return NOT_SUPPORTED; // no SMCCC 1.1 below (SMCCC appendix B)
    }
    smccc::smc32(ARCH_FEATURES, [function, 0, 0, 0, 0, 0, 0])[0] as i32
}
