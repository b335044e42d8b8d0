//! Management calls about a manager's own life, and about VMs' consoles, power buttons and ends, carried out.
//!
//! Before: [`crate::manage`]. After: [`crate::watch`], [`crate::keep`], [`crate::events`], the VM's devices.

use crate::events;
use crate::exits;
use crate::handover;
use crate::keep;
use crate::manage;
use crate::operation::{self, Answer, Asker, What};
use crate::update;
use crate::vm::{Fate, Vm, hold};
use core::sync::atomic::Ordering;
use salp_core::addr::Ipa;
use salp_core::calls::life::Request;
use salp_core::dev::pl011::FIFO;
use salp_hvc::manager::{CONSOLE_SIZE, SIGNAL_RESTART};
use salp_hvc::status;

/// Carries out a call of a manager. Returns the answer, or `None` if the asker gets it later.
pub fn carry_out(manager: &Vm, request: Request, asker: Asker) -> Option<Answer> {
    let answer = match request {
        // Other vCPUs would be in the middle of something.
        Request::Checkpoint if manager.vcpus() != 1 => Err(status::WRONG_STATE),
        Request::Checkpoint => return operation::submit(manager.id, What::Checkpoint, asker),
        Request::Heartbeat { within } => {
            manager.watch.heartbeat(within);
            update::write_records();
            Ok([0; 3])
        }
        Request::Keep { record, from, size } => keep::keep(manager, record, from, size).map(|()| [0; 3]),
        Request::Recall { record, to, room } => keep::recall(manager, record, to, room).map(|size| [size, 0, 0]),
        Request::ReadEvents { from, to, room, intid } => events::read(manager, from, to, room, intid),
        Request::Usage { vm } => return Some(operation::with(vm, |vm| Ok(vm.usage()))),
        Request::ReadConsole { vm, position, to, room } => read_console(manager, vm, position, to, room),
        Request::Signal { vm, signal: kind } => return Some(signal(vm, kind)),
        Request::Handover { image } => return handover::submit(image, asker),
        Request::Confirm => handover::confirm().map(|()| [0; 3]),
        Request::HandoverState => Ok(handover::state()),
        Request::WriteConsole { vm, from, size } => write_console(manager, vm, from, size),
    };
    Some(answer.into())
}

/// Writes what a VM wrote to its console to a manager's memory, part by part: no two VMs' locks are held at once.
fn read_console(manager: &Vm, id: u64, position: u64, to: Ipa, room: u64) -> Result<[u64; 3], i64> {
    let room = room.min(CONSOLE_SIZE as u64);
    let mut part = [0; 1024];
    let (mut first, mut count) = (position, 0);
    loop {
        let wanted = part.len().min((room - count) as usize);
        let part = part.get_mut(..wanted).unwrap_or_default();
        let [at, length, end] = operation::with(id, |vm| {
            let written = &vm.devices.lock().written;
            let (at, length) = written.read(first + count, part);
            Ok([at, length as u64, written.end()])
        })
        .into_result()?;
        if count == 0 {
            first = at;
        }
        if length == 0 || at != first + count {
            // That is all, or the VM has overtaken its reader.
            return Ok([count, first, end]);
        }
        manage::write(manager, Ipa(to.0.wrapping_add(count)), part.get(..length as usize).unwrap_or_default())?;
        count += length;
        if count == room {
            return Ok([count, first, end]);
        }
    }
}

/// Types bytes of a manager's memory at a VM's console, as many as its FIFO has room for.
fn write_console(manager: &Vm, id: u64, from: Ipa, size: u64) -> Result<[u64; 3], i64> {
    let mut keys = [0; FIFO];
    let keys = keys.get_mut(..FIFO.min(usize::try_from(size).unwrap_or(FIFO))).unwrap_or_default();
    manage::read(manager, from, keys)?;
    operation::with(id, |vm| {
        if vm.is_held_by(hold::SNAPSHOT) {
            return Err(status::WRONG_STATE);
        }
        let taken = keys.iter().take_while(|&&key| exits::type_key(vm, key)).count();
        Ok([taken as u64, 0, 0])
    })
    .into_result()
}

/// Presses the power button of the VM with this identifier.
pub fn signal(id: u64, signal: u64) -> Answer {
    if signal > SIGNAL_RESTART {
        return Answer::of(status::INVALID);
    }
    operation::with(id, |vm| {
        if vm.is_held_by(hold::SNAPSHOT) || vm.fate() != Fate::Running {
            return Err(status::WRONG_STATE);
        }
        vm.starts_again.store(signal == SIGNAL_RESTART, Ordering::Relaxed);
        vm.watch.press(vm);
        Ok([0; 3])
    })
}
