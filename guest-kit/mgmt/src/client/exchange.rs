//! One request to a server and its answer, over TLS 1.3 or without it, on a byte stream that somebody else moves. Before: whoever
//! wants something of a server. After: TCP.
//!
//! Of the answer only its head is read; a server that says more than [`MAX_HEAD`] before its end is not listened to.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::url::{Host, Url};
use crate::http::decoder::MAX_HEAD;
use crate::tls::client::{self, Certificates};
use crate::tls::stream::Client;

/// Who is believed to be the server.
pub type Trust = Certificates;

/// Why there is no answer where nothing else was wrong.
const CLOSED: &str = "the listener closed the connection without an answer";

/// A request under way.
pub struct Exchange {
    tls: Option<Client>,
    /// What is to be said, and not encrypted yet.
    request: Vec<u8>,
    heard: Vec<u8>,
    result: Option<Result<u16, &'static str>>,
}

impl Exchange {
    /// Returns an exchange with the server of `url`, on a connection that is there.
    ///
    /// # Errors
    ///
    /// Why there can be none.
    pub fn new(url: &Url, trust: &Trust, tls: &client::Tls, request: Vec<u8>, now: u64) -> Result<Self, &'static str> {
        let mut this = Self { tls: None, request, heard: Vec::new(), result: None };
        if url.is_secure {
            let config = tls.config(trust, now).map_err(|_| "a certificate of the subscription cannot be used")?;
            let host = match &url.host {
                Host::Address(address) => &address.to_string(),
                Host::Name(name) => name,
            };
            this.tls = Some(Client::new(Arc::new(config), host).ok_or("the host cannot be the name of a server")?);
        }
        Ok(this)
    }

    /// Returns how it went, when it is over: the status of the answer, or why there is none.
    pub fn result(&self) -> Option<Result<u16, &'static str>> {
        self.result
    }

    /// Returns what is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        self.tls.as_ref().map_or(&self.request, Client::outgoing)
    }

    /// Tells that so many bytes were sent.
    pub fn sent(&mut self, count: usize) {
        match &mut self.tls {
            Some(tls) => tls.sent(count),
            None => _ = self.request.drain(..count),
        }
        self.drive();
    }

    /// Takes bytes of the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.result.is_some() {
            return;
        }
        match &mut self.tls {
            Some(tls) => tls.feed(bytes),
            None => self.heard.extend_from_slice(bytes),
        }
        self.drive();
    }

    /// Tells that the server will say no more.
    pub fn end(&mut self) {
        self.result.get_or_insert(Err(CLOSED));
    }

    /// Does what can be done with what has come and gone.
    fn drive(&mut self) {
        let mut why = None;
        if let Some(tls) = &mut self.tls {
            tls.drive();
            // What is sent of it is not here twice.
            if tls.outgoing().is_empty() {
                let said = tls.send(&self.request);
                self.request.drain(..said);
            }
            tls.receive(&mut self.heard, MAX_HEAD);
            why = tls.is_over().then(|| match tls.error() {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    "the certificate of the listener is not one that is trusted"
                }
                Some(_) => "the listener does not speak TLS 1.3 as this service does",
                None => CLOSED,
            });
        }
        self.read();
        if let Some(why) = why {
            self.result.get_or_insert(Err(why));
        }
    }

    /// Looks for an answer in what was heard.
    fn read(&mut self) {
        if self.result.is_some() {
            return;
        }
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(&self.heard) {
            Ok(httparse::Status::Complete(length)) => match head.code {
                // It goes on with the answer itself.
                Some(100..200) => {
                    self.heard.drain(..length);
                    self.read();
                }
                Some(code) => self.result = Some(Ok(code)),
                None => self.result = Some(Err("the listener does not speak HTTP")),
            },
            Ok(httparse::Status::Partial) if self.heard.len() < MAX_HEAD => {}
            _ => self.result = Some(Err("the listener does not speak HTTP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Request, Response};
    use crate::testing::{Answering, Counting};
    use crate::tls;
    use crate::tls::certificate::Identity;
    use crate::tls::client::Tls;
    use crate::tls::secure::Secure;
    use alloc::string::String;
    use proptest::prelude::*;

    const REQUEST: &[u8] =
        b"POST /events HTTP/1.1\r\nHost: salp\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

    fn exchange(url: &str, trust: &Trust) -> Exchange {
        let tls = Tls::new(&Counting);
        Exchange::new(&Url::new(url).unwrap(), trust, &tls, REQUEST.to_vec(), 1_000_000).unwrap()
    }

    /// Lets an exchange talk with a server of this identity through pieces of `piece` bytes.
    fn talk(identity: &Identity, trust: &Trust, piece: usize) -> (Option<Result<u16, &'static str>>, String) {
        let mut secure = Secure::new(tls::server(identity, &Counting).unwrap(), 0).unwrap();
        let (mut exchange, mut heard) = (exchange("https://salp/", trust), String::new());
        for _ in 0..10_000 {
            let said = exchange.outgoing().len().min(piece).min(secure.room());
            secure.receive(&exchange.outgoing()[..said]);
            exchange.sent(said);
            let answer = |request: &Request| {
                heard += str::from_utf8(&request.body).unwrap();
                Response::new(202)
            };
            secure.drive(0, &mut Answering(answer));
            let sent = secure.outgoing().len().min(piece);
            exchange.receive(&secure.outgoing()[..sent]);
            secure.sent(sent, 0);
            if exchange.result().is_some() || said + sent == 0 {
                break;
            }
        }
        (exchange.result(), heard)
    }

    fn identity() -> Identity {
        Identity::new(&Counting, 0, &["salp"], &[])
    }

    #[test]
    fn a_server_is_asked_over_tls_whatever_the_pieces_are() {
        let server = identity();
        for trust in [Trust::Any, Trust::These(Vec::from([server.certificate.clone()]))] {
            for piece in [7, 1000, 100_000] {
                assert_eq!(talk(&server, &trust, piece), (Some(Ok(202)), "hello".into()), "{piece}");
            }
        }
    }

    #[test]
    fn a_server_with_another_certificate_hears_nothing() {
        let trust = Trust::These(Vec::from([identity().certificate]));
        let (result, heard) = talk(&identity(), &trust, 1000);
        assert_eq!((result, &*heard), (Some(Err("the certificate of the listener is not one that is trusted")), ""));
        let nobody = Trust::These(Vec::new());
        let tls = Tls::new(&Counting);
        assert!(Exchange::new(&Url::new("https://x/").unwrap(), &nobody, &tls, Vec::new(), 0).is_err());
    }

    #[test]
    fn without_tls_the_answer_comes_as_it_is() {
        let mut exchange = exchange("http://salp/", &Trust::Any);
        assert_eq!(exchange.outgoing(), REQUEST);
        exchange.sent(REQUEST.len());
        exchange.receive(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 20");
        assert_eq!(exchange.result(), None);
        exchange.receive(b"4 No Content\r\n\r\n");
        assert_eq!(exchange.result(), Some(Ok(204)));
        let mut silent = self::exchange("http://salp/", &Trust::Any);
        silent.end();
        assert!(matches!(silent.result(), Some(Err(_))));
    }

    proptest! {
        #[test]
        fn any_answer_ends_or_is_waited_for(
            is_secure in any::<bool>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            cut in 1usize..500,
        ) {
            let mut exchange = exchange(if is_secure { "https://salp/" } else { "http://salp/" }, &Trust::Any);
            for piece in bytes.chunks(cut) {
                exchange.receive(piece);
                exchange.sent(exchange.outgoing().len());
            }
            exchange.end();
            prop_assert!(exchange.result().is_some());
        }
    }
}
