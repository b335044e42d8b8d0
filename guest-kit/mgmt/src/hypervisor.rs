//! What this guest asks of the hypervisor. Before: [`resources`](crate::resources). After: Salp's calls in the guest,
//! [`fake`](crate::fake) where there is no Salp.

use salp_hvc::agent::AgentInfo;
use salp_hvc::calls::{MAX_CONFIG, MachineInfo, NAME, STATE_SNAPSHOT, VmInfo, VmMemory};
use salp_hvc::events::EventRecord;
use salp_hvc::host::{POWER_OFF, POWER_RESET};
use salp_hvc::manager::{ImageInfo, LABEL, NicChange, NicInfo, SIGNAL_RESTART, SIGNAL_SHUTDOWN};
use salp_hvc::status;
use salp_hvc::update::{UPDATE_ACTIVATE, UPDATE_CANCEL, UPDATE_CONFIRM, UPDATE_FINISH, UpdateInfo};

/// Why a call was refused: one of [`status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub i64);

/// What a call answers.
pub type Answer<T> = Result<T, Refused>;

/// What clones are to be like.
#[derive(Clone, Copy, Debug)]
pub struct Cloning<'a> {
    /// The source: a VM or a snapshot.
    pub source: u64,
    /// How many.
    pub count: u32,
    /// The name, or what names begin with; "" for the source's name.
    pub name: &'a str,
    /// `key=value` lines.
    pub config: &'a str,
    /// The UUID of the only one; none for one of the hypervisor's choice.
    pub uuid: Option<[u8; 16]>,
    /// Whether NICs stay disconnected until the operator connects them.
    pub disconnected: bool,
}

/// What a guest can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Signal {
    /// Turn itself off.
    Shutdown = SIGNAL_SHUTDOWN,
    /// Shut down and start again.
    Restart = SIGNAL_RESTART,
}

/// What reading a console gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How many bytes.
    pub count: usize,
    /// The position of the first one.
    pub first: u64,
    /// The position behind the last one written so far.
    pub end: u64,
}

/// A CPU of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// What it is: MIDR_EL1.
    pub model: u64,
    /// Its place: MPIDR_EL1 without its flags.
    pub affinity: u64,
}

/// What can be done to the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum MachinePower {
    /// Reset it.
    Reset = POWER_RESET,
    /// Turn it off.
    Off = POWER_OFF,
}

/// What can be done with the slots of the flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotChange {
    /// End the upload: what has come is staged if it is whole and right.
    Finish = UPDATE_FINISH,
    /// Let the next resets try the standby slot.
    Activate = UPDATE_ACTIVATE,
    /// Confirm the slot that is tried.
    Confirm = UPDATE_CONFIRM,
    /// End the trial.
    Cancel = UPDATE_CANCEL,
}

/// How images took over from others since the machine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandOvers {
    /// How often one did, or failed to.
    pub count: u64,
    /// Why the last one failed: `handover::FAILED_…`; 0 if it did not.
    pub failed: u32,
}

/// What a VM has had of the CPUs, in nanoseconds, its vCPUs all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// For how long it ran.
    pub ran: u64,
    /// For how long it waited for a CPU that it had to leave to others.
    pub waited: u64,
}

/// The label of an image.
pub type Label = [u8; LABEL];

