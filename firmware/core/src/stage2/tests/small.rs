//! Stories with few pages: those that Miri has time for.

use super::world::{IN_BLOCK, PAGE, on_machine};
use crate::stage2::Policy;

#[test]
fn memory_that_is_ones_own_again_is_had_back_with_one_fault() {
    on_machine(|world| {
        let source = world.create(Policy::SmallPages).unwrap();
        world.guest_write(source, 0, PAGE, 1).unwrap();
        let clone = world.fork(source).unwrap();
        world.guest_read(source, 0, PAGE).unwrap();
        world.destroy(clone);
        world.guest_write(source, 0, PAGE, 2).unwrap();
        let counters = world.vms[source].space.counters();
        assert_eq!((counters.reclaimed, counters.spurious), (1, 0));
    });
}

#[test]
fn a_region_nobody_touched_since_a_fork_is_used_as_it_was_when_the_clone_is_gone() {
    on_machine(|world| {
        let source = world.create(Policy::SmallPages).unwrap();
        world.guest_write(source, 0, PAGE, 1).unwrap();
        world.guest_write(source, 0, IN_BLOCK, 2).unwrap();
        let clone = world.fork(source).unwrap();
        world.guest_read(source, 0, PAGE).unwrap();
        world.destroy(clone);
        world.guest_read(source, 0, IN_BLOCK).unwrap();
        world.check();
        // It was never made read-only, so this takes no fault.
        assert!(world.machine.mmu(world.vms[source].name, 0, IN_BLOCK, true).is_some());
        let clone = world.fork(source).unwrap();
        world.guest_write(source, 0, IN_BLOCK, 3).unwrap();
        assert_eq!(world.guest_read(clone, 0, IN_BLOCK), Ok(2));
    });
}
