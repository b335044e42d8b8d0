//! Figures of cloning: what the guests `clone` and `manager` measure together, and what the leanest way to do the same with
//! KVM reaches on the same machine.
//!
//! Comes after [`figures`], whose rules hold here too. When a clone was asked for is on the manager's
//! console; when it started, or for how long its source stood still, on that VM's own.

use crate::figures::{self, Figure};
use crate::machine::{Ended, lines_of};
use crate::{Setup, Vm, guest};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What is compared, in instructions of all CPUs together, or in bytes.
#[rustfmt::skip]
pub const FIGURES: [Figure; 15] = [
    figure("clone_frozen_256", "clone of a frozen VM, 256 MiB", Some(1_414_000), 12_000),
    figure("clone_frozen_1024", "clone of a frozen VM, 1 GiB", Some(1_423_000), 12_000),
    figure("clone_frozen_16384", "clone of a frozen VM, 16 GiB", None, 12_000),
    figure("clone_many", "each of 1,000 clones by one call", None, 8_000),
    figure("pause_256", "pause of a running source, 256 MiB", None, 15_000),
    figure("pause_1024", "pause of a running source, 1 GiB", None, 15_000),
    figure("pause_16384", "pause of a running source, 16 GiB", None, 15_000),
    figure("pause_4_vcpus", "the same, 4 busy vCPUs on 4 CPUs", None, 60_000),
    figure("first_write_shared", "first write to a shared page", Some(9_062), 1_500),
    figure("first_read_shared", "first read of a shared page", Some(6_750), 0),
    figure("write_private_again", "write to a page private again", Some(4_776), 500),
    figure("memory_idle_clone", "bytes of an idle clone", Some(260_000), 32 << 10),
    figure("memory_dirty_clone", "bytes with 1,000 dirty pages", Some(4_255_000), 4_120 << 10),
    figure("destroy_dirty_1000", "destroying 1,000 dirty pages", Some(1_900_000), 150_000),
    figure("revert_50", "revert of 50 dirty pages", None, 40_000),
];

const fn figure(name: &'static str, about: &'static str, kvm: Option<u64>, goal: u64) -> Figure {
    Figure { name, about, xen: None, kvm, goal, budget: goal }
}

/// Groups of figures that must be equal, but for so many percent: work that does not depend on the size of the VM.
pub const EQUAL: [(&[&str], u64); 2] = [
    (&["clone_frozen_256", "clone_frozen_1024", "clone_frozen_16384"], 2),
    (&["pause_256", "pause_1024", "pause_16384"], 5),
];

/// The sizes of VMs that are cloned, in MiB.
const SIZES: [u64; 3] = [256, 1024, 16384];

/// Returns the figures, by name, and others that go with them.
///
/// # Panics
///
/// If a machine does not end well.
pub fn measure() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for mib in SIZES {
        all.insert(format!("clone_frozen_{mib}"), mean(&frozen(mib)));
        insert_pause(&mut all, &mib.to_string(), &running(mib, 1));
    }
    insert_pause(&mut all, "4_vcpus", &running(256, 4));
    let many = many(1000);
    let (until_first, until_last) = each_of_many(&many);
    all.insert("clone_many".into(), until_first);
    all.insert("clone_many_until_all_have_run".into(), until_last);
    for ended in [&many, &memory("dirty", ""), &memory("revert", "do=pages pages=50")] {
        let lines = ended.text.lines().filter_map(|line| figures::read(line.split_once("| ")?.1.trim_end()));
        all.extend(lines);
    }
    all
}

fn mean(values: &[u64]) -> u64 {
    values.iter().sum::<u64>() / values.len().max(1) as u64
}

/// Runs a scenario of the manager with the VM that it works on.
fn run(scenario: &str, source: Vm, setup: Setup) -> Ended {
    let manager = guest("manager").manager().append(&format!("do={scenario}"));
    let ended = setup
        .option("merge=off")
        .vm(manager)
        .vm(source.named("source"))
        .icount()
        .seconds(1200)
        .run()
        .all_off()
        .passed("manager");
    ended.check(!ended.text.contains("| FAIL "), "a VM found something wrong");
    ended
}

/// Returns what passes from each call to the clone's first instruction.
fn frozen(mib: u64) -> Vec<u64> {
    let source = guest("clone").mib(mib).append("role=frozen touch=64 brief");
    let ended = run("clone_frozen times=10", source, Setup::builtin());
    let started = first_instructions(&ended.text);
    let calls = calls(&ended.text);
    let spans = calls.iter().map(|call| started.get(&call.name).and_then(|first| first.checked_sub(call.at)));
    spans.collect::<Option<_>>().unwrap_or_else(|| panic!("a clone has not told when it started\n{}", ended.text))
}

