//! The management guest of the next image, in the place of that of the image before.
//!
//! Before: [`super`]. After: [`crate::images`], which keeps what it starts from, and [`crate::machine`], which describes it anew.
//!
//! - The image before finds out who is replaced, and copies the boot set that is packed in the next one to an image of EL2's own,
//!   while VMs run ([`set_aside`]). A machine without memory for that goes on as it is.
//! - The next image stops it before VMs run ([`stop`]), and replaces it when they do ([`replace`]): they do not wait for that. So
//!   who confirms the image is its own management guest, and what is confirmed is all of it. Name, identifier, UUID, ports and
//!   records stay.
//! - If nobody confirms it, the management guest becomes what it was, from its first state, before VMs are handed back
//!   ([`Before::come_back`]).
//!
//! Where a boot loader brings the boot set, a reset does not start what is packed, and neither does a hand-over.

use crate::console::log;
use crate::machine::{self, Store};
use crate::vm::{Fate, Vm, hold};
use crate::{events, images, net};
use core::sync::atomic::Ordering;
use salp_core::addr::PAGE_SIZE;
use salp_core::bootset::{BootSet, VmSpec};
use salp_core::frames::FrameStore;
use salp_core::identity::Name;
use salp_hvc::events::{MANAGER_BEFORE, MANAGER_NEXT, REPLACED};
use salp_hvc::status;
use salp_hw::boot;

/// The management guest of the image before, as long as that one may come back.
pub struct Before {
    id: u64,
    spec: VmSpec,
    ports: net::Ports,
    is_on: bool,
}

/// Returns the first VM of a boot set that is a manager, as one of the same name is here: with its identifier.
fn find(set: &[u8]) -> Option<(u64, VmSpec)> {
    if boot::get().board.boot_set.is_some() {
        return None;
    }
    // Nobody is replaced by what makes no sense here.
    let set = BootSet::parse(set).ok()?;
    set.vms().filter(VmSpec::is_manager).find_map(|spec| {
        let slot = machine::directory().lock().by_name(&Name::new(spec.name().as_bytes())?)?;
        let guard = machine::slot(slot).read();
        let vm = guard.as_deref().filter(|vm| vm.spec.is_manager() && !vm.is_held_by(hold::SNAPSHOT))?;
        Some((vm.id, spec))
    })
}

/// Keeps the boot set of the next image, if its management guest replaces one. Returns the image that it is in, or 0.
///
/// # Errors
///
/// The machine has no memory for it: a status.
pub fn set_aside(set: &[u8]) -> Result<u64, i64> {
    let Some((id, spec)) = find(set) else { return Ok(0) };
    // It gets what the one before has, and it may be larger.
    let frames = |spec: &VmSpec| (spec.ram().end.0 - spec.ram().start.0) / PAGE_SIZE;
    let more = with(id, |vm| Ok(frames(&spec).saturating_sub(frames(&vm.spec))))?;
    let fits = more <= Store.with(|frames| frames.unpromised()) as u64;
    let kept = if fits { images::create_own(set) } else { Err(status::NO_MEMORY) };
    kept.inspect_err(|_| log!("no hand-over: the machine has no memory for the next {}", spec.name()))
}

/// Returns the management guest that this image's replaces.
fn replaced() -> Option<(u64, VmSpec)> {
    boot::get().loaded.boot_set.clone().and_then(|set| find(boot::boot_set_bytes(set)))
}

/// Begins the end of the management guest that is to be replaced by what is in `image`. No VM runs. Returns the image, or 0 if nobody
/// is replaced.
#[inline(never)] // It has a description on its stack.
pub fn stop(image: u64) -> u64 {
    let found = if image == 0 { None } else { replaced() };
    if found.is_some_and(|(id, _)| with(id, end).is_ok()) {
        return image;
    }
    // Nobody uses it, if it is there.
    let _ = images::delete(image);
    0
}

/// Begins the end of a VM that is on no CPU, if it is not off.
fn end(vm: &Vm) -> Result<(), i64> {
    let is_off = vm.is_held_by(hold::OFF);
    let can_end = || !vm.is_busy.load(Ordering::Acquire) && vm.stop(Fate::Stopped) && vm.begin_end().is_some();
    if is_off || can_end() { Ok(()) } else { Err(status::BUSY) }
}

/// Replaces the management guest, which was [stopped](stop), by that of this image, whose boot set is in `image`. Returns what it was.
#[inline(never)] // As above.
pub fn replace(image: u64) -> Option<Before> {
    let before = replaced().and_then(|(id, spec)| {
        let before = with(id, |vm| {
            let is_on = !vm.is_held_by(hold::OFF);
            Ok(Before { id, spec: vm.spec, ports: net::ports(vm), is_on })
        });
        let (before, spec) = (before.ok()?, spec.of_image(image));
        if let Err(error) = images::hold(&spec).and_then(|()| before.give_way(&spec)) {
            log!("{} is not replaced: {}", spec.name(), status::word(error));
            before.start();
            return None;
        }
        Some(before)
    });
    if before.is_none() {
        // As above.
        let _ = images::delete(image);
    }
    before
}

impl Before {
    /// Gives up what the management guest was.
    pub fn forget(self) {
        images::count_user(&self.spec, false);
    }

    /// Makes the management guest what it was. No VM runs.
    #[inline(never)] // As above.
    pub fn come_back(self) {
        // What counts what it was from then on is the VM.
        let ended = with(self.id, end).and_then(|()| self.become_another(&self.spec, MANAGER_BEFORE));
        if let Err(error) = ended {
            log!("{} does not come back: {}", self.spec.name(), status::word(error));
            self.forget();
        }
    }

    /// Puts what is described here, which the caller has counted as a user, in its place. It stays as long as it may come back.
    fn give_way(&self, spec: &VmSpec) -> Result<(), i64> {
        images::count_user(&self.spec, true);
        self.become_another(spec, MANAGER_NEXT).inspect_err(|_| {
            images::count_user(spec, false);
            images::count_user(&self.spec, false);
        })
    }

    /// Puts another VM in the place of it, whose end has begun. That one starts if it was on.
    fn become_another(&self, spec: &VmSpec, how: u32) -> Result<(), i64> {
        let slot = with(self.id, |vm| {
            machine::get().put_off(vm);
            Ok(vm.slot)
        })?;
        machine::be_itself(slot);
        machine::change_vm(self.id, &spec.starting_off())?;
        with(self.id, |vm| {
            net::set_ports(vm, &self.ports);
            events::tell(vm, REPLACED, how);
            match how {
                MANAGER_NEXT => log!("{}: is replaced by the image's own ({})", vm.name(), env!("CARGO_PKG_VERSION")),
                _ => log!("{}: is what it was before, from its first state", vm.name()),
            }
            Ok(())
        })?;
        self.start();
        Ok(())
    }

    /// Starts the VM, whose end has begun, if it was on.
    fn start(&self) {
        let started = with(self.id, |vm| {
            machine::get().put_off(vm);
            if self.is_on { machine::get().start_vm(vm) } else { Ok(()) }
        });
        if let Err(error) = started {
            log!("{} cannot be started: {}", self.spec.name(), status::word(error));
        }
    }
}

/// Does something with a VM.
fn with<R>(id: u64, act: impl FnOnce(&Vm) -> Result<R, i64>) -> Result<R, i64> {
    let slot = machine::directory().lock().by_id(id).ok_or(status::NOT_FOUND)?;
    machine::slot(slot).read().as_deref().filter(|vm| vm.id == id).ok_or(status::NOT_FOUND).and_then(act)
}
