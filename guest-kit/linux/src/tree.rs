//! Where the guest device is: the kernel shows its device tree as directories. [`memory`](crate::memory) maps what is found.

use anyhow::{Result, bail, ensure};
use salp_hvc::device::{COMPATIBLE, SIZE};
use std::fs;
use std::path::Path;

/// Where kernels show their device tree.
const TREES: [&str; 2] = ["/proc/device-tree", "/sys/firmware/devicetree/base"];

/// How deep nodes are looked for.
const DEPTH: u32 = 8;

/// Returns the physical address of the guest device's registers.
///
/// # Errors
///
/// Why there is none, and what to do.
pub fn find() -> Result<u64> {
    let Some(root) = TREES.iter().map(Path::new).find(|path| path.is_dir()) else {
        bail!(
            "there is no device tree in {} or {}: mount /proc (mount -t proc proc /proc) and /sys (mount -t sysfs sysfs \
             /sys); a machine that was started with ACPI tables is not Salp's",
            TREES[0],
            TREES[1]
        );
    };
    find_in(root)
}

fn find_in(root: &Path) -> Result<u64> {
    match search(root, DEPTH) {
        Some(registers) => registers,
        None => bail!(
            "this VM does not run on Salp, or on one without cloning: no device tree node is compatible with {COMPATIBLE}"
        ),
    }
}

/// Looks at the children of a node, and at theirs.
fn search(parent: &Path, depth: u32) -> Option<Result<u64>> {
    let children = fs::read_dir(parent).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    children.filter(|path| path.is_dir()).find_map(|node| {
        let compatible = fs::read(node.join("compatible")).unwrap_or_default();
        if compatible.split(|&byte| byte == 0).any(|name| name == COMPATIBLE.as_bytes()) {
            return Some(registers(parent, &node));
        }
        search(&node, depth.checked_sub(1)?)
    })
}

/// Returns the first address of `reg`, whose format the parent tells.
fn registers(parent: &Path, node: &Path) -> Result<u64> {
    let cells = |name: &str, usual: u32| {
        let bytes = fs::read(parent.join(name)).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(usual, u32::from_be_bytes) as usize
    };
    let (of_address, of_size) = (cells("#address-cells", 2), cells("#size-cells", 1));
    let reg = fs::read(node.join("reg")).unwrap_or_default();
    let number = |at: usize, cells: usize| {
        let bytes = reg.get(at * 4..(at + cells) * 4).filter(|_| matches!(cells, 1 | 2))?;
        Some(bytes.iter().fold(0, |number: u64, &byte| number << 8 | u64::from(byte)))
    };
    match (number(0, of_address), number(of_address, of_size)) {
        (Some(address), Some(size)) => {
            ensure!(
                address.is_multiple_of(SIZE) && size >= SIZE,
                "the device tree has the guest device at {address:#x} with {size:#x} bytes: it must be a page"
            );
            Ok(address)
        }
        _ => bail!("the device tree does not say where the guest device is: {} has no usable reg", node.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn tree(compatible: &[u8], reg: &[u32]) -> TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, bytes).expect("written");
        };
        write("#address-cells", &2_u32.to_be_bytes());
        write("#size-cells", &2_u32.to_be_bytes());
        write("pl011@9000000/compatible", b"arm,pl011\0arm,primecell\0");
        write("salp@90c0000/compatible", compatible);
        write("salp@90c0000/reg", &reg.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<u8>>());
        root
    }

    fn refusal(root: &TempDir) -> String {
        find_in(root.path()).expect_err("nothing").to_string()
    }

    #[test]
    fn the_device_is_where_its_node_says() {
        let root = tree(b"salp,guest-1\0", &[0, 0x090c_0000, 0, 0x1000]);
        assert_eq!(find_in(root.path()).expect("found"), 0x090c_0000);
        let root = tree(b"salp,guest-2\0salp,guest-1\0", &[1, 0x090c_0000, 0, 0x1000]);
        assert_eq!(find_in(root.path()).expect("found"), 0x1_090c_0000);
    }

    #[test]
    fn the_device_is_found_on_a_bus_with_cells_of_its_own() {
        let root = tree(b"other\0", &[]);
        let bus = root.path().join("bus");
        fs::create_dir_all(bus.join("salp")).expect("made");
        fs::write(bus.join("#address-cells"), [0, 0, 0, 1]).expect("written");
        fs::write(bus.join("#size-cells"), [0, 0, 0, 1]).expect("written");
        fs::write(bus.join("salp/compatible"), b"salp,guest-1\0").expect("written");
        fs::write(bus.join("salp/reg"), [0x09, 0x0c, 0, 0, 0, 0, 0x10, 0]).expect("written");
        assert_eq!(find_in(root.path()).expect("found"), 0x090c_0000);
    }

    #[test]
    fn a_machine_without_the_device_is_not_salps() {
        assert!(refusal(&tree(b"salp,guest-10\0", &[])).contains("does not run on Salp"));
    }

    #[test]
    fn a_node_without_a_usable_place_is_said() {
        assert!(refusal(&tree(b"salp,guest-1\0", &[0, 0x090c_0000])).contains("no usable reg"));
        assert!(refusal(&tree(b"salp,guest-1\0", &[])).contains("no usable reg"));
        assert!(refusal(&tree(b"salp,guest-1\0", &[0, 0x090c_0800, 0, 0x1000])).contains("must be a page"));
        assert!(refusal(&tree(b"salp,guest-1\0", &[0, 0x090c_0000, 0, 0x800])).contains("must be a page"));
    }
}
