//! A DHCPv4 server (RFC 2131) for a segment that has no other. Before: a UDP socket. After: nothing.
//!
//! It gives out addresses, and nobody is routed anywhere. A client keeps its address as long as it asks for it.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::wire::{DhcpMessageType as Type, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Address, Ipv4Cidr};

/// How long an address is a client's, in seconds.
pub const LEASE: u64 = 3600;
/// How long an offer holds, in seconds.
const OFFER: u64 = 60;
/// The greatest number of addresses that are looked at for a free one.
const MOST: u32 = 1024;

#[derive(Clone, Copy, Debug)]
struct Lease {
    client: EthernetAddress,
    until: u64,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    own: Ipv4Cidr,
    dns: Option<Ipv4Address>,
    leases: BTreeMap<u32, Lease>,
}

/// Whom an address is kept from everybody for: somebody who does not ask us uses it.
const NOBODY: EthernetAddress = EthernetAddress([0; 6]);

impl Server {
    /// Returns a server with this address, for the others of its network.
    pub fn new(own: Ipv4Cidr, dns: Option<Ipv4Address>) -> Self {
        Self { own, dns, leases: BTreeMap::new() }
    }

    /// Returns whether an address can be this client's.
    fn is_free(&self, address: Ipv4Address, client: EthernetAddress, now: u64) -> bool {
        let network = self.own.network().address();
        let is_host = self.own.contains_addr(&address) && address != network && Some(address) != self.own.broadcast();
        let lease = self.leases.get(&address.to_bits());
        let is_taken = lease.is_some_and(|lease| lease.client != client && lease.until > now);
        is_host && address != self.own.address() && !is_taken
    }

    /// Returns an address for a client: its own, the one that it would like, or the first free one.
    fn choose(&self, client: EthernetAddress, wanted: Option<Ipv4Address>, now: u64) -> Option<Ipv4Address> {
        let own =
            self.leases.iter().find(|(_, lease)| lease.client == client).map(|(&bits, _)| Ipv4Address::from(bits));
        let first = self.own.network().address().to_bits();
        let all = (1..MOST).map(|host| Ipv4Address::from(first.saturating_add(host)));
        own.into_iter().chain(wanted).chain(all).find(|&address| self.is_free(address, client, now))
    }

    /// Gives an address to a client, which has no other one then.
    fn lease(&mut self, address: Ipv4Address, client: EthernetAddress, until: u64) {
        self.leases.retain(|_, lease| lease.client != client);
        self.leases.insert(address.to_bits(), Lease { client, until });
    }

    /// Returns the answer to a packet, to be sent to everybody.
    pub fn answer(&mut self, packet: &[u8], now: u64) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(packet).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let client = request.client_hardware_address;
        if !client.is_unicast() || client == NOBODY {
            return None;
        }
        let own = self.own.address();
        let wanted = request.requested_ip.or(Some(request.client_ip).filter(|address| !address.is_unspecified()));
        let (kind, address) = match request.message_type {
            Type::Discover => {
                let address = self.choose(client, wanted, now)?;
                let known = self.leases.get(&address.to_bits()).map_or(0, |lease| lease.until);
                self.lease(address, client, known.max(now + OFFER));
                (Type::Offer, Some(address))
            }
            Type::Request if request.server_identifier.is_some_and(|server| server != own) => {
                self.leases.retain(|_, lease| lease.client != client);
                return None;
            }
            Type::Request => match wanted.filter(|&address| self.is_free(address, client, now)) {
                Some(address) => {
                    self.lease(address, client, now + LEASE);
                    (Type::Ack, Some(address))
                }
                None => (Type::Nak, None),
            },
            Type::Inform => (Type::Ack, None),
            Type::Release => {
                self.leases.retain(|_, lease| lease.client != client);
                return None;
            }
            Type::Decline => {
                let declined = wanted.filter(|&address| self.is_free(address, client, now))?;
                self.lease(declined, client, 0);
                self.leases.insert(declined.to_bits(), Lease { client: NOBODY, until: now + LEASE });
                return None;
            }
            _ => return None,
        };
        let is_ack = kind != Type::Nak;
        let answer = DhcpRepr {
            message_type: kind,
            your_ip: address.unwrap_or(Ipv4Address::UNSPECIFIED),
            server_ip: own,
            server_identifier: Some(own),
            subnet_mask: is_ack.then(|| self.own.netmask()),
            router: None,
            requested_ip: None,
            client_identifier: None,
            parameter_request_list: None,
            dns_servers: self.dns.filter(|_| is_ack).map(|dns| core::iter::once(dns).collect()),
            max_size: None,
            renew_duration: None,
            rebind_duration: None,
            lease_duration: address.map(|_| LEASE as u32),
            additional_options: &[],
            ..request
        };
        let mut bytes = vec![0; answer.buffer_len()];
        answer.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server() -> Server {
        Server::new("10.0.0.1/29".parse().unwrap(), Some(Ipv4Address::new(9, 9, 9, 9)))
    }

