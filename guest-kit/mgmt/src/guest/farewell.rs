//! The end of connections that were lost when this guest was brought back to its checkpoint. Before:
//! [`network`](super::network). After: [`peers`](salp_mgmt::peers), and smoltcp's raw sockets.

use alloc::vec;
use alloc::vec::Vec;

use salp_mgmt::peers::Peer;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::raw;
use smoltcp::wire::{IpProtocol, IpVersion};

/// How often each peer is asked, and how far the numbers of it are from each other.
const ROUNDS: u32 = 4;
const STEP: u32 = u32::MAX / ROUNDS;
/// The time between two, in milliseconds.
const PAUSE: u64 = 1000;
/// After how many milliseconds without the address of then it is given up.
const PATIENCE: u64 = 60_000;
/// The greatest packet of this kind, in bytes.
const PACKET: usize = 60;

/// Who is to be told, and how far that is.
pub struct Farewell {
    peers: Vec<Peer>,
    round: u32,
    due: u64,
    end: u64,
    /// Present only while there is something to send: what they see, TCP answers to with no reset.
    raw: Vec<SocketHandle>,
}

impl Farewell {
    /// Returns the farewell to these peers, from `now` on, in milliseconds.
    pub fn new(peers: Vec<Peer>, now: u64) -> Self {
        Self { peers, round: 0, due: now, end: now + PATIENCE, raw: Vec::new() }
    }

    /// Returns who may still wait.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Prepares packets if it is time to. Returns after how many milliseconds it wants to go on; `None` if it is over.
    pub fn prepare(&mut self, interface: &Interface, sockets: &mut SocketSet<'_>, now: u64) -> Option<u64> {
        if self.peers.is_empty() {
            return None;
        }
        if now < self.due {
            return Some(self.due - now);
        }
        self.due = now + PAUSE;
        if self.round == ROUNDS || now > self.end {
            self.clear(sockets);
            self.peers = Vec::new();
            return None;
        }
        let reached = |peer: &&Peer| interface.has_ip_addr(peer.local.ip());
        let packets = self.peers.iter().filter(reached).filter_map(|peer| peer.probe(STEP.wrapping_mul(self.round)));
        let packets: Vec<Vec<u8>> = packets.collect();
        if packets.is_empty() {
            return Some(PAUSE);
        }
        self.clear(sockets);
        let buffer = |count| raw::PacketBuffer::new(vec![raw::PacketMetadata::EMPTY; count], vec![0; count * PACKET]);
        for version in [IpVersion::Ipv4, IpVersion::Ipv6] {
            let mut socket = raw::Socket::new(Some(version), Some(IpProtocol::Tcp), buffer(1), buffer(packets.len()));
            for packet in packets.iter().filter(|packet| IpVersion::of_packet(packet) == Ok(version)) {
                // There is room for all.
                let _ = socket.send_slice(packet);
            }
            self.raw.push(sockets.add(socket));
        }
        self.round += 1;
        Some(PAUSE)
    }

    /// Lets TCP see what comes, if all packets have left.
    pub fn finish(&mut self, sockets: &mut SocketSet<'_>) {
        if self.raw.iter().all(|&handle| sockets.get::<raw::Socket>(handle).send_queue() == 0) {
            self.clear(sockets);
        }
    }

    fn clear(&mut self, sockets: &mut SocketSet<'_>) {
        self.raw.drain(..).for_each(|handle| drop(sockets.remove(handle)));
    }
}
