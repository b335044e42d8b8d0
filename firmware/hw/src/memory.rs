//! Physical memory: pages zeroed and copied, bytes copied in and out, caches and TLBs maintained. All RAM is mapped as
//! itself ([`crate::mmu`]); no reference into guest memory exists, bytes are copied.

use crate::sysreg::{dsb, isb, read, write};
use core::ops::Range;
use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use salp_core::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use salp_core::frames::GROUP;
use salp_core::stage2::{ENTRIES, Filled, Level, TableMem, Tlb};

core::arch::global_asm!(include_str!("copy.S"));

/// Returns the smallest data cache line, in bytes.
fn data_line() -> u64 {
    4 << (read!(ctr_el0) >> 16 & 0xf)
}

/// Does a cache operation on every line of `length` bytes from `start`: sixteen lines a turn, then the rest.
macro_rules! for_lines {
    ($operation:literal, $start:expr, $length:expr, $line:expr) => {{
        let line: u64 = $line;
        let mut at = $start & !(line - 1);
        let end = $start + $length;
        while at < end {
            let turns = (end - at) / (16 * line);
            if turns > 0 {
                // SAFETY: cache maintenance by address: what it does to the bytes is argued where the macro is used.
                unsafe {
                    core::arch::asm!(
                        "2:", ".rept 16", concat!($operation, ", {at}"), "add {at}, {at}, {line}", ".endr",
                        "subs {turns}, {turns}, #1", "b.ne 2b",
                        at = inout(reg) at, line = in(reg) line, turns = inout(reg) turns => _, options(nostack)
                    );
                }
            } else {
                // SAFETY: as above.
                unsafe { core::arch::asm!(concat!($operation, ", {}"), in(reg) at, options(nostack, preserves_flags)) };
                at += line;
            }
        }
    }};
}

/// Writes cached bytes back to memory, for observers without caches.
pub fn clean_to_coherency(start: Pa, length: u64) {
    for_lines!("dc cvac", start.0, length, data_line());
    dsb!("sy");
}

/// Writes cached bytes back to memory, and forgets them: observers without caches have their say too.
pub fn clean_and_forget(start: Pa, length: u64) {
    for_lines!("dc civac", start.0, length, data_line());
    dsb!("sy");
}

/// Makes this CPU fetch instructions anew, wherever they are.
pub fn forget_instructions() {
    // SAFETY: instruction cache maintenance.
    unsafe { core::arch::asm!("ic iallu", options(nostack, preserves_flags)) };
    dsb!("nsh");
    isb!();
}

/// Writes cached bytes back to where instruction fetches of every CPU find them, if they do not look into data caches.
fn clean_to_unification(start: Pa, length: u64) {
    const IDC: u64 = 1 << 28;
    if read!(ctr_el0) & IDC == 0 {
        for_lines!("dc cvau", start.0, length, data_line());
    }
    dsb!("ish");
}

