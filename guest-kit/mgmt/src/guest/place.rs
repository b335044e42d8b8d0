//! A place for one connection after the other. Before: [`network`](super::network). After: smoltcp's TCP, and [`Secure`], which
//! gets the bytes.

use alloc::sync::Arc;
use alloc::vec;

use rustls::ServerConfig;
use salp_mgmt::http::Claim;
use salp_mgmt::peers::Peer;
use salp_mgmt::service::Service;
use salp_mgmt::tls::secure::Secure;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Duration;

use super::{clock, life};

/// The port.
pub const PORT: u16 = 443;
/// Buffers of a connection, in bytes.
const RECEIVE: usize = 32768;
const SEND: usize = 16384;
/// How long TCP may take to open or to close, in milliseconds.
const IMPATIENCE: u64 = 5000;
/// After how long of silence TCP asks whether the peer is there, and for how long it waits.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(60);

/// What came of a look at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: packets have to come.
    Nothing,
    /// Packets have to leave.
    Moved,
    /// Packets have to leave, and then it goes on though none comes.
    More,
}

/// What a connection is for smoltcp.
pub type Socket = tcp::Socket<'static>;

/// Returns a socket for a [`Place`].
pub fn socket() -> Socket {
    let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
    let mut socket = tcp::Socket::new(buffer(RECEIVE), buffer(SEND));
    // Answers are whole when they are sent.
    socket.set_nagle_enabled(false);
    // Uploads wait for no acknowledgement.
    socket.set_ack_delay(None);
    // A console may be silent for hours; a peer that is gone is found out all the same.
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket.set_timeout(Some(TIMEOUT));
    socket
}

/// Where one connection at a time is.
pub struct Place {
    handle: SocketHandle,
    secure: Option<Secure>,
    /// Who is there.
    peer: Option<Peer>,
    /// Since when TCP opens or closes, if it is known yet.
    since: Option<u64>,
    /// How many had come before, if that was counted already.
    number: Option<u64>,
}

impl Place {
    /// Adds a place to `sockets`, where a peer can come: the first packets may be here already, and a port without one who
    /// listens refuses them.
    pub fn new(sockets: &mut SocketSet<'static>, socket: Socket) -> Self {
        let mut place = Self { handle: sockets.add(socket), secure: None, peer: None, since: None, number: None };
        place.listen(sockets);
        place
    }

    /// Takes the place out of `sockets` again. Nobody is there.
    pub fn leave(mut self, sockets: &mut SocketSet<'static>) -> Socket {
        self.abort(sockets);
        match sockets.remove(self.handle) {
            smoltcp::socket::Socket::Tcp(socket) => socket,
            // The handle is that of a TCP socket.
            _ => socket(),
        }
    }

    /// Returns who is there.
    pub fn peer(&self) -> Option<Peer> {
        self.peer
    }

    /// Returns true if something may be to send though nothing has come.
    pub fn is_live(&self) -> bool {
        self.secure.as_ref().is_some_and(Secure::is_live)
    }

    /// Returns true if a peer can come.
    pub fn is_free(&self, sockets: &SocketSet<'_>) -> bool {
        sockets.get::<tcp::Socket>(self.handle).state() == tcp::State::Listen
    }

    /// Gives who is there this number, unless it has one. Returns true if it had none.
    pub fn number_who_came(&mut self, number: u64) -> bool {
        let is_new = self.number.is_none();
        self.number.get_or_insert(number);
        is_new
    }

    /// Returns what the connection has to show for its place, and how many had come before: of a crowd that comes within one
    /// tick of the clock the first give way to the last.
    pub fn claim(&self, sockets: &SocketSet<'_>) -> (Claim, Option<u64>) {
        let is_sending = sockets.get::<tcp::Socket>(self.handle).send_queue() > 0;
        let claim = match self.secure.as_ref().map(Secure::claim) {
            // Who has come this moment comes last.
            None => Claim::New(self.since.unwrap_or(u64::MAX)),
            Some(Claim::Idle(_)) if is_sending => Claim::Busy,
            Some(claim) => claim,
        };
        (claim, self.number)
    }

    /// Ends the connection.
    pub fn abort(&mut self, sockets: &mut SocketSet<'_>) {
        sockets.get_mut::<tcp::Socket>(self.handle).abort();
        (self.secure, self.peer) = (None, None);
    }

    /// Waits for the next peer.
    pub fn listen(&mut self, sockets: &mut SocketSet<'_>) {
        self.abort(sockets);
        (self.since, self.number) = (None, None);
        // The port is no zero and the socket is closed.
        let _ = sockets.get_mut::<tcp::Socket>(self.handle).listen(PORT);
    }

    /// Moves bytes of the connection.
    pub fn drive(
        &mut self,
        sockets: &mut SocketSet<'_>,
        config: &Arc<ServerConfig>,
        service: &mut Service,
        now: u64,
    ) -> Progress {
        let socket = sockets.get_mut::<tcp::Socket>(self.handle);
        let waits = now.saturating_sub(self.since.unwrap_or(now));
        match socket.state() {
            tcp::State::Closed | tcp::State::TimeWait => {
                // What a late packet of the old connection does to a new one, sequence numbers and TLS prevent.
                self.listen(sockets);
                return Progress::Nothing;
            }
            tcp::State::Listen => return Progress::Nothing,
            tcp::State::Established if self.secure.is_none() && waits <= IMPATIENCE => {
                self.secure = Secure::new(config.clone(), now).ok();
                self.peer = socket.local_endpoint().zip(socket.remote_endpoint()).map(Peer::from);
            }
            _ => {}
        }
        let Some(secure) = &mut self.secure else {
            self.since.get_or_insert(now);
            // A peer that still sends what is not wanted any more reads the answer only then: a window that closes on it, and
            // a reset at last, would take the answer away (RFC 9112 section 9.6).
            while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
            if waits > IMPATIENCE {
                self.abort(sockets);
                return Progress::More;
            }
            return Progress::Nothing;
        };
        let mut has_moved = false;
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
            has_moved = true;
        }
        let before = service.requests();
        secure.drive(now, &mut service.at(clock::seconds()));
        if service.requests() != before {
            life::note_request();
        }
        let mut has_sent = false;
        while socket.can_send() && !secure.outgoing().is_empty() {
            let Ok(count) = socket.send_slice(secure.outgoing()) else { break };
            secure.sent(count, now);
            has_sent = true;
        }
        let is_gone = !socket.may_recv() && !socket.can_recv() && secure.outgoing().is_empty();
        if secure.is_finished() || is_gone {
            socket.close();
            (self.secure, self.peer) = (None, None);
            self.since = Some(now);
            return Progress::More;
        }
        if secure.is_overdue(now) {
            self.abort(sockets);
            return Progress::More;
        }
        match () {
            () if has_sent && secure.has_more() => Progress::More,
            () if has_sent || has_moved => Progress::Moved,
            () => Progress::Nothing,
        }
    }
}
