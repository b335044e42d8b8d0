//! Virtio devices of the machine on virtio-mmio (Virtio 1.2, 4.2): today its console, a line on which programs speak with
//! EL2. Transport and queues are those of `virtio-drivers`.
//!
//! Devices read and write RAM by physical address, which is EL2's own ([`crate::mmu`]). One that does not ask for
//! VIRTIO_F_ACCESS_PLATFORM sees it as the CPUs do. What a device writes is not trusted: one that breaks the rules of its
//! queues is given up.

use crate::lock::Mutex;
use crate::sysreg::dsb;
use crate::{boot, cpu, memory};
use core::fmt;
use core::ops::Range;
use core::ptr::{NonNull, read_volatile};
use core::sync::atomic::{AtomicU32, Ordering};
use heapless::Vec;
use salp_board::facts::{Interrupt, MAX_VIRTIO, Virtio};
use salp_core::addr::{PAGE_SIZE, Pa};
use virtio_drivers::device::common::Feature;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The registers that a device has at least: its configuration follows them.
const HEADER_SIZE: u64 = size_of::<VirtIOHeader>() as u64;

/// MagicValue, Version and DeviceID, the first registers: "virt" and a device that is not a legacy one.
const MAGIC: u32 = 0x7472_6976;
const MODERN: u32 = 2;

