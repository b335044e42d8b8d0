//! Network interfaces as the kernel has them: rtnetlink (Linux `rtnetlink(7)`), as much of it as an identity needs.
//! [`network`](crate::network) says what is to be done.

use crate::identity::Mac;
use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::str::FromStr;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;

const IFF_UP: u32 = 1;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_F_NODAD: u8 = 0x02;
const IFA_F_PERMANENT: u8 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTPROT_STATIC: u8 = 4;
const RTPROT_RA: u8 = 9;

/// The size of a message's header.
const HEADER: usize = 16;

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address, with the bits of the host.
    pub address: IpAddr,
    /// The length of the network's part, in bits.
    pub length: u8,
}

impl Prefix {
    /// Returns whether an address is in this network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differs = a.to_bits() ^ b.to_bits();
                differs.checked_shr(32 - u32::from(self.length)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differs = a.to_bits() ^ b.to_bits();
                differs.checked_shr(128 - u32::from(self.length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, length) = text
            .split_once('/')
            .with_context(|| format!("{text} does not say how long the prefix is, as 10.0.0.5/24 does"))?;
        let address: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = length.parse().ok().filter(|&length| length <= bits);
        let length = length.with_context(|| format!("{text}: a prefix has 0 to {bits} bits"))?;
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Whether it is of Ethernet's kind.
    pub ethernet: bool,
    /// Whether it is up.
    pub up: bool,
    /// Its MAC address, if it has one.
    pub mac: Option<Mac>,
}

/// An address that an interface has and that others may know it by: not the loopback's own, nor a link-local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub prefix: Prefix,
    /// Whether somebody gave it to the interface for good, rather than for a time or by itself.
    pub permanent: bool,
}

/// A default route through a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The gateway.
    pub address: IpAddr,
    /// The route's metric; 0 for the kernel's choice.
    pub metric: u32,
}

/// One change to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Takes it down.
    Down,
    /// Brings it up.
    Up,
    /// Gives it a MAC address.
    SetMac(Mac),
    /// Takes an address away.
    Remove(Prefix),
    /// Gives it an address.
    Add(Prefix),
    /// Makes a default route through it.
    Route(Gateway),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("take it down"),
            Self::Up => f.write_str("bring it up"),
            Self::SetMac(mac) => write!(f, "set the MAC address {mac}"),
            Self::Remove(prefix) => write!(f, "remove the address {prefix}"),
            Self::Add(prefix) => write!(f, "add the address {prefix}"),
            Self::Route(gateway) => write!(f, "make a default route by {}", gateway.address),
        }
    }
}

impl Request {
    fn encode(&self, index: u32, sequence: u32) -> Vec<u8> {
        let address = |kind, flags, prefix: &Prefix| {
            let (family, bytes) = octets(prefix.address);
            // Whoever gave the address knows that nobody else has it; programs can use it at once.
            let nodad = if family == AF_INET6 { IFA_F_NODAD } else { 0 };
            let body = [&[family, prefix.length, nodad, RT_SCOPE_UNIVERSE][..], &index.to_ne_bytes()].concat();
            let message = Message::new(kind, flags | NLM_F_ACK, sequence, &body);
            message.attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes)
        };
        let message = match self {
            Self::Down => Message::link(index, 0, IFF_UP, sequence),
            Self::Up => Message::link(index, IFF_UP, IFF_UP, sequence),
            Self::SetMac(mac) => Message::link(index, 0, 0, sequence).attribute(IFLA_ADDRESS, &mac.0),
            Self::Remove(prefix) => address(RTM_DELADDR, 0, prefix),
            Self::Add(prefix) => address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, prefix),
            Self::Route(gateway) => {
                let (family, bytes) = octets(gateway.address);
                let kind = [RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST];
                let body = [&[family, 0, 0, 0][..], &kind, &[0; 4]].concat();
                let flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
                let message = Message::new(RTM_NEWROUTE, flags, sequence, &body).attribute(RTA_GATEWAY, &bytes);
                let message = message.attribute(RTA_OIF, &index.to_ne_bytes());
                match gateway.metric {
                    0 => message,
                    metric => message.attribute(RTA_PRIORITY, &metric.to_ne_bytes()),
                }
            }
        };
        message.finish()
    }
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// A message that is being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes.extend(body);
        Self(bytes)
    }

    /// Starts a change of an interface: of the flags in `change`.
    fn link(index: u32, flags: u32, change: u32, sequence: u32) -> Self {
        let body = [0, index, flags, change].map(u32::to_ne_bytes).concat();
        Self::new(RTM_NEWLINK, NLM_F_ACK, sequence, &body)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (value.len() + 4) as u16;
        self.0.extend([length, kind].map(u16::to_ne_bytes).concat());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Returns the messages of a datagram: kind, sequence number and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|_| length >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16_at(message, 4)?, u32_at(message, 8)?, &message[HEADER..]))
    })
}

