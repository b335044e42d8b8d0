//! Sizes and instruction counts that must not grow.

use salp_qemu::image::{BUDGET, build_salp_guest};
use salp_tests::figures::{self, FIGURES};
use salp_tests::machine::image;
use salp_tests::{Api, Setup, clones, guest, handovers, network};
use serde_json::json;
use std::thread;
use std::time::Duration;

#[test]
fn the_release_image_is_small() {
    let image = image();
    assert!(image.own_size() <= BUDGET, "\n{}", image.report());
    let manager = image.size - image.own_size();
    assert!(manager <= 2 << 20, "the management guest has {manager} bytes");
    assert!(image.size > 64 << 10, "this is not a whole image:\n{}", image.report());
}

#[test]
fn the_program_for_linux_guests_is_small() {
    let program = build_salp_guest().unwrap_or_else(|error| panic!("{error:#}"));
    let size = std::fs::metadata(program).expect("a file").len();
    assert!(size <= 1 << 20, "salp-guest has {size} bytes");
}

#[test]
fn nearly_all_memory_is_for_guests() {
    for mib in [2048, 4096] {
        let ended = Setup::of(guest("tiny").mib(16)).mib(mib).run().all_off();
        let lines = ended.lines("salp");
        let free = lines.iter().find_map(|line| line.split_once(" MiB free for VMs")?.0.parse::<u64>().ok());
        let free = free.unwrap_or_else(|| panic!("{}", ended.text));
        // 8 MiB and 0.4 % of RAM; one more because the log counts whole MiB.
        let limit = 8 + mib * 4 / 1000 + 1;
        assert!(mib - free <= limit, "{} of {mib} MiB are not for guests, more than {limit}", mib - free);
    }
}

#[test]
fn operations_take_no_more_instructions_than_budgeted() {
    let measured = figures::measure();
    let over: Vec<_> = FIGURES.iter().filter_map(|figure| figure.excess(&measured)).collect();
    assert!(over.is_empty(), "{}\nall: {measured:#?}", over.join("\n"));
}

#[test]
fn frames_cost_no_more_than_budgeted() {
    let measured = network::measure();
    let over: Vec<_> = network::FIGURES.iter().filter_map(|figure| figure.excess(&measured)).collect();
    assert!(over.is_empty(), "{}\nall: {measured:#?}", over.join("\n"));
}

#[test]
fn vms_stand_still_for_a_hand_over_no_longer_than_budgeted_whatever_the_memory() {
    let measured = handovers::measure();
    let over: Vec<_> = handovers::FIGURES.iter().filter_map(|figure| figure.excess(&measured)).collect();
    assert!(over.is_empty(), "{}\nall: {measured:#?}", over.join("\n"));
    let (group, percent) = handovers::EQUAL;
    let values = group.iter().map(|&name| measured[name]);
    let (least, most) = (values.clone().min(), values.max());
    assert!(most <= least.map(|least| least + least * percent / 100), "{group:?} differ: {measured:#?}");
}

#[test]
fn clones_cost_no_more_than_budgeted_whatever_their_size() {
    let measured = clones::measure();
    let over: Vec<_> = clones::FIGURES.iter().filter_map(|figure| figure.excess(&measured)).collect();
    assert!(over.is_empty(), "{}\nall: {measured:#?}", over.join("\n"));
    for (group, percent) in clones::EQUAL {
        let values: Vec<u64> = group.iter().map(|&name| measured[name]).collect();
        let (least, most) = (values.iter().min().copied(), values.iter().max().copied());
        assert!(most <= least.map(|least| least + least * percent / 100), "{group:?} differ: {values:?}");
    }
}

#[test]
fn a_kernel_boots_in_hardly_more_instructions_than_without_salp() {
    let (salp, bare) = (figures::boot_to_init(false).clock, figures::boot_to_init(true).clock);
    assert!(salp <= bare * 1.010, "{salp} s under Salp, {bare} s without");
}

/// Returns for how long the machine runs, and its CPUs were at work in that time, in nanoseconds: instructions, here.
fn uptime_and_work(api: &Api) -> (u64, u64) {
    let manager = api.get("/redfish/v1/Managers/salp").is(200).json();
    let figure =
        |name: &str| manager["Oem"]["Salp"]["Statistics"][name].as_u64().unwrap_or_else(|| panic!("{manager}"));
    let uptime = figure("UptimeNanoseconds");
    (uptime, uptime * figure("Cpus") - figure("IdleNanoseconds"))
}

