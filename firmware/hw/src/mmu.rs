//! EL2's own address space: RAM and devices as themselves, the image at its link address, stacks with a guard page.
//!
//! W^X holds everywhere: the image's frames are left out of the map of RAM, so code has no writable alias. The one page
//! that is executable at its physical address turns the MMU on, and is read-only.

use crate::layout;
use crate::sysreg::{dsb, isb, read};
use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El2, MemoryRegion, PageTable, RootTable, Translation};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use salp_core::addr::{PAGE_SIZE, Pa, Va};

/// Where stacks are mapped: one slot a CPU, far from everything.
const STACKS: u64 = 0xff80_4000_0000;
const STACK_SLOT: u64 = 0x2_0000;

/// Where the flash is mapped: its own address may be that of the null pointer.
pub const FLASH: u64 = 0xff80_8000_0000;

/// The size of a CPU's stack, in pages; the pages around it are not mapped.
pub const STACK_PAGES: u64 = 18;

/// The size of a CPU's crash stack, in pages.
pub const CRASH_STACK_PAGES: u64 = 2;

const NORMAL: El23Attributes =
    El23Attributes::VALID.union(El23Attributes::ACCESSED).union(El23Attributes::INNER_SHAREABLE);
const DATA: El23Attributes = NORMAL.union(El23Attributes::XN);
const CONSTANTS: El23Attributes = DATA.union(El23Attributes::READ_ONLY);
const CODE: El23Attributes = NORMAL.union(El23Attributes::READ_ONLY);
const DEVICE: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::ATTRIBUTE_INDEX_1)
    .union(El23Attributes::XN);

/// Pages for tables and stacks, taken in order from a range that nobody else uses.
pub struct Bump {
    range: Range<u64>,
}

impl Bump {
    /// Takes pages from `range`, which must be mapped as itself.
    ///
    /// # Safety
    ///
    /// Nothing else uses the range, now or later.
    pub unsafe fn new(range: Range<u64>) -> Self {
        Self { range }
    }

    /// Takes `pages` zeroed pages.
    ///
    /// # Panics
    ///
    /// If the range is used up: its size is a sum made at boot, before any guest exists.
    pub fn take(&mut self, pages: u64) -> Pa {
        let start = self.range.start;
        assert!(start + pages * PAGE_SIZE <= self.range.end, "boot pages are used up");
        self.range.start += pages * PAGE_SIZE;
        // SAFETY: inside the range that `new` was promised, mapped as itself.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, (pages * PAGE_SIZE) as usize) };
        Pa(start)
    }
}

impl Translation<El23Attributes> for Bump {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El23Attributes>>, PhysicalAddress) {
        let page = self.take(1);
        (self.physical_to_virtual(PhysicalAddress(page.0 as usize)), PhysicalAddress(page.0 as usize))
    }

    unsafe fn deallocate_table(&mut self, _: NonNull<PageTable<El23Attributes>>) {
        // The map only grows, at boot.
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El23Attributes>> {
        NonNull::new(pa.0 as *mut PageTable<El23Attributes>).expect("a table is never at 0")
    }
}

/// EL2's address space while it is built.
pub struct Map {
    table: RootTable<El2, Bump>,
    pages: Bump,
}

/// The two stacks of one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Stacks {
    /// The top of the stack that the CPU works on.
    pub top: Va,
    /// The top of the stack that a crash is reported from.
    pub crash_top: Va,
}

impl Map {
    /// Begins a map. `tables` and `pages` give the pages for tables and for stacks.
    pub fn new(tables: Bump, pages: Bump) -> Self {
        Self { table: RootTable::new(tables, 0, El2), pages }
    }

    fn map(&mut self, va: Range<u64>, pa: u64, attributes: El23Attributes) {
        if va.is_empty() {
            return;
        }
        let region = MemoryRegion::new(va.start as usize, va.end as usize);
        self.table
            .map_range(&region, PhysicalAddress(pa as usize), attributes, Constraints::NO_CONTIGUOUS_HINT)
            .expect("ranges lie below 2^48");
    }

    /// Maps RAM as itself, writable and never executable, without the frames of the image, which are given by rising address.
    pub fn map_ram(&mut self, bank: Range<u64>, image: &[Range<u64>]) {
        let mut start = bank.start;
        for part in image.iter().filter(|part| part.start < bank.end && bank.start < part.end) {
            self.map(start..part.start, start, DATA);
            start = part.end;
        }
        self.map(start..bank.end, start, DATA);
    }

    /// Maps device registers as themselves.
    pub fn map_device(&mut self, registers: Range<u64>) {
        self.map(registers.clone(), registers.start, DEVICE);
    }

    /// Maps the flash at [`FLASH`].
    pub fn map_flash(&mut self, bank: Range<u64>) {
        self.map(FLASH..FLASH + (bank.end - bank.start), bank.start, DEVICE);
    }

    /// Maps the image that was loaded at `image` at its link address, by what its parts are.
    pub fn map_image(&mut self, image: Pa) {
        let part = |from: Va, to: Va| (from.0..to.0, layout::to_physical(image, from).0);
        for (from, to, attributes) in [
            (layout::image_start(), layout::text_end(), CODE),
            (layout::text_end(), layout::rodata_end(), CONSTANTS),
            (layout::rodata_end(), layout::packed_start(), DATA),
            (layout::zeros_start(), layout::boot_stack_guard(), DATA),
            (Va(layout::boot_stack_guard().0 + PAGE_SIZE), layout::image_end(), DATA),
        ] {
            let (va, pa) = part(from, to);
            self.map(va, pa, attributes);
        }
        let idmap = layout::to_physical(image, layout::idmap()).0;
        self.map(idmap..idmap + PAGE_SIZE, idmap, CODE);
    }

