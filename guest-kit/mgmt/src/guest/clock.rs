//! What time it is. Before: the service and the network. After: the PL031 and the generic timer.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_kit::rt::{mmio, sysreg};
use guest_kit::timer;

/// The data register of the PL031: seconds since 1970.
const RTC: u64 = 0x0901_0000;

/// For how long what the PL031 said is taken for true, in milliseconds: to ask it is an exit to EL2.
const FRESH: u64 = 100;

/// Returns the seconds since 1970.
pub fn seconds() -> u64 {
    static SECONDS: AtomicU64 = AtomicU64::new(0);
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let now = milliseconds();
    let known = SECONDS.load(Ordering::Relaxed);
    if known != 0 && now.wrapping_sub(ASKED.load(Ordering::Relaxed)) < FRESH {
        return known;
    }
    let seconds = mmio::read32(RTC).into();
    SECONDS.store(seconds, Ordering::Relaxed);
    ASKED.store(now, Ordering::Relaxed);
    seconds
}

/// Returns milliseconds since some moment.
pub fn milliseconds() -> u64 {
    timer::microseconds(sysreg::cntvct()) / 1000
}
