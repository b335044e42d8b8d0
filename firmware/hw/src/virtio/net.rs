//! The machine's NIC (Virtio 1.2, 5.1): frames in and out, whole and plain. Before: [`super`], which finds the device.
//!
//! No feature is agreed upon but those of every device: each frame has its checksums and fits one buffer.

use super::{Broken, Host, PAGE, QUEUE, begin, queue, take, take_frames};
use crate::lock::Mutex;
use crate::sysreg::dsb;
use core::sync::atomic::{AtomicBool, Ordering};
use salp_board::facts::Interrupt;
use salp_core::addr::Pa;
use salp_core::net::packet::{HEADER, MAX_PLAIN};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

/// The size of a buffer, in bytes: header and frame.
const BUFFER: usize = PAGE / 2;
const PAGES: usize = QUEUE * BUFFER / PAGE;
const _: () = assert!(HEADER + MAX_PLAIN <= BUFFER && QUEUE <= u64::BITS as usize);

/// Where QueueNotify is among the registers (Virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// One direction: a queue, and buffers that go through it. The queue knows a buffer by its number.
struct Way {
    queue: VirtQueue<Host, QUEUE>,
    index: u16,
    pages: [Pa; PAGES],
    /// Which buffers the device has, one bit each.
    lent: u64,
    /// Those that it has not, the one that came back last on top: the queue gives numbers out in the same order.
    free: heapless::Vec<u8, QUEUE>,
    /// The device has buffers that it was not told of.
    has_news: bool,
}

impl Way {
    fn new(
        transport: &mut MmioTransport<'_>,
        index: u16,
        frame: &mut impl FnMut() -> Result<Pa, Broken>,
    ) -> Result<Self, Broken> {
        let mut pages = [Pa(0); PAGES];
        for page in &mut pages {
            *page = frame()?;
        }
        let free = (0..QUEUE as u8).rev().collect();
        Ok(Self { queue: queue(transport, index)?, index, pages, lent: 0, free, has_news: false })
    }

    /// Returns a buffer as bytes.
    ///
    /// # Safety
    ///
    /// The device does not have it, or the bytes are only named, not touched; one borrow at a time.
    unsafe fn buffer(&self, number: u8) -> &'static mut [u8; BUFFER] {
        let at = usize::from(number) * BUFFER;
        // SAFETY: in a frame of this way's own, mapped as itself; aligned for bytes.
        unsafe { &mut *((self.pages[at / PAGE % PAGES].0 + (at % PAGE) as u64) as *mut [u8; BUFFER]) }
    }

    /// Notes that the device has a buffer that the queue knows by this token.
    fn lend(&mut self, number: u8, token: u16) -> Result<(), Broken> {
        self.lent |= 1 << (number % 64);
        self.has_news = true;
        if token == number.into() { Ok(()) } else { Err(Broken("its buffers are out of order")) }
    }

    /// Returns the buffer that the device has used next, if it has used one.
    fn used(&self) -> Result<Option<u8>, Broken> {
        match self.queue.peek_used() {
            None => Ok(None),
            Some(token) if usize::from(token) < QUEUE && self.lent >> token & 1 != 0 => Ok(Some(token as u8)),
            Some(_) => Err(virtio_drivers::Error::WrongToken.into()),
        }
    }

    fn take_back(&mut self, number: u8) {
        self.lent &= !(1 << (number % 64));
        let _ = self.free.push(number);
    }

    /// Returns the queue of which the device is to be told that it has buffers, once for each time that it gets some.
    fn take_news(&mut self) -> Option<u16> {
        if !core::mem::take(&mut self.has_news) {
            return None;
        }
        // The queue is in memory before the device is told to read it, and before it is asked whether it wants to be told.
        dsb!("sy");
        self.queue.should_notify().then_some(self.index)
    }
}

/// The way in: frames that arrive.
pub struct Incoming {
    way: Way,
    /// The length of the frame that arrived last, as long as its buffer is here: on top of the free ones.
    last: Option<usize>,
}

impl Incoming {
    /// Gives the device every buffer to fill that is here, those of frames that were [received](Self::receive) included.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn lend_all(&mut self) -> Result<(), Broken> {
        self.last = None;
        while let Some(number) = self.way.free.pop() {
            // SAFETY: the device does not have the buffer; it is named again only to take it back.
            let token = unsafe { self.way.queue.add(&[], &mut [self.way.buffer(number)]) }?;
            self.way.lend(number, token)?;
        }
        Ok(())
    }

    /// Copies the next frame that has arrived to `to`. Returns its length; what does not fit is cut off.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<usize>, Broken> {
        let Some(number) = self.way.used()? else { return Ok(None) };
        // SAFETY: the buffer that this token stands for.
        let written = unsafe { self.way.queue.pop_used(number.into(), &[], &mut [self.way.buffer(number)]) }?;
        self.way.take_back(number);
        let length = (written as usize).checked_sub(HEADER).filter(|&length| length <= BUFFER - HEADER);
        self.last = Some(length.ok_or(Broken("it wrote more or less than a frame"))?);
        Ok(self.repeat(to))
    }

    /// Copies the frame that was [received](Self::receive) last to `to` once more, as long as its buffer was not
    /// [lent](Self::lend_all). Returns its length; what does not fit is cut off.
    pub fn repeat(&self, to: &mut [u8]) -> Option<usize> {
        let (length, &number) = (self.last?, self.way.free.last()?);
        // SAFETY: the device has given the buffer back, and gets it again later.
        let buffer = unsafe { self.way.buffer(number) };
        let frame = &buffer[HEADER..][..length.min(to.len())];
        to[..frame.len()].copy_from_slice(frame);
        Some(frame.len())
    }
}

