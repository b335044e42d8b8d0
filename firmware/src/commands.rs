//! The monitor's commands, carried out: names become VMs, answers become lines.
//!
//! Before: [`crate::monitor`] and [`crate::console`], which bring a command's line to a CPU that has no vCPU loaded. After:
//! [`crate::operation`] and [`crate::manage`], which serve managers' calls too.

use crate::console;
use crate::handover;
use crate::images;
use crate::life;
use crate::machine;
use crate::manage;
use crate::operation::{self, Answer, Asker, What};
use crate::vm::Fate;
use core::fmt::{self, Write};
use salp_core::calls::manage::CloneSpec;
use salp_core::identity::{Config, Name};
use salp_core::monitor::{Cloning, Command, Target, parse, reply};
use salp_hvc::calls::MAX_CONFIG;
use salp_hvc::manager::SIGNAL_SHUTDOWN;
use salp_hvc::status;
use salp_hw::lock::{self, Mutex};

/// The answer to the operation that the monitor waits for.
static ANSWER: Mutex<Option<Answer>> = Mutex::new(None);

/// Takes the answer to an operation that the monitor asked for.
pub fn deliver(answer: Answer) {
    *ANSWER.lock() = Some(answer);
}

/// Waits for an operation. This CPU has no vCPU loaded, so none waits for it; the CPU that the VM's last vCPU leaves carries
/// the operation out.
fn wait(answer: Option<Answer>) -> Result<[u64; 3], i64> {
    answer
        .unwrap_or_else(|| {
            loop {
                if let Some(answer) = ANSWER.lock().take() {
                    return answer;
                }
                lock::wait();
            }
        })
        .into_result()
}

/// Why a command failed: for scripts, and for people.
struct Failure<'a> {
    status: i64,
    what: Target<'a>,
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what;
        match self.status {
            status::NOT_FOUND => write!(f, "there is no VM or snapshot {what}; list shows what there is"),
            status::BUSY => write!(f, "another operation on {what} is not finished; try again"),
            status::NO_MEMORY => f.write_str("the machine has not enough memory; destroy VMs, or reserve less"),
            status::TOO_MANY => f.write_str("the machine has no room for so many VMs; destroy some"),
            status::NAME_TAKEN => f.write_str("a VM or snapshot has this name already; give another"),
            status::WRONG_STATE => write!(f, "{what} is not in a state for this; info shows it"),
            status::DENIED => write!(f, "{what} is a manager: it cannot be cloned or reverted"),
            status::INVALID => f.write_str("a name is 1 to 31 characters of A-Z a-z 0-9 . _ -"),
            other => write!(f, "it failed with {other}"),
        }
    }
}

/// Carries out the command in `line` and writes its answer. Called by a CPU that has no vCPU loaded and holds no lock but
/// that of the line that the answer goes to. A program gets that of a hand-over from the next image.
pub fn carry_out(line: &mut [u8], is_program: bool, out: &mut dyn Write) {
    let mut config = [0; MAX_CONFIG];
    let _ = match parse(line, &mut config) {
        Ok(Command::Handover(image)) => hand_over(image, is_program, out),
        Ok(command) => answer(command, out),
        Err(error) => reply::error(out, status::INVALID, &error),
    };
}

fn hand_over(image: u64, is_program: bool, out: &mut dyn Write) -> fmt::Result {
    let asker = if is_program { Asker::Monitor } else { Asker::Nobody };
    match handover::submit(image, asker) {
        Some(answer) => answer_handover(answer, out),
        None => Ok(()),
    }
}

/// Writes the answer to a command for a hand-over.
pub fn answer_handover(answer: Answer, out: &mut dyn Write) -> fmt::Result {
    let why = match answer.status {
        status::OK => return reply::Row::ok(out).number("count", answer.values[0]).end(),
        status::FAILED => "the next image did not take over; the log says why",
        status::NOT_FOUND => "there is no such image; images lists them",
        status::NO_MEMORY => "the machine has not enough memory for a second image",
        status::INVALID => "this is no image of the hypervisor that this one can hand over to",
        status::BUSY => "another hand-over is not finished",
        status::REFUSED => "the bundle is refused; the log says why",
        _ => "the image is not finished, or the last hand-over is not confirmed",
    };
    reply::error(out, answer.status, &why)
}

fn answer(command: Command<'_>, out: &mut dyn Write) -> fmt::Result {
    let target = match command {
        Command::Confirm => {
            return match handover::confirm() {
                Ok(()) => reply::Row::ok(out).end(),
                Err(status) => reply::error(out, status, &"there is no hand-over to confirm"),
            };
        }
        // It is answered elsewhere.
        Command::Handover(_) => return Ok(()),
        Command::List => return list(out),
        Command::Images => return list_images(out),
        Command::Help => return reply::help(out).and_then(|()| reply::Row::ok(out).end()),
        Command::Stats(None) => {
            let vms = manage::all_memory();
            reply::machine_row(out, &manage::machine_info(), &vms)?;
            return reply::Row::ok(out).end();
        }
        Command::Net(None) => {
            let mut last = 0;
            while let Some(info) = manage::next(last) {
                last = info.id.get();
                nics(last, out).unwrap_or(Ok(()))?;
            }
            return reply::Row::ok(out).end();
        }
        Command::Log => {
            console::attach(None, "");
            return reply::Row::ok(out).end();
        }
        Command::Info(vm)
        | Command::Freeze(vm)
        | Command::Unfreeze(vm)
        | Command::Shutdown(vm)
        | Command::Destroy(vm)
        | Command::Start(vm)
        | Command::Stop(vm)
        | Command::Reset(vm)
        | Command::Stats(Some(vm))
        | Command::Net(Some(vm))
        | Command::Console(vm)
        | Command::Snapshot { vm, .. }
        | Command::Revert { vm, .. }
        | Command::Clone(Cloning { source: vm, .. }) => vm,
    };
    let done = identifier(target).map_err(|status| (status, target)).and_then(|id| on(id, command, target, out));
    match done {
        Ok(Done::Written(result)) => result.and_then(|()| reply::Row::ok(out).end()),
        Ok(Done::Nothing) => reply::Row::ok(out).end(),
        Ok(Done::Snapshot(id)) => reply::Row::ok(out).number("id", id).end(),
        Ok(Done::Clones([made, first, last])) => {
            reply::Row::ok(out).number("made", made).number("first", first).number("last", last).end()
        }
        Err((status, what)) => reply::error(out, status, &Failure { status, what }),
    }
}

