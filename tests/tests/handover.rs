//! Hand-over: the hypervisor is replaced under running VMs, which do not notice; when the next one fails, the one before comes back.

use salp_hvc::handover::OFFER;
use salp_qemu::bundle::{self, Release};
use salp_qemu::image::{self, Image};
use salp_qemu::keys::Signer;
use salp_tests::machine::{self, Running};
use salp_tests::{Setup, Vm, guest, long};
use std::fs;
use tempfile::TempDir;

/// Returns a VM whose timers tick for some seconds on this many vCPUs, and none may be lost.
fn ticking(cpus: u32) -> Vm {
    guest("timer").cpus(cpus).append("only=ticks_virtual,ticks_physical late=5000000 ticks=3000")
}

/// Returns a VM that checks its memory about as long as the other's timers tick, however fast the machine is.
fn checking() -> Vm {
    guest("memory").mib(32).append("for=5000")
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
fn the_hypervisor_before_goes_on_with_the_vms_when_the_next_one_panics_while_it_runs_them() {
    let alone = ["run0", "run1"].map(|step| (2, step));
    let together = ["lock0", "lock1"].map(|step| (4, step));
    for ((vcpus, step), way) in
        alone.into_iter().chain(together).flat_map(|at| ["panic", "exception"].map(|way| (at, way)))
    {
        eprintln!("{vcpus} vCPUs on 2 CPUs, {step}:{way}");
        let setup = Setup::of(ticking(vcpus)).vm(checking()).monitor().option(&format!("handover-fault={step}:{way}"));
        let mut machine = setup.start();
        machine.expect("timer| ");
        hand_over(&mut machine);
        machine.expect("to be confirmed");
        let said = machine.expect("; the one before goes on with 2 VMs");
        let why = if way == "panic" { "it panicked" } else { "it took an exception" };
        assert!(said.contains("the next image did not take over") && said.contains(why), "{said}");
        assert_eq!(machine.monitor("confirm").error(), Some("wrong-state"));
        let ended = machine.finish().all_off().passed("timer").passed("memory");
        ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
    }
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

/// Returns this image with a VM that needs little.
fn small(image: &Image) -> Vec<u8> {
    image::with_vms(image, &[guest("tiny").place()]).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns a manager that has these images, in bundles, and a machine for it, with VMs that notice what goes wrong.
fn exchange(images: &[Vec<u8>], words: &str) -> (TempDir, Setup) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("bundles");
    let bundle = |image: &Vec<u8>| bundle::make(image, &Release::this(), &Signer::development());
    let bundles: Vec<_> =
        images.iter().map(|image| bundle(image).unwrap_or_else(|error| panic!("{error:#}"))).collect();
    fs::write(&file, bundles.concat()).expect("a file");
    let manager = guest("manager").manager().initrd(&file);
    let manager = manager.append(&format!("do=exchange first={} {words}", bundles[0].len()));
    let source = guest("clone").named("source").append("role=frozen then=off");
    (directory, Setup::of(manager).vm(source).vm(checking()).vm(ticking(2)).mib(1024))
}

#[test]
fn vms_go_on_in_a_newer_hypervisor_and_in_the_older_one_again() {
    let [newer, older] = [machine::next_image(), machine::image()].map(small);
    let (_directory, setup) = exchange(&[newer, older], "times=2");
    let ended = setup.run().all_off().passed("manager").passed("timer").passed("memory");
    let lines = ended.text.lines().filter(|line| line.contains("to be confirmed"));
    let versions: Vec<_> =
        lines.filter_map(|line| line.split("by records of version ").nth(1)?.split(',').next()).collect();
    ended.check(versions == ["1", "2", "1", "1", "2", "1"], format_args!("records have the versions {versions:?}"));
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
}

#[test]
fn a_newer_hypervisor_that_nobody_confirms_gives_way_to_the_older_one() {
    let (_directory, setup) = exchange(&[small(machine::next_image())], "expect=back");
    let ended = setup.option("handover-trial=200").run().all_off().passed("manager").passed("timer").passed("memory");
    ended.says("nobody has confirmed this image");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
}

#[test]
fn a_hypervisor_that_knows_newer_records_alone_is_refused_and_nothing_has_happened() {
    let mut image = small(machine::next_image());
    let least = OFFER as usize + 8;
    assert_eq!(image[least..least + 4], [1, 0, 2, 0]);
    image[least] = 2;
    let (_directory, setup) = exchange(&[image], "expect=refused");
    let ended = setup.run().all_off().passed("manager").passed("timer").passed("memory");
    ended.says("a bundle is refused: record formats do not fit: it knows hand-overs of versions [2, 2]");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
}
