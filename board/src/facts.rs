//! The device tree of the machine, read once into plain facts (Devicetree Specification 0.4, Linux bindings).

use core::fmt;
use core::ops::Range;
use fdt::Fdt;
use fdt::node::FdtNode;
use heapless::Vec;

/// The greatest number of CPUs that EL2 drives.
pub const MAX_CPUS: usize = 8;

/// The greatest number of banks of RAM.
pub const MAX_BANKS: usize = 8;

/// The greatest number of reserved ranges.
pub const MAX_RESERVED: usize = 16;

/// The greatest number of virtio devices that EL2 looks at.
pub const MAX_VIRTIO: usize = 32;

/// The greatest number of names of a board.
pub const MAX_MODELS: usize = 4;

/// A range of physical addresses, in bytes.
pub type PhysRange = Range<u64>;

/// What EL2 knows of the machine that it runs on.
#[derive(Clone, Debug)]
pub struct Board<'a> {
    /// What the board is called, the most precise name first (`compatible` of the root).
    pub models: Vec<&'a str, MAX_MODELS>,
    /// RAM, by bank.
    pub ram: Vec<PhysRange, MAX_BANKS>,
    /// Ranges of RAM that belong to somebody else: `/reserved-memory` and the memory reservation block.
    pub reserved: Vec<PhysRange, MAX_RESERVED>,
    /// MPIDR affinity of each CPU, in the order of the tree.
    pub cpus: Vec<u64, MAX_CPUS>,
    /// How many CPUs the tree names beyond [`MAX_CPUS`].
    pub cpus_left_out: usize,
    /// The GICv3.
    pub gic: Gic,
    /// The console.
    pub uart: Uart,
    /// Where the boot loader put the boot set (`linux,initrd-start` and `-end`), if it gave one.
    pub boot_set: Option<PhysRange>,
    /// The options that the machine was started with (`bootargs`).
    pub options: &'a str,
    /// Random bytes from the boot loader (`rng-seed`), empty if it gave none.
    pub seed: &'a [u8],
    /// Wall-clock time of the machine: a PL031, if there is one.
    pub rtc: Option<u64>,
    /// Places of virtio devices, in the order of the tree. Most are empty on a board that has a place for each device
    /// that it might get: the registers say.
    pub virtio: Vec<Virtio, MAX_VIRTIO>,
    /// The first bank of NOR flash (binding `cfi-flash`), 32 bits wide, if there is one.
    pub flash: Option<PhysRange>,
    /// The PCI bus, if there is one.
    pub pci: Option<Pci>,
}

/// Where a PCI bus is (binding `pci-host-ecam-generic`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci {
    /// Its configuration space.
    pub ecam: PhysRange,
    /// Where its devices' registers can be: the window of memory with addresses of 32 bits, not prefetchable.
    pub window: PhysRange,
    /// What the start of the window is called on the bus.
    pub window_on_bus: u64,
}

/// Where the interrupt controller is (binding `arm,gic-v3`).
#[derive(Clone, Debug)]
pub struct Gic {
    /// The distributor.
    pub distributor: PhysRange,
    /// The redistributors, one contiguous region.
    pub redistributors: PhysRange,
}

/// Where the console is (binding `arm,pl011`).
#[derive(Clone, Debug)]
pub struct Uart {
    /// Its registers.
    pub registers: PhysRange,
    /// Its interrupt.
    pub interrupt: Interrupt,
}

/// A place of a virtio device (binding `virtio,mmio`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Virtio {
    /// Its registers.
    pub registers: PhysRange,
    /// Its interrupt.
    pub interrupt: Interrupt,
}

/// A shared interrupt (SPI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its INTID.
    pub id: u32,
    /// When it is pending.
    pub trigger: Trigger,
}

/// When an interrupt is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// From the moment that its line rises.
    Edge,
    /// While its line is high.
    Level,
}

/// Why the device tree is not enough to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardError {
    /// It is not a device tree.
    NotADeviceTree,
    /// A node is missing or its properties make no sense: what was looked for.
    Missing(&'static str),
    /// There are more of something than EL2 has room for: of what.
    TooMany(&'static str),
}

impl fmt::Display for BoardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADeviceTree => f.write_str("x0 does not point to a device tree"),
            Self::Missing(what) => write!(f, "the device tree names no usable {what}"),
            Self::TooMany(what) => write!(f, "the device tree names too many {what}"),
        }
    }
}

