//! Management calls, carried out: requests and records in a manager's memory, copied once and checked.
//!
//! Before: [`crate::exits`]. After: [`crate::operation`]. [`describe`] and its neighbours serve the monitor too.

use crate::host;
use crate::life;
use crate::machine::{self, Store};
use crate::make;
use crate::net;
use crate::operation::{self, Answer, Asker, What};
use crate::update;
use crate::vm::{Fate, Vm, hold};
use crate::watchdog;
use core::sync::atomic::Ordering;
use salp_core::addr::{Ipa, PAGE_SIZE};
pub use salp_core::calls::manage::Request;
use salp_core::calls::manage::{CloneSpec, MAX_CLONE_REQUEST, NicOrder};
use salp_core::frames::{FrameStore, Kind};
use salp_core::identity::Name;
use salp_core::stage2::Fault;
use salp_hvc::agent::AgentInfo;
use salp_hvc::calls::{
    MachineInfo, NAME, STATE_ENDING, STATE_FROZEN, STATE_NO_MEMORY, STATE_OFF, STATE_RUNNING, STATE_SNAPSHOT, VmInfo,
    VmMemory,
};
use salp_hvc::manager::{NicChange, NicInfo};
use salp_hvc::status;
use salp_hw::boot;
use salp_hw::memory::Ram;
use zerocopy::{FromBytes, IntoBytes};

/// Carries out a call of a manager. Returns the answer, or `None` if the asker gets it later.
pub fn carry_out(manager: &Vm, request: Request, asker: Asker) -> Option<Answer> {
    let answer = match request {
        Request::Next { after, to } => next(after).map_or(Err(status::NOT_FOUND), |info| {
            write(manager, to, info.as_bytes())?;
            Ok([info.id.get(), 0, 0])
        }),
        Request::Clone { from, size } => match read_clone_request(manager, from, size) {
            Ok((source, spec)) => return operation::submit(source, What::Clone(&spec), asker),
            Err(error) => Err(error),
        },
        Request::Freeze { vm } => return operation::submit(vm, What::Freeze, asker),
        Request::Unfreeze { vm } => return Some(operation::unfreeze(vm)),
        Request::Destroy { vm } => return operation::end(vm, Fate::Destroyed, asker),
        Request::Snapshot { vm, name } => match read_name(manager, name) {
            Ok(name) => return operation::submit(vm, What::Snapshot(name), asker),
            Err(error) => Err(error),
        },
        Request::Revert { vm, snapshot } => return operation::submit(vm, What::Revert(snapshot), asker),
        Request::Memory { vm, to } => {
            memory(vm).and_then(|memory| write(manager, to, memory.as_bytes())).map(|()| [0; 3])
        }
        Request::Make(request) => return make::carry_out(manager, request, asker),
        Request::Life(request) => return life::carry_out(manager, request, asker),
        Request::Host(request) => return Some(host::carry_out(manager, request)),
        Request::Update(request) => return Some(update::carry_out(manager, request)),
        Request::Machine { to } => write(manager, to, machine_info().as_bytes()).map(|()| [0; 3]),
        Request::Agent { vm, to } => agent(vm).and_then(|info| write(manager, to, info.as_bytes())).map(|()| [0; 3]),
        Request::Nic { vm, index, to } => {
            nic(vm, index).and_then(|info| write(manager, to, info.as_bytes())).map(|()| [0; 3])
        }
        Request::NicChange { vm, index, from } => match read_nic_change(manager, from) {
            Ok(order) => return Some(operation::with(vm, |vm| net::change(vm, index, &order).map(|()| [0; 3]))),
            Err(error) => Err(error),
        },
    };
    Some(answer.into())
}

fn read_clone_request(manager: &Vm, from: Ipa, size: u64) -> Result<(u64, CloneSpec), i64> {
    let mut bytes = [0; MAX_CLONE_REQUEST];
    let size = usize::try_from(size).map_err(|_| status::INVALID)?;
    let bytes = bytes.get_mut(..size).ok_or(status::INVALID)?;
    read(manager, from, bytes)?;
    CloneSpec::parse(bytes).ok_or(status::INVALID)
}

