//! What users rely on, one story each.

use super::world::{IMAGE, IN_BLOCK, PAGE, RAM, World, first_word, on_machine, places};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::Kind;
use crate::stage2::{
    AddressSpace, CreateError, Fault, ForkError, IDENTITY_PAGE, MapError, MemAttr, PinError, Policy, RevertError,
    TableMem,
};

#[test]
fn untouched_memory_reads_as_zeros_and_costs_nothing() {
    on_machine(|world| {
        let vm = world.create(Policy::SmallPages).unwrap();
        for ipa in places() {
            assert_eq!(world.guest_read(vm, 0, ipa), Ok(0));
        }
        let stats = world.machine.frames.borrow().stats();
        assert_eq!(stats.frames(Kind::Guest), 0);
        assert_eq!(stats.frames(Kind::Zero), 1);
    });
}

#[test]
fn first_touch_takes_a_block_if_the_whole_region_is_ram_and_a_page_elsewhere() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        world.guest_write(vm, 0, IN_BLOCK, 7).unwrap();
        world.guest_write(vm, 0, Ipa(IN_BLOCK.0 + 0x10000), 8).unwrap();
        world.guest_write(vm, 0, PAGE, 9).unwrap();
        let counters = world.vms[vm].space.counters();
        assert_eq!((counters.zeroed_blocks, counters.zeroed_pages), (1, 1));
        world.check_all_bytes(vm);
    });
}

#[test]
fn memory_given_in_blocks_falls_back_to_pages_when_no_block_is_free() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        world.squeeze(3);
        world.guest_write(vm, 0, IN_BLOCK, 7).unwrap();
        assert_eq!(world.vms[vm].space.counters().zeroed_pages, 1);
    });
}

#[test]
fn the_boot_image_is_shared_until_written_and_never_changed() {
    on_machine(|world| {
        let first = world.create(Policy::Blocks).unwrap();
        let second = world.create(Policy::SmallPages).unwrap();
        for vm in [first, second] {
            world.map_image(vm);
            world.guest_read(vm, 0, Ipa(0x8000_3008)).unwrap();
        }
        world.check();
        assert_eq!(world.machine.frames.borrow().stats().frames(Kind::Guest), 0);
        world.guest_write(first, 0, Ipa(0x8000_3008), 1).unwrap();
        world.device_write(second, Ipa(0x8020_0ff8), &[2, 3]).unwrap();
        for vm in [first, second] {
            world.check_all_bytes(vm);
        }
        for offset in (0..IMAGE.end.0 - IMAGE.start.0).step_by(8) {
            let pa = Pa(IMAGE.start.0 + offset);
            assert_eq!(world.machine.word(pa), first_word(pa));
        }
    });
}

#[test]
fn an_image_is_mapped_only_over_free_ram_and_only_from_image_frames() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        let machine = world.machine;
        let map = |world: &mut World<'_>, ipa, pa, bytes| {
            world.vms[vm].space.map_image(&machine.frames, machine, Ipa(ipa), Pa(pa), bytes)
        };
        assert_eq!(map(world, 0x8000_0008, IMAGE.start.0, 8), Err(MapError::Unaligned));
        assert_eq!(map(world, RAM.end.0, IMAGE.start.0, 8), Err(MapError::OutsideRam));
        assert_eq!(map(world, RAM.start.0, IMAGE.start.0, u64::MAX), Err(MapError::OutsideRam));
        assert_eq!(map(world, RAM.start.0, 0x8000_0000, 8), Err(MapError::NotImage));
        assert_eq!(map(world, RAM.start.0, 0x1000, 8), Err(MapError::NotImage));
        assert_eq!(map(world, 0x8000_0000, IMAGE.start.0, 0x2000), Ok(()));
        assert_eq!(map(world, 0x8000_1000, IMAGE.start.0, 0x1000), Err(MapError::Occupied));
    });
}

