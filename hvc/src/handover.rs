//! The hand-over: what one image of the hypervisor leaves to the next, and the call that asks for it.
//!
//! ```text
//! Header, one page ─ first ─▶ Page | Record, body | Record, body | … ─ next ─▶ Page | …
//! ```
//!
//! Records are the whole truth: whoever starts with a header, the next image or the one before it, makes all that it knows of
//! the VMs out of them, and writes to none. They lie in whole frames that stay as they are until the hand-over is over; a
//! record crosses no frame. All words are little endian and aligned. Guest memory, its tables and the table of frames are not
//! in records: they stay where they are, and records say where that is.
//!
//! A reader refuses a record of a kind that it does not know, unless the kind is [`OPTIONAL`], and one of a version or a length
//! that it does not know. A writer writes what the reader's [`Offer`] says that it knows.

#[cfg(feature = "next-formats")]
mod next;

#[cfg(feature = "next-formats")]
pub use next::{Parts, Power};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const BASE: u32 = 0xc600_0000;

/// Replaces the running image of the hypervisor by that of the bundle that is image x1, which is finished; by that of the standby
/// slot, which is activated, if x1 is [`STANDBY`]; by a fresh copy of the running one if x1 is 0. A bundle that is not good for the
/// machine is refused, with `update::REFUSAL_…` in x1, before any VM stands still. The call returns in the new image, or with the reason in the old one. Unless somebody makes [`CONFIRM`] in time, the old one
/// comes back. x1: the number of this hand-over, from 1.
pub const HANDOVER: u32 = BASE | 0x78;
/// [`HANDOVER`]: the image in the standby slot.
pub const STANDBY: u64 = u64::MAX;
/// Tells that the new image is well: the old one is given up.
pub const CONFIRM: u32 = BASE | 0x79;
/// Tells how hand-overs went. x1: how many images there were before this one; x2: 1 if it waits for [`CONFIRM`]; x3: why the last
/// one failed, one of `FAILED_…`, or 0.
pub const HANDOVER_STATE: u32 = BASE | 0x7a;

/// The first eight bytes of a header, and a word of an image's own header that says that it can be handed over to.
pub const MAGIC: [u8; 8] = *b"SALPHAND";

/// The least and the greatest version of a hand-over, its header, pages and records, that this image reads and writes. It reads what
/// it writes, and writes what it reads: an image that is not confirmed gives way to the one before.
pub const VERSIONS: [u16; 2] = [1, if cfg!(feature = "next-formats") { 2 } else { 1 }];

/// Where an image says that it can be handed over to: [`Offer`], in what the arm64 `Image` header reserves.
pub const OFFER: u64 = 32;

/// The size of a frame that holds records, in bytes.
pub const PAGE: usize = 4096;

/// The greatest number of CPUs.
pub const CPUS: usize = 8;

/// The alignment of records and of their bodies, in bytes.
pub const ALIGN: usize = 16;

/// The room of an image: two blocks of 2 MiB, one behind the other.
pub const IMAGE_ROOM: u64 = 4 << 20;

/// The room of what an image needs besides at its start: a block of 2 MiB.
pub const ROOM: u64 = 2 << 20;

/// The image refused what it was handed.
pub const FAILED_REFUSED: u32 = 1;
/// It panicked.
pub const FAILED_PANIC: u32 = 2;
/// It took an exception before it could report one.
pub const FAILED_EXCEPTION: u32 = 3;
/// It did not run the VMs in time.
pub const FAILED_HANG: u32 = 4;
/// Nobody confirmed it in time.
pub const FAILED_UNCONFIRMED: u32 = 5;

/// Returns the words that stand for a reason, for people.
pub const fn failure(reason: u32) -> &'static str {
    match reason {
        FAILED_REFUSED => "it refused what it was handed",
        FAILED_PANIC => "it panicked",
        FAILED_EXCEPTION => "it took an exception",
        FAILED_HANG => "it did not run the VMs in time",
        FAILED_UNCONFIRMED => "nobody confirmed it in time",
        _ => "for no reason that it could tell",
    }
}

