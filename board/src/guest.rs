//! The machine that a guest sees: the memory map of QEMU's `virt` board, written as a device tree.
//!
//! Whoever makes a boot set (the runner, the management guest) calls [`device_tree`]; EL2 emulates what it says. Every
//! device of `virt` with registers is one row of [`DEVICES`]; what `virt` lacks is how a guest learns who it is
//! (`salp_hvc::device`).

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use salp_hvc::bootset::{DRIVE, VIRTIO_BASE, VIRTIO_INTID, VIRTIO_SIZE};
use salp_hvc::device;
use vm_fdt::FdtWriter;

/// The guest physical address at which RAM starts.
pub const RAM_BASE: u64 = 0x4000_0000;

/// The greatest number of vCPUs: each is a CPU of one cluster (MPIDR Aff0).
pub const MAX_VCPUS: u32 = 8;

/// The greatest number of virtio devices: as many as `virt` has.
pub const MAX_VIRTIO: u32 = 32;

/// The distributor of the GICv3.
pub const GICD: Range<u64> = 0x0800_0000..0x0801_0000;

/// The region of the redistributors: 128 KiB for each vCPU, from its start.
pub const GICR: Range<u64> = 0x080A_0000..0x0900_0000;

/// An interrupt specifier's trigger: active high, level sensitive (binding `arm,gic-v3`).
const LEVEL_HIGH: u32 = 4;

/// An interrupt specifier's trigger: a rising edge.
const EDGE_RISING: u32 = 1;

/// The INTID of the first shared interrupt.
const FIRST_SPI: u32 = 32;

/// The private interrupts of the generic timer, in the order of binding `arm,armv8-timer`: secure physical, non-secure
/// physical, virtual, hypervisor. Numbers of PPIs: the INTID less 16.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
const PHANDLE_GPIO: u32 = 3;

/// The line of the GPIO controller that the power button is at.
const POWER_LINE: u32 = 3;

/// The key that a power button is to Linux (`linux/input-event-codes.h`).
const KEY_POWER: u32 = 116;

/// A device with registers.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// The node's name, without its unit address.
    pub name: &'static str,
    /// The `compatible` strings, most specific first.
    pub compatible: &'static [&'static str],
    /// Where its registers are.
    pub registers: Range64,
    /// Its shared interrupt, level sensitive: the INTID less 32.
    pub spi: u32,
    /// The names of its clocks, each the fixed 24 MHz clock.
    pub clocks: &'static [&'static str],
}

/// A start and a size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range64 {
    /// The first guest physical address.
    pub start: u64,
    /// How many bytes.
    pub size: u64,
}

/// The console, by its place in the tree.
pub const CONSOLE: &str = "/pl011@9000000";

/// Every device, in the order of the tree.
pub const DEVICES: [Device; 3] = [
    Device {
        name: "pl011",
        compatible: &["arm,pl011", "arm,primecell"],
        registers: Range64 { start: 0x0900_0000, size: 0x1000 },
        spi: 1,
        clocks: &["uartclk", "apb_pclk"],
    },
    Device {
        name: "pl031",
        compatible: &["arm,pl031", "arm,primecell"],
        registers: Range64 { start: 0x0901_0000, size: 0x1000 },
        spi: 2,
        clocks: &["apb_pclk"],
    },
    Device {
        name: "pl061",
        compatible: &["arm,pl061", "arm,primecell"],
        registers: Range64 { start: 0x0903_0000, size: 0x1000 },
        spi: 7,
        clocks: &["apb_pclk"],
    },
];

/// What differs from one guest to the next.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// How many vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// The amount of RAM from [`RAM_BASE`], in bytes.
    pub memory: u64,
    /// The boot arguments (`/chosen/bootargs`); empty for none.
    pub bootargs: &'a str,
    /// Where the initial RAM disk lies, as guest physical addresses.
    pub initrd: Option<Range<u64>>,
    /// How many virtio devices it has besides its drive: at most [`DRIVE`].
    pub virtio: u32,
}

/// The device tree could not be written.
#[derive(Debug, PartialEq, Eq)]
pub enum GuestError {
    /// The number of vCPUs is not 1 to [`MAX_VCPUS`].
    Vcpus(u32),
    /// A string has a NUL in it.
    Text,
    /// The writer refused.
    Writer(vm_fdt::Error),
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(count) => write!(f, "{count} vCPUs: a VM has 1 to {MAX_VCPUS}"),
            Self::Text => f.write_str("the boot arguments contain a NUL"),
            Self::Writer(error) => write!(f, "the device tree cannot be written: {error}"),
        }
    }
}

impl core::error::Error for GuestError {}

