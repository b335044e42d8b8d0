//! The calls about what outlives a manager, with the VM `vm=`, which has the role `frozen then=wait`.

use salp_hvc::events::{CREATED, DESTROYED, EventRecord, FROZEN, UNFROZEN};
use salp_hvc::manager::{
    CONSOLE_READ, CONSOLE_WRITE, KEEP, MAX_RECORD, RECALL, RECORDS, SIGNAL_RESTART, SIGNAL_SHUTDOWN,
};
use salp_hvc::status;
use spin::mutex::SpinMutex;
use zerocopy::FromZeros;

use super::tour::{because, done, refused};
use super::{PATIENCE, all, destroy, find, frozen_source, must, source, wait_acknowledged};
use crate::salp::{self, Name, Request, call};
use crate::test::{Outcome, Stop};
use crate::{cases, check, check_eq, gic, machine, timer};

/// The longest record.
static LONG: SpinMutex<[u8; MAX_RECORD as usize]> = SpinMutex::new([0; MAX_RECORD as usize]);

/// Runs all cases.
pub fn main() {
    frozen_source();
    cases!(
        heartbeats_end,
        records_hold_what_was_kept_last,
        records_of_any_length,
        what_is_no_record,
        what_a_clone_writes,
        what_is_typed,
        consoles_of_nobody,
        who_has_no_power_button,
        what_becomes_of_vms_is_told,
        the_next_event_interrupts_who_waits,
        who_stands_still_uses_no_cpu,
        a_restart_that_is_asked_for
    );
    all().filter(|info| Ok(Name(info.name)) != salp::name()).for_each(|info| destroy(info.id.get()));
}

fn heartbeats_end() -> Outcome {
    done("HEARTBEAT", salp::heartbeat(500))?;
    done("HEARTBEAT", salp::heartbeat(u64::MAX))?;
    done("HEARTBEAT", salp::heartbeat(0))?;
    timer::sleep(600);
    Ok(())
}

fn recalled(record: u64) -> Result<heapless::Vec<u8, 64>, Stop> {
    let mut room = [0; 64];
    let size = done("RECALL", salp::recall(record, &mut room))?;
    Ok(room[..size.min(room.len())].iter().copied().collect())
}

fn records_hold_what_was_kept_last() -> Outcome {
    for record in 0..RECORDS {
        check_eq!(&recalled(record)?[..], b"", "record {record} at first");
        done("KEEP", salp::keep(record, &[record as u8; 9]))?;
    }
    done("KEEP", salp::keep(3, b"something else"))?;
    check_eq!(&recalled(3)?[..], b"something else", "record 3");
    for record in (0..RECORDS).filter(|&record| record != 3) {
        check_eq!(&recalled(record)?[..], &[record as u8; 9], "record {record}");
        done("KEEP", salp::keep(record, b""))?;
        check_eq!(&recalled(record)?[..], b"", "record {record} in the end");
    }
    let mut short = [0; 4];
    check_eq!(done("RECALL", salp::recall(3, &mut short))?, 14, "size");
    check_eq!(&short, b"some", "as much as fits");
    done("KEEP", salp::keep(3, b""))
}

fn records_of_any_length() -> Outcome {
    let before = done("MACHINE", salp::machine())?.hypervisor;
    let mut long = LONG.lock();
    for length in [1, 4095, 4096, 4097, 2 * 4096 + 5, MAX_RECORD as usize] {
        let fill = |byte: usize| (byte * 7 + length) as u8;
        long.iter_mut().enumerate().for_each(|(at, byte)| *byte = fill(at));
        done("KEEP", salp::keep(0, &long[..length]))?;
        long.fill(0);
        check_eq!(done("RECALL", salp::recall(0, &mut long[..]))?, length, "size");
        let wrong = long[..length].iter().enumerate().position(|(at, &byte)| byte != fill(at));
        check_eq!(wrong, None, "a byte of {length}");
        check_eq!(long[length..].iter().any(|&byte| byte != 0), false, "bytes behind {length}");
    }
    done("KEEP", salp::keep(0, b""))?;
    check_eq!(done("MACHINE", salp::machine())?.hypervisor, before, "memory of EL2");
    Ok(())
}

fn what_is_no_record() -> Outcome {
    done("KEEP", salp::keep(1, b"here"))?;
    let at = machine::ram_start();
    for [record, size] in [[RECORDS, 1], [u64::MAX, 1], [1, MAX_RECORD + 1], [1, u64::MAX]] {
        check_eq!(refused(call(KEEP, [record, at, size])), because(status::INVALID), "{size} bytes of {record}");
    }
    check_eq!(refused(call(RECALL, [RECORDS, at, 1])), because(status::INVALID), "RECALL");
    let bad = because(status::BAD_ADDRESS);
    for address in [0, machine::ram_end() - 4096, machine::ram_end(), u64::MAX - 4095, u64::MAX] {
        check_eq!(refused(call(KEEP, [1, address, 4097])), bad, "KEEP from {address:#x}");
    }
    check_eq!(refused(call(RECALL, [1, machine::ram_end() - 2, 4])), bad, "RECALL to the end");
    check_eq!(&recalled(1)?[..], b"here", "after refusals");
    done("KEEP", salp::keep(1, b""))
}