/// What an image says of itself.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Offer {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Its [`VERSIONS`].
    pub versions: [u16; 2],
    /// Where the packed area starts, in bytes from the image's start.
    pub packed: u32,
}

/// The memory of one image's own.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Side {
    /// Where the image is.
    pub image: u64,
    /// Its tables and stacks: start and end, as all of these.
    pub early: [u64; 2],
    /// The scheduler's nodes.
    pub nodes: [u64; 2],
    /// The switch, the directory, packets.
    pub room: [u64; 2],
    /// What else is given back with it: the frames of the image.
    pub parts: [[u64; 2]; 2],
}

/// Where a CPU waits that no image has: it goes to `entry`, a physical address, with `argument` in x0 when that is not 0.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Door {
    /// Where to go.
    pub entry: u64,
    /// x0 there.
    pub argument: u64,
    /// 1 while a CPU waits.
    pub is_waiting: u64,
    /// Zero.
    pub reserved: [u64; 5],
}

/// The head of a hand-over: the one page that both images write to.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The version of this hand-over, which both images know: one of [`VERSIONS`].
    pub version: u32,
    /// Which side starts: 1 for the next image, 0 for the one before, which comes back.
    pub starting: u32,
    /// The image that hands over, and the next one.
    pub sides: [Side; 2],
    /// The machine's device tree.
    pub device_tree: u64,
    /// The first [`Page`] of records, and how many pages there are.
    pub first: u64,
    /// As said.
    pub pages: u64,
    /// The table of frames: start and end.
    pub frames: [u64; 2],
    /// The table of merging: start and end.
    pub merger: [u64; 2],
    /// The boot set that descriptions of VMs refer to; 0 if there is none.
    pub boot_set: u64,
    /// When the next image must run the VMs, by the counter.
    pub deadline: u64,
    /// How many hand-overs there were, this one included.
    pub count: u64,
    /// How long the VMs may run unconfirmed, in ticks.
    pub trial: u64,
    /// The counter when the VMs began to stand still.
    pub began: u64,
    /// The page of the image before by which an exception of the next one comes back: its vectors are in the second half.
    pub way_back: u64,
    /// Why the next image failed: `FAILED_…`.
    pub failed: u32,
    /// How much of `reason` is in use.
    pub reason_length: u32,
    /// Registers of an exception of the next image before it could report it: ESR, ELR and FAR of EL2.
    pub exception: [u64; 3],
    /// Who asked: the slot of the VM, plus 1, and the vCPU; its identifier and life. All zeros for the monitor.
    pub asker: [u64; 4],
    /// What the next image says of its failure: text.
    pub reason: [u8; 256],
    /// The CPUs that the image before had, one bit each.
    pub cpus: u64,
    /// The image, of EL2's own, that the management guest packed in the next image starts from in the place of that which runs; 0
    /// if that one goes on.
    pub manager: u64,
    /// Zero.
    pub reserved: u64,
    /// Where CPUs wait.
    pub doors: [Door; CPUS],
}

/// The start of a frame with records.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Page {
    /// The next one; 0 after the last.
    pub next: u64,
    /// How many bytes of it are in use, these included.
    pub used: u32,
    /// Zero.
    pub reserved: u32,
}

/// The start of a record. The next one begins at the next multiple of [`ALIGN`] behind the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Record {
    /// One of [`kind`], perhaps with [`OPTIONAL`].
    pub kind: u16,
    /// The version of this kind.
    pub version: u16,
    /// The size of the body, in bytes.
    pub length: u32,
    /// What of several of one kind this is: the number of a vCPU, of a NIC, of a kept record.
    pub index: u64,
}

/// [`Record::kind`]: who does not know the kind may go on without the record.
pub const OPTIONAL: u16 = 0x8000;

