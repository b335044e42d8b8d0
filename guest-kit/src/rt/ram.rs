//! The RAM that nothing of the image uses. Before: `machine`, which knows what is used. After: tests of memory.

use core::ptr;

use crate::machine;

/// A run of RAM that holds nothing of the image, the device tree or the initrd: any value may be written there.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    start: u64,
    end: u64,
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __file_end: u8;
}

/// Returns the first and the last but one address of this image, with its stacks.
pub fn image() -> (u64, u64) {
    (&raw const __image_start as u64, &raw const __image_end as u64)
}

/// Returns how many bytes of the image were loaded.
pub fn loaded_bytes() -> u64 {
    &raw const __file_end as u64 - image().0
}

impl Ram {
    /// Returns the largest run of free RAM, of whole pages.
    pub fn largest() -> Self {
        let (mut best, mut start) = (Self { start: 0, end: 0 }, machine::ram_start());
        let mut used = machine::used_ranges();
        used.sort_unstable();
        for (from, to) in used.into_iter().chain([(machine::ram_end(), u64::MAX)]) {
            let (start_page, end_page) = (start.next_multiple_of(4096), from & !4095);
            if end_page > start_page && end_page - start_page > best.end - best.start {
                best = Self { start: start_page, end: end_page };
            }
            start = start.max(to);
        }
        best
    }

    /// Returns the first address.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the address after the last.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the part from `start` on that is `bytes` long, if it is inside.
    pub fn from(&self, start: u64, bytes: u64) -> Option<Self> {
        let end = start.checked_add(bytes)?;
        (start >= self.start && end <= self.end).then_some(Self { start, end })
    }

    /// Returns the word at `address`.
    #[inline(always)]
    pub fn read(&self, address: u64) -> u64 {
        assert!(address >= self.start && address <= self.end - 8 && address.is_multiple_of(8));
        // SAFETY: aligned and inside RAM that no Rust object lives in; any bytes are a u64.
        unsafe { ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
    }

    /// Writes the word at `address`.
    #[inline(always)]
    pub fn write(&self, address: u64, value: u64) {
        assert!(address >= self.start && address <= self.end - 8 && address.is_multiple_of(8));
        // SAFETY: aligned and inside RAM that no Rust object lives in.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
    }

    /// Makes instructions that were written to the `count` words from `address` on executable.
    pub fn publish_code(&self, address: u64, bytes: u64) {
        for line in (address..address + bytes).step_by(16) {
            let _ = self.read(line & !7);
            // SAFETY: `read` has checked that the address is in this run; cache maintenance changes no data.
            unsafe {
                core::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) line, options(nostack));
            }
        }
        super::sysreg::barrier();
    }
}