/// Makes a clone that answers lines on its console.
fn pet() -> Result<u64, Stop> {
    let id = source().id.get();
    let request = Request::new(id, 1, Name::new(format_args!("pet"))).config("then=wait\nbrief=1\n");
    Ok(done("VM_CLONE", salp::vm_clone(&request))?.first)
}

/// Waits until a VM has written this, from a position on; returns the position behind it.
fn written(id: u64, text: &str, from: u64) -> Result<u64, Stop> {
    let mut room = [0; 256];
    let mut end = None;
    timer::sleep_until(PATIENCE, || {
        let written = must("CONSOLE_READ", salp::console_read(id, from, &mut room));
        let found = room[..written.count].windows(text.len()).position(|part| part == text.as_bytes());
        end = found.map(|at| written.first + (at + text.len()) as u64);
        end.is_some()
    });
    end.ok_or_else(|| crate::test::fail(format_args!("VM {id} does not write {text:?}")))
}

fn what_a_clone_writes() -> Outcome {
    let source = source().id.get();
    let mut start = [0; 5];
    let of_source = done("CONSOLE_READ", salp::console_read(source, 0, &mut start))?;
    check_eq!((&start, of_source.count, of_source.first), (b"READY", 5, 0), "of the source");
    let id = pet()?;
    written(id, "name=pet first=", 0)?;
    let of_clone = done("CONSOLE_READ", salp::console_read(id, 0, &mut start))?;
    check_eq!((&start, of_clone.count, of_clone.first), (b"CLONE", 5, 0), "of the clone");
    wait_acknowledged(id);
    let end = done("CONSOLE_READ", salp::console_read(id, 0, &mut []))?.end;
    let behind = done("CONSOLE_READ", salp::console_read(id, u64::MAX, &mut start))?;
    check_eq!((behind.count, behind.first, behind.end), (0, end, end), "behind the end");
    // A page of the VM's own.
    let before = done("VM_MEMORY", salp::vm_memory(source))?.overhead.get();
    check!(before % 4096 == 0 && before > 0, "overhead");
    done("VM_DESTROY", salp::vm_destroy(id))
}

fn what_is_typed() -> Outcome {
    let id = pet()?;
    wait_acknowledged(id);
    let mut end = 0;
    for _ in 0..3 {
        check_eq!(done("CONSOLE_WRITE", salp::console_write(id, b"ping\r"))?, 5, "typed");
        end = written(id, "pong 1", end)?;
    }
    // The source does not read.
    let (mut taken, mut last) = (0, 1);
    while last != 0 && taken < 100 {
        last = done("CONSOLE_WRITE", salp::console_write(source().id.get(), &[b'x'; 40]))?;
        taken += last;
    }
    check_eq!(taken, 32, "as much as the FIFO holds");
    done("VM_DESTROY", salp::vm_destroy(id))
}

fn consoles_of_nobody() -> Outcome {
    let id = source().id.get();
    let nobody = because(status::NOT_FOUND);
    check_eq!(salp::console_read(u64::MAX, 0, &mut [0]).err(), nobody, "CONSOLE_READ");
    check_eq!(refused(salp::console_write(0, b"x")), nobody, "CONSOLE_WRITE");
    let bad = because(status::BAD_ADDRESS);
    check_eq!(refused(call(CONSOLE_READ, [id, 0, machine::ram_end() - 2, 4])), bad, "CONSOLE_READ to the end");
    check_eq!(refused(call(CONSOLE_WRITE, [id, 0x0900_0000, 4])), bad, "CONSOLE_WRITE from a device");
    let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(id, Name::new(format_args!("still"))))?;
    check_eq!(refused(salp::console_write(snapshot, b"x")), because(status::WRONG_STATE), "typing at a snapshot");
    check_eq!(done("CONSOLE_READ", salp::console_read(snapshot, 0, &mut [0]))?.end, 0, "a snapshot's console");
    done("VM_DESTROY", salp::vm_destroy(snapshot))
}

fn who_has_no_power_button() -> Outcome {
    let id = source().id.get();
    for signal in [SIGNAL_RESTART + 1, u64::MAX] {
        check_eq!(refused(salp::vm_signal(id, signal)), because(status::INVALID), "signal {signal}");
    }
    for id in [0, u64::MAX] {
        check_eq!(refused(salp::vm_signal(id, SIGNAL_SHUTDOWN)), because(status::NOT_FOUND), "VM {id}");
    }
    let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(id, Name::new(format_args!("still"))))?;
    check_eq!(refused(salp::vm_signal(snapshot, SIGNAL_SHUTDOWN)), because(status::WRONG_STATE), "a snapshot");
    done("VM_DESTROY", salp::vm_destroy(snapshot))
}

