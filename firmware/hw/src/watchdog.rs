//! The board's watchdog: found on the PCI bus while the map is the one that a program starts with, then driven by registers.
//!
//! Before: the device tree. After: [`salp_core::watchdog`], which knows what the registers do.

use crate::mmu;
use core::ops::Range;
use salp_board::facts::Pci;
use salp_core::addr::PAGE_SIZE;
use salp_core::pci::{self, Space, Width};
use salp_core::watchdog::{I6300ESB, I6300Esb, REGISTERS};

/// The board's watchdog.
pub type BoardWatchdog = I6300Esb<Mmio>;

/// Registers at their own address.
#[derive(Debug)]
pub struct Mmio {
    range: Range<u64>,
}

impl Mmio {
    /// Takes the registers at these addresses.
    ///
    /// # Safety
    ///
    /// They are a device's or nobody's, mapped as themselves as device memory, and nothing else drives them.
    const unsafe fn new(range: Range<u64>) -> Self {
        Self { range }
    }

    fn place(&self, at: u64, width: Width) -> Option<u64> {
        let size = match width {
            Width::Byte => 1,
            Width::Half => 2,
            Width::Word => 4,
        };
        let place = self.range.start.checked_add(at)?;
        (place.is_multiple_of(size) && place.checked_add(size)? <= self.range.end).then_some(place)
    }
}

impl Space for Mmio {
    fn read(&self, at: u64, width: Width) -> u32 {
        let Some(place) = self.place(at, width) else { return u32::MAX };
        // SAFETY: aligned, and inside the registers that `new` was promised.
        unsafe {
            match width {
                Width::Byte => (place as *const u8).read_volatile().into(),
                Width::Half => (place as *const u16).read_volatile().into(),
                Width::Word => (place as *const u32).read_volatile(),
            }
        }
    }

    fn write(&mut self, at: u64, width: Width, value: u32) {
        let Some(place) = self.place(at, width) else { return };
        // SAFETY: as above.
        unsafe {
            match width {
                Width::Byte => (place as *mut u8).write_volatile(value as u8),
                Width::Half => (place as *mut u16).write_volatile(value as u16),
                Width::Word => (place as *mut u32).write_volatile(value),
            }
        }
    }
}

/// Where a watchdog is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    config: u64,
    registers: u64,
}

impl Place {
    /// Finds the watchdog of a machine, and sees to it that its registers answer.
    ///
    /// # Safety
    ///
    /// The bus is from the device tree, nothing else drives it, and the map is the one that the program was started with.
    pub(crate) unsafe fn find(bus: &Pci) -> Option<Self> {
        let start = bus.ecam.start;
        // SAFETY: the caller's promise: these are registers.
        unsafe { mmu::map_gigabyte(start)? };
        // SAFETY: mapped just now; the rest is the caller's promise.
        let mut space = unsafe { Mmio::new(start..bus.ecam.end.min(start + pci::BUS)) };
        let function = pci::find(&space, I6300ESB)?;
        let registers = pci::place(&mut space, function, &bus.window, bus.window_on_bus, REGISTERS)?;
        Some(Self { config: start + function, registers })
    }

    /// Returns the pages in which it is.
    pub(crate) fn pages(self) -> [Range<u64>; 2] {
        [self.config, self.registers].map(|at| {
            let page = at / PAGE_SIZE * PAGE_SIZE;
            page..page + PAGE_SIZE
        })
    }

    /// Returns the watchdog.
    ///
    /// # Safety
    ///
    /// Its pages are mapped as themselves, and nothing else drives it.
    pub(crate) const unsafe fn drive(self) -> BoardWatchdog {
        // SAFETY: found there; the caller's promise.
        let [config, registers] = unsafe {
            [Mmio::new(self.config..self.config + pci::FUNCTION), Mmio::new(self.registers..self.registers + REGISTERS)]
        };
        I6300Esb::new(config, registers)
    }
}
