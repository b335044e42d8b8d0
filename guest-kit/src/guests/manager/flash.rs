//! A manager that updates the machine from its initrd, which is a bundle: it uploads and tries it, or confirms what is tried,
//! and resets the machine. `then=keep` never confirms. `by=handover` has the hypervisor replaced instead, without a reset, and this
//! manager with it: the next one confirms.

use salp_hvc::handover::STANDBY;
use salp_hvc::status;
use salp_hvc::update::{PHASE_IDLE, STANDBY_EMPTY, STANDBY_TRIAL, UpdateInfo};

use super::{PATIENCE, fail, must};
use crate::rt::ram;
use crate::salp::update;
use crate::salp::{self, Answer, Refused};
use crate::{machine, println, timer, words};

/// Does what the slots ask for. Returns when there is nothing left to do.
pub fn main() {
    let info = settled();
    tell(&info);
    let (standby, confirmed) = (info.standby.get(), info.confirmed.get());
    let is_tried = standby == STANDBY_TRIAL && info.running.get() != confirmed;
    let by_handover = words::get(machine::bootargs(), "by") == Some("handover");
    if is_tried && words::get(machine::bootargs(), "then") != Some("keep") {
        if by_handover {
            must("CONFIRM", salp::confirm());
        }
        must("UPDATE_CONFIRM", patiently(update::confirm));
    } else if standby == STANDBY_EMPTY {
        upload(ram::initrd());
        must("UPDATE_ACTIVATE", patiently(update::activate));
    } else if !is_tried {
        return;
    }
    let info = settled();
    match by_handover {
        true if is_tried => tell(&info),
        true => drop(must("HANDOVER", salp::handover(STANDBY))),
        false => must("MACHINE_RESET", patiently(update::reset)),
    }
}

fn tell(info: &UpdateInfo) {
    let [a, b] = info.slots.each_ref().map(|slot| slot.counter.get());
    println!(
        "SLOTS running={} confirmed={} standby={} attempts={} counters={a},{b}",
        info.running.get(),
        info.confirmed.get(),
        info.standby.get(),
        info.attempts.get()
    );
}

/// Asks again as long as the flash is busy.
fn patiently<T>(call: impl Fn() -> Answer<T>) -> Answer<T> {
    let mut answer = Err(Refused(status::BUSY));
    timer::sleep_until(PATIENCE, || {
        answer = call();
        !matches!(answer, Err(Refused(status::BUSY)))
    });
    answer
}

/// Waits until all is written down, and returns what there is to know then.
fn settled() -> UpdateInfo {
    let info = || must("UPDATE_STATUS", update::status());
    if !timer::sleep_until(PATIENCE, || info().phase.get() == PHASE_IDLE) {
        fail(format_args!("the flash is busy for ever"));
    }
    info()
}

fn upload(bundle: &[u8]) {
    must("UPDATE_BEGIN", patiently(|| update::begin(bundle.len() as u64)));
    let mut rest = bundle;
    while !rest.is_empty() {
        let taken = must("UPDATE_WRITE", update::write(rest));
        rest = &rest[taken..];
    }
    must("UPDATE_FINISH", patiently(update::finish));
    println!("UPLOADED {} bytes", bundle.len());
}
