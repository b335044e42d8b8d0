//! Calls of Salp's own: Vendor Specific Hypervisor Service Calls (DEN0028 section 6), by HVC #0, fast, with 64-bit
//! arguments. x0 is the function identifier and, on return, a [`status`](crate::status).
//!
//! *Guest calls* are open to every VM. *Management calls* are answered to VMs with the management capability
//! ([`FLAG_MANAGER`](crate::bootset::FLAG_MANAGER)) only; to others they do not exist. A call that has to stop a VM returns
//! when it is done: the calling vCPU runs nothing meanwhile.
//!
//! A VM's identifier is never used twice: one whose VM is gone is [`NOT_FOUND`](crate::status::NOT_FOUND).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const BASE: u32 = 0xc600_0000;

/// FEATURES (`0x8600_0000`, SMC32) answers this bit: the guest calls are there.
pub const FEATURE_GUEST: u64 = 1 << 0;
/// FEATURES answers this bit: the management calls are there, for this VM.
pub const FEATURE_MANAGEMENT: u64 = 1 << 1;

/// Freezes the calling VM: it executes no instruction until it is unfrozen. The source goes on with x1 = 0, a clone with
/// its index, from 1, in x1.
pub const FREEZE: u32 = BASE | 0x10;
/// Returns who the VM is. x1 selects: [`IDENTITY_UUID`], …; the answer is in x1 to x4.
pub const IDENTITY: u32 = BASE | 0x11;
/// Returns configuration, `key=value` lines: x1 is where to start, in bytes. x1: how long all of it is; x2 to x7: the 48
/// bytes from there, zeros behind the end.
pub const CONFIG: u32 = BASE | 0x12;
/// Tells that the guest has taken its new identity on.
pub const ACKNOWLEDGE: u32 = BASE | 0x13;

// 0x14 is `agent::AGENT`.

/// [`IDENTITY`]: x1 and x2 hold the UUID, first byte in bits 7:0 of x1.
pub const IDENTITY_UUID: u64 = 0;
/// [`IDENTITY`]: x1 and x2 hold the VM generation id.
pub const IDENTITY_GENERATION: u64 = 1;
/// [`IDENTITY`]: x1 holds the first MAC address, first byte in bits 7:0; x2 the clone's index; x3 how often the VM got a new
/// identity; x4 is 1 if the present one is acknowledged.
pub const IDENTITY_MAC: u64 = 2;
/// [`IDENTITY`]: x1 to x4 hold the name, padded with zeros.
pub const IDENTITY_NAME: u64 = 3;

/// Finds the VM with the least identifier above x1 (0 for the first) and writes its [`VmInfo`] to the address in x2.
/// x1: its identifier.
pub const VM_NEXT: u32 = BASE | 0x20;
/// Makes clones: x1 is the address of a [`CloneRequest`], x2 its size with the configuration behind it. x1: how many were
/// made, all or none; x2, x3: identifiers of the first and the last.
pub const VM_CLONE: u32 = BASE | 0x21;
/// Freezes the VM x1 wherever it is.
pub const VM_FREEZE: u32 = BASE | 0x22;
/// Lets the frozen VM x1 go on.
pub const VM_UNFREEZE: u32 = BASE | 0x23;
/// Destroys the VM or snapshot x1.
pub const VM_DESTROY: u32 = BASE | 0x24;
/// Keeps the present state of the VM x1 under the name at x2, 32 bytes padded with zeros. x1: the snapshot's identifier.
pub const VM_SNAPSHOT: u32 = BASE | 0x25;
/// Brings the VM x1 back to the state of the snapshot x2.
pub const VM_REVERT: u32 = BASE | 0x26;
/// Counts the memory of VM x1 by looking at all of its tables and writes a [`VmMemory`] to the address in x2.
pub const VM_MEMORY: u32 = BASE | 0x27;
/// Writes a [`MachineInfo`] to the address in x1.
pub const MACHINE: u32 = BASE | 0x28;

/// The greatest number of clones that one call makes.
pub const MAX_CLONES: u32 = 1000;
/// The greatest size of a VM's configuration, in bytes.
pub const MAX_CONFIG: usize = 1024;
/// The size of a name with its padding, in bytes; the last one is zero.
pub const NAME: usize = 32;

/// [`CloneRequest::reserve`]: all of the clone's RAM.
pub const RESERVE_ALL: u32 = 100;

/// What is asked of [`VM_CLONE`]. The configuration follows: `key=value` lines, each ended by a line feed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CloneRequest {
    /// The source: a VM or a snapshot.
    pub source: U64,
    /// How many: 1 to [`MAX_CLONES`].
    pub count: U32,
    /// For how much of its RAM each clone has frames set aside, in percent: 0 to [`RESERVE_ALL`].
    pub reserve: U32,
    /// The clone's name if `count` is 1, else what its name begins with, before `-1`, `-2`, …; all zeros for the source's
    /// name.
    pub name: [u8; NAME],
    /// The clone's UUID if `count` is 1; all zeros for one of EL2's choice.
    pub uuid: [u8; 16],
    /// `CLONE_…` bits.
    pub flags: U32,
    /// Zero.
    pub reserved: U32,
}

