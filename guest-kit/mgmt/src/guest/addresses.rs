//! The addresses of this guest: boot arguments, DHCP, router advertisements, and what an operator has set. Before:
//! [`network`](super::network). After:
//! smoltcp.

use alloc::vec::Vec;

use guest_kit::{machine, println, words};
use salp_mgmt::appliance::{Reached, Settings};
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

/// How this guest comes by its addresses.
pub struct Addresses {
    dhcp: Option<SocketHandle>,
    /// What DHCP has told.
    lease: Vec<IpAddress>,
    /// The IPv6 address that was set.
    set6: Option<IpCidr>,
    /// The name servers.
    servers: Vec<IpAddress>,
    /// The IPv4 router.
    router: Option<Ipv4Address>,
    /// Name servers that were set.
    set_servers: Vec<IpAddress>,
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
        let (lease, servers, set_servers) = (Vec::new(), Vec::new(), Vec::new());
        let mut new = Self { dhcp: None, lease, set6: None, servers, router: None, set_servers };
        match argument::<Ipv4Cidr>("address") {
            Some(own) => new.set(interface, Some(own), argument("gateway")),
            None => new.dhcp = Some(sockets.add(dhcpv4::Socket::new())),
        }
        new.choose_servers();
        new
    }

    /// Takes or gives back what the DHCP server says.
    pub fn poll(&mut self, interface: &mut Interface, sockets: &mut SocketSet<'_>) {
        match self.dhcp.and_then(|handle| sockets.get_mut::<dhcpv4::Socket>(handle).poll()) {
            Some(dhcpv4::Event::Configured(lease)) => {
                self.lease = lease.dns_servers.iter().map(|server| IpAddress::Ipv4(*server)).collect();
                let (own, router) = (lease.address, lease.router);
                self.set(interface, Some(own), router);
                self.choose_servers();
            }
            Some(dhcpv4::Event::Deconfigured) => self.set(interface, None, None),
            None => {}
        }
    }

    /// Makes the interface what an operator has set.
    pub fn apply(&mut self, settings: &Settings, interface: &mut Interface, sockets: &mut SocketSet<'_>) {
        match (settings.dhcp, settings.ipv4) {
            (Some(false), Some(own)) => {
                if let Some(handle) = self.dhcp.take() {
                    sockets.remove(handle);
                    self.lease.clear();
                }
                self.set(interface, Some(Ipv4Cidr::new(own.address, own.prefix)), own.gateway);
            }
            (Some(true), _) if self.dhcp.is_none() => {
                self.set(interface, None, None);
                self.dhcp = Some(sockets.add(dhcpv4::Socket::new()));
            }
            _ => {}
        }
        let own6 = settings.ipv6.map(|own| IpCidr::new(own.address.into(), own.prefix));
        if own6 != self.set6 {
            let before = core::mem::replace(&mut self.set6, own6);
            interface.update_ip_addrs(|addresses| {
                addresses.retain(|address| Some(*address) != before);
                if let Some(own) = own6 {
                    // There is room, unless a router has given out more addresses than anybody needs.
                    let _ = addresses.push(own);
                }
            });
        }
        self.set_servers = settings.name_servers.iter().map(|server| (*server).into()).collect();
        self.choose_servers();
    }

    /// Chooses the name servers: those that were set, that of the boot arguments, or those of DHCP.
    fn choose_servers(&mut self) {
        self.servers = match dns() {
            _ if !self.set_servers.is_empty() => self.set_servers.clone(),
            Some(server) => Vec::from([IpAddress::Ipv4(server)]),
            None => self.lease.clone(),
        };
    }

    /// Returns the name servers.
    pub fn name_servers(&self) -> &[IpAddress] {
        &self.servers
    }

    /// Returns how this guest is reached now.
    pub fn reached(&self, interface: &Interface) -> Reached {
        let mut reached = Reached { gateway4: self.router, is_dhcp: self.dhcp.is_some(), ..Reached::default() };
        for own in interface.ip_addrs() {
            match own {
                IpCidr::Ipv4(own) => reached.ipv4 = Some((own.address(), own.prefix_len())),
                IpCidr::Ipv6(own) => reached.ipv6.push((own.address(), own.prefix_len())),
            }
        }
        reached.name_servers = self.servers.iter().map(|server| (*server).into()).collect();
        reached
    }

    /// Sets the IPv4 address and the router.
    fn set(&mut self, interface: &mut Interface, own: Option<Ipv4Cidr>, router: Option<Ipv4Address>) {
        interface.update_ip_addrs(|addresses| {
            addresses.retain(|address| !matches!(address, IpCidr::Ipv4(_)));
            if let Some(own) = own {
                // There is room, unless a router has given out more addresses than anybody needs.
                let _ = addresses.push(IpCidr::Ipv4(own));
            }
        });
        interface.routes_mut().remove_default_ipv4_route();
        self.router = router;
        if let Some(router) = router {
            // There is room: it was removed.
            let _ = interface.routes_mut().add_default_ipv4_route(router);
        }
        if let Some(own) = own {
            println!("mgmt: serves https://{}/redfish/v1/", own.address());
        }
    }
}

/// Returns the link-local address of a MAC address (RFC 4291 appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> IpCidr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    let address = Ipv6Address::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f));
    IpCidr::new(address.into(), 64)
}
