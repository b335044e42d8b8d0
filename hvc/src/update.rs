//! Updates: the layout of the flash, the calls with which the management guest fills, tries and confirms a slot, and the
//! formats of records that an image reads and writes. Made like those of [`calls`](crate::calls).
//!
//! A *bundle* (a SUIT envelope with the image in it, `docs/update.md`) is written into the slot that is not confirmed, and lies
//! there as it was sent. No call waits for the flash: one that finds it busy does a step and answers
//! [`BUSY`](crate::status::BUSY), and who calls again drives it on.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const BASE: u32 = 0xc600_0000;

/// Writes an [`UpdateInfo`] to the address in x1.
pub const UPDATE_STATUS: u32 = BASE | 0x70;
/// Begins an upload of a bundle with x1 bytes; 0 if nobody has said how many: then the bundle does. What was staged stays until the
/// new bundle's signature has been checked.
pub const UPDATE_BEGIN: u32 = BASE | 0x71;
/// Takes the next x2 bytes of the bundle at the address in x1, or as many as there is room for now. x1: how many; 0 while the
/// flash is busy. The bundle is refused as soon as that is known: [`REFUSED`](crate::status::REFUSED), with the reason in x1
/// and in [`UpdateInfo::refusal`].
pub const UPDATE_WRITE: u32 = BASE | 0x72;
/// Ends the upload: the slot is staged if all of the bundle is there and has its digest.
pub const UPDATE_FINISH: u32 = BASE | 0x73;
/// Lets the next resets try the standby slot, which is staged, or was confirmed before: that is how one goes back. It falls
/// back by itself after [`MAX_ATTEMPTS`] without confirmation.
pub const UPDATE_ACTIVATE: u32 = BASE | 0x74;
/// Confirms the slot that is tried: it is the one that boots from now on, and older security counters are refused.
pub const UPDATE_CONFIRM: u32 = BASE | 0x75;
/// Ends the trial of the standby slot: the next reset starts the confirmed one.
pub const UPDATE_CANCEL: u32 = BASE | 0x76;
/// Resets the machine, unless records wait for the flash.
pub const MACHINE_RESET: u32 = BASE | 0x77;

/// How often a slot is tried before the confirmed one is started again.
pub const MAX_ATTEMPTS: u32 = 3;

/// The size of a version with its padding, in bytes.
pub const VERSION: usize = 32;

/// What there is to know of the slots.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UpdateInfo {
    /// `PHASE_…`.
    pub phase: U32,
    /// Why the last bundle or slot was refused: `REFUSAL_…`, 0 if none was.
    pub refusal: U32,
    /// The slot that the running image was started from: 0 for A, 1 for B, [`NO_SLOT`] if it was started in another way.
    pub running: U32,
    /// The slot that boots: 0 or 1.
    pub confirmed: U32,
    /// What is in the other slot: `STANDBY_…`.
    pub standby: U32,
    /// How often that was tried.
    pub attempts: U32,
    /// The least security counter that is accepted.
    pub floor: U64,
    /// How many bytes of the present upload are in the flash.
    pub written: U64,
    /// What is in the slots A and B.
    pub slots: [SlotInfo; 2],
}

/// What is in a slot; zeros if no signed bundle is.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SlotInfo {
    /// The version, padded with zeros.
    pub version: [u8; VERSION],
    /// The security counter.
    pub counter: U64,
    /// The size of the image, in bytes.
    pub size: U64,
    /// The SHA-256 of the image.
    pub digest: [u8; 32],
}

/// [`UpdateInfo::running`]: the image was not started from the flash.
pub const NO_SLOT: u32 = u32::MAX;

/// [`UpdateInfo::phase`]: nothing is under way.
pub const PHASE_IDLE: u32 = 0;
/// [`UpdateInfo::phase`]: a bundle is being uploaded.
pub const PHASE_UPLOAD: u32 = 1;
/// [`UpdateInfo::phase`]: what was asked for is being written down.
pub const PHASE_WRITING: u32 = 2;
/// [`UpdateInfo::phase`]: the machine has no flash that Salp knows.
pub const PHASE_NONE: u32 = 3;

