//! Images that managers fill, and the VMs that are made from them.

use super::world::{World, on_machine};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE};
use crate::frames::{Kind, OutOfMemory};
use crate::stage2::{CreateError, MapError, Policy};

/// Where a VM has a whole block as RAM, and where it has not.
const BLOCK: Ipa = Ipa(0x7fe0_0000);
const ELSEWHERE: Ipa = Ipa(0x8020_4000);

/// Makes a finished image of a block and two pages, with words here and there.
fn image(world: &mut World<'_>) -> usize {
    let image = world.create_image(BLOCK_SIZE + 2 * PAGE_SIZE).unwrap();
    for offset in [0, 0x4000, BLOCK_SIZE - 8, BLOCK_SIZE + PAGE_SIZE] {
        world.fill_image(image, offset, &[offset + 1, offset + 2]);
    }
    world.finish_image(image);
    image
}

#[test]
fn an_image_is_shared_until_written_and_never_changed() {
    on_machine(|world| {
        let image = image(world);
        let guests = world.machine.frames.borrow().stats().frames(Kind::Guest);
        assert_eq!(guests, 0, "to VMs it is like the boot set");
        let [first, second] = [Policy::Blocks, Policy::SmallPages].map(|policy| world.create(policy).unwrap());
        for vm in [first, second] {
            world.map_from(vm, BLOCK, image, 0, BLOCK_SIZE).unwrap();
            world.map_from(vm, ELSEWHERE, image, 0x4000, PAGE_SIZE).unwrap();
            world.guest_read(vm, 0, Ipa(BLOCK.0 + 0x4000)).unwrap();
        }
        assert_eq!(world.machine.frames.borrow().stats().frames(Kind::Guest), 0, "nothing was copied");
        world.guest_write(first, 0, Ipa(BLOCK.0 + 0x4000), 7).unwrap();
        world.guest_write(second, 1, ELSEWHERE, 8).unwrap();
        world.check();
        let clone = world.fork(first).unwrap();
        world.guest_write(clone, 0, Ipa(BLOCK.0 + 0x4000), 9).unwrap();
        for vm in [first, second, clone] {
            world.check_all_bytes(vm);
        }
    });
}

#[test]
fn what_lies_as_a_block_is_mapped_as_one() {
    on_machine(|world| {
        let image = image(world);
        let nodes = |world: &World<'_>| world.machine.frames.borrow().stats().frames(Kind::Node);
        let vm = world.create(Policy::Blocks).unwrap();
        let before = nodes(world);
        world.map_from(vm, BLOCK, image, 0, BLOCK_SIZE).unwrap();
        assert_eq!(nodes(world), before + 1, "no node of pages");
        let other = world.create(Policy::Blocks).unwrap();
        let before = nodes(world);
        world.map_from(other, Ipa(BLOCK.0 + PAGE_SIZE), image, PAGE_SIZE, BLOCK_SIZE - PAGE_SIZE).unwrap();
        assert_eq!(nodes(world), before + 2);
    });
}

#[test]
fn an_image_that_was_written_when_no_block_was_free_is_mapped_by_pages() {
    on_machine(|world| {
        let image = world.create_image(BLOCK_SIZE).unwrap();
        world.squeeze(0);
        for offset in (0..BLOCK_SIZE).step_by(PAGE_SIZE as usize * 16) {
            world.fill_image(image, offset, &[offset + 1]);
        }
        world.relax();
        world.finish_image(image);
        let vm = world.create(Policy::Blocks).unwrap();
        world.map_from(vm, BLOCK, image, 0, BLOCK_SIZE).unwrap();
        world.guest_write(vm, 0, Ipa(BLOCK.0 + 8), 3).unwrap();
        // What was never written is memory that nobody has touched yet.
        assert_eq!(world.guest_read(vm, 0, Ipa(BLOCK.0 + PAGE_SIZE)), Ok(0));
        world.check_all_bytes(vm);
    });
}

#[test]
fn an_image_that_is_made_can_be_filled_and_finished_whatever_others_take() {
    on_machine(|world| {
        let image = world.create_image(BLOCK_SIZE + 2 * PAGE_SIZE).unwrap();
        world.squeeze(0);
        world.fill_image(image, 0, &[1]);
        world.fill_image(image, BLOCK_SIZE + PAGE_SIZE, &[2]);
        world.finish_image(image);
        world.check();
        assert_eq!(world.images[image].space.promise(), 0, "what it does not need is everybody's");
        world.relax();
        let free = world.free() as u64 * PAGE_SIZE;
        assert_eq!(world.create_image(free + PAGE_SIZE), Err(CreateError::OutOfMemory));
    });
}

#[test]
fn a_vm_that_cannot_be_loaded_for_want_of_memory_leaves_nothing_behind() {
    on_machine(|world| {
        let image = image(world);
        for left in 0.. {
            world.squeeze(left + 1);
            let vm = world.create(Policy::Blocks).unwrap();
            let result = world
                .map_from(vm, BLOCK, image, 0, BLOCK_SIZE)
                .and_then(|()| world.map_from(vm, ELSEWHERE, image, BLOCK_SIZE - PAGE_SIZE, 3 * PAGE_SIZE));
            world.check();
            world.destroy(vm);
            world.check();
            if result.is_ok() {
                assert!(left >= 3, "a node for each of two regions of 1 GiB, and one of pages");
                break;
            }
            assert_eq!(result, Err(MapError::OutOfMemory));
        }
        world.relax();
    });
}

#[test]
fn only_a_finished_image_is_mapped_and_only_over_free_ram() {
    on_machine(|world| {
        let open = world.create_image(2 * PAGE_SIZE).unwrap();
        world.fill_image(open, 0, &[1]);
        let vm = world.create(Policy::Blocks).unwrap();
        assert_eq!(world.map_from(vm, BLOCK, open, 0, PAGE_SIZE), Err(MapError::NotImage));
        world.finish_image(open);
        assert_eq!(world.map_from(vm, Ipa(BLOCK.0 + 8), open, 0, 8), Err(MapError::Unaligned));
        assert_eq!(world.map_from(vm, BLOCK, open, 8, 8), Err(MapError::Unaligned));
        assert_eq!(world.map_from(vm, BLOCK, open, 0, u64::MAX), Err(MapError::OutsideRam));
        assert_eq!(world.map_from(vm, BLOCK, open, 0, PAGE_SIZE), Ok(()));
        assert_eq!(world.map_from(vm, BLOCK, open, 0, PAGE_SIZE), Err(MapError::Occupied));
    });
}

#[test]
fn frames_of_an_image_are_no_debt_of_the_vms_that_have_them() {
    on_machine(|world| {
        let image = image(world);
        let vm = world.create(Policy::Blocks).unwrap();
        world.map_from(vm, BLOCK, image, 0, BLOCK_SIZE).unwrap();
        assert_eq!(world.vms[vm].space.fork_promise(), world.vms[vm].space.owned_pages());
        assert!(world.vms[vm].space.owned_pages() <= 1);
        let none: Result<(), OutOfMemory> = world.set_promise(vm, 0);
        assert_eq!(none, Ok(()));
    });
}