/// What a record is about. Parts of a VM follow its [`VM`](kind::VM).
pub mod kind {
    /// [`Machine`](super::Machine): the first record.
    pub const MACHINE: u16 = 1;
    /// [`Frames`](super::Frames).
    pub const FRAMES: u16 = 2;
    /// [`Merging`](super::Merging).
    pub const MERGING: u16 = 3;
    /// [`Image`](super::Image).
    pub const IMAGE: u16 = 4;
    /// [`Pages`](super::Pages): a record that a manager keeps.
    pub const KEPT: u16 = 5;
    /// [`Pool`](super::Pool).
    pub const POOL: u16 = 6;
    /// [`Events`](super::Events).
    pub const EVENTS: u16 = 7;
    /// [`Log`](super::Log).
    pub const LOG: u16 = 8;
    /// [`Store`](super::Store); none if it was being written to.
    pub const STORE: u16 = 9;
    /// [`Vm`](super::Vm).
    pub const VM: u16 = 16;
    /// A VM's description: `core::bootset::VmSpec`.
    pub const SPEC: u16 = 17;
    /// [`Identity`](super::Identity).
    pub const IDENTITY: u16 = 18;
    /// [`Memory`](super::Memory).
    pub const MEMORY: u16 = 19;
    /// The interrupt controller: `core::vgic::Vgic`.
    pub const VGIC: u16 = 20;
    /// [`Power`](super::Power).
    pub const POWER: u16 = 21;
    /// The console: `core::dev::pl011::Pl011`.
    pub const UART: u16 = 22;
    /// The clock: `core::dev::pl031::Pl031`.
    pub const RTC: u16 = 23;
    /// The power button: `core::dev::pl061::Pl061`.
    pub const GPIO: u16 = 24;
    /// [`Pages`](super::Pages): what the console has written.
    pub const WRITTEN: u16 = 25;
    /// `core::dev::net::NicRecord`.
    pub const NIC: u16 = 26;
    /// [`Vcpu`](super::Vcpu), then `core::context::Context`.
    pub const VCPU: u16 = 27;
    /// What a VM is by itself that has started as something else, as [`SPEC`]. `index` 1: until it is off.
    pub const OWN: u16 = 28;
    /// `core::dev::drive::DriveRecord`.
    pub const DRIVE: u16 = 29;
    /// [`Agent`](super::Agent).
    pub const AGENT: u16 = 30;
    /// The last record, without a body.
    pub const END: u16 = 63;
    /// [`Parts`](super::Parts) of a VM.
    #[cfg(feature = "next-formats")]
    pub const PARTS: u16 = super::OPTIONAL | 31;
}

/// What there is one of.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Machine {
    /// The last identifier of a VM that was given.
    pub last_vm: u64,
    /// The last identifier of an image.
    pub last_image: u64,
    /// The counter when the first image began.
    pub started: u64,
    /// For how long CPUs had nothing to do since then, in ticks.
    pub idle: u64,
    /// What the wall clock would have shown when the counter was 0, in nanoseconds since 1970.
    pub clock: u64,
    /// The state of the generator of random numbers.
    pub entropy: [u8; 32],
    /// The slot, plus 1, of the VM that the console shows.
    pub attached: u32,
    /// 1 if a VM ended otherwise than by itself.
    pub ended_badly: u32,
    /// How many VM records there are, checkpoints included.
    pub vms: u64,
    /// The kept records that the flash does not have as they are, one bit each.
    pub unwritten: u64,
    /// The slot of the flash that the image before was started from, plus 1; 0 if it was not started from there.
    pub slot: u64,
}

/// The events that managers may still read, and who waits for the next one.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Events {
    /// The number of the last one.
    pub last: u64,
    /// The frames that they lie in; 0 for none.
    pub pages: [u64; EVENT_PAGES],
    /// Slot, identifier and interrupt of each VM that waits; zeros for nobody.
    pub waiters: [[u64; 3]; WAITERS],
}

