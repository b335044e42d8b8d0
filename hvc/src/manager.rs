//! More calls of the management guest, made like those of [`calls`](crate::calls): what VMs are made from and talk through
//! (images, consoles, NICs), their power, and the manager's own life.
//!
//! A manager may crash or hang, and is then brought back to its checkpoint. What has to outlive that it keeps at EL2:
//! [`KEEP`], and the labels of images.

use crate::bootset::MAX_VLANS;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const BASE: u32 = 0xc600_0000;

/// Makes a VM that is off. x1 is the address of a [`VmRecord`](crate::bootset::VmRecord) with its
/// [`SegmentRecord`](crate::bootset::SegmentRecord)s and then its [`NicRecord`](crate::bootset::NicRecord)s behind it, x2 the
/// size of all that, at most [`MAX_DESCRIPTION`]. Segments name finished images; those are in use from then on. The VM stays
/// when it is off, whatever its flags say, and is no manager. x1: its identifier.
pub const VM_CREATE: u32 = BASE | 0x30;
/// Describes the VM x1, which is off, anew: x2 and x3 as x1 and x2 of [`VM_CREATE`]. Identifier, UUID and family stay.
pub const VM_CHANGE: u32 = BASE | 0x31;
/// Starts the VM x1, which is off, from its first state.
pub const VM_START: u32 = BASE | 0x32;
/// Turns the VM x1 off at once, whatever it does. It stays, without memory, whatever its flags say.
pub const VM_STOP: u32 = BASE | 0x33;
/// Starts the VM x1 again from its first state, whatever it does. It is off if the machine has no memory for that.
pub const VM_RESET: u32 = BASE | 0x34;
/// Asks the guest in VM x1 to do something: x2 is one of `SIGNAL_…`. The answer says that the request is there, not that the
/// guest follows it.
pub const VM_SIGNAL: u32 = BASE | 0x35;
/// Writes the [`NicInfo`] of NIC x2 of VM x1 to the address in x3.
pub const VM_NIC: u32 = BASE | 0x36;
/// Changes NIC x2 of VM x1 as the [`NicChange`] at x3 says.
pub const VM_NIC_CHANGE: u32 = BASE | 0x37;

// 0x38 is `agent::VM_AGENT`.

/// [`VM_SIGNAL`]: turn yourself off: the power button is pressed.
pub const SIGNAL_SHUTDOWN: u64 = 0;
/// [`VM_SIGNAL`]: shut down and start again: the power button is pressed, and the VM that turns itself off then restarts.
pub const SIGNAL_RESTART: u64 = 1;

/// The greatest size of what describes a VM, in bytes.
pub const MAX_DESCRIPTION: usize = 2048;

/// Makes an empty image as the [`ImageInfo`] at x1 says: its size and label. x1: its identifier.
pub const IMAGE_CREATE: u32 = BASE | 0x40;
/// Writes x4 bytes from the address in x3 at the offset x2 into the image x1, which is not finished.
pub const IMAGE_WRITE: u32 = BASE | 0x41;
/// Reads x4 bytes at the offset x2 of the image x1 to the address in x3.
pub const IMAGE_READ: u32 = BASE | 0x42;
/// Finishes the image x1: it does not change any more, and VMs may use it.
pub const IMAGE_FINISH: u32 = BASE | 0x43;
/// Deletes the image x1, which no VM uses.
pub const IMAGE_DELETE: u32 = BASE | 0x44;
/// Finds the image with the least identifier above x1 (0 for the first) and writes its [`ImageInfo`] to the address in x2.
/// x1: its identifier.
pub const IMAGE_NEXT: u32 = BASE | 0x45;
/// Gives the image x1 the label at x2, [`LABEL`] bytes.
pub const IMAGE_LABEL: u32 = BASE | 0x46;

/// The greatest size of an image, in bytes.
pub const MAX_IMAGE: u64 = 1 << 30;
/// The greatest number of images.
pub const MAX_IMAGES: usize = 64;
/// The greatest number of bytes that one call copies.
pub const MAX_COPY: u64 = 64 << 10;
/// The size of an image's label, in bytes.
pub const LABEL: usize = 128;

/// Reads what the VM x1 wrote to its console: x2 is the position of the first byte wanted, counted from the VM's start, x3
/// the address and x4 the size of the buffer. x1: how many bytes were read; x2: the position of the first one, which is later
/// than asked for if older ones were dropped; x3: the position behind the last byte written so far.
pub const CONSOLE_READ: u32 = BASE | 0x48;
/// Types x3 bytes at the address in x2 at the console of VM x1. x1: how many were taken; the guest has no room for more now.
pub const CONSOLE_WRITE: u32 = BASE | 0x49;

/// How many bytes of a console are kept.
pub const CONSOLE_SIZE: usize = 64 << 10;

