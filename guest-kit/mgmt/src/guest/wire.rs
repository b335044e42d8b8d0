//! Connections to servers, for media: a name becomes an address, an address a TCP connection, with TLS inside if it is to be.
//! Before: [`network`](super::network), which lets them go on. After: smoltcp, [`tls::client`](salp_mgmt::tls::client).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use rustls::ClientConfig;
use salp_mgmt::media::fetch::{Link, Wire};
use salp_mgmt::media::url::Url;
use salp_mgmt::tls::stream::Client;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Duration;
use smoltcp::wire::IpAddress;

use super::names::{Answer, Names};

/// Buffers of a connection, in bytes.
const RECEIVE: usize = 64 << 10;
const SEND: usize = 4096;
/// The first port of ours, and how many there are.
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = 16384;
/// For how long a server is waited for.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What is with the connection that was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    /// Its name is looked up.
    Name,
    Connected,
    Failed(&'static str),
}

/// One connection after the other.
pub struct Line {
    handle: SocketHandle,
    stage: Stage,
    host: String,
    port: u16,
    tls: Option<Client>,
    is_secure: bool,
    next: u16,
}

/// A line at work.
pub struct Working<'a> {
    /// The line.
    pub line: &'a mut Line,
    /// The interface.
    pub interface: &'a mut Interface,
    /// The sockets.
    pub sockets: &'a mut SocketSet<'static>,
    /// Names and their addresses.
    pub names: &'a mut Names,
    /// How TLS is spoken.
    pub config: &'a Arc<ClientConfig>,
}

impl Line {
    /// Returns a line that is not in use; `seed` says where its ports begin.
    pub fn new(sockets: &mut SocketSet<'static>, seed: u64) -> Self {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(RECEIVE), buffer(SEND));
        socket.set_timeout(Some(TIMEOUT));
        let handle = sockets.add(socket);
        let next = (seed % u64::from(PORTS)) as u16;
        Self { handle, stage: Stage::Nothing, host: String::new(), port: 0, tls: None, is_secure: false, next }
    }
}

impl Working<'_> {
    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.line.handle)
    }

    fn connect(&mut self, address: IpAddress) {
        self.line.next = (self.line.next + 1) % PORTS;
        let (to, from) = ((address, self.line.port), FIRST_PORT + self.line.next);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.line.handle);
        self.line.stage = match socket.connect(self.interface.context(), to, from) {
            Ok(()) => Stage::Connected,
            Err(_) => Stage::Failed("its address cannot be reached."),
        };
    }

    /// Moves what TLS has to say.
    fn flush(&mut self) {
        let Some(tls) = &mut self.line.tls else { return };
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.line.handle);
        while socket.can_send() && !tls.outgoing().is_empty() {
            let Ok(count) = socket.send_slice(tls.outgoing()) else { break };
            tls.sent(count);
        }
        while tls.room() > 0 && socket.can_recv() {
            let taken = socket.recv(|bytes| {
                let count = bytes.len().min(tls.room());
                tls.feed(&bytes[..count]);
                (count, count)
            });
            if taken.is_err() {
                break;
            }
            tls.drive();
        }
        tls.drive();
    }
}

impl Wire for Working<'_> {
    fn open(&mut self, url: &Url) {
        self.socket().abort();
        self.line.host.clone_from(&url.host);
        (self.line.port, self.line.is_secure) = (url.port, url.is_secure);
        self.line.tls = None;
        self.line.stage = Stage::Name;
        if url.is_secure {
            match Client::new(self.config.clone(), &url.host) {
                Some(client) => self.line.tls = Some(client),
                None => self.line.stage = Stage::Failed("its name is none that TLS knows."),
            }
        }
    }

    fn link(&mut self) -> Link {
        if self.line.stage == Stage::Name {
            let found = match self.line.host.parse::<IpAddr>() {
                Ok(address) => Answer::Found(address.into()),
                Err(_) => self.names.look_up(self.interface, self.sockets, &self.line.host),
            };
            match found {
                Answer::Wait => return Link::Opening,
                Answer::Found(address) => self.connect(address),
                Answer::None => self.line.stage = Stage::Failed("its name has no address that this service finds."),
            }
        }
        match self.line.stage {
            Stage::Failed(why) => return Link::Failed(why),
            Stage::Connected => {}
            _ => return Link::Closed,
        }
        self.flush();
        let secure = self.line.tls.as_ref().map(|tls| (tls.is_open(), tls.is_over(), tls.has_plain()));
        let socket = self.socket();
        let (is_opening, may_receive) = (
            matches!(socket.state(), tcp::State::SynSent | tcp::State::SynReceived),
            socket.may_recv() || socket.can_recv(),
        );
        match secure {
            _ if is_opening => Link::Opening,
            Some((_, true, false)) => Link::Failed("TLS could not be agreed upon, or was broken."),
            Some((false, ..)) if may_receive => Link::Opening,
            Some((_, _, has_plain)) => {
                if may_receive || has_plain {
                    Link::Open
                } else {
                    Link::Closed
                }
            }
            None => {
                if may_receive {
                    Link::Open
                } else {
                    Link::Closed
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        let sent = match &mut self.line.tls {
            Some(tls) => tls.send(bytes),
            None => self.socket().send_slice(bytes).unwrap_or(0),
        };
        self.flush();
        sent
    }

    fn receive(&mut self, to: &mut Vec<u8>, most: usize) {
        self.flush();
        if let Some(tls) = &mut self.line.tls {
            tls.receive(to, most);
            self.flush();
            return;
        }
        let socket = self.socket();
        while to.len() < most && socket.can_recv() {
            let room = most - to.len();
            let taken = socket.recv(|bytes| {
                let count = bytes.len().min(room);
                to.extend_from_slice(&bytes[..count]);
                (count, ())
            });
            if taken.is_err() {
                break;
            }
        }
    }

    fn close(&mut self) {
        self.socket().abort();
        self.line.stage = Stage::Nothing;
        self.line.tls = None;
    }
}
