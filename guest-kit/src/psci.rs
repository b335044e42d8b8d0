//! PSCI calls (Arm DEN0022) by HVC, with the numbers they return. Before: `rt::cpu` and guests. After: EL2.

use smccc::psci as id;

/// The call was carried out.
pub const SUCCESS: i64 = 0;
/// There is no such call.
pub const NOT_SUPPORTED: i64 = -1;
/// An argument makes no sense.
pub const INVALID_PARAMETERS: i64 = -2;
/// The target is on.
pub const ALREADY_ON: i64 = -4;
/// The target is about to be on.
pub const ON_PENDING: i64 = -5;
/// The entry point is no address of RAM.
pub const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO: the vCPU is on.
pub const ON: i64 = 0;
/// AFFINITY_INFO: the vCPU is off.
pub const OFF: i64 = 1;
/// AFFINITY_INFO: the vCPU is about to be on.
pub const PENDING: i64 = 2;

/// Makes any call with up to three arguments and returns x0. A call of the 32-bit convention returns 32 bits.
pub fn call(function: u32, arguments: [u64; 3]) -> i64 {
    let mut all = [0; 17];
    all[..3].copy_from_slice(&arguments);
    let result = smccc::hvc64(function, all)[0];
    if function & 1 << 30 == 0 { result as i32 as i64 } else { result as i64 }
}

/// Makes CPU_ON.
pub fn cpu_on(target: u64, entry: u64, context: u64) -> i64 {
    call(id::PSCI_CPU_ON_64, [target, entry, context])
}

/// Makes AFFINITY_INFO.
pub fn affinity_info(target: u64, level: u64) -> i64 {
    call(id::PSCI_AFFINITY_INFO_64, [target, level, 0])
}

/// Makes PSCI_FEATURES.
pub fn features(function: u32) -> i64 {
    call(id::PSCI_FEATURES, [function.into(), 0, 0])
}

/// Makes CPU_OFF, which returns only if it failed.
pub fn cpu_off() -> i64 {
    call(id::PSCI_CPU_OFF, [0; 3])
}

/// Turns the machine off.
pub fn system_off() -> ! {
    call(id::PSCI_SYSTEM_OFF, [0; 3]);
    loop {
        crate::rt::sysreg::wfi();
    }
}

/// Starts the machine again.
pub fn system_reset() -> ! {
    call(id::PSCI_SYSTEM_RESET, [0; 3]);
    loop {
        crate::rt::sysreg::wfi();
    }
}
