//! VMs that are made from images, and turned on and off: by the guest `manager`, with no VM beside it, and by a person.

use salp_tests::machine::Running;
use salp_tests::{Setup, guest};

fn state(machine: &mut Running, vm: &str) -> String {
    let reply = machine.monitor(&format!("info {vm}"));
    reply.rows.first().and_then(|row| row.text("state")).unwrap_or_else(|| panic!("{reply:?}")).into()
}

#[test]
fn vms_are_made_started_stopped_and_changed_as_described() {
    let manager = guest("manager").manager().append("do=power");
    let ended = Setup::of(manager).mib(512).seconds(900).run().all_off().passed("manager");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
    let hello = ended.lines("hello");
    ended.check(hello == ["HELLO 0", "HELLO 1"].repeat(3), format_args!("not the same in each life: {hello:?}"));
}

#[test]
fn a_vm_is_turned_on_and_off_at_the_monitor() {
    let busy = guest("spin").named("busy").cpus(2);
    let once = guest("tiny").named("once").stays().off();
    let last = guest("tiny").named("last").frozen();
    let mut machine = Setup::of(busy).vm(once).vm(last).monitor().start();
    machine.expect("busy| spin: 2 vCPUs");
    assert_eq!(state(&mut machine, "once"), "off");
    for _ in 0..2 {
        assert!(machine.monitor("start once").is_ok());
        machine.expect("salp| once: is off");
        assert!(machine.monitor("reset busy").is_ok());
        machine.expect("busy| spin: 2 vCPUs");
    }
    assert_eq!(state(&mut machine, "once"), "off");
    assert!(!machine.monitor("stop once").is_ok() && !machine.monitor("start busy").is_ok());
    assert!(machine.monitor("images").rows.is_empty());
    // Whatever it was at first, what is stopped stays.
    assert!(machine.monitor("stop busy").is_ok());
    assert_eq!(state(&mut machine, "busy"), "off");
    // When nothing runs any more the machine is off.
    assert!(machine.monitor("unfreeze last").is_ok());
    let ended = machine.finish().all_off();
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

#[test]
fn a_manager_that_always_starts_again_does_not_keep_the_machine_on() {
    let service = guest("spin").named("service").manager().restarts_on_crash();
    Setup::of(service).vm(guest("tiny")).run().all_off();
}
