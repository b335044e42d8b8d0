//! A GICv3 driver of test size (Arm IHI 0069). Before: guests. After: distributor, redistributors, CPU interface.
//!
//! Everything is group 1. Tests use the register addresses directly where that is what they test.

use crate::machine;
use crate::rt::{cpu, mmio, sysreg};

/// The base of the distributor.
pub const GICD: u64 = 0x0800_0000;
/// The base of the redistributors, two frames of 64 KiB for each vCPU.
pub const GICR: u64 = 0x080a_0000;

/// Offsets in the distributor; those up to [`ICFGR`] are also offsets in a redistributor's SGI frame.
pub const CTLR: u64 = 0x0000;
/// Interrupt controller type.
pub const TYPER: u64 = 0x0004;
/// Interrupt groups.
pub const IGROUPR: u64 = 0x0080;
/// Set-enable.
pub const ISENABLER: u64 = 0x0100;
/// Clear-enable.
pub const ICENABLER: u64 = 0x0180;
/// Set-pending.
pub const ISPENDR: u64 = 0x0200;
/// Clear-pending.
pub const ICPENDR: u64 = 0x0280;
/// Set-active.
pub const ISACTIVER: u64 = 0x0300;
/// Clear-active.
pub const ICACTIVER: u64 = 0x0380;
/// Priorities, a byte each.
pub const IPRIORITYR: u64 = 0x0400;
/// Configurations, two bits each.
pub const ICFGR: u64 = 0x0c00;
/// Routes of SPIs, eight bytes each.
pub const IROUTER: u64 = 0x6000;
/// Redistributor: sleep and wake.
pub const GICR_WAKER: u64 = 0x0014;
/// Redistributor: type, with the affinity in the upper word.
pub const GICR_TYPER: u64 = 0x0008;

/// The interrupt id that says "none".
pub const SPURIOUS: u32 = 1023;
/// The priority that [`enable`] gives.
pub const PRIORITY: u8 = 0xa0;
/// IROUTER: any vCPU.
pub const ANY: u64 = 1 << 31;

/// Turns the distributor on: affinity routing, both groups.
pub fn init_distributor() {
    mmio::write32(GICD + CTLR, 0);
    wait_writes();
    mmio::write32(GICD + CTLR, 1 << 4);
    let words = (mmio::read32(GICD + TYPER) & 0x1f) + 1;
    for word in 1..u64::from(words) {
        mmio::write32(GICD + ICENABLER + word * 4, !0);
        mmio::write32(GICD + ICPENDR + word * 4, !0);
        mmio::write32(GICD + ICACTIVER + word * 4, !0);
        mmio::write32(GICD + IGROUPR + word * 4, !0);
    }
    mmio::write32(GICD + CTLR, 1 << 4 | 1 << 1 | 1);
    wait_writes();
}

/// Waits until the distributor has taken what was written.
pub fn wait_writes() {
    while mmio::read32(GICD + CTLR) & 1 << 31 != 0 {}
}

/// Returns the first of the two redistributor frames of this vCPU.
///
/// # Panics
///
/// If no redistributor has this vCPU's affinity.
pub fn redistributor() -> u64 {
    let affinity = sysreg::mpidr() & 0xff_ffff;
    let mut frame = GICR;
    loop {
        let kind = mmio::read64(frame + GICR_TYPER);
        if kind >> 32 == affinity {
            return frame;
        }
        assert!(kind & 1 << 4 == 0, "no redistributor for affinity {affinity:#x}");
        frame += 0x2_0000;
    }
}

/// Makes this vCPU ready for interrupts: wakes its redistributor, disables all its private interrupts, opens the CPU
/// interface with EOI mode 0 and every priority let in.
pub fn init_cpu() {
    let frame = redistributor();
    mmio::write32(frame + GICR_WAKER, mmio::read32(frame + GICR_WAKER) & !(1 << 1));
    while mmio::read32(frame + GICR_WAKER) & 1 << 2 != 0 {}
    let sgi = frame + 0x1_0000;
    mmio::write32(sgi + ICENABLER, !0);
    mmio::write32(sgi + ICPENDR, !0);
    mmio::write32(sgi + ICACTIVER, !0);
    mmio::write32(sgi + IGROUPR, !0);
    while mmio::read32(frame) & 1 << 3 != 0 {}
    sysreg::set_icc_sre(sysreg::icc_sre() | 1);
    sysreg::set_icc_ctlr(0);
    sysreg::set_icc_bpr1(0);
    sysreg::set_icc_pmr(0xff);
    sysreg::set_icc_igrpen1(1);
}

