//! Calls of the management guest about the machine itself, and about what a VM starts from, made like those of
//! [`manager`](crate::manager).

const BASE: u32 = 0xc600_0000;

/// Puts the finished image x2 into the drive of the VM x1 in place of what was in it; [`NO_MEDIUM`] ejects, [`SAME_MEDIUM`]
/// changes nothing. x1: the image that was in it.
pub const VM_MEDIUM: u32 = BASE | 0x60;
/// Starts the VM x1, which is off, from the segments, entry point and x0 of the description at x2 of x3 bytes
/// ([`VM_CREATE`](crate::manager::VM_CREATE)), which is of as much RAM and as many vCPUs and NICs. If x4 is 0, the VM is what it was
/// before when that life is over, and starts again as such if its guest asks for it; if x4 is 1, when it is off.
pub const VM_START_FROM: u32 = BASE | 0x61;
/// Sets the machine's clock to x1, in nanoseconds since 1970; 0 leaves it. x1: what it shows.
pub const CLOCK: u32 = BASE | 0x62;
/// Reads the hypervisor's own log: x1 is the position of the first byte wanted, counted from the machine's start, x2 the
/// address and x3 the size of the buffer. x1 to x3 as of [`CONSOLE_READ`](crate::manager::CONSOLE_READ).
pub const LOG_READ: u32 = BASE | 0x63;
/// Resets the machine ([`POWER_RESET`]) or turns it off ([`POWER_OFF`]) at once, whatever runs on it.
pub const MACHINE_POWER: u32 = BASE | 0x64;
/// Describes the machine's CPU x1. x1: MIDR_EL1; x2: MPIDR_EL1 without its flags; x3: the frequency of the counter, in hertz.
pub const MACHINE_CPU: u32 = BASE | 0x65;

/// [`VM_MEDIUM`]: nothing is in the drive.
pub const NO_MEDIUM: u64 = 0;
/// [`VM_MEDIUM`]: what is in the drive stays there.
pub const SAME_MEDIUM: u64 = u64::MAX;

/// [`MACHINE_POWER`]: reset.
pub const POWER_RESET: u64 = 0;
/// [`MACHINE_POWER`]: off.
pub const POWER_OFF: u64 = 1;
