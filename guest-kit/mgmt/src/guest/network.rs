//! Packets and connections: virtio-net, smoltcp, and a fixed number of places for connections. Before: `main`. After:
//! [`Secure`], which gets the bytes.
//!
//! One loop does everything: packets, then each connection, then sleep until the device or a timer has something. A
//! place serves one connection after the other; a peer that comes when all are taken is refused by TCP.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use guest_kit::rt::sysreg;
use guest_kit::rt::virtio::{self, Machine};
use guest_kit::{gic, machine, println, timer, words};
use rustls::ServerConfig;
use salp_mgmt::entropy::Entropy;
use salp_mgmt::service::Service;
use salp_mgmt::tls::secure::Secure;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv4Cidr, Ipv6Address};
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceType, Transport};

use super::clock;

/// The port.
const PORT: u16 = 443;
/// How many connections there can be.
const PLACES: usize = salp_mgmt::http::CONNECTIONS;
/// Buffers of a connection, in bytes.
const RECEIVE: usize = 8192;
const SEND: usize = 16384;
/// Packets that the device can have under way in each direction.
const QUEUE: usize = 64;
/// The greatest Ethernet frame, and what the device puts before it.
const FRAME: usize = 1514;
const BUFFER: usize = 2048;
/// How long TCP may take to open or to close, in milliseconds.
const IMPATIENCE: u64 = 5000;
/// The longest sleep, in milliseconds.
const NAP: u64 = 1000;

type Driver = VirtIONet<Machine, MmioTransport<'static>, QUEUE>;

struct Nic(Driver);

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let buffer = self.0.receive().ok()?;
        let packet = buffer.packet().to_vec();
        self.0.recycle_rx_buffer(buffer).ok()?;
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

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sending<'a>(&'a mut Driver);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut buffer = self.0.new_tx_buffer(length);
        let result = write(buffer.packet_mut());
        // A packet that is not sent is lost, as packets may be.
        let _ = self.0.send(buffer);
        result
    }
}

/// Returns the first network device and its interrupt.
fn find() -> Option<(Driver, u32)> {
    (0..machine::virtio().len()).find_map(|index| {
        let (transport, intid) = virtio::transport(index)?;
        if transport.device_type() != DeviceType::Network {
            return None;
        }
        Some((Driver::new(transport, BUFFER).ok()?, intid))
    })
}

/// Where one connection at a time is.
struct Place {
    handle: SocketHandle,
    secure: Option<Secure>,
    /// Since when TCP opens or closes.
    since: u64,
}

impl Place {
    fn new(sockets: &mut SocketSet<'_>) -> Self {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(RECEIVE), buffer(SEND));
        // Answers are whole when they are sent.
        socket.set_nagle_enabled(false);
        Self { handle: sockets.add(socket), secure: None, since: 0 }
    }

    /// Moves bytes of the connection; returns true if there is something to send.
    fn drive(&mut self, sockets: &mut SocketSet<'_>, config: &Arc<ServerConfig>, service: &mut Service) -> bool {
        let socket = sockets.get_mut::<tcp::Socket>(self.handle);
        let now = clock::milliseconds();
        match socket.state() {
            tcp::State::Closed | tcp::State::TimeWait => {
                // What a late packet of the old connection does to a new one, sequence numbers and TLS prevent.
                socket.abort();
                self.secure = None;
                // The port is no zero and the socket is closed.
                let _ = socket.listen(PORT);
                return false;
            }
            tcp::State::Listen => {
                self.since = now;
                return false;
            }
            tcp::State::Established if self.secure.is_none() && now.saturating_sub(self.since) <= IMPATIENCE => {
                self.secure = Secure::new(config.clone(), now).ok();
            }
            _ => {}
        }
        let Some(secure) = &mut self.secure else {
            if now.saturating_sub(self.since) > IMPATIENCE {
                socket.abort();
                return true;
            }
            return false;
        };
        while secure.room() > 0 && socket.can_recv() {
            let room = secure.room();
            let taken = socket.recv(|bytes| {
                let taken = bytes.len().min(room);
                secure.receive(&bytes[..taken]);
                (taken, taken)
            });
            if taken.is_err() {
                break;
            }
        }
        secure.drive(now, &mut service.at(clock::seconds()));
        let mut has_sent = false;
        while socket.can_send() && !secure.outgoing().is_empty() {
            let Ok(count) = socket.send_slice(secure.outgoing()) else { break };
            secure.sent(count, now);
            has_sent = true;
        }
        let is_gone = !socket.may_recv() && !socket.can_recv() && secure.outgoing().is_empty();
        if secure.is_finished() || is_gone {
            socket.close();
            self.secure = None;
            self.since = now;
            return true;
        }
        if secure.is_overdue(now) {
            socket.abort();
            self.secure = None;
            return true;
        }
        has_sent
    }
}

