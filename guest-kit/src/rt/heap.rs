//! A heap in the RAM that nothing else uses. Before: `main` of a guest that wants one. After: [`ram`](super::ram).
//!
//! Allocation takes a lock; interrupt handlers do not allocate.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use spin::mutex::SpinMutex;

use super::ram;

/// Block sizes up to 2^31 bytes.
const ORDERS: usize = 32;

struct Locked(SpinMutex<Heap<ORDERS>>);

#[global_allocator]
static HEAP: Locked = Locked(SpinMutex::new(Heap::empty()));

// SAFETY: `Heap` hands out what `init` gave it, each byte once until it is given back, with the layout's alignment.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller promises that this is what `alloc` returned for this layout.
            unsafe { self.0.lock().dealloc(pointer, layout) };
        }
    }
}

/// Makes the largest run of free RAM the heap, and returns how many bytes that is.
///
/// # Panics
///
/// If anybody has asked for free RAM before.
pub fn init() -> u64 {
    let run = ram::Ram::take();
    let size = run.end() - run.start();
    // SAFETY: `take` gives this run to nobody else, before or after: no other pointer leads there.
    unsafe { HEAP.0.lock().init(run.start() as usize, size as usize) };
    size
}

/// Returns how many bytes are handed out now, rounded up as they are.
pub fn used() -> u64 {
    HEAP.0.lock().stats_alloc_actual() as u64
}