/// Makes every CPU fetch instructions anew (Arm ARM B2.7.4). They are clean to the point of unification.
fn forget_code() {
    const DIC: u64 = 1 << 29;
    if read!(ctr_el0) & DIC == 0 {
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
    // Zeroing by lines needs the caller's ownership of the range: the promise of this function.
    for_lines!("dc zva", start.0, length, line);
}

/// Copies one page.
///
/// # Safety
///
/// `to` is a page of RAM that the caller owns; `from` is a page of RAM.
pub unsafe fn copy_page(from: Pa, to: Pa) {
    // SAFETY: the caller's promise; both are mapped as themselves. 256 bytes a turn, through registers: a guest may
    // write `from` meanwhile, which is why this is not `copy_nonoverlapping` on references. SIMD registers are guests'.
    unsafe {
        core::arch::asm!(
            "2:",
            "ldp {a}, {b}, [{from}, #256]!", "ldp {c}, {d}, [{from}, #16]",
            "stp {a}, {b}, [{to}, #256]!", "stp {c}, {d}, [{to}, #16]",
            ".irp offset, 32, 64, 96, 128, 160, 192, 224",
            "ldp {a}, {b}, [{from}, #\\offset]", "ldp {c}, {d}, [{from}, #\\offset + 16]",
            "stp {a}, {b}, [{to}, #\\offset]", "stp {c}, {d}, [{to}, #\\offset + 16]",
            ".endr",
            "cmp {to}, {last}", "b.ne 2b",
            from = inout(reg) from.0.wrapping_sub(256) => _, to = inout(reg) to.0.wrapping_sub(256) => _,
            last = in(reg) to.0 + (PAGE_SIZE - 256),
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack)
        );
    }
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

/// Takes over a table of EL2 as it lies in a range of RAM.
///
/// # Safety
///
/// The range is page aligned, mapped RAM that nothing else uses, now or later.
pub unsafe fn adopt(range: Range<u64>) -> &'static mut [u64] {
    // SAFETY: the caller's promise; any bytes are words.
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

/// The TLB entries of one VM, by the VMID in its VTTBR_EL2; 0 if it has none and so nothing to forget.
#[derive(Clone, Copy, Debug)]
pub struct VmTlb {
    /// VTTBR_EL2 of the VM.
    pub vttbr: u64,
}

impl VmTlb {
    fn run(&self, operation: impl FnOnce()) {
        if self.vttbr != 0 {
            with_vttbr(self.vttbr, operation);
            isb!();
        }
    }
}

// Arm ARM D8.14: an entry by IPA, then what stage 1 and 2 gave in combination, which is not found by IPA.
impl Tlb for VmTlb {
    fn invalidate_leaf(&self, ipa: Ipa, _: Level) {
        self.run(|| {
            dsb!("ishst");
            tlbi!("ipas2e1is, {}", ipa.0 >> 12);
            dsb!("ish");
            tlbi!("vmalle1is");
            dsb!("ish");
        });
    }

    fn invalidate_leaf_local(&self, ipa: Ipa) {
        self.run(|| {
            dsb!("nshst");
            tlbi!("ipas2e1, {}", ipa.0 >> 12);
            dsb!("nsh");
            tlbi!("vmalle1");
            dsb!("nsh");
        });
    }

    fn invalidate_range(&self, _: Ipa, _: u64) {
        self.invalidate_vm();
    }

    fn invalidate_vm(&self) {
        self.run(|| {
            dsb!("ishst");
            tlbi!("vmalls12e1is");
            dsb!("ish");
        });
    }
}

/// Forgets all translations of all guests on every CPU; complete on return.
pub fn invalidate_all() {
    dsb!("ishst");
    tlbi!("alle1is");
    dsb!("ish");
    isb!();
}

/// Physical memory as `salp-core` sees it. What core hands in are frames that its frame table gave to the one who uses
/// them: that is the ground of every unsafe block below.
#[derive(Clone, Copy, Debug)]
pub struct Ram;

/// Copies bytes of which a guest may write one side meanwhile. Entries of rings go in one load and one store: where their
/// number is known, the compiler, which uses no unaligned accesses, would copy them one by one.
///
/// # Safety
///
/// As for `core::ptr::copy`, but that others may write to RAM that guests have.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; unaligned accesses to normal memory are allowed (SCTLR_EL2.A is 0).
    unsafe {
        match bytes {
            2 => core::arch::asm!(
                "ldrh {a:w}, [{from}]", "strh {a:w}, [{to}]",
                from = in(reg) from, to = in(reg) to, a = out(reg) _, options(nostack, preserves_flags)
            ),
            8 => core::arch::asm!(
                "ldr {a}, [{from}]", "str {a}, [{to}]",
                from = in(reg) from, to = in(reg) to, a = out(reg) _, options(nostack, preserves_flags)
            ),
            16 => core::arch::asm!(
                "ldp {a}, {b}, [{from}]", "stp {a}, {b}, [{to}]",
                from = in(reg) from, to = in(reg) to, a = out(reg) _, b = out(reg) _, options(nostack, preserves_flags)
            ),
            _ => core::ptr::copy(from, to, bytes),
        }
    }
}

impl Ram {
    /// Copies bytes from a page or block of one guest's memory to one that another may write.
    #[inline]
    pub fn copy_among_guests(&self, from: Pa, to: Pa, bytes: usize) {
        // SAFETY: inside two pages or blocks of guests. Either guest may write meanwhile; both may be one page.
        unsafe { core::ptr::copy(from.0 as *const u8, to.0 as *mut u8, bytes) };
    }
}

