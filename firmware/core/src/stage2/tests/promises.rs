//! What an address space may count on when memory runs out.

use super::world::{IN_BLOCK, PAGE, RAM, on_machine, places};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::frames::{Kind, OutOfMemory};
use crate::stage2::{Fault, Policy};

/// Pages of several nodes.
fn pages() -> impl Iterator<Item = Ipa> {
    (0..40).map(|page| Ipa(RAM.start.0 + page * 37 * PAGE_SIZE))
}

#[test]
fn the_source_of_a_fork_is_never_the_victim_of_its_clones() {
    on_machine(|world| {
        let source = world.create(Policy::SmallPages).unwrap();
        for ipa in pages() {
            world.guest_write(source, 0, ipa, 1).unwrap();
        }
        world.set_promise(source, world.vms[source].space.fork_promise()).unwrap();
        let clone = world.fork(source).unwrap();
        // While there is other memory, what the source touches for the first time leaves alone what it may have to copy.
        let promise = world.vms[source].space.promise();
        world.guest_write(source, 0, Ipa(RAM.start.0 + PAGE_SIZE), 2).unwrap();
        assert!(world.vms[source].space.promise() >= promise - 2, "nodes are copied out of the promise");
        world.squeeze(20);
        let starved = pages().find(|&ipa| world.guest_write(clone, 0, ipa, 3) == Err(Fault::OutOfMemory));
        assert!(starved.is_some());
        for ipa in pages() {
            world.guest_write(source, 0, ipa, 4).unwrap();
        }
    });
}

#[test]
fn a_clone_with_all_its_memory_set_aside_never_lacks_any() {
    on_machine(|world| {
        let source = world.create(Policy::SmallPages).unwrap();
        for ipa in pages() {
            world.guest_write(source, 0, ipa, 1).unwrap();
        }
        world.seal(source);
        let clone = world.fork(source).unwrap();
        let all = world.vms[clone].space.full_promise();
        world.set_promise(clone, all).unwrap();
        world.squeeze(0);
        for round in 0..3 {
            for ipa in pages().chain(places()) {
                world.guest_write(clone, 0, ipa, 2 + round).unwrap();
            }
            world.put_identity(clone, round.into()).unwrap();
            world.check();
            // What it had comes back, and stays its own.
            world.revert(clone, source).unwrap();
            world.check();
        }
        // What it has besides is its identity page, and nodes.
        let census = world.vms[clone].space.census(&world.machine.frames, world.machine);
        let held = census.private + census.private_nodes - 1;
        assert_eq!(world.vms[clone].space.promise() + held as usize, all);
    });
}

#[test]
fn what_is_promised_is_given_to_nobody_else() {
    on_machine(|world| {
        let first = world.create(Policy::SmallPages).unwrap();
        let second = world.create(Policy::SmallPages).unwrap();
        let free = world.free();
        assert_eq!(world.set_promise(first, free + 1), Err(OutOfMemory));
        world.set_promise(first, free).unwrap();
        assert_eq!(world.set_promise(second, 1), Err(OutOfMemory));
        assert_eq!(world.guest_write(second, 0, PAGE, 1), Err(Fault::OutOfMemory));
        assert_eq!(world.machine.frames.borrow_mut().alloc(Kind::Hyp), Err(OutOfMemory));
        world.guest_write(first, 0, PAGE, 1).unwrap();
        assert_eq!(world.vms[first].space.promise(), free - 3);
        world.destroy(first);
        assert_eq!(world.unpromised(), world.free());
    });
}

#[test]
fn no_block_is_given_where_it_would_break_a_promise() {
    on_machine(|world| {
        let first = world.create(Policy::SmallPages).unwrap();
        let second = world.create(Policy::Blocks).unwrap();
        world.set_promise(first, world.free() - 500).unwrap();
        world.guest_write(second, 0, IN_BLOCK, 1).unwrap();
        let counters = world.vms[second].space.counters();
        assert_eq!((counters.zeroed_blocks, counters.zeroed_pages), (0, 1));
    });
}
