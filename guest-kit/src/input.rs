//! Lines that are typed at the console. Before: guests that listen. After: the console, and its interrupt.

use heapless::String;

use crate::rt::{console, mmio, sysreg};
use crate::{gic, print, println};

/// The longest line.
pub const LINE: usize = 80;

/// Lets keys wake this vCPU. The GIC is ready.
pub fn init() {
    gic::enable(console::INTID);
    mmio::write32(console::IMSC, console::INT_RX);
}

/// Reads a line with echo, and sleeps between keys. Interrupts are masked: a pending one ends WFI, and is acknowledged
/// here.
pub fn read_line() -> String<LINE> {
    let mut line = String::new();
    loop {
        match console::take() {
            Some(b'\r' | b'\n') => {
                println!();
                return line;
            }
            Some(8 | 127) => {
                if line.pop().is_some() {
                    print!("\x08 \x08");
                }
            }
            Some(byte @ b' '..=b'~') => {
                if line.push(char::from(byte)).is_ok() {
                    console::put(byte);
                }
            }
            Some(_) => {}
            None => {
                sysreg::wfi();
                let intid = gic::acknowledge();
                if intid < gic::SPURIOUS {
                    mmio::write32(console::ICR, console::INT_RX);
                    gic::end(intid);
                }
            }
        }
    }
}