    /// Maps a page as itself, executable and read-only: the one by which exceptions go back to another image.
    pub fn map_way_back(&mut self, page: Pa) {
        self.map(page.0..page.0 + PAGE_SIZE, page.0, CODE);
    }

    /// Maps the stacks of CPU `index`.
    pub fn map_stacks(&mut self, index: usize) -> Stacks {
        let slot = STACKS + index as u64 * STACK_SLOT;
        let stack = slot + PAGE_SIZE;
        let crash = stack + (STACK_PAGES + 1) * PAGE_SIZE;
        let mut place = |at: u64, pages: u64| {
            let frames = self.pages.take(pages);
            let end = at + pages * PAGE_SIZE;
            self.map(at..end, frames.0, DATA);
            Va(end)
        };
        Stacks { top: place(stack, STACK_PAGES), crash_top: place(crash, CRASH_STACK_PAGES) }
    }

    /// Returns the physical address of the finished map.
    pub fn root(&self) -> Pa {
        Pa(self.table.to_physical().0 as u64)
    }
}

/// Makes a page that [`Map::map_way_back`] has mapped data again, as all other RAM.
///
/// # Safety
///
/// `root` is EL2's finished map, nobody else changes it, and nothing on any CPU uses the page.
pub unsafe fn make_data(root: Pa, page: Pa) {
    const READ_ONLY: u64 = 1 << 7;
    const XN: u64 = 1 << 54;
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    // SAFETY: a table of the map, mapped as itself, that nobody else changes; the MMU reads it.
    let entry = |table: u64, shift: u32| unsafe { &*((table + (page.0 >> shift & 511) * 8) as *const AtomicU64) };
    // The page is mapped by itself, so there are four levels.
    let table = [39, 30, 21].into_iter().fold(root.0, |table, shift| entry(table, shift).load(Relaxed) & ADDRESS);
    let place = entry(table, 12);
    let before = place.load(Relaxed);
    // Break before make (Arm ARM D8.16).
    place.store(0, Relaxed);
    dsb!("ishst");
    // SAFETY: invalidating translations changes no memory.
    unsafe { core::arch::asm!("tlbi vae2is, {}", in(reg) page.0 >> 12, options(nostack, preserves_flags)) };
    dsb!("ish");
    place.store(before & !READ_ONLY | XN, Relaxed);
    dsb!("ishst");
    isb!();
}

/// Maps the gigabyte of `at` as device registers in the running map, if that is one of gigabytes, as a program starts with, and has
/// nothing there yet. Returns `None` if it is mapped as memory, or cannot be.
///
/// # Safety
///
/// There are registers, or nothing; nobody else changes the map.
pub(crate) unsafe fn map_gigabyte(at: u64) -> Option<()> {
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    const GIGABYTE: u64 = 1 << 30;
    // Block, AF, attribute 1 (both programs have it for devices), XN.
    const DEVICE: u64 = 1 << 54 | 1 << 10 | 1 << 2 | 1;
    const ATTRIBUTE: u64 = 7 << 2;
    // With 39 bits or less there is no level 0 (Arm ARM D8.2).
    let is_deep = read!(tcr_el2) & 0x3f < 25;
    // SAFETY: a table of the map, mapped as itself, that nobody else changes; the MMU reads it.
    let entry = |table: u64, shift: u32| unsafe { &*((table + (at >> shift & 511) * 8) as *const AtomicU64) };
    let mut table = read!(ttbr0_el2) & ADDRESS;
    if is_deep {
        let above = entry(table, 39).load(Relaxed);
        table = (above & 3 == 3).then_some(above & ADDRESS)?;
    } else if at >> 39 != 0 {
        return None;
    }
    let place = entry(table, 30);
    match place.load(Relaxed) {
        0 => place.store(at & !(GIGABYTE - 1) | DEVICE, Relaxed),
        before => return (before & ATTRIBUTE == DEVICE & ATTRIBUTE && before & 3 == 1).then_some(()),
    }
    // It was not valid: no translation of it is anywhere.
    dsb!("ishst");
    isb!();
    Some(())
}

/// Leaves the early map for `root` and goes on in `continuation` on `stack`.
///
/// # Safety
///
/// `root` maps the image, the idmap page and the stack, and everything that `continuation` uses; nothing on the current
/// stack is used afterwards.
pub unsafe fn switch_to(root: Pa, image: Pa, stack: Va, continuation: extern "C" fn(u64) -> !) -> ! {
    unsafe extern "C" {
        static switch_table: u8;
    }
    let entry = layout::to_physical(image, Va(&raw const switch_table as u64));
    // SAFETY: the early map holds the image's gigabyte as itself, executable; the routine switches tables and jumps.
    unsafe {
        core::arch::asm!(
            "br {entry}",
            entry = in(reg) entry.0,
            in("x0") root.0,
            in("x1") continuation as *const () as u64,
            in("x2") 0u64,
            in("x3") stack.0,
            options(noreturn)
        )
    }
}
