//! The address map of a guest: 39-bit identity, one level 1 table of 1 GiB blocks, made by `start` and edited here.
//!
//! Entry 0 is device memory. The first GiB of RAM has smaller blocks, for a page that is not there: [`stack_guard`]. Entry [`EL0_ALIAS`] shows the first GiB of RAM once more, for EL0. Tests that want an
//! odd mapping use [`SPARE`].

use core::arch::asm;

/// A valid 1 GiB block of device memory at 0, never executable.
pub const DEVICE: u64 = 1 | AF | PXN | UXN;
/// A valid 1 GiB block of normal write-back memory at 0 for EL1, readable, writable and executable.
pub const NORMAL: u64 = 1 | ATTR_NORMAL | INNER_SHAREABLE | AF | UXN;
/// TCR_EL1 but for IPS: 39-bit TTBR0, write-back inner-shareable walks, 4 KiB granule, no TTBR1.
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// SCTLR_EL1: MMU and caches on, EL0 may use WFI, WFE, DC ZVA and cache maintenance; RES1 bits of Armv8.0.
pub const SCTLR: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26;

/// The level 1 entry that tests may use for themselves.
pub const SPARE: usize = 509;
/// The level 1 entry through which EL0 sees the first GiB of RAM.
pub const EL0_ALIAS: usize = 510;

const ATTR_NORMAL: u64 = 1 << 2;
const AP_EL0: u64 = 1 << 6;
const INNER_SHAREABLE: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;

unsafe extern "C" {
    static mut __level1_table: [u64; 512];
    static __stack_guard: u8;
}

/// Returns the page below the stack of the first vCPU, where nothing is mapped.
pub fn stack_guard() -> u64 {
    &raw const __stack_guard as u64
}

/// Makes the first GiB of RAM readable, writable and executable at EL0, and returns what to add to an address there.
pub fn open_to_el0() -> u64 {
    set(EL0_ALIAS, 0x4000_0000 | 1 | ATTR_NORMAL | INNER_SHAREABLE | AF | AP_EL0 | PXN);
    address(EL0_ALIAS) - 0x4000_0000
}

/// Makes the spare entry point to a level 2 table at physical address `table`, and returns the first address it maps.
pub fn set_spare_table(table: u64) -> u64 {
    set(SPARE, table | 3);
    address(SPARE)
}

/// Makes the spare entry a 1 GiB block of normal memory at physical address `block`, and returns its first address.
pub fn set_spare_block(block: u64) -> u64 {
    set(SPARE, block | NORMAL);
    address(SPARE)
}

/// Makes the spare entry invalid, and returns the first address that is now unmapped.
pub fn clear_spare() -> u64 {
    set(SPARE, 0);
    address(SPARE)
}

fn address(index: usize) -> u64 {
    (index as u64) << 30
}

fn set(index: usize, descriptor: u64) {
    assert!(index == SPARE || index == EL0_ALIAS);
    // SAFETY: the table is `guest.ld`'s 4 KiB, index is below 512, and both entries map nothing that Rust uses: what
    // they show once more at EL0_ALIAS is reached only by code at EL0. Break-before-make as Arm ARM D8.14 asks.
    unsafe {
        let entry = (&raw mut __level1_table).cast::<u64>().add(index);
        entry.write_volatile(0);
        asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack));
        entry.write_volatile(descriptor);
        asm!("dsb ishst", "isb", options(nostack));
    }
}
