//! Time servers, asked over UDP. Before: [`network`](super::network). After: [`sntp`](salp_mgmt::sntp), which knows what to ask and
//! what to believe.

use alloc::vec;
use core::net::IpAddr;

use guest_kit::println;
use salp_mgmt::service::Service;
use salp_mgmt::sntp::{PORT, Sntp};
use salp_provider::entropy::Entropy;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::wire::{IpAddress, IpEndpoint};

use super::clock;
use super::names::{Answer, Names};

/// Our port.
const OWN: u16 = 1123;
/// How many packets wait, and how many bytes they have at most.
const PACKETS: usize = 4;
const BYTES: usize = 512;

/// A client of time servers.
pub struct Time {
    handle: SocketHandle,
    sntp: Sntp,
    asked: Option<IpAddress>,
}

impl Time {
    /// Returns one that has asked nobody.
    pub fn new(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; PACKETS], vec![0; BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // The port is no zero, and the socket is new.
        let _ = socket.bind(OWN);
        Self { handle: sockets.add(socket), sntp: Sntp::default(), asked: None }
    }

    /// Asks if it is time to, and sets the clock by an answer that makes sense.
    pub fn drive(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        names: &mut Names,
        service: &mut Service,
        entropy: &dyn Entropy,
    ) {
        let now = clock::milliseconds();
        while let Ok((packet, from)) = sockets.get_mut::<udp::Socket<'_>>(self.handle).recv() {
            if self.asked != Some(from.endpoint.addr) {
                continue;
            }
            let Ok(shows) = service.clock() else { continue };
            if let Some(time) = self.sntp.hear(packet, now, shows)
                && service.set_clock(time, clock::seconds()).is_ok()
            {
                println!("mgmt: the clock is set by {}", from.endpoint.addr);
            }
        }
        let settings = service.appliance.settings();
        let count = if settings.asks_time { settings.time_servers.len() } else { 0 };
        let Some(server) = self.sntp.due(now, count).and_then(|index| settings.time_servers.get(index)) else { return };
        let found = match server.parse::<IpAddr>() {
            Ok(address) => Answer::Found(address.into()),
            Err(_) => names.look_up(interface, sockets, server),
        };
        match found {
            Answer::Wait => {}
            Answer::None => self.sntp.skip(now),
            Answer::Found(address) => {
                let mut random = [0; 8];
                entropy.fill(&mut random);
                let question = self.sntp.ask(now, u64::from_le_bytes(random));
                self.asked = Some(address);
                // A question that is lost is asked again.
                let socket = sockets.get_mut::<udp::Socket<'_>>(self.handle);
                let _ = socket.send_slice(&question, IpEndpoint::new(address, PORT));
            }
        }
    }
}