/// Sets the address that the boot arguments give; returns false if they give none.
fn set_static(interface: &mut Interface) -> bool {
    let get = |key| words::get(machine::bootargs(), key);
    let Some(address) = get("address").and_then(|text| text.parse::<Ipv4Cidr>().ok()) else { return false };
    set_address(interface, Some(address), get("gateway").and_then(|text| text.parse().ok()));
    true
}

/// Sets the IPv4 address and the router.
fn set_address(interface: &mut Interface, address: Option<Ipv4Cidr>, router: Option<Ipv4Address>) {
    interface.update_ip_addrs(|addresses| {
        addresses.retain(|address| !matches!(address, IpCidr::Ipv4(_)));
        if let Some(address) = address {
            // There is room for two, and the other one is the link-local one.
            let _ = addresses.push(IpCidr::Ipv4(address));
        }
    });
    interface.routes_mut().remove_default_ipv4_route();
    if let Some(router) = router {
        // There is room: it was removed.
        let _ = interface.routes_mut().add_default_ipv4_route(router);
    }
    if let Some(address) = address {
        println!("mgmt: serves https://{}/redfish/v1/", address.address());
    }
}

/// Returns the link-local address of a MAC address (RFC 4291 appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> IpCidr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    let address = Ipv6Address::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f));
    IpCidr::new(address.into(), 64)
}

/// Sleeps until the device has something or so many milliseconds are over. Interrupts are masked: a pending one ends WFI,
/// and is acknowledged here.
fn sleep(nic: &mut Nic, milliseconds: u64) {
    sysreg::set_cntv_tval(timer::ticks(milliseconds * 1000));
    sysreg::set_cntv_ctl(timer::ENABLE);
    sysreg::wfi();
    sysreg::set_cntv_ctl(timer::MASKED);
    nic.0.ack_interrupt();
    loop {
        let intid = gic::acknowledge();
        if intid >= gic::SPURIOUS {
            return;
        }
        gic::end(intid);
    }
}

/// Serves for good.
///
/// # Panics
///
/// If there is no network device.
pub fn serve(entropy: &'static dyn Entropy, config: &Arc<ServerConfig>, service: &mut Service) {
    let (mut driver, intid) = find().expect("there is a network device");
    driver.enable_interrupts();
    let mac = driver.mac_address();
    let mut nic = Nic(driver);
    gic::enable(intid);
    gic::enable(timer::VIRTUAL_INTID);
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let mut settings = Config::new(EthernetAddress(mac).into());
    settings.random_seed = u64::from_le_bytes(seed);
    let now = || Instant::from_millis(clock::milliseconds() as i64);
    let mut interface = Interface::new(settings, &mut nic, now());
    interface.update_ip_addrs(|addresses| {
        // It is the first of two.
        let _ = addresses.push(link_local(mac));
    });
    let mut sockets = SocketSet::new(Vec::new());
    let dhcp = if set_static(&mut interface) { None } else { Some(sockets.add(dhcpv4::Socket::new())) };
    let mut places: Vec<Place> = (0..PLACES).map(|_| Place::new(&mut sockets)).collect();
    loop {
        interface.poll(now(), &mut nic, &mut sockets);
        match dhcp.and_then(|handle| sockets.get_mut::<dhcpv4::Socket>(handle).poll()) {
            Some(dhcpv4::Event::Configured(lease)) => set_address(&mut interface, Some(lease.address), lease.router),
            Some(dhcpv4::Event::Deconfigured) => set_address(&mut interface, None, None),
            None => {}
        }
        let mut is_busy = false;
        for place in &mut places {
            is_busy |= place.drive(&mut sockets, config, service);
        }
        if !is_busy {
            let delay = interface.poll_delay(now(), &sockets).map_or(NAP, |delay| delay.total_millis().min(NAP));
            if delay > 0 {
                sleep(&mut nic, delay);
            }
        }
    }
}
