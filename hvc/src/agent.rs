//! What a guest's agent tells of its guest: that it lives, its name and addresses, whether its application lives.
//!
//! A guest tells by [`AGENT`], or through registers of the guest device ([`device::REPORT`](crate::device::REPORT)) where
//! nobody can make calls; a manager asks by [`VM_AGENT`]. A report is void as soon as the VM gets another identity (a clone has
//! none of its source's) or starts again: until its own agent tells.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Guest call: takes the [`AgentReport`] at the address in x1, in place of the one before. Each is a heartbeat.
pub const AGENT: u32 = 0xc600_0014;
/// Management call: writes the [`AgentInfo`] of VM x1 to the address in x2.
pub const VM_AGENT: u32 = 0xc600_0038;

/// [`AgentReport::version`] of this layout.
pub const AGENT_VERSION: u32 = 1;
/// [`AgentReport::flags`]: the agent looks after an application.
pub const AGENT_WATCHES: u32 = 1 << 0;
/// [`AgentReport::flags`]: the application lives.
pub const AGENT_APPLICATION: u32 = 1 << 1;
/// How many NICs a report can tell of.
pub const AGENT_NICS: usize = 4;

/// A NIC as its guest has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AgentNic {
    /// Its MAC address; zeros if there is no such NIC.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: U16,
    /// Its first IPv4 address; zeros if it has none.
    pub ipv4: [u8; 4],
    /// Its first global IPv6 address; zeros if it has none.
    pub ipv6: [u8; 16],
}

/// What an agent tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AgentReport {
    /// [`AGENT_VERSION`]; 0 where there is no report.
    pub version: U32,
    /// `AGENT_…` bits.
    pub flags: U32,
    /// The guest's host name, at most 63 of `[A-Za-z0-9._-]`, padded with zeros.
    pub host_name: [u8; 64],
    /// Its NICs.
    pub nics: [AgentNic; AGENT_NICS],
}

/// What EL2 knows of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AgentInfo {
    /// The last report; zeros if there is none.
    pub report: AgentReport,
    /// How many there were.
    pub heartbeats: U64,
    /// How long ago the last one was, in nanoseconds.
    pub age: U64,
    /// How long ago the last one was that said that the application lives, in nanoseconds; all ones if none did.
    pub application_age: U64,
}

const _: () = assert!(size_of::<AgentReport>() == 184);
const _: () = assert!(size_of::<AgentInfo>() == 208);