/// What a command on a VM gave.
enum Done {
    Nothing,
    Written(fmt::Result),
    Clones([u64; 3]),
    Snapshot(u64),
}

fn on<'a>(id: u64, command: Command<'a>, target: Target<'a>, out: &mut dyn Write) -> Result<Done, (i64, Target<'a>)> {
    let here = |status| (status, target);
    let simple = |answer| wait(answer).map(|_| Done::Nothing).map_err(here);
    match command {
        Command::Clone(cloning) => {
            let spec = CloneSpec {
                count: cloning.count,
                reserve: cloning.reserve,
                name: cloning.name.map(|name| Name::new(name.as_bytes()).ok_or(here(status::INVALID))).transpose()?,
                uuid: None,
                disconnected: false,
                config: Config::new(cloning.config.as_bytes()).ok_or(here(status::INVALID))?,
            };
            wait(operation::submit(id, What::Clone(&spec), Asker::Monitor)).map(Done::Clones).map_err(here)
        }
        Command::Snapshot { name, .. } => {
            let name = Name::new(name.as_bytes()).ok_or(here(status::INVALID))?;
            let answer = operation::submit(id, What::Snapshot(name), Asker::Monitor);
            wait(answer).map(|[id, ..]| Done::Snapshot(id)).map_err(here)
        }
        Command::Revert { to, .. } => {
            let snapshot = identifier(to).map_err(|status| (status, to))?;
            simple(operation::submit(id, What::Revert(snapshot), Asker::Monitor))
        }
        Command::Freeze(_) => simple(operation::submit(id, What::Freeze, Asker::Monitor)),
        Command::Unfreeze(_) => simple(Some(operation::unfreeze(id))),
        Command::Shutdown(_) => simple(Some(life::signal(id, SIGNAL_SHUTDOWN))),
        Command::Destroy(_) => simple(operation::end(id, Fate::Destroyed, Asker::Monitor)),
        Command::Start(_) => simple(Some(operation::start(id))),
        Command::Stop(_) => simple(operation::end(id, Fate::Stopped, Asker::Monitor)),
        Command::Reset(_) => simple(operation::end(id, Fate::Restarted, Asker::Monitor)),
        Command::Console(_) => simple(Some(operation::with(id, |vm| {
            console::attach(Some(vm.slot), vm.name());
            Ok([0; 3])
        }))),
        Command::Info(_) => {
            let info = manage::info(id).ok_or(here(status::NOT_FOUND))?;
            Ok(Done::Written(reply::info_row(out, &info)))
        }
        Command::Stats(_) => {
            let info = manage::info(id).ok_or(here(status::NOT_FOUND))?;
            let memory = manage::memory(id).map_err(here)?;
            Ok(Done::Written(reply::memory_row(out, &info, &memory)))
        }
        Command::Net(_) => nics(id, out).map(Done::Written).map_err(here),
        Command::List | Command::Images | Command::Help | Command::Log | Command::Handover(_) | Command::Confirm => {
            Ok(Done::Nothing)
        }
    }
}

/// Writes a row for each NIC of the VM with this identifier.
fn nics(id: u64, out: &mut dyn Write) -> Result<fmt::Result, i64> {
    let mut written = Ok(());
    let answer = operation::with(id, |vm| {
        // A guest does not wait for a reader.
        let Some(nics) = vm.nics().map(|nics| nics.lock().clone()) else { return Ok([0; 3]) };
        for (index, nic) in nics.iter().enumerate() {
            if let Some(nic) = nic {
                written = written.and_then(|()| reply::nic_row(out, vm.name(), index, nic));
            }
        }
        Ok([0; 3])
    });
    if answer.status == status::OK { Ok(written) } else { Err(answer.status) }
}

fn list(out: &mut dyn Write) -> fmt::Result {
    let mut last = 0;
    let mut count = 0u64;
    while let Some(info) = manage::next(last) {
        last = info.id.get();
        count += 1;
        reply::list_row(out, &info)?;
    }
    reply::Row::ok(out).number("count", count).end()
}

fn list_images(out: &mut dyn Write) -> fmt::Result {
    let mut last = 0;
    while let Some(info) = images::next(last) {
        last = info.id.get();
        reply::image_row(out, &info)?;
    }
    reply::Row::ok(out).end()
}

fn identifier(target: Target<'_>) -> Result<u64, i64> {
    match target {
        Target::Id(id) => Ok(id),
        Target::Name(name) => {
            let name = Name::new(name.as_bytes()).ok_or(status::NOT_FOUND)?;
            let slot = machine::directory().lock().by_name(&name).ok_or(status::NOT_FOUND)?;
            machine::slot(slot).read().as_deref().map(|vm| vm.id).ok_or(status::NOT_FOUND)
        }
    }
}