impl From<vm_fdt::Error> for GuestError {
    fn from(error: vm_fdt::Error) -> Self {
        match error {
            vm_fdt::Error::InvalidString => Self::Text,
            other => Self::Writer(other),
        }
    }
}

/// Writes the device tree of `guest` as a flattened blob (Devicetree Specification 0.4, section 5).
///
/// It holds nothing that must differ between two starts (no seeds): equal guests give equal bytes.
///
/// # Errors
///
/// [`GuestError`] if the number of vCPUs is out of range or the boot arguments contain a NUL.
pub fn device_tree(guest: &Guest<'_>) -> Result<Vec<u8>, GuestError> {
    if !(1..=MAX_VCPUS).contains(&guest.vcpus) {
        return Err(GuestError::Vcpus(guest.vcpus));
    }
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_string("model", "linux,dummy-virt")?;
    cells(&mut tree)?;
    tree.property_u32("interrupt-parent", PHANDLE_GIC)?;
    chosen(&mut tree, guest)?;

    let memory = tree.begin_node(&format!("memory@{RAM_BASE:x}"))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[RAM_BASE, guest.memory])?;
    tree.end_node(memory)?;

    cpus(&mut tree, guest.vcpus)?;
    psci(&mut tree)?;
    timer(&mut tree)?;
    gic(&mut tree)?;

    let clock = tree.begin_node("apb-pclk")?;
    tree.property_string("compatible", "fixed-clock")?;
    tree.property_u32("#clock-cells", 0)?;
    tree.property_u32("clock-frequency", 24_000_000)?;
    tree.property_string("clock-output-names", "clk24mhz")?;
    tree.property_phandle(PHANDLE_CLOCK)?;
    tree.end_node(clock)?;

    for device in &DEVICES {
        let node = tree.begin_node(&format!("{}@{:x}", device.name, device.registers.start))?;
        tree.property_string_list("compatible", owned(device.compatible))?;
        tree.property_array_u64("reg", &[device.registers.start, device.registers.size])?;
        tree.property_array_u32("interrupts", &[0, device.spi, LEVEL_HIGH])?;
        tree.property_array_u32("clocks", &[PHANDLE_CLOCK; 2][..device.clocks.len().min(2)])?;
        tree.property_string_list("clock-names", owned(device.clocks))?;
        if device.name == "pl061" {
            tree.property_u32("#gpio-cells", 2)?;
            tree.property_null("gpio-controller")?;
            tree.property_phandle(PHANDLE_GPIO)?;
        }
        tree.end_node(node)?;
    }
    power_button(&mut tree)?;
    identity(&mut tree)?;
    virtio(&mut tree, guest.virtio)?;
    tree.end_node(root)?;
    Ok(tree.finish()?)
}

fn chosen(tree: &mut FdtWriter, guest: &Guest<'_>) -> Result<(), GuestError> {
    let node = tree.begin_node("chosen")?;
    if !guest.bootargs.is_empty() {
        tree.property_string("bootargs", guest.bootargs)?;
    }
    tree.property_string("stdout-path", CONSOLE)?;
    if let Some(initrd) = &guest.initrd {
        tree.property_u64("linux,initrd-start", initrd.start)?;
        tree.property_u64("linux,initrd-end", initrd.end)?;
    }
    tree.end_node(node)?;
    Ok(())
}

