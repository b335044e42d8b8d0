//! Hand-over: the hypervisor is replaced under running VMs, which do not notice; when the next one fails, the one before comes back.

use salp_tests::machine::Running;
use salp_tests::{Setup, Vm, guest, long};

/// Returns a VM whose timers tick for some seconds on this many vCPUs, and none may be lost.
fn ticking(cpus: u32) -> Vm {
    guest("timer").cpus(cpus).append("only=ticks_virtual,ticks_physical late=5000000 ticks=3000")
}

/// Replaces the hypervisor by a fresh copy of itself.
fn hand_over(machine: &mut Running) {
    let reply = machine.monitor("handover");
    assert!(reply.is_ok(), "{reply:?}\n{}", machine.text());
}

fn confirm(machine: &mut Running) {
    let reply = machine.monitor("confirm");
    assert!(reply.is_ok(), "{reply:?}\n{}", machine.text());
}

#[test]
fn a_vm_goes_on_in_the_next_hypervisor() {
    let mut machine = Setup::of(ticking(1)).monitor().cpus(1).start();
    machine.expect("timer| ");
    hand_over(&mut machine);
    confirm(&mut machine);
    let ended = machine.finish().all_off().passed("timer");
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}

#[test]
fn several_vms_go_on_through_many_hypervisors_on_many_cpus() {
    let checker = guest("memory").mib(64).named("memory");
    let mut machine = Setup::of(ticking(4)).vm(checker).monitor().cpus(4).start();
    machine.expect("timer| ");
    for _ in 0..if long() { 100 } else { 3 } {
        hand_over(&mut machine);
        confirm(&mut machine);
    }
    let ended = machine.finish().all_off().passed("timer").passed("memory");
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

#[test]
fn the_hypervisor_before_comes_back_wherever_the_next_one_fails() {
    let steps = ["start", "check", "devices", "adopt", "cpus"];
    let ways = ["panic", "refuse", "exception", "hang"];
    for (index, step) in steps.iter().enumerate() {
        // Each way at each step when there is time; else each step and each way.
        for way in ways.iter().skip(if long() { 0 } else { index % 4 }).take(if long() { 4 } else { 1 }) {
            eprintln!("{step}:{way}");
            let fault = format!("handover-fault={step}:{way}");
            let mut machine = Setup::of(ticking(2)).monitor().option(&fault).start();
            machine.expect("timer| ");
            let reply = machine.monitor("handover");
            assert_eq!(reply.error(), Some("failed"), "{}", machine.text());
            assert_eq!(machine.monitor("list").number("count"), Some(1), "{}", machine.text());
            machine.expect("the next image did not take over");
            machine.finish().all_off().passed("timer");
        }
    }
}

#[test]
fn a_hypervisor_that_nobody_confirms_gives_way_to_the_one_before() {
    let mut machine = Setup::of(ticking(2)).monitor().option("handover-trial=200").start();
    machine.expect("timer| ");
    hand_over(&mut machine);
    machine.expect("nobody has confirmed this image");
    machine.expect("the one before goes on with 1 VMs");
    assert_eq!(machine.monitor("confirm").error(), Some("wrong-state"));
    machine.finish().all_off().passed("timer");
}

#[test]
fn a_manager_has_the_hypervisor_replaced_and_makes_clones_before_and_after() {
    let manager = guest("manager").manager().append("do=replace times=3");
    let source = guest("clone").named("source").append("role=frozen then=off");
    let ended = Setup::of(manager).vm(source).mib(1024).run().all_off().passed("manager");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
}

#[test]
fn a_manager_learns_that_the_next_hypervisor_has_failed() {
    let manager = guest("manager").manager().append("do=replace times=2 expect=failed");
    Setup::of(manager).option("handover-fault=adopt:panic").run().all_off().passed("manager");
}
