//! Random operations in any order.

use super::world::{BANKS, SLOTS, World, first_word, places};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE};
use crate::frames::OutOfMemory;
use crate::stage2::{Fault, ForkError, IDENTITY_PAGE, PinError, Policy, RevertError};
use crate::testing::Machine;
use proptest::prelude::*;

/// The size of a large image: a block and some pages.
const IMAGE_SIZE: u64 = BLOCK_SIZE + 5 * PAGE_SIZE;

/// What VMs have of an image: where, from which offset, how many bytes. A block, and pages that do not lie alike.
const IMAGE_PARTS: [(u64, u64, u64); 3] = [
    (0x7fe0_0000, 0, BLOCK_SIZE),
    (0x7fd8_0000, 0x3000, 3 * PAGE_SIZE - 8),
    (0x8020_4000, BLOCK_SIZE - PAGE_SIZE, 2 * PAGE_SIZE),
];

/// Where images are written.
const IMAGE_PLACES: [u64; 6] = [0, 0x3ff0, 0x5008, 0x4_2010, BLOCK_SIZE - 16, BLOCK_SIZE + 2 * PAGE_SIZE];

#[derive(Clone, Debug)]
enum Op {
    Create { small: bool, image: bool, from: Option<usize> },
    CreateImage { small: bool },
    FillImage { image: usize, place: usize, words: Vec<u64> },
    FinishImage { image: usize },
    DeleteImage { image: usize },
    Write { vm: usize, cpu: usize, place: usize, word: u64, value: u64 },
    Read { vm: usize, cpu: usize, place: usize, word: u64 },
    DeviceWrite { vm: usize, place: usize, word: u64, words: Vec<u64> },
    Fork { vm: usize },
    Seal { vm: usize },
    Revert { vm: usize, to: usize },
    Destroy { vm: usize },
    Pin { vm: usize, place: usize },
    Unpin { vm: usize, place: usize },
    PutIdentity { vm: usize, identity: u128 },
    Promise { vm: usize, frames: usize },
    PromiseFork { vm: usize },
    Merge { vm: usize, pages: usize, meanwhile: Option<(usize, u64, u64)> },
    ReleaseUnused { slots: usize },
    ReleaseAll,
    DropOrphans,
    Squeeze { left: usize },
    Relax,
}

fn op() -> impl Strategy<Value = Op> {
    // Few values in few words, so that pages are equal now and then.
    let (vm, place) = (0..64usize, 0..64usize);
    let word = prop_oneof![0..2u64, 0..512u64];
    let value = prop_oneof![0..3u64, any::<u64>()];
    prop_oneof![
        2 => (any::<bool>(), any::<bool>(), prop::option::of(0..4usize))
            .prop_map(|(small, image, from)| Op::Create { small, image, from }),
        1 => any::<bool>().prop_map(|small| Op::CreateImage { small }),
        3 => (0..4usize, 0..64usize, prop::collection::vec(any::<u64>(), 1..20))
            .prop_map(|(image, place, words)| Op::FillImage { image, place, words }),
        2 => (0..4usize).prop_map(|image| Op::FinishImage { image }),
        1 => (0..4usize).prop_map(|image| Op::DeleteImage { image }),
        12 => (vm.clone(), 0..2usize, place.clone(), word.clone(), value)
            .prop_map(|(vm, cpu, place, word, value)| Op::Write { vm, cpu, place, word, value }),
        8 => (vm.clone(), 0..2usize, place.clone(), word.clone())
            .prop_map(|(vm, cpu, place, word)| Op::Read { vm, cpu, place, word }),
        3 => (vm.clone(), place.clone(), word, prop::collection::vec(any::<u64>(), 1..20))
            .prop_map(|(vm, place, word, words)| Op::DeviceWrite { vm, place, word, words }),
        5 => vm.clone().prop_map(|vm| Op::Fork { vm }),
        2 => vm.clone().prop_map(|vm| Op::Seal { vm }),
        2 => (vm.clone(), vm.clone()).prop_map(|(vm, to)| Op::Revert { vm, to }),
        2 => vm.clone().prop_map(|vm| Op::Destroy { vm }),
        1 => (vm.clone(), place.clone()).prop_map(|(vm, place)| Op::Pin { vm, place }),
        1 => (vm.clone(), place).prop_map(|(vm, place)| Op::Unpin { vm, place }),
        2 => (vm.clone(), any::<u128>()).prop_map(|(vm, identity)| Op::PutIdentity { vm, identity }),
        2 => (vm.clone(), 0..40usize).prop_map(|(vm, frames)| Op::Promise { vm, frames }),
        1 => vm.clone().prop_map(|vm| Op::PromiseFork { vm }),
        8 => (vm, prop_oneof![1..20usize, Just(2000)], prop::option::of((0..64usize, 0..2u64, 0..3u64)))
            .prop_map(|(vm, pages, meanwhile)| Op::Merge { vm, pages, meanwhile }),
        2 => (1..20usize).prop_map(|slots| Op::ReleaseUnused { slots }),
        1 => Just(Op::ReleaseAll),
        1 => Just(Op::DropOrphans),
        2 => (0..6usize).prop_map(|left| Op::Squeeze { left }),
        1 => Just(Op::Relax),
    ]
}

