//! What the device tree says of this machine. Before: `rt::start`, which was given its address. After: everyone.

use core::sync::atomic::{AtomicU64, Ordering};

use fdt::Fdt;

use crate::rt::ram;
use crate::words;

/// The greatest number of vCPUs that the runtime has stacks for.
pub const MAX_CPUS: usize = 8;

const RAM_BASE: u64 = 0x4000_0000;

static DEVICE_TREE: AtomicU64 = AtomicU64::new(0);

/// Remembers where the device tree is: `address`, or the start of RAM, where boot loaders of bare-metal programs put it.
pub fn set_device_tree(address: u64) {
    DEVICE_TREE.store(if address == 0 { RAM_BASE } else { address }, Ordering::Relaxed);
}

/// Returns the device tree, if there is one.
pub fn device_tree() -> Option<Fdt<'static>> {
    crate::rt::tree::at(DEVICE_TREE.load(Ordering::Relaxed))
}

/// Returns the boot arguments.
pub fn bootargs() -> &'static str {
    device_tree().and_then(|tree| tree.find_node("/chosen")?.property("bootargs")?.as_str()).unwrap_or("")
}

/// Returns the boot argument `key=NUMBER`, or `default`.
pub fn number(key: &str, default: u64) -> u64 {
    words::number(bootargs(), key).unwrap_or(default)
}

/// Returns true if the boot arguments have the word `key`.
pub fn has(key: &str) -> bool {
    words::get(bootargs(), key).is_some()
}

/// Returns how many vCPUs there are, at most [`MAX_CPUS`].
pub fn cpu_count() -> usize {
    device_tree().map_or(1, |tree| tree.cpus().count()).clamp(1, MAX_CPUS)
}

/// Returns the affinity of vCPU `index`, as PSCI and the GIC name it.
///
/// # Panics
///
/// If there is no such vCPU.
pub fn mpidr(index: usize) -> u64 {
    let named = device_tree().and_then(|tree| tree.cpus().nth(index).map(|cpu| cpu.ids().first() as u64));
    named.unwrap_or_else(|| panic!("there is no vCPU {index}"))
}

/// Returns the first address of RAM.
pub fn ram_start() -> u64 {
    RAM_BASE
}

/// Returns the address after the last of the run of RAM that starts at [`ram_start`].
pub fn ram_end() -> u64 {
    let end = device_tree().and_then(|tree| {
        let bank = tree.memory().regions().find(|bank| bank.starting_address as u64 == RAM_BASE)?;
        Some(RAM_BASE + bank.size? as u64)
    });
    // Without a device tree: what QEMU gives when nothing is asked for.
    end.unwrap_or(RAM_BASE + (128 << 20))
}

/// Returns what is used of RAM: this image, the device tree, the initrd.
pub fn used_ranges() -> [(u64, u64); 3] {
    let mut used = [ram::image(), (0, 0), (0, 0)];
    if let Some(tree) = device_tree() {
        let start = DEVICE_TREE.load(Ordering::Relaxed);
        used[1] = (start, start + tree.total_size() as u64);
        let chosen = |name| {
            let value = tree.find_node("/chosen")?.property(name)?.value;
            Some(value.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
        };
        if let (Some(start), Some(end)) = (chosen("linux,initrd-start"), chosen("linux,initrd-end")) {
            used[2] = (start, end);
        }
    }
    // What lies nowhere must not count as lying at address zero.
    used.map(|(start, end)| if end == 0 { (RAM_BASE, RAM_BASE) } else { (start, end) })
}
