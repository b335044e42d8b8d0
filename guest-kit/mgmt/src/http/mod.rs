//! HTTP/1.1 (RFC 9112) on a pair of byte streams that somebody else moves. Before: TLS. After: [`service`](crate::service).
//!
//! [`decoder`] cuts the stream that comes in into requests, [`response`] writes answers, [`connection`] joins the two
//! and keeps time. None of them reads or writes a socket, and all of them have bounds: what a peer can make this guest
//! remember is [`decoder::MAX_HEAD`] and [`decoder::MAX_BODY`] a connection. Bodies that are larger are taken away as they
//! come ([`flow`](crate::flow)), and [`multipart`] takes those apart that are made of parts.

pub mod connection;
pub mod decoder;
pub mod multipart;
pub mod request;
pub mod response;

/// How many connections there can be.
pub const CONNECTIONS: usize = 72;

pub use connection::{Claim, Connection, Serve};
pub use request::{Method, Request};
pub use response::Response;
