//! The machine's own PCI bus, as far as EL2 needs a device on it: found by its identifiers, its registers given a place.
//!
//! Before: the device tree, and `salp_hw::mmio`, which reads and writes. After: [`crate::watchdog`].
//!
//! Only bus 0 is looked at, and only what a boot loader has not done is done. Crates for this access configuration space by words;
//! what EL2 drives there hears half-words and bytes.

use core::ops::Range;
use tock_registers::register_bitfields;

/// How many bits are read or written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8.
    Byte,
    /// 16.
    Half,
    /// 32.
    Word,
}

/// Registers by their offset: a device's, or configuration space.
pub trait Space {
    /// Reads a register. What is not there reads as ones.
    fn read(&self, at: u64, width: Width) -> u32;

    /// Writes a register.
    fn write(&mut self, at: u64, width: Width, value: u32);
}

register_bitfields! {u32,
    /// Command (PCI Local Bus Specification 3.0, 6.2.2).
    COMMAND [MEMORY OFFSET(1) NUMBITS(1) []],
    /// Header type (6.2.1).
    HEADER [MULTIPLE OFFSET(7) NUMBITS(1) []],
    /// A base address (6.2.5.1).
    BAR [IO OFFSET(0) NUMBITS(1) [], ADDRESS OFFSET(4) NUMBITS(28) []]
}

const ID: u64 = 0x00;
const COMMAND: u64 = 0x04;
const HEADER: u64 = 0x0e;
const BAR0: u64 = 0x10;

const DEVICES: u64 = 32;
const FUNCTIONS: u64 = 8;

/// The size of a function's configuration space, in bytes.
pub const FUNCTION: u64 = 0x1000;

/// The size of a bus's configuration space, in bytes.
pub const BUS: u64 = DEVICES * FUNCTIONS * FUNCTION;

/// Finds the function with this identifier (device, vendor) on a bus. Returns where its configuration space is.
pub fn find(bus: &impl Space, id: u32) -> Option<u64> {
    let devices = (0..DEVICES).map(|device| device * FUNCTIONS * FUNCTION);
    devices.filter(|&first| bus.read(first + ID, Width::Word) != u32::MAX).find_map(|first| {
        let has_more = bus.read(first + HEADER, Width::Byte) & HEADER::MULTIPLE::SET.value != 0;
        let mut functions = (0..if has_more { FUNCTIONS } else { 1 }).map(|function| first + function * FUNCTION);
        functions.find(|&function| bus.read(function + ID, Width::Word) == id)
    })
}

/// Sees to it that the first registers of a function, `size` bytes, are in this window, which the bus calls `on_bus`, and answer:
/// at its start, unless they have a place there. Returns where they are.
pub fn place(bus: &mut impl Space, function: u64, window: &Range<u64>, on_bus: u64, size: u64) -> Option<u64> {
    let bar = bus.read(function + BAR0, Width::Word);
    if bar & BAR::IO::SET.value != 0 {
        return None;
    }
    let address = bar & BAR::ADDRESS::SET.value;
    let offset = u64::from(address).checked_sub(on_bus).filter(|_| address != 0);
    let is_inside = |offset: &u64| window.start + offset + size <= window.end;
    let offset = offset.filter(is_inside).or_else(|| {
        bus.write(function + BAR0, Width::Word, u32::try_from(on_bus).ok()?);
        Some(0).filter(is_inside)
    })?;
    let command = bus.read(function + COMMAND, Width::Half);
    bus.write(function + COMMAND, Width::Half, command | COMMAND::MEMORY::SET.value);
    Some(window.start + offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const WANTED: u32 = 0x25ab_8086;
    const WINDOW: Range<u64> = 0x1000_0000..0x1001_0000;

    /// Configuration space: words that were set, and ones.
    #[derive(Default)]
    struct Bus(BTreeMap<u64, u32>);

    impl Space for Bus {
        fn read(&self, at: u64, width: Width) -> u32 {
            let word = self.0.get(&(at & !3)).copied().unwrap_or(u32::MAX) >> (8 * (at & 3));
            match width {
                Width::Byte => word & 0xff,
                Width::Half => word & 0xffff,
                Width::Word => word,
            }
        }

        fn write(&mut self, at: u64, _: Width, value: u32) {
            self.0.insert(at, value);
        }
    }

    impl Bus {
        fn with(mut self, function: u64, id: u32, header: u32) -> Self {
            for (at, value) in [(ID, id), (COMMAND, 0), (HEADER & !3, header << 16), (BAR0, 0)] {
                self.write(function + at, Width::Word, value);
            }
            self
        }
    }

    #[test]
    fn a_device_is_found_wherever_it_is_on_the_bus() {
        for device in 0..DEVICES {
            let at = device * FUNCTIONS * FUNCTION;
            assert_eq!(find(&Bus::default().with(at, WANTED, 0), WANTED), Some(at));
        }
        assert_eq!(find(&Bus::default(), WANTED), None);
    }

    #[test]
    fn a_later_function_is_found_on_devices_that_say_that_they_have_some() {
        let (first, later) = (29 * FUNCTIONS * FUNCTION, (29 * FUNCTIONS + 4) * FUNCTION);
        assert_eq!(find(&Bus::default().with(first, 1, 0x80).with(later, WANTED, 0), WANTED), Some(later));
        assert_eq!(find(&Bus::default().with(first, 1, 0).with(later, WANTED, 0), WANTED), None);
    }

    #[test]
    fn registers_without_a_place_come_to_the_start_of_the_window() {
        let mut bus = Bus::default().with(0, WANTED, 0);
        assert_eq!(place(&mut bus, 0, &WINDOW, 0x2000_0000, 16), Some(WINDOW.start));
        assert_eq!((bus.0[&BAR0], bus.0[&COMMAND]), (0x2000_0000, 2));
    }

    #[test]
    fn registers_that_have_a_place_stay_there() {
        let mut bus = Bus::default().with(0, WANTED, 0);
        bus.write(BAR0, Width::Word, 0x2000_0ff0);
        assert_eq!(place(&mut bus, 0, &WINDOW, 0x2000_0000, 16), Some(WINDOW.start + 0xff0));
        assert_eq!((bus.0[&BAR0], bus.0[&COMMAND]), (0x2000_0ff0, 2));
    }

    #[test]
    fn registers_outside_of_the_window_come_into_it() {
        for before in [0x1fff_fff0, 0x2001_0000] {
            let mut bus = Bus::default().with(0, WANTED, 0);
            bus.write(BAR0, Width::Word, before);
            assert_eq!(place(&mut bus, 0, &WINDOW, 0x2000_0000, 16), Some(WINDOW.start));
        }
    }

    #[test]
    fn registers_that_are_ports_are_not_driven() {
        let mut bus = Bus::default().with(0, WANTED, 0);
        bus.write(BAR0, Width::Word, 1);
        assert_eq!(place(&mut bus, 0, &WINDOW, 0x2000_0000, 16), None);
        assert_eq!(bus.0[&COMMAND], 0);
    }
}
