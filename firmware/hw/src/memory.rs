//! Physical memory: pages zeroed and copied, bytes copied in and out, caches and TLBs maintained. All RAM is mapped as
//! itself ([`crate::mmu`]); no reference into guest memory exists, bytes are copied.

use crate::sysreg::{dsb, isb, read, write};
use core::ops::Range;
use salp_core::addr::{PAGE_SIZE, Pa};

/// Returns the smallest data cache line, in bytes.
fn data_line() -> u64 {
    4 << (read!(ctr_el0) >> 16 & 0xf)
}

macro_rules! for_lines {
    ($operation:literal, $start:expr, $length:expr, $line:expr) => {{
        let line: u64 = $line;
        let mut at = $start & !(line - 1);
        while at < $start + $length {
            // SAFETY: cache maintenance of mapped memory changes no byte of it.
            unsafe { core::arch::asm!(concat!($operation, ", {}"), in(reg) at, options(nostack, preserves_flags)) };
            at += line;
        }
    }};
}

/// Writes cached bytes back to memory, for observers without caches.
pub fn clean_to_coherency(start: Pa, length: u64) {
    for_lines!("dc cvac", start.0, length, data_line());
    dsb!("sy");
}

/// Makes what was written to a page visible to instruction fetches of every CPU (Arm ARM B2.7.4).
pub fn sync_code(start: Pa, length: u64) {
    let ctr = read!(ctr_el0);
    const IDC: u64 = 1 << 28;
    const DIC: u64 = 1 << 29;
    if ctr & IDC == 0 {
        for_lines!("dc cvau", start.0, length, data_line());
    }
    dsb!("ish");
    if ctr & DIC == 0 {
        // Other virtual addresses may alias the page in a VIPT cache: everything goes.
        // SAFETY: instruction cache maintenance.
        unsafe { core::arch::asm!("ic ialluis", options(nostack, preserves_flags)) };
        dsb!("ish");
    }
    isb!();
}

/// Zeroes `length` bytes from `start`, both multiples of the page size.
///
/// # Safety
///
/// The range is RAM that the caller owns.
pub unsafe fn zero(start: Pa, length: u64) {
    let dczid = read!(dczid_el0);
    let line = 4u64 << (dczid & 0xf);
    if dczid & 1 << 4 != 0 || line > PAGE_SIZE {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_bytes(start.0 as *mut u8, 0, length as usize) };
        return;
    }
    let end = start.0 + length;
    // SAFETY: DC ZVA zeroes one aligned line; lines divide the page, the caller owns the pages. Eight lines a turn: the
    // largest line (2 KiB by the architecture, 512 bytes seen) times eight may exceed a page, so large lines go singly.
    unsafe {
        if line * 8 <= PAGE_SIZE {
            core::arch::asm!(
                "2:",
                "dc zva, {at}", "add {at}, {at}, {line}", "dc zva, {at}", "add {at}, {at}, {line}",
                "dc zva, {at}", "add {at}, {at}, {line}", "dc zva, {at}", "add {at}, {at}, {line}",
                "dc zva, {at}", "add {at}, {at}, {line}", "dc zva, {at}", "add {at}, {at}, {line}",
                "dc zva, {at}", "add {at}, {at}, {line}", "dc zva, {at}", "add {at}, {at}, {line}",
                "cmp {at}, {end}", "b.lo 2b",
                at = inout(reg) start.0 => _, line = in(reg) line, end = in(reg) end, options(nostack)
            );
        } else {
            core::arch::asm!(
                "2:", "dc zva, {at}", "add {at}, {at}, {line}", "cmp {at}, {end}", "b.lo 2b",
                at = inout(reg) start.0 => _, line = in(reg) line, end = in(reg) end, options(nostack)
            );
        }
    }
}

/// Copies one page.
///
/// # Safety
///
/// `to` is a page of RAM that the caller owns; `from` is a page of RAM.
pub unsafe fn copy_page(from: Pa, to: Pa) {
    // SAFETY: the caller's promise; both are mapped as themselves. 64 bytes a turn, through registers: a guest may
    // write `from` meanwhile, which is why this is not `copy_nonoverlapping` on references.
    unsafe {
        core::arch::asm!(
            "2:",
            "ldp {a}, {b}, [{from}]", "ldp {c}, {d}, [{from}, #16]",
            "stp {a}, {b}, [{to}]", "stp {c}, {d}, [{to}, #16]",
            "ldp {a}, {b}, [{from}, #32]", "ldp {c}, {d}, [{from}, #48]",
            "stp {a}, {b}, [{to}, #32]", "stp {c}, {d}, [{to}, #48]",
            "add {from}, {from}, #64", "add {to}, {to}, #64",
            "cmp {to}, {end}", "b.lo 2b",
            from = inout(reg) from.0 => _, to = inout(reg) to.0 => _, end = in(reg) to.0 + PAGE_SIZE,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack)
        );
    }
}

