//! The bytes of the device tree, borrowed for the life of the guest. Before: `start`. After: `machine`.

use fdt::Fdt;

/// Returns the device tree at `address`, if one is there.
pub fn at(address: u64) -> Option<Fdt<'static>> {
    if address < 0x4000_0000 || !address.is_multiple_of(8) {
        return None;
    }
    // SAFETY: the boot protocol puts a device tree at `address` in RAM, which is mapped, and nobody writes to it while
    // the guest runs: `machine::used_ranges` keeps tests away.
    unsafe { Fdt::from_ptr(core::ptr::with_exposed_provenance(address as usize)) }.ok()
}
