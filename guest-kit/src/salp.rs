//! Salp's own calls ([`salp_hvc::calls`]), one function each. Before: guests. After: EL2.
//!
//! Records lie on the caller's stack: this runtime maps memory as itself, so an address is a guest physical address.

use core::fmt;

use salp_hvc::agent::{AGENT, AgentInfo, AgentReport, VM_AGENT};
use salp_hvc::calls::{self, CloneRequest, MAX_CONFIG, MachineInfo, NAME, VmInfo, VmMemory};
use salp_hvc::events::EventRecord;
use salp_hvc::handover::{CONFIRM, HANDOVER, HANDOVER_STATE};
use salp_hvc::manager::{self, NicChange, NicInfo};
use salp_hvc::status;
use zerocopy::{FromZeros, IntoBytes};

use crate::rt::freeze;
use crate::timer;

pub mod make;
pub mod update;

/// FEATURES of the vendor's service.
const FEATURES: u32 = 0x8600_0000;
/// TRNG_RND64 (Arm DEN0098).
const TRNG_RND64: u32 = 0xc400_0053;

/// Why a call was refused: one of [`status`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub i64);

/// What a call answers.
pub type Answer<T> = Result<T, Refused>;

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", status::word(self.0), self.0)
    }
}

/// Makes any call, with up to 17 arguments, and returns x1 to x7.
pub fn call<const N: usize>(function: u32, arguments: [u64; N]) -> Answer<[u64; 7]> {
    let mut all = [0; 17];
    all[..N].copy_from_slice(&arguments);
    let [x0, x1, x2, x3, x4, x5, x6, x7, ..] = smccc::hvc64(function, all);
    if x0 as i64 == status::OK { Ok([x1, x2, x3, x4, x5, x6, x7]) } else { Err(Refused(x0 as i64)) }
}

/// Returns the bits `FEATURE_…` of what there is for this VM; none where there is no Salp.
pub fn features() -> u64 {
    let bits = smccc::hvc64(FEATURES, [0; 17])[0];
    if (bits as i64) < 0 { 0 } else { bits }
}

/// How a VM goes on after [`freeze()`].
#[derive(Clone, Copy, Debug)]
pub struct Freeze {
    /// The clone's index, from 1; 0 for the VM that was frozen itself.
    pub index: u64,
    /// The physical counter at the first instruction.
    pub first: u64,
}

/// Freezes this VM; returns in it when it is unfrozen, and in each of its clones.
pub fn freeze() -> Answer<Freeze> {
    freeze_and_pause(0)
}

/// Does as [`freeze()`], and whoever goes on sleeps for `pause` ticks before it writes to any memory: see
/// [`rt::freeze`](mod@freeze).
pub fn freeze_and_pause(pause: u64) -> Answer<Freeze> {
    let freeze::Thawed { status, index, first } = freeze::freeze(pause);
    if pause > 0 {
        timer::forget();
    }
    if status == status::OK { Ok(Freeze { index, first }) } else { Err(Refused(status)) }
}

fn identity(which: u64) -> Answer<[u64; 4]> {
    let [a, b, c, d, ..] = call(calls::IDENTITY, [which, 0, 0])?;
    Ok([a, b, c, d])
}

fn sixteen(words: [u64; 4]) -> [u8; 16] {
    (u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes()
}

/// Returns the UUID.
pub fn uuid() -> Answer<[u8; 16]> {
    identity(calls::IDENTITY_UUID).map(sixteen)
}

/// Returns the VM generation id.
pub fn generation() -> Answer<[u8; 16]> {
    identity(calls::IDENTITY_GENERATION).map(sixteen)
}

/// What [`present`] tells.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// The first MAC address.
    pub mac: [u8; 6],
    /// The clone's index, from 1; 0 for a VM that is no clone.
    pub index: u64,
    /// How often the VM got a new identity: who sees it change has been cloned or reverted.
    pub epoch: u64,
    /// Whether the present identity is acknowledged.
    pub is_acknowledged: bool,
}