/// Copies bytes of RAM out.
///
/// # Safety
///
/// The range is RAM.
pub unsafe fn read_bytes(from: Pa, to: &mut [u8]) {
    // SAFETY: the caller's promise; the destination is EL2's own.
    unsafe { core::ptr::copy(from.0 as *const u8, to.as_mut_ptr(), to.len()) };
}

/// Copies bytes into RAM.
///
/// # Safety
///
/// The range is RAM that the caller may write.
pub unsafe fn write_bytes(to: Pa, from: &[u8]) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy(from.as_ptr(), to.0 as *mut u8, from.len()) };
}

/// Returns a range of RAM as bytes.
///
/// # Safety
///
/// The range is mapped RAM that nobody writes for as long as EL2 runs.
pub unsafe fn bytes(range: Range<u64>) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize) }
}

/// Takes a range of RAM for a table of EL2, zeroed.
///
/// # Safety
///
/// The range is page aligned, mapped RAM that nothing else uses, now or later.
pub unsafe fn claim(range: Range<u64>) -> &'static mut [u64] {
    // SAFETY: the caller's promise.
    unsafe { zero(Pa(range.start), range.end - range.start) };
    // SAFETY: the caller's promise; zeroed just now.
    unsafe { core::slice::from_raw_parts_mut(range.start as *mut u64, ((range.end - range.start) / 8) as usize) }
}

/// Runs a TLB operation with the VMID in `vttbr` current, as TLBI by VMID demands.
fn with_vttbr(vttbr: u64, operation: impl FnOnce()) {
    let now = read!(vttbr_el2);
    if now >> 48 == vttbr >> 48 {
        return operation();
    }
    write!(vttbr_el2, vttbr);
    isb!();
    operation();
    write!(vttbr_el2, now);
    isb!();
}

macro_rules! tlbi {
    ($operation:literal $(, $argument:expr)?) => {
        // SAFETY: invalidating translations changes no memory.
        unsafe { core::arch::asm!(concat!("tlbi ", $operation) $(, in(reg) $argument)?, options(nostack, preserves_flags)) }
    };
}

/// Forgets translations of one page of a VM on every CPU; complete on return (Arm ARM D8.14).
pub fn invalidate_ipa(vttbr: u64, ipa: u64) {
    with_vttbr(vttbr, || {
        dsb!("ishst");
        tlbi!("ipas2e1is, {}", ipa >> 12);
        dsb!("ish");
        // Combined stage 1 and 2 entries are not found by IPA.
        tlbi!("vmalle1is");
        dsb!("ish");
        isb!();
    });
}

/// Forgets all translations of a VM on every CPU; complete on return.
pub fn invalidate_vm(vttbr: u64) {
    with_vttbr(vttbr, || {
        dsb!("ishst");
        tlbi!("vmalls12e1is");
        dsb!("ish");
        isb!();
    });
}

/// Forgets all translations of all guests on every CPU; complete on return.
pub fn invalidate_all() {
    dsb!("ishst");
    tlbi!("alle1is");
    dsb!("ish");
    isb!();
}

/// Reads entry `index` of the table node at `node`.
///
/// # Safety
///
/// `node` is a table node of EL2.
#[inline]
pub unsafe fn read_entry(node: Pa, index: usize) -> u64 {
    // SAFETY: the caller's promise. The MMU reads it too: one 64-bit access.
    unsafe { (*((node.0 as usize + (index & 511) * 8) as *const core::sync::atomic::AtomicU64)).load(ORDER) }
}

/// Writes entry `index` of the table node at `node`. What was written before is visible to table walks first.
///
/// # Safety
///
/// As for [`read_entry`].
#[inline]
pub unsafe fn write_entry(node: Pa, index: usize, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { (*((node.0 as usize + (index & 511) * 8) as *const core::sync::atomic::AtomicU64)).store(value, ORDER) };
}

const ORDER: core::sync::atomic::Ordering = core::sync::atomic::Ordering::Relaxed;

/// Orders table writes before everything after, for table walks of every CPU.
#[inline]
pub fn publish() {
    dsb!("ishst");
}
