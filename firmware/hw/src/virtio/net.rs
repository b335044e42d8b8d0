//! The machine's NIC (Virtio 1.2, 5.1): frames in and out, whole and plain. Before: [`super`], which finds the device.
//!
//! No feature is agreed upon but those of every device: each frame has its checksums and fits one buffer.

use super::{Broken, Host, PAGE, QUEUE, begin, queue, take, take_frames};
use crate::sysreg::dsb;
use salp_board::facts::Interrupt;
use salp_core::addr::Pa;
use salp_core::net::packet::{HEADER, MAX_PLAIN};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

/// The size of a buffer, in bytes: header and frame.
const BUFFER: usize = PAGE / 2;
const PAGES: usize = QUEUE * BUFFER / PAGE;
const _: () = assert!(HEADER + MAX_PLAIN <= BUFFER && QUEUE <= u64::BITS as usize);

/// One direction: a queue, and buffers that go through it. The queue knows a buffer by its number.
struct Way {
    queue: VirtQueue<Host, QUEUE>,
    index: u16,
    pages: [Pa; PAGES],
    /// Which buffers the device has, one bit each.
    lent: u64,
    /// Those that it has not, the one that came back last on top: the queue gives numbers out in the same order.
    free: heapless::Vec<u8, QUEUE>,
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
        Ok(Self { queue: queue(transport, index)?, index, pages, lent: 0, free })
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

    /// Tells the device that it has buffers.
    fn notify(&self, transport: &mut MmioTransport<'_>) {
        // The queue is in memory before the device is told to read it, and before it is asked whether it wants to be told.
        dsb!("sy");
        if self.queue.should_notify() {
            transport.notify(self.index);
        }
    }
}

/// A virtio NIC (device 1).
///
/// Dropping it resets the device.
pub struct Ethernet {
    // Dropped first: a device that was reset leaves the queues alone.
    transport: MmioTransport<'static>,
    interrupt: Interrupt,
    receive: Way,
    transmit: Way,
    /// The length of the frame that arrived last, as long as its buffer is here: on top of the free ones.
    last: Option<usize>,
}

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
        let receive = Way::new(&mut transport, 0, &mut frame)?;
        let mut transmit = Way::new(&mut transport, 1, &mut frame)?;
        transmit.queue.set_dev_notify(false);
        transport.finish_init();
        let mut nic = Self { transport, interrupt: place.interrupt, receive, transmit, last: None };
        nic.lend_all()?;
        Ok(Some(nic))
    }

    /// Returns its interrupt: frames have arrived, or have left after [`tell_of_room`](Self::tell_of_room).
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt
    }

    /// Takes its interrupt: what arrives or leaves after this interrupts anew.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn acknowledge(&mut self) -> Result<(), Broken> {
        self.transport.ack_interrupt();
        if self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return Err(Broken("it says that it needs a reset"));
        }
        Ok(())
    }

    /// Gives the device every buffer to fill that is here, those of frames that were [received](Self::receive) included.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn lend_all(&mut self) -> Result<(), Broken> {
        self.last = None;
        while let Some(number) = self.receive.free.pop() {
            // SAFETY: the device does not have the buffer; it is named again only to take it back.
            let token = unsafe { self.receive.queue.add(&[], &mut [self.receive.buffer(number)]) }?;
            self.receive.lend(number, token)?;
        }
        self.receive.notify(&mut self.transport);
        Ok(())
    }

    /// Copies the next frame that has arrived to `to`. Returns its length; what does not fit is cut off.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<usize>, Broken> {
        let Some(number) = self.receive.used()? else { return Ok(None) };
        // SAFETY: the buffer that this token stands for.
        let written = unsafe { self.receive.queue.pop_used(number.into(), &[], &mut [self.receive.buffer(number)]) }?;
        self.receive.take_back(number);
        let length = (written as usize).checked_sub(HEADER).filter(|&length| length <= BUFFER - HEADER);
        self.last = Some(length.ok_or(Broken("it wrote more or less than a frame"))?);
        Ok(self.repeat(to))
    }

    /// Copies the frame that was [received](Self::receive) last to `to` once more, as long as its buffer was not
    /// [lent](Self::lend_all). Returns its length; what does not fit is cut off.
    pub fn repeat(&self, to: &mut [u8]) -> Option<usize> {
        let (length, &number) = (self.last?, self.receive.free.last()?);
        // SAFETY: the device has given the buffer back, and gets it again later.
        let buffer = unsafe { self.receive.buffer(number) };
        let frame = &buffer[HEADER..][..length.min(to.len())];
        to[..frame.len()].copy_from_slice(frame);
        Some(frame.len())
    }

    /// Returns how many frames there is room for.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn room(&mut self) -> Result<usize, Broken> {
        while let Some(number) = self.transmit.used()? {
            // SAFETY: the buffer that this token stands for; of the bytes that were lent only the first is named: a buffer is
            // one descriptor, whatever its length.
            unsafe { self.transmit.queue.pop_used(number.into(), &[&self.transmit.buffer(number)[..1]], &mut []) }?;
            self.transmit.take_back(number);
        }
        Ok(self.transmit.free.len())
    }

    /// Sends a frame, which is in pieces, if there is [room](Self::room). Returns false if there is none.
    ///
    /// # Errors
    ///
    /// Says why the device must be given up.
    pub fn send(&mut self, pieces: &[&[u8]]) -> Result<bool, Broken> {
        let Some(number) = self.transmit.free.pop() else { return Ok(false) };
        // SAFETY: the device does not have the buffer.
        let buffer = unsafe { self.transmit.buffer(number) };
        buffer[..HEADER].fill(0);
        let mut length = HEADER;
        for piece in pieces {
            // The caller's frames fit: they are plain.
            let Some(room) = buffer.get_mut(length..length + piece.len()) else { break };
            room.copy_from_slice(piece);
            length += piece.len();
        }
        // SAFETY: as above; it is named again only to take it back.
        let token = unsafe { self.transmit.queue.add(&[&buffer[..length]], &mut []) }?;
        self.transmit.lend(number, token)?;
        self.transmit.notify(&mut self.transport);
        Ok(true)
    }

    /// Asks for an interrupt when there is room to send, or for none.
    pub fn tell_of_room(&mut self, wanted: bool) {
        self.transmit.queue.set_dev_notify(wanted);
        dsb!("sy");
    }
}