/// Returns what there is to know of the present identity besides its names.
pub fn present() -> Answer<Present> {
    let [mac, index, epoch, acknowledged] = identity(calls::IDENTITY_MAC)?;
    let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
    Ok(Present { mac: [a, b, c, d, e, f], index, epoch, is_acknowledged: acknowledged == 1 })
}

/// A VM's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(pub [u8; NAME]);

impl Name {
    /// Returns the name that `text` is, cut off if it is too long.
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut name = heapless::String::<{ NAME - 1 }>::new();
        let _ = fmt::write(&mut name, text);
        let mut bytes = [0; NAME];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Self(bytes)
    }

    /// Returns the text before the padding.
    pub fn text(&self) -> &str {
        str::from_utf8(self.0.split(|&byte| byte == 0).next().unwrap_or_default()).unwrap_or("?")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Returns the name.
pub fn name() -> Answer<Name> {
    let words = identity(calls::IDENTITY_NAME)?;
    let mut bytes = [0; NAME];
    bytes.copy_from_slice(words.as_bytes());
    Ok(Name(bytes))
}

/// The configuration, at most as long as it can be.
pub type Config = heapless::String<MAX_CONFIG>;

/// Returns how long the configuration is, and the 48 bytes from `start` on.
pub fn config_at(start: u64) -> Answer<(u64, [u8; 48])> {
    let [length, words @ ..] = call(calls::CONFIG, [start, 0, 0])?;
    let mut bytes = [0; 48];
    bytes.copy_from_slice(words.as_bytes());
    Ok((length, bytes))
}

/// Returns the configuration: `key=value` lines. What is not ASCII is left out.
pub fn config() -> Answer<Config> {
    let mut config = Config::new();
    let mut start = 0;
    loop {
        let (length, bytes) = config_at(start)?;
        let left = length.saturating_sub(start).min(bytes.len() as u64) as usize;
        for &byte in bytes[..left].iter().filter(|byte| byte.is_ascii()) {
            // EL2 has no longer ones.
            let _ = config.push(char::from(byte));
        }
        start += bytes.len() as u64;
        if start >= length {
            return Ok(config);
        }
    }
}

/// Tells that this guest has taken its new identity on.
pub fn acknowledge() -> Answer<()> {
    call(calls::ACKNOWLEDGE, [0; 3]).map(drop)
}

/// Tells how this guest is.
pub fn report(report: &AgentReport) -> Answer<()> {
    call(AGENT, [(&raw const *report).expose_provenance() as u64, 0, 0]).map(drop)
}

/// Returns what the agent of a VM has told.
pub fn vm_agent(id: u64) -> Answer<AgentInfo> {
    record(VM_AGENT, |address| [id, address, 0])
}

/// Returns 64 random bits, if there are any now.
pub fn random() -> Option<u64> {
    let mut arguments = [0; 17];
    arguments[0] = 64;
    let result = smccc::hvc64(TRNG_RND64, arguments);
    (result[0] == 0).then_some(result[3])
}

/// Makes a call that writes a record.
pub(crate) fn record<T: FromZeros>(function: u32, argument: impl FnOnce(u64) -> [u64; 3]) -> Answer<T> {
    let mut record = T::new_zeroed();
    call(function, argument((&raw mut record).expose_provenance() as u64))?;
    Ok(record)
}

/// Returns the VM with the least identifier above `after`.
pub fn vm_next(after: u64) -> Answer<VmInfo> {
    record(calls::VM_NEXT, |address| [after, address, 0])
}

/// Returns what there is to know of a VM, if it is there.
pub fn vm(id: u64) -> Answer<VmInfo> {
    let info = vm_next(id.wrapping_sub(1))?;
    if info.id.get() == id { Ok(info) } else { Err(Refused(status::NOT_FOUND)) }
}

/// Returns what there is to know of a NIC of a VM.
pub fn vm_nic(id: u64, nic: u64) -> Answer<NicInfo> {
    record(manager::VM_NIC, |address| [id, nic, address])
}

/// Changes a NIC of a VM.
pub fn vm_nic_change(id: u64, nic: u64, change: &NicChange) -> Answer<()> {
    let address = (&raw const *change).expose_provenance() as u64;
    call(manager::VM_NIC_CHANGE, [id, nic, address]).map(drop)
}

/// What is asked of [`vm_clone`], as it lies in memory.
#[repr(C)]
pub struct Request {
    record: CloneRequest,
    config: [u8; MAX_CONFIG],
    size: usize,
}

impl Request {
    /// Returns a request for `count` clones of `source` that are called `name`, or begin with it.
    pub fn new(source: u64, count: u32, name: Name) -> Self {
        let record = CloneRequest {
            source: source.into(),
            count: count.into(),
            reserve: 0.into(),
            name: name.0,
            ..CloneRequest::new_zeroed()
        };
        Self { record, config: [0; MAX_CONFIG], size: size_of::<CloneRequest>() }
    }

    /// Sets for how much of its RAM each clone has frames set aside, in percent.
    pub fn reserve(mut self, percent: u32) -> Self {
        self.record.reserve = percent.into();
        self
    }

    /// Gives the clones configuration: whole lines, cut off where there is no more room.
    pub fn config(mut self, lines: &str) -> Self {
        let length = lines.len().min(MAX_CONFIG);
        self.config[..length].copy_from_slice(&lines.as_bytes()[..length]);
        self.size = size_of::<CloneRequest>() + length;
        self
    }
}

/// What [`vm_clone`] made.
#[derive(Clone, Copy, Debug)]
pub struct Clones {
    /// How many.
    pub count: u64,
    /// The first one's identifier.
    pub first: u64,
    /// The last one's identifier.
    pub last: u64,
}

/// Makes clones.
#[inline]
pub fn vm_clone(request: &Request) -> Answer<Clones> {
    let address = (&raw const *request).expose_provenance() as u64;
    let [count, first, last, ..] = call(calls::VM_CLONE, [address, request.size as u64, 0])?;
    Ok(Clones { count, first, last })
}

/// Freezes a VM wherever it is.
pub fn vm_freeze(id: u64) -> Answer<()> {
    call(calls::VM_FREEZE, [id, 0, 0]).map(drop)
}

/// Lets a frozen VM go on.
pub fn vm_unfreeze(id: u64) -> Answer<()> {
    call(calls::VM_UNFREEZE, [id, 0, 0]).map(drop)
}

/// Destroys a VM or a snapshot.
pub fn vm_destroy(id: u64) -> Answer<()> {
    call(calls::VM_DESTROY, [id, 0, 0]).map(drop)
}

/// Keeps the present state of a VM under a name, and returns the snapshot's identifier.
pub fn vm_snapshot(id: u64, name: Name) -> Answer<u64> {
    let address = (&raw const name).expose_provenance() as u64;
    call(calls::VM_SNAPSHOT, [id, address, 0]).map(|[snapshot, ..]| snapshot)
}

/// Brings a VM back to the state of a snapshot of it.
pub fn vm_revert(id: u64, snapshot: u64) -> Answer<()> {
    call(calls::VM_REVERT, [id, snapshot, 0]).map(drop)
}

/// Counts the memory of a VM.
pub fn vm_memory(id: u64) -> Answer<VmMemory> {
    record(calls::VM_MEMORY, |address| [id, address, 0])
}

/// Counts the machine's memory.
pub fn machine() -> Answer<MachineInfo> {
    record(calls::MACHINE, |address| [address, 0, 0])
}

/// Presses the power button of a VM: `SIGNAL_…` says what for.
pub fn vm_signal(id: u64, signal: u64) -> Answer<()> {
    call(manager::VM_SIGNAL, [id, signal]).map(drop)
}

/// What [`console_read`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes were read.
    pub count: usize,
    /// The position of the first one.
    pub first: u64,
    /// The position behind the last byte written so far.
    pub end: u64,
}