fn read_name(manager: &Vm, from: Ipa) -> Result<Name, i64> {
    let mut bytes = [0; NAME];
    read(manager, from, &mut bytes)?;
    Name::from_padded(&bytes).ok_or(status::INVALID)
}

fn read_nic_change(manager: &Vm, from: Ipa) -> Result<NicOrder, i64> {
    let mut bytes = [0; size_of::<NicChange>()];
    read(manager, from, &mut bytes)?;
    NicChange::ref_from_bytes(&bytes).ok().and_then(NicOrder::of).ok_or(status::INVALID)
}

fn nic(vm: u64, index: u64) -> Result<NicInfo, i64> {
    let mut info = Err(status::NOT_FOUND);
    operation::with(vm, |vm| {
        info = net::info(vm, index);
        Ok([0; 3])
    });
    info
}

fn agent(vm: u64) -> Result<AgentInfo, i64> {
    let mut info = Err(status::NOT_FOUND);
    operation::with(vm, |vm| {
        info = Ok(vm.agent_info());
        Ok([0; 3])
    });
    info
}

fn status_of(fault: Fault) -> i64 {
    match fault {
        Fault::OutsideRam => status::BAD_ADDRESS,
        Fault::OutOfMemory => status::NO_MEMORY,
    }
}

/// Copies bytes out of a manager's memory.
///
/// # Errors
///
/// A status.
pub fn read(manager: &Vm, from: Ipa, to: &mut [u8]) -> Result<(), i64> {
    let memory = manager.memory.lock();
    memory.as_ref().ok_or(status::WRONG_STATE)?.read(&Ram, from, to).map_err(status_of)
}

/// Copies bytes into a manager's memory.
///
/// # Errors
///
/// A status.
pub fn write(manager: &Vm, to: Ipa, from: &[u8]) -> Result<(), i64> {
    let mut memory = manager.memory.lock();
    let memory = memory.as_mut().ok_or(status::WRONG_STATE)?;
    memory.write(&Store, &Ram, &manager.tlb(), to, from).map_err(status_of)
}

/// Describes the VM with the least identifier above this.
pub fn next(after: u64) -> Option<VmInfo> {
    let mut after = after;
    loop {
        let place = machine::directory().lock().after(after)?;
        if let Some(info) = info(place.id) {
            return Some(info);
        }
        // It has a place already, or still, and is no more than that.
        after = place.id;
    }
}

/// Describes the VM with this identifier.
pub fn info(id: u64) -> Option<VmInfo> {
    let slot = machine::directory().lock().by_id(id)?;
    machine::slot(slot).read().as_deref().filter(|vm| vm.id == id).map(describe)
}

/// Returns what there is to know of a VM without looking at its memory.
pub fn describe(vm: &Vm) -> VmInfo {
    let identity = vm.identity.lock();
    let (counters, promised) = match vm.memory.lock().as_ref() {
        Some(memory) => (*memory.counters(), memory.promise() as u64 * PAGE_SIZE),
        None => Default::default(),
    };
    let faults = [
        counters.linked,
        counters.reclaimed,
        counters.zero_mapped,
        counters.zeroed_pages,
        counters.zeroed_blocks,
        counters.copied_pages,
    ];
    let state = match () {
        () if vm.fate() != Fate::Running => STATE_ENDING,
        () if vm.is_held_by(hold::OFF) => STATE_OFF,
        () if vm.is_held_by(hold::SNAPSHOT) => STATE_SNAPSHOT,
        () if vm.is_held_by(hold::FROZEN) => STATE_FROZEN,
        () if vm.is_held_by(hold::NO_MEMORY) => STATE_NO_MEMORY,
        () => STATE_RUNNING,
    };
    VmInfo {
        id: vm.id.into(),
        source: vm.source.into(),
        family: vm.family.into(),
        name: *identity.name.padded(),
        uuid: identity.uuid,
        generation: identity.generation,
        mac: identity.mac(),
        acknowledged: u16::from(identity.acknowledged).into(),
        state: state.into(),
        vcpus: (vm.vcpus() as u32).into(),
        index: identity.index.into(),
        nics: (vm.spec.nics().count() as u32).into(),
        memory: (vm.spec.ram().end.0 - vm.spec.ram().start.0).into(),
        promised: promised.into(),
        exits: vm.exits().into(),
        faults: faults.iter().fold(0u64, |sum, count| sum.wrapping_add(*count)).into(),
        copied_pages: counters.copied_pages.into(),
        copied_nodes: counters.copied_nodes.into(),
        merged_pages: counters.merged_pages.into(),
        pause: vm.last_pause().into(),
    }
}

