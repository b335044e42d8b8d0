//! The machine's console: a line on which programs speak with EL2. Before: [`super`], which finds the device.

use super::{Broken, Host, PAGE, QUEUE, begin, queue, take, take_frames};
use crate::cpu;
use crate::sysreg::dsb;
use core::ops::Range;
use salp_board::facts::Interrupt;
use salp_core::addr::Pa;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

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
        Ok(Self { queue: queue(transport, index)?, index, page, lent: None })
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
        take_frames(&mut frame)?;
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