/// Reads what a VM wrote to its console, from `position` on.
pub fn console_read(vm: u64, position: u64, to: &mut [u8]) -> Answer<Written> {
    let address = to.as_mut_ptr().expose_provenance() as u64;
    let [count, first, end, ..] = call(manager::CONSOLE_READ, [vm, position, address, to.len() as u64])?;
    Ok(Written { count: count as usize, first, end })
}

/// Types at the console of a VM, and returns how many bytes it had room for.
pub fn console_write(vm: u64, bytes: &[u8]) -> Answer<usize> {
    call(manager::CONSOLE_WRITE, [vm, address_of(bytes), bytes.len() as u64]).map(|[taken, ..]| taken as usize)
}

/// How [`checkpoint`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How often this guest was brought back; 0 when the checkpoint was made just now.
    pub count: u64,
    /// Why, the last time: `RECOVERY_…`.
    pub reason: u64,
}

/// Makes the present state the one that this guest is brought back to when it fails; returns again each time.
#[inline(never)]
pub fn checkpoint() -> Answer<Recovery> {
    call(manager::CHECKPOINT, []).map(|[count, reason, ..]| Recovery { count, reason })
}

/// Tells that this guest is well, and promises to do so again within so many milliseconds; 0 ends that.
pub fn heartbeat(milliseconds: u64) -> Answer<()> {
    call(manager::HEARTBEAT, [milliseconds]).map(drop)
}

