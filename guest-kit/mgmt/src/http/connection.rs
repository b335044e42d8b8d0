//! One connection: requests in, answers out, one after the other. Before: TLS. After: [`decoder`](super::decoder), and
//! the service through a closure.
//!
//! Who moves the bytes asks [`Connection::room`] before it reads, so that a peer that sends faster than it is served, or
//! does not read its answers, is held back by TCP and not by memory.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Write;

use super::decoder::{Decoded, Decoder, MAX_HEAD, Malformed, Step};
use super::request::{Method, Request};
use super::response::{Framing, Response};
use crate::flow::{Live, Sink, Then};

/// How long a connection may be silent between requests, in milliseconds.
pub const IDLE: u64 = 60_000;
/// How long a request may take to come, or an answer to be read on, in milliseconds.
pub const SLOW: u64 = 15_000;

/// Who answers.
pub trait Serve {
    /// Answers a whole request.
    fn handle(&mut self, request: &Request) -> Response;

    /// Looks at the head of a request that brings bytes: the answer has a place for them
    /// ([`Then::Body`]), or refuses them.
    fn begin(&mut self, request: &Request) -> Response {
        self.handle(request)
    }

    /// Returns whether who takes a body wants more of it now.
    fn is_ready(&mut self, _: &mut dyn Sink) -> bool {
        true
    }

    /// Gives bytes of a body to who takes them.
    ///
    /// # Errors
    ///
    /// The answer, if no more are taken.
    fn take(&mut self, sink: &mut dyn Sink, bytes: &[u8]) -> Result<(), Response>;

    /// Answers a request whose body was taken.
    fn finish(&mut self, sink: Box<dyn Sink>) -> Response;

    /// Returns the answer that a job gives at its end.
    fn poll(&mut self, _job: u64) -> Option<Response> {
        None
    }

    /// Lets a flow go on; returns false if it is over.
    fn drive(&mut self, live: &mut Live, input: &mut Vec<u8>, output: &mut Vec<u8>) -> bool;
}

/// What a connection has to show for its place when there are too few: the least of them goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// It has said nothing at all for a while, since then.
    Silent(u64),
    /// It has asked for nothing since it was opened, then.
    New(u64),
    /// Nobody knows who asks there, the last time then.
    Unknown(u64),
    /// Somebody who is known has been silent since then.
    Idle(u64),
    /// Somebody who is known asks, or is answered.
    Busy,
}

/// Bytes that wait to be understood or sent, and how long they may.
#[derive(Debug)]
pub struct Connection {
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    decoder: Decoder,
    /// Who takes the body that is coming.
    sink: Option<Box<dyn Sink>>,
    /// The answer that goes on, and how its pieces are framed.
    live: Option<(Live, Framing)>,
    /// The job whose end is the answer, and how it is to be given.
    later: Option<(u64, Method, bool, bool)>,
    /// Who takes the body wants nothing of it for now.
    waits: bool,
    /// Nothing more is read: the last answer is being sent.
    is_closing: bool,
    /// Since when it waits for the same thing.
    since: u64,
    /// When the last request came, or since when there is none.
    asked: u64,
    has_asked: bool,
    /// It is known who sent the last request.
    is_known: bool,
}

impl Connection {
    /// Returns a connection that is open since `now`, in milliseconds.
    pub fn new(now: u64) -> Self {
        Self {
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            decoder: Decoder::default(),
            sink: None,
            live: None,
            later: None,
            waits: false,
            is_closing: false,
            since: now,
            asked: now,
            has_asked: false,
            is_known: false,
        }
    }

    /// Returns how many bytes can be given to [`receive`](Self::receive) now.
    pub fn room(&self) -> usize {
        if self.is_closing || !self.outgoing().is_empty() { 0 } else { MAX_HEAD.saturating_sub(self.inbox.len()) }
    }

    /// Takes bytes of the peer, at most [`room`](Self::room).
    pub fn receive(&mut self, bytes: &[u8], now: u64) {
        if self.is_closing {
            return;
        }
        // Of a request that is collected only the first byte counts, of a stream each.
        if self.is_idle() || self.sink.is_some() {
            self.since = now;
        }
        self.inbox.extend_from_slice(bytes);
    }

    /// Answers what has come, one request at a time: the next one is looked at when this answer is sent.
    pub fn serve(&mut self, now: u64, service: &mut dyn Serve) {
        if self.is_closing || !self.outgoing().is_empty() {
            return;
        }
        if self.live.is_some() {
            return self.go_on(now, service);
        }
        if let Some((job, method, close, knows_chunks)) = self.later {
            if let Some(response) = service.poll(job) {
                self.later = None;
                self.answer(response, method, close, knows_chunks, now);
            }
            return;
        }
        if let Err(why) = self.read(now, service) {
            self.give_up(&crate::message::malformed(why), now);
        }
    }

