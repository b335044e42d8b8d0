//! Requests of this guest to others: names, connections, bytes. Before: [`network`](super::network). After: smoltcp;
//! [`Exchange`], which gets the bytes, and the service, whose events these are.
//!
//! A few places, each with at most one request under way, and a time in which it has to be over: nobody out there can block
//! anything here.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use salp_mgmt::client::{Exchange, Host};
use salp_mgmt::events::subscription::Delivery;
use salp_mgmt::service::Service;
use salp_mgmt::tls::client::Tls;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::IpAddress;

use super::clock;
use super::names::{Answer, Names};

/// How many requests can be under way.
const PLACES: usize = 4;
/// Buffers of a connection, in bytes.
const RECEIVE: usize = 8192;
const SEND: usize = 8192;
/// How long a request may take, from the name to the answer, in milliseconds.
const PATIENCE: u64 = 15_000;
/// Ports that connections begin from.
const PORTS: core::ops::Range<u16> = 49152..65000;

/// How far a request has come.
enum State {
    /// The host's address is asked for.
    Resolving,
    Connecting,
    Talking(Box<Exchange>),
}

struct Errand {
    delivery: Delivery,
    state: State,
    since: u64,
}

struct Place {
    handle: SocketHandle,
    errand: Option<Errand>,
}

/// All of them.
pub struct Outbound {
    places: Vec<Place>,
    tls: Tls,
    port: u16,
}

/// What is needed to move bytes.
struct Wire<'a> {
    interface: &'a mut Interface,
    sockets: &'a mut SocketSet<'static>,
    names: &'a mut Names,
    tls: &'a Tls,
}

impl Wire<'_> {
    fn connect(&mut self, handle: SocketHandle, to: IpAddress, port: (u16, u16)) -> Result<State, &'static str> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let (to, from) = ((to, port.0), port.1);
        let connected = socket.connect(self.interface.context(), to, from);
        connected.map(|()| State::Connecting).map_err(|_| "there is no way to the listener")
    }

    /// Moves a request on; returns how it went when it is over.
    fn drive(
        &mut self,
        handle: SocketHandle,
        errand: &mut Errand,
        port: &mut u16,
    ) -> Option<Result<u16, &'static str>> {
        let next = match &mut errand.state {
            State::Resolving => {
                let url = &errand.delivery.url;
                let found = match &url.host {
                    Host::Address(address) => Answer::Found((*address).into()),
                    Host::Name(name) => self.names.look_up(self.interface, self.sockets, name),
                };
                match found {
                    Answer::Wait => return None,
                    Answer::Found(address) => {
                        *port = next_port(*port);
                        self.connect(handle, address, (url.port, *port))
                    }
                    Answer::None => Err("the name of the listener is unknown"),
                }
            }
            State::Connecting => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
                match socket.state() {
                    tcp::State::SynSent | tcp::State::SynReceived => return None,
                    tcp::State::Established | tcp::State::CloseWait => {
                        let Delivery { url, trust, request, .. } = &mut errand.delivery;
                        let request = core::mem::take(request);
                        Exchange::new(url, trust, self.tls, request, clock::seconds()).map(Box::new).map(State::Talking)
                    }
                    _ => Err("the listener refuses connections"),
                }
            }
            State::Talking(exchange) => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
                talk(socket, exchange);
                return exchange.result();
            }
        };
        match next {
            Ok(state) => {
                errand.state = state;
                None
            }
            Err(why) => Some(Err(why)),
        }
    }
}

fn next_port(port: u16) -> u16 {
    if PORTS.contains(&(port + 1)) { port + 1 } else { PORTS.start }
}

/// Moves bytes between a connection and an exchange.
fn talk(socket: &mut tcp::Socket<'_>, exchange: &mut Exchange) {
    while socket.can_recv() && exchange.result().is_none() {
        let taken = socket.recv(|bytes| {
            exchange.receive(bytes);
            (bytes.len(), bytes.len())
        });
        if taken.is_err() {
            break;
        }
    }
    while socket.can_send() && !exchange.outgoing().is_empty() {
        let Ok(count) = socket.send_slice(exchange.outgoing()) else { break };
        exchange.sent(count);
    }
    if !socket.may_recv() && !socket.can_recv() {
        exchange.end();
    }
}

impl Outbound {
    /// Returns places for requests.
    pub fn new(sockets: &mut SocketSet<'static>, tls: Tls, seed: u64) -> Self {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let place = |sockets: &mut SocketSet<'static>| {
            let handle = sockets.add(tcp::Socket::new(buffer(RECEIVE), buffer(SEND)));
            Place { handle, errand: None }
        };
        let places = (0..PLACES).map(|_| place(sockets)).collect();
        // Another one after each start: what is left of old connections out there does not meet new ones.
        let port = PORTS.start + (seed % PORTS.len() as u64) as u16;
        Self { places, tls, port }
    }

    /// Sends what is due, and moves what is under way; returns whether something has begun or ended.
    pub fn drive(
        &mut self,
        names: &mut Names,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        service: &mut Service,
    ) -> bool {
        let now = clock::milliseconds();
        let mut has_moved = false;
        for place in &mut self.places {
            let mut wire = Wire { interface, sockets, names, tls: &self.tls };
            if place.errand.is_none() {
                let socket = wire.sockets.get_mut::<tcp::Socket<'_>>(place.handle);
                if socket.is_open() {
                    // The last words of the one before.
                    socket.abort();
                    has_moved = true;
                    continue;
                }
                let Some(delivery) = service.next_delivery(clock::seconds()) else { continue };
                place.errand = Some(Errand { delivery, state: State::Resolving, since: now });
                has_moved = true;
            }
            let Some(errand) = &mut place.errand else { continue };
            let late = now.saturating_sub(errand.since) > PATIENCE;
            let result = wire.drive(place.handle, errand, &mut self.port);
            let result = result.or(late.then_some(Err("the listener did not answer in time")));
            if let Some(result) = result {
                service.delivered(&errand.delivery, result, clock::seconds());
                wire.sockets.get_mut::<tcp::Socket<'_>>(place.handle).close();
                place.errand = None;
                has_moved = true;
            }
        }
        has_moved
    }

    /// Returns true if an answer is waited for.
    pub fn is_live(&self) -> bool {
        self.places.iter().any(|place| place.errand.is_some())
    }
}
