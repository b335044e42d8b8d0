//! Figures of hand-overs: for how long the hypervisor says that VMs stood still.
//!
//! Comes after [`figures`](crate::figures), whose rules hold here too.

use crate::figures::Figure;
use crate::{Setup, guest};
use std::collections::BTreeMap;

/// What is compared, in instructions, rounded to a thousand.
#[rustfmt::skip]
pub const FIGURES: [Figure; 5] = [
    figure("one", "1 VM, 1 vCPU, 256 MiB", 1_000_000),
    figure("eight_8", "8 VMs of 2 vCPUs, machine of 8 GiB", 3_000_000),
    figure("eight_64", "the same, machine of 64 GiB", 3_000_000),
    figure("clones_500", "500 clones", 25_000_000),
    figure("fall_back", "1 VM, the next one panics before it runs", 2_000_000),
];

/// Figures that must be equal, but for so many percent: work that does not depend on memory.
pub const EQUAL: (&[&str], u64) = (&["eight_8", "eight_64"], 10);

const fn figure(name: &'static str, about: &'static str, goal: u64) -> Figure {
    Figure { name, about, xen: None, kvm: None, goal, budget: goal }
}

/// Returns the figures, by name.
///
/// # Panics
///
/// If a hypervisor is not replaced, or comes back, as it should.
pub fn measure() -> BTreeMap<String, u64> {
    let spin = || guest("spin").mib(256);
    let eight = |gib: u64| {
        let vms = (0..8).map(|n| spin().cpus(2).named(&format!("spin-{n}")));
        vms.fold(Setup::builtin(), Setup::vm).mib(gib << 10)
    };
    let one = || Setup::of(spin()).mib(2048);
    let all = [
        ("one", pause(one(), None)),
        ("eight_8", pause(eight(8), None)),
        ("eight_64", pause(eight(64), None)),
        ("clones_500", pause(one().mib(8192), Some("clone spin --count 500"))),
        ("fall_back", pause(one().option("handover-fault=adopt:panic"), None)),
    ];
    all.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// Has the hypervisor replaced, after this command, and returns for how many instructions VMs stood still.
fn pause(setup: Setup, before: Option<&str>) -> u64 {
    let mut machine = setup.cpus(1).icount().monitor().seconds(900).start();
    machine.expect("salp| ready");
    if let Some(command) = before {
        let reply = machine.monitor(command);
        assert!(reply.is_ok(), "{reply:?}");
    }
    machine.monitor("handover");
    machine.expect("hand-over 1: ");
    let line = machine.expect("\n");
    let text = machine.stop().text;
    let micros = line.split(" after ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    micros.unwrap_or_else(|| panic!("{line}\n{text}")) * 1000
}
