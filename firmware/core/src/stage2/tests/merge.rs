//! Pages of equal contents become one.

use super::world::{PAGE, RAM, World, on_machine};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::frames::Kind;
use crate::stage2::{MergeProgress, Policy};

fn page(number: u64) -> Ipa {
    Ipa(PAGE.0 + number * PAGE_SIZE)
}

fn guest_frames(world: &World<'_>) -> usize {
    world.machine.frames.borrow().stats().frames(Kind::Guest)
}

/// Makes VMs of one domain that all have `pages` pages, each with contents of its own.
fn twins(world: &mut World<'_>, count: usize, pages: u64) {
    for vm in 0..count {
        world.create(Policy::SmallPages).unwrap();
        world.vms[vm].domain = 7;
        for number in 0..pages {
            world.guest_write(vm, 0, page(number), number + 1).unwrap();
        }
    }
}

#[test]
fn equal_pages_of_vms_of_one_domain_become_one_in_three_passes() {
    on_machine(|world| {
        twins(world, 3, 4);
        assert_eq!(guest_frames(world), 12);
        let total = world.merge_all(3);
        assert_eq!(guest_frames(world), 4);
        assert_eq!(total.merged, 8);
        assert_eq!(world.merger.stable(), 4);
        let merged: u64 = world.vms.iter().map(|vm| vm.space.counters().merged_pages).sum();
        assert_eq!(merged, 8);
        // Writing parts them again.
        world.guest_write(1, 1, page(2), 99).unwrap();
        world.check();
        assert_eq!(world.guest_read(0, 0, page(2)), Ok(3));
        assert_eq!(world.guest_read(2, 0, page(2)), Ok(3));
        assert_eq!(guest_frames(world), 5);
    });
}

#[test]
fn equal_pages_of_one_vm_become_one() {
    on_machine(|world| {
        world.create(Policy::SmallPages).unwrap();
        for number in 0..5 {
            world.guest_write(0, 0, page(number), 6).unwrap();
        }
        world.merge_all(2);
        assert_eq!(guest_frames(world), 1);
        world.check_all_bytes(0);
    });
}

#[test]
fn vms_of_different_domains_share_nothing_but_zeros() {
    on_machine(|world| {
        for vm in 0..2 {
            world.create(Policy::SmallPages).unwrap();
            world.guest_write(vm, 0, page(0), 1).unwrap();
            world.guest_write(vm, 0, page(1), 0).unwrap();
        }
        assert_ne!(world.vms[0].domain, world.vms[1].domain);
        let total = world.merge_all(4);
        assert_eq!((total.merged, total.zeroed), (0, 2));
        assert_eq!(guest_frames(world), 2);
    });
}

#[test]
fn a_page_that_is_written_while_it_is_looked_at_keeps_what_was_written() {
    on_machine(|world| {
        twins(world, 2, 1);
        world.guest_write(0, 1, page(1), 0).unwrap();
        world.guest_write(1, 1, page(1), 0).unwrap();
        // Stores to the page that became a hint, to one that would be made stable, and to pages of zeros.
        for (vm, at, value) in [(0, 0, 5), (1, 0, 5), (0, 1, 5), (1, 1, 6), (0, 0, 7), (1, 0, 8)] {
            world.guest_write(vm, 1, page(at), world.vms[vm].expected(page(at))).unwrap();
            world.vms[vm].cursor = page(at);
            world.merge_while(vm, 1, Some((page(at), value)));
            world.check();
            assert_eq!(world.merger.stable(), 0, "what has changed meanwhile is not kept");
        }
        world.merge_all(3);
        for vm in 0..2 {
            world.check_all_bytes(vm);
        }
    });
}

#[test]
fn pages_whose_hashes_are_equal_by_chance_stay_apart() {
    on_machine(|world| {
        twins(world, 2, 0);
        // The hash of the test machine is the sum of all words.
        world.guest_write(0, 0, page(0), 3).unwrap();
        world.guest_write(1, 0, Ipa(page(0).0 + 8), 3).unwrap();
        let total = world.merge_all(4);
        assert_eq!(total.merged, 0);
        assert_eq!(guest_frames(world), 2);
    });
}

#[test]
fn what_a_clone_shares_anyway_is_not_looked_at() {
    on_machine(|world| {
        twins(world, 1, 4);
        world.fork(0).unwrap();
        assert_eq!(world.merge_all(2), MergeProgress::default());
    });
}

#[test]
fn clones_that_write_the_same_share_it_again() {
    on_machine(|world| {
        twins(world, 1, 4);
        for _ in 0..3 {
            world.fork(0).unwrap();
        }
        for clone in 1..4 {
            for number in 0..4 {
                world.guest_write(clone, 0, page(number), 100 + number).unwrap();
            }
        }
        assert_eq!(guest_frames(world), 16);
        world.merge_all(3);
        assert_eq!(guest_frames(world), 8);
    });
}

