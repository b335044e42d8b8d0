//! A heap in the RAM that nothing else uses. Before: `main` of a guest that wants one. After: [`ram`](super::ram).
//!
//! Allocation takes a lock; interrupt handlers do not allocate. Small blocks that come back wait for who asks next: what is kept
//! for a request is small, lives shortly, and would be split and joined again each time.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use spin::mutex::SpinMutex;

use super::ram;

/// Block sizes up to 2^31 bytes.
const ORDERS: usize = 32;

/// Blocks up to 2^11 bytes are small.
const SMALL: usize = 12;
/// How many bytes of a size wait at most.
const WAITING: usize = 64 << 10;

/// The start of a block that waits.
struct Waiting {
    next: Option<NonNull<Waiting>>,
}

/// Blocks of one size that wait.
struct Shelf {
    first: Option<NonNull<Waiting>>,
    count: usize,
}

struct Blocks {
    heap: Heap<ORDERS>,
    shelves: [Shelf; SMALL],
}

// SAFETY: blocks that wait are nobody else's; they belong to the heap as its own lists do.
unsafe impl Send for Blocks {}

struct Locked(SpinMutex<Blocks>);

#[global_allocator]
static HEAP: Locked =
    Locked(SpinMutex::new(Blocks { heap: Heap::empty(), shelves: [const { Shelf { first: None, count: 0 } }; SMALL] }));

impl Blocks {
    /// Returns where blocks of the size that the heap has for a layout wait, if that is small, and that size.
    #[inline]
    fn shelf(&mut self, layout: Layout) -> Option<(&mut Shelf, usize)> {
        let size = layout.size().max(layout.align()).max(size_of::<usize>()).next_power_of_two();
        Some((self.shelves.get_mut(size.trailing_zeros() as usize)?, size))
    }
}

// SAFETY: `Heap` hands out what `init` gave it, each byte once until it is given back, in blocks of a power of two that are
// aligned to it; one that waits on a shelf was given back by its owner, and leaves the shelf when it gets another.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut blocks = self.0.lock();
        if let Some((shelf, _)) = blocks.shelf(layout)
            && let Some(block) = shelf.first
        {
            // SAFETY: a block on a shelf has its link, and nobody else writes to it.
            shelf.first = unsafe { block.read() }.next;
            shelf.count -= 1;
            return block.as_ptr().cast();
        }
        blocks.heap.alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        let mut blocks = self.0.lock();
        if let Some((shelf, size)) = blocks.shelf(layout)
            && shelf.count < WAITING / size
        {
            let block = pointer.cast::<Waiting>();
            // SAFETY: the block is at least a pointer in size and aligned to its size, and its owner has given it up.
            unsafe { block.write(Waiting { next: shelf.first }) };
            shelf.first = Some(block);
            shelf.count += 1;
            return;
        }
        // SAFETY: the caller promises that this is what `alloc` returned for this layout: a block of the heap of its size.
        unsafe { blocks.heap.dealloc(pointer, layout) };
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
    unsafe { HEAP.0.lock().heap.init(run.start() as usize, size as usize) };
    size
}

/// Returns how many bytes are handed out now, rounded up as they are, with those that wait for who asks next.
pub fn used() -> u64 {
    HEAP.0.lock().heap.stats_alloc_actual() as u64
}
