//! The addresses of this guest: boot arguments, DHCP, router advertisements. Before: [`network`](super::network). After:
//! smoltcp.

use alloc::vec::Vec;

use guest_kit::{machine, println, words};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{IpAddress, IpCidr, Ipv4Address, Ipv4Cidr, Ipv6Address, Ipv6Cidr};

fn argument<T: core::str::FromStr>(key: &str) -> Option<T> {
    let text = words::get(machine::bootargs(), key)?;
    let value = text.parse().ok();
    if value.is_none() {
        println!("mgmt: {key}={text} makes no sense");
    }
    value
}

/// Returns the name server that the boot arguments give.
pub fn dns() -> Option<Ipv4Address> {
    argument("dns")
}

/// How this guest comes by its IPv4 address.
pub struct Addresses {
    dhcp: Option<SocketHandle>,
}

impl Addresses {
    /// Gives the interface its link-local address and what the boot arguments say; without an IPv4 address in them it asks
    /// for one. Routers may give it IPv6 addresses.
    pub fn new(interface: &mut Interface, sockets: &mut SocketSet<'_>, mac: [u8; 6]) -> Self {
        let own6 = argument::<Ipv6Cidr>("address6");
        interface.update_ip_addrs(|addresses| {
            // There is room for more than these.
            let _ = addresses.push(link_local(mac));
            if let Some(own) = own6 {
                let _ = addresses.push(IpCidr::Ipv6(own));
            }
        });
        if let Some(own) = own6 {
            println!("mgmt: serves https://[{}]/redfish/v1/", own.address());
        }
        if let Some(router) = argument::<Ipv6Address>("gateway6") {
            // There is room: there is none yet.
            let _ = interface.routes_mut().add_default_ipv6_route(router);
        }
        match argument::<Ipv4Cidr>("address") {
            Some(own) => {
                set(interface, Some(own), argument("gateway"));
                Self { dhcp: None }
            }
            None => Self { dhcp: Some(sockets.add(dhcpv4::Socket::new())) },
        }
    }

    /// Takes or gives back what the DHCP server says.
    ///
    /// Returns the name servers, if they have become others.
    pub fn poll(&mut self, interface: &mut Interface, sockets: &mut SocketSet<'_>) -> Option<Vec<IpAddress>> {
        let servers = match self.dhcp.and_then(|handle| sockets.get_mut::<dhcpv4::Socket>(handle).poll())? {
            dhcpv4::Event::Configured(lease) => {
                set(interface, Some(lease.address), lease.router);
                lease.dns_servers.iter().map(|&server| server.into()).collect()
            }
            dhcpv4::Event::Deconfigured => {
                set(interface, None, None);
                Vec::new()
            }
        };
        Some(servers)
    }
}

/// Sets the IPv4 address and the router.
fn set(interface: &mut Interface, own: Option<Ipv4Cidr>, router: Option<Ipv4Address>) {
    interface.update_ip_addrs(|addresses| {
        addresses.retain(|address| !matches!(address, IpCidr::Ipv4(_)));
        if let Some(own) = own {
            // There is room, unless a router has given out more addresses than anybody needs.
            let _ = addresses.push(IpCidr::Ipv4(own));
        }
    });
    interface.routes_mut().remove_default_ipv4_route();
    if let Some(router) = router {
        // There is room: it was removed.
        let _ = interface.routes_mut().add_default_ipv4_route(router);
    }
    if let Some(own) = own {
        println!("mgmt: serves https://{}/redfish/v1/", own.address());
    }
}

/// Returns the link-local address of a MAC address (RFC 4291 appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> IpCidr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    let address = Ipv6Address::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f));
    IpCidr::new(address.into(), 64)
}