#[test]
fn a_vm_that_was_promised_memory_is_not_merged() {
    on_machine(|world| {
        twins(world, 2, 4);
        for vm in 0..2 {
            world.set_promise(vm, 10).unwrap();
        }
        assert_eq!(world.merge_all(2), MergeProgress::default());
        world.set_promise(0, 0).unwrap();
        world.set_promise(1, 0).unwrap();
        world.merge_all(3);
        assert_eq!(guest_frames(world), 4);
    });
}

#[test]
fn pinned_pages_stay_where_they_are() {
    on_machine(|world| {
        twins(world, 2, 2);
        world.pin(0, page(0)).unwrap();
        world.pin(1, page(0)).unwrap();
        world.merge_all(3);
        assert_eq!(guest_frames(world), 3);
    });
}

#[test]
fn the_table_gives_back_what_nobody_uses_and_what_one_vm_has_used_alone_for_a_pass() {
    on_machine(|world| {
        twins(world, 2, 4);
        world.merge_all(3);
        world.destroy(0);
        assert_eq!((guest_frames(world), world.merger.stable()), (4, 4));
        let frames = &world.machine.frames;
        while !world.merger.release_unused(frames, 3) {}
        assert_eq!(world.merger.stable(), 4, "used by one, but perhaps only since now");
        while !world.merger.release_unused(frames, 3) {}
        assert_eq!(world.merger.stable(), 0);
        world.check();
        // The page is the VM's own again: writing copies nothing.
        let copied = world.vms[0].space.counters().copied_pages;
        world.guest_write(0, 0, page(0), 9).unwrap();
        assert_eq!(world.vms[0].space.counters().copied_pages, copied);
        world.merge_all(3);
        world.destroy(0);
        while !world.merger.release_unused(frames, 3) {}
        assert_eq!(guest_frames(world), 0);
    });
}

#[test]
fn writing_to_merged_pages_needs_no_memory_once_the_table_lets_go_of_them() {
    on_machine(|world| {
        twins(world, 2, 4);
        world.merge_all(3);
        world.destroy(1);
        world.squeeze(0);
        assert!(world.guest_write(0, 0, page(0), 9).is_err());
        world.merger.release_all(&world.machine.frames);
        world.guest_write(0, 0, page(0), 9).unwrap();
    });
}

#[test]
fn a_block_that_is_mostly_zeros_is_mapped_by_pages_when_memory_is_scarce() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        world.guest_write(vm, 0, super::world::IN_BLOCK, 7).unwrap();
        assert_eq!(world.merge_all(1), MergeProgress::default());
        assert_eq!(guest_frames(world), 512);
        world.squeeze(3);
        world.merge_all(1);
        assert_eq!(guest_frames(world), 1);
        world.check_all_bytes(vm);
        world.guest_write(vm, 0, super::world::IN_BLOCK, 8).unwrap();
    });
}

#[test]
fn a_step_looks_at_no_more_pages_than_it_is_told() {
    on_machine(|world| {
        twins(world, 1, 20);
        let progress = world.merge(0, 3);
        assert_eq!((progress.scanned, progress.at_end), (3, false));
        assert_eq!(world.vms[0].cursor, page(3));
        world.vms[0].cursor = Ipa(RAM.end.0 - PAGE_SIZE);
        assert!(world.merge(0, 3).at_end);
        assert_eq!(world.vms[0].cursor, RAM.start);
    });
}

/// Makes a VM with pages of zeros far from its first page, and a snapshot of it. Their nodes are each one's own.
fn with_snapshot(world: &mut World<'_>) -> usize {
    twins(world, 1, 4);
    for number in 40..50 {
        world.guest_write(0, 0, page(number), 0).unwrap();
    }
    let snapshot = world.fork(0).unwrap();
    world.seal(snapshot);
    world.guest_write(0, 0, page(0), 9).unwrap();
    snapshot
}

#[test]
fn a_vm_that_goes_back_to_a_snapshot_that_was_merged_meanwhile_has_what_the_snapshot_has() {
    on_machine(|world| {
        let snapshot = with_snapshot(world);
        assert_eq!(world.merge(snapshot, 2000).zeroed, 10);
        world.revert(0, snapshot).unwrap();
        world.check();
        world.check_all_bytes(0);
    });
}

#[test]
fn a_vm_that_was_merged_shares_again_what_it_shared_when_it_goes_back() {
    on_machine(|world| {
        let snapshot = with_snapshot(world);
        assert_eq!(world.merge(0, 2000).zeroed, 10);
        world.revert(0, snapshot).unwrap();
        world.check();
        world.check_all_bytes(0);
    });
}