/// Makes both the distributor and this vCPU ready.
pub fn init() {
    init_distributor();
    init_cpu();
}

/// Returns the frame that holds the registers of `intid`: this vCPU's for private interrupts.
pub fn frame(intid: u32) -> u64 {
    if intid < 32 { redistributor() + 0x1_0000 } else { GICD }
}

/// Writes the bit of `intid` in the register array at offset `array`.
pub fn write_bit(array: u64, intid: u32) {
    mmio::write32(frame(intid) + array + u64::from(intid / 32) * 4, 1 << (intid % 32));
}

/// Returns the bit of `intid` in the register array at offset `array`.
pub fn read_bit(array: u64, intid: u32) -> bool {
    mmio::read32(frame(intid) + array + u64::from(intid / 32) * 4) & 1 << (intid % 32) != 0
}

/// Sets the priority of `intid`.
pub fn set_priority(intid: u32, priority: u8) {
    mmio::write8(frame(intid) + IPRIORITYR + u64::from(intid), priority);
}

/// Makes `intid` edge-triggered or level-sensitive.
pub fn set_edge(intid: u32, edge: bool) {
    let register = frame(intid) + ICFGR + u64::from(intid / 16) * 4;
    let bit = 2 << (intid % 16 * 2);
    let value = mmio::read32(register);
    mmio::write32(register, if edge { value | bit } else { value & !bit });
}

/// Routes the SPI `intid` to the vCPU of this affinity, or to [`ANY`].
pub fn route(intid: u32, affinity: u64) {
    mmio::write64(GICD + IROUTER + u64::from(intid) * 8, affinity);
}

/// Enables `intid` with the usual priority; an SPI goes to this vCPU.
pub fn enable(intid: u32) {
    set_priority(intid, PRIORITY);
    if intid >= 32 {
        route(intid, sysreg::mpidr() & 0xff_00ff_ffff);
    }
    write_bit(ISENABLER, intid);
}

/// Disables `intid`, and returns when it cannot come any more.
pub fn disable(intid: u32) {
    write_bit(ICENABLER, intid);
    if intid >= 32 {
        wait_writes();
    } else {
        let frame = redistributor();
        while mmio::read32(frame) & 1 << 3 != 0 {}
    }
}

/// Sends software interrupt `intid` to vCPU `target`.
pub fn send(intid: u32, target: usize) {
    let affinity = if target == cpu::index() { sysreg::mpidr() } else { machine::mpidr(target) };
    send_to_affinity(intid, affinity);
}

/// Sends software interrupt `intid` to the vCPU of this affinity.
#[inline(always)]
pub fn send_to_affinity(intid: u32, affinity: u64) {
    let upper = (affinity >> 32 & 0xff) << 48 | (affinity >> 16 & 0xff) << 32 | (affinity >> 8 & 0xff) << 16;
    let range = (affinity >> 4 & 0xf) << 44;
    sysreg::barrier();
    sysreg::set_icc_sgi1r(upper | range | u64::from(intid) << 24 | 1 << (affinity & 0xf));
}

/// Sends software interrupt `intid` to every vCPU but this one.
pub fn send_to_others(intid: u32) {
    sysreg::barrier();
    sysreg::set_icc_sgi1r(1 << 40 | u64::from(intid) << 24);
}

/// Acknowledges the highest interrupt.
#[inline(always)]
pub fn acknowledge() -> u32 {
    sysreg::icc_iar1() as u32 & 0xff_ffff
}

/// Ends `intid`.
#[inline(always)]
pub fn end(intid: u32) {
    sysreg::set_icc_eoir1(intid.into());
}
