//! Addresses of names (DNS). Before: [`wire`](super::wire), [`time`](super::time). After: smoltcp.
//!
//! Servers are those that an operator has set, or DHCP has told, or the boot arguments name.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dns::{GetQueryResultError, QueryHandle, Socket};
use smoltcp::wire::{DnsQueryType, IpAddress};

/// How many names can be looked up at a time.
const QUERIES: usize = 4;

/// What is known of a name.
pub enum Answer {
    /// Nothing yet.
    Wait,
    /// Its address.
    Found(IpAddress),
    /// It has none, or nobody can be asked.
    None,
}

struct Query {
    name: String,
    handle: QueryHandle,
    kind: DnsQueryType,
}

/// Names that are looked up.
pub struct Names {
    handle: SocketHandle,
    queries: Vec<Query>,
    servers: Vec<IpAddress>,
}

impl Names {
    /// Returns a client that knows no server.
    pub fn new(sockets: &mut SocketSet<'static>) -> Self {
        let queries: Vec<_> = (0..QUERIES).map(|_| None).collect();
        let handle = sockets.add(Socket::new(&[], queries));
        Self { handle, queries: Vec::new(), servers: Vec::new() }
    }

    /// Asks these servers from now on.
    pub fn set_servers(&mut self, sockets: &mut SocketSet<'static>, servers: &[IpAddress]) {
        if self.servers != servers {
            self.servers = servers.to_vec();
            let most = servers.len().min(smoltcp::config::DNS_MAX_SERVER_COUNT);
            sockets.get_mut::<Socket<'_>>(self.handle).update_servers(&servers[..most]);
        }
    }

    /// Returns the address of a name. To be called again as long as it is to be waited for.
    pub fn look_up(&mut self, interface: &mut Interface, sockets: &mut SocketSet<'static>, name: &str) -> Answer {
        let socket = sockets.get_mut::<Socket<'_>>(self.handle);
        let Some(at) = self.queries.iter().position(|query| query.name == name) else {
            if self.servers.is_empty() {
                return Answer::None;
            }
            return self.begin(interface, sockets, name, DnsQueryType::A);
        };
        let query = &self.queries[at];
        match socket.get_query_result(query.handle) {
            Err(GetQueryResultError::Pending) => Answer::Wait,
            Ok(addresses) if !addresses.is_empty() => {
                self.queries.swap_remove(at);
                Answer::Found(addresses[0])
            }
            _ => {
                let kind = self.queries.swap_remove(at).kind;
                if kind == DnsQueryType::A {
                    self.begin(interface, sockets, name, DnsQueryType::Aaaa)
                } else {
                    Answer::None
                }
            }
        }
    }

    fn begin(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        name: &str,
        kind: DnsQueryType,
    ) -> Answer {
        if self.queries.len() >= QUERIES {
            return Answer::Wait;
        }
        match sockets.get_mut::<Socket<'_>>(self.handle).start_query(interface.context(), name, kind) {
            Ok(handle) => {
                self.queries.push(Query { name: name.to_string(), handle, kind });
                Answer::Wait
            }
            Err(_) => Answer::None,
        }
    }
}