    fn ask(server: &mut Server, kind: Type, client: u8, wanted: Option<[u8; 4]>, now: u64) -> Option<(Type, [u8; 4])> {
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, client]),
            client_ip: Ipv4Address::UNSPECIFIED,
            your_ip: Ipv4Address::UNSPECIFIED,
            server_ip: Ipv4Address::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: true,
            requested_ip: wanted.map(Ipv4Address::from),
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
        let answer = server.answer(&bytes, now)?;
        let answer = DhcpRepr::parse(&DhcpPacket::new_checked(&*answer).unwrap()).map(|answer| {
            assert_eq!((answer.transaction_id, answer.server_identifier), (7, Some(Ipv4Address::new(10, 0, 0, 1))));
            (answer.message_type, answer.your_ip.octets())
        });
        Some(answer.unwrap())
    }

    #[test]
    fn a_client_gets_an_address_and_keeps_it() {
        let mut server = server();
        assert_eq!(ask(&mut server, Type::Discover, 1, None, 0), Some((Type::Offer, [10, 0, 0, 2])));
        assert_eq!(ask(&mut server, Type::Request, 1, Some([10, 0, 0, 2]), 1), Some((Type::Ack, [10, 0, 0, 2])));
        assert_eq!(ask(&mut server, Type::Discover, 2, None, 2), Some((Type::Offer, [10, 0, 0, 3])));
        assert_eq!(ask(&mut server, Type::Discover, 1, Some([10, 0, 0, 6]), 99), Some((Type::Offer, [10, 0, 0, 2])));
    }

    #[test]
    fn an_address_of_another_client_is_refused_until_its_lease_ends() {
        let mut server = server();
        ask(&mut server, Type::Request, 1, Some([10, 0, 0, 4]), 0);
        let again = |server: &mut Server, now| ask(server, Type::Request, 2, Some([10, 0, 0, 4]), now);
        assert_eq!(again(&mut server, 1), Some((Type::Nak, [0; 4])));
        assert_eq!(again(&mut server, LEASE), Some((Type::Ack, [10, 0, 0, 4])));
    }

    #[test]
    fn no_address_of_the_network_itself_is_given_out() {
        let mut server = server();
        for host in [0, 1, 7, 8] {
            assert_eq!(
                ask(&mut server, Type::Request, 1, Some([10, 0, 0, host]), 0),
                Some((Type::Nak, [0; 4])),
                "{host}"
            );
        }
        for client in 1..=5 {
            assert_eq!(ask(&mut server, Type::Discover, client, None, 0), Some((Type::Offer, [10, 0, 0, client + 1])));
        }
        assert_eq!(ask(&mut server, Type::Discover, 6, None, 0), None);
        assert_eq!(ask(&mut server, Type::Discover, 6, None, OFFER), Some((Type::Offer, [10, 0, 0, 2])));
    }

    #[test]
    fn an_address_that_somebody_uses_unasked_is_given_to_nobody() {
        let mut server = server();
        ask(&mut server, Type::Request, 1, Some([10, 0, 0, 2]), 0);
        assert_eq!(ask(&mut server, Type::Decline, 1, Some([10, 0, 0, 2]), 1), None);
        assert_eq!(ask(&mut server, Type::Discover, 1, None, 2), Some((Type::Offer, [10, 0, 0, 3])));
        assert_eq!(ask(&mut server, Type::Release, 1, None, 3), None);
        assert_eq!(ask(&mut server, Type::Discover, 2, None, 3), Some((Type::Offer, [10, 0, 0, 3])));
    }

    proptest! {
        #[test]
        fn any_packet_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut packet = bytes;
            if packet.len() > 240 {
                packet[..4].copy_from_slice(&[1, 1, 6, 0]);
                packet[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
            }
            server().answer(&packet, 0);
        }
    }
}