/// How many VMs can wait for the next event.
pub const WAITERS: usize = 4;

/// How many frames events take at most.
pub const EVENT_PAGES: usize = 16;

/// A part of what is kept of EL2's log. [`Record::index`] is the position of its first byte.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Log {
    /// How many bytes of it are in use.
    pub used: u64,
    /// Text.
    pub text: [u8; LOG_TEXT],
}

/// How much text a [`Log`] holds at most: two are in a frame.
pub const LOG_TEXT: usize = 2008;

/// Where the kept records are in the flash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Store {
    /// Which half counts: 0 or 1.
    pub half: u32,
    /// 1 if something unfinished is behind the last record.
    pub is_torn: u32,
    /// The half's number.
    pub generation: u64,
    /// Where the next record goes, and up to where the half is known to be erased.
    pub end: u64,
    /// As said.
    pub erased: u64,
    /// Of each record: where it is, and its size.
    pub index: [[u64; 2]; 16],
}

/// What a guest's agent has told.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Agent {
    /// The frame that it lies in.
    pub frame: u64,
    /// How many reports there were.
    pub heartbeats: u64,
    /// When the last one was, and the last one that said that the application lives (`u64::MAX`: none did); in nanoseconds since
    /// the first image began.
    pub told: u64,
    /// As said.
    pub lived: u64,
    /// The epoch of the identity and the life of the VM that told.
    pub teller: [u32; 2],
    /// The last report.
    pub report: crate::agent::AgentReport,
    /// Zero.
    pub reserved: [u8; AGENT_PADDING],
}

const AGENT_PADDING: usize = 8 - size_of::<crate::agent::AgentReport>() % 8;

/// The table of frames, beside its storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Frames {
    /// How many frames there are of each kind.
    pub by_kind: [u64; 8],
    /// Of them, in whole free blocks, and promised.
    pub free_blocks: u64,
    /// As said.
    pub promised: u64,
    /// The first free block, and the first that is free in part.
    pub lists: [u32; 2],
    /// The page of zeros, or 0.
    pub zero: u64,
    /// The last number of an address space's contents.
    pub version: u64,
}

/// How far merging is.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Merging {
    /// How many frames the table holds.
    pub stable: u64,
    /// The place of the table to be visited next.
    pub next: u64,
}

/// An address space, beside its tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Memory {
    /// The root node.
    pub root: u64,
    /// Where the RAM is: start and end.
    pub ram: [u64; 2],
    /// 1: by pages of 4 KiB only.
    pub small_pages: u32,
    /// MemAttr of leaves.
    pub attributes: u32,
    /// How many pins there are.
    pub pinned: u64,
    /// What its contents are called, and those that it comes from.
    pub version: u64,
    /// As said.
    pub base: u64,
    /// Set aside, drawn, owned, shared: in frames.
    pub account: [u64; 4],
    /// What has happened.
    pub counters: [u64; 10],
}

/// An image, beside its tables.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Image {
    /// Its memory.
    pub memory: Memory,
    /// What managers are told of it; users are counted anew.
    pub info: crate::manager::ImageInfo,
}

/// Bytes in frames of their own.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pages {
    /// How many bytes there are, or were written so far.
    pub size: u64,
    /// The frames; 0 for none.
    pub pages: [u64; 16],
}

/// Frames of nobody's, for what the next image makes anew: drivers of the machine's devices.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pool {
    /// How many.
    pub count: u64,
    /// The frames.
    pub frames: [u64; POOL],
}

/// How many frames a [`Pool`] has at most.
pub const POOL: usize = 96;