/// Returns one attribute of those that stand behind the fixed part of a body.
fn attribute(body: &[u8], fixed: usize, wanted: u16) -> Option<&[u8]> {
    let mut bytes = body.get(fixed..)?;
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        if u16_at(bytes, 2)? == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// Reads `struct ifinfomsg` and what stands behind it.
fn link(body: &[u8]) -> Option<Link> {
    let (kind, index, flags) = (u16_at(body, 2)?, u32_at(body, 4)?, u32_at(body, 8)?);
    let name = attribute(body, 16, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').into();
    let (loopback, ethernet) = (kind == ARPHRD_LOOPBACK, kind == ARPHRD_ETHER);
    let mac = attribute(body, 16, IFLA_ADDRESS).filter(|_| ethernet);
    let mac = mac.and_then(|bytes| bytes.try_into().ok()).map(Mac);
    Some(Link { index, name, loopback, ethernet, up: flags & IFF_UP != 0, mac })
}

/// Reads `struct ifaddrmsg` and what stands behind it: interface and address.
fn held(body: &[u8]) -> Option<(u32, Held)> {
    let &[family, length, flags, scope, ..] = body else { return None };
    // Only IPv4 tells the own address and the peer's apart.
    let bytes = attribute(body, 8, IFA_LOCAL).or_else(|| attribute(body, 8, IFA_ADDRESS))?;
    let prefix = Prefix { address: ip(family, bytes)?, length };
    let known = scope == RT_SCOPE_UNIVERSE;
    known.then_some((u32_at(body, 4)?, Held { prefix, permanent: flags & IFA_F_PERMANENT != 0 }))
}

/// Reads `struct rtmsg` and what stands behind it: interface and gateway, if it is a default route that does not come from
/// a router's advertisement.
fn gateway(body: &[u8]) -> Option<(u32, Gateway)> {
    let &[family, destination, _, _, table, protocol, _, kind, ..] = body else { return None };
    let wanted = destination == 0 && table == RT_TABLE_MAIN && protocol != RTPROT_RA && kind == RTN_UNICAST;
    let address = ip(family, attribute(body, 12, RTA_GATEWAY).filter(|_| wanted)?)?;
    let metric = attribute(body, 12, RTA_PRIORITY).and_then(|bytes| u32_at(bytes, 0)).unwrap_or(0);
    Some((u32_at(attribute(body, 12, RTA_OIF)?, 0)?, Gateway { address, metric }))
}

/// A line to the kernel.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a line to the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn open() -> Result<Self> {
        // No protocol means NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .context("cannot open a netlink socket")?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// Returns all interfaces, by their numbers.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut links = self.dump(RTM_GETLINK, 16, link).context("cannot list the network interfaces")?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// Returns the addresses of an interface.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Held>> {
        let all = self.dump(RTM_GETADDR, 8, held).context("cannot list the addresses")?;
        Ok(of_interface(all, index))
    }

    /// Returns the default routes through an interface.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn gateways(&mut self, index: u32) -> Result<Vec<Gateway>> {
        let all = self.dump(RTM_GETROUTE, 12, gateway).context("cannot list the routes")?;
        Ok(of_interface(all, index))
    }

    /// Changes an interface.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn change(&mut self, index: u32, request: &Request) -> Result<()> {
        self.sequence += 1;
        let result = self.talk(&request.encode(index, self.sequence), |_, _| ());
        match (request, result) {
            // It went away with the first address of its network.
            (Request::Remove(_), Err(error)) if error.downcast_ref() == Some(&Errno::ADDRNOTAVAIL) => Ok(()),
            (_, result) => result.with_context(|| format!("cannot {request}")),
        }
    }

    fn dump<T>(&mut self, kind: u16, fixed: usize, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
        self.sequence += 1;
        let question = Message::new(kind, NLM_F_DUMP, self.sequence, &vec![0; fixed]).finish();
        let mut found = Vec::new();
        // The answers' kind is RTM_NEW…, two below RTM_GET….
        self.talk(&question, |answer, body| found.extend(read(body).filter(|_| answer == kind - 2)))?;
        Ok(found)
    }

    /// Sends a message and hands over what comes until the kernel is done with it.
    fn talk(&mut self, message: &[u8], mut answer: impl FnMut(u16, &[u8])) -> Result<()> {
        send(&self.socket, message, SendFlags::empty())?;
        loop {
            let (length, whole) = recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC)?;
            ensure!(whole <= self.buffer.len(), "the kernel's answer is too long");
            for (kind, sequence, body) in messages(&self.buffer[..length]) {
                match kind {
                    _ if sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => match u32_at(body, 0) {
                        Some(0) => return Ok(()),
                        Some(error) => return Err(Errno::from_raw_os_error((error as i32).wrapping_neg()).into()),
                        None => bail!("the kernel's answer is too short"),
                    },
                    kind => answer(kind, body),
                }
            }
        }
    }
}

