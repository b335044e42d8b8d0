//! A heap in the RAM that nothing else uses. Before: `main` of a guest that wants one. After: [`ram`](super::ram).
//!
//! Each call takes the same time, whatever was asked for before (two-level segregated fit). Allocation takes a lock; interrupt
//! handlers do not allocate. Small blocks that come back wait for who asks next: what is kept for a request is small, lives
//! shortly, and would be split and joined again each time.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use rlsf::Tlsf;
use spin::mutex::SpinMutex;

use super::ram;

/// Classes of sizes by powers of two, the largest below 2 GiB, and how many there are in each.
const CLASSES: usize = 26;
const STEPS: usize = 32;

/// Blocks up to 2^11 bytes are small, unless they are aligned to more than this.
const SMALL: usize = 12;
const ALIGN: usize = 16;
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
    heap: Tlsf<'static, u32, u32, CLASSES, STEPS>,
    shelves: [Shelf; SMALL],
}

// SAFETY: blocks that wait are nobody else's; they belong to the heap as its own lists do.
unsafe impl Send for Blocks {}

struct Locked(SpinMutex<Blocks>);

#[global_allocator]
static HEAP: Locked =
    Locked(SpinMutex::new(Blocks { heap: Tlsf::new(), shelves: [const { Shelf { first: None, count: 0 } }; SMALL] }));

/// Returns what is asked of the heap for a small block of this layout: all of one size are alike.
#[inline]
fn small(layout: Layout) -> Option<Layout> {
    let size = layout.size().max(size_of::<Waiting>()).next_power_of_two();
    if layout.align() > ALIGN || size.trailing_zeros() as usize >= SMALL {
        return None;
    }
    Layout::from_size_align(size, ALIGN).ok()
}

impl Blocks {
    /// Returns where small blocks of this layout wait.
    #[inline]
    fn shelf(&mut self, small: Layout) -> Option<&mut Shelf> {
        self.shelves.get_mut(small.size().trailing_zeros() as usize)
    }
}

// SAFETY: `Tlsf` hands out what `init` gave it, each byte once until it is given back, as layouts want it; a block that waits on a
// shelf was given back by its owner, and leaves the shelf when it gets another.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut blocks = self.0.lock();
        let small = small(layout);
        if let Some(shelf) = small.and_then(|small| blocks.shelf(small))
            && let Some(block) = shelf.first
        {
            // SAFETY: a block on a shelf has its link, and nobody else writes to it.
            shelf.first = unsafe { block.read() }.next;
            shelf.count -= 1;
            return block.as_ptr().cast();
        }
        blocks.heap.allocate(small.unwrap_or(layout)).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        let mut blocks = self.0.lock();
        let small = small(layout);
        if let Some(small) = small
            && let Some(shelf) = blocks.shelf(small)
            && shelf.count < WAITING / small.size()
        {
            let block = pointer.cast::<Waiting>();
            // SAFETY: the block has room for a link and is aligned for it, and its owner has given it up.
            unsafe { block.write(Waiting { next: shelf.first }) };
            shelf.first = Some(block);
            shelf.count += 1;
            return;
        }
        // SAFETY: the caller promises that this is what `alloc` returned for this layout, for which it asked the heap for this.
        unsafe { blocks.heap.deallocate(pointer, small.unwrap_or(layout).align()) };
    }
}

/// Makes the largest run of free RAM the heap, and returns how many bytes that is.
///
/// # Panics
///
/// If anybody has asked for free RAM before, or there is none.
pub fn init() -> u64 {
    let run = ram::Ram::take();
    let size = run.end() - run.start();
    let start = NonNull::new(ptr::with_exposed_provenance_mut(run.start() as usize)).expect("RAM is not at 0");
    let block = NonNull::slice_from_raw_parts(start, size as usize);
    // SAFETY: `take` gives this run to nobody else, before or after: no other pointer leads there.
    let taken = unsafe { HEAP.0.lock().heap.insert_free_block_ptr(block) };
    taken.expect("there is room for a heap").get() as u64
}