/// [`CloneRequest::flags`]: the clones' NICs are disconnected until the operator connects them.
pub const CLONE_DISCONNECTED: u32 = 1 << 0;

/// [`VmInfo::state`]: its vCPUs run, or wait for interrupts.
pub const STATE_RUNNING: u32 = 0;
/// [`VmInfo::state`]: it is frozen.
pub const STATE_FROZEN: u32 = 1;
/// [`VmInfo::state`]: it stands still until the machine has memory for it.
pub const STATE_NO_MEMORY: u32 = 2;
/// [`VmInfo::state`]: it is a snapshot, which never runs.
pub const STATE_SNAPSHOT: u32 = 3;
/// [`VmInfo::state`]: it is being taken down.
pub const STATE_ENDING: u32 = 4;
/// [`VmInfo::state`]: it is off, and can be started.
pub const STATE_OFF: u32 = 5;

/// Returns the word for a [`VmInfo::state`].
pub const fn state_word(state: u32) -> &'static str {
    match state {
        STATE_RUNNING => "running",
        STATE_FROZEN => "frozen",
        STATE_NO_MEMORY => "no-memory",
        STATE_SNAPSHOT => "snapshot",
        STATE_OFF => "off",
        _ => "ending",
    }
}

/// What there is to know of a VM without looking at its memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VmInfo {
    /// Its identifier.
    pub id: U64,
    /// The VM that it was cloned from, or that it is a snapshot of; 0 for one of the boot set or of a manager's description.
    pub source: U64,
    /// The identifier of the VM without a source that it descends from.
    pub family: U64,
    /// Its name, padded with zeros.
    pub name: [u8; NAME],
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its VM generation id.
    pub generation: [u8; 16],
    /// Its first MAC address.
    pub mac: [u8; 6],
    /// 1 if the guest has acknowledged its identity.
    pub acknowledged: U16,
    /// `STATE_…`.
    pub state: U32,
    /// How many vCPUs.
    pub vcpus: U32,
    /// Its index among the clones of the call that made it, from 1; 0 for others.
    pub index: U32,
    /// How many NICs.
    pub nics: U32,
    /// RAM, in bytes.
    pub memory: U64,
    /// Frames that are set aside for it, in bytes.
    pub promised: U64,
    /// How often its vCPUs came back to EL2.
    pub exits: U64,
    /// How many stage 2 faults gave it memory or access.
    pub faults: U64,
    /// How many pages were copied for it.
    pub copied_pages: U64,
    /// How many nodes of its table were copied.
    pub copied_nodes: U64,
    /// How many of its pages were merged with equal ones.
    pub merged_pages: U64,
    /// For how long it stood still for the last operation on it, from the request on, in nanoseconds.
    pub pause: U64,
}

/// A VM's memory, in bytes, counted by looking at every entry of its table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VmMemory {
    /// Guest memory that nobody else uses.
    pub private: U64,
    /// Guest memory that others use too.
    pub shared: U64,
    /// What EL2 keeps for this VM alone: nodes, and its own records.
    pub overhead: U64,
    /// What would be needed besides if this VM shared nothing: `shared` and the nodes that are shared, less its part of
    /// what is shared (a page that n entries point to counts 1/n).
    pub saved: U64,
}

/// The machine's memory, in bytes; frames that several VMs share count once.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MachineInfo {
    /// RAM that is not reserved.
    pub total: U64,
    /// Free.
    pub free: U64,
    /// Free, but promised to VMs.
    pub promised: U64,
    /// Memory of guests, what they share counted once.
    pub guests: U64,
    /// Nodes of their tables.
    pub nodes: U64,
    /// Data of EL2.
    pub hypervisor: U64,
    /// Images: the boot set, and finished ones of managers.
    pub images: U64,
    /// How many VMs, snapshots included.
    pub vms: U32,
    /// How many of them stand still for want of memory.
    pub starved: U32,
    /// How many CPUs.
    pub cpus: U32,
    /// What there is to know of the watchdog: `WATCHDOG_…` bits.
    pub watchdog: U32,
    /// For how long the hypervisor runs, in nanoseconds.
    pub uptime: U64,
    /// For how long its CPUs had nothing to do since then, all together, in nanoseconds.
    pub idle: U64,
}

/// [`MachineInfo::watchdog`]: there is one, which resets the machine when the hypervisor hangs.
pub const WATCHDOG_ARMED: u32 = 1 << 0;
/// [`MachineInfo::watchdog`]: it made the last reset.
pub const WATCHDOG_EXPIRED: u32 = 1 << 1;

const _: () = assert!(size_of::<CloneRequest>() == 72);
const _: () = assert!(size_of::<VmInfo>() == 176);
const _: () = assert!(size_of::<VmMemory>() == 32);
const _: () = assert!(size_of::<MachineInfo>() == 88);