/// Makes `count` clones by one call; they sleep until all have started.
fn many(count: u64) -> Ended {
    let source = guest("clone").mib(256).append("role=frozen touch=64 brief delay=200000");
    run(&format!("clone_many count={count}"), source, Setup::builtin().mib(2048))
}

/// Returns what passes from the call to the first clone's first instruction, and to the last one's, for each clone: all are
/// made before the first one runs, and each runs until it sleeps before the next does.
fn each_of_many(ended: &Ended) -> (u64, u64) {
    let started = first_instructions(&ended.text);
    let (Some(call), Some(first), Some(last)) =
        (calls(&ended.text).pop(), started.values().min(), started.values().max())
    else {
        panic!("no clone has started\n{}", ended.text)
    };
    let count = started.len() as u64;
    ((first - call.at) / count, (last - call.at) / count)
}

/// Clones a VM ten times while it runs, with a CPU for each of its vCPUs and one for the manager.
fn running(mib: u64, vcpus: u32) -> Ended {
    let source = guest("clone").mib(mib).cpus(vcpus).append("role=spin touch=64");
    run("clone_running times=10", source, Setup::builtin().cpus(vcpus + 1))
}

/// Notes for how long a running VM stood still for a clone, as EL2 tells, and the gap that it saw around it: that holds its
/// first faults too, and what other CPUs did meanwhile, which the emulator runs in turn.
fn insert_pause(all: &mut BTreeMap<String, u64>, name: &str, ended: &Ended) {
    let told = lines_of(&ended.text, "manager").into_iter().filter_map(figures::read);
    let pause = told.into_iter().find(|(name, _)| name == "pause").map(|(_, value)| value);
    all.insert(format!("pause_{name}"), pause.unwrap_or_else(|| panic!("no pause is told\n{}", ended.text)));
    all.insert(format!("gap_{name}"), mean(&gaps(ended)));
}

fn gaps(ended: &Ended) -> Vec<u64> {
    let gaps = lines_of(&ended.text, "source").into_iter().filter_map(|line| {
        let gap = line.strip_prefix("GAP ")?;
        Some((field::<u64>(gap, "max")?, field::<u64>(gap, "at")?))
    });
    let gaps: Vec<_> = gaps.collect();
    let around = |call: Call| gaps.iter().find(|&&(gap, at)| (at - gap..=at).contains(&call.at)).map(|&(gap, _)| gap);
    let pauses: Option<_> = calls(&ended.text).into_iter().map(around).collect();
    pauses.unwrap_or_else(|| panic!("no gap around a call\n{}", ended.text))
}

/// Runs a scenario that measures memory.
fn memory(scenario: &str, source: &str) -> Ended {
    run(scenario, guest("clone").mib(128).append(&format!("role=dirty {source}")), Setup::builtin())
}

/// A call that made clones, as the manager tells of it.
struct Call {
    name: String,
    at: u64,
}

fn calls(text: &str) -> Vec<Call> {
    let told = lines_of(text, "manager").into_iter().filter_map(|line| {
        let call = line.strip_prefix("CALL ")?;
        Some(Call { name: field(call, "name")?, at: field(call, "at")? })
    });
    told.collect()
}

/// Returns the counter at the first instruction of every clone, by name.
fn first_instructions(text: &str) -> BTreeMap<String, u64> {
    let told = text.lines().filter_map(|line| {
        let clone = line.split_once("| CLONE ")?.1;
        Some((field(clone, "name")?, field(clone, "first")?))
    });
    told.collect()
}

/// Returns the value of `key=value` in a line.
fn field<T: FromStr>(line: &str, key: &str) -> Option<T> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "manager| CALL id=3 name=clone-0 at=100 cost=20\r\n\
                       clone-0| CLONE index=1 name=clone-0 first=150\r\n\
                       clone-1| CLONE index=1 name=clone-1 fir";

    #[test]
    fn calls_and_first_instructions_are_read_from_the_log() {
        let calls = calls(LOG);
        assert_eq!((calls.len(), &*calls[0].name, calls[0].at), (1, "clone-0", 100));
        assert_eq!(first_instructions(LOG), BTreeMap::from([("clone-0".to_string(), 150)]));
    }

    #[test]
    fn every_figure_has_one_name() {
        let mut names = FIGURES.map(|figure| figure.name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(EQUAL.iter().flat_map(|(group, _)| *group).all(|name| names.contains(name)));
    }
}
