//! What time it is. Before: the service and the network. After: the PL031 and the generic timer.

use guest_kit::rt::{mmio, sysreg};
use guest_kit::timer;

/// The data register of the PL031: seconds since 1970.
const RTC: u64 = 0x0901_0000;

/// Returns the seconds since 1970.
pub fn seconds() -> u64 {
    mmio::read32(RTC).into()
}

/// Returns milliseconds since some moment.
pub fn milliseconds() -> u64 {
    timer::microseconds(sysreg::cntvct()) / 1000
}