impl<'a> Board<'a> {
    /// Reads the facts out of a flattened device tree.
    ///
    /// # Errors
    ///
    /// [`BoardError`] says what is missing. Nothing is guessed: a machine without a GICv3 or a PL011 is refused.
    pub fn from_device_tree(blob: &'a [u8]) -> Result<Self, BoardError> {
        let tree = Fdt::new(blob).map_err(|_| BoardError::NotADeviceTree)?;
        let mut found = Found::default();
        for reservation in tree.memory_reservations() {
            let start = reservation.address() as u64;
            push_range(&mut found.reserved, start, reservation.size() as u64, "memory reservations")?;
        }
        let root = tree.find_node("/").ok_or(BoardError::Missing("root node"))?;
        if let Some(names) = root.compatible() {
            // Those for which there is no room say less and less.
            found.models.extend(names.all().take(MAX_MODELS));
        }
        for node in root.children() {
            found.visit(node)?;
        }
        if found.ram.is_empty() {
            return Err(BoardError::Missing("memory"));
        }
        Ok(Self {
            models: found.models,
            ram: found.ram,
            reserved: found.reserved,
            cpus: found.cpus,
            cpus_left_out: found.cpus_left_out,
            gic: found.gic.ok_or(BoardError::Missing("GICv3 (arm,gic-v3)"))?,
            uart: found.uart.ok_or(BoardError::Missing("console (arm,pl011)"))?,
            boot_set: found.boot_set,
            options: found.options,
            seed: found.seed,
            rtc: found.rtc,
            virtio: found.virtio,
            flash: found.flash,
            pci: found.pci,
        })
    }

    /// Returns the value of `name=value` among the options.
    pub fn option(&self, name: &str) -> Option<&'a str> {
        self.options.split_ascii_whitespace().find_map(|word| match word.split_once('=') {
            Some((key, value)) if key == name => Some(value),
            _ => None,
        })
    }
}

#[derive(Default)]
struct Found<'a> {
    models: Vec<&'a str, MAX_MODELS>,
    ram: Vec<PhysRange, MAX_BANKS>,
    reserved: Vec<PhysRange, MAX_RESERVED>,
    cpus: Vec<u64, MAX_CPUS>,
    cpus_left_out: usize,
    gic: Option<Gic>,
    uart: Option<Uart>,
    boot_set: Option<PhysRange>,
    options: &'a str,
    seed: &'a [u8],
    rtc: Option<u64>,
    virtio: Vec<Virtio, MAX_VIRTIO>,
    flash: Option<PhysRange>,
    pci: Option<Pci>,
}

impl<'a> Found<'a> {
    fn visit(&mut self, node: FdtNode<'_, 'a>) -> Result<(), BoardError> {
        match node.name.split('@').next().unwrap_or_default() {
            "memory" => {
                for (start, size) in ranges(node) {
                    push_range(&mut self.ram, start, size, "banks of memory")?;
                }
            }
            "reserved-memory" => {
                for child in node.children() {
                    for (start, size) in ranges(child) {
                        push_range(&mut self.reserved, start, size, "reserved ranges")?;
                    }
                }
            }
            "cpus" => node.children().for_each(|cpu| self.visit_cpu(cpu)),
            "chosen" => self.visit_chosen(node),
            _ => self.visit_device(node),
        }
        Ok(())
    }

    fn visit_cpu(&mut self, node: FdtNode<'_, 'a>) {
        if !node.name.starts_with("cpu@") {
            return;
        }
        if let Some(id) = node.property("reg").and_then(|reg| integer(reg.value))
            && self.cpus.push(id).is_err()
        {
            self.cpus_left_out += 1;
        }
    }

    fn visit_chosen(&mut self, node: FdtNode<'_, 'a>) {
        let mut start = None;
        let mut end = None;
        for property in node.properties() {
            match property.name {
                "bootargs" => self.options = property.as_str().unwrap_or_default(),
                "rng-seed" => self.seed = property.value,
                "linux,initrd-start" => start = integer(property.value),
                "linux,initrd-end" => end = integer(property.value),
                _ => {}
            }
        }
        if let (Some(start), Some(end)) = (start, end)
            && start < end
        {
            self.boot_set = Some(start..end);
        }
    }