#[test]
fn addresses_outside_ram_are_refused() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        for ipa in [0, RAM.start.0 - 1, RAM.end.0, 1 << 39, u64::MAX - 7] {
            assert_eq!(world.guest_read(vm, 0, Ipa(ipa & !7)), Err(Fault::OutsideRam));
            assert_eq!(world.device_write(vm, Ipa(ipa), &[1]), Err(Fault::OutsideRam));
            assert_eq!(world.vms[vm].space.read(world.machine, Ipa(ipa), &mut [0; 2]), Err(Fault::OutsideRam));
        }
        assert_eq!(world.device_write(vm, Ipa(RAM.end.0 - 8), &[1, 2]), Err(Fault::OutsideRam));
        let create = |start, end| {
            let ram = Ipa(start)..Ipa(end);
            AddressSpace::new(&world.machine.frames, world.machine, ram, Policy::Blocks, MemAttr::WriteBack).map(|_| ())
        };
        for (start, end) in [
            (0x4000_1000, 0x4000_1000),
            (0x4000_2000, 0x4000_1000),
            (0x4000_0800, 0x4000_2000),
            (0x4000_0000, (1 << 39) + 0x1000),
            (0x3fff_f000, 0x4000_1000),
        ] {
            assert_eq!(create(start, end), Err(CreateError::BadRange));
        }
    });
}

#[test]
fn clones_see_the_source_as_it_was_and_nobody_sees_anothers_writes() {
    on_machine(|world| {
        let source = world.create(Policy::Blocks).unwrap();
        for (value, ipa) in (1..).zip(places()) {
            world.guest_write(source, 0, ipa, value).unwrap();
        }
        let clones = [world.fork(source).unwrap(), world.fork(source).unwrap()];
        world.check();
        for (cpu, vm) in [(0, source), (1, clones[0]), (0, clones[1])] {
            for ipa in places() {
                world.guest_write(vm, cpu, ipa, 100 + vm as u64).unwrap();
                world.check();
            }
        }
        for vm in 0..3 {
            world.check_all_bytes(vm);
        }
    });
}

#[test]
fn a_clone_of_a_sealed_source_reads_without_a_fault_and_costs_one_frame() {
    on_machine(|world| {
        let source = world.create(Policy::Blocks).unwrap();
        world.map_image(source);
        for (value, ipa) in (1..).zip(places()) {
            world.guest_write(source, 0, ipa, value).unwrap();
        }
        world.seal(source);
        let (free, invalidations) = (world.free(), world.machine.invalidations.get());
        let clone = world.fork(source).unwrap();
        assert_eq!(world.free(), free - 1);
        assert_eq!(world.machine.invalidations.get(), invalidations);
        for ipa in places().into_iter().filter(|ipa| RAM.contains(ipa)) {
            assert!(world.machine.mmu(world.vms[clone].name, 0, ipa, false).is_some());
            assert!(world.machine.mmu(world.vms[source].name, 0, ipa, false).is_some());
        }
    });
}

#[test]
fn what_nobody_else_uses_any_more_is_written_without_a_copy() {
    on_machine(|world| {
        let source = world.create(Policy::Blocks).unwrap();
        for ipa in places() {
            world.guest_write(source, 0, ipa, 1).unwrap();
        }
        let clone = world.fork(source).unwrap();
        for ipa in places() {
            world.guest_read(source, 0, ipa).unwrap();
            world.guest_read(clone, 1, ipa).unwrap();
        }
        world.destroy(source);
        let clone = clone - 1;
        world.put_identity(clone, 1).unwrap();
        let free = world.free();
        for ipa in places() {
            world.guest_write(clone, 1, ipa, 2).unwrap();
        }
        assert_eq!(world.free(), free);
        let counters = world.vms[clone].space.counters();
        assert_eq!((counters.copied_pages, counters.copied_nodes, counters.split_blocks), (0, 0, 0));
        assert!(counters.reclaimed > 0);
    });
}

