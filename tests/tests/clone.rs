//! Clones: each wakes up as somebody of its own, with memory of its own, and loses no interrupt. The guest `manager` makes
//! them, of the guest `clone`.

use salp_tests::machine::{Ended, Running, lines_of};
use salp_tests::{Setup, Vm, guest, long};
use std::collections::BTreeSet;

/// Returns the VM that is cloned, in this role.
fn source(role: &str) -> Vm {
    guest("clone").named("source").append(&format!("role={role}"))
}

/// Returns a machine with a VM and a manager that does this with it.
fn managed(scenario: &str, source: Vm) -> Setup {
    let manager = guest("manager").manager().append(&format!("do={scenario}"));
    Setup::of(manager).vm(source).mib(1024).seconds(900)
}

/// Runs a machine to its end; no VM may find anything wrong, and nothing may be left behind.
fn ends_well(setup: &Setup) -> Ended {
    let ended = setup.run().all_off().passed("manager");
    for word in ["| FAIL ", "| PANIC "] {
        ended.check(!ended.text.contains(word), format_args!("a VM says {word:?}"));
    }
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
    ended
}

/// Returns what follows `word` in the lines of all VMs.
fn all_after<'a>(ended: &'a Ended, word: &str) -> Vec<&'a str> {
    ended.text.lines().filter_map(|line| line.split_once("| ")?.1.strip_prefix(word)).map(str::trim).collect()
}

fn are_different(ended: &Ended, word: &str, count: usize) {
    let all = all_after(ended, word);
    let different: BTreeSet<_> = all.iter().collect();
    ended.check(all.len() == count && different.len() == count, format_args!("{word}: {all:#?}"));
}

#[test]
fn every_management_call_answers_as_described() {
    let stranger = guest("tiny").named("stranger").frozen();
    ends_well(&managed("tour", source("frozen then=wait").mib(256)).vm(stranger));
}

#[test]
fn a_vm_without_the_capability_has_no_management_calls() {
    let ended = Setup::of(guest("manager").append("do=denied")).run().all_off().passed("manager");
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}

#[test]
fn clones_of_a_frozen_vm_wake_up_as_somebody_of_their_own() {
    for cpus in [1, 2] {
        let ended = ends_well(&managed("clone_frozen times=8", source("frozen")).cpus(cpus));
        for what in ["IDENTITY uuid=", "RANDOM "] {
            are_different(&ended, what, 8);
        }
        let macs: BTreeSet<_> = all_after(&ended, "NETWORK mac=").iter().map(|line| &line[..12]).collect();
        ended.check(macs.len() == 8, format_args!("{macs:?}"));
        ended.check(lines_of(&ended.text, "clone-3").contains(&"CONFIG then=off"), "the configuration is not there");
    }
}

#[test]
fn a_frozen_vm_with_several_vcpus_is_cloned() {
    ends_well(&managed("clone_frozen times=8", source("frozen").cpus(4)));
}

#[test]
fn clones_of_one_call_are_different() {
    let ended = ends_well(&managed("clone_many count=50", source("frozen delay=100000")));
    let names: BTreeSet<_> = all_after(&ended, "CLONE ").into_iter().collect();
    ended.check(names.len() == 50, format_args!("{names:#?}"));
    for index in 1..=50 {
        let is_told = names.iter().any(|line| line.starts_with(&format!("index={index} name=many-{index} ")));
        ended.check(is_told, format_args!("clone {index} says nothing"));
    }
}

#[test]
fn clones_of_clones_need_none_of_those_before_them() {
    let times = if long() { 100 } else { 12 };
    let ended = ends_well(&managed(&format!("chain times={times}"), source("frozen")));
    are_different(&ended, "IDENTITY uuid=", times);
    let epochs = all_after(&ended, "NETWORK ").into_iter().map(|line| line.rsplit('=').next().unwrap_or_default());
    let expected: Vec<_> = (1..=times).map(|epoch| epoch.to_string()).collect();
    ended.check(epochs.eq(&expected), "a clone's epoch is not one more than its source's");
}

#[test]
fn a_vm_that_is_frozen_before_its_first_instruction_is_cloned() {
    let ended = ends_well(&managed("clone_frozen times=3", guest("tiny").named("source").mib(16).frozen()));
    for name in ["clone-0", "clone-1", "clone-2"] {
        let lines = lines_of(&ended.text, name);
        ended.check(lines.iter().any(|line| line.starts_with("BENCH reset")), format_args!("{name} has not started"));
    }
    ended.check(lines_of(&ended.text, "source").is_empty(), "the source has started");
}