/// The way out: frames that leave.
pub struct Outgoing {
    way: Way,
}

impl Outgoing {
    /// Returns how many frames there is room for.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn room(&mut self) -> Result<usize, Broken> {
        while let Some(number) = self.way.used()? {
            // SAFETY: the buffer that this token stands for; of the bytes that were lent only the first is named: a buffer is
            // one descriptor, whatever its length.
            unsafe { self.way.queue.pop_used(number.into(), &[&self.way.buffer(number)[..1]], &mut []) }?;
            self.way.take_back(number);
        }
        Ok(self.way.free.len())
    }

    /// Sends a frame, which is in pieces, if there is [room](Self::room). Returns false if there is none.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn send(&mut self, pieces: &[&[u8]]) -> Result<bool, Broken> {
        let Some(number) = self.way.free.pop() else { return Ok(false) };
        // SAFETY: the device does not have the buffer.
        let buffer = unsafe { self.way.buffer(number) };
        buffer[..HEADER].fill(0);
        let mut length = HEADER;
        for piece in pieces {
            // The caller's frames fit: they are plain.
            let Some(room) = buffer.get_mut(length..length + piece.len()) else { break };
            room.copy_from_slice(piece);
            length += piece.len();
        }
        // SAFETY: as above; it is named again only to take it back.
        let token = unsafe { self.way.queue.add(&[&buffer[..length]], &mut []) }?;
        self.way.lend(number, token)?;
        Ok(true)
    }

    /// Asks for an interrupt when there is room to send, or for none.
    pub fn tell_of_room(&mut self, wanted: bool) {
        self.way.queue.set_dev_notify(wanted);
        dsb!("sy");
    }
}

/// A virtio NIC (device 1). Its two ways and its interrupt are locked each for itself, and none while the device is told of
/// buffers: that takes as long as the device wants.
///
/// It has its buffers for good, given up or not: a device that is not trusted may write to them after its reset.
pub struct Ethernet {
    registers: Mutex<MmioTransport<'static>>,
    /// QueueNotify, which is only written.
    doorbell: *mut u32,
    interrupt: Interrupt,
    is_given_up: AtomicBool,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
}

// SAFETY: everything but the doorbell is locked or never changes, and a store to that register is one of any CPU's.
unsafe impl Send for Ethernet {}
// SAFETY: as above.
unsafe impl Sync for Ethernet {}

impl Ethernet {
    /// Takes the machine's first virtio NIC, if it has one. The frames that it needs come from core's frame table: `frame`
    /// allocates one for it alone.
    ///
    /// # Errors
    ///
    /// Says why there is one that cannot be used.
    #[inline(always)] // Made in place.
    pub fn probe(mut frame: impl FnMut() -> Option<Pa>) -> Result<Option<Self>, Broken> {
        let Some((mut transport, place)) = take(DeviceType::Network) else { return Ok(None) };
        let mut frame = || frame().ok_or(Broken("there is no memory for its queues"));
        begin(&mut transport)?;
        take_frames(&mut frame)?;
        let incoming = Incoming { way: Way::new(&mut transport, 0, &mut frame)?, last: None };
        let mut outgoing = Outgoing { way: Way::new(&mut transport, 1, &mut frame)? };
        outgoing.way.queue.set_dev_notify(false);
        transport.finish_init();
        Ok(Some(Self {
            registers: Mutex::new(transport),
            doorbell: (place.registers.start + QUEUE_NOTIFY) as *mut u32,
            interrupt: place.interrupt,
            is_given_up: AtomicBool::new(false),
            incoming: Mutex::new(incoming),
            outgoing: Mutex::new(outgoing),
        }))
    }

    /// Returns its interrupt: frames have arrived, or have left after [`tell_of_room`](Outgoing::tell_of_room).
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt
    }

    /// Takes its interrupt: what arrives or leaves after this interrupts anew.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn acknowledge(&self) -> Result<(), Broken> {
        let mut registers = self.registers.lock();
        // One that needs a reset says that its configuration has changed (Virtio 1.2, 2.1.2).
        if registers.ack_interrupt().contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
            && registers.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
        {
            return Err(Broken("it says that it needs a reset"));
        }
        Ok(())
    }

    /// Does something with what arrives, and tells the device of buffers that it got.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn incoming(&self, act: &mut dyn FnMut(&mut Incoming) -> Result<(), Broken>) -> Result<(), Broken> {
        let mut incoming = self.incoming.lock();
        let result = act(&mut incoming);
        let news = incoming.way.take_news();
        drop(incoming);
        self.tell(news);
        result
    }

    /// Does something with what leaves, and tells the device of frames that it got.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn outgoing(&self, act: &mut dyn FnMut(&mut Outgoing) -> Result<(), Broken>) -> Result<(), Broken> {
        let mut outgoing = self.outgoing.lock();
        let result = act(&mut outgoing);
        let news = outgoing.way.take_news();
        drop(outgoing);
        self.tell(news);
        result
    }

    fn tell(&self, queue: Option<u16>) {
        if let Some(queue) = queue {
            // SAFETY: a register of this device, mapped as device memory; a number of a queue of its own. A device that was reset
            // meanwhile has no queue.
            unsafe { self.doorbell.write_volatile(queue.into()) };
        }
    }

    /// Resets the device for good. Returns false if it was given up before.
    pub fn give_up(&self) -> bool {
        let is_first = !self.is_given_up.swap(true, Ordering::Relaxed);
        if is_first {
            self.registers.lock().set_status(DeviceStatus::empty());
        }
        is_first
    }

    /// Returns whether it was [given up](Self::give_up).
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }
}
