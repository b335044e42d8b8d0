//! Making VMs out of one that stands still: clones and snapshots; and bringing one back to a snapshot.
//!
//! Before: [`crate::operation`], which has stopped the VM. After: the scheduler, which starts what was made.
//!
//! The source stands still only while its first copy is made; the others are copies of that copy, which has not started.

use crate::drive;
use crate::events;
use crate::images;
use crate::machine::{self, Machine, Store};
use crate::net;
use crate::operation::Answer;
use crate::vm::{self, Freezer, Parts, Vcpu, Vm, VmError, VmFrames, hold};
use core::sync::atomic::Ordering;
use salp_core::calls::manage::CloneSpec;
use salp_core::directory::{Place, PlaceError};
use salp_core::identity::{Config, Identity, Name};
use salp_core::sched::{Activity, VCPUS_PER_VM, VcpuRef};
use salp_core::stage2::{AddressSpace, ForkError, RevertError};
use salp_core::vgic::VcpuSet;
use salp_hvc::calls::MAX_CLONES;
use salp_hvc::device::GENERATION_INTID;
use salp_hvc::events::{CREATED, SNAPSHOT};
use salp_hvc::status;
use salp_hw::lock::Mutex;
use salp_hw::memory::Ram;
use salp_hw::own::Own;

/// What a call for clones has made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// How many.
    pub count: u64,
    /// The first one's identifier; they are in sequence.
    pub first: u64,
}

/// What the vCPUs of a VM would do if it did not stand still.
pub type Activities = [Activity; VCPUS_PER_VM];

/// What a copy is to be.
struct Birth<'a> {
    place: Place,
    name: Name,
    index: u32,
    /// The identifier of the VM that was to be copied, and how often it got an identity; this may be a copy of a copy.
    of: u64,
    epoch: u32,
    /// What is copied goes on, and may have to copy its memory.
    origin_runs_on: bool,
    config: &'a Config,
    /// The operator's choice.
    uuid: Option<[u8; 16]>,
    is_disconnected: bool,
    holds: u32,
}

impl Birth<'_> {
    /// Returns what a copy is to be that keeps the state of a VM and does not run.
    fn kept(source: &Vm, place: Place, name: Name, holds: u32) -> Self {
        Self {
            place,
            name,
            index: 0,
            of: source.id,
            epoch: source.identity.lock().epoch,
            origin_runs_on: source.runs_on(),
            config: &Config::EMPTY,
            uuid: None,
            is_disconnected: false,
            holds,
        }
    }
}

/// Returns what the vCPUs of a VM that stands still would do.
pub fn activities(vm: &Vm) -> Activities {
    let scheduler = machine::get().scheduler.lock();
    core::array::from_fn(|index| scheduler.activity(VcpuRef::new(vm.slot, index)))
}

/// Makes clones of a VM that stands still, all or none, and starts them. `let_go` is called as soon as the source may go on.
///
/// # Errors
///
/// A status; nothing is left of the attempt then.
pub fn clones(source: &Vm, spec: &CloneSpec, let_go: impl FnOnce()) -> Result<Made, i64> {
    let machine = machine::get();
    let mut let_go = Some(let_go);
    let mut places = Places::new(source, spec);
    places.take(source, spec)?;
    let activities = activities(source);
    let epoch = source.identity.lock().epoch;
    let mut made = 0;
    let mut result = Ok(());
    for (place, name) in places.iter() {
        let index = made as u32 + 1;
        let birth = Birth {
            place,
            name,
            index,
            of: source.id,
            epoch,
            origin_runs_on: made == 0 && source.runs_on(),
            config: &spec.config,
            uuid: spec.uuid,
            is_disconnected: spec.disconnected,
            holds: hold::OPERATION,
        };
        // The source may have gone on: the others are copies of the first.
        let template = (made != 0).then(|| machine::slot(places.first_slot()).read());
        let origin = template.as_ref().and_then(|template| template.as_deref()).unwrap_or(source);
        result = copy(machine, origin, &birth).and_then(|clone| {
            drop(template);
            machine.publish(clone);
            made += 1;
            set_aside(place.slot, spec.reserve)
        });
        if result.is_err() {
            break;
        }
        if let Some(let_go) = let_go.take() {
            let_go();
        }
    }
    if let Err(error) = result {
        places.iter().take(made).for_each(|(place, _)| machine.unpublish(place.slot));
        places.give_back(made);
        return Err(error);
    }
    for (place, _) in places.iter() {
        if let Some(clone) = machine::slot(place.slot).read().as_deref() {
            events::tell(clone, CREATED, clone.identity.lock().index);
            start(clone, &activities);
        }
    }
    Ok(Made { count: made as u64, first: places.first_id })
}

