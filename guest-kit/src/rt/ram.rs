//! The RAM that nothing of the image uses. Before: `machine`, which knows what is used. After: tests of memory.

use core::ptr;
use core::sync::atomic::{AtomicU8, Ordering};

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

/// Returns the initrd; nothing if there is none.
pub fn initrd() -> &'static [u8] {
    let [_, _, (start, end)] = machine::used_ranges();
    // SAFETY: RAM that was filled before this image was started, and that `Ram` leaves out: nobody writes it.
    unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
}

/// Whether runs are handed out to be written to by anybody, or one was taken by its one owner.
static USE: AtomicU8 = AtomicU8::new(UNUSED);
const UNUSED: u8 = 0;
const SHARED: u8 = 1;
const TAKEN: u8 = 2;

impl Ram {
    /// Returns the largest run of free RAM, of whole pages.
    ///
    /// # Panics
    ///
    /// If it was taken.
    pub fn largest() -> Self {
        assert!(USE.swap(SHARED, Ordering::Relaxed) != TAKEN, "the heap is there");
        Self::find()
    }

    /// Returns the same run, and nobody else ever has it.
    ///
    /// # Panics
    ///
    /// If somebody has.
    #[cfg(feature = "net")]
    pub(super) fn take() -> Self {
        assert!(USE.swap(TAKEN, Ordering::Relaxed) == UNUSED, "free RAM is in use");
        Self::find()
    }

    fn find() -> Self {
        let used = machine::used_ranges();
        let mut best = Self { start: 0, end: 0 };
        // A free run starts at the start of RAM or where something used ends, and goes to the next that is used.
        for start in [machine::ram_start(), used[0].1, used[1].1, used[2].1] {
            let mut end = machine::ram_end();
            for (from, to) in used {
                if from >= start {
                    end = end.min(from);
                } else if to > start {
                    end = start;
                }
            }
            let (start, end) = (start.next_multiple_of(4096), end & !4095);
            if end > start && end - start > best.end - best.start {
                best = Self { start, end };
            }
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
