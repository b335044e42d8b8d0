//! What managers ask for about images, the VMs that are made from them, and power.
//!
//! Before: [`crate::manage`]. After: [`crate::images`], [`crate::machine`] and [`crate::operation`].

use crate::images::{self, Copy};
use crate::machine;
use crate::manage;
use crate::operation::{self, Answer, Asker};
use crate::vm::{Fate, Vm, VmError};
use salp_core::addr::Ipa;
use salp_core::bootset::VmSpec;
use salp_core::calls::make::Request;
use salp_hvc::manager::MAX_DESCRIPTION;
use salp_hvc::status;
use zerocopy::IntoBytes;

/// Carries out a call of a manager. Returns the answer, or `None` if the asker gets it later.
pub fn carry_out(manager: &Vm, request: Request, asker: Asker) -> Option<Answer> {
    let id = |id| [id, 0, 0];
    let done = |()| [0; 3];
    let answer = match request {
        Request::Create { from, size } => create(manager, from, size).map(id),
        Request::Change { vm, from, size } => change(manager, vm, from, size).map(done),
        Request::Start { vm } => return Some(operation::start(vm)),
        Request::Stop { vm } => return operation::end(vm, Fate::Stopped, asker),
        Request::Reset { vm } => return operation::end(vm, Fate::Restarted, asker),
        Request::CreateImage { from } => images::create(manager, from).map(id),
        Request::WriteImage { image, offset, from, size } => {
            Copy { image, offset, at: from, size }.carry_out(manager, true).map(done)
        }
        Request::ReadImage { image, offset, to, size } => {
            Copy { image, offset, at: to, size }.carry_out(manager, false).map(done)
        }
        Request::FinishImage { image } => images::finish(image).map(done),
        Request::DeleteImage { image } => images::delete(image).map(done),
        Request::NextImage { after, to } => images::next(after).map_or(Err(status::NOT_FOUND), |info| {
            manage::write(manager, to, info.as_bytes())?;
            Ok([info.id.get(), 0, 0])
        }),
        Request::LabelImage { image, from } => images::label(manager, image, from).map(done),
    };
    Some(answer.into())
}

/// Reads a description in a manager's memory.
///
/// # Errors
///
/// A status.
pub fn read_spec(manager: &Vm, from: Ipa, size: u64) -> Result<VmSpec, i64> {
    let mut bytes = [0; MAX_DESCRIPTION];
    let bytes = usize::try_from(size).ok().and_then(|size| bytes.get_mut(..size)).ok_or(status::INVALID)?;
    manage::read(manager, from, bytes)?;
    VmSpec::parse(bytes).ok_or(status::INVALID)
}

fn create(manager: &Vm, from: Ipa, size: u64) -> Result<u64, i64> {
    let spec = read_spec(manager, from, size)?;
    images::hold(&spec)?;
    machine::add_vm(machine::get(), &spec).map(|place| place.id).map_err(|error| {
        images::count_user(&spec, false);
        VmError::status(error)
    })
}

fn change(manager: &Vm, vm: u64, from: Ipa, size: u64) -> Result<(), i64> {
    let spec = read_spec(manager, from, size)?;
    images::hold(&spec)?;
    machine::change_vm(vm, &spec).inspect_err(|_| images::count_user(&spec, false))
}