#[test]
fn a_block_shared_with_a_clone_is_mapped_by_pages_once_the_clone_writes() {
    on_machine(|world| {
        let source = world.create(Policy::Blocks).unwrap();
        world.guest_write(source, 0, IN_BLOCK, 1).unwrap();
        let clone = world.fork(source).unwrap();
        let guest = world.machine.frames.borrow().stats().frames(Kind::Guest);
        world.guest_write(clone, 0, IN_BLOCK, 2).unwrap();
        assert_eq!(world.machine.frames.borrow().stats().frames(Kind::Guest), guest + 1, "one page was copied");
        world.check();
        world.guest_write(source, 0, Ipa(IN_BLOCK.0 + PAGE_SIZE), 3).unwrap();
        assert_eq!(world.vms[source].space.counters().split_blocks, 1);
        world.check();
        // The page that the clone has copied is the source's own again.
        let copied = world.vms[source].space.counters().copied_pages;
        world.guest_write(source, 0, IN_BLOCK, 4).unwrap();
        assert_eq!(world.vms[source].space.counters().copied_pages, copied);
    });
}

#[test]
fn the_source_keeps_its_block_whole_if_the_clone_dies_first() {
    on_machine(|world| {
        let source = world.create(Policy::Blocks).unwrap();
        world.guest_write(source, 0, IN_BLOCK, 1).unwrap();
        let clone = world.fork(source).unwrap();
        world.guest_write(clone, 0, IN_BLOCK, 2).unwrap();
        world.destroy(clone);
        world.guest_write(source, 0, IN_BLOCK, 3).unwrap();
        assert_eq!(world.vms[source].space.counters().split_blocks, 0);
        assert_eq!(world.vms[source].space.counters().copied_pages, 0);
    });
}

#[test]
fn a_chain_of_a_hundred_clones_keeps_every_generation_apart() {
    let depth = 100;
    on_machine(|world| {
        let places = places();
        world.create(Policy::SmallPages).unwrap();
        for generation in 0..depth {
            world.guest_write(generation, 0, places[generation % places.len()], generation as u64 + 1).unwrap();
            if generation % 3 == 0 {
                world.seal(generation);
            }
            assert_eq!(world.fork(generation), Ok(generation + 1));
        }
        world.check();
        // The oldest die first, then every second one.
        for _ in 0..depth / 4 {
            world.destroy(0);
        }
        world.check();
        for vm in (0..world.vms.len()).rev().step_by(2) {
            world.destroy(vm);
        }
        for vm in 0..world.vms.len() {
            world.guest_write(vm, 0, places[vm % places.len()], 7).unwrap();
        }
        world.check();
    });
}

#[test]
fn going_back_to_a_snapshot_undoes_every_write_any_number_of_times() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        for ipa in places() {
            world.guest_write(vm, 0, ipa, 1).unwrap();
        }
        let snapshot = world.fork(vm).unwrap();
        assert_eq!(world.revert(vm, snapshot), Ok(()), "nothing has changed: it shares all, lazily");
        world.seal(snapshot);
        let mut free = None;
        for round in 2..5 {
            for (cpu, ipa) in places().into_iter().enumerate() {
                world.guest_write(vm, cpu % 2, ipa, round).unwrap();
            }
            world.revert(vm, snapshot).unwrap();
            // Its nodes stay its own, but nothing more is kept with each round.
            assert_eq!(*free.get_or_insert(world.free()), world.free());
            world.check();
            world.check_all_bytes(vm);
        }
        world.destroy(snapshot);
        world.check_all_bytes(vm);
    });
}