    fn visit_device(&mut self, node: FdtNode<'_, 'a>) {
        let Some(compatible) = node.compatible() else { return };
        let is = |name: &str| compatible.all().any(|one| one == name);
        if self.gic.is_none() && is("arm,gic-v3") {
            let mut ranges = ranges(node);
            if let (Some(distributor), Some(redistributors)) = (ranges.next(), ranges.next()) {
                self.gic = to_range(distributor)
                    .zip(to_range(redistributors))
                    .map(|(distributor, redistributors)| Gic { distributor, redistributors });
            }
        } else if self.uart.is_none() && is("arm,pl011") {
            let registers = ranges(node).next().and_then(to_range);
            let interrupt = node.property("interrupts").and_then(|property| spi(property.value));
            self.uart = registers.zip(interrupt).map(|(registers, interrupt)| Uart { registers, interrupt });
        } else if self.rtc.is_none() && is("arm,pl031") {
            self.rtc = ranges(node).next().map(|(start, _)| start);
        } else if self.flash.is_none() && is("cfi-flash") {
            const WIDTH: u64 = 4;
            let width = node.property("bank-width").and_then(|width| integer(width.value));
            self.flash = ranges(node).next().and_then(to_range).filter(|_| width == Some(WIDTH));
        } else if self.pci.is_none() && is("pci-host-ecam-generic") {
            self.pci = pci(node);
        } else if is("virtio,mmio") {
            let registers = ranges(node).next().and_then(to_range);
            let interrupt = node.property("interrupts").and_then(|property| spi(property.value));
            if let Some((registers, interrupt)) = registers.zip(interrupt) {
                // EL2 can do without those for which there is no room.
                let _ = self.virtio.push(Virtio { registers, interrupt });
            }
        }
    }
}

/// Returns the (address, size) pairs of `reg`, in bytes.
fn ranges<'a>(node: FdtNode<'_, 'a>) -> impl Iterator<Item = (u64, u64)> + use<'a> {
    node.raw_reg()
        .into_iter()
        .flatten()
        .filter_map(|reg| Some((integer(reg.address)?, if reg.size.is_empty() { 0 } else { integer(reg.size)? })))
}

/// Reads a PCI bus. An address of its children has three cells (IEEE Std 1275, PCI Bus Binding): flags, then 64 bits.
fn pci(node: FdtNode<'_, '_>) -> Option<Pci> {
    const CHILD: usize = 12;
    const SIZE: usize = 8;
    const FLAGS: u64 = 0x4300_0000;
    const MEMORY: u64 = 0x0200_0000;
    let cells = node.raw_reg()?.next()?.address.len();
    let ecam = ranges(node).next().and_then(to_range)?;
    node.property("ranges")?.value.chunks_exact(CHILD + cells + SIZE).find_map(|row| {
        let (flags, address) = row.get(..CHILD)?.split_at(4);
        let (window, size) = row.get(CHILD..)?.split_at(cells);
        let window = to_range((integer(window)?, integer(size)?))?;
        let is_memory = integer(flags)? & FLAGS == MEMORY;
        is_memory.then_some(Pci { ecam: ecam.clone(), window, window_on_bus: integer(address)? })
    })
}

fn to_range((start, size): (u64, u64)) -> Option<PhysRange> {
    Some(start..start.checked_add(size)?)
}

fn push_range<const N: usize>(
    list: &mut Vec<PhysRange, N>,
    start: u64,
    size: u64,
    what: &'static str,
) -> Result<(), BoardError> {
    match to_range((start, size)) {
        Some(range) if !range.is_empty() => list.push(range).map_err(|_| BoardError::TooMany(what)),
        Some(_) => Ok(()),
        None => Err(BoardError::Missing(what)),
    }
}

/// Reads a big-endian integer of one or two cells.
fn integer(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 | 8 => Some(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))),
        _ => None,
    }
}

/// Reads a GIC interrupt specifier (type, number, flags) of an SPI.
fn spi(bytes: &[u8]) -> Option<Interrupt> {
    /// Rising and falling edge among the flags.
    const EDGES: u64 = 0b0011;
    let kind = integer(bytes.get(..4)?)?;
    let number = integer(bytes.get(4..8)?)?;
    let flags = integer(bytes.get(8..12)?)?;
    let trigger = if flags & EDGES != 0 { Trigger::Edge } else { Trigger::Level };
    (kind == 0 && number < 988).then(|| Interrupt { id: number as u32 + 32, trigger })
}

#[cfg(all(test, feature = "guest"))]
mod tests {
    extern crate alloc;

    use super::*;
    use alloc::format;
    use vm_fdt::FdtWriter;

