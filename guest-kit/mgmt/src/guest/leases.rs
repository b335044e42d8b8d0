//! Segments that this guest serves addresses on: `dhcp=NIC:A.B.C.D/N` in the boot arguments, once a segment. Before:
//! [`network`](super::network). After: [`dhcp`](salp_mgmt::dhcp).

use alloc::vec;
use alloc::vec::Vec;

use guest_kit::{machine, println};
use salp_mgmt::dhcp::Server;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv4Cidr};

use super::nic::Nic;
use super::{clock, network};

/// The ports of servers and clients.
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// How many packets wait, and how many bytes they have at most.
const PACKETS: usize = 8;
const BYTES: usize = 8192;

/// A segment, and its server.
pub struct Segment {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    server: Server,
}

/// Reads `NIC:A.B.C.D/N`.
fn parse(text: &str) -> Option<(usize, Ipv4Cidr)> {
    let (index, address) = text.split_once(':')?;
    Some((index.parse().ok().filter(|&index| index > 0)?, address.parse().ok()?))
}

/// Takes the NICs of segments that ask for a server out of `nics`, whose first one is this guest's own.
pub fn segments(nics: &mut Vec<Nic>, dns: Option<Ipv4Address>, seed: u64) -> Vec<Segment> {
    let mut wanted: Vec<(usize, Ipv4Cidr)> = Vec::new();
    for text in machine::bootargs().split_ascii_whitespace().filter_map(|word| word.strip_prefix("dhcp=")) {
        match parse(text).filter(|(index, _)| *index < nics.len() && wanted.iter().all(|(other, _)| other != index)) {
            Some(segment) => wanted.push(segment),
            None => println!("mgmt: dhcp={text} makes no sense: it is NIC:A.B.C.D/N, once a NIC, from NIC 1 on"),
        }
    }
    // From the last one on, so that the others keep their places.
    wanted.sort_by_key(|&(index, _)| core::cmp::Reverse(index));
    wanted.into_iter().map(|(index, own)| Segment::new(nics.remove(index), index, own, dns, seed)).collect()
}

impl Segment {
    fn new(mut nic: Nic, index: usize, own: Ipv4Cidr, dns: Option<Ipv4Address>, seed: u64) -> Self {
        let mut settings = Config::new(EthernetAddress(nic.mac_address()).into());
        settings.random_seed = seed ^ index as u64;
        let mut interface = Interface::new(settings, &mut nic, now());
        interface.update_ip_addrs(|addresses| {
            // It is the first.
            let _ = addresses.push(IpCidr::Ipv4(own));
        });
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; PACKETS], vec![0; BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // The port is no zero, and the socket is new.
        let _ = socket.bind(SERVER);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        println!("mgmt: serves addresses of {own} on NIC {index}");
        Self { nic, interface, sockets, handle, server: Server::new(own, dns) }
    }

    /// Answers what has come; returns after how many milliseconds it wants to go on.
    pub fn drive(&mut self) -> Option<u64> {
        let mut has_more = network::poll(&mut self.interface, &mut self.nic, &mut self.sockets);
        let socket = self.sockets.get_mut::<udp::Socket>(self.handle);
        let mut has_answered = false;
        while let Ok((packet, _)) = socket.recv() {
            if let Some(answer) = self.server.answer(packet, clock::milliseconds() / 1000) {
                // Who has no address yet hears what is said to everybody. A lost answer is asked for again.
                let _ = socket.send_slice(&answer, IpEndpoint::new(Ipv4Address::BROADCAST.into(), CLIENT));
                has_answered = true;
            }
        }
        if has_answered {
            has_more |= network::poll(&mut self.interface, &mut self.nic, &mut self.sockets);
        }
        if has_more {
            return Some(0);
        }
        self.interface.poll_delay(now(), &self.sockets).map(|delay| delay.total_millis())
    }

    /// Returns true if a packet has come.
    pub fn has_packet(&self) -> bool {
        self.nic.has_packet()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.nic.acknowledge();
    }
}

fn now() -> Instant {
    Instant::from_millis(clock::milliseconds() as i64)
}