#[test]
fn what_was_written_before_a_fork_is_undone_too() {
    on_machine(|world| {
        let vm = world.create(Policy::SmallPages).unwrap();
        let far = Ipa(PAGE.0 + 200 * PAGE_SIZE);
        for ipa in [PAGE, far] {
            world.guest_write(vm, 0, ipa, 1).unwrap();
        }
        let snapshot = world.fork(vm).unwrap();
        world.seal(snapshot);
        for _ in 0..2 {
            world.guest_write(vm, 0, far, 2).unwrap();
            world.revert(vm, snapshot).unwrap();
        }
        world.guest_write(vm, 0, far, 3).unwrap();
        let clone = world.fork(vm).unwrap();
        // The node that was changed is shared now; its copy has other marks.
        world.guest_write(vm, 0, PAGE, 3).unwrap();
        world.revert(vm, snapshot).unwrap();
        for (vm, value) in [(vm, 1), (clone, 3)] {
            assert_eq!(world.guest_read(vm, 0, far), Ok(value));
        }
    });
}

#[test]
fn a_running_vm_is_no_snapshot() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        let other = world.create(Policy::Blocks).unwrap();
        world.guest_write(other, 0, PAGE, 1).unwrap();
        assert_eq!(world.revert(vm, other), Err(RevertError::NotASnapshot));
        world.pin(vm, PAGE).unwrap();
        world.seal(other);
        assert_eq!(world.revert(vm, other), Err(RevertError::Pinned));
    });
}

#[test]
fn a_pinned_page_stays_where_it_is_and_clones_get_a_copy() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        world.guest_write(vm, 0, IN_BLOCK, 1).unwrap();
        world.guest_write(vm, 0, PAGE, 2).unwrap();
        let pa = world.pin(vm, IN_BLOCK).unwrap();
        world.pin(vm, PAGE).unwrap();
        assert!(matches!(world.pin(vm, PAGE), Err(PinError::TooManyPins)));
        let clone = world.fork(vm).unwrap();
        world.check();
        // A device goes on writing to the frame: only the source sees it.
        world.machine.set_word(pa, 77);
        world.vms[vm].bytes.insert(IN_BLOCK, 77);
        world.guest_read(vm, 0, IN_BLOCK).unwrap();
        world.guest_read(clone, 0, IN_BLOCK).unwrap();
        world.fork(vm).unwrap();
        world.seal(vm);
        world.fork(vm).unwrap();
        world.check();
        world.guest_write(vm, 0, IN_BLOCK, 78).unwrap();
        // It outlives its VM until the device lets go.
        world.destroy(vm);
        assert_eq!(world.machine.frames.borrow().kind(pa), Some(Kind::Guest));
        world.check();
        world.drop_orphans();
        assert_eq!(world.machine.frames.borrow().kind(pa), Some(Kind::Free));
    });
}

#[test]
fn a_fork_that_is_not_told_of_all_pinned_pages_is_refused() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        world.guest_write(vm, 0, PAGE, 2).unwrap();
        world.pin(vm, PAGE).unwrap();
        world.guest_write(vm, 0, IN_BLOCK, 2).unwrap();
        let machine = world.machine;
        for pinned in [&[][..], &[IN_BLOCK], &[PAGE, IN_BLOCK], &[PAGE, PAGE]] {
            let tlb = crate::testing::VmTlb { machine, vm: world.vms[vm].name, cpu: 0 };
            let result = world.vms[vm].space.fork(&machine.frames, machine, &tlb, pinned);
            assert_eq!(result.map(|_| ()), Err(ForkError::Pinned));
        }
    });
}

