//! PrimeCell UART PL011 (DDI 0183), the guest's console. Before: [`super::bus`]; after: the console's owner, who takes what
//! is sent and gives what is typed, and [`crate::vgic`] for [`Pl011::interrupt`].
//!
//! The line is as fast as it needs to be: a byte that is written has been sent, so the transmit FIFO is always empty. Baud
//! rates are kept and mean nothing. The UART sends and receives whatever CR's enable bits say, as on QEMU's board: earlycon
//! and many bare-metal programs never set them.

use super::bus::part_of_word;
use super::primecell_id;
use crate::vgic::AccessSize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The depth of the receive FIFO, in bytes (revision r1p5).
pub const FIFO: usize = 32;

const DR: u64 = 0x000;
const RSR: u64 = 0x004;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;

const FR_CTS: u32 = 1 << 0;
const FR_DSR: u32 = 1 << 1;
const FR_DCD: u32 = 1 << 2;
const FR_RXFE: u32 = 1 << 4;
const FR_RXFF: u32 = 1 << 6;
const FR_TXFE: u32 = 1 << 7;

const LCR_H_BRK: u32 = 1 << 0;
const LCR_H_FEN: u32 = 1 << 4;

const CR_LBE: u32 = 1 << 7;
const CR_TXE: u32 = 1 << 8;
const CR_RXE: u32 = 1 << 9;

/// Interrupts of RIS, MIS, IMSC and ICR.
const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;
const BE: u32 = 1 << 9;
const OE: u32 = 1 << 10;
const INTERRUPTS: u32 = 0x7ff;

/// Errors in bits 11:8 of DR and 3:0 of RSR.
const DATA_BREAK: u16 = 1 << 10;
const RSR_OVERRUN: u32 = 1 << 3;