    /// Returns the tree of a machine with virtio devices, by `reg` and `interrupts`.
    fn tree(devices: &[(&[u32], &[u32])]) -> alloc::vec::Vec<u8> {
        tree_with(devices, &[])
    }

    /// Returns the tree of a machine with these virtio devices, and a PCI bus with these `ranges`.
    fn tree_with(devices: &[(&[u32], &[u32])], windows: &[u32]) -> alloc::vec::Vec<u8> {
        let write = || {
            let mut tree = FdtWriter::new()?;
            let root = tree.begin_node("")?;
            tree.property_u32("#address-cells", 1)?;
            tree.property_u32("#size-cells", 1)?;
            let nodes: [(&str, &str, &[u32], &[u32]); 3] = [
                ("memory", "memory", &[0x4000_0000, 0x1000_0000], &[]),
                ("intc", "arm,gic-v3", &[0x800_0000, 0x1_0000, 0x80a_0000, 0x10_0000], &[]),
                ("pl011", "arm,pl011", &[0x900_0000, 0x1000], &[0, 1, 4]),
            ];
            let devices = devices.iter().map(|&(reg, interrupts)| ("virtio_mmio", "virtio,mmio", reg, interrupts));
            for (index, (name, compatible, reg, interrupts)) in nodes.into_iter().chain(devices).enumerate() {
                let node = tree.begin_node(&format!("{name}@{index}"))?;
                tree.property_string("compatible", compatible)?;
                tree.property_array_u32("reg", reg)?;
                tree.property_array_u32("interrupts", interrupts)?;
                tree.end_node(node)?;
            }
            let pcie = tree.begin_node("pcie@10000000")?;
            tree.property_string("compatible", "pci-host-ecam-generic")?;
            tree.property_array_u32("reg", &[0x3f00_0000, 0x100_0000])?;
            tree.property_array_u32("ranges", windows)?;
            tree.end_node(pcie)?;
            tree.end_node(root)?;
            tree.finish()
        };
        write().expect("a device tree")
    }

    #[test]
    fn virtio_devices_are_known_by_their_registers_and_interrupt() {
        let blob = tree(&[(&[0xa00_0000, 0x200], &[0, 16, 1]), (&[0xa00_0200, 0x200], &[0, 17, 4])]);
        let board = Board::from_device_tree(&blob).expect("a machine");
        let place =
            |start, id, trigger| Virtio { registers: start..start + 0x200, interrupt: Interrupt { id, trigger } };
        assert_eq!(board.virtio, [place(0xa00_0000, 48, Trigger::Edge), place(0xa00_0200, 49, Trigger::Level)]);
    }

    #[test]
    fn virtio_devices_that_make_no_sense_are_left_out() {
        let blob = tree(&[(&[0xa00_0000], &[0, 16, 1]), (&[0xa00_0200, 0x200], &[1, 17, 4]), (&[], &[])]);
        assert!(Board::from_device_tree(&blob).expect("a machine").virtio.is_empty());
    }

    #[test]
    fn virtio_devices_beyond_those_that_there_is_room_for_are_left_out() {
        let device: (&[u32], &[u32]) = (&[0xa00_0000, 0x200], &[0, 16, 1]);
        let blob = tree(&[device; MAX_VIRTIO + 1]);
        assert_eq!(Board::from_device_tree(&blob).expect("a machine").virtio.len(), MAX_VIRTIO);
    }

    #[test]
    fn a_pci_bus_is_known_by_its_configuration_space_and_its_window_of_memory() {
        let ports = [0x0100_0000, 0, 0, 0x3eff_0000, 0, 0x1_0000];
        let prefetchable = [0x4200_0000, 0, 0x8000_0000, 0x8000_0000, 0, 0x1000];
        let memory = [0x0200_0000, 0, 0x2000_0000, 0x1000_0000, 0, 0x2eff_0000];
        let blob = tree_with(&[], &[ports, prefetchable, memory].concat());
        let pci = Pci { ecam: 0x3f00_0000..0x4000_0000, window: 0x1000_0000..0x3eff_0000, window_on_bus: 0x2000_0000 };
        assert_eq!(Board::from_device_tree(&blob).expect("a machine").pci, Some(pci));
    }

    #[test]
    fn a_pci_bus_without_a_window_of_memory_is_left_out() {
        let blob = tree_with(&[], &[0x0300_0000, 0, 0, 0x8000_0000, 0, 0x1000, 0x0200_0000]);
        assert_eq!(Board::from_device_tree(&blob).expect("a machine").pci, None);
    }
}