fn of_interface<T>(all: Vec<(u32, T)>, index: u32) -> Vec<T> {
    all.into_iter().filter(|(of, _)| *of == index).map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("an address with a prefix")
    }

    /// A message of the kernel's with these attributes.
    fn body(fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let message =
            attributes.iter().fold(Message(fixed.to_vec()), |message, (kind, value)| message.attribute(*kind, value));
        message.0
    }

    #[test]
    fn a_request_for_an_address_is_what_iproute2_sends() {
        // `ip addr replace 10.0.0.5/24 dev IF`, as strace shows it.
        let expected = [
            40, 0, 0, 0, 20, 0, 0x05, 0x05, 7, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
            2, 24, 0, 0, 3, 0, 0, 0, // ifaddrmsg
            8, 0, 2, 0, 10, 0, 0, 5, // IFA_LOCAL
            8, 0, 1, 0, 10, 0, 0, 5, // IFA_ADDRESS
        ];
        assert_eq!(Request::Add(prefix("10.0.0.5/24")).encode(3, 7), expected);
    }

    #[test]
    fn a_request_is_padded_and_knows_its_length() {
        let bytes = Request::SetMac(Mac([1, 2, 3, 4, 5, 6])).encode(3, 7);
        let (kind, sequence, body) = messages(&bytes).next().expect("a message");
        assert_eq!((kind, sequence, body.len(), bytes.len()), (RTM_NEWLINK, 7, 28, 44));
        assert_eq!(attribute(body, 16, IFLA_ADDRESS), Some(&[1, 2, 3, 4, 5, 6][..]));
    }

    #[test]
    fn an_interface_is_read_from_its_message() {
        let fixed = [[0, 0, 1, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0; 4]].concat();
        let message = body(&fixed, &[(IFLA_IFNAME, b"eth0\0"), (IFLA_ADDRESS, &[1, 2, 3, 4, 5, 6])]);
        let expected = Link {
            index: 2,
            name: "eth0".into(),
            loopback: false,
            ethernet: true,
            up: true,
            mac: Some(Mac([1, 2, 3, 4, 5, 6])),
        };
        assert_eq!(link(&message), Some(expected));
    }

    #[test]
    fn only_addresses_that_others_know_are_held() {
        let v4 = |scope| body(&[AF_INET, 24, IFA_F_PERMANENT, scope, 2, 0, 0, 0], &[(IFA_LOCAL, &[10, 0, 0, 5])]);
        assert_eq!(held(&v4(RT_SCOPE_UNIVERSE)), Some((2, Held { prefix: prefix("10.0.0.5/24"), permanent: true })));
        let (link, host) = (253, 254);
        assert_eq!((held(&v4(link)), held(&v4(host))), (None, None));
    }

    #[test]
    fn only_default_routes_of_the_main_table_have_gateways() {
        let attributes: [(u16, &[u8]); 3] =
            [(RTA_PRIORITY, &[100, 0, 0, 0]), (RTA_GATEWAY, &[10, 0, 0, 1]), (RTA_OIF, &[2, 0, 0, 0])];
        let route = |destination, table, protocol| {
            gateway(&body(&[AF_INET, destination, 0, 0, table, protocol, 0, RTN_UNICAST, 0, 0, 0, 0], &attributes))
        };
        let expected = Gateway { address: [10, 0, 0, 1].into(), metric: 100 };
        assert_eq!(route(0, RT_TABLE_MAIN, RTPROT_STATIC), Some((2, expected)));
        assert_eq!(route(24, RT_TABLE_MAIN, RTPROT_STATIC), None);
        assert_eq!(route(0, 255, RTPROT_STATIC), None);
        assert_eq!(route(0, RT_TABLE_MAIN, RTPROT_RA), None);
    }

    #[test]
    fn a_network_contains_what_has_its_prefix() {
        assert!(prefix("10.0.0.5/24").contains([10, 0, 0, 1].into()));
        assert!(!prefix("10.0.0.5/24").contains([10, 0, 1, 1].into()));
        assert!(!prefix("10.0.0.5/32").contains([10, 0, 0, 4].into()));
        assert!(prefix("10.0.0.5/0").contains([192, 168, 0, 1].into()));
        assert!(prefix("fd00::5/64").contains("fd00::1".parse().expect("an address")));
        assert!(!prefix("fd00::5/64").contains("fe80::1".parse().expect("an address")));
        assert!(!prefix("::/0").contains([10, 0, 0, 1].into()));
    }

    #[test]
    fn mistakes_in_addresses_are_said() {
        let mistake = |text: &str| text.parse::<Prefix>().expect_err("a mistake").to_string();
        assert!(mistake("10.0.0.5").contains("how long the prefix is"));
        assert!(mistake("10.0.0/24").contains("10.0.0 is no address"));
        assert!(mistake("10.0.0.5/33").contains("0 to 32 bits"));
        assert!(mistake("fd00::5/129").contains("0 to 128 bits"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0..40_u8, any::<u8>()], 0..120)) {
            for (_, _, body) in messages(&bytes) {
                let _ = (link(body), held(body), gateway(body));
            }
            let _ = (link(&bytes), held(&bytes), gateway(&bytes));
        }
    }
}
