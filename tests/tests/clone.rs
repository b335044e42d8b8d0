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
    let ended = ends_well(&managed("chain times=12", source("frozen")));
    are_different(&ended, "IDENTITY uuid=", 12);
    let epochs = all_after(&ended, "NETWORK ").into_iter().map(|line| line.rsplit('=').next().unwrap_or_default());
    let expected: Vec<_> = (1..=12).map(|epoch| epoch.to_string()).collect();
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

/// Forks a VM again and again while it runs.
fn storm(words: &str, source: Vm) {
    let times = if long() { 400 } else { 40 };
    ends_well(&managed(&format!("storm times={times} {words}"), source));
}

#[test]
fn memory_is_each_clones_own_in_a_storm_of_forks() {
    storm("seed=1", source("checker mib=8").mib(32));
}

#[test]
fn memory_is_each_clones_own_in_pages_of_4_kib() {
    storm("seed=2", source("checker mib=8").mib(32).small_pages());
}

#[test]
fn memory_is_each_clones_own_with_several_vcpus() {
    storm("seed=3 keep=4", source("checker mib=8").mib(32).cpus(3));
}

#[test]
fn memory_is_each_clones_own_in_a_storm_of_clones_of_clones() {
    storm("seed=4 chains", source("checker mib=8 pause=2").mib(32));
}

#[test]
fn no_interrupt_is_lost_or_doubled_in_a_storm_of_forks() {
    storm("seed=5", source("timers").mib(32));
    storm("seed=6 keep=4 chains", source("timers").mib(32).cpus(4));
}

#[test]
fn no_interrupt_is_lost_or_doubled_while_all_vcpus_are_busy() {
    storm("seed=7 keep=3", source("timers busy us=500").mib(32).cpus(2));
}

#[test]
fn a_manager_gone_mad_harms_nobody_but_its_vms() {
    let mad = guest("hostile").manager().append("only=calls,devices count=5000");
    let mut machine = Setup::of(mad).vm(source("frozen then=wait")).vm(source("timers").named("timers")).start();
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
