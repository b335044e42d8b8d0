//! PrimeCell general purpose input/output PL061 (DDI 0190): eight lines, of which the power button is one. Before:
//! [`super::bus`]; after: [`crate::vgic`] for [`Pl061::interrupt`].
//!
//! What a guest drives as output goes nowhere. A line that is an output raises no interrupt.

use super::bus::part_of_word;
use super::primecell_id;
use crate::vgic::AccessSize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The line of the power button, as on `virt`: high while it is pressed.
pub const POWER_LINE: u8 = 3;

/// GPIODATA is 256 words: bits 9:2 of the address say which lines an access is about.
const DATA_END: u64 = 0x400;
const DIR: u64 = 0x400;
const IS: u64 = 0x404;
const IBE: u64 = 0x408;
const IEV: u64 = 0x40c;
const IE: u64 = 0x410;
const RIS: u64 = 0x414;
const MIS: u64 = 0x418;
const IC: u64 = 0x41c;
const AFSEL: u64 = 0x420;

/// A GPIO controller: each register has a bit for each line. A hand-over has it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pl061 {
    /// What is outside.
    pins: u8,
    /// What outputs are driven to.
    driven: u8,
    /// Outputs.
    dir: u8,
    /// Lines whose level interrupts; edges do of the others.
    is: u8,
    /// Lines of which both edges interrupt.
    ibe: u8,
    /// Lines of which high levels or rising edges interrupt; low and falling of the others.
    iev: u8,
    /// Lines whose interrupts are let through.
    ie: u8,
    /// Edges that were seen.
    edges: u8,
    afsel: u8,
}

impl Pl061 {
    /// Returns a controller after reset, all lines low (DDI 0190 3.2).
    pub const fn new() -> Self {
        Self { pins: 0, driven: 0, dir: 0, is: 0, ibe: 0, iev: 0, ie: 0, edges: 0, afsel: 0 }
    }

    /// Returns the level of the interrupt line.
    #[inline]
    pub const fn interrupt(&self) -> bool {
        self.raw() & self.ie != 0
    }

    /// Sets the level of a line from outside.
    pub const fn set(&mut self, line: u8, level: bool) {
        let bit = 1 << (line & 7);
        let before = self.pins;
        self.pins = if level { before | bit } else { before & !bit };
        let wanted = self.ibe | if level { self.iev } else { !self.iev };
        self.edges |= (before ^ self.pins) & wanted & !self.is & !self.dir;
    }

    /// Returns one whose lines are low without that anybody has seen them fall: that of a clone, at which nobody presses.
    pub const fn released(&self) -> Self {
        Self { pins: 0, ..*self }
    }

    const fn raw(&self) -> u8 {
        let levels = !(self.pins ^ self.iev) & self.is & !self.dir;
        self.edges | levels
    }

    /// Reads the register at `offset`. What is not a register reads as zero.
    pub const fn read(&self, offset: u64, size: AccessSize) -> u64 {
        let register = offset & !3;
        let value = match register {
            0..DATA_END => (self.pins & !self.dir | self.driven & self.dir) & (register >> 2) as u8,
            DIR => self.dir,
            IS => self.is,
            IBE => self.ibe,
            IEV => self.iev,
            IE => self.ie,
            RIS => self.raw(),
            MIS => self.raw() & self.ie,
            AFSEL => self.afsel,
            _ => 0,
        };
        let value = match primecell_id(0x061, 0, register) {
            Some(id) => id,
            None => value as u32,
        };
        part_of_word(value, offset, size)
    }

