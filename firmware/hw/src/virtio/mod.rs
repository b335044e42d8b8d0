//! Virtio devices of the machine on virtio-mmio (Virtio 1.2, 4.2). Transport and queues are those of `virtio-drivers`.
//!
//! - [`console`]: a line on which programs speak with EL2.
//! - [`net`]: the machine's NIC.
//!
//! Devices read and write RAM by physical address, which is EL2's own ([`crate::mmu`]). One that does not ask for
//! VIRTIO_F_ACCESS_PLATFORM sees it as the CPUs do. What a device writes is not trusted: one that breaks the rules of its
//! queues is given up.

pub mod console;
pub mod net;

use crate::lock::Mutex;
use crate::{boot, memory};
use core::fmt;
use core::ptr::{NonNull, read_volatile};
use core::sync::atomic::{AtomicU32, Ordering};
use heapless::Vec;
use salp_board::facts::{MAX_VIRTIO, Virtio};
use salp_core::addr::{PAGE_SIZE, Pa};
use virtio_drivers::device::common::Feature;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The registers that a device has at least: its configuration follows them.
const HEADER_SIZE: u64 = size_of::<VirtIOHeader>() as u64;

/// MagicValue, Version and DeviceID, the first registers: "virt" and a device that is not a legacy one.
const MAGIC: u32 = 0x7472_6976;
const MODERN: u32 = 2;

const PAGE: usize = PAGE_SIZE as usize;

/// How many buffers a queue has room for: one size, so that there is one queue's code. The console has one each way.
pub const QUEUE: usize = 64;

/// Why a device is given up, in the words of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(&'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<virtio_drivers::Error> for Broken {
    fn from(error: virtio_drivers::Error) -> Self {
        Self(match error {
            virtio_drivers::Error::AlreadyUsed => "its queues are in use after a reset",
            virtio_drivers::Error::InvalidParam => "its queues are too short",
            virtio_drivers::Error::DmaError => "there is no memory for its queues",
            virtio_drivers::Error::WrongToken => "it returned a buffer that it was not given",
            _ => "its queues are in disorder",
        })
    }
}

/// Which places of the board are driven, one bit each: a device has one driver.
static TAKEN: AtomicU32 = AtomicU32::new(0);
const _: () = assert!(MAX_VIRTIO <= u32::BITS as usize);

/// Takes the first device of a kind that nobody drives yet.
fn take(kind: DeviceType) -> Option<(MmioTransport<'static>, &'static Virtio)> {
    boot::get().board.virtio.iter().enumerate().find_map(|(index, place)| {
        let size = place.registers.end - place.registers.start;
        let registers = NonNull::new(place.registers.start as *mut u32).filter(|base| base.is_aligned())?;
        if size < HEADER_SIZE {
            return None;
        }
        // SAFETY: registers from the device tree, mapped as device memory; reading these has no effect. No transport is
        // made for other devices: dropping one resets its device.
        let [magic, version, id] = core::array::from_fn(|at| unsafe { read_volatile(registers.as_ptr().add(at)) });
        if (magic, version, id) != (MAGIC, MODERN, kind as u32)
            || TAKEN.fetch_or(1 << index, Ordering::Relaxed) >> index & 1 != 0
        {
            return None;
        }
        // SAFETY: as above; aligned, and the size was checked; nobody else got this place.
        let transport = unsafe { MmioTransport::new(registers.cast(), size as usize) }.ok()?;
        Some((transport, place))
    })
}

/// Takes frames for the rings of a device with two queues of one page each way.
fn take_frames(frame: &mut impl FnMut() -> Result<Pa, Broken>) -> Result<(), Broken> {
    for _ in 0..4 {
        // More than there is room for was left by a device that failed.
        let _ = FRAMES.lock().push(frame()?);
    }
    Ok(())
}

/// Does the steps of a device's start (Virtio 1.2, 3.1.1) up to its queues, with no features but those of every device.
fn begin(transport: &mut MmioTransport<'_>) -> Result<(), Broken> {
    const ACCEPTED: DeviceStatus =
        DeviceStatus::ACKNOWLEDGE.union(DeviceStatus::DRIVER).union(DeviceStatus::FEATURES_OK);
    transport.set_status(DeviceStatus::empty());
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
    transport.write_driver_features(Feature::VERSION_1.bits());
    transport.set_status(ACCEPTED);
    if transport.get_status().contains(ACCEPTED) {
        Ok(())
    } else {
        Err(Broken("it insists on features that EL2 lacks"))
    }
}

/// Frames for queues, until a device takes them.
static FRAMES: Mutex<Vec<Pa, 4>> = Mutex::new(Vec::new());

/// What `virtio-drivers` wants of its host.
struct Host;

// SAFETY: pages come one by one, zeroed, from frames that were given for devices alone and are given out once; physical
// addresses are EL2's own.
unsafe impl Hal for Host {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // The queues of devices with up to 128 buffers take a page each way.
        let frame = if pages == 1 { FRAMES.lock().pop() } else { None };
        frame.and_then(|frame| NonNull::new(frame.0 as *mut u8)).map_or((0, NonNull::dangling()), |page| {
            // SAFETY: a frame that a device's `probe` was given for this.
            unsafe { memory::zero(Pa(page.as_ptr() as u64), PAGE_SIZE) };
            (page.as_ptr() as PhysAddr, page)
        })
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // A device that was given up is not trusted to leave them alone.
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Makes a queue of a device.
#[inline(never)] // Not once for each device.
fn queue(transport: &mut MmioTransport<'_>, index: u16) -> Result<VirtQueue<Host, QUEUE>, Broken> {
    Ok(VirtQueue::new(transport, index, false, false)?)
}