    /// Reads on in the stream, up to the next answer.
    fn read(&mut self, now: u64, service: &mut dyn Serve) -> Result<(), Malformed> {
        // What comes meanwhile waits here, and then at the peer.
        self.waits = self.sink.as_mut().is_some_and(|sink| !service.is_ready(&mut **sink));
        if self.waits {
            self.since = now;
            return Ok(());
        }
        loop {
            match self.decoder.next(&mut self.inbox)? {
                Step::Head => {
                    let Some(request) = self.decoder.request() else { return Ok(()) };
                    if !request.is_streamed() {
                        self.decoder.go_on(false)?;
                        continue;
                    }
                    let response = service.begin(request);
                    self.note(&response, now);
                    match response.then {
                        Then::Body(sink) => {
                            self.sink = Some(sink);
                            self.decoder.go_on(true)?;
                        }
                        _ if self.decoder.is_last() => {
                            self.give_up(&response, now);
                            return Ok(());
                        }
                        _ => {
                            self.decoder.forget();
                            self.answer(response, Method::Put, false, true, now);
                            return Ok(());
                        }
                    }
                }
                Step::Whole(whole) => {
                    let Decoded { request, close, knows_chunks } = *whole;
                    let response = match self.sink.take() {
                        None => {
                            let response = service.handle(&request);
                            self.note(&response, now);
                            response
                        }
                        Some(mut sink) => match service.take(&mut *sink, &request.body) {
                            Ok(()) => service.finish(sink),
                            Err(response) => response,
                        },
                    };
                    self.answer(response, request.method, close, knows_chunks, now);
                    return Ok(());
                }
                Step::More => {
                    if let Some(sink) = &mut self.sink {
                        let bytes = self.decoder.take_body();
                        if !bytes.is_empty()
                            && let Err(response) = service.take(&mut **sink, &bytes)
                        {
                            self.give_up(&response, now);
                            return Ok(());
                        }
                    }
                    if self.decoder.wants_continue() {
                        self.outbox.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Notes that somebody has asked.
    fn note(&mut self, response: &Response, now: u64) {
        (self.asked, self.has_asked, self.is_known) = (now, true, response.is_known);
    }

    /// Sends an answer, and what follows it.
    fn answer(&mut self, response: Response, method: Method, close: bool, knows_chunks: bool, now: u64) {
        self.since = now;
        if let Then::Later(job) = response.then {
            self.later = Some((job, method, close, knows_chunks));
            return;
        }
        let is_live = method != Method::Head && matches!(response.then, Then::Flow(_));
        let framing = match () {
            () if !is_live => Framing::Length,
            () if response.status == 101 || !knows_chunks => Framing::Close,
            () => Framing::Chunks,
        };
        response.write(method != Method::Head, framing, close && response.status != 101, &mut self.outbox);
        match response.then {
            Then::Flow(live) if is_live => self.live = Some((live, framing)),
            _ => {}
        }
        self.is_closing = close && !is_live;
    }

    /// Lets the answer go on.
    fn go_on(&mut self, now: u64, service: &mut dyn Serve) {
        let Some((live, framing)) = &mut self.live else { return };
        let (mut piece, mut nothing) = (Vec::new(), Vec::new());
        // What comes behind a request whose answer is long is the next request.
        let input = if *framing == Framing::Close { &mut self.inbox } else { &mut nothing };
        let goes_on = service.drive(live, input, &mut piece);
        if *framing == Framing::Chunks {
            let mut line = alloc::string::String::new();
            if !piece.is_empty() {
                // A string takes everything.
                let _ = write!(line, "{:x}\r\n", piece.len());
                piece.extend_from_slice(b"\r\n");
            }
            self.outbox.extend_from_slice(line.as_bytes());
            self.outbox.append(&mut piece);
            if !goes_on {
                self.outbox.extend_from_slice(b"0\r\n\r\n");
            }
        } else {
            self.outbox.append(&mut piece);
        }
        if !self.outbox.is_empty() {
            self.since = now;
        }
        if !goes_on {
            self.is_closing = true;
            self.live = None;
            self.inbox = Vec::new();
        }
    }

    /// Sends one more answer, and ends.
    fn give_up(&mut self, response: &Response, now: u64) {
        response.write(true, Framing::Length, true, &mut self.outbox);
        self.is_closing = true;
        self.inbox = Vec::new();
        self.sink = None;
        self.since = now;
    }

    /// Returns true if something may be to send though nothing has come.
    pub fn is_live(&self) -> bool {
        self.live.is_some() || self.later.is_some() || self.waits
    }

    /// Returns what is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.outbox[self.sent..]
    }

    /// Tells that so many bytes of [`outgoing`](Self::outgoing) were sent.
    pub fn sent(&mut self, count: usize, now: u64) {
        if count > 0 {
            self.since = now;
        }
        self.sent += count;
        if self.sent >= self.outbox.len() {
            // An answer can be large, and connections are many: its memory is not kept.
            self.outbox = Vec::new();
            self.sent = 0;
        }
    }

    /// Returns true if everything was said.
    pub fn is_finished(&self) -> bool {
        self.is_closing && self.outgoing().is_empty()
    }

    /// Returns true if nothing of a request has come yet, and no answer is under way.
    pub fn is_idle(&self) -> bool {
        self.inbox.is_empty() && self.decoder.is_between() && self.outgoing().is_empty()
    }

    /// Returns what it has to show for its place.
    pub fn claim(&self) -> Claim {
        match () {
            () if !self.has_asked => Claim::New(self.asked),
            () if !self.is_known => Claim::Unknown(self.asked),
            () if self.is_idle() && !self.is_live() => Claim::Idle(self.since),
            () => Claim::Busy,
        }
    }

    /// Returns true if the peer was waited for long enough.
    pub fn is_overdue(&self, now: u64) -> bool {
        let waits = now.saturating_sub(self.since);
        // A console may be silent for long; TCP knows whether the peer is there.
        if self.is_live() && self.outgoing().is_empty() {
            return false;
        }
        waits > if self.is_idle() { IDLE } else { SLOW }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing::{Answering, Client};
    use alloc::format;
    use alloc::string::String;

    /// Gives the connection `bytes`, and returns all that it answers.
    fn talk(connection: &mut Connection, bytes: &[u8]) -> String {
        let answer = |request: &Request| Response::new(200).content("text/plain", request.path.as_bytes());
        talk_to(&mut Answering(answer), connection, bytes)
    }

    /// Gives the connection `bytes` of a conversation with this service, and returns all that it answers.
    fn talk_to(service: &mut dyn Serve, connection: &mut Connection, bytes: &[u8]) -> String {
        let (mut rest, mut out) = (bytes, Vec::new());
        loop {
            let (now, later) = rest.split_at(connection.room().min(rest.len()));
            connection.receive(now, 0);
            rest = later;
            connection.serve(0, service);
            let sent = connection.outgoing().len();
            out.extend_from_slice(connection.outgoing());
            connection.sent(sent, 0);
            if sent == 0 && (now.is_empty() || rest.is_empty()) {
                return String::from_utf8(out).unwrap();
            }
        }
    }

    const LOGIN: &str = "Host: x\r\nAuthorization: Basic YWRtaW46c2VjcmV0\r\n";
    const IMAGE: &str = "/redfish/v1/Oem/Salp/Images/k";

    #[test]
    fn an_upload_may_be_larger_than_all_that_is_kept_and_the_connection_goes_on() {
        let mut client = Client::new(Role::Operator);
        for (fields, before, behind) in [
            ("Content-Length: 300000", "", ""),
            ("Transfer-Encoding: chunked\r\nX-Salp-Size: 300000", "493e0\r\n", "\r\n0\r\n\r\n"),
        ] {
            let mut connection = Connection::new(0);
            let mut stream = Vec::from(format!("PUT {IMAGE} HTTP/1.1\r\n{LOGIN}{fields}\r\n\r\n{before}"));
            stream.resize(stream.len() + 300_000, b'y');
            stream.extend(format!("{behind}DELETE {IMAGE} HTTP/1.1\r\n{LOGIN}\r\n").as_bytes());
            let out = talk_to(&mut client.service.at(0), &mut connection, &stream);
            assert!(out.starts_with("HTTP/1.1 201 Created") && out.contains("HTTP/1.1 204 No Content"), "{out}");
            assert!(connection.is_idle());
        }
    }

    #[test]
    fn who_may_not_upload_is_told_before_the_body_comes() {
        let mut client = Client::new(Role::ReadOnly);
        for (login, status) in [(LOGIN, "403"), ("Host: x\r\n", "401")] {
            let head = format!("PUT {IMAGE} HTTP/1.1\r\n{login}Expect: 100-continue\r\nContent-Length: 300000\r\n\r\n");
            let mut connection = Connection::new(0);
            let out = talk_to(&mut client.service.at(0), &mut connection, head.as_bytes());
            assert!(out.starts_with(&format!("HTTP/1.1 {status} ")) && !out.contains("100 Continue"), "{out}");
            assert!(connection.is_finished());
        }
    }

    #[test]
    fn an_answer_that_goes_on_comes_in_chunks_or_to_old_clients_as_it_is() {
        let mut client = Client::new(Role::Operator);
        let mut follow = |version: &str| {
            let path = "/redfish/v1/Systems/2/Oem/Salp/Console?follow=1";
            let mut connection = Connection::new(0);
            let head = format!("GET {path} HTTP/{version}\r\n{LOGIN}\r\n");
            let out = talk_to(&mut client.service.at(0), &mut connection, head.as_bytes());
            assert!(connection.is_live() && !connection.is_overdue(100 * SLOW));
            out
        };
        let out = follow("1.1");
        assert!(
            out.contains("Transfer-Encoding: chunked\r\n") && out.ends_with("\r\n\r\nb\r\nweb login: \r\n"),
            "{out}"
        );
        let out = follow("1.0");
        assert!(!out.contains("Transfer-Encoding") && out.ends_with("\r\n\r\nweb login: "), "{out}");
    }

    #[test]
    fn pipelined_requests_are_answered_in_their_order() {
        let mut connection = Connection::new(0);
        let out = talk(&mut connection, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer =
            |path| alloc::format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{path}");
        assert_eq!(out, answer("/a") + &answer("/b"));
        assert!(connection.is_idle() && !connection.is_finished());
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let out = talk(&mut Connection::new(0), b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(out.ends_with("Content-Length: 2\r\n\r\n"), "{out}");
    }

    #[test]
    fn garbage_is_answered_once_and_ends_the_connection() {
        let mut connection = Connection::new(0);
        let out =
            talk(&mut connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01garbage\r\n\r\nGET / HTTP/1.1\r\n");
        assert_eq!(out.matches("HTTP/1.1 ").count(), 2, "{out}");
        assert!(out.contains("HTTP/1.1 400 Bad Request") && out.contains("Connection: close"), "{out}");
        assert!(connection.is_finished());
        assert_eq!(connection.room(), 0);
    }

    #[test]
    fn who_does_not_read_answers_is_not_read_either() {
        let mut connection = Connection::new(0);
        connection.receive(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", 0);
        connection.serve(0, &mut Answering(|_: &Request| Response::new(204)));
        assert_eq!(connection.room(), 0);
        assert!(connection.is_overdue(SLOW + 1));
    }

    #[test]
    fn a_request_that_trickles_in_is_overdue_however_often_a_byte_comes() {
        let mut connection = Connection::new(0);
        for second in 0..16 {
            assert!(!connection.is_overdue(second * 1000));
            connection.receive(b"G", second * 1000);
        }
        assert!(connection.is_overdue(SLOW + 1));
        assert!(!Connection::new(0).is_overdue(SLOW + 1));
        assert!(Connection::new(0).is_overdue(IDLE + 1));
    }

    #[test]
    fn who_shows_least_for_a_place_gives_it_up_first() {
        let mut client = Client::new(Role::Operator);
        let mut at = |now: u64, said: &str| {
            let mut connection = Connection::new(now);
            connection.receive(said.as_bytes(), now + 1);
            connection.serve(now + 1, &mut client.service.at(0));
            let sent = connection.outgoing().len();
            connection.sent(sent, now + 2);
            connection
        };
        let web = "GET /redfish/v1/Systems/2";
        let open = "GET /redfish/v1/ HTTP/1.1\r\nHost: x\r\n\r\n";
        let known = format!("{web} HTTP/1.1\r\n{LOGIN}\r\n");
        let wrong = known.replace("YWRtaW46c2VjcmV0", "YWRtaW46d3Jvbmc=");
        let follow = format!("{web}/Oem/Salp/Console?follow=1 HTTP/1.1\r\n{LOGIN}\r\n");
        let inverse = [
            (at(0, &follow), Claim::Busy),
            (at(0, &format!("{known}GET /")), Claim::Busy),
            (at(5, &known), Claim::Idle(7)),
            (at(3, &known), Claim::Idle(5)),
            (at(9, open), Claim::Unknown(10)),
            (at(8, &format!("{wrong}GET /")), Claim::Unknown(9)),
            (at(21, "GET /"), Claim::New(21)),
            (at(20, ""), Claim::New(20)),
        ];
        for (connection, claim) in &inverse {
            assert_eq!(connection.claim(), *claim);
        }
        assert!(inverse.is_sorted_by(|(_, more), (_, less)| more >= less));
    }

    #[test]
    fn a_body_larger_than_the_room_comes_in_pieces() {
        let mut stream = Vec::from(*b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n");
        stream.resize(stream.len() + 65536, b'x');
        assert!(talk(&mut Connection::new(0), &stream).ends_with("/p"));
    }

    #[test]
    fn a_value_of_a_field_cannot_start_another_field() {
        let mut out = Vec::new();
        Response::new(200).field("Location", "/a\r\nSet-Cookie: x").write(true, Framing::Length, false, &mut out);
        assert!(!String::from_utf8(out).unwrap().contains("Set-Cookie"));
    }
}
