//! This guest as a client of others: one request, one answer, one connection. Before: whoever wants something of a server:
//! [`subscription`](crate::events::subscription). After: the program's network, which finds the host and moves bytes.

pub mod exchange;
pub mod url;

pub use exchange::{Exchange, Trust};
pub use url::{Host, Url};