const PAGE: usize = PAGE_SIZE as usize;

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
        // The queues of a device with few buffers take a page each way.
        let frame = if pages == 1 { FRAMES.lock().pop() } else { None };
        frame.and_then(|frame| NonNull::new(frame.0 as *mut u8)).map_or((0, NonNull::dangling()), |page| {
            // SAFETY: a frame that `Line::probe` was given for this.
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

/// How many buffers a queue has room for. The line has one each way.
const QUEUE: usize = 2;

/// One direction of the line: a queue, and the page that goes through it.
struct Way {
    queue: VirtQueue<Host, QUEUE>,
    index: u16,
    page: Pa,
    /// While the device has the page: what the queue knows it by, and how many of its bytes were lent.
    lent: Option<(u16, usize)>,
}

impl Way {
    fn new(transport: &mut MmioTransport<'_>, index: u16, page: Pa) -> Result<Self, Broken> {
        Ok(Self { queue: VirtQueue::new(transport, index, false, false)?, index, page, lent: None })
    }

    /// Returns the page as bytes.
    ///
    /// # Safety
    ///
    /// The device does not have it, or the bytes are only named, not touched; one borrow at a time.
    unsafe fn bytes(&self) -> &'static mut [u8; PAGE] {
        // SAFETY: a frame of the line's own, mapped as itself.
        unsafe { &mut *(self.page.0 as *mut [u8; PAGE]) }
    }

    /// Gives the device the page to fill.
    fn lend(&mut self, transport: &mut MmioTransport<'_>) -> Result<(), Broken> {
        // SAFETY: the page is this way's own, and named again only to take it back.
        let token = unsafe { self.queue.add(&[], &mut [self.bytes()]) }?;
        self.notify(transport, token, PAGE);
        Ok(())
    }

    /// Gives the device the first `length` bytes of the page to take.
    fn post(&mut self, transport: &mut MmioTransport<'_>, length: usize) -> Result<(), Broken> {
        // SAFETY: as in `lend`.
        let token = unsafe { self.queue.add(&[&self.bytes()[..length]], &mut []) }?;
        self.notify(transport, token, length);
        Ok(())
    }

    /// Tells the device that it has the page now.
    fn notify(&mut self, transport: &mut MmioTransport<'_>, token: u16, length: usize) {
        self.lent = Some((token, length));
        // The queue is in memory before the device is told to read it, and before it is asked whether it wants to be told.
        dsb!("sy");
        if self.queue.should_notify() {
            transport.notify(self.index);
        }
    }

    /// Takes back the page that the device has filled, if it has: how many bytes it wrote.
    fn filled(&mut self) -> Result<Option<usize>, Broken> {
        let Some((token, _)) = self.lent.filter(|_| self.queue.can_pop()) else { return Ok(None) };
        // SAFETY: the buffer that this token stands for.
        let written = unsafe { self.queue.pop_used(token, &[], &mut [self.bytes()]) }? as usize;
        self.lent = None;
        if written <= PAGE { Ok(Some(written)) } else { Err(Broken("it wrote more than there was room for")) }
    }

    /// Takes back the page that was posted, if the device has taken what is in it. Returns true if it is here.
    fn is_taken(&mut self) -> Result<bool, Broken> {
        let Some((token, length)) = self.lent else { return Ok(true) };
        if !self.queue.can_pop() {
            return Ok(false);
        }
        // SAFETY: the buffer that this token stands for.
        unsafe { self.queue.pop_used(token, &[&self.bytes()[..length]], &mut []) }?;
        self.lent = None;
        Ok(true)
    }
}

/// How long [`Line::flush`] waits for the device to take a page: a tenth of a second.
const PATIENCE: u64 = 10;

/// A virtio console (device 3, without ports): bytes both ways.
///
/// Dropping it resets the device.
pub struct Line {
    // Dropped first: a device that was reset leaves the queues alone.
    transport: MmioTransport<'static>,
    interrupt: Interrupt,
    input: Way,
    output: Way,
    /// The part of the input page that was not returned yet.
    unread: Range<usize>,
    /// How much of the output page was written, but not sent.
    written: usize,
}

impl Line {
    /// Takes the machine's first virtio console, if it has one. The frames that it needs come from core's frame table:
    /// `frame` allocates one for it alone.
    ///
    /// # Errors
    ///
    /// Says why there is one that cannot be used.
    pub fn probe(mut frame: impl FnMut() -> Option<Pa>) -> Result<Option<Self>, Broken> {
        let Some((mut transport, place)) = take(DeviceType::Console) else { return Ok(None) };
        let mut frame = || frame().ok_or(Broken("there is no memory for its queues"));
        begin(&mut transport)?;
        for _ in 0..4 {
            // Two queues of two pages; more than there is room for was left by a device that failed.
            let _ = FRAMES.lock().push(frame()?);
        }
        let mut input = Way::new(&mut transport, 0, frame()?)?;
        let mut output = Way::new(&mut transport, 1, frame()?)?;
        output.queue.set_dev_notify(false);
        transport.finish_init();
        input.lend(&mut transport)?;
        Ok(Some(Self { transport, interrupt: place.interrupt, input, output, unread: 0..0, written: 0 }))
    }

    /// Returns its interrupt: bytes have arrived.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt
    }

    /// Returns the next byte that has arrived, if there is one. What arrives after it returned `None` interrupts.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn receive(&mut self) -> Result<Option<u8>, Broken> {
        loop {
            if let Some(at) = self.unread.next() {
                // SAFETY: the device gave the page back and gets it again below, when all of it was read.
                let byte = unsafe { self.input.bytes() }[at];
                if self.unread.is_empty() {
                    self.input.lend(&mut self.transport)?;
                }
                return Ok(Some(byte));
            }
            match self.input.filled()? {
                Some(0) => self.input.lend(&mut self.transport)?,
                Some(length) => self.unread = 0..length,
                None => {
                    // Acknowledged before the last look: what comes later raises the interrupt anew.
                    if self.transport.ack_interrupt() == InterruptStatus::empty() {
                        return Ok(None);
                    }
                    if self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
                        return Err(Broken("it says that it needs a reset"));
                    }
                }
            }
        }
    }

    /// Writes bytes. They go out in pages, the last by [`flush`](Self::flush); they are dropped while the device has not
    /// taken the page before.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() && self.output.is_taken()? {
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - self.written));
            // SAFETY: the device does not have the page.
            let page = unsafe { self.output.bytes() };
            page[self.written..][..now.len()].copy_from_slice(now);
            self.written += now.len();
            if self.written == PAGE {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Sends what was written, and waits a while until the device has taken it. QEMU does so at once: it drops what its
    /// reader is too slow for, or everything if there is none.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn flush(&mut self) -> Result<(), Broken> {
        if self.written == 0 {
            return Ok(());
        }
        self.output.post(&mut self.transport, core::mem::take(&mut self.written))?;
        let start = cpu::counter();
        while !self.output.is_taken()? && cpu::counter().wrapping_sub(start) < cpu::counter_frequency() / PATIENCE {
            core::hint::spin_loop();
        }
        Ok(())
    }
}