/// Slots, identifiers and names for clones.
struct Places {
    /// Slots, and the numbers in their names less `first_number`.
    slots: heapless::Vec<(u16, u16), { MAX_CLONES as usize }>,
    first_id: u64,
    first_number: u64,
    base: Name,
    is_single: bool,
}

impl Places {
    #[inline(always)] // Four kilobytes, made in place.
    fn new(source: &Vm, spec: &CloneSpec) -> Self {
        let base = spec.name.unwrap_or(source.full_name());
        let first_number = if spec.name.is_some() { 1 } else { source.last_number.load(Ordering::Relaxed) + 1 };
        let is_single = spec.name.is_some() && spec.count == 1;
        Self { slots: heapless::Vec::new(), first_id: 0, first_number, base, is_single }
    }

    fn take(&mut self, source: &Vm, spec: &CloneSpec) -> Result<(), i64> {
        let mut directory = machine::directory().lock();
        for offset in 0..=u16::MAX {
            match directory.take(&self.name(offset)) {
                Ok(place) => {
                    if self.slots.is_empty() {
                        self.first_id = place.id;
                    }
                    let _ = self.slots.push((place.slot as u16, offset));
                    if self.slots.len() == spec.count as usize {
                        if spec.name.is_none() {
                            source.last_number.store(self.first_number + u64::from(offset), Ordering::Relaxed);
                        }
                        return Ok(());
                    }
                }
                // Without a name of their own they get the next numbers that are free.
                Err(PlaceError::NameTaken) if spec.name.is_none() => {}
                Err(error) => {
                    drop(directory);
                    self.give_back(0);
                    return Err(VmError::from(error).status());
                }
            }
        }
        drop(directory);
        self.give_back(0);
        Err(status::NAME_TAKEN)
    }

    fn name(&self, offset: u16) -> Name {
        if self.is_single { self.base } else { self.base.numbered(self.first_number + u64::from(offset)) }
    }

    fn iter(&self) -> impl Iterator<Item = (Place, Name)> {
        let ids = self.first_id..;
        self.slots.iter().zip(ids).map(|(&(slot, offset), id)| (Place { slot: slot.into(), id }, self.name(offset)))
    }

    fn first_slot(&self) -> usize {
        self.slots.first().map_or(0, |&(slot, _)| slot.into())
    }

    /// Gives back all but the first `kept`.
    fn give_back(&self, kept: usize) {
        let mut directory = machine::directory().lock();
        self.slots.iter().skip(kept).for_each(|&(slot, _)| directory.give_back(slot.into()));
    }
}

/// Keeps the state of a VM that stands still under a name. Returns the snapshot's identifier.
///
/// # Errors
///
/// A status; nothing is left of the attempt then.
pub fn snapshot(source: &Vm, name: Name) -> Result<u64, i64> {
    let machine = machine::get();
    let place = machine::directory().lock().take(&name).map_err(|error| VmError::from(error).status())?;
    let activities = activities(source);
    let holds = hold::SNAPSHOT | source.control() & hold::FROZEN;
    let birth = Birth::kept(source, place, name, holds);
    match copy(machine, source, &birth) {
        Ok(snapshot) => {
            events::tell(&snapshot, SNAPSHOT, 0);
            machine.publish(snapshot);
        }
        Err(error) => {
            machine::directory().lock().give_back(place.slot);
            return Err(error);
        }
    }
    let mut scheduler = machine.scheduler.lock();
    let _ = scheduler.hold(place.slot);
    for (index, &activity) in activities.iter().enumerate() {
        // It is held: there is nobody to kick.
        let _ = scheduler.begin(VcpuRef::new(place.slot, index), activity);
    }
    Ok(place.id)
}

