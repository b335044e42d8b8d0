//! The boot set: the VMs that EL2 starts with, packed by whoever prepares a machine.
//!
//! EL2 parses no kernel format and writes no device tree. A VM is described by *segments* (bytes and the guest
//! physical address where they start), an entry point and the value of x0. Whoever makes the boot set (the runner, the
//! management guest) has already understood the kernel file and made the device tree.
//!
//! Layout, little endian, offsets from the start of the set, which lies on a page boundary:
//!
//! ```text
//! Header | VmRecord × vm_count | SegmentRecord × segment_count | NicRecord × nic_count | padding
//! segment bytes, each at a page boundary
//! ```
//!
//! Segment bytes are padded with zeros to whole pages, and both `offset` and `ipa` are page aligned: EL2 maps the very
//! frames of the boot set into the guest copy-on-write, so nothing is copied before the guest writes to it, equal
//! images are shared, and a restarted VM finds its first state again. Segments of several VMs may name the same bytes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of a boot set.
pub const MAGIC: [u8; 8] = *b"SALPBOOT";

/// The version of this layout.
pub const VERSION: u32 = 3;

/// The size and alignment of a page of a boot set, in bytes.
pub const PAGE: u64 = 4096;

/// The greatest number of vCPUs of a VM.
pub const MAX_VCPUS: u32 = 8;

/// The greatest number of segments of one VM.
pub const MAX_SEGMENTS: u32 = 16;

/// The greatest number of NICs of one VM.
pub const MAX_NICS: u32 = 4;

/// The greatest number of VLANs of a trunk port.
pub const MAX_VLANS: usize = 4;

/// The name of the segment that the machine's own NIC is in.
pub const UPLINK: &str = "uplink";

/// The guest physical address of the registers of a VM's first virtio device; the others follow, [`VIRTIO_SIZE`] apart.
pub const VIRTIO_BASE: u64 = 0x0a00_0000;

/// The size of the registers of a virtio device, in bytes.
pub const VIRTIO_SIZE: u64 = 0x200;

/// The number of the virtio device that is the VM's drive: the one behind all NICs that there can be.
pub const DRIVE: u32 = MAX_NICS;

/// The INTID of a VM's first virtio device, edge triggered; the others follow.
pub const VIRTIO_INTID: u32 = 48;

/// The guest physical address at which the RAM of every VM starts.
pub const RAM_BASE: u64 = 0x4000_0000;

/// The greatest amount of RAM of a VM, in bytes: what fits the 39-bit guest physical address space above [`RAM_BASE`].
pub const MAX_RAM: u64 = (1 << 39) - RAM_BASE;

/// [`VmRecord::flags`]: the VM is started again when it crashes.
pub const FLAG_RESTART_ON_CRASH: u32 = 1 << 0;

/// [`VmRecord::flags`]: memory is given to the VM in pages of 4 KiB only, for density; without it EL2 prefers 2 MiB.
pub const FLAG_SMALL_PAGES: u32 = 1 << 1;

/// [`VmRecord::flags`]: the VM may make management calls ([`calls`](crate::calls)).
pub const FLAG_MANAGER: u32 = 1 << 2;

/// [`VmRecord::flags`]: the VM is frozen before its first instruction.
pub const FLAG_FROZEN: u32 = 1 << 3;

/// [`VmRecord::flags`]: the VM stays when it is off, and can be started again by a manager; without it it is gone then.
pub const FLAG_STAYS: u32 = 1 << 4;

/// [`VmRecord::flags`]: the VM is off at first, and without memory.
pub const FLAG_OFF: u32 = 1 << 5;

/// The start of a boot set.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// How many [`VmRecord`]s follow.
    pub vm_count: U32,
    /// How many [`SegmentRecord`]s follow the VM records.
    pub segment_count: U32,
    /// How many [`NicRecord`]s follow the segment records.
    pub nic_count: U32,
    /// The size of the whole set, in bytes; a multiple of [`PAGE`].
    pub size: U64,
}

/// One VM.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VmRecord {
    /// The name: 1 to 31 bytes of `[A-Za-z0-9._-]`, padded with zeros.
    pub name: [u8; 32],
    /// How many vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: U32,
    /// `FLAG_…` bits; others are zero.
    pub flags: U32,
    /// The amount of RAM from [`RAM_BASE`], in bytes; a multiple of [`PAGE`].
    pub memory: U64,
    /// The guest physical address of the first instruction.
    pub entry: U64,
    /// x0 at entry: the guest physical address of the device tree, by the arm64 boot protocol.
    pub x0: U64,
    /// The index of the first segment of this VM.
    pub first_segment: U32,
    /// How many segments belong to this VM: at most [`MAX_SEGMENTS`].
    pub segment_count: U32,
}

/// A run of bytes that is in guest memory before the first instruction.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SegmentRecord {
    /// The guest physical address; page aligned, inside the VM's RAM. Segments of a VM do not overlap.
    pub ipa: U64,
    /// Where the bytes are in the set, or in the image; page aligned.
    pub offset: U64,
    /// How many bytes, not zero, before the padding to whole pages: with zeros in the set; of an image the rest of the page is
    /// there too.
    pub length: U64,
    /// Zero in a boot set; the image's identifier in [`VM_CREATE`](crate::manager::VM_CREATE).
    pub image: U64,
}

/// A NIC: the n-th of a VM is its n-th virtio device.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NicRecord {
    /// The index of the VM's record.
    pub vm: U32,
    /// The VLAN of the segment that it is in: 0 to 4094; 0 for none.
    pub vlan: U16,
    /// The MAC address; all zeros for one of EL2's choice.
    pub mac: [u8; 6],
    /// The segment's name: 1 to 15 bytes of `[A-Za-z0-9._-]`, padded with zeros. NICs reach those of the same name.
    pub segment: [u8; 16],
    /// The only IPv4 address that it may send with; all zeros for any.
    pub ipv4: [u8; 4],
    /// The VLANs of a trunk port, each 1 to 4094, rising, padded with zeros: frames of these and no others pass, with their
    /// tags, and `vlan` is 0. All zeros for a port that is in one VLAN.
    pub vlans: [U16; MAX_VLANS],
    /// The only IPv6 address that it may send with, link-local ones aside; all zeros for any.
    pub ipv6: [u8; 16],
    /// How many bytes it may send in a second; 0 for no limit.
    pub rate: U64,
}

const _: () = assert!(size_of::<NicRecord>() == 64);
const _: () = assert!(size_of::<Header>() == 32);
const _: () = assert!(size_of::<VmRecord>() == 72);
const _: () = assert!(size_of::<SegmentRecord>() == 32);
