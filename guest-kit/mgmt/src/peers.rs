//! Who has a connection, for the time when this guest has lost them all: it was brought back to its checkpoint, and a peer that
//! waits for an answer waits for its own patience to end. Before: the network's loop. After: [`hypervisor`](crate::hypervisor).
//!
//! Nobody knows the sequence numbers any more, and nobody has to (RFC 9293 section 3.5.1, half-open connections): to an
//! acknowledgement that does not fit the peer answers with one that does, and to that TCP answers with a reset which fits as
//! there is no such connection here. Should the same peer have a new connection from the same port, nothing happens to it.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpEndpoint, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hypervisor::{Answer, Hypervisor};

/// The record.
const RECORD: u64 = 11;
/// How many peers are kept at most.
const MOST: usize = 2 * crate::http::CONNECTIONS;
/// The hop limit of what is sent.
const HOPS: u8 = 64;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// A peer, as it is kept: IPv4 addresses are mapped (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Kept {
    local: [u8; 16],
    remote: [u8; 16],
    local_port: U16,
    remote_port: U16,
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn end(address: [u8; 16], port: U16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port.get())
}

impl From<(IpEndpoint, IpEndpoint)> for Peer {
    fn from((local, remote): (IpEndpoint, IpEndpoint)) -> Self {
        let address = |end: IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
        Self { local: address(local), remote: address(remote) }
    }
}

impl From<Peer> for Kept {
    fn from(Peer { local, remote }: Peer) -> Self {
        let (local_port, remote_port) = (local.port().into(), remote.port().into());
        Self { local: mapped(local.ip()), remote: mapped(remote.ip()), local_port, remote_port }
    }
}

impl From<Kept> for Peer {
    fn from(kept: Kept) -> Self {
        Self { local: end(kept.local, kept.local_port), remote: end(kept.remote, kept.remote_port) }
    }
}

/// Keeps who has a connection.
///
/// # Errors
///
/// If the hypervisor does not keep records, or has no memory for them.
pub fn keep(hypervisor: &mut dyn Hypervisor, peers: impl Iterator<Item = Peer>) -> Answer<()> {
    let kept: Vec<Kept> = peers.take(MOST).map(Kept::from).collect();
    hypervisor.keep(RECORD, kept.as_bytes())
}

/// Returns who had a connection.
pub fn recall(hypervisor: &dyn Hypervisor) -> Vec<Peer> {
    let mut bytes = vec![0; MOST * size_of::<Kept>()];
    let size = hypervisor.recall(RECORD, &mut bytes).unwrap_or(0);
    let kept = bytes.get(..size).and_then(|bytes| <[Kept]>::ref_from_bytes(bytes).ok()).unwrap_or_default();
    kept.iter().map(|&kept| kept.into()).collect()
}

impl Peer {
    /// Returns the packet (IP) that makes a peer say where it is: an acknowledgement with this sequence number. One that
    /// happens to fit says nothing, so several are sent, with numbers far from each other. `None` if the ends do not speak the
    /// same protocol.
    pub fn probe(&self, sequence: u32) -> Option<Vec<u8>> {
        let (from, to) = (self.local.ip(), self.remote.ip());
        if from.is_ipv4() != to.is_ipv4() {
            return None;
        }
        let segment = TcpRepr {
            src_port: self.local.port(),
            dst_port: self.remote.port(),
            control: TcpControl::None,
            seq_number: TcpSeqNumber(sequence as i32),
            ack_number: Some(TcpSeqNumber(0)),
            window_len: u16::MAX,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let sums = ChecksumCapabilities::default();
        let (from, to) = (from.into(), to.into());
        let head = IpRepr::new(from, to, IpProtocol::Tcp, segment.buffer_len(), HOPS);
        let mut packet = vec![0; head.buffer_len()];
        head.emit(&mut packet, &sums);
        let body = packet.get_mut(head.header_len()..)?;
        segment.emit(&mut TcpPacket::new_unchecked(body), &from, &to, &sums);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv4Repr, Ipv6Packet};

    fn peer(local: &str, remote: &str) -> Peer {
        Peer { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    fn peers_are_known_after_all_else_is_lost() {
        let mut fake = Fake::default();
        assert!(recall(&fake).is_empty());
        let peers = [peer("10.0.2.9:443", "10.0.2.2:50000"), peer("[fd00::9]:443", "[2001:db8::1]:1")];
        keep(&mut fake, peers.into_iter()).unwrap();
        assert_eq!(recall(&fake), peers);
        keep(&mut fake, core::iter::repeat_n(peers[0], 10_000)).unwrap();
        assert_eq!(recall(&fake).len(), MOST);
        keep(&mut fake, core::iter::empty()).unwrap();
        assert!(recall(&fake).is_empty());
    }

    #[test]
    fn a_probe_is_an_acknowledgement_from_the_lost_end_to_the_other() {
        let sums = ChecksumCapabilities::default();
        let packet = peer("10.0.2.9:443", "10.0.2.2:50000").probe(7).unwrap();
        let ip = Ipv4Packet::new_checked(&packet).unwrap();
        let head = Ipv4Repr::parse(&ip, &sums).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        let (from, to) = (head.src_addr.into(), head.dst_addr.into());
        let segment = TcpRepr::parse(&tcp, &from, &to, &sums).unwrap();
        assert_eq!((from, to), (IpAddress::v4(10, 0, 2, 9), IpAddress::v4(10, 0, 2, 2)));
        assert_eq!((segment.src_port, segment.dst_port, segment.seq_number.0), (443, 50000, 7));
        assert!(segment.ack_number.is_some() && segment.control == TcpControl::None && segment.payload.is_empty());
        let packet = peer("[fd00::9]:443", "[fd00::1]:1").probe(7).unwrap();
        assert!(Ipv6Packet::new_checked(&packet).is_ok());
        assert_eq!(peer("10.0.2.9:443", "[fd00::1]:1").probe(7), None);
    }

    proptest! {
        #[test]
        fn whatever_is_kept_is_peers(record: Vec<u8>) {
            let mut fake = Fake::default();
            fake.keep(RECORD, &record).unwrap();
            for peer in recall(&fake) {
                let _ = peer.probe(0);
            }
        }
    }
}
