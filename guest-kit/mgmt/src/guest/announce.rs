//! Tells neighbours that an IPv4 address is here now. Before: [`network`](super::network). After: the NIC.
//!
//! The MAC address is another one after each start of the machine, and a neighbour that remembers the one before would send there
//! until it hears something else.

use smoltcp::phy::{Device, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Address};

use super::nic::Nic;

/// Sends an announcement (RFC 5227 section 3). Returns false if there is no room for it.
pub fn announce(nic: &mut Nic, address: Ipv4Address, now: Instant) -> bool {
    let mac = EthernetAddress(nic.mac_address());
    let Some(token) = nic.transmit(now) else { return false };
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    token.consume(EthernetFrame::<&[u8]>::header_len() + arp.buffer_len(), |buffer| {
        let mut frame = EthernetFrame::new_unchecked(buffer);
        frame.set_dst_addr(EthernetAddress::BROADCAST);
        frame.set_src_addr(mac);
        frame.set_ethertype(EthernetProtocol::Arp);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    });
    true
}
