//! The Salp guest device: what [`calls`](crate::calls) tells a guest's kernel, for programs that cannot make calls. A Linux
//! program maps it through `/dev/mem`; no kernel module is needed.
//!
//! One page of registers, little endian; loads of 1, 2, 4 or 8 aligned bytes, stores of 4. The device tree node is
//! `salp@90c0000` with `compatible = "salp,guest-1"`.

/// Where it is: guest physical.
pub const BASE: u64 = 0x090c_0000;
/// Its size, in bytes.
pub const SIZE: u64 = 0x1000;
/// The `compatible` string of its node.
pub const COMPATIBLE: &str = "salp,guest-1";

/// Reads [`MAGIC_VALUE`].
pub const MAGIC: u64 = 0x00;
/// "SALP".
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"SALP");
/// Reads [`VERSION_VALUE`].
pub const VERSION: u64 = 0x04;
/// The version of this layout.
pub const VERSION_VALUE: u32 = 1;
/// Written with `COMMAND_…`; reads zero.
pub const COMMAND: u64 = 0x08;
/// Freezes the VM: the store completes when the VM goes on, as source or as clone.
pub const COMMAND_FREEZE: u32 = 1;
/// Tells that the guest has taken its identity on.
pub const COMMAND_ACKNOWLEDGE: u32 = 2;
/// Takes what lies at [`REPORT`] as the agent's report. A report that makes no sense is ignored.
pub const COMMAND_REPORT: u32 = 3;
/// Reads 1 if the present identity is acknowledged.
pub const ACKNOWLEDGED: u64 = 0x0c;
/// Reads the clone's index, from 1; 0 for a VM that is no clone.
pub const INDEX: u64 = 0x10;
/// Reads how often the VM got a new identity: a program that sees it change has been cloned or reverted.
pub const EPOCH: u64 = 0x14;
/// Reads the size of the configuration, in bytes.
pub const CONFIG_LENGTH: u64 = 0x18;
/// 16 bytes: the UUID.
pub const UUID: u64 = 0x20;
/// 16 bytes: the VM generation id.
pub const GENERATION: u64 = 0x30;
/// 6 bytes: the first MAC address.
pub const MAC: u64 = 0x40;
/// 8 bytes: the wall-clock time, in nanoseconds since 1970. Read with one load.
pub const TIME: u64 = 0x48;
/// 8 random bytes, others with each load.
pub const RANDOM: u64 = 0x50;
/// 32 bytes: the name, padded with zeros.
pub const NAME: u64 = 0x60;
/// The [`AgentReport`](crate::agent::AgentReport) that [`COMMAND_REPORT`] takes: written in words of 4 bytes, which stay until
/// others are written; reads zero.
pub const REPORT: u64 = 0x100;
/// 1,024 bytes: the configuration, `key=value` lines, padded with zeros.
pub const CONFIG: u64 = 0x800;

/// The guest physical page that holds the VM generation id in its first 16 bytes (binding `microsoft,vmgenid`). It lies
/// just below RAM.
pub const GENERATION_PAGE: u64 = crate::bootset::RAM_BASE - 0x1000;
/// The interrupt that tells of a new generation id: SPI 3, edge triggered.
pub const GENERATION_INTID: u32 = 35;
