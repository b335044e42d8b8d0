//! VMs that a manager makes from images, and turns on and off. The guest `manager` does it, with no VM beside it.

use salp_tests::{Setup, guest};

#[test]
fn vms_are_made_started_stopped_and_changed_as_described() {
    let manager = guest("manager").manager().append("do=power");
    let ended = Setup::of(manager).mib(512).seconds(900).run().all_off().passed("manager");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
    let hello = ended.lines("hello");
    ended.check(hello == ["HELLO 0", "HELLO 1"].repeat(3), format_args!("not the same in each life: {hello:?}"));
}
