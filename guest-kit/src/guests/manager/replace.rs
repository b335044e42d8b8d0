//! A manager that has the hypervisor replaced `times=` times (default 3), and makes a clone of the frozen VM `vm=` before and after
//! each, if there is one. `expect=failed` says that the next hypervisor is to fail: the call says so, and all goes on in this one.
//!
//! `PAUSE count=N ticks=N` tells for how long the call took, copying and checking included.

use salp_hvc::handover::STANDBY;
use salp_hvc::status;

use super::{destroy, fail, find, must, wait_frozen, wait_gone};
use crate::machine::{self, number};
use crate::rt::sysreg;
use crate::salp::{self, Name, Refused, Request, make};
use crate::{println, words};

/// The record that is there before and after.
const NOTE: u64 = 5;

/// Runs the scenario.
pub fn main() {
    let to_fail = words::get(machine::bootargs(), "expect") == Some("failed");
    let source = find(words::get(machine::bootargs(), "vm").unwrap_or("source")).map(|info| info.id.get());
    source.into_iter().for_each(wait_frozen);
    must("KEEP", salp::keep(NOTE, b"kept"));
    refuse_what_is_not_signed();
    for count in 1..=number("times", 3) {
        let before = source.map(|source| clone(source, "before"));
        let began = sysreg::cntpct();
        let answer = salp::handover(0);
        let ticks = sysreg::cntpct() - began;
        let state = must("HANDOVER_STATE", salp::handover_state());
        match answer {
            Ok(number) if !to_fail && number == count && state == (count, true, 0) => {
                if salp::handover(0) != Err(Refused(status::WRONG_STATE)) {
                    fail(format_args!("a hypervisor that is not confirmed is replaced"));
                }
                must("CONFIRM", salp::confirm());
            }
            Err(Refused(status::FAILED)) if to_fail && !state.1 && state.2 != 0 => {}
            other => fail(format_args!("hand-over {count}: {other:?}, {state:?}")),
        }
        if salp::confirm() != Err(Refused(status::WRONG_STATE)) {
            fail(format_args!("there is something to confirm"));
        }
        println!("PAUSE count={count} ticks={ticks}");
        let mut kept = [0; 8];
        if must("RECALL", salp::recall(NOTE, &mut kept)) != 4 || &kept[..4] != b"kept" {
            fail(format_args!("the record is not what was kept"));
        }
        let after = source.map(|source| clone(source, "after"));
        before.into_iter().chain(after).for_each(wait_gone);
    }
    must("KEEP", salp::keep(NOTE, b""));
    source.into_iter().for_each(destroy);
}

/// Asks for an image that is no bundle: whoever asks, nobody has signed it.
fn refuse_what_is_not_signed() {
    let id = must("IMAGE_CREATE", make::image_create(3 << 20, "next"));
    must("IMAGE_WRITE", make::image_write(id, 0, b"\x00\x00\x00\x14\x00\x00\x00\x00"));
    for (image, expected) in [(id, status::WRONG_STATE), (id + 1, status::NOT_FOUND), (STANDBY, status::WRONG_STATE)] {
        if salp::handover(image) != Err(Refused(expected)) {
            fail(format_args!("HANDOVER to {image:#x} is not refused as it should be"));
        }
    }
    must("IMAGE_FINISH", make::image_finish(id));
    if salp::handover(id) != Err(Refused(status::REFUSED)) {
        fail(format_args!("HANDOVER to what nobody has signed is not refused"));
    }
    must("IMAGE_DELETE", make::image_delete(id));
}

/// Makes a clone of this name, and returns its identifier.
fn clone(source: u64, name: &str) -> u64 {
    must("VM_CLONE", salp::vm_clone(&Request::new(source, 1, Name::new(format_args!("{name}"))))).first
}