/// Keeps the state of a manager that stands still, in place of what was kept of it before.
///
/// # Errors
///
/// A status; what was kept before is still there then.
pub fn checkpoint(vm: &Vm) -> Result<(), i64> {
    // It is in no slot: nobody finds it but its VM, and it never runs.
    let place = Place { slot: vm.slot, id: 0 };
    let birth = Birth::kept(vm, place, vm.full_name(), hold::SNAPSHOT);
    let kept = copy(machine::get(), vm, &birth)?;
    vm.watch.replace_checkpoint(kept);
    if let Some(memory) = vm.memory.lock().as_mut() {
        // What was set aside for the one before is not needed any more. Less than there was always works.
        let _ = memory.set_promise(&Store, memory.promise().min(memory.shared_pages()));
    }
    Ok(())
}

/// Copies a VM that stands still. The copy does not run yet.
fn copy(machine: &Machine, source: &Vm, birth: &Birth<'_>) -> Result<Own<Vm>, i64> {
    let mut frames = VmFrames::take(source.vcpus(), source.nics().is_some()).map_err(|_| status::NO_MEMORY)?;
    let forked = match source.memory.lock().as_mut() {
        None => Err(status::WRONG_STATE),
        Some(memory) => fork_memory(source, memory, birth.origin_runs_on),
    };
    let memory = match forked {
        Ok(memory) => memory,
        Err(error) => {
            frames.give_back();
            return Err(error);
        }
    };
    let freezer = source.freezer();
    let mut identity = Identity::of_clone(birth.name, &machine.seed(), birth.index, birth.epoch, birth.config);
    identity.uuid = birth.uuid.unwrap_or(identity.uuid);
    let is_snapshot = birth.holds & hold::SNAPSHOT != 0;
    let parts = Parts {
        memory: Some(memory),
        vgic: frames.fill(Mutex::new(source.vgic.lock().clone())),
        vcpus: core::array::from_fn(|index| {
            let context = source.vcpu(index)?.context.lock();
            let copy = frames.fill(Vcpu::new(*context));
            if freezer == Some(Freezer::Call(index)) {
                copy.context.lock().regs.x[1] = birth.index.into();
            }
            Some(copy)
        }),
        power: *source.power.lock(),
        devices: source.devices.lock().for_clone(),
        nics: source.nics().map(|nics| {
            frames.fill(Mutex::new(net::copy_nics(&nics.lock(), &identity, is_snapshot, birth.is_disconnected)))
        }),
        identity,
        source: birth.of,
        family: source.family,
        kin: source.kin,
        counter_offset: source.counter_offset(),
        holds: birth.holds,
        // Kept until it starts: it may be copied first.
        freezer,
    };
    let mut copy = frames.fill(Vm::put_together(machine, birth.place, &source.spec, parts));
    frames.give_back();
    images::count_user(&source.spec, true);
    if let Some((own, _)) = &source.own {
        // Rare and large: it is copied only where there is one.
        images::count_user(own, true);
        copy.own = source.own;
    }
    drive::was_copied(&copy);
    Ok(copy)
}

/// Forks the memory of a VM. One that runs on is promised first what it may have to copy because of that: it is never the
/// victim of its clones. A frozen one is promised that when it is unfrozen, and one that never ran needs nothing.
fn fork_memory(source: &Vm, memory: &mut AddressSpace, runs_on: bool) -> Result<AddressSpace, i64> {
    let before = memory.promise();
    if runs_on {
        let promise = memory.fork_promise();
        memory.set_promise(&Store, promise).map_err(|_| status::NO_MEMORY)?;
    }
    memory.fork(&Store, &Ram, &source.tlb(), &[]).map_err(|error| {
        // Less than there was before always works.
        let _ = memory.set_promise(&Store, before);
        match error {
            ForkError::OutOfMemory => status::NO_MEMORY,
            ForkError::Pinned => status::WRONG_STATE,
        }
    })
}

/// Sets frames aside for a clone: so many per cent of its RAM.
fn set_aside(slot: usize, percent: u32) -> Result<(), i64> {
    if percent == 0 {
        return Ok(());
    }
    let guard = machine::slot(slot).read();
    let Some(clone) = guard.as_deref() else { return Ok(()) };
    clone.reserve(percent).map_err(|_| status::NO_MEMORY)
}

