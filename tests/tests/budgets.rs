//! Sizes and instruction counts that must not grow.

use salp_qemu::image::{BUDGET, build_salp_guest};
use salp_tests::figures::{self, FIGURES};
use salp_tests::machine::image;
use salp_tests::{Setup, clones, guest, handovers, network};

#[test]
fn the_release_image_is_small() {
    let image = image();
    assert!(image.own_size() <= BUDGET, "\n{}", image.report());
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
