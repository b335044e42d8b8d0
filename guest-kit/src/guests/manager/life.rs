//! The calls about what outlives a manager, with the VM `vm=`, which has the role `frozen then=wait`.

use salp_hvc::manager::{KEEP, MAX_RECORD, RECALL, RECORDS};
use salp_hvc::status;
use spin::mutex::SpinMutex;

use super::tour::{because, done, refused};
use super::{all, destroy, frozen_source};
use crate::salp::{self, Name, call};
use crate::test::Outcome;
use crate::{cases, check_eq, machine, timer};

/// The longest record.
static LONG: SpinMutex<[u8; MAX_RECORD as usize]> = SpinMutex::new([0; MAX_RECORD as usize]);

/// Runs all cases.
pub fn main() {
    frozen_source();
    cases!(heartbeats_end, records_hold_what_was_kept_last, records_of_any_length, what_is_no_record);
    all().filter(|info| Ok(Name(info.name)) != salp::name()).for_each(|info| destroy(info.id.get()));
}

fn heartbeats_end() -> Outcome {
    done("HEARTBEAT", salp::heartbeat(1))?;
    done("HEARTBEAT", salp::heartbeat(u64::MAX))?;
    done("HEARTBEAT", salp::heartbeat(0))?;
    timer::sleep(3);
    Ok(())
}

fn recalled(record: u64) -> Result<heapless::Vec<u8, 64>, crate::test::Stop> {
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
