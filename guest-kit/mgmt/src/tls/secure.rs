//! One HTTPS connection: encrypted bytes in and out, HTTP inside. Before: TCP. After: [`Connection`].
//!
//! Memory is bounded by what is taken: nothing is read from the peer while there are decrypted bytes that HTTP has no
//! room for, or answers that the peer does not read.

use alloc::sync::Arc;
use alloc::vec::Vec;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;

use super::records::{self, MAX_RECORD, PIECE, Step};
use crate::http::connection::SLOW;
use crate::http::{Claim, Connection, Serve};

/// For how long a peer may say nothing and be as good as one who has begun, in milliseconds.
const SILENT: u64 = 1000;
/// No more is encrypted while so much waits to be sent.
const ENOUGH: usize = 32768;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    Open,
    /// The last words are being sent.
    Closing,
}

/// An HTTPS connection.
pub struct Secure {
    tls: UnbufferedServerConnection,
    http: Connection,
    incoming: Vec<u8>,
    plain: Vec<u8>,
    outgoing: Vec<u8>,
    sent: usize,
    state: State,
    peer_closed: bool,
    opened: u64,
    /// The peer has said something.
    has_spoken: bool,
    /// When it was looked at last.
    seen: u64,
    /// When the peer took bytes last.
    moved: u64,
}

