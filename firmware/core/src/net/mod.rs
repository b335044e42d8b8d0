//! The virtual network: Ethernet between the NICs of VMs. Before: [`crate::dev::net`], which takes frames out of a VM;
//! after: the same, which gives them to others.
//!
//! - [`packet`]: a frame on its way, what it says of itself, and what is left to do to it: checksums, segments.
//! - [`port`]: where a NIC is plugged in: what may leave and arrive there, how fast, and how much did.
//! - [`vlans`]: those of a trunk port, which carries frames with tags.
//! - [`switch`]: which ports there are, and behind which of them an address is.
//!
//! All of it is plain data and pure logic. A port belongs to its VM, so that a fork copies it; the switch is the machine's.

pub mod packet;
pub mod port;
pub mod switch;
pub mod vlans;

/// An Ethernet address.
pub type Mac = [u8; 6];