fn cpus(tree: &mut FdtWriter, count: u32) -> Result<(), GuestError> {
    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for index in 0..count {
        let node = tree.begin_node(&format!("cpu@{index:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u32("reg", index)?;
        tree.end_node(node)?;
    }
    tree.end_node(cpus)?;
    Ok(())
}

/// Writes the PSCI node; function ids are for clients that know version 0.1 only (DEN0022F, section 5.2).
fn psci(tree: &mut FdtWriter) -> Result<(), GuestError> {
    let node = tree.begin_node("psci")?;
    tree.property_string_list("compatible", owned(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]))?;
    tree.property_string("method", "hvc")?;
    tree.property_u32("cpu_suspend", 0xc400_0001)?;
    tree.property_u32("cpu_off", 0x8400_0002)?;
    tree.property_u32("cpu_on", 0xc400_0003)?;
    tree.end_node(node)?;
    Ok(())
}

fn timer(tree: &mut FdtWriter) -> Result<(), GuestError> {
    let node = tree.begin_node("timer")?;
    tree.property_string_list("compatible", owned(&["arm,armv8-timer", "arm,armv7-timer"]))?;
    tree.property_null("always-on")?;
    let interrupts: Vec<u32> = TIMER_PPIS.iter().flat_map(|&ppi| [1, ppi, LEVEL_HIGH]).collect();
    tree.property_array_u32("interrupts", &interrupts)?;
    tree.end_node(node)?;
    Ok(())
}

fn gic(tree: &mut FdtWriter) -> Result<(), GuestError> {
    let node = tree.begin_node(&format!("intc@{:x}", GICD.start))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_null("interrupt-controller")?;
    cells(tree)?;
    tree.property_null("ranges")?;
    tree.property_u32("#redistributor-regions", 1)?;
    tree.property_array_u64("reg", &[GICD.start, GICD.end - GICD.start, GICR.start, GICR.end - GICR.start])?;
    tree.property_phandle(PHANDLE_GIC)?;
    tree.end_node(node)?;
    Ok(())
}

/// Writes the nodes by which a guest learns who it is: the registers, and the VM generation id by binding
/// `microsoft,vmgenid`, whose page is no memory to the guest.
fn identity(tree: &mut FdtWriter) -> Result<(), GuestError> {
    let registers = tree.begin_node(&format!("salp@{:x}", device::BASE))?;
    tree.property_string("compatible", device::COMPATIBLE)?;
    tree.property_array_u64("reg", &[device::BASE, device::SIZE])?;
    tree.end_node(registers)?;

    let generation = tree.begin_node(&format!("rng@{:x}", device::GENERATION_PAGE))?;
    tree.property_string("compatible", "microsoft,vmgenid")?;
    tree.property_array_u64("reg", &[device::GENERATION_PAGE, 0x1000])?;
    tree.property_array_u32("interrupts", &[0, device::GENERATION_INTID - FIRST_SPI, EDGE_RISING])?;
    tree.end_node(generation)?;
    Ok(())
}

/// Writes the node of the power button (binding `gpio-keys`).
fn power_button(tree: &mut FdtWriter) -> Result<(), GuestError> {
    let keys = tree.begin_node("gpio-keys")?;
    tree.property_string("compatible", "gpio-keys")?;
    let button = tree.begin_node("poweroff")?;
    tree.property_string("label", "GPIO Key Poweroff")?;
    tree.property_u32("linux,code", KEY_POWER)?;
    tree.property_array_u32("gpios", &[PHANDLE_GPIO, POWER_LINE, 0])?;
    tree.end_node(button)?;
    tree.end_node(keys)?;
    Ok(())
}

/// Writes the nodes of virtio devices, as on `virt`; the last one is the drive.
fn virtio(tree: &mut FdtWriter, count: u32) -> Result<(), GuestError> {
    for index in (0..count.min(DRIVE)).chain([DRIVE]) {
        let at = VIRTIO_BASE + u64::from(index) * VIRTIO_SIZE;
        let node = tree.begin_node(&format!("virtio_mmio@{at:x}"))?;
        tree.property_string("compatible", "virtio,mmio")?;
        tree.property_array_u64("reg", &[at, VIRTIO_SIZE])?;
        tree.property_array_u32("interrupts", &[0, VIRTIO_INTID - FIRST_SPI + index, EDGE_RISING])?;
        tree.property_null("dma-coherent")?;
        tree.end_node(node)?;
    }
    Ok(())
}

fn cells(tree: &mut FdtWriter) -> Result<(), GuestError> {
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    Ok(())
}

fn owned(strings: &[&str]) -> Vec<String> {
    strings.iter().map(|&string| String::from(string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Board, Interrupt, Trigger};
    use fdt::Fdt;

    fn tree(guest: &Guest<'_>) -> Vec<u8> {
        device_tree(guest).expect("a device tree")
    }

    #[test]
    fn a_guest_reads_back_what_it_was_given() {
        let initrd = 0x4800_0000..0x4812_3456;
        let guest = Guest {
            vcpus: 4,
            memory: 8 << 30,
            bootargs: "console=ttyAMA0 -- x",
            initrd: Some(initrd.clone()),
            virtio: 0,
        };
        let blob = tree(&guest);
        let fdt = Fdt::new(&blob).expect("readable");
        assert_eq!(fdt.chosen().bootargs(), Some("console=ttyAMA0 -- x"));
        assert_eq!(fdt.chosen().stdout().map(|node| node.name), Some("pl011@9000000"));
        let region = fdt.memory().regions().next().expect("memory");
        assert_eq!((region.starting_address as u64, region.size), (RAM_BASE, Some(8 << 30)));
        let ids: Vec<usize> = fdt.cpus().map(|cpu| cpu.ids().first()).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        let board = Board::from_device_tree(&blob).expect("a machine that our own reader understands");
        assert_eq!(board.boot_set, Some(initrd));
        assert_eq!(board.uart.interrupt, Interrupt { id: 33, trigger: Trigger::Level });
        assert_eq!((board.gic.distributor, board.gic.redistributors), (GICD, GICR));
        assert_eq!(board.rtc, Some(0x0901_0000));
    }

    #[test]
    fn timers_are_the_private_interrupts_of_the_virt_board() {
        let blob = tree(&Guest { vcpus: 1, memory: 16 << 20, bootargs: "", initrd: None, virtio: 0 });
        let fdt = Fdt::new(&blob).expect("readable");
        let timer = fdt.find_compatible(&["arm,armv8-timer"]).expect("a timer");
        let cells: Vec<u8> = timer.property("interrupts").expect("interrupts").value.to_vec();
        let words: Vec<u8> = cells.chunks(4).map(|word| word[3]).collect();
        assert_eq!(words, [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
        assert_eq!(fdt.chosen().bootargs(), None);
    }

    #[test]
    fn a_guest_finds_where_it_learns_who_it_is() {
        let blob = tree(&Guest { vcpus: 1, memory: 16 << 20, bootargs: "", initrd: None, virtio: 0 });
        let fdt = Fdt::new(&blob).expect("readable");
        let place = |name| {
            let region = fdt.find_compatible(&[name])?.reg()?.next()?;
            Some((region.starting_address as u64, region.size?))
        };
        assert_eq!(place("salp,guest-1"), Some((0x090c_0000, 0x1000)));
        assert_eq!(place("microsoft,vmgenid"), Some((0x3fff_f000, 0x1000)));
        let generation = fdt.find_node("/rng@3ffff000").expect("a node");
        let interrupt = generation.property("interrupts").expect("interrupts").value;
        assert_eq!(interrupt, [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1], "SPI 3, rising edge");
        assert!(DEVICES.iter().all(|device| device.spi != 3));
    }

    #[test]
    fn the_power_button_is_where_virt_has_it() {
        let blob = tree(&Guest { vcpus: 1, memory: 16 << 20, bootargs: "", initrd: None, virtio: 0 });
        let fdt = Fdt::new(&blob).expect("readable");
        let property = |node, name| fdt.find_node(node)?.property(name).map(|property| property.value.to_vec());
        let interrupts = property("/pl061@9030000", "interrupts").expect("interrupts");
        assert_eq!(interrupts, [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4]);
        let gpios = property("/gpio-keys/poweroff", "gpios").expect("a line");
        assert_eq!(Some(&gpios[..4]), property("/pl061@9030000", "phandle").as_deref());
        assert_eq!(gpios[4..], [0, 0, 0, 3, 0, 0, 0, 0], "line 3, high when pressed");
        assert_eq!(property("/gpio-keys/poweroff", "linux,code").expect("a key"), [0, 0, 0, 116]);
    }

    #[test]
    fn virtio_devices_are_where_virt_has_them() {
        let blob = tree(&Guest { vcpus: 1, memory: 16 << 20, bootargs: "", initrd: None, virtio: 2 });
        let fdt = Fdt::new(&blob).expect("readable");
        let second = fdt.find_node("/virtio_mmio@a000200").expect("a node");
        assert_eq!(second.property("interrupts").expect("interrupts").value, [0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 1]);
        assert!(fdt.find_node("/virtio_mmio@a000400").is_none());
        assert!(fdt.find_node("/virtio_mmio@a000800").is_some(), "the drive");
    }

    #[test]
    fn redistributors_of_all_vcpus_fit_and_no_two_devices_overlap() {
        assert!(GICR.start + u64::from(MAX_VCPUS) * 0x2_0000 <= GICR.end);
        let mut ranges: Vec<Range<u64>> = DEVICES
            .iter()
            .map(|device| device.registers.start..device.registers.start + device.registers.size)
            .collect();
        ranges.extend([GICD, GICR, device::BASE..device::BASE + device::SIZE]);
        ranges.push(VIRTIO_BASE..VIRTIO_BASE + u64::from(MAX_VIRTIO) * VIRTIO_SIZE);
        ranges.push(device::GENERATION_PAGE..device::GENERATION_PAGE + 0x1000);
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(ranges.last().is_some_and(|last| last.end <= RAM_BASE));
    }

    #[test]
    fn what_a_guest_cannot_have_is_refused() {
        let guest = Guest { vcpus: 9, memory: 1 << 30, bootargs: "", initrd: None, virtio: 0 };
        assert_eq!(device_tree(&guest), Err(GuestError::Vcpus(9)));
        let guest = Guest { vcpus: 1, memory: 1 << 30, bootargs: "a\0b", initrd: None, virtio: 0 };
        assert_eq!(device_tree(&guest), Err(GuestError::Text));
    }
}
