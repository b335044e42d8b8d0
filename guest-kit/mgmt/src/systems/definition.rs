//! What a person asked a VM to be. Before: requests. After: [`build`](super::build), which keeps it in an image at EL2 so
//! that it can be shown and changed later, also by this guest after a crash.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_board::kernel::FlatPlace;
use salp_hvc::bootset::{MAX_NICS, NicRecord};
use salp_hvc::calls::VmInfo;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hypervisor::name_text;

/// The longest command line, in bytes: what Linux takes.
pub const MAX_COMMAND_LINE: usize = 2047;

/// A VM as it was asked for.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The name.
    pub name: String,
    /// How many vCPUs.
    pub vcpus: u32,
    /// RAM, in bytes.
    pub memory: u64,
    /// The image with the kernel.
    pub kernel: u64,
    /// The image with the initial RAM disk.
    pub initrd: Option<u64>,
    /// The boot arguments.
    pub command_line: String,
    /// Where a flat binary lies.
    pub flat: FlatPlace,
    /// Whether it is started again when it crashes.
    pub restarts: bool,
    /// Whether it gets memory in pages of 4 KiB only.
    pub small_pages: bool,
    /// Its NICs.
    pub nics: Vec<NicRecord>,
}

/// What is kept of it besides what EL2 tells of the VM. NICs and the command line follow.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Kept {
    kernel: U64,
    initrd: U64,
    load: U64,
    entry: U64,
    flags: U32,
    nics: U32,
}

/// How many bytes of what is kept say which images a VM is made from.
pub const HEAD: usize = size_of::<Kept>();

const RESTARTS: u32 = 1;
const SMALL_PAGES: u32 = 2;

impl Definition {
    /// Returns the bytes that are kept.
    pub fn bytes(&self) -> Vec<u8> {
        let kept = Kept {
            kernel: self.kernel.into(),
            initrd: self.initrd.unwrap_or(0).into(),
            load: self.flat.load.unwrap_or(0).into(),
            entry: self.flat.entry.unwrap_or(0).into(),
            flags: (if self.restarts { RESTARTS } else { 0 } | if self.small_pages { SMALL_PAGES } else { 0 }).into(),
            nics: (self.nics.len() as u32).into(),
        };
        [kept.as_bytes(), self.nics.as_bytes(), self.command_line.as_bytes()].concat()
    }

    /// Returns whether the bytes that were kept of a VM name this image.
    pub fn names(bytes: &[u8; HEAD], image: u64) -> bool {
        Kept::read_from_bytes(bytes).is_ok_and(|kept| kept.kernel.get() == image || kept.initrd.get() == image)
    }

    /// Reads the bytes that were kept of a VM.
    pub fn read(vm: &VmInfo, bytes: &[u8]) -> Option<Self> {
        let (kept, rest) = Kept::read_from_prefix(bytes).ok()?;
        let count = kept.nics.get().min(MAX_NICS) as usize;
        let (nics, rest) = <[NicRecord]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let number = |value: U64| Some(value.get()).filter(|&value| value != 0);
        Some(Self {
            name: name_text(&vm.name).to_string(),
            vcpus: vm.vcpus.get(),
            memory: vm.memory.get(),
            kernel: kept.kernel.get(),
            initrd: number(kept.initrd),
            command_line: str::from_utf8(rest).ok()?.to_string(),
            flat: FlatPlace { load: number(kept.load), entry: number(kept.entry) },
            restarts: kept.flags.get() & RESTARTS != 0,
            small_pages: kept.flags.get() & SMALL_PAGES != 0,
            nics: nics.to_vec(),
        })
    }
}