/// Forks a VM again and again while it runs; all that are alive in the end must still say that they are well.
fn storm(words: &str, source: Vm, well: &str) {
    let times = if long() { 400 } else { 40 };
    let ended = ends_well(&managed(&format!("storm times={times} pause=20000 wait=3000 {words}"), source));
    let alive = all_after(&ended, "ALIVE ");
    ended.check(!alive.is_empty(), "nobody is alive in the end");
    let (_, rest) = ended.text.split_once("| ALIVE ").unwrap_or_default();
    for vm in alive {
        let is_well = lines_of(rest, vm).iter().any(|line| line.starts_with(well));
        ended.check(is_well, format_args!("{vm} does not say {well:?} in the end"));
    }
}

const CHECKER: &str = "checker mib=8 every=1";
const TIMERS: &str = "timers every=100";

#[test]
fn memory_is_each_clones_own_in_a_storm_of_forks() {
    storm("seed=1", source(CHECKER).mib(32), "CHECK ok");
}

#[test]
fn memory_is_each_clones_own_in_pages_of_4_kib() {
    storm("seed=2", source(CHECKER).mib(32).small_pages(), "CHECK ok");
}

#[test]
fn memory_is_each_clones_own_with_several_vcpus() {
    storm("seed=3 keep=4", source(CHECKER).mib(32).cpus(3), "CHECK ok");
}

#[test]
fn memory_is_each_clones_own_in_a_storm_of_clones_of_clones() {
    storm("seed=4 chains", source(CHECKER).mib(32).append("pause=2"), "CHECK ok");
}

#[test]
fn no_interrupt_is_lost_or_doubled_in_a_storm_of_forks() {
    storm("seed=5", source(TIMERS).mib(32), "TIMERS ok");
    storm("seed=6 keep=4 chains", source(TIMERS).mib(32).cpus(4), "TIMERS ok");
}

#[test]
fn no_interrupt_is_lost_or_doubled_while_all_vcpus_are_busy() {
    storm("seed=7 keep=3", source(TIMERS).append("busy us=500").mib(32).cpus(2), "TIMERS ok");
}

#[test]
fn each_clone_has_a_console_of_its_own() {
    let mut machine = Setup::of(source("frozen then=wait")).monitor().start();
    machine.expect("salp| source: is frozen");
    let reply = machine.monitor("clone source --count 3 --name pet");
    assert!(reply.is_ok(), "{reply:?}");
    (0..3).for_each(|_| drop(machine.expect("| CLONE index=")));
    assert!(machine.monitor("destroy source").is_ok());
    for index in 1..=3 {
        assert!(machine.monitor(&format!("console pet-{index}")).is_ok());
        machine.send("ping\r");
        machine.expect(&format!("pong {index}"));
        machine.send("off\r");
        machine.expect(&format!("salp| pet-{index}: is off"));
    }
    machine.finish().all_off();
}

#[test]
fn a_manager_gone_mad_harms_nobody_but_its_vms() {
    let mad = guest("hostile").manager().append("only=calls,devices count=5000");
    let mut machine = Setup::of(mad).vm(source("frozen then=wait")).vm(source(TIMERS).named("timers")).start();
    machine.expect("hostile| DONE passed=2 failed=0 ");
    let text = machine.stop().text;
    assert!(!text.contains("salp| PANIC") && !text.contains("| FAIL"), "{text}");
}

/// Returns a number in the row that the monitor shows of a VM.
fn number_of(machine: &mut Running, command: &str, key: &str) -> u64 {
    let reply = machine.monitor(command);
    reply.rows.first().and_then(|row| row.number(key)).unwrap_or_else(|| panic!("{command}: {key}: {reply:?}"))
}

#[test]
fn equal_pages_of_clones_become_one_and_are_still_each_clones_own() {
    // All write the same, and later other things, which are the same too.
    let words = "rounds=3 pause=2000 exit=no";
    let source = guest("memory").named("source").mib(32).small_pages().frozen().append(words);
    let mut machine = Setup::of(source).option("merge-budget=90").monitor().start();
    machine.expect("salp| ready");
    assert!(machine.monitor("clone source --count 4 --name c").is_ok());
    for _ in 0..4 {
        machine.expect("DONE passed=1 failed=0");
    }
    let merged: u64 = (1..=4).map(|n| number_of(&mut machine, &format!("info c-{n}"), "merged_pages")).sum();
    assert!(merged > 1000, "{merged} pages were merged\n{}", machine.text());
    (1..=4).for_each(|n| assert!(machine.monitor(&format!("destroy c-{n}")).is_ok()));
    // The source has never run: only the page of zeros is left.
    assert_eq!(number_of(&mut machine, "stats", "guests"), 4096, "{}", machine.text());
}
