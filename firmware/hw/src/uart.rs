//! The machine's console: a PL011 (Arm DDI 0183).

use salp_core::addr::Pa;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {u32,
    FR [RXFE OFFSET(4) NUMBITS(1) [], TXFF OFFSET(5) NUMBITS(1) []],
    IM [RX OFFSET(4) NUMBITS(1) [], RT OFFSET(6) NUMBITS(1) []],
    CR [UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) []]
}

register_structs! {
    #[allow(missing_docs)]
    Registers {
        (0x00 => dr: ReadWrite<u32>),
        (0x04 => _reserved0),
        (0x18 => fr: ReadOnly<u32, FR::Register>),
        (0x1c => _reserved1),
        (0x30 => cr: ReadWrite<u32, CR::Register>),
        (0x34 => ifls: ReadWrite<u32>),
        (0x38 => imsc: ReadWrite<u32, IM::Register>),
        (0x3c => _reserved2),
        (0x44 => icr: WriteOnly<u32>),
        (0x48 => @END),
    }
}

/// A PL011 at a fixed address.
pub struct Pl011 {
    registers: &'static Registers,
}

// SAFETY: device registers may be used from any CPU; callers hold the console's lock around a line.
unsafe impl Send for Pl011 {}

impl Pl011 {
    /// Takes the PL011 at `base`, which the firmware below has set up, and turns its receive interrupt on.
    ///
    /// # Safety
    ///
    /// `base` is a PL011, mapped at its own address as device memory, and nothing else drives it.
    pub unsafe fn new(base: Pa) -> Self {
        // SAFETY: the caller's promise.
        let registers = unsafe { &*(base.0 as *const Registers) };
        registers.cr.write(CR::UARTEN::SET + CR::TXE::SET + CR::RXE::SET);
        registers.icr.set(0x7ff);
        registers.imsc.write(IM::RX::SET + IM::RT::SET);
        Self { registers }
    }

    /// Sends one byte, waiting while the transmit FIFO is full.
    pub fn send(&self, byte: u8) {
        while self.registers.fr.is_set(FR::TXFF) {
            core::hint::spin_loop();
        }
        self.registers.dr.set(byte.into());
    }

    /// Returns a byte that has arrived, if there is one.
    pub fn receive(&self) -> Option<u8> {
        (!self.registers.fr.is_set(FR::RXFE)).then(|| self.registers.dr.get() as u8)
    }
}