/// Does it; if memory runs out, checks that nothing has changed and does it again with more.
fn retry<R, E>(
    world: &mut World<'_>,
    is_memory: impl Fn(&E) -> bool,
    f: impl Fn(&mut World<'_>) -> Result<R, E>,
) -> Result<R, E> {
    match f(world) {
        Err(error) if is_memory(&error) => {
            world.check();
            world.relax();
            let result = match f(world) {
                Err(error) if is_memory(&error) => {
                    for vm in 0..world.vms.len() {
                        world.set_promise(vm, 0).expect("less is always possible");
                    }
                    f(world)
                }
                result => result,
            };
            assert!(!result.as_ref().is_err_and(is_memory), "there is memory now");
            result
        }
        result => result,
    }
}

fn is_memory(fault: &Fault) -> bool {
    *fault == Fault::OutOfMemory
}

fn apply(world: &mut World<'_>, op: &Op) {
    let places = places();
    let at = |place: usize, word: u64| Ipa(places[place % places.len()].0 + word * 8);
    let count = world.vms.len();
    match *op {
        Op::Create { small, image, from } => {
            world.relax();
            if count < 8 {
                for vm in 0..count {
                    world.set_promise(vm, 0).expect("less is always possible");
                }
                let policy = if small { Policy::SmallPages } else { Policy::Blocks };
                let vm = world.create(policy).expect("memory");
                if image {
                    world.map_image(vm);
                }
                let finished = world.images.iter().position(|image| image.is_finished);
                if let Some((image, at)) = finished.zip(from) {
                    for (ipa, offset, bytes) in IMAGE_PARTS.into_iter().skip(at % IMAGE_PARTS.len()) {
                        world.map_from(vm, Ipa(ipa), image, offset, bytes).expect("memory");
                    }
                }
            }
        }
        Op::CreateImage { small } => {
            world.relax();
            if world.images.len() < 2 {
                // It may be that others were promised too much.
                let _ = world.create_image(if small { 3 * PAGE_SIZE } else { IMAGE_SIZE });
            }
        }
        Op::FillImage { .. } | Op::FinishImage { .. } | Op::DeleteImage { .. } if world.images.is_empty() => {}
        Op::FillImage { image, place, ref words } => {
            let image = image % world.images.len();
            let ram = world.images[image].space.ram();
            let offset = IMAGE_PLACES[place % IMAGE_PLACES.len()];
            if !world.images[image].is_finished && ram.contains(&Ipa(ram.start.0 + offset + words.len() as u64 * 8)) {
                world.fill_image(image, offset, words);
            }
        }
        Op::FinishImage { image } => {
            let image = image % world.images.len();
            if !world.images[image].is_finished {
                world.finish_image(image);
            }
        }
        Op::DeleteImage { image } => {
            let image = image % world.images.len();
            if !world.is_used(image) {
                world.delete_image(image);
            }
        }
        Op::DropOrphans => world.drop_orphans(),
        Op::Squeeze { left } => world.squeeze(left),
        Op::Relax => world.relax(),
        _ if count == 0 => {}
        Op::Write { vm, cpu, place, word, value } => {
            retry(world, is_memory, |world| world.guest_write(vm % count, cpu, at(place, word), value)).expect("RAM");
        }
        Op::Read { vm, cpu, place, word } => {
            retry(world, is_memory, |world| world.guest_read(vm % count, cpu, at(place, word))).expect("RAM");
        }
        Op::DeviceWrite { vm, place, word, ref words } => {
            // It may cross into the next page, or leave the RAM.
            match retry(world, is_memory, |world| world.device_write(vm % count, at(place, word), words)) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error, Fault::OutsideRam);
                    let end = at(place, word).0 + words.len() as u64 * 8;
                    assert!(end > super::world::RAM.end.0 || at(place, word) < super::world::RAM.start);
                }
            }
        }
        Op::Fork { vm } => {
            if count < 8 {
                let is_memory = |error: &ForkError| *error == ForkError::OutOfMemory;
                retry(world, is_memory, |world| world.fork(vm % count)).expect("memory");
            }
        }
        Op::Seal { vm } => world.seal(vm % count),
        Op::Revert { vm, to } => {
            if vm % count != to % count {
                let is_pinned = [vm, to].iter().any(|vm| !world.vms[vm % count].pins.is_empty());
                match world.revert(vm % count, to % count) {
                    Ok(()) => assert!(!is_pinned),
                    Err(RevertError::Pinned) => assert!(is_pinned),
                    Err(RevertError::NotASnapshot) => assert!(!world.vms[to % count].is_sealed),
                }
            }
        }
        Op::Destroy { vm } => world.destroy(vm % count),
        Op::Pin { vm, place } => {
            let page = at(place, 0);
            if !world.vms[vm % count].pins.contains_key(&page) {
                let is_memory = |error: &PinError| *error == PinError::Fault(Fault::OutOfMemory);
                match retry(world, is_memory, |world| world.pin(vm % count, page)) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!((error, page), (PinError::Fault(Fault::OutsideRam), IDENTITY_PAGE));
                    }
                }
            }
        }
        Op::PutIdentity { vm, identity } => {
            retry(world, is_memory, |world| world.put_identity(vm % count, identity)).expect("memory");
        }
        Op::Promise { vm, frames } => match world.set_promise(vm % count, frames) {
            Ok(()) => assert_eq!(world.vms[vm % count].space.promise(), frames),
            Err(OutOfMemory) => assert!(frames > world.unpromised()),
        },
        Op::PromiseFork { vm } => {
            let frames = world.vms[vm % count].space.fork_promise();
            let _ = world.set_promise(vm % count, frames);
        }
        Op::Merge { vm, pages, meanwhile } => {
            let vm = vm % count;
            let store = meanwhile.map(|(place, word, value)| (at(place, word), value));
            world.merge_while(vm, pages, store);
        }
        Op::ReleaseUnused { slots } => {
            world.merger.release_unused(&world.machine.frames, slots);
        }
        Op::ReleaseAll => world.merger.release_all(&world.machine.frames),
        Op::Unpin { vm, place } => {
            world.unpin(vm % count, at(place, 0));
        }
    }
    world.check();
}

fn run(ops: &[Op]) {
    let mut storage = Machine::storage(&BANKS);
    let machine = Machine::new(&BANKS, &mut storage, first_word);
    let mut slots = [0; SLOTS];
    let mut world = World::new(&machine, &mut slots);
    let free = world.free();
    let first = world.create(Policy::Blocks).expect("memory");
    world.map_image(first);
    world.check();
    for op in ops {
        apply(&mut world, op);
    }
    for vm in 0..world.vms.len().min(2) {
        world.check_all_bytes(vm);
    }
    world.finish(free);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn vms_that_write_fork_seal_revert_and_die_in_any_order_read_what_they_wrote(
        ops in prop::collection::vec(op(), 1..80)
    ) {
        run(&ops);
    }
}