/// The calls of a manager. Each is carried out, or refused and nothing has changed.
pub trait Hypervisor {
    /// Returns what this VM is itself, which no list shows; none where nobody knows.
    fn own_uuid(&self) -> Option<[u8; 16]>;
    /// Returns the machine's memory.
    fn machine(&self) -> Answer<MachineInfo>;
    /// Returns the VM with the least identifier above `after`.
    fn next(&self, after: u64) -> Answer<VmInfo>;
    /// Counts the memory of a VM.
    fn memory(&self, id: u64) -> Answer<VmMemory>;
    /// Makes clones and returns the identifiers of the first and the last.
    fn clone_vm(&mut self, request: &Cloning<'_>) -> Answer<(u64, u64)>;
    /// Freezes a VM.
    fn freeze(&mut self, id: u64) -> Answer<()>;
    /// Lets a frozen VM go on.
    fn unfreeze(&mut self, id: u64) -> Answer<()>;
    /// Destroys a VM or a snapshot.
    fn destroy(&mut self, id: u64) -> Answer<()>;
    /// Keeps the present state of a VM and returns the snapshot's identifier.
    fn snapshot(&mut self, id: u64, name: &str) -> Answer<u64>;
    /// Brings a VM back to the state of a snapshot.
    fn revert(&mut self, id: u64, snapshot: u64) -> Answer<()>;

    /// Makes a VM that is off out of records ([`VM_CREATE`](salp_hvc::manager::VM_CREATE)) and returns its identifier.
    fn create(&mut self, description: &[u8]) -> Answer<u64>;
    /// Describes a VM that is off anew.
    fn change(&mut self, id: u64, description: &[u8]) -> Answer<()>;
    /// Starts a VM that is off.
    fn start(&mut self, id: u64) -> Answer<()>;
    /// Turns a VM off at once.
    fn stop(&mut self, id: u64) -> Answer<()>;
    /// Starts a VM again, whatever it does.
    fn reset(&mut self, id: u64) -> Answer<()>;
    /// Asks the guest to do something.
    fn signal(&mut self, id: u64, signal: Signal) -> Answer<()>;
    /// Returns a NIC of a VM.
    fn nic(&self, id: u64, index: u64) -> Answer<NicInfo>;
    /// Returns what the agent of a VM has told; zeros if it has told nothing.
    fn agent(&self, id: u64) -> Answer<AgentInfo>;
    /// Changes a NIC of a VM.
    fn change_nic(&mut self, id: u64, index: u64, change: &NicChange) -> Answer<()>;

    /// Makes an empty image and returns its identifier.
    fn create_image(&mut self, size: u64, label: &Label) -> Answer<u64>;
    /// Writes into an image that is not finished; at most [`MAX_COPY`](salp_hvc::manager::MAX_COPY) bytes.
    fn write_image(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Answer<()>;
    /// Reads out of an image; at most [`MAX_COPY`](salp_hvc::manager::MAX_COPY) bytes.
    fn read_image(&self, id: u64, offset: u64, bytes: &mut [u8]) -> Answer<()>;
    /// Finishes an image: VMs may use it, and nobody changes it.
    fn finish_image(&mut self, id: u64) -> Answer<()>;
    /// Deletes an image that nobody uses.
    fn delete_image(&mut self, id: u64) -> Answer<()>;
    /// Returns the image with the least identifier above `after`.
    fn next_image(&self, after: u64) -> Answer<ImageInfo>;
    /// Gives an image another label.
    fn label_image(&mut self, id: u64, label: &Label) -> Answer<()>;

    /// Reads what a VM wrote to its console, from a position on.
    fn read_console(&self, id: u64, position: u64, bytes: &mut [u8]) -> Answer<Heard>;
    /// Types at the console of a VM; returns how many bytes were taken.
    fn write_console(&mut self, id: u64, bytes: &[u8]) -> Answer<usize>;

    /// Keeps bytes as a record that outlives this guest; none to remove it.
    fn keep(&mut self, record: u64, bytes: &[u8]) -> Answer<()>;
    /// Reads a record, and returns how long it is; 0 if there is none.
    fn recall(&self, record: u64, bytes: &mut [u8]) -> Answer<usize>;

    /// Returns the image that is in the drive of a VM, if any is.
    fn medium(&self, id: u64) -> Answer<Option<u64>>;
    /// Puts a finished image into the drive of a VM in place of what is in it, or takes that out.
    fn change_medium(&mut self, id: u64, image: Option<u64>) -> Answer<()>;
    /// Starts a VM that is off from what records name ([`VM_START_FROM`](salp_hvc::host::VM_START_FROM)): for one life, or until
    /// it is off.
    fn start_from(&mut self, id: u64, description: &[u8], lasts: bool) -> Answer<()>;
    /// Returns what the machine's clock shows, in nanoseconds since 1970, after setting it to this time.
    fn clock(&mut self, time: Option<u64>) -> Answer<u64>;
    /// Reads the hypervisor's own log, from a position on.
    fn read_log(&self, position: u64, bytes: &mut [u8]) -> Answer<Heard>;
    /// Does something to the whole machine: at once, or when all is written down, which is asked for again until it is.
    fn power(&mut self, how: MachinePower) -> Answer<()>;
    /// Returns a CPU of the machine.
    fn cpu(&self, index: u64) -> Answer<Cpu>;
    /// Tells what a VM has had of the CPUs.
    fn usage(&self, id: u64) -> Answer<Usage>;
    /// Reads what became of VMs, from an event on; returns how many events, and the number to go on with.
    fn events(&self, from: u64, room: &mut [EventRecord]) -> Answer<(usize, u64)>;

    /// Returns what there is to know of the slots of the flash.
    fn slots(&self) -> Answer<UpdateInfo>;
    /// Begins an upload of a bundle: of so many bytes, or of as many as the bundle says for 0.
    fn begin_update(&mut self, size: u64) -> Answer<()>;
    /// Takes the next bytes of the bundle; returns how many: none while the flash is busy.
    fn write_update(&mut self, bytes: &[u8]) -> Answer<usize>;
    /// Begins a change of the slots; it is made when [`slots`](Self::slots) are idle again.
    fn change_slots(&mut self, change: SlotChange) -> Answer<()>;
    /// Lets the image in the standby slot, which is activated, take over from the one that runs, under all VMs. Returns when it
    /// has, or when it has failed and the one before goes on.
    fn hand_over(&mut self) -> Answer<()>;
    /// Tells how hand-overs went.
    fn hand_overs(&self) -> Answer<HandOvers>;
    /// Gives up the image before this one, if it may still come back.
    fn confirm_hand_over(&mut self) -> Answer<()>;

    /// Returns the VM or snapshot with this identifier.
    fn find(&self, id: u64) -> Answer<VmInfo> {
        let found = self.next(id.checked_sub(1).ok_or(Refused(status::NOT_FOUND))?)?;
        if found.id.get() == id { Ok(found) } else { Err(Refused(status::NOT_FOUND)) }
    }
}

/// Returns all that the hypervisor lists.
pub fn everything(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = VmInfo> + '_ {
    let mut after = 0;
    core::iter::from_fn(move || {
        let info = hypervisor.next(after).ok()?;
        after = info.id.get();
        Some(info)
    })
}

/// Returns all that the hypervisor lists, but for this VM itself.
pub fn all(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = VmInfo> + '_ {
    let own = hypervisor.own_uuid();
    everything(hypervisor).filter(move |info| Some(info.uuid) != own)
}

/// Returns the VM with this identifier, which is no snapshot and not this VM.
pub fn vm(hypervisor: &dyn Hypervisor, id: u64) -> Answer<VmInfo> {
    let info = hypervisor.find(id)?;
    let is_vm = info.state.get() != STATE_SNAPSHOT && Some(info.uuid) != hypervisor.own_uuid();
    if is_vm { Ok(info) } else { Err(Refused(status::NOT_FOUND)) }
}

/// Returns the snapshot with this identifier.
pub fn snapshot(hypervisor: &dyn Hypervisor, id: u64) -> Answer<VmInfo> {
    let info = hypervisor.find(id)?;
    if info.state.get() == STATE_SNAPSHOT { Ok(info) } else { Err(Refused(status::NOT_FOUND)) }
}

/// Returns the image with this identifier.
pub fn image(hypervisor: &dyn Hypervisor, id: u64) -> Answer<ImageInfo> {
    let found = hypervisor.next_image(id.checked_sub(1).ok_or(Refused(status::NOT_FOUND))?)?;
    if found.id.get() == id { Ok(found) } else { Err(Refused(status::NOT_FOUND)) }
}

/// Returns all images.
pub fn images(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = ImageInfo> + '_ {
    let mut after = 0;
    core::iter::from_fn(move || {
        let info = hypervisor.next_image(after).ok()?;
        after = info.id.get();
        Some(info)
    })
}

/// Returns the text of a name before its padding.
pub fn name_text(name: &[u8]) -> &str {
    str::from_utf8(name.split(|&byte| byte == 0).next().unwrap_or_default()).unwrap_or("?")
}

/// Returns whether this can be a VM's name.
pub fn is_name(text: &str) -> bool {
    (1..NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Returns whether this can be a segment's name.
pub fn is_segment(text: &str) -> bool {
    is_name(text) && text.len() < 16
}

/// Returns a text with zeros behind it, cut off where there is no more room; the last byte is zero.
pub fn padded<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let length = text.len().min(SIZE - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

/// Returns whether this can be a VM's configuration: lines `key=value`, each ended.
pub fn is_config(text: &str) -> bool {
    let is_line = |line: &str| line.split_once('=').is_some_and(|(key, _)| !key.is_empty() && !key.contains(' '));
    text.len() <= MAX_CONFIG
        && text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
        && (text.is_empty() || text.ends_with('\n'))
        && text.lines().all(is_line)
}