impl Secure {
    /// Returns a connection that is open since `now`, in milliseconds.
    ///
    /// # Errors
    ///
    /// If rustls finds the configuration wrong.
    pub fn new(config: Arc<ServerConfig>, now: u64) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            http: Connection::new(now),
            incoming: Vec::new(),
            plain: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            state: State::Handshake,
            peer_closed: false,
            opened: now,
            has_spoken: false,
            seen: now,
            moved: now,
        })
    }

    /// Returns how many bytes can be given to [`receive`](Self::receive) now.
    pub fn room(&self) -> usize {
        let is_busy = !self.plain.is_empty() || self.outgoing().len() >= ENOUGH || !self.http.outgoing().is_empty();
        if self.state == State::Closing || is_busy { 0 } else { MAX_RECORD.saturating_sub(self.incoming.len()) }
    }

    /// Takes bytes of the peer, at most [`room`](Self::room).
    pub fn receive(&mut self, bytes: &[u8]) {
        self.has_spoken |= !bytes.is_empty();
        self.incoming.extend_from_slice(bytes);
    }

    /// Does what can be done with what has come, up to the end of an answer: who sends many requests at once waits for each
    /// of the others in between. To be called again when something was sent.
    pub fn drive(&mut self, now: u64, service: &mut dyn Serve) {
        self.seen = now;
        while self.step(now, service) {}
    }

    /// Does one thing; returns false if there is nothing to do before bytes come or go.
    fn step(&mut self, now: u64, service: &mut dyn Serve) -> bool {
        let moved = self.http.room().min(self.plain.len());
        if moved > 0 {
            self.http.receive(&self.plain[..moved], now);
            self.plain.drain(..moved);
        }
        self.http.serve(now, service);
        if self.state == State::Closing || self.outgoing().len() >= ENOUGH {
            return false;
        }
        let status = self.tls.process_tls_records(&mut self.incoming);
        let (discard, step) = records::step(status, &mut self.plain, &mut self.outgoing);
        let mut is_broken = false;
        let goes_on = match step {
            Step::Moved => true,
            Step::Open(mut traffic) => {
                self.state = State::Open;
                let piece = &self.http.outgoing()[..self.http.outgoing().len().min(PIECE)];
                let is_over = self.http.is_finished() || (self.peer_closed && piece.is_empty());
                let length = piece.len();
                let is_written = if length > 0 {
                    records::append(&mut self.outgoing, length, |to| traffic.encrypt(piece, to))
                } else if is_over {
                    self.state = State::Closing;
                    records::append(&mut self.outgoing, 0, |to| traffic.queue_close_notify(to))
                } else {
                    true
                };
                if !is_written {
                    self.state = State::Closing;
                }
                self.http.sent(length, now);
                let has_more = if length > 0 {
                    !self.http.outgoing().is_empty()
                } else {
                    self.http.room() > 0 && !self.plain.is_empty()
                };
                has_more && is_written
            }
            Step::PeerClosed => {
                self.peer_closed = true;
                true
            }
            Step::Blocked => {
                if self.incoming.len() - discard >= MAX_RECORD {
                    self.state = State::Closing;
                }
                false
            }
            Step::Closed => {
                self.state = State::Closing;
                false
            }
            Step::Broken(_) => {
                is_broken = true;
                false
            }
        };
        self.incoming.drain(..discard.min(self.incoming.len()));
        if is_broken {
            // The alert comes out before anything else is looked at. After it rustls must see no more of this stream: it panics if
            // it has to complain a second time.
            let last = self.tls.process_tls_records(&mut self.incoming);
            if let Ok(ConnectionState::EncodeTlsData(data)) = last.state {
                records::encode(data, &mut self.outgoing);
            }
            self.state = State::Closing;
        }
        goes_on
    }

    /// Returns what is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Tells that so many bytes of [`outgoing`](Self::outgoing) were sent.
    pub fn sent(&mut self, count: usize, now: u64) {
        if count > 0 {
            self.moved = now;
        }
        self.sent += count;
        if self.sent >= self.outgoing.len() {
            self.outgoing = Vec::new();
            self.sent = 0;
        } else if self.sent >= ENOUGH {
            // Who always leaves a rest must not make it grow.
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Returns true if everything was said.
    pub fn is_finished(&self) -> bool {
        self.state == State::Closing && self.outgoing().is_empty()
    }

    /// Returns true if something may be to send though nothing has come.
    pub fn is_live(&self) -> bool {
        self.http.is_live()
    }

    /// Returns true if something can go on once something was sent, though nothing comes.
    pub fn has_more(&self) -> bool {
        !self.plain.is_empty() || !self.http.outgoing().is_empty()
    }

    /// Returns what it has to show for its place.
    pub fn claim(&self) -> Claim {
        match self.http.claim() {
            _ if !self.has_spoken && self.seen.saturating_sub(self.opened) > SILENT => Claim::Silent(self.opened),
            Claim::Idle(_) if self.state != State::Open || !self.outgoing().is_empty() => Claim::Busy,
            claim => claim,
        }
    }

    /// Returns true if the peer was waited for long enough.
    pub fn is_overdue(&self, now: u64) -> bool {
        let is_slow = self.state == State::Handshake && now.saturating_sub(self.opened) > SLOW;
        let is_deaf = !self.outgoing().is_empty() && now.saturating_sub(self.moved) > SLOW;
        is_slow || is_deaf || self.http.is_overdue(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Request, Response};
    use crate::testing::{Answering, Counting};
    use crate::tls::certificate::Identity;
    use crate::tls::client::{Certificates, Tls};
    use crate::tls::server;
    use crate::tls::stream::Client;
    use alloc::string::String;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn config() -> Arc<ServerConfig> {
        static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
        CONFIG.get_or_init(|| server(&Identity::new(&Counting, 0, &["salp"], &[]), &Counting).unwrap()).clone()
    }

    #[test]
    fn what_was_sent_is_forgotten_though_a_rest_is_always_left() {
        let mut secure = Secure::new(config(), 0).unwrap();
        secure.outgoing.push(0);
        for _ in 0..100 {
            secure.outgoing.extend([0; ENOUGH]);
            secure.sent(ENOUGH, 0);
            assert_eq!(secure.outgoing().len(), 1);
        }
        assert!(secure.outgoing.len() <= ENOUGH, "{}", secure.outgoing.len());
    }

    /// A client that believes everybody, and what it has heard.
    struct Asking {
        client: Client,
        heard: Vec<u8>,
    }

    impl Asking {
        fn new() -> Self {
            let config = Tls::new(&Counting).config(&Certificates::Any, 0).unwrap();
            Self { client: Client::new(Arc::new(config), "salp").unwrap(), heard: Vec::new() }
        }

        /// Says as much of `text` as it can, and returns the bytes for the server.
        fn speak(&mut self, text: &mut &[u8]) -> Vec<u8> {
            self.client.receive(&mut self.heard, usize::MAX);
            let said = self.client.send(text);
            *text = &text[said..];
            let bytes = self.client.outgoing().to_vec();
            self.client.sent(bytes.len());
            bytes
        }

        fn hear(&mut self, bytes: &[u8]) {
            self.client.feed(bytes);
            self.client.drive();
            self.client.receive(&mut self.heard, usize::MAX);
        }
    }

    /// Sends `text` to a server through pieces of `piece` bytes, and returns what it answers.
    fn talk(mut text: &[u8], piece: usize) -> (String, Secure) {
        let (mut client, mut secure) = (Asking::new(), Secure::new(config(), 0).unwrap());
        let mut wire = Vec::new();
        loop {
            let said = client.speak(&mut text);
            wire.extend(said);
            let taken = wire.len().min(piece).min(secure.room());
            secure.receive(&wire[..taken]);
            wire.drain(..taken);
            let answer = |request: &Request| {
                let body: Vec<u8> = core::iter::repeat_n(b'z', request.path.len() * 10000).collect();
                Response::new(200).content("text/plain", body)
            };
            secure.drive(0, &mut Answering(answer));
            let sent = secure.outgoing().len().min(piece);
            client.hear(&secure.outgoing()[..sent]);
            secure.sent(sent, 0);
            if taken == 0 && sent == 0 {
                client.speak(&mut text);
                return (String::from_utf8(client.heard).unwrap(), secure);
            }
        }
    }

    const TWO: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /bc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    #[test]
    fn requests_are_answered_whatever_the_pieces_are() {
        for piece in [7, 1000, 100_000] {
            let (heard, secure) = talk(TWO, piece);
            assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), 2, "{piece}");
            assert_eq!(heard.matches('z').count(), 50_000, "{piece}");
            assert!(secure.is_finished(), "{piece}");
        }
    }

    #[test]
    fn who_sends_many_requests_at_once_gets_one_answer_at_a_time() {
        let (mut client, mut secure) = (Asking::new(), Secure::new(config(), 0).unwrap());
        let requests = TWO.repeat(20);
        let (mut text, mut asked) = (&requests[..], 0);
        loop {
            let said = client.speak(&mut text);
            secure.receive(&said);
            let before = asked;
            secure.drive(
                0,
                &mut Answering(|_: &Request| {
                    asked += 1;
                    Response::new(204)
                }),
            );
            assert!(asked <= before + 1, "{asked}");
            if secure.outgoing().is_empty() {
                break;
            }
            client.hear(secure.outgoing());
            secure.sent(secure.outgoing().len(), 0);
        }
        assert_eq!(asked, 2, "the second one is the last");
    }

    #[test]
    fn a_body_in_one_record_passes_though_http_has_less_room() {
        let mut text = Vec::from(*b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n");
        text.resize(text.len() + 16000, b'y');
        assert!(talk(&text, 100_000).0.starts_with("HTTP/1.1 200 OK"));
    }

    #[test]
    fn plain_http_is_answered_with_an_alert_and_the_end() {
        let mut secure = Secure::new(config(), 0).unwrap();
        secure.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        secure.drive(0, &mut Answering(|_: &Request| Response::new(200)));
        assert_eq!(secure.outgoing()[0], 21, "the record is an alert");
        secure.sent(secure.outgoing().len(), 0);
        assert!(secure.is_finished());
    }

    #[test]
    fn who_says_nothing_for_a_second_gives_way_to_who_has_begun() {
        let mut nothing = Answering(|_: &Request| Response::new(200));
        let at = |bytes: &[u8], now, nothing: &mut Answering<_>| {
            let mut secure = Secure::new(config(), 5).unwrap();
            secure.receive(bytes);
            secure.drive(now, nothing);
            secure.claim()
        };
        assert_eq!(at(&[], 5 + SILENT, &mut nothing), Claim::New(5));
        assert_eq!(at(&[], 6 + SILENT, &mut nothing), Claim::Silent(5));
        assert_eq!(at(&[22], 6 + SILENT, &mut nothing), Claim::New(5));
        assert!(Claim::Silent(u64::MAX) < Claim::New(0));
    }

    #[test]
    fn who_does_not_shake_hands_is_overdue() {
        let mut secure = Secure::new(config(), 0).unwrap();
        secure.receive(&[22, 3, 1]);
        secure.drive(0, &mut Answering(|_: &Request| Response::new(200)));
        assert!(!secure.is_finished() && !secure.is_overdue(SLOW) && secure.is_overdue(SLOW + 1));
    }

    proptest! {
        #[test]
        fn broken_records_end_the_connection_and_nothing_else(
            kind in prop_oneof![Just(22u8), any::<u8>()],
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut secure = Secure::new(config(), 0).unwrap();
            let mut stream = Vec::from([kind, 3, 3]);
            stream.extend(bytes);
            for piece in stream.chunks(100) {
                secure.receive(&piece[..piece.len().min(secure.room())]);
                secure.drive(0, &mut Answering(|_: &Request| panic!("a request came out of noise")));
                secure.sent(secure.outgoing().len(), 0);
            }
        }
    }
}
