//! The console: a PL011 at the address of QEMU's `virt` board. Before: `println!`. After: the device.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use spin::mutex::SpinMutex;

use super::{mmio, sysreg};

/// The base of the PL011.
pub const BASE: u64 = 0x0900_0000;
/// Its interrupt.
pub const INTID: u32 = 33;
/// Data register (PrimeCell UART PL011 TRM 3.3).
pub const DR: u64 = BASE;
/// Flag register.
pub const FR: u64 = BASE + 0x18;
/// Line control register.
pub const LCR_H: u64 = BASE + 0x2c;
/// Control register.
pub const CR: u64 = BASE + 0x30;
/// Interrupt FIFO level select register.
pub const IFLS: u64 = BASE + 0x34;
/// Interrupt mask set and clear register.
pub const IMSC: u64 = BASE + 0x38;
/// Raw interrupt status register.
pub const RIS: u64 = BASE + 0x3c;
/// Masked interrupt status register.
pub const MIS: u64 = BASE + 0x40;
/// Interrupt clear register.
pub const ICR: u64 = BASE + 0x44;
/// FR: the transmit FIFO is full.
pub const FR_TXFF: u32 = 1 << 5;
/// FR: the receive FIFO is empty.
pub const FR_RXFE: u32 = 1 << 4;
/// Interrupts: something was received, or has waited for some time.
pub const INT_RX: u32 = 1 << 4 | 1 << 6;
/// Interrupts: there is room in the transmit FIFO.
pub const INT_TX: u32 = 1 << 5;

static LINE: SpinMutex<()> = SpinMutex::new(());
static PANICKING: AtomicBool = AtomicBool::new(false);

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Turns the device on, with FIFOs and without interrupts.
pub fn init() {
    mmio::write32(IMSC, 0);
    mmio::write32(LCR_H, 3 << 5 | 1 << 4);
    mmio::write32(CR, 1 | 1 << 8 | 1 << 9);
}

/// Sends one byte as it is.
pub fn put(byte: u8) {
    while mmio::read32(FR) & FR_TXFF != 0 {}
    mmio::write32(DR, byte.into());
}

/// Returns a byte that was received, if there is one.
pub fn take() -> Option<u8> {
    (mmio::read32(FR) & FR_RXFE == 0).then(|| mmio::read32(DR) as u8)
}

/// Prints, not mixed with what other vCPUs print. Not for interrupt handlers of a vCPU that prints.
pub fn print(text: fmt::Arguments<'_>) {
    sysreg::with_irq_masked(|| {
        let _guard = (!PANICKING.load(Ordering::Relaxed)).then(|| LINE.lock());
        // The port never fails.
        let _ = Port.write_fmt(text);
    });
}

/// Stops honouring the lock: who holds it may be the one that panics.
pub fn break_lock() {
    PANICKING.store(true, Ordering::Relaxed);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::rt::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)+) => { $crate::rt::console::print(format_args!("{}\n", format_args!($($arg)+))) };
}
