//! Any properties in the machine's device tree: an error, or facts.
//!
//! The tree itself is well formed. It comes from the firmware below, which Salp trusts, and the `fdt` crate panics on one
//! whose structure block is garbage or whose `#address-cells` is not a cell. Such a boot resets the machine without a word:
//! the console's address is in that tree.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_board::facts::Board;
use vm_fdt::FdtWriter;

#[derive(arbitrary::Arbitrary, Debug)]
struct Node {
    name: u8,
    address: u32,
    properties: Vec<(u8, Value)>,
    children: Vec<Node>,
}

#[derive(arbitrary::Arbitrary, Debug)]
enum Value {
    Cells(Vec<u32>),
    Name(u8),
    Bytes(Vec<u8>),
}

/// The names that bindings give a meaning, and one that none does.
const NODES: [&str; 11] =
    ["memory", "cpus", "cpu", "chosen", "reserved-memory", "intc", "pl011", "pl031", "virtio_mmio", "psci", "other"];
const PROPERTIES: [&str; 15] = [
    "reg",
    "compatible",
    "device_type",
    "#address-cells",
    "#size-cells",
    "bootargs",
    "stdout-path",
    "linux,initrd-start",
    "linux,initrd-end",
    "rng-seed",
    "status",
    "interrupts",
    "#redistributor-regions",
    "redistributor-stride",
    "enable-method",
];
const VALUES: [&str; 11] = [
    "memory",
    "cpu",
    "arm,gic-v3",
    "arm,pl011",
    "arm,pl031",
    "virtio,mmio",
    "arm,psci-1.0",
    "psci",
    "disabled",
    "okay",
    "salp.overcommit=1",
];

fn write(tree: &mut FdtWriter, node: &Node, depth: usize) -> Result<(), vm_fdt::Error> {
    let mut seen = [false; PROPERTIES.len()];
    for (name, value) in &node.properties {
        let at = usize::from(*name) % PROPERTIES.len();
        if core::mem::replace(&mut seen[at], true) {
            continue;
        }
        match value {
            _ if PROPERTIES[at].ends_with("-cells") => tree.property_u32(PROPERTIES[at], u32::from(*name) >> 5)?,
            Value::Cells(cells) => tree.property_array_u32(PROPERTIES[at], cells)?,
            Value::Name(value) => tree.property_string(PROPERTIES[at], VALUES[usize::from(*value) % VALUES.len()])?,
            Value::Bytes(bytes) => tree.property(PROPERTIES[at], bytes)?,
        }
    }
    for child in node.children.iter().filter(|_| depth < 4) {
        let name = NODES[usize::from(child.name) % NODES.len()];
        let open = tree.begin_node(&format!("{name}@{:x}", child.address))?;
        write(tree, child, depth + 1)?;
        tree.end_node(open)?;
    }
    Ok(())
}

fn tree(root: &Node) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new()?;
    let open = tree.begin_node("")?;
    write(&mut tree, root, 0)?;
    tree.end_node(open)?;
    tree.finish()
}

fuzz_target!(|root: Node| {
    let Ok(blob) = tree(&root) else { return };
    if let Ok(board) = Board::from_device_tree(&blob) {
        assert!(!board.ram.is_empty());
        let _ = board.option("memory");
    }
});