/// A UART. A hand-over has it as it is.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pl011 {
    /// Received characters with their error bits, oldest at `head`.
    fifo: [u16; FIFO],
    head: u8,
    held: u8,
    reserved: u16,
    rsr: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// Returns a UART after reset (DDI 0183 3.2).
    pub const fn new() -> Self {
        Self {
            fifo: [0; FIFO],
            head: 0,
            held: 0,
            reserved: 0,
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_TXE | CR_RXE,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        }
    }

    /// Returns the level of the interrupt line.
    #[inline]
    pub const fn interrupt(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// Returns how many bytes [`Self::push`] takes now. The line waits while it is 0, nothing that is typed is lost.
    pub fn room(&self) -> usize {
        self.depth().saturating_sub(usize::from(self.held))
    }

    /// Receives a byte. Returns false, and drops it, if there is no room.
    pub fn push(&mut self, byte: u8) -> bool {
        let room = self.room() > 0;
        if room {
            self.receive(u16::from(byte));
        }
        room
    }

    /// Reads the register at `offset`; reading DR takes a character. What is not a register reads as zero.
    pub fn read(&mut self, offset: u64, size: AccessSize) -> u64 {
        let register = offset & !3;
        // Only the low byte's access takes a character, so that a driver that reads DR by halves gets one.
        let value = if register == DR && offset == DR { self.take() } else { self.peek(register) };
        part_of_word(value, offset, size)
    }

    /// Writes the register at `offset`. Returns the byte that is sent, if this sends one.
    pub fn write(&mut self, offset: u64, _size: AccessSize, value: u64) -> Option<u8> {
        let value = value as u32;
        match offset {
            DR => return self.send(value as u8),
            RSR => self.rsr = 0,
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value & 0xffff,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => self.write_lcr_h(value & 0xff),
            CR => self.cr = value & 0xff87,
            IFLS => {
                self.ifls = value & 0x3f;
                self.update_rx();
            }
            IMSC => self.imsc = value & INTERRUPTS,
            ICR => self.ris &= !value,
            DMACR => self.dmacr = value & 7,
            _ => {}
        }
        None
    }

    fn peek(&self, register: u64) -> u32 {
        match register {
            RSR => self.rsr,
            FR => self.flags(),
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris,
            MIS => self.ris & self.imsc,
            DMACR => self.dmacr,
            // Revision r1p5.
            offset => primecell_id(0x011, 3, offset).unwrap_or(0),
        }
    }

    fn flags(&self) -> u32 {
        // The modem lines say "connected and ready"; in loopback they follow CR (DDI 0183 3.3.8).
        let modem = if self.cr & CR_LBE != 0 {
            let line = |bit: u32, flag: u32| if self.cr >> bit & 1 != 0 { flag } else { 0 };
            line(11, FR_CTS) | line(10, FR_DSR) | line(12, FR_DCD) | line(13, 1 << 8)
        } else {
            FR_CTS | FR_DSR | FR_DCD
        };
        let empty = if self.held == 0 { FR_RXFE } else { 0 };
        let full = if usize::from(self.held) >= self.depth() { FR_RXFF } else { 0 };
        modem | FR_TXFE | empty | full
    }

    fn depth(&self) -> usize {
        if self.lcr_h & LCR_H_FEN != 0 { FIFO } else { 1 }
    }

    /// The number of characters that raise RX: IFLS bits 5:3, in eighths of the FIFO.
    fn rx_level(&self) -> usize {
        if self.lcr_h & LCR_H_FEN == 0 {
            return 1;
        }
        match self.ifls >> 3 & 7 {
            0 => FIFO / 8,
            1 => FIFO / 4,
            2 => FIFO / 2,
            3 => FIFO * 3 / 4,
            _ => FIFO * 7 / 8,
        }
    }

    fn update_rx(&mut self) {
        if usize::from(self.held) >= self.rx_level() {
            self.ris |= RX;
        } else {
            self.ris &= !RX;
        }
    }

    fn receive(&mut self, data: u16) {
        if usize::from(self.held) >= self.depth() {
            self.ris |= OE;
            self.rsr |= RSR_OVERRUN;
            return;
        }
        let at = (usize::from(self.head) + usize::from(self.held)) % FIFO;
        if let Some(slot) = self.fifo.get_mut(at) {
            *slot = data;
        }
        self.held = self.held.saturating_add(1);
        if data & DATA_BREAK != 0 {
            self.ris |= BE;
        }
        self.update_rx();
        // The receive timeout: no more characters for 32 bit periods, which pass at once on this line.
        self.ris |= RT;
    }

    fn take(&mut self) -> u32 {
        if self.held == 0 {
            return 0;
        }
        let data = self.fifo.get(usize::from(self.head) % FIFO).copied().unwrap_or(0);
        self.head = self.head.wrapping_add(1) % FIFO as u8;
        self.held -= 1;
        self.rsr = self.rsr & RSR_OVERRUN | u32::from(data) >> 8;
        self.update_rx();
        if self.held == 0 {
            self.ris &= !RT;
        }
        u32::from(data)
    }

    /// Sends a byte.
    fn send(&mut self, byte: u8) -> Option<u8> {
        // The FIFO empties at once, past any trigger level.
        self.ris |= TX;
        if self.cr & CR_LBE == 0 {
            return Some(byte);
        }
        self.receive(u16::from(byte));
        None
    }

    fn write_lcr_h(&mut self, value: u32) {
        let changed = self.lcr_h ^ value;
        self.lcr_h = value;
        if changed & LCR_H_FEN != 0 {
            // Changing the mode empties the FIFOs.
            (self.head, self.held) = (0, 0);
            self.ris &= !RT;
        }
        if changed & value & LCR_H_BRK != 0 && self.cr & CR_LBE != 0 {
            self.receive(DATA_BREAK);
        }
        self.update_rx();
    }

    /// Returns true if the state can have come about: a record is not trusted.
    pub fn is_valid(&self) -> bool {
        usize::from(self.head) < FIFO
            && usize::from(self.held) <= self.depth()
            && self.fifo.iter().all(|data| data & !0xfff == 0)
            && (self.ris | self.imsc) & !INTERRUPTS == 0
    }
}