/// Lets a clone go on where its source stood, with an interrupt that tells of its new generation id.
fn start(clone: &Vm, activities: &Activities) {
    let machine = machine::get();
    let told = announce(clone).union(net::refresh_lines(clone));
    clone.set_frozen(false, None);
    let mut kicks = 0;
    {
        let mut scheduler = machine.scheduler.lock();
        clone.clear_hold(hold::OPERATION);
        for (index, &activity) in activities.iter().enumerate().take(clone.vcpus()) {
            kicks |= scheduler.begin(VcpuRef::new(clone.slot, index), activity);
        }
        for index in told.iter() {
            kicks |= scheduler.wake(VcpuRef::new(clone.slot, index));
        }
    }
    clone.is_busy.store(false, Ordering::Release);
    machine::kick(kicks);
}

/// Makes the interrupt pending by which a guest learns of a new generation id.
fn announce(vm: &Vm) -> VcpuSet {
    vm.vgic.lock().pulse(GENERATION_INTID, 0)
}

/// Brings a VM that stands still back to a snapshot of its family.
///
/// # Errors
///
/// A status; the VM is as it was then.
pub fn revert(vm: &Vm, snapshot: &Vm) -> Result<(), i64> {
    // One that was described anew since then is of another shape, and of other images.
    if !snapshot.is_held_by(hold::SNAPSHOT) || snapshot.family != vm.family || !snapshot.spec.is_same(&vm.spec) {
        return Err(status::WRONG_STATE);
    }
    let told = restore(vm, snapshot)?;
    vm.set_frozen(snapshot.is_held_by(hold::FROZEN), snapshot.freezer());
    let mut scheduler = machine::get().scheduler.lock();
    for index in 0..VCPUS_PER_VM {
        let vcpu = VcpuRef::new(vm.slot, index);
        let activity = scheduler.activity(VcpuRef::new(snapshot.slot, index));
        // It stands still: there is nobody to kick.
        let _ = scheduler.turn_off(vcpu);
        let _ = scheduler.begin(vcpu, activity);
    }
    for index in told.iter() {
        let _ = scheduler.wake(VcpuRef::new(vm.slot, index));
    }
    Ok(())
}

/// Takes a manager whose vCPUs are off back to its checkpoint. Its first vCPU is to be turned on then, and returns from the
/// call that made the checkpoint with this answer.
///
/// # Errors
///
/// A status; the VM is as it was then.
pub fn take_back(vm: &Vm, checkpoint: &Vm, answer: Answer) -> Result<(), i64> {
    let is_acknowledged = vm.identity.lock().acknowledged;
    // Its vCPU looks at its interrupts when it is turned on.
    let _ = restore(vm, checkpoint)?;
    vm.identity.lock().acknowledged = is_acknowledged;
    vm.new_life(Some(answer));
    Ok(())
}

/// Makes a VM that stands still what `snapshot` is, but for what its vCPUs do. Returns those that have to look at interrupts.
fn restore(vm: &Vm, snapshot: &Vm) -> Result<VcpuSet, i64> {
    let machine = machine::get();
    {
        let mut memory = vm.memory.lock();
        let other = snapshot.memory.lock();
        let (Some(memory), Some(other)) = (memory.as_mut(), other.as_ref()) else { return Err(status::WRONG_STATE) };
        memory.revert(&Store, &Ram, &vm.tlb(), other).map_err(|error| match error {
            RevertError::NotASnapshot | RevertError::Pinned => status::WRONG_STATE,
        })?;
        // It shares all of it again. It has given back what it had of its own, so this seldom fails; then it may have to
        // wait for memory.
        let _ = vm::promise_shared(memory);
    }
    for index in 0..vm.vcpus() {
        if let (Some(to), Some(from)) = (vm.vcpu(index), snapshot.vcpu(index)) {
            *to.context.lock() = *from.context.lock();
        }
    }
    *vm.vgic.lock() = snapshot.vgic.lock().clone();
    *vm.power.lock() = *snapshot.power.lock();
    drive::empty(vm);
    vm.devices.lock().become_like(&snapshot.devices.lock());
    drive::was_copied(vm);
    net::revert(vm, snapshot);
    vm.identity.lock().renew(&machine.seed());
    if vm.memory.lock().as_ref().is_some_and(|memory| memory.has_identity_page(&Ram)) {
        // The page is there: this takes no memory.
        let _ = vm.put_identity();
    }
    vm.set_counter_offset(snapshot.counter_offset());
    Ok(announce(vm).union(net::refresh_lines(vm)))
}
