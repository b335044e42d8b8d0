//! The management guest without its machine: Redfish (DMTF DSP0266) over HTTP, on byte streams, carried out by a
//! [`Hypervisor`](hypervisor::Hypervisor). Runs on the host in tests, and in the guest of this package's program.
//!
//! A request's way: [`http`] (bytes → request) → [`service`] (who asks, may they, ETags, [`query`] parameters) → [`table`] (which
//! resource; published by [`openapi`]) → [`resources`] (what it says and does; [`images`],
//! [`systems`], [`media`], [`console`]) → [`hypervisor`]; refusals are [`message`]s. Besides: [`auth`]
//! (accounts and sessions), [`audit`] (who changed what), [`events`] (what has happened, and who is told), [`agent`] (what
//! guests tell), [`client`] (requests to others), [`tasks`] (what takes long), [`telemetry`] (figures), [`flow`] (bodies and
//! answers that are streamed), [`tls`], [`state`] (what outlives this
//! guest), [`appliance`] and [`sntp`] (names, addresses and the clock), [`updates`] (of the machine's image), [`peers`] (who had a connection then), [`dhcp`] (for
//! segments without a server), and [`fake`], the hypervisor of tests and plain QEMU.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod agent;
pub mod appliance;
pub mod audit;
pub mod auth;
pub mod client;
pub mod console;
pub mod dhcp;
pub mod events;
pub mod fake;
pub mod flow;
pub mod http;
pub mod hypervisor;
pub mod images;
pub mod media;
pub mod message;
pub mod openapi;
pub mod peers;
pub mod query;
pub mod resources;
pub mod service;
pub mod sntp;
pub mod state;
pub mod systems;
pub mod table;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod updates;