/// Does something with 0, 1, 2, … free frames until it works; each failure must change nothing.
fn with_every_allocation_failing<E: PartialEq + std::fmt::Debug>(
    out_of_memory: E,
    prepare: impl Fn(&mut World<'_>) -> usize,
    act: impl Fn(&mut World<'_>, usize) -> Result<(), E>,
) {
    on_machine(|world| {
        let vm = prepare(world);
        world.check();
        for left in 0.. {
            assert!(left < 50, "it never works");
            world.squeeze(left);
            let before = (world.free(), world.machine.frames.borrow().stats());
            match act(world, vm) {
                Ok(()) => break,
                Err(error) => assert_eq!(error, out_of_memory),
            }
            assert_eq!((world.free(), world.machine.frames.borrow().stats()), before, "it left something behind");
            world.check();
            world.check_all_bytes(vm);
        }
        world.relax();
        world.check();
    });
}

fn written(world: &mut World<'_>, policy: Policy) -> usize {
    let vm = world.create(policy).unwrap();
    world.map_image(vm);
    for (value, ipa) in (1..).zip(places()) {
        world.guest_write(vm, 0, ipa, value).unwrap();
    }
    vm
}

#[test]
fn running_out_of_memory_at_any_allocation_changes_nothing() {
    for policy in [Policy::Blocks, Policy::SmallPages] {
        for ipa in places() {
            with_every_allocation_failing(
                Fault::OutOfMemory,
                |world| world.create(policy).unwrap(),
                |world, vm| world.guest_write(vm, 0, ipa, 5),
            );
            with_every_allocation_failing(
                Fault::OutOfMemory,
                |world| world.create(policy).unwrap(),
                |world, vm| world.guest_read(vm, 0, ipa).map(drop),
            );
            with_every_allocation_failing(
                Fault::OutOfMemory,
                |world| {
                    let vm = written(world, policy);
                    world.fork(vm).unwrap();
                    vm
                },
                |world, vm| world.guest_write(vm, 0, ipa, 5),
            );
        }
        with_every_allocation_failing(
            ForkError::OutOfMemory,
            |world| {
                let vm = written(world, policy);
                for ipa in [PAGE, IN_BLOCK, Ipa(0x8020_1000)] {
                    world.pin(vm, ipa).unwrap();
                }
                vm
            },
            |world, vm| world.fork(vm).map(drop),
        );
        with_every_allocation_failing(
            PinError::Fault(Fault::OutOfMemory),
            |world| {
                let vm = written(world, policy);
                world.fork(vm).unwrap();
                vm
            },
            |world, vm| world.pin(vm, IN_BLOCK).map(drop),
        );
    }
}

#[test]
fn a_fork_touches_root_entries_only() {
    on_machine(|world| {
        let vm = written(world, Policy::Blocks);
        let root = world.vms[vm].space.root();
        let nodes = world.machine.frames.borrow().stats().frames(Kind::Node);
        let before: Vec<u64> = [1, 2].map(|index| world.machine.read(root, index)).to_vec();
        let clone = world.fork(vm).unwrap();
        assert_eq!(world.machine.frames.borrow().stats().frames(Kind::Node), nodes + 1);
        let clone_root = world.vms[clone].space.root();
        for (index, old) in (1..).zip(before) {
            assert_eq!(world.machine.read(root, index), old & !1, "the MMU does not walk it, its address stays");
            assert_eq!(world.machine.read(clone_root, index), old & !1);
        }
    });
}

#[test]
fn dirty_pages_cost_as_many_frames_and_their_nodes() {
    // Half of a block at a time, so that every block has both shared and private pages.
    let pages = 700;
    on_machine(|world| {
        let source = world.create(Policy::SmallPages).unwrap();
        let at = |page: u64| Ipa(RAM.start.0 + page / 256 * BLOCK_SIZE + page % 256 * PAGE_SIZE);
        for page in 0..pages {
            let tlb = crate::testing::VmTlb { machine: world.machine, vm: world.vms[source].name, cpu: 0 };
            let machine = world.machine;
            world.vms[source].space.write(&machine.frames, machine, &tlb, at(page), &[1]).unwrap();
        }
        world.seal(source);
        let free = world.free();
        let clone = world.fork(source).unwrap();
        for page in 0..pages {
            let tlb = crate::testing::VmTlb { machine: world.machine, vm: world.vms[clone].name, cpu: 0 };
            let machine = world.machine;
            world.vms[clone].space.write(&machine.frames, machine, &tlb, at(page), &[2]).unwrap();
        }
        let used = free - world.free();
        assert!(used <= pages as usize + 8, "{used} frames for {pages} pages");
        let census = world.vms[clone].space.census(&world.machine.frames, world.machine);
        assert_eq!((census.private, census.shared), (pages, 0));
        world.destroy(clone);
        assert_eq!(world.free(), free);
    });
}

#[test]
fn a_clone_is_not_told_that_it_is_its_source() {
    on_machine(|world| {
        let source = world.create(Policy::Blocks).unwrap();
        world.guest_write(source, 0, PAGE, 1).unwrap();
        world.put_identity(source, 0x1234).unwrap();
        let clone = world.fork(source).unwrap();
        assert!(!world.vms[clone].space.has_identity_page(world.machine));
        world.put_identity(clone, 0x5678).unwrap();
        assert_eq!(world.guest_read(clone, 0, IDENTITY_PAGE), Ok(0x5678));
        assert_eq!(world.guest_read(source, 0, IDENTITY_PAGE), Ok(0x1234));
        assert!(world.vms[clone].space.has_identity_page(world.machine));
    });
}

#[test]
fn a_vm_that_goes_back_to_a_snapshot_keeps_its_identity() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        world.guest_write(vm, 0, PAGE, 1).unwrap();
        world.put_identity(vm, 0x1234).unwrap();
        let snapshot = world.fork(vm).unwrap();
        world.seal(snapshot);
        world.put_identity(vm, 0x5678).unwrap();
        world.guest_write(vm, 0, PAGE, 2).unwrap();
        world.revert(vm, snapshot).unwrap();
        assert_eq!(world.guest_read(vm, 0, PAGE), Ok(1));
        assert_eq!(world.guest_read(vm, 0, IDENTITY_PAGE), Ok(0x5678));
    });
}

