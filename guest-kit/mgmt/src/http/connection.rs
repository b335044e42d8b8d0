//! One connection: requests in, answers out, one after the other. Before: TLS. After: [`decoder`](super::decoder), and
//! the service through a closure.
//!
//! Who moves the bytes asks [`Connection::room`] before it reads, so that a peer that sends faster than it is served, or
//! does not read its answers, is held back by TCP and not by memory.

use alloc::vec::Vec;

use super::decoder::{Decoded, Decoder, MAX_HEAD};
use super::request::{Method, Request};
use super::response::Response;

/// How long a connection may be silent between requests, in milliseconds.
pub const IDLE: u64 = 60_000;
/// How long a request may take to come, or an answer to be read on, in milliseconds.
pub const SLOW: u64 = 15_000;

/// Bytes that wait to be understood or sent, and how long they may.
#[derive(Debug)]
pub struct Connection {
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    decoder: Decoder,
    /// Nothing more is read: the last answer is being sent.
    is_closing: bool,
    /// Since when it waits for the same thing.
    since: u64,
}

impl Connection {
    /// Returns a connection that is open since `now`, in milliseconds.
    pub fn new(now: u64) -> Self {
        Self {
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            decoder: Decoder::default(),
            is_closing: false,
            since: now,
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
        if self.is_idle() {
            self.since = now;
        }
        self.inbox.extend_from_slice(bytes);
    }

    /// Answers what has come, one request at a time: the next one is looked at when this answer is sent.
    pub fn serve(&mut self, now: u64, service: &mut dyn FnMut(&Request) -> Response) {
        if self.is_closing || !self.outgoing().is_empty() {
            return;
        }
        match self.decoder.next(&mut self.inbox) {
            Ok(Some(Decoded { request, close })) => {
                self.is_closing = close;
                let response = service(&request);
                response.write(request.method != Method::Head, close, &mut self.outbox);
                self.since = now;
            }
            Ok(None) if self.decoder.wants_continue() => {
                self.outbox.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n")
            }
            Ok(None) => {}
            Err(why) => self.give_up(&crate::message::malformed(why), now),
        }
    }

    /// Sends one more answer, and ends.
    fn give_up(&mut self, response: &Response, now: u64) {
        response.write(true, true, &mut self.outbox);
        self.is_closing = true;
        self.inbox = Vec::new();
        self.since = now;
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

    /// Returns true if the peer was waited for long enough.
    pub fn is_overdue(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > if self.is_idle() { IDLE } else { SLOW }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    /// Gives the connection `bytes`, and returns all that it answers.
    fn talk(connection: &mut Connection, bytes: &[u8]) -> String {
        let (mut rest, mut out) = (bytes, Vec::new());
        loop {
            let (now, later) = rest.split_at(connection.room().min(rest.len()));
            connection.receive(now, 0);
            rest = later;
            connection.serve(0, &mut |request| Response::new(200).content("text/plain", request.path.as_bytes()));
            let sent = connection.outgoing().len();
            out.extend_from_slice(connection.outgoing());
            connection.sent(sent, 0);
            if sent == 0 && (now.is_empty() || rest.is_empty()) {
                return String::from_utf8(out).unwrap();
            }
        }
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
        connection.serve(0, &mut |_| Response::new(204));
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
    fn a_body_larger_than_the_room_comes_in_pieces() {
        let mut stream = Vec::from(*b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n");
        stream.resize(stream.len() + 65536, b'x');
        assert!(talk(&mut Connection::new(0), &stream).ends_with("/p"));
    }

    #[test]
    fn a_value_of_a_field_cannot_start_another_field() {
        let mut out = Vec::new();
        Response::new(200).field("Location", "/a\r\nSet-Cookie: x").write(true, false, &mut out);
        assert!(!String::from_utf8(out).unwrap().contains("Set-Cookie"));
    }
}
