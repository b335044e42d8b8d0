//! What this guest asks of the hypervisor. Before: [`resources`](crate::resources). After: Salp's calls in the guest,
//! [`fake`](crate::fake) where there is no Salp.

use salp_hvc::calls::{MAX_CONFIG, MachineInfo, NAME, STATE_SNAPSHOT, VmInfo, VmMemory};
use salp_hvc::status;

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
}

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

    /// Returns the VM or snapshot with this identifier.
    fn find(&self, id: u64) -> Answer<VmInfo> {
        let found = self.next(id.checked_sub(1).ok_or(Refused(status::NOT_FOUND))?)?;
        if found.id.get() == id { Ok(found) } else { Err(Refused(status::NOT_FOUND)) }
    }
}

/// Returns all that the hypervisor lists, but for this VM itself.
pub fn all(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = VmInfo> + '_ {
    let (own, mut after) = (hypervisor.own_uuid(), 0);
    core::iter::from_fn(move || {
        let info = hypervisor.next(after).ok()?;
        after = info.id.get();
        Some(info)
    })
    .filter(move |info| Some(info.uuid) != own)
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

/// Returns the text of a name before its padding.
pub fn name_text(name: &[u8; NAME]) -> &str {
    str::from_utf8(name.split(|&byte| byte == 0).next().unwrap_or_default()).unwrap_or("?")
}

/// Returns whether this can be a VM's name.
pub fn is_name(text: &str) -> bool {
    (1..NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Returns whether this can be a VM's configuration: lines `key=value`, each ended.
pub fn is_config(text: &str) -> bool {
    let is_line = |line: &str| line.split_once('=').is_some_and(|(key, _)| !key.is_empty() && !key.contains(' '));
    text.len() <= MAX_CONFIG
        && text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
        && (text.is_empty() || text.ends_with('\n'))
        && text.lines().all(is_line)
}
