//! Waits for its power button (a PL061 at the address of QEMU's `virt` board) to be pressed and released, says so, and turns
//! itself off: `PRESSED`, `RELEASED`. With `deaf` it only says so.

use crate::rt::{mmio, sysreg};
use crate::{gic, machine, println};

/// The base of the PL061 (DDI 0190).
const BASE: u64 = 0x0903_0000;
/// The line of the button.
const LINE: u32 = 1 << 3;
/// What is on that line: GPIODATA, masked by the address.
const DATA: u64 = BASE + ((LINE as u64) << 2);
/// Lines of which both edges interrupt.
const IBE: u64 = BASE + 0x408;
/// Interrupts that are let through.
const IE: u64 = BASE + 0x410;
/// Those that are pending.
const MIS: u64 = BASE + 0x418;
/// Clears them.
const IC: u64 = BASE + 0x41c;
/// The interrupt: SPI 7.
const INTID: u32 = 39;

/// Runs the guest.
pub fn main() {
    gic::init();
    gic::enable(INTID);
    mmio::write32(IBE, LINE);
    mmio::write32(IE, LINE);
    println!("READY");
    while wait_for_change() || machine::has("deaf") {}
}

/// Sleeps until the button has changed, says how, and returns true if it is pressed.
fn wait_for_change() -> bool {
    // Interrupts stay masked, but end a WFI.
    while mmio::read32(MIS) & LINE == 0 {
        sysreg::wfi();
    }
    let intid = gic::acknowledge();
    mmio::write32(IC, LINE);
    let is_pressed = mmio::read32(DATA) != 0;
    println!("{}", if is_pressed { "PRESSED" } else { "RELEASED" });
    if intid < gic::SPURIOUS {
        gic::end(intid);
    }
    is_pressed
}
