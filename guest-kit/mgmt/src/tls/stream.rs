//! A client's side of a connection, which believes whom its configuration says. Before: a wire. After: [`media`](crate::media), which
//! fetches, and [`Exchange`](crate::client::Exchange), which tells.
//!
//! Servers of media are not authenticated: an appliance has no list of whom to trust. So this keeps a medium from who listens, and
//! not from who stands in between; a digest does that, and the resources say `VerifyCertificate: false`.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error};

use super::records::{self, MAX_RECORD, PIECE, Step};

/// A client's side of a connection.
pub struct Client {
    tls: UnbufferedClientConnection,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    plain: Vec<u8>,
    to_send: Vec<u8>,
    is_open: bool,
    is_over: bool,
    error: Option<Error>,
}

impl Client {
    /// Returns a connection to a host; none if that is no name.
    pub fn new(config: Arc<ClientConfig>, host: &str) -> Option<Self> {
        let name = ServerName::try_from(host.to_string()).ok()?;
        let tls = UnbufferedClientConnection::new(config, name).ok()?;
        let (incoming, outgoing, plain, to_send) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut client = Self { tls, incoming, outgoing, plain, to_send, is_open: false, is_over: false, error: None };
        client.drive();
        Some(client)
    }

    /// Returns how many bytes can be [fed](Self::feed) now.
    pub fn room(&self) -> usize {
        let is_full = self.is_over || self.plain.len() >= MAX_RECORD;
        if is_full { 0 } else { MAX_RECORD.saturating_sub(self.incoming.len()) }
    }

    /// Takes bytes of the server.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// Returns what is to be sent to the server.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// Tells that so many bytes of that were sent.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.drain(..count.min(self.outgoing.len()));
    }

    /// Returns true if the handshake is over.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns true if nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns what was wrong with the server, if that is why.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns true if something was decrypted that nobody has taken.
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Takes bytes to be encrypted; returns how many.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        if !self.is_open || !self.to_send.is_empty() {
            return 0;
        }
        let count = bytes.len().min(PIECE);
        self.to_send.extend_from_slice(&bytes[..count]);
        self.drive();
        count
    }

    /// Appends what was decrypted, up to so many bytes in all.
    pub fn receive(&mut self, to: &mut Vec<u8>, most: usize) {
        let count = self.plain.len().min(most.saturating_sub(to.len()));
        to.extend(self.plain.drain(..count));
        self.drive();
    }

    /// Does what can be done with what has come.
    pub fn drive(&mut self) {
        while !self.is_over && self.step() {}
    }

    fn step(&mut self) -> bool {
        if self.plain.len() >= MAX_RECORD {
            return false;
        }
        let status = self.tls.process_tls_records(&mut self.incoming);
        let (discard, step) = records::step(status, &mut self.plain, &mut self.outgoing);
        let goes_on = match step {
            Step::Moved => true,
            Step::Open(mut traffic) => {
                self.is_open = true;
                let said = core::mem::take(&mut self.to_send);
                let encrypt = |to: &mut [u8]| traffic.encrypt(&said, to);
                self.is_over |= !said.is_empty() && !records::append(&mut self.outgoing, said.len(), encrypt);
                false
            }
            Step::Blocked => {
                self.is_over |= self.incoming.len() - discard >= MAX_RECORD;
                false
            }
            // What the server has to say is said, or makes no sense: rustls must see no more of it.
            Step::PeerClosed | Step::Closed => {
                self.is_over = true;
                false
            }
            Step::Broken(error) => {
                (self.is_over, self.error) = (true, Some(error));
                false
            }
        };
        self.incoming.drain(..discard.min(self.incoming.len()));
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Answering, Counting};
    use crate::tls::certificate::Identity;
    use crate::tls::client::{Certificates, Tls};
    use crate::tls::secure::Secure;
    use alloc::format;
    use proptest::prelude::*;

    fn client_of(host: &str) -> Option<Client> {
        Client::new(Arc::new(Tls::new(&Counting).config(&Certificates::Any, 0).unwrap()), host)
    }

    fn client() -> Client {
        client_of("example.org").unwrap()
    }

    #[test]
    fn a_client_and_our_server_understand_each_other() {
        let identity = Identity::new(&Counting, 0, &["example.org"], &[]);
        let mut server = Secure::new(crate::tls::server(&identity, &Counting).unwrap(), 0).unwrap();
        let mut service = Answering(|request: &crate::http::Request| {
            crate::http::Response::new(200).content("text/plain", request.path.repeat(20_000).as_bytes())
        });
        let (mut client, mut read) = (client(), Vec::new());
        let mut request = b"GET /ab HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n".to_vec();
        for _ in 0..200 {
            let count = client.send(&request);
            request.drain(..count);
            let count = server.room().min(client.outgoing().len());
            server.receive(&client.outgoing()[..count]);
            client.sent(count);
            server.drive(0, &mut service);
            let count = client.room().min(server.outgoing().len());
            client.feed(&server.outgoing()[..count]);
            server.sent(count, 0);
            client.drive();
            let most = read.len() + 5000;
            client.receive(&mut read, most);
        }
        let text = alloc::string::String::from_utf8(read).unwrap();
        assert!(client.is_open() && text.starts_with("HTTP/1.1 200 OK"), "{}", format!("{text:.60}"));
        assert!(text.ends_with(&"/ab".repeat(20_000)));
    }

    #[test]
    fn an_address_is_a_name_and_nonsense_is_none() {
        assert!(client_of("10.0.0.1").is_some());
        assert!(client_of("a b").is_none());
    }

    proptest! {
        #[test]
        fn any_server_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut client = client();
            client.feed(&bytes);
            client.drive();
            let mut read = Vec::new();
            client.receive(&mut read, 1000);
            prop_assert!(read.is_empty());
        }
    }
}
