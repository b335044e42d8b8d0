//! What outlives a management guest, and how it is brought back; consoles and power buttons of VMs.

use salp_tests::machine::{Ended, Running};
use salp_tests::{Setup, guest, long};
use std::time::Duration;

#[test]
fn calls_about_what_outlives_a_manager_answer_as_described() {
    let manager = guest("manager").manager().append("do=life");
    let source = guest("clone").named("source").append("role=frozen then=wait");
    let ended = Setup::of(manager).vm(source).vm(guest("button")).run().all_off().passed("manager");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
}

#[test]
fn the_monitor_presses_a_power_button() {
    let mut machine = Setup::of(guest("button")).monitor().start();
    machine.expect("button| READY");
    assert!(machine.monitor("shutdown button").is_ok());
    machine.expect("button| PRESSED");
    machine.expect("button| RELEASED");
    machine.finish().all_off();
}

/// Returns a machine with a manager that fails and is brought back, a VM that it clones, and one that checks its memory.
fn watched(words: &str) -> Setup {
    let manager = guest("manager").manager().nic("lan").append(&format!("do=watched {words}"));
    let source = guest("clone").named("source").append("role=spin touch=64").mib(16);
    let checker = guest("clone").named("checker").append("role=checker mib=4 rounds=10 every=1 pause=5");
    Setup::of(manager).vm(source).vm(checker).option("merge=off").monitor().seconds(600)
}

/// Runs such a machine until the manager has failed as often as it should.
fn comes_back(setup: &Setup) -> Ended {
    let mut machine = setup.start();
    machine.expect("salp| ready");
    let who = identity(&mut machine);
    let text = machine.expect("manager| DONE passed=");
    assert!(!text.contains("| FAIL"), "{text}");
    assert_eq!(identity(&mut machine), who, "the manager is somebody else");
    while machine.monitor("info checker").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(machine.monitor("destroy source").is_ok());
    // The machine ends with its last VM, before it has answered.
    machine.send("\x1fdestroy manager\r");
    let ended = machine.finish().all_off();
    ended.check(!ended.text.contains("| FAIL"), "a VM finds something wrong");
    let checks = ended.lines("checker").iter().filter(|line| line.starts_with("CHECK ok")).count();
    ended.check(checks == 10, "a VM beside the manager was disturbed");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
    ended
}

/// Returns who the manager is, to others.
fn identity(machine: &mut Running) -> Vec<String> {
    let replies = ["info manager", "net manager"].map(|line| machine.monitor(line));
    let [info, nic] = replies.each_ref().map(|reply| reply.rows.first().unwrap_or_else(|| panic!("{reply:?}")));
    let fields = [(info, "id"), (info, "uuid"), (info, "acknowledged"), (nic, "mac"), (nic, "link")];
    fields.map(|(row, key)| format!("{key}={:?}", row.get(key))).to_vec()
}

/// Returns the ticks that each return of this kind took.
fn returns(ended: &Ended, kind: &str) -> Vec<u64> {
    let told = ended.lines("manager").into_iter().filter(|line| line.contains(&format!(" kind={kind} ")));
    told.filter_map(|line| line.strip_prefix("BACK ")?.rsplit_once("ticks=")?.1.parse().ok()).collect()
}

#[test]
fn a_manager_that_fails_in_any_way_is_back_within_a_tenth_of_a_second() {
    // A tick of the counter is an instruction. Twenty clones that spin are beside it at last, with slices of 2 ms.
    let ended = comes_back(&watched("times=1 within=60").icount());
    for kind in ["crash", "hang", "sleep", "off", "reset", "blocked"] {
        let ticks = returns(&ended, kind);
        eprintln!("{kind}: {ticks:?}");
        ended.check(matches!(ticks[..], [one] if one < 100_000_000), format_args!("{kind}: {ticks:?}"));
    }
    ended.says("salp| manager: crashed: taken back to its checkpoint (1)");
    ended.says("salp| manager: does not answer: taken back to its checkpoint (2)");
}

#[test]
fn a_manager_that_is_frozen_is_not_missed() {
    // It hangs: five seconds after its last heartbeat it is missed, if it is not frozen by then.
    let mut machine = watched("times=1 kinds=hang within=5000").start();
    machine.expect("checker| READY");
    assert!(machine.monitor("freeze manager").is_ok());
    std::thread::sleep(Duration::from_secs(7));
    let text = machine.text();
    assert!(!text.contains("does not answer"), "{text}");
    assert!(machine.monitor("unfreeze manager").is_ok());
    machine.expect("salp| manager: does not answer: taken back to its checkpoint (1)");
    machine.expect("manager| DONE passed=1 failed=0");
    machine.stop();
}

#[test]
fn a_manager_is_not_missed_while_the_hypervisor_carries_out_its_call() {
    // A tick is an instruction: 1,000 clones take 8 ms and more.
    let manager = guest("manager").manager().append("do=clone_many count=1000 within=3");
    let source = guest("clone").named("source").append("role=frozen").mib(16);
    let mut machine = Setup::of(manager).vm(source).mib(2048).icount().start();
    machine.expect("manager| DONE passed=1 failed=0");
    let text = machine.text();
    assert!(!text.contains("does not answer"), "{text}");
    machine.stop();
}

#[test]
fn a_manager_that_fails_again_and_again_is_brought_back_each_time() {
    let times = if long() { 20 } else { 3 };
    let kinds = ["storm", "crash", "blocked", "hang", "sleep", "off"];
    let ended = comes_back(&watched(&format!("times={times} kinds={} within=400", kinds.join(","))));
    let back: Vec<_> = kinds.iter().map(|kind| returns(&ended, kind).len()).collect();
    ended.check(back.iter().all(|&count| count == times), format_args!("{back:?}"));
}
