//! A network device whose packets leave while the guest goes on. Before: a network stack. After: `virtio-drivers`.
//!
//! Buffers belong to this driver for good and to the device while they are in its queues: nobody else can touch them then.

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use virtio_drivers::Result;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::mmio::MmioTransport;

use super::virtio::Machine;

/// The size of a buffer: the greatest Ethernet frame, and what the device puts before it.
const BUFFER: usize = 2048;

type Buffer = Box<[u8]>;

/// A network device, with so many packets under way in each direction.
pub struct Nic<const QUEUE: usize> {
    // Dropped first: then the device lets go of the buffers. In the heap: its queues are many kilobytes, which would go through
    // the stack as often as this moves.
    raw: Box<VirtIONetRaw<Machine, MmioTransport<'static>, QUEUE>>,
    receiving: Vec<Option<Buffer>>,
    /// With how many bytes of each are sent.
    sending: Vec<Option<(Buffer, usize)>>,
    spare: Vec<Buffer>,
}

/// Apart, so that the stack has them no longer than they take to be made.
#[inline(never)]
fn queues<const QUEUE: usize>(
    transport: MmioTransport<'static>,
) -> Result<Box<VirtIONetRaw<Machine, MmioTransport<'static>, QUEUE>>> {
    VirtIONetRaw::new(transport).map(Box::new)
}

fn buffer() -> Buffer {
    vec![0; BUFFER].into_boxed_slice()
}

impl<const QUEUE: usize> Nic<QUEUE> {
    /// Resets the device and gives it buffers.
    ///
    /// # Errors
    ///
    /// If it is no network device that works.
    pub fn new(transport: MmioTransport<'static>) -> Result<Self> {
        let none = || (0..QUEUE).map(|_| None).collect::<Vec<_>>();
        let mut nic = Self {
            raw: queues(transport)?,
            receiving: none(),
            sending: (0..QUEUE).map(|_| None).collect(),
            spare: (0..QUEUE).map(|_| buffer()).collect(),
        };
        nic.raw.enable_interrupts();
        for _ in 0..QUEUE {
            nic.give(buffer())?;
        }
        Ok(nic)
    }

    /// Gives the device a buffer for a packet.
    fn give(&mut self, mut buffer: Buffer) -> Result<()> {
        // SAFETY: the buffer is kept, untouched, until the device has used it: `receiving` owns it, and `receive` looks at it
        // only when its token comes back. Moving the box does not move the bytes.
        let token = unsafe { self.raw.receive_begin(&mut buffer) }?;
        self.receiving[usize::from(token)] = Some(buffer);
        Ok(())
    }

    /// Returns the MAC address.
    pub fn mac_address(&self) -> [u8; 6] {
        self.raw.mac_address()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.raw.ack_interrupt();
    }

    /// Returns true if a packet has come.
    pub fn has_packet(&self) -> bool {
        self.raw.poll_receive().is_some()
    }

    /// Returns the next packet that has come.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let token = self.raw.poll_receive()?;
        let mut buffer = self.receiving[usize::from(token)].take()?;
        // SAFETY: this is the buffer that was given for this token.
        let done = unsafe { self.raw.receive_complete(token, &mut buffer) };
        let packet = done.ok().and_then(|(head, length)| buffer.get(head..head + length)).map(<[u8]>::to_vec);
        // It had a place, so there is one.
        let _ = self.give(buffer);
        packet
    }

    /// Takes back what the device has sent, and returns whether there is room for a packet.
    pub fn can_send(&mut self) -> bool {
        while let Some(token) = self.raw.poll_transmit() {
            let Some((buffer, length)) = self.sending[usize::from(token)].take() else { break };
            // SAFETY: this is the buffer, and the part of it, that was sent with this token.
            let _ = unsafe { self.raw.transmit_complete(token, &buffer[..length]) };
            self.spare.push(buffer);
        }
        !self.spare.is_empty() && self.raw.can_send()
    }

    /// Sends a packet of so many bytes that `write` makes. It is lost if there is no room, as packets may be.
    pub fn send<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let has_room = self.can_send();
        let mut buffer = if has_room { self.spare.pop() } else { None }.unwrap_or_else(buffer);
        let head = self.raw.fill_buffer_header(&mut buffer).unwrap_or(0);
        let end = (head + length).min(BUFFER);
        let result = write(&mut buffer[head..end]);
        if has_room {
            // SAFETY: the buffer is kept, untouched, until the device has sent it: `sending` owns it, and `can_send` takes it
            // back only when its token does. Moving the box does not move the bytes.
            match unsafe { self.raw.transmit_begin(&buffer[..end]) } {
                Ok(token) => self.sending[usize::from(token)] = Some((buffer, end)),
                Err(_) => self.spare.push(buffer),
            }
        }
        result
    }
}