/// Makes the present state of the manager, which has one vCPU, its checkpoint, memory included, in place of the one before.
/// x1: 0. When the manager is brought back to it, the call returns again, with how often that has happened so far in x1 and
/// why in x2: `RECOVERY_…`. Answers to calls under way are lost then, what they do is done.
pub const CHECKPOINT: u32 = BASE | 0x50;
/// Tells that the manager is well. It is brought back to its checkpoint if the next heartbeat does not come within x1
/// milliseconds, be it that it sleeps; 0 ends that. Without a checkpoint it has crashed then. Time does not count while others
/// freeze it.
pub const HEARTBEAT: u32 = BASE | 0x51;
/// Keeps x3 bytes at the address in x2 as record x1, in place of what it held; 0 bytes remove it. Done whole or not at all.
pub const KEEP: u32 = BASE | 0x52;
/// Reads record x1 to the address in x2, as much of it as fits into x3 bytes. x1: the record's size, 0 if there is none.
pub const RECALL: u32 = BASE | 0x53;

/// Reads what became of VMs: x1 is the number of the first event wanted, x2 the address and x3 the size of the room for
/// [`EventRecord`](crate::events::EventRecord)s. x1: how many were read; x2: the number to go on with. If x4 is the number of an
/// SPI and nothing is left to read, it becomes pending in the caller when there is one more event, once.
pub const EVENT_READ: u32 = BASE | 0x54;

/// Tells what the VM x1 has had of the CPUs. x1: for how long its vCPUs ran, all together, in nanoseconds; x2: for how long they
/// waited for a CPU that they had to leave to others.
pub const VM_USAGE: u32 = BASE | 0x55;

/// [`CHECKPOINT`]: the manager crashed, or turned itself off.
pub const RECOVERY_CRASH: u64 = 1;
/// [`CHECKPOINT`]: its heartbeat did not come.
pub const RECOVERY_HANG: u64 = 2;

/// How many records there are, numbered from 0.
pub const RECORDS: u64 = 16;
/// The greatest size of a record, in bytes.
pub const MAX_RECORD: u64 = 16 << 10;

/// An image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ImageInfo {
    /// Its identifier, never used twice. [`IMAGE_CREATE`] chooses it, and counts users.
    pub id: U64,
    /// Its size, in bytes: 1 to [`MAX_IMAGE`]. So much memory is set aside for it at once.
    pub size: U64,
    /// How many VMs and snapshots are made from it.
    pub users: U32,
    /// 1 if it is finished.
    pub finished: U32,
    /// What the manager says of it.
    pub label: [u8; LABEL],
}

/// A NIC of a VM, as it is now.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NicInfo {
    /// Its segment, padded with zeros.
    pub segment: [u8; 16],
    /// Its VLAN; 0 for none.
    pub vlan: U16,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// `LINK_…` bits.
    pub link: U32,
    /// The last IPv4 address that it claimed by ARP; zeros if none.
    pub ipv4: [u8; 4],
    /// The last global IPv6 address that it claimed by neighbour discovery; zeros if none.
    pub ipv6: [u8; 16],
    /// The VLANs of a trunk port, as in its record.
    pub vlans: [U16; MAX_VLANS],
    /// How many bytes it may send in a second; 0 for no limit.
    pub rate: U64,
    /// Frames that left, and their bytes.
    pub sent: [U64; 2],
    /// Frames that arrived, and their bytes.
    pub received: [U64; 2],
    /// Frames that did not leave: quarantine, addresses of others, rate, malformed.
    pub refused: [U64; 4],
    /// Frames that found no buffer.
    pub missed: U64,
}

/// [`NicInfo::link`]: the guest sees a link.
pub const LINK_UP: u32 = 1 << 0;
/// [`NicInfo::link`]: the operator has disconnected it.
pub const LINK_DISCONNECTED: u32 = 1 << 1;
/// [`NicInfo::link`]: it waits in quarantine until the guest acknowledges its identity.
pub const LINK_QUARANTINED: u32 = 1 << 2;

/// A change of a NIC.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NicChange {
    /// The segment to move to, padded with zeros; all zeros to stay.
    pub segment: [u8; 16],
    /// The VLAN in it; not looked at if it stays, like `vlans`.
    pub vlan: U16,
    /// 1 to connect it, 0 to disconnect it.
    pub connected: U16,
    /// Zero.
    pub reserved: U32,
    /// How many bytes it may send in a second; 0 for no limit.
    pub rate: U64,
    /// The VLANs of a trunk port there, as in a [`NicRecord`](crate::bootset::NicRecord).
    pub vlans: [U16; MAX_VLANS],
}

const _: () = assert!(size_of::<ImageInfo>() == 24 + LABEL);
const _: () = assert!(size_of::<NicInfo>() == 136);
const _: () = assert!(size_of::<NicChange>() == 40);