/// [`UpdateInfo::standby`]: nothing of use.
pub const STANDBY_EMPTY: u32 = 0;
/// [`UpdateInfo::standby`]: a part of a bundle.
pub const STANDBY_WRITING: u32 = 1;
/// [`UpdateInfo::standby`]: a whole bundle that was not started yet.
pub const STANDBY_STAGED: u32 = 2;
/// [`UpdateInfo::standby`]: a bundle that the next reset starts.
pub const STANDBY_TRIAL: u32 = 3;
/// [`UpdateInfo::standby`]: a bundle that was tried and not confirmed.
pub const STANDBY_FAILED: u32 = 4;
/// [`UpdateInfo::standby`]: what was confirmed before.
pub const STANDBY_PREVIOUS: u32 = 5;

/// Refused: it is no bundle.
pub const REFUSAL_NOT_A_BUNDLE: u32 = 1;
/// Refused: it ends too early.
pub const REFUSAL_TRUNCATED: u32 = 2;
/// Refused: none of the image's keys has signed it.
pub const REFUSAL_SIGNATURE: u32 = 3;
/// Refused: it is for another board.
pub const REFUSAL_BOARD: u32 = 4;
/// Refused: its security counter is lower than one that was confirmed.
pub const REFUSAL_COUNTER: u32 = 5;
/// Refused: it does not read records that are there.
pub const REFUSAL_FORMATS: u32 = 6;
/// Refused: it does not fit.
pub const REFUSAL_TOO_LARGE: u32 = 7;
/// Refused: the image does not have the digest that was signed.
pub const REFUSAL_DIGEST: u32 = 8;
/// Refused: the flash does not keep what is written.
pub const REFUSAL_FLASH: u32 = 9;

/// Returns the words for a `REFUSAL_…`.
pub const fn refusal_word(refusal: u32) -> &'static str {
    match refusal {
        REFUSAL_NOT_A_BUNDLE => "not a bundle",
        REFUSAL_TRUNCATED => "truncated",
        REFUSAL_SIGNATURE => "bad signature",
        REFUSAL_BOARD => "for another board",
        REFUSAL_COUNTER => "security counter too low",
        REFUSAL_FORMATS => "record formats do not fit",
        REFUSAL_TOO_LARGE => "too large",
        REFUSAL_DIGEST => "bad digest",
        REFUSAL_FLASH => "the flash failed",
        _ => "none",
    }
}

/// The security counter of this source: raised when older images must not be started any more.
pub const SECURITY_COUNTER: u64 = 1;

/// A format of records: which versions an image reads, and which it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Its name, at most 15 bytes.
    pub name: &'static str,
    /// The least and the greatest version that it reads.
    pub reads: [u32; 2],
    /// The version that it writes.
    pub writes: u32,
}

/// The formats of this image's records, as its bundle lists them. An image takes over what the one before it wrote.
pub const FORMATS: &[Format] =
    &[Format { name: "boot-control", reads: [1, 1], writes: 1 }, Format { name: "store", reads: [1, 1], writes: 1 }];

/// The greatest number of formats of a bundle.
pub const MAX_FORMATS: usize = 16;

/// Where everything is in the flash. Offsets are multiples of any erase block up to 256 KiB.
pub mod layout {
    /// The first stage.
    pub const STAGE: u64 = 0;
    /// The size of its place, in bytes.
    pub const STAGE_SIZE: u64 = 1 << 20;
    /// The two copies of the boot control.
    pub const CONTROL: [u64; 2] = [0x10_0000, 0x14_0000];
    /// The slots A and B.
    pub const SLOTS: [u64; 2] = [0x40_0000, 0x80_0000];
    /// The size of a slot, in bytes.
    pub const SLOT_SIZE: u64 = 0x40_0000;
    /// The two halves of the store.
    pub const STORE: [u64; 2] = [0x100_0000, 0x280_0000];
    /// The size of a half, in bytes.
    pub const STORE_SIZE: u64 = 0x180_0000;
    /// The size of all of it.
    pub const SIZE: u64 = 0x400_0000;
}

const _: () = assert!(size_of::<SlotInfo>() == 80);
const _: () = assert!(size_of::<UpdateInfo>() == 40 + 2 * 80);