fn entry(node: Pa, index: usize) -> &'static AtomicU64 {
    // SAFETY: a node is a whole frame of RAM, mapped as itself, that core owns as a table; the index is cut to it. The MMU
    // and other CPUs read it too, so it is an atomic.
    unsafe { &*((node.0 as usize | ((index & 511) * 8)) as *const AtomicU64) }
}

impl TableMem for Ram {
    #[inline]
    fn read(&self, node: Pa, index: usize) -> u64 {
        entry(node, index).load(Relaxed)
    }

    #[inline]
    fn read_groups(&self, node: Pa, range: Range<usize>) -> impl Iterator<Item = [u64; GROUP]> {
        // SAFETY: as for one entry.
        let groups = unsafe { &*(node.0 as usize as *const [[AtomicU64; GROUP]; ENTRIES / GROUP]) };
        groups.get(range).unwrap_or_default().iter().map(|group| {
            let (a, b, c, d): (u64, u64, u64, u64);
            // SAFETY: LDP reads each aligned word at once, as four loads would in two instructions more.
            unsafe {
                core::arch::asm!(
                    "ldp {a}, {b}, [{at}]", "ldp {c}, {d}, [{at}, #16]", at = in(reg) group,
                    a = out(reg) a, b = out(reg) b, c = lateout(reg) c, d = lateout(reg) d,
                    options(nostack, readonly, preserves_flags)
                );
            }
            [a, b, c, d]
        })
    }

    #[inline]
    fn write(&self, node: Pa, index: usize, value: u64) {
        entry(node, index).store(value, Relaxed);
    }

    #[inline]
    fn write_group(&self, node: Pa, group: usize, [a, b, c, d]: [u64; GROUP]) {
        // SAFETY: a node is a whole frame of RAM that core owns as a table, no MMU reaches it, and the group is one of its own.
        unsafe {
            core::arch::asm!(
                "stp {a}, {b}, [{at}]", "stp {c}, {d}, [{at}, #16]",
                at = in(reg) node.0 as usize + group % (ENTRIES / GROUP) * size_of::<[u64; GROUP]>(),
                a = in(reg) a, b = in(reg) b, c = in(reg) c, d = in(reg) d, options(nostack, preserves_flags)
            );
        }
    }

    fn write_row(&self, node: Pa, first: u64, step: u64) {
        // SAFETY: a node is a whole frame of RAM that core owns as a table, and no MMU reaches it.
        unsafe {
            core::arch::asm!(
                "2:",
                "add {b}, {a}, {step}", "stp {a}, {b}, [{at}], #16", "add {a}, {b}, {step}",
                "cmp {at}, {end}", "b.ne 2b",
                at = inout(reg) node.0 => _, end = in(reg) node.0 + PAGE_SIZE, step = in(reg) step,
                a = inout(reg) first => _, b = out(reg) _, options(nostack)
            );
        }
    }

