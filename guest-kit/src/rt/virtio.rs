//! What drivers of virtio devices need of the machine. Before: `virtio-drivers`. After: the heap, and device registers.
//!
//! Memory is mapped as itself, and devices see the same caches: sharing a buffer is telling its address.

extern crate alloc;

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use super::mmio;
use crate::machine;

/// This machine, as drivers see it.
#[derive(Debug)]
pub struct Machine;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok().filter(|layout| layout.size() > 0)
}

// SAFETY: pages come from the heap, aligned, zeroed and used by nobody else until they are given back; RAM is mapped as
// itself, so that addresses are physical.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let pointer = layout(pages).and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        // The driver takes address 0 for a failure and uses no pointer then.
        pointer.map_or((0, NonNull::dangling()), |pointer| (pointer.as_ptr().expose_provenance() as u64, pointer))
    }

    unsafe fn dma_dealloc(_: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = layout(pages) else { return -1 };
        // SAFETY: the caller promises that this is what `dma_alloc` returned for as many pages.
        unsafe { dealloc(pointer.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(ptr::with_exposed_provenance_mut(address as usize)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as u64
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Devices that were handed out, a bit each.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Bytes of registers of a device.
const REGISTERS: usize = 0x200;

/// Returns the virtio device at the `index`th place that the device tree names, and its interrupt; none where there is no
/// place, no device at it, or it was handed out before.
pub fn transport(index: usize) -> Option<(MmioTransport<'static>, u32)> {
    let &(address, intid) = machine::virtio().get(index)?;
    let bit = 1u32.checked_shl(index as u32)?;
    if address == 0 || address + REGISTERS as u64 > mmio::END || TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return None;
    }
    let header = NonNull::new(ptr::with_exposed_provenance_mut::<VirtIOHeader>(address as usize))?;
    // SAFETY: below RAM are devices only, the device tree names one here, and `TAKEN` hands each of them out once.
    let transport = unsafe { MmioTransport::new(header, REGISTERS) }.ok()?;
    Some((transport, intid))
}