/// Keeps bytes as a record that outlives this guest, in place of what it held; no bytes remove it.
pub fn keep(record: u64, bytes: &[u8]) -> Answer<()> {
    call(manager::KEEP, [record, address_of(bytes), bytes.len() as u64]).map(drop)
}

/// Reads as much of a record as there is room for, and returns the record's size; 0 if there is none.
pub fn recall(record: u64, room: &mut [u8]) -> Answer<usize> {
    let address = room.as_mut_ptr().expose_provenance() as u64;
    call(manager::RECALL, [record, address, room.len() as u64]).map(|[size, ..]| size as usize)
}

/// Reads what became of VMs, from the event with this number on, into `room`: returns how many events, and the number to go on
/// with. When there is nothing left, the edge-triggered SPI `intid` comes with the next one; none if it is 0.
pub fn events(from: u64, room: &mut [EventRecord], intid: u32) -> Answer<(usize, u64)> {
    let address = room.as_mut_ptr().expose_provenance() as u64;
    let arguments = [from, address, size_of_val(room) as u64, intid.into()];
    let [count, next, ..] = call(manager::EVENT_READ, arguments)?;
    Ok(((count as usize).min(room.len()), next))
}

/// Returns for how long the vCPUs of a VM ran, and waited for a CPU that they had to leave, in nanoseconds.
pub fn vm_usage(id: u64) -> Answer<(u64, u64)> {
    call(manager::VM_USAGE, [id]).map(|[ran, waited, ..]| (ran, waited))
}

fn address_of(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

/// Replaces the hypervisor under this guest and all others by an image, or by a fresh copy of itself if that is 0. Returns in the
/// next one, with its number, unless that fails.
pub fn handover(image: u64) -> Answer<u64> {
    call(HANDOVER, [image]).map(|[count, ..]| count)
}

/// Gives up the hypervisor that was replaced last: the present one is well.
pub fn confirm() -> Answer<()> {
    call(CONFIRM, []).map(drop)
}

/// Returns how many hypervisors there were before this one, whether this one waits to be confirmed, and why the last one failed, or
/// 0.
pub fn handover_state() -> Answer<(u64, bool, u64)> {
    call(HANDOVER_STATE, []).map(|[count, waits, failed, ..]| (count, waits == 1, failed))
}