    fn clear_all(&self, node: Pa, bits: u64) {
        // SAFETY: a node is a whole frame of RAM that core owns as a table, and no MMU reaches it.
        unsafe {
            core::arch::asm!(
                "2:",
                "ldp {a}, {b}, [{at}]", "ldp {c}, {d}, [{at}, #16]",
                "and {a}, {a}, {mask}", "and {b}, {b}, {mask}", "and {c}, {c}, {mask}", "and {d}, {d}, {mask}",
                "stp {a}, {b}, [{at}], #32", "stp {c}, {d}, [{at}, #-16]",
                "cmp {at}, {end}", "b.ne 2b",
                at = inout(reg) node.0 => _, end = in(reg) node.0 + PAGE_SIZE, mask = in(reg) !bits,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack)
            );
        }
    }

    #[inline]
    fn publish(&self, node: Pa, index: usize, value: u64) {
        entry(node, index).store(value, Release);
        dsb!("ishst");
    }

    #[inline]
    fn unlink(&self, node: Pa, index: usize, value: u64) {
        entry(node, index).store(value, Relaxed);
    }

    fn zero_page(&self, page: Pa) {
        // SAFETY: a frame that core owns.
        unsafe { zero(page, PAGE_SIZE) };
    }

    fn zero_block(&self, block: Pa) {
        // SAFETY: a block of frames that core owns.
        unsafe { zero(block, BLOCK_SIZE) };
    }

    fn copy_page(&self, from: Pa, to: Pa) {
        // SAFETY: `to` is a frame that core owns, `from` a frame of a guest.
        unsafe { copy_page(from, to) };
    }

    fn hash_page(&self, page: Pa) -> u64 {
        let mut hash: u64 = 0;
        // SAFETY: a frame of a guest, mapped as itself; the guest may write meanwhile.
        unsafe {
            core::arch::asm!(
                "2:",
                "ldp {a}, {b}, [{at}], #32", "ldp {c}, {d}, [{at}, #-16]",
                "eor {hash}, {a}, {hash}, ror #29", "mul {hash}, {hash}, {odd}",
                "eor {hash}, {b}, {hash}, ror #29", "mul {hash}, {hash}, {odd}",
                "eor {hash}, {c}, {hash}, ror #29", "mul {hash}, {hash}, {odd}",
                "eor {hash}, {d}, {hash}, ror #29", "mul {hash}, {hash}, {odd}",
                "cmp {at}, {end}", "b.ne 2b",
                at = inout(reg) page.0 => _, end = in(reg) page.0 + PAGE_SIZE, odd = in(reg) 0x9fb2_1c65_1e98_df25_u64,
                hash = inout(reg) hash, a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                options(nostack, readonly)
            );
        }
        hash
    }

    fn is_zero(&self, page: Pa) -> bool {
        let any: u64;
        // SAFETY: as above. Stops at the first 32 bytes that are not zero.
        unsafe {
            core::arch::asm!(
                "2:",
                "ldp {any}, {b}, [{at}], #32", "ldp {c}, {d}, [{at}, #-16]",
                "orr {any}, {any}, {b}", "orr {c}, {c}, {d}", "orr {any}, {any}, {c}", "cbnz {any}, 3f",
                "cmp {at}, {end}", "b.ne 2b",
                "3:",
                at = inout(reg) page.0 => _, end = in(reg) page.0 + PAGE_SIZE,
                any = out(reg) any, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack, readonly)
            );
        }
        any == 0
    }

    fn equal(&self, page: Pa, other: Pa) -> bool {
        let difference: u64;
        // SAFETY: two frames of guests; as above.
        unsafe {
            core::arch::asm!(
                "2:",
                "ldp {a}, {b}, [{at}], #16", "ldp {c}, {d}, [{other}], #16",
                "eor {a}, {a}, {c}", "eor {b}, {b}, {d}", "orr {a}, {a}, {b}", "cbnz {a}, 3f",
                "cmp {at}, {end}", "b.ne 2b",
                "3:",
                at = inout(reg) page.0 => _, other = inout(reg) other.0 => _, end = in(reg) page.0 + PAGE_SIZE,
                a = out(reg) difference, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack, readonly)
            );
        }
        difference == 0
    }

    fn sync_for_guest(&self, pa: Pa, bytes: u64, filled: Filled) {
        // A guest with its MMU off reads memory uncached (no FEAT_S2FWB): nothing may be left in caches alone. A CPU
        // whose caches are coherent to the point of unification for code (IDC) still needs it.
        if !coherent_memory() {
            // To the point of unification too, which comes before that of coherency.
            for_lines!("dc civac", pa.0, bytes, data_line());
            dsb!("sy");
        } else if filled == Filled::Copy {
            clean_to_unification(pa, bytes);
        }
        if filled == Filled::Copy {
            forget_code();
        }
    }

    #[inline]
    fn copy_from_guest(&self, from: Pa, to: &mut [u8]) {
        // SAFETY: inside one frame of a guest.
        unsafe { copy(from.0 as *const u8, to.as_mut_ptr(), to.len()) };
    }

    #[inline]
    fn copy_to_guest(&self, to: Pa, from: &[u8]) {
        // SAFETY: inside one frame that a guest may write.
        unsafe { copy(from.as_ptr(), to.0 as *mut u8, from.len()) };
    }
}

static FWB: AtomicBool = AtomicBool::new(false);

/// Notes once, at boot, whether stage 2 makes all guest accesses cacheable (FEAT_S2FWB).
pub fn set_coherent_memory(fwb: bool) {
    FWB.store(fwb, Relaxed);
}

fn coherent_memory() -> bool {
    FWB.load(Relaxed)
}