/// Counts the memory of the VM with this identifier by looking at all of its tables.
///
/// # Errors
///
/// There is no such VM.
pub fn memory(id: u64) -> Result<VmMemory, i64> {
    let mut counted = None;
    let answer = operation::with(id, |vm| {
        let mut memory = count(vm);
        if let Some(kept) = vm.watch.with_checkpoint(count) {
            // Nobody would need it but for this VM.
            memory.overhead += kept.private + kept.overhead;
        }
        counted = Some(memory);
        Ok([0; 3])
    });
    counted.ok_or(answer.status)
}

fn count(vm: &Vm) -> VmMemory {
    // One that is off has its records only.
    let census = vm.memory.lock().as_ref().map(|memory| memory.census(&Store, &Ram)).unwrap_or_default();
    let written = vm.devices.lock().written.pages() as u64;
    let records = (vm.vcpus() as u64 + 2 + u64::from(vm.nics().is_some()) + written) * PAGE_SIZE;
    VmMemory {
        private: (census.private * PAGE_SIZE).into(),
        shared: (census.shared * PAGE_SIZE).into(),
        overhead: (census.private_nodes * PAGE_SIZE + records).into(),
        saved: census.saved().into(),
    }
}

/// Counts the memory of all VMs and snapshots by looking at all of their tables. What several use counts once as shared.
pub fn all_memory() -> VmMemory {
    let [mut private, mut overhead, mut saved] = [0; 3];
    let mut last = 0;
    while let Some(vm) = next(last) {
        last = vm.id.get();
        if let Ok(memory) = memory(last) {
            private += memory.private.get();
            overhead += memory.overhead.get();
            saved += memory.saved.get();
        }
        // This may be long: others' timers must not wait for it.
        machine::wake_sleepers();
    }
    let shared = machine_info().guests.get().saturating_sub(private);
    VmMemory { private: private.into(), shared: shared.into(), overhead: overhead.into(), saved: saved.into() }
}

/// Returns what there is to know of the machine's memory.
pub fn machine_info() -> MachineInfo {
    let stats = Store.with(|frames| frames.stats());
    let bytes = |kind| stats.frames(kind) as u64 * PAGE_SIZE;
    let kinds = [Kind::Free, Kind::Hyp, Kind::Node, Kind::Guest, Kind::Image, Kind::Zero];
    let machine = machine::get();
    let vms = machine::directory().lock().count() as u32;
    MachineInfo {
        total: kinds.map(bytes).iter().sum::<u64>().into(),
        free: bytes(Kind::Free).into(),
        promised: (stats.promised as u64 * PAGE_SIZE).into(),
        guests: (bytes(Kind::Guest) + bytes(Kind::Zero)).into(),
        nodes: bytes(Kind::Node).into(),
        hypervisor: bytes(Kind::Hyp).into(),
        images: bytes(Kind::Image).into(),
        vms: vms.into(),
        starved: machine.count_starved().into(),
        cpus: (boot::get().board.cpus.len() as u32).into(),
        watchdog: watchdog::flags().into(),
        uptime: machine::uptime().into(),
        idle: machine::nanoseconds(machine.idle_ticks.load(Ordering::Relaxed)).into(),
    }
}