#[cfg(test)]
mod tests {
    use super::AccessSize::{Byte, Double, Half, Word};
    use super::*;
    use crate::exit::tests::{Random, rounds};
    use std::collections::VecDeque;

    fn read(uart: &mut Pl011, offset: u64) -> u32 {
        uart.read(offset, Word) as u32
    }

    fn write(uart: &mut Pl011, offset: u64, value: u32) {
        assert_eq!(uart.write(offset, Word, u64::from(value)), None);
    }

    /// As Linux' amba-pl011 starts it: FIFOs on, half full, receive interrupts.
    fn as_linux_does() -> Pl011 {
        let mut uart = Pl011::new();
        write(&mut uart, IMSC, 0);
        write(&mut uart, ICR, 0xffff);
        write(&mut uart, IFLS, 0x12);
        write(&mut uart, LCR_H, 0x70);
        write(&mut uart, CR, 0x301);
        write(&mut uart, IMSC, RX | RT);
        uart
    }

    #[test]
    fn amba_drivers_recognise_it() {
        let mut uart = Pl011::new();
        let id: Vec<u32> = (0..8).map(|n| read(&mut uart, 0xfe0 + 4 * n)).collect();
        assert_eq!(id, [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
        // Linux reads them as four bytes of one value: part 0x011 by 0x41, mask 0x000fffff.
        let periphid = id[0] | id[1] << 8 | id[2] << 16 | id[3] << 24;
        assert_eq!(periphid & 0x000f_ffff, 0x0004_1011);
        assert_eq!(uart.read(0xfe0, Byte), 0x11);
    }

    #[test]
    fn earlycon_prints_before_anything_is_set_up() {
        let mut uart = Pl011::new();
        assert_eq!(read(&mut uart, FR) & 0x20, 0, "never full");
        assert_eq!(uart.write(DR, Byte, 0x41), Some(b'A'));
        assert_eq!(uart.write(DR, Word, 0xdead_be42), Some(b'B'));
        assert_eq!(read(&mut uart, FR) & (FR_TXFE | 1 << 3), FR_TXFE, "sent, and not busy");
    }

    #[test]
    fn typing_interrupts_linux() {
        let mut uart = as_linux_does();
        assert!(!uart.interrupt());
        assert!(uart.push(b'l') && uart.push(b's'));
        assert!(uart.interrupt());
        assert_eq!(read(&mut uart, MIS), RT, "two characters are below the trigger level: a timeout");
        assert_eq!(read(&mut uart, DR), u32::from(b'l'));
        assert!(uart.interrupt());
        assert_eq!(read(&mut uart, DR), u32::from(b's'));
        assert!(!uart.interrupt());
        assert_eq!((read(&mut uart, FR) & FR_RXFE, read(&mut uart, DR)), (FR_RXFE, 0));
    }

    #[test]
    fn the_fifo_fills_and_then_the_line_waits() {
        let mut uart = as_linux_does();
        for n in 0..FIFO {
            assert_eq!(read(&mut uart, RIS) & RX != 0, n >= FIFO / 2);
            assert_eq!(uart.room(), FIFO - n);
            assert!(uart.push(n as u8));
        }
        assert!(!uart.push(99));
        assert_eq!(read(&mut uart, FR) & (FR_RXFF | FR_RXFE), FR_RXFF);
        assert_eq!(read(&mut uart, RIS) & OE, 0, "nothing was lost");
        for n in 0..FIFO {
            assert_eq!(read(&mut uart, DR), n as u32);
        }
    }

    #[test]
    fn without_fifos_there_is_one_holding_register() {
        let mut uart = Pl011::new();
        assert_eq!(uart.room(), 1);
        assert!(uart.push(1) && !uart.push(2));
        assert_eq!(read(&mut uart, RIS), RX | RT);
        assert_eq!(read(&mut uart, FR) & FR_RXFF, FR_RXFF);
        assert_eq!(read(&mut uart, DR), 1);
        assert_eq!(read(&mut uart, RIS), 0);
    }

    #[test]
    fn sending_raises_the_transmit_interrupt_until_it_is_cleared() {
        let mut uart = as_linux_does();
        write(&mut uart, IMSC, TX);
        assert!(!uart.interrupt(), "raised by a transition, not by being empty");
        assert_eq!(uart.write(DR, Byte, 0x0a), Some(b'\n'));
        assert!(uart.interrupt());
        write(&mut uart, ICR, TX);
        assert!(!uart.interrupt());
    }

    #[test]
    fn loopback_keeps_bytes_inside() {
        let mut uart = as_linux_does();
        write(&mut uart, CR, 0x301 | CR_LBE | 1 << 11);
        assert_eq!(read(&mut uart, FR) & 0x107, FR_CTS);
        assert_eq!(uart.write(DR, Word, 0x55), None);
        assert_eq!(read(&mut uart, DR), 0x55);
        for _ in 0..=FIFO {
            assert_eq!(uart.write(DR, Word, 1), None);
        }
        assert_eq!((read(&mut uart, RIS) & OE, read(&mut uart, RSR)), (OE, RSR_OVERRUN));
        write(&mut uart, RSR, 0);
        assert_eq!(read(&mut uart, RSR), 0);
        // A break is a character with an error.
        write(&mut uart, LCR_H, 0);
        write(&mut uart, LCR_H, 0x71);
        assert_eq!(read(&mut uart, RIS) & BE, BE);
        assert_eq!(read(&mut uart, DR), 0x400);
        assert_eq!(read(&mut uart, RSR), 4);
    }

    #[test]
    fn registers_keep_the_bits_they_have() {
        let mut uart = Pl011::new();
        for (offset, mask) in [(IBRD, 0xffff), (FBRD, 0x3f), (CR, 0xff87), (IFLS, 0x3f), (IMSC, 0x7ff), (DMACR, 7)] {
            write(&mut uart, offset, u32::MAX);
            assert_eq!(read(&mut uart, offset), mask, "{offset:#x}");
        }
        for read_only in [FR, RIS, MIS, 0xfe0, 0x800] {
            let before = read(&mut uart, read_only);
            write(&mut uart, read_only, !before);
            assert_eq!(read(&mut uart, read_only), before);
        }
    }

    #[test]
    fn reset_values() {
        let mut uart = Pl011::new();
        for (offset, value) in [(CR, 0x300), (IFLS, 0x12), (LCR_H, 0), (IMSC, 0), (RIS, 0), (FR, 0x97)] {
            assert_eq!(read(&mut uart, offset), value, "{offset:#x}");
        }
    }

    #[test]
    fn random_accesses_and_a_queue_as_model() {
        let mut random = Random(17);
        let mut uart = as_linux_does();
        let mut model = VecDeque::new();
        for step in 0..rounds(200_000) {
            match random.below(3) {
                0 => {
                    let byte = random.next() as u8;
                    let fits = model.len() < FIFO;
                    assert_eq!(uart.push(byte), fits);
                    if fits {
                        model.push_back(byte);
                    }
                }
                1 => {
                    let expected = model.pop_front();
                    assert_eq!(read(&mut uart, DR), u32::from(expected.unwrap_or(0)), "step {step}");
                }
                _ => assert!(uart.write(DR, Byte, 7).is_some()),
            }
            assert_eq!(read(&mut uart, RIS) & (RX | RT) != 0, !model.is_empty());
            assert!(uart.is_valid());
        }
        // And what a hostile guest does.
        for _ in 0..rounds(200_000) {
            let size = [Byte, Half, Word, Double][random.below(4) as usize];
            let offset = match random.below(2) {
                0 => random.below(0x50),
                _ => random.spread(),
            };
            match random.below(3) {
                0 => {
                    uart.read(offset, size);
                }
                1 => {
                    uart.write(offset, size, random.spread());
                }
                _ => {
                    uart.push(random.next() as u8);
                }
            }
            assert!(uart.is_valid());
        }
    }
}
