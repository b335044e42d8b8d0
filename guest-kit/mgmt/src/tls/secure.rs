//! One HTTPS connection: encrypted bytes in and out, HTTP inside. Before: TCP. After: [`Connection`].
//!
//! Memory is bounded by what is taken: nothing is read from the peer while there are decrypted bytes that HTTP has no
//! room for, or answers that the peer does not read.

use alloc::sync::Arc;
use alloc::vec::Vec;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};

use crate::http::connection::SLOW;
use crate::http::{Claim, Connection, Serve};

/// The greatest record, with its head.
const MAX_RECORD: usize = 16384 + 256 + 5;
/// How much is encrypted at a time, and how much more it may become.
const PIECE: usize = 16384;
const OVERHEAD: usize = 64;
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
        let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(&mut self.incoming);
        let goes_on = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            self.plain.extend_from_slice(record.payload);
                        }
                        Err(_) => self.state = State::Closing,
                    }
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut self.outgoing);
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                self.state = State::Open;
                let piece = &self.http.outgoing()[..self.http.outgoing().len().min(PIECE)];
                let at = self.outgoing.len();
                self.outgoing.resize(at + piece.len() + OVERHEAD, 0);
                let is_over = self.http.is_finished() || (self.peer_closed && piece.is_empty());
                let length = piece.len();
                let written = if length > 0 {
                    traffic.encrypt(piece, &mut self.outgoing[at..])
                } else if is_over {
                    self.state = State::Closing;
                    traffic.queue_close_notify(&mut self.outgoing[at..])
                } else {
                    Ok(0)
                };
                self.outgoing.truncate(at + written.as_ref().copied().unwrap_or(0));
                if written.is_err() {
                    self.state = State::Closing;
                }
                self.http.sent(length, now);
                let has_more = if length > 0 {
                    !self.http.outgoing().is_empty()
                } else {
                    self.http.room() > 0 && !self.plain.is_empty()
                };
                has_more && written.is_ok()
            }
            Ok(ConnectionState::PeerClosed) => {
                self.peer_closed = true;
                true
            }
            Ok(ConnectionState::BlockedHandshake) => {
                if self.incoming.len() - discard >= MAX_RECORD {
                    self.state = State::Closing;
                }
                false
            }
            Err(_) => {
                self.incoming.drain(..discard.min(self.incoming.len()));
                // The alert comes out before anything else is looked at. After it rustls must see no more of this
                // stream: it panics if it has to complain a second time.
                let last = self.tls.process_tls_records(&mut self.incoming);
                if let Ok(ConnectionState::EncodeTlsData(data)) = last.state {
                    encode(data, &mut self.outgoing);
                }
                self.state = State::Closing;
                return false;
            }
            _ => {
                self.state = State::Closing;
                false
            }
        };
        self.incoming.drain(..discard.min(self.incoming.len()));
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

/// Appends what is ready to be sent.
pub fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    let at = outgoing.len();
    outgoing.resize(at + OVERHEAD, 0);
    let mut written = data.encode(&mut outgoing[at..]);
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = written {
        outgoing.resize(at + required_size, 0);
        written = data.encode(&mut outgoing[at..]);
    }
    outgoing.truncate(at + written.unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Request, Response};
    use crate::testing::{Answering, Counting};
    use crate::tls::certificate::Identity;
    use crate::tls::server;
    use alloc::string::String;
    use proptest::prelude::*;
    use rustls::client::UnbufferedClientConnection;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use std::sync::OnceLock;

    fn config() -> Arc<ServerConfig> {
        static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
        CONFIG.get_or_init(|| server(&Identity::new(&Counting, 0, &["salp"], &[]), &Counting).unwrap()).clone()
    }

    /// Whom the client trusts: everybody. The certificate is checked by other people's programs.
    #[derive(Debug)]
    struct Trusting;

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2".into()))
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Vec::from([SignatureScheme::ECDSA_NISTP256_SHA256])
        }
    }

    #[derive(Debug)]
    struct Epoch;

    impl rustls::time_provider::TimeProvider for Epoch {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(core::time::Duration::ZERO))
        }
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

    struct Client {
        tls: UnbufferedClientConnection,
        incoming: Vec<u8>,
        heard: Vec<u8>,
    }

    impl Client {
        fn new() -> Self {
            let builder = ClientConfig::builder_with_details(Arc::new(salp_provider::new(&Counting)), Arc::new(Epoch));
            let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
            let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting)).with_no_client_auth();
            let tls = UnbufferedClientConnection::new(Arc::new(config), ServerName::try_from("salp").unwrap()).unwrap();
            Self { tls, incoming: Vec::new(), heard: Vec::new() }
        }

        /// Says as much of `text` as it can, and returns the bytes for the server.
        fn speak(&mut self, text: &mut &[u8]) -> Vec<u8> {
            let mut out = Vec::new();
            loop {
                let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(&mut self.incoming);
                let at = out.len();
                let is_quiet = match state.unwrap() {
                    ConnectionState::ReadTraffic(mut traffic) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record.unwrap();
                            discard += record.discard;
                            self.heard.extend_from_slice(record.payload);
                        }
                        false
                    }
                    ConnectionState::EncodeTlsData(mut data) => {
                        out.resize(at + 20000, 0);
                        let written = data.encode(&mut out[at..]).unwrap();
                        out.truncate(at + written);
                        false
                    }
                    ConnectionState::TransmitTlsData(data) => {
                        data.done();
                        false
                    }
                    ConnectionState::WriteTraffic(mut traffic) => {
                        out.resize(at + text.len() + 1000, 0);
                        let written = if text.is_empty() { 0 } else { traffic.encrypt(text, &mut out[at..]).unwrap() };
                        out.truncate(at + written);
                        *text = &[];
                        true
                    }
                    _ => true,
                };
                self.incoming.drain(..discard);
                if is_quiet {
                    return out;
                }
            }
        }
    }

    /// Sends `text` to a server through pieces of `piece` bytes, and returns what it answers.
    fn talk(mut text: &[u8], piece: usize) -> (String, Secure) {
        let (mut client, mut secure) = (Client::new(), Secure::new(config(), 0).unwrap());
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
            client.incoming.extend_from_slice(&secure.outgoing()[..sent]);
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
        let (mut client, mut secure) = (Client::new(), Secure::new(config(), 0).unwrap());
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
            client.incoming.extend_from_slice(secure.outgoing());
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