/// Returns for how long the machine's CPUs were at work since it started, in nanoseconds: instructions, here.
fn work(api: &Api) -> u64 {
    uptime_and_work(api).1
}

#[test]
fn an_idle_appliance_keeps_a_hundredth_of_one_cpu_busy_at_most() {
    const MINUTE: u64 = 60_000_000_000;
    let idle = guest("button").named("idle").append("deaf").mib(16);
    let mut machine = Setup::of(idle).managed().watchdog().mib(2048).icount().seconds(900).start();
    machine.expect("idle| READY");
    let api = machine.api().with_session();
    // Looking costs, too: what it does is in the share.
    let (begin, before) = uptime_and_work(&api);
    let (end, after) = loop {
        thread::sleep(Duration::from_secs(5));
        let now = uptime_and_work(&api);
        if now.0 > begin + MINUTE {
            break now;
        }
    };
    let (passed, work) = (end - begin, after - before);
    eprintln!("{work} of {passed} ns: {:.3} %", work as f64 * 100.0 / passed as f64);
    assert!(work * 100 <= passed, "at work for {work} of {passed} ns");
    machine.stop();
}

#[test]
fn a_clone_costs_no_more_than_two_looks_at_its_source() {
    const TIMES: u64 = 20;
    let idle = guest("button").named("idle").append("deaf").mib(16);
    let mut machine = Setup::of(idle).managed().cpus(1).mib(2048).icount().seconds(900).start();
    machine.expect("idle| READY");
    let api = machine.api().with_session();
    let source = "/redfish/v1/Systems/1";
    let mean = |act: &dyn Fn(u64)| {
        act(0);
        let begin = work(&api);
        (1..=TIMES).for_each(act);
        (work(&api) - begin) / TIMES
    };
    let look = mean(&|_| drop(api.get(source).is(200)));
    // To the end of the answer: the clone runs before that.
    let clone = mean(&|number| {
        let order = json!({ "Name": format!("vm{number}") });
        drop(api.post(&format!("{source}/Actions/Oem/SalpComputerSystem.InstantClone"), &order).is(201));
    });
    eprintln!("a look takes {look}, a clone {clone} ns of machine time");
    assert!(look <= 230_000 && clone <= 2 * look, "a look takes {look}, a clone {clone} ns");
    machine.stop();
}

#[test]
fn a_thousand_vms_are_listed_within_the_time_budgeted() {
    let idle = guest("button").named("idle").append("deaf").mib(16);
    let mut machine = Setup::of(idle).managed().mib(2048).icount().seconds(900).start();
    machine.expect("idle| READY");
    let api = machine.api().with_session();
    let clone = "/redfish/v1/Systems/1/Actions/Oem/SalpComputerSystem.InstantClone";
    let monitor = api.post(clone, &json!({ "Name": "vm", "Count": 999 })).is(202).location.expect("a monitor");
    while api.get(&monitor).status == 202 {}
    // Looking costs, too.
    let looking = (0..2).map(|_| work(&api)).reduce(|first, second| second - first).unwrap_or_default();
    let begin = work(&api);
    let first = api.get("/redfish/v1/Systems").is(200).json();
    let listed = work(&api).saturating_sub(begin + looking);
    assert_eq!(first["Members"].as_array().map(Vec::len), Some(200));
    let (mut next, mut seen, mut longest) = (Some("/redfish/v1/Systems?$expand=.".to_string()), 0, 0);
    while let Some(path) = next {
        let begin = work(&api);
        let page = api.get(&path).is(200).json();
        longest = work(&api).saturating_sub(begin + looking).max(longest);
        seen += page["Members"].as_array().map_or(0, Vec::len);
        next = page["Members@odata.nextLink"].as_str().map(String::from);
    }
    eprintln!("200 VMs listed {listed}, expanded {longest} ns of machine time at most");
    assert_eq!(seen, 1000);
    assert!(listed <= 50_000_000 && longest <= 180_000_000, "200 VMs listed {listed}, expanded {longest}");
    let ended = machine.stop();
    ended.check(!ended.text.contains("mgmt: it "), "the management guest has failed");
}
