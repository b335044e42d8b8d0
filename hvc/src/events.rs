//! What becomes of VMs, as EL2 tells managers ([`EVENT_READ`](crate::manager::EVENT_READ)): the last [`KEPT`] events of all VMs.
//!
//! Events are numbered from 1 on, in their order. A reader says which number it wants next; a record whose number is greater
//! than that tells how many were lost.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::calls::NAME;

/// How many events are kept, unless memory is short.
pub const KEPT: usize = 1024;

/// One event.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EventRecord {
    /// Its number.
    pub number: U64,
    /// When it was, in nanoseconds since 1970.
    pub time: U64,
    /// The VM or snapshot.
    pub vm: U64,
    /// What it was: one of the constants here.
    pub kind: U32,
    /// More about it, as its kind says; else zero.
    pub detail: U32,
    /// The name of the VM, padded with zeros.
    pub name: [u8; NAME],
}

/// The VM was made. Detail: its index among the clones of one call, from 1; 0 for one that is no clone.
pub const CREATED: u32 = 1;
/// A manager started it.
pub const STARTED: u32 = 2;
/// Its guest turned it off. Detail: `AFTER_…`.
pub const OFF: u32 = 3;
/// Its guest restarted it. Detail: `AFTER_…`.
pub const RESTARTED: u32 = 4;
/// It could not go on. Detail: `AFTER_…`.
pub const CRASHED: u32 = 5;
/// A manager or the operator turned it off.
pub const STOPPED: u32 = 6;
/// A manager or the operator started it again. Detail: `AFTER_…`.
pub const RESET: u32 = 7;
/// It was destroyed.
pub const DESTROYED: u32 = 8;
/// It is frozen.
pub const FROZEN: u32 = 9;
/// It goes on after it was frozen.
pub const UNFROZEN: u32 = 10;
/// It stands still until the machine has memory for it.
pub const NO_MEMORY: u32 = 11;
/// There is memory for it again.
pub const MEMORY_BACK: u32 = 12;
/// A manager failed and is back at its checkpoint. Detail: [`RECOVERY_CRASH`](crate::manager::RECOVERY_CRASH) or
/// [`RECOVERY_HANG`](crate::manager::RECOVERY_HANG).
pub const TAKEN_BACK: u32 = 13;
/// A snapshot was made; it is what `vm` names.
pub const SNAPSHOT: u32 = 14;
/// The VM went back to a snapshot.
pub const REVERTED: u32 = 15;
/// It was described anew.
pub const CHANGED: u32 = 16;
/// One of its NICs was changed. Detail: which.
pub const NIC_CHANGED: u32 = 17;

/// A snapshot was deleted; it is what `vm` names.
pub const DELETED: u32 = 18;

/// A manager was replaced when another image of the hypervisor took over. Detail: one of `MANAGER_…`.
pub const REPLACED: u32 = 19;

/// Detail of [`REPLACED`]: it is that of the image that took over.
pub const MANAGER_NEXT: u32 = 0;
/// Detail of [`REPLACED`]: it is what it was before; the image that took over gives way to the one before.
pub const MANAGER_BEFORE: u32 = 1;

/// Detail of an end: it is off, and can be started.
pub const AFTER_OFF: u32 = 0;
/// Detail of an end: it runs again.
pub const AFTER_AGAIN: u32 = 1;
/// Detail of an end: it is gone.
pub const AFTER_GONE: u32 = 2;

const _: () = assert!(size_of::<EventRecord>() == 64);