/// With a VM `button` that is the guest of this name.
fn a_restart_that_is_asked_for() -> Outcome {
    let Some(button) = find("button").map(|info| info.id.get()) else {
        return Err(crate::test::skip(format_args!("there is no VM button")));
    };
    let mut end = 0;
    for _ in 0..3 {
        end = written(button, "READY", end)?;
        done("VM_SIGNAL", salp::vm_signal(button, SIGNAL_RESTART))?;
        end = written(button, "PRESSED", end)?;
        end = written(button, "RELEASED", end)?;
    }
    end = written(button, "READY", end)?;
    done("VM_SIGNAL", salp::vm_signal(button, SIGNAL_RESTART))?;
    done("VM_SIGNAL", salp::vm_signal(button, SIGNAL_SHUTDOWN))?;
    // It was pressed for longer, and is off for good.
    written(button, "PRESSED", end)?;
    check!(timer::sleep_until(PATIENCE, || salp::vm(button).is_err()), "it does not turn itself off");
    Ok(())
}

/// An SPI that no device has.
const INTID: u32 = 36;

/// Returns what has become of a VM from an event on, and the number to go on with.
fn told(vm: u64, from: u64, intid: u32) -> Result<(heapless::Vec<u32, 32>, u64), Stop> {
    let (mut kinds, mut next) = (heapless::Vec::new(), from);
    loop {
        let mut room = [EventRecord::new_zeroed(); 4];
        let (count, after) = done("EVENT_READ", salp::events(next, &mut room, intid))?;
        for event in room[..count].iter().filter(|event| event.vm.get() == vm) {
            check!(kinds.push(event.kind.get()).is_ok(), "there are more events than there can be");
        }
        next = after;
        if count < room.len() {
            return Ok((kinds, next));
        }
    }
}

fn what_becomes_of_vms_is_told() -> Outcome {
    let id = source().id.get();
    let (kinds, next) = told(id, 0, 0)?;
    check_eq!(&kinds[..2], &[CREATED, FROZEN], "what became of the source");
    check_eq!(told(id, u64::MAX, 0)?.1, next, "the number to go on with");
    let made = done("VM_CLONE", salp::vm_clone(&Request::new(id, 1, Name::new(format_args!("told")))))?;
    wait_acknowledged(made.first);
    done("VM_FREEZE", salp::vm_freeze(made.first))?;
    done("VM_UNFREEZE", salp::vm_unfreeze(made.first))?;
    destroy(made.first);
    let (kinds, _) = told(made.first, next, 0)?;
    check_eq!(&kinds[..], &[CREATED, FROZEN, UNFROZEN, DESTROYED], "what became of the clone");
    for intid in [27, 96, u32::MAX] {
        check_eq!(refused(salp::events(0, &mut [], intid)), because(status::INVALID), "SPI {intid}");
    }
    Ok(())
}

fn the_next_event_interrupts_who_waits() -> Outcome {
    let id = source().id.get();
    gic::set_edge(INTID, true);
    gic::enable(INTID);
    told(id, u64::MAX, INTID)?;
    let is_pending = || gic::read_bit(gic::ISPENDR, INTID);
    check!(!is_pending(), "nothing has happened");
    let made = done("VM_CLONE", salp::vm_clone(&Request::new(id, 1, Name::new(format_args!("one")))))?;
    check!(timer::sleep_until(PATIENCE, is_pending), "nobody tells of the clone");
    gic::disable(INTID);
    gic::write_bit(gic::ICPENDR, INTID);
    destroy(made.first);
    check!(!is_pending(), "it was told once");
    // Nor does it need another CPU, or a vCPU that comes or goes.
    gic::enable(INTID);
    told(id, u64::MAX, INTID)?;
    done("VM_UNFREEZE", salp::vm_unfreeze(id))?;
    check!(timer::sleep_until(PATIENCE, is_pending), "nobody tells of the source that goes on");
    gic::disable(INTID);
    gic::write_bit(gic::ICPENDR, INTID);
    done("VM_FREEZE", salp::vm_freeze(id))
}

fn who_stands_still_uses_no_cpu() -> Outcome {
    let id = source().id.get();
    let before = done("VM_USAGE", salp::vm_usage(id))?;
    timer::sleep(50);
    check_eq!(done("VM_USAGE", salp::vm_usage(id))?, before, "what the frozen source has had of the CPUs");
    check!(before.0 > 0, "it has run before");
    check_eq!(refused(salp::vm_usage(u64::MAX)), because(status::NOT_FOUND), "nobody");
    Ok(())
}