/// A VM or a snapshot, or the checkpoint of the VM before it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Vm {
    /// Its slot, and the place where the members of its family are counted.
    pub slot: u32,
    /// As said.
    pub kin: u32,
    /// Its identifier; 0 for a checkpoint.
    pub id: u64,
    /// The VM that it was made of, or 0.
    pub source: u64,
    /// The first VM of its family.
    pub family: u64,
    /// Frames for what is made of it: for each vCPU, its interrupt controller, its NICs, and itself.
    pub frames: [u64; 11],
    /// Why it does not run: `vm::hold`.
    pub holds: u32,
    /// How often it has started again.
    pub life: u32,
    /// CNTVOFF_EL2.
    pub counter_offset: u64,
    /// The number in the name of the last clone that was named after it.
    pub last_number: u64,
    /// How long it stood still for the last operation, in ticks.
    pub pause: u64,
    /// How many frames are set aside for it whatever it shares.
    pub reserve: u64,
    /// `FLAG_…` bits.
    pub flags: u32,
    /// The vCPU that froze it.
    pub freezer: u32,
    /// When a heartbeat is due, and when the power button is released: `u64::MAX` for never.
    pub due: u64,
    /// As said.
    pub release: u64,
    /// How many ticks may pass between two heartbeats.
    pub within: u64,
    /// How often it failed; in a row; when last.
    pub failures: [u64; 3],
}

/// [`Vm::flags`]: it was frozen by a call.
pub const FLAG_FROZEN_BY_CALL: u32 = 1 << 0;
/// [`Vm::flags`]: it was frozen by a store.
pub const FLAG_FROZEN_BY_STORE: u32 = 1 << 1;
/// [`Vm::flags`]: its memory was sealed since.
pub const FLAG_SEALED: u32 = 1 << 2;
/// [`Vm::flags`]: it starts again when it is off.
pub const FLAG_STARTS_AGAIN: u32 = 1 << 3;
/// [`Vm::flags`]: a key waits for room in its console.
pub const FLAG_TYPING_STALLED: u32 = 1 << 4;

/// Who a VM is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Identity {
    /// The name, padded with zeros.
    pub name: [u8; 32],
    /// The UUID.
    pub uuid: [u8; 16],
    /// The VM generation id.
    pub generation: [u8; 16],
    /// The clone's index.
    pub index: u32,
    /// How often it got an identity.
    pub epoch: u32,
    /// 1 if the guest has taken it on.
    pub acknowledged: u32,
    /// The size of the configuration.
    pub config_length: u32,
    /// The configuration, padded with zeros.
    pub config: [u8; 1024],
}

/// Which vCPUs are on: PSCI.
#[cfg(not(feature = "next-formats"))]
pub type Power = PowerV1;

/// [`Power`] in version 1.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PowerV1 {
    /// Of each vCPU: 0 off, 1 about to be on, 2 on, 3 suspended, 4 suspended without power; where it starts, and x0 there.
    pub states: [[u64; 3]; 8],
}

impl PowerV1 {
    /// Returns the record of these states.
    pub const fn new(states: [[u64; 3]; 8]) -> Self {
        Self { states }
    }
}

/// A vCPU, beside its registers.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Vcpu {
    /// What it would do: 0 nothing, 1 run, 2 sleep.
    pub activity: u32,
    /// 1 if the answer to a call waits for it.
    pub is_answered: u32,
    /// Of a sleeper: when its timer fires; `u64::MAX` for never.
    pub deadline: u64,
    /// How often it came back to EL2.
    pub exits: u64,
    /// The answer: x0 to x3.
    pub answer: [u64; 4],
    /// For how long it ran, and waited for a CPU that it had to leave, in ticks; when it had to leave, or 0.
    pub usage: [u64; 3],
}

const _: () = assert!(size_of::<Header>() <= PAGE && size_of::<Offer>() == 16);
const _: () = assert!(size_of::<Vcpu>() == 80 && size_of::<Record>() == ALIGN && size_of::<Page>() == ALIGN);
const _: () = assert!(size_of::<Pool>() < PAGE - 2 * ALIGN && size_of::<Identity>() == 1104);
