//! What the device tree says of this machine. Before: `rt::start`, which was given its address. After: everyone.

use core::sync::atomic::{AtomicU64, Ordering};

use fdt::Fdt;
use fdt::node::FdtNode;
use spin::Once;

use crate::rt::{ram, tree};
use crate::words;

/// The greatest number of vCPUs that the runtime has stacks for.
pub const MAX_CPUS: usize = 8;

/// The greatest number of places of virtio devices that are looked at.
const MAX_VIRTIO: usize = 32;

const RAM_BASE: u64 = 0x4000_0000;

/// What is read from the device tree, once. Without one: what QEMU gives when nothing is asked for.
struct Facts {
    bootargs: &'static str,
    cpu_count: usize,
    mpidrs: [u64; MAX_CPUS],
    ram_end: u64,
    tree: (u64, u64),
    initrd: (u64, u64),
    virtio: [(u64, u32); MAX_VIRTIO],
    virtio_count: usize,
    seed: &'static [u8],
}

static FACTS: Once<Facts> = Once::new();

static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Remembers where the device tree is: at `address`, or at the start of RAM, where boot loaders of bare-metal programs
/// put it. It is read when the first fact is asked for.
pub fn set_device_tree(address: u64) {
    ADDRESS.store(if address == 0 { RAM_BASE } else { address }, Ordering::Relaxed);
}

fn facts() -> &'static Facts {
    FACTS.call_once(|| {
        let mut facts = Facts {
            bootargs: "",
            cpu_count: 1,
            mpidrs: [0; MAX_CPUS],
            ram_end: RAM_BASE + (128 << 20),
            // What lies nowhere must not count as lying at address zero.
            tree: (RAM_BASE, RAM_BASE),
            initrd: (RAM_BASE, RAM_BASE),
            virtio: [(0, 0); MAX_VIRTIO],
            virtio_count: 0,
            seed: &[],
        };
        let address = ADDRESS.load(Ordering::Relaxed);
        if let Some(tree) = tree::at(address) {
            facts.tree = (address, address + tree.total_size() as u64);
            facts.read(&tree);
        }
        facts
    })
}

impl Facts {
    fn read(&mut self, tree: &Fdt<'static>) {
        if let Some(cpus) = tree.find_node("/cpus") {
            let mut count = 0;
            for cpu in cpus.children().filter(|node| node.name.starts_with("cpu@")).take(MAX_CPUS) {
                self.mpidrs[count] = number_of(cpu, "reg").unwrap_or(0);
                count += 1;
            }
            self.cpu_count = count.max(1);
        }
        // The first bank: its base and its size, of one or two cells each.
        if let Some(bank) = tree.find_node("/memory").and_then(|node| node.property("reg")) {
            let (base, rest) = bank.value.split_at(bank.value.len().min(16) / 2);
            if big_endian(base) == RAM_BASE {
                self.ram_end = RAM_BASE + big_endian(&rest[..rest.len().min(base.len())]);
            }
        }
        if let Some(chosen) = tree.find_node("/chosen") {
            self.bootargs = chosen.property("bootargs").map_or("", |text| first_string(text.value));
            self.seed = chosen.property("rng-seed").map_or(&[], |seed| seed.value);
            let (start, end) = (number_of(chosen, "linux,initrd-start"), number_of(chosen, "linux,initrd-end"));
            if let (Some(start), Some(end)) = (start, end) {
                self.initrd = (start, end);
            }
        }
        for node in tree.all_nodes().filter(|node| node.name.starts_with("virtio_mmio@")).take(MAX_VIRTIO) {
            // An address and a size of two cells each; the kind of interrupt, its number and its flags, a cell each.
            let cells = |name, from: usize, to: usize| Some(big_endian(node.property(name)?.value.get(from..to)?));
            let (Some(address), Some(spi)) = (cells("reg", 0, 8), cells("interrupts", 4, 8)) else { continue };
            self.virtio[self.virtio_count] = (address, spi as u32 + 32);
            self.virtio_count += 1;
        }
        self.virtio[..self.virtio_count].sort_unstable();
    }
}

/// Returns the property, one number.
fn number_of(node: FdtNode<'_, '_>, name: &str) -> Option<u64> {
    Some(big_endian(node.property(name)?.value))
}

/// Returns the text before the first zero byte; none if it is not UTF-8.
fn first_string(bytes: &[u8]) -> &str {
    str::from_utf8(bytes.split(|&byte| byte == 0).next().unwrap_or(&[])).unwrap_or("")
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// Returns the boot arguments.
pub fn bootargs() -> &'static str {
    facts().bootargs
}

/// Returns the boot argument `key=NUMBER`, or `default`.
pub fn number(key: &str, default: u64) -> u64 {
    words::number(bootargs(), key).unwrap_or(default)
}

/// Returns true if the boot arguments have the word `key`.
pub fn has(key: &str) -> bool {
    words::get(bootargs(), key).is_some()
}

/// Returns where virtio devices may be, in the order of their addresses, and their interrupts.
pub fn virtio() -> &'static [(u64, u32)] {
    let facts = facts();
    &facts.virtio[..facts.virtio_count]
}

/// Returns random bytes that the boot loader left for whoever has no better ones; none if it left none.
pub fn seed() -> &'static [u8] {
    facts().seed
}

/// Returns how many vCPUs there are, at most [`MAX_CPUS`].
pub fn cpu_count() -> usize {
    facts().cpu_count
}

/// Returns the affinity of vCPU `index`, as PSCI and the GIC name it.
///
/// # Panics
///
/// If there is no such vCPU.
pub fn mpidr(index: usize) -> u64 {
    let facts = facts();
    assert!(index < facts.cpu_count, "there is no vCPU {index}");
    facts.mpidrs[index]
}

/// Returns the first address of RAM.
pub fn ram_start() -> u64 {
    RAM_BASE
}

/// Returns the address after the last of the run of RAM that starts at [`ram_start`].
pub fn ram_end() -> u64 {
    facts().ram_end
}

/// Returns what is used of RAM: this image, the device tree, the initrd.
pub fn used_ranges() -> [(u64, u64); 3] {
    [ram::image(), facts().tree, facts().initrd]
}
