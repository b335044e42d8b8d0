//! Drives of VMs: what a guest's driver reads, carried out, and media that managers put in.
//!
//! Before: [`crate::exits`], [`crate::host`]. After: [`salp_core::dev::drive`], which knows what to do; [`crate::images`].
//!
//! A medium is a user of its image as long as it is in a drive: copies of a VM have it in theirs. An exit carries so much and no
//! more; then the guest's store is done again, after whatever else is due.

use crate::console::log;
use crate::images;
use crate::net::view::View;
use crate::net::{self, Access};
use crate::vcpu::Resident;
use crate::vm::{Vm, hold};
use salp_core::addr::PAGE_SIZE;
use salp_core::dev::bus::DRIVE_INTID;
use salp_core::dev::drive::{Drive, Medium};
use salp_core::dev::virtq::QueueError;
use salp_core::vgic::{AccessSize, VcpuSet};
use salp_hvc::host::{NO_MEDIUM, SAME_MEDIUM};
use salp_hvc::status;

/// How many requests one exit answers.
const WORK: usize = 4;

/// Does something with the drive, and sets its interrupt line to what came of it. Returns whom to tell.
fn with_drive<R>(vm: &Vm, act: impl FnOnce(&mut Drive) -> R) -> (R, VcpuSet) {
    let mut devices = vm.devices.lock();
    let before = devices.drive.interrupt();
    let result = act(&mut devices.drive);
    let after = devices.drive.interrupt();
    drop(devices);
    let told = if before == after { VcpuSet::EMPTY } else { vm.vgic.lock().set_line(DRIVE_INTID, 0, after) };
    (result, told)
}

/// Carries out an access to the registers of the drive.
pub fn access(this: &Resident<'_>, offset: u64, size: AccessSize, written: Option<u64>) -> Access {
    let vm = this.vm;
    let Some(value) = written else { return Access::Done(vm.devices.lock().drive.read(offset, size)) };
    let (has_requests, told) = with_drive(vm, |drive| drive.write(offset, size, value));
    vm.notify(told);
    if !has_requests {
        return Access::Done(0);
    }
    for _ in 0..WORK {
        match serve(vm) {
            Ok(true) => {}
            Ok(false) | Err(QueueError::Breach(_)) => return Access::Done(0),
            Err(QueueError::NoMemory(at)) => {
                net::want_memory(vm, at);
                break;
            }
        }
    }
    Access::Again
}

/// Answers one request. The line is set before the memory is let go: a fork sees both or neither.
fn serve(vm: &Vm) -> Result<bool, QueueError> {
    let mut page = [0; PAGE_SIZE as usize];
    let mut memory = vm.memory.lock();
    let Some(memory) = memory.as_mut() else { return Ok(false) };
    let mut view = View::new(memory, vm.tlb(), None);
    let (served, told) = with_drive(vm, |drive| {
        let served = drive.serve(&mut view, &images::Media, &mut page);
        if let Err(QueueError::Breach(breach)) = served {
            drive.give_up();
            log!("{}: the drive stands still: its driver broke the rules of its queue ({breach:?})", vm.name());
        }
        served
    });
    vm.notify(told);
    served
}

/// Puts an image into the drive of a VM, ejects what is in it, or looks. Returns the image that was in it.
///
/// # Errors
///
/// A status; the drive is as it was then.
pub fn change(vm: &Vm, image: u64) -> Result<u64, i64> {
    let number = |medium: Option<Medium>| medium.map_or(NO_MEDIUM, |medium| medium.image);
    if image == SAME_MEDIUM {
        return Ok(number(vm.devices.lock().drive.medium()));
    }
    if vm.spec.is_manager() {
        return Err(status::INVALID);
    }
    if vm.is_held_by(hold::SNAPSHOT) {
        return Err(status::WRONG_STATE);
    }
    let medium = if image == NO_MEDIUM { None } else { Some(images::insert(image)?) };
    let (before, told) = with_drive(vm, |drive| drive.replace(medium));
    vm.notify(told);
    before.into_iter().for_each(images::eject);
    Ok(number(before))
}

/// Counts what is in the drive of a VM that was just copied once more.
pub fn was_copied(vm: &Vm) {
    if let Some(medium) = vm.devices.lock().drive.medium() {
        // It is in a drive, so there is its image.
        let _ = images::insert(medium.image);
    }
}

/// Empties the drive of a VM that is gone.
pub fn empty(vm: &Vm) {
    let medium = vm.devices.lock().drive.replace(None);
    medium.into_iter().for_each(images::eject);
}

/// Puts what is in the drive of one VM into that of another, which is empty.
pub fn hand_over(from: &Vm, to: &Vm) {
    let medium = from.devices.lock().drive.replace(None);
    to.devices.lock().drive.replace(medium);
}
