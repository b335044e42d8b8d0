//! Time from the virtual counter. Before: guests. After: the generic timer.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::gic;
use crate::rt::sysreg;

/// The interrupt of the virtual timer.
pub const VIRTUAL_INTID: u32 = 27;
/// The interrupt of the physical timer.
pub const PHYSICAL_INTID: u32 = 30;

/// Timer control: on.
pub const ENABLE: u64 = 1;
/// Timer control: on, but the interrupt is masked.
pub const MASKED: u64 = 3;
/// Timer control: the condition is met.
pub const STATUS: u64 = 4;

static FREQUENCY: AtomicU64 = AtomicU64::new(1);

/// Remembers the frequency of the counter. Where nobody is above EL1 a guest can change the register, not the counter.
pub fn init() {
    FREQUENCY.store(sysreg::cntfrq().max(1), Ordering::Relaxed);
}

/// Returns the ticks of `microseconds`.
pub fn ticks(microseconds: u64) -> u64 {
    scale(microseconds, FREQUENCY.load(Ordering::Relaxed), 1_000_000)
}

/// Returns the microseconds of `ticks`.
pub fn microseconds(ticks: u64) -> u64 {
    scale(ticks, 1_000_000, FREQUENCY.load(Ordering::Relaxed))
}

/// Returns `value` × `to` / `from`, without the overflow of the whole product.
fn scale(value: u64, to: u64, from: u64) -> u64 {
    value / from * to + value % from * to / from
}

/// Waits until `condition` is true; returns false if it was not within `milliseconds`.
pub fn wait_until(milliseconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = sysreg::cntvct() + ticks(milliseconds * 1000);
    loop {
        if condition() {
            return true;
        }
        if sysreg::cntvct() > end {
            return condition();
        }
        crate::rt::cpu::relax();
    }
}

/// Waits `microseconds`, without giving the CPU away.
pub fn spin(microseconds: u64) {
    let end = sysreg::cntvct() + ticks(microseconds);
    while sysreg::cntvct() < end {
        crate::rt::cpu::relax();
    }
}

/// Sleeps until the virtual counter has reached `end`. For callers with interrupts masked, the virtual timer's enabled in
/// the GIC, and no other that could be pending; the timer is off afterwards.
pub fn sleep_to(end: u64) {
    sysreg::set_cntv_cval(end);
    sysreg::set_cntv_ctl(ENABLE);
    while sysreg::cntvct() < end {
        sysreg::wfi();
    }
    sysreg::set_cntv_ctl(0);
    forget();
}

/// Takes the timer's interrupt, which a hypervisor may still hold pending although the timer is off: else it would end the
/// next sleep at once.
pub fn forget() {
    let intid = gic::acknowledge();
    if intid < gic::SPURIOUS {
        gic::end(intid);
    }
}

/// Sleeps for `milliseconds`, or until `is_over`. For callers with interrupts masked, and the virtual timer's enabled in the GIC:
/// a pending one ends WFI, and is acknowledged here, at the `devices` too. The timer is masked afterwards.
pub fn doze<T>(milliseconds: u64, devices: &mut T, is_over: impl Fn(&T) -> bool, acknowledge: impl Fn(&mut T)) {
    sysreg::set_cntv_tval(ticks(milliseconds * 1000));
    sysreg::set_cntv_ctl(ENABLE);
    while sysreg::cntv_ctl() & STATUS == 0 && !is_over(devices) {
        sysreg::wfi();
        loop {
            let intid = gic::acknowledge();
            if intid >= gic::SPURIOUS {
                break;
            }
            // Each time: the device may raise it again meanwhile, and a level that nobody lowers never ends.
            acknowledge(devices);
            // What a hypervisor still held pending of an earlier sleep is not the end of this one: it would never end.
            if intid == VIRTUAL_INTID && sysreg::cntv_ctl() & STATUS != 0 {
                sysreg::set_cntv_ctl(MASKED);
            }
            gic::end(intid);
        }
    }
    sysreg::set_cntv_ctl(MASKED);
}

/// Sleeps for `milliseconds`; see [`sleep_to`].
pub fn sleep(milliseconds: u64) {
    sleep_to(sysreg::cntvct() + ticks(milliseconds * 1000));
}

/// Waits until `condition` is true, looking every millisecond and sleeping between; see [`sleep_to`]. Returns false if it
/// was not within `milliseconds`.
pub fn sleep_until(milliseconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = sysreg::cntvct() + ticks(milliseconds * 1000);
    while !condition() {
        if sysreg::cntvct() > end {
            return condition();
        }
        sleep(1);
    }
    true
}
