//! Network devices as smoltcp sees them. Before: [`network`](super::network), [`leases`](super::leases). After: guest-kit's
//! driver.

use alloc::vec::Vec;

use guest_kit::rt::net;
use guest_kit::rt::virtio;
use guest_kit::{gic, machine};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use virtio_drivers::transport::{DeviceType, Transport};

/// Packets that a device can have under way in each direction: one that finds no buffer is lost, and TCP waits a second before
/// it sends it again. Each of so many connections has a few while one of them is served.
const QUEUE: usize = 256;
/// The greatest Ethernet frame.
const FRAME: usize = 1514;

/// A network device.
pub struct Nic(net::Nic<QUEUE>);

/// Returns all network devices in the order of their addresses, and enables their interrupts.
pub fn all() -> Vec<Nic> {
    let start = |index| {
        let (transport, intid) = virtio::transport(index)?;
        if transport.device_type() != DeviceType::Network {
            return None;
        }
        let nic = net::Nic::new(transport).ok()?;
        gic::enable(intid);
        Some(Nic(nic))
    };
    (0..machine::virtio().len()).filter_map(start).collect()
}

impl Nic {
    /// Returns the MAC address.
    pub fn mac_address(&self) -> [u8; 6] {
        self.0.mac_address()
    }

    /// Returns true if a packet has come.
    pub fn has_packet(&self) -> bool {
        self.0.has_packet()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.0.acknowledge();
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        // What has come may have to be answered.
        if !self.0.can_send() {
            return None;
        }
        let packet = self.0.receive()?;
        Some((Received(packet), Sending(&mut self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        self.0.can_send().then_some(Sending(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub struct Sending<'a>(&'a mut net::Nic<QUEUE>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.0.send(length, write)
    }
}
