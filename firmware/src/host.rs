//! What managers ask of the machine itself, and for what VMs start from, carried out.
//!
//! Before: [`crate::manage`]. After: [`crate::drive`], [`crate::machine`], [`crate::console`].

use crate::console::{self, log};
use crate::drive;
use crate::images;
use crate::machine;
use crate::make;
use crate::manage;
use crate::operation::{self, Answer};
use crate::vm::{Vm, hold};
use salp_core::addr::Ipa;
use salp_core::calls::host::Request;
use salp_hvc::host::{POWER_OFF, POWER_RESET};
use salp_hvc::status;
use salp_hw::{cpu, psci};

/// Carries out a call of a manager.
pub fn carry_out(manager: &Vm, request: Request) -> Answer {
    let answer = match request {
        Request::Medium { vm, image } => {
            return operation::with(vm, |vm| drive::change(vm, image).map(|before| [before, 0, 0]));
        }
        Request::StartFrom { lasts: 2.., .. } => Err(status::INVALID),
        Request::StartFrom { vm, from, size, lasts } => return start_from(manager, vm, from, size, lasts == 1),
        Request::Clock { time } => {
            if time != 0 {
                machine::set_wall_clock(time);
                log!("{}: the clock is set to {} s", manager.name(), machine::wall_clock());
            }
            Ok([machine::wall_clock_ns(), 0, 0])
        }
        Request::ReadLog { position, to, room } => read_log(manager, position, to, room),
        Request::Power { how: POWER_RESET } => {
            log!("{}: the machine is reset", manager.name());
            psci::system_reset()
        }
        Request::Power { how: POWER_OFF } => {
            log!("{}: the machine is turned off", manager.name());
            psci::system_off()
        }
        Request::Power { .. } => Err(status::INVALID),
        Request::Cpu { index } => machine::describe_cpu(index)
            .map(|(model, affinity)| [model, affinity, cpu::counter_frequency()])
            .ok_or(status::NOT_FOUND),
    };
    answer.into()
}

/// Writes what is in the log to a manager's memory, part by part.
fn read_log(manager: &Vm, position: u64, to: Ipa, room: u64) -> Result<[u64; 3], i64> {
    let room = room.min(console::LOG as u64);
    let mut part = [0; 1024];
    let (mut first, mut count) = (position, 0);
    loop {
        let part = part.get_mut(..1024.min((room - count) as usize)).unwrap_or_default();
        let (at, length, end) = console::read_log(first + count, part);
        if count == 0 {
            first = at;
        }
        if length == 0 || at != first + count {
            // That is all, or the log has overtaken its reader.
            return Ok([count, first, end]);
        }
        manage::write(manager, Ipa(to.0.wrapping_add(count)), part.get(..length).unwrap_or_default())?;
        count += length as u64;
    }
}

/// Starts a VM that is off from something else than what it is made from.
fn start_from(manager: &Vm, id: u64, from: Ipa, size: u64, lasts: bool) -> Answer {
    let started = make::read_spec(manager, from, size).and_then(|wanted| {
        let mut spec = None;
        let is_off = operation::with(id, |vm| {
            spec = vm.spec.starting_as(&wanted);
            if vm.control() == hold::OFF { Ok([0; 3]) } else { Err(status::WRONG_STATE) }
        });
        is_off.into_result()?;
        let spec = spec.ok_or(status::INVALID)?;
        images::hold(&spec)?;
        machine::start_as(id, &spec, lasts).inspect_err(|_| images::count_user(&spec, false))
    });
    started.map(|()| [0; 3]).into()
}