#[test]
fn the_identity_page_is_made_when_it_is_first_written_and_is_a_page_of_its_own() {
    on_machine(|world| {
        let vm = world.create(Policy::Blocks).unwrap();
        assert!(!world.vms[vm].space.has_identity_page(world.machine));
        let free = world.free();
        world.put_identity(vm, 0x1234).unwrap();
        world.put_identity(vm, 0x5678).unwrap();
        assert_eq!(world.free(), free - 3, "a page and two nodes");
        let census = world.vms[vm].space.census(&world.machine.frames, world.machine);
        assert_eq!((census.private, census.shared, census.private_nodes), (1, 0, 3));
        assert_eq!(world.device_write(vm, Ipa(IDENTITY_PAGE.0 + 0xff8), &[1, 2]), Err(Fault::OutsideRam));
        let pin = world.pin(vm, IDENTITY_PAGE);
        assert_eq!(pin, Err(PinError::Fault(Fault::OutsideRam)));
    });
}

#[test]
fn what_is_saved_is_what_would_be_needed_without_sharing() {
    let pages = 100;
    on_machine(|world| {
        let source = world.create(Policy::SmallPages).unwrap();
        for page in 0..pages {
            world.guest_write(source, 0, Ipa(RAM.start.0 + page * PAGE_SIZE), page).unwrap();
        }
        let census = |world: &World<'_>, vm: usize| world.vms[vm].space.census(&world.machine.frames, world.machine);
        assert_eq!((census(world, source).private, census(world, source).saved()), (pages, 0));
        for _ in 0..3 {
            world.fork(source).unwrap();
        }
        for vm in 0..4 {
            // A quarter of the pages and of the two nodes is each one's part.
            let census = census(world, vm);
            assert_eq!((census.private, census.shared, census.private_nodes, census.shared_nodes), (0, pages, 1, 2));
            assert_eq!(census.saved(), (pages + 2) * PAGE_SIZE * 3 / 4);
        }
        world.guest_write(1, 0, PAGE, 7).unwrap();
        // Its nodes are its own now; the other pages have two entries, one of them in a node that three VMs share.
        let clone = census(world, 1);
        assert_eq!((clone.private, clone.shared, clone.shared_nodes), (1, pages - 1, 0));
        assert_eq!(clone.saved(), (pages - 1) * PAGE_SIZE / 2);
    });
}