    /// Writes the register at `offset`.
    pub const fn write(&mut self, offset: u64, _size: AccessSize, value: u64) {
        let value = value as u8;
        match offset {
            0..DATA_END => {
                let lines = (offset >> 2) as u8;
                self.driven = self.driven & !lines | value & lines;
            }
            DIR => self.dir = value,
            IS => self.is = value,
            IBE => self.ibe = value,
            IEV => self.iev = value,
            IE => self.ie = value,
            IC => self.edges &= !value,
            AFSEL => self.afsel = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AccessSize::{Byte, Double, Half, Word};
    use super::*;
    use crate::exit::tests::{Random, rounds};

    const KEY: u64 = 1 << POWER_LINE;

    fn read(gpio: &Pl061, offset: u64) -> u64 {
        gpio.read(offset, Word)
    }

    /// As Linux' gpio-pl061 does for a line of which both edges interrupt.
    fn as_linux_does() -> Pl061 {
        let mut gpio = Pl061::new();
        gpio.write(IE, Byte, 0);
        gpio.write(IS, Byte, 0);
        gpio.write(IBE, Byte, KEY);
        gpio.write(IE, Byte, KEY);
        gpio
    }

    #[test]
    fn amba_drivers_recognise_it() {
        let id: Vec<u64> = (0..8).map(|n| read(&Pl061::new(), 0xfe0 + 4 * n)).collect();
        assert_eq!(id, [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn everything_is_an_input_and_masked_out_of_reset() {
        for offset in (0..0xfe0).step_by(4) {
            assert_eq!(read(&Pl061::new(), offset), 0, "{offset:#x}");
        }
    }

    #[test]
    fn a_press_of_the_key_interrupts_twice() {
        let mut gpio = as_linux_does();
        for level in [true, false] {
            gpio.set(POWER_LINE, level);
            assert!(gpio.interrupt());
            assert_eq!((read(&gpio, RIS), read(&gpio, MIS)), (KEY, KEY));
            assert_eq!(read(&gpio, KEY << 2) != 0, level);
            gpio.write(IC, Byte, KEY);
            assert!(!gpio.interrupt());
            gpio.set(POWER_LINE, level);
            assert!(!gpio.interrupt(), "nothing has changed");
        }
    }

    #[test]
    fn the_address_says_which_lines_are_read_and_written() {
        let mut gpio = Pl061::new();
        gpio.write(DIR, Word, 0xf0);
        gpio.write(0x098, Word, 0xfb);
        assert_eq!(read(&gpio, 0x3fc), 0x20, "DDI 0190 figure 3-1, of outputs alone");
        (0..4).for_each(|line| gpio.set(line, true));
        assert_eq!((read(&gpio, 0x3fc), read(&gpio, 0x0c4), read(&gpio, 0)), (0x2f, 0x21, 0));
        gpio.set(5, true);
        assert_eq!(read(&gpio, 0x3fc), 0x2f, "an output reads what it is driven to");
    }

    #[test]
    fn one_edge_interrupts_until_it_is_cleared() {
        let mut gpio = Pl061::new();
        gpio.write(IEV, Word, 1);
        gpio.set(0, true);
        gpio.set(0, false);
        gpio.set(1, true);
        assert_eq!((read(&gpio, RIS), read(&gpio, MIS), gpio.interrupt()), (1, 0, false), "line 1 has not fallen");
        gpio.set(1, false);
        gpio.write(IE, Word, 2);
        assert_eq!((read(&gpio, RIS), read(&gpio, MIS), gpio.interrupt()), (3, 2, true));
        gpio.write(IC, Word, 2);
        assert_eq!((read(&gpio, RIS), gpio.interrupt()), (1, false));
    }

    #[test]
    fn a_level_interrupts_for_as_long_as_it_is_there() {
        let mut gpio = Pl061::new();
        gpio.write(IS, Word, 1);
        gpio.write(IEV, Word, 1);
        gpio.write(IE, Word, 1);
        assert!(!gpio.interrupt());
        gpio.set(0, true);
        gpio.write(IC, Word, 1);
        assert!(gpio.interrupt(), "not to be cleared");
        gpio.set(0, false);
        assert!(!gpio.interrupt());
        gpio.write(IEV, Word, 0);
        assert!(gpio.interrupt(), "a low level");
        gpio.write(DIR, Word, 1);
        assert!(!gpio.interrupt(), "an output");
    }

    #[test]
    fn at_a_clone_nobody_presses() {
        let mut gpio = as_linux_does();
        gpio.set(POWER_LINE, true);
        gpio.write(IC, Byte, KEY);
        let clone = gpio.released();
        assert_eq!((clone.interrupt(), read(&clone, 0x3fc)), (false, 0));
    }

    #[test]
    fn random_accesses() {
        let mut random = Random(23);
        let mut gpio = Pl061::new();
        for _ in 0..rounds(200_000) {
            let size = [Byte, Half, Word, Double][random.below(4) as usize];
            let offset = if random.below(2) == 0 { random.below(0x424) } else { random.spread() };
            match random.below(3) {
                0 => gpio.write(offset, size, random.spread()),
                1 => gpio.set(random.next() as u8, random.below(2) == 0),
                _ => assert!(gpio.read(offset, size) <= 0xff),
            }
            assert_eq!(gpio.interrupt(), read(&gpio, MIS) != 0);
        }
    }
}
