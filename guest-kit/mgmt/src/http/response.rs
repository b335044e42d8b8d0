//! One answer. Before: [`service`](crate::service). After: [`connection`](super::connection), which sends it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::flow::{Live, Then};

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Fields, besides those that say how long the body is and whether the connection stays.
    pub fields: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What comes after it.
    pub then: Then,
    /// Whether it is known who asked.
    pub is_known: bool,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length.
    Length,
    /// By the last chunk.
    Chunks,
    /// By the end of the connection.
    Close,
}

impl Response {
    /// Returns an answer without fields and body.
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new(), then: Then::End, is_known: false }
    }

    /// Adds a field.
    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Sets the body and its type.
    pub fn content(self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self.field("Content-Type", kind) }
    }

    /// Lets the body go on.
    pub fn live(self, live: Live) -> Self {
        Self { then: Then::Flow(live), ..self }
    }

    /// Returns the first field of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Appends the bytes of this answer, head and body in one piece: two writes would cost a delayed acknowledgement.
    pub(super) fn write(&self, with_body: bool, framing: Framing, close: bool, out: &mut Vec<u8>) {
        let mut head = String::with_capacity(1024);
        // A string takes everything.
        let _ = write!(head, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.fields {
            // What came from a peer must not start a field of its own.
            let end = value.bytes().position(|byte| matches!(byte, b'\r' | b'\n' | 0)).unwrap_or(value.len());
            [name, ": ", &value[..end], "\r\n"].into_iter().for_each(|part| head.push_str(part));
        }
        match framing {
            Framing::Length if !matches!(self.status, 204 | 304) => {
                let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
            }
            Framing::Chunks => head.push_str("Transfer-Encoding: chunked\r\n"),
            _ => {}
        }
        head.push_str(if close { "Connection: close\r\n\r\n" } else { "\r\n" });
        out.extend_from_slice(head.as_bytes());
        if with_body && !matches!(self.status, 204 | 304) {
            out.extend_from_slice(&self.body);
        }
    }
}

/// Returns the words that go with a status code.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
