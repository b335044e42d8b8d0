//! Stories of updates on a simulated flash, with the power cut at every write of each.

use super::*;
use crate::bundle::{Contents, write as write_head};
use crate::flash::simulated::Simulated;
use crate::slots;
use ed25519_compact::{KeyPair, Seed};
use salp_hvc::update::{FORMATS, MAX_ATTEMPTS};
use std::sync::LazyLock;
use std::vec;
use std::vec::Vec;

const BLOCK: u64 = 4096;
const CLASS: [u8; 16] = [7; 16];
/// More than one block, and no whole pages.
const IMAGE: usize = 4801;

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::from_seed(Seed::new([3; 32])));
static KEYS: LazyLock<[bundle::Key; 1]> = LazyLock::new(|| [*KEY.pk]);
static BUNDLES: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| [0, 1, 2, 3].map(make));

/// Returns a bundle whose image consists of its counter.
fn make(counter: u64) -> Vec<u8> {
    make_of(counter, IMAGE)
}

fn make_of(counter: u64, size: usize) -> Vec<u8> {
    let image = vec![counter as u8; size];
    let (size, digest) = (size as u64, crate::digest::of(&image));
    let contents = Contents { version: "1", counter, class: CLASS, formats: FORMATS, size, digest };
    let mut head = [0; HEAD];
    let head = write_head(&contents, |message| *KEY.sk.sign(message, None), &mut head).unwrap();
    [head, &image].concat()
}

fn host() -> Host<'static> {
    Host { keys: &*KEYS, classes: &[CLASS], formats: FORMATS, room: 64 << 10 }
}

/// A flash with the first bundle in slot A, confirmed.
fn fresh() -> Simulated {
    static FRESH: LazyLock<Simulated> = LazyLock::new(filled);
    FRESH.clone()
}

fn filled() -> Simulated {
    let mut flash = Simulated::new(layout::SLOTS[1] + layout::SLOT_SIZE, BLOCK);
    let bundle = &BUNDLES[1];
    flash.bytes[layout::SLOTS[0] as usize..][..bundle.len()].copy_from_slice(bundle);
    slots::write(&mut flash, &Control::new(Slot::A, 1)).unwrap();
    flash
}

/// Boots, and returns the slot and the counter that its image consists of.
fn boot(flash: &mut Simulated) -> (Slot, u8) {
    let mut memory = vec![0; 64 << 10];
    let started = boot::start::<Sha256>(flash, &host(), &mut memory).expect("a slot boots");
    let image = &memory[..started.bundle.manifest.size as usize];
    assert!(image.iter().all(|&byte| byte == image[0]), "a whole image");
    assert_eq!(u64::from(image[0]), started.bundle.manifest.counter);
    (started.slot, image[0])
}

fn updater(flash: &Simulated, running: Slot) -> Updater {
    Updater::new(flash, &*KEYS, Some(running))
}

/// Does it again until the flash was ready for it.
fn until_done(mut f: impl FnMut() -> Result<(), UpdateError>) -> Result<(), UpdateError> {
    for _ in 0..1_000_000 {
        match f() {
            Err(UpdateError::Busy) => {}
            result => return result,
        }
    }
    panic!("it is busy for ever");
}

fn settle(updater: &mut Updater, flash: &mut Simulated) -> Result<(), UpdateError> {
    until_done(|| updater.step(flash))
}

fn upload(updater: &mut Updater, flash: &mut Simulated, bytes: &[u8], part: usize) -> Result<(), UpdateError> {
    until_done(|| updater.begin(flash, bytes.len() as u64))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = updater.write(flash, &host(), &rest[..rest.len().min(part)])?;
        rest = &rest[taken..];
    }
    until_done(|| updater.finish(flash, &host()))?;
    settle(updater, flash)
}

fn order(
    updater: &mut Updater,
    flash: &mut Simulated,
    what: fn(&mut Updater, &mut Simulated) -> Result<(), UpdateError>,
) -> Result<(), UpdateError> {
    until_done(|| what(updater, flash))?;
    settle(updater, flash)
}

/// What a test does with a flash, resets included.
type Story = fn(&mut Simulated) -> Result<(), UpdateError>;

fn update_and_confirm(flash: &mut Simulated) -> Result<(), UpdateError> {
    let mut now = updater(flash, Slot::A);
    upload(&mut now, flash, &BUNDLES[2], 4096)?;
    order(&mut now, flash, Updater::activate)?;
    let (slot, _) = boot(flash);
    order(&mut updater(flash, slot), flash, Updater::confirm)
}

fn update_without_confirmation(flash: &mut Simulated) -> Result<(), UpdateError> {
    let mut now = updater(flash, Slot::A);
    upload(&mut now, flash, &BUNDLES[2], 777)?;
    order(&mut now, flash, Updater::activate)?;
    for _ in 0..=MAX_ATTEMPTS {
        boot(flash);
    }
    Ok(())
}

fn update_and_cancel(flash: &mut Simulated) -> Result<(), UpdateError> {
    let mut now = updater(flash, Slot::A);
    upload(&mut now, flash, &BUNDLES[2], 4096)?;
    order(&mut now, flash, Updater::activate)?;
    order(&mut now, flash, Updater::cancel)
}

fn update_twice(flash: &mut Simulated) -> Result<(), UpdateError> {
    update_and_confirm(flash)?;
    let mut now = updater(flash, Slot::B);
    upload(&mut now, flash, &BUNDLES[3], 4096)?;
    order(&mut now, flash, Updater::activate)?;
    let (slot, _) = boot(flash);
    order(&mut updater(flash, slot), flash, Updater::confirm)
}

fn update_and_go_back(flash: &mut Simulated) -> Result<(), UpdateError> {
    let mut now = updater(flash, Slot::A);
    // Of the same counter: a lower one would be refused.
    upload(&mut now, flash, &make_of(1, 4500), 4096)?;
    order(&mut now, flash, Updater::activate)?;
    let (slot, _) = boot(flash);
    let mut now = updater(flash, slot);
    order(&mut now, flash, Updater::confirm)?;
    order(&mut now, flash, Updater::activate)?;
    let (slot, _) = boot(flash);
    order(&mut updater(flash, slot), flash, Updater::confirm)
}

#[test]
fn an_update_is_tried_and_confirmed() {
    let mut flash = fresh();
    let mut now = updater(&flash, Slot::A);
    upload(&mut now, &mut flash, &BUNDLES[2], 1000).unwrap();
    assert_eq!((now.control.standby, boot(&mut flash)), (Standby::Staged, (Slot::A, 1)));
    order(&mut now, &mut flash, Updater::activate).unwrap();
    assert_eq!(boot(&mut flash), (Slot::B, 2));
    let mut now = updater(&flash, Slot::B);
    let info = now.info();
    assert_eq!((info.running.get(), info.confirmed.get(), info.attempts.get()), (1, 0, 1));
    assert_eq!(info.slots.map(|slot| slot.counter.get()), [1, 2]);
    order(&mut now, &mut flash, Updater::confirm).unwrap();
    assert_eq!((now.control.floor, now.control.standby), (2, Standby::Previous));
    (0..5).for_each(|_| assert_eq!(boot(&mut flash), (Slot::B, 2)));
}

#[test]
fn what_is_never_confirmed_is_tried_so_often_and_then_no_more() {
    let mut flash = fresh();
    let mut now = updater(&flash, Slot::A);
    upload(&mut now, &mut flash, &BUNDLES[2], 4096).unwrap();
    order(&mut now, &mut flash, Updater::activate).unwrap();
    (0..MAX_ATTEMPTS).for_each(|_| assert_eq!(boot(&mut flash), (Slot::B, 2)));
    (0..5).for_each(|_| assert_eq!(boot(&mut flash), (Slot::A, 1)));
    assert_eq!(Control::read(&flash).unwrap().standby, Standby::Failed);
}

#[test]
fn one_can_go_back_to_what_was_confirmed_before() {
    let mut flash = fresh();
    update_and_go_back(&mut flash).unwrap();
    assert_eq!((boot(&mut flash), Control::read(&flash).unwrap().confirmed), ((Slot::A, 1), Slot::A));
}

#[test]
fn an_older_counter_is_not_even_tried_when_one_goes_back() {
    let mut flash = fresh();
    update_and_confirm(&mut flash).unwrap();
    order(&mut updater(&flash, Slot::B), &mut flash, Updater::activate).unwrap();
    assert_eq!(boot(&mut flash), (Slot::B, 2));
}

#[test]
fn the_slot_that_runs_is_never_written() {
    let mut flash = fresh();
    let mut now = updater(&flash, Slot::A);
    upload(&mut now, &mut flash, &BUNDLES[2], 4096).unwrap();
    order(&mut now, &mut flash, Updater::activate).unwrap();
    let (slot, _) = boot(&mut flash);
    let mut now = updater(&flash, slot);
    assert_eq!(now.begin(&mut flash, 5000), Err(UpdateError::WrongState));
    order(&mut now, &mut flash, Updater::cancel).unwrap();
    assert_eq!(now.begin(&mut flash, 5000), Err(UpdateError::WrongState));
}

#[test]
fn each_bad_bundle_is_refused_with_its_reason_and_nothing_has_changed() {
    let good = &BUNDLES[2];
    let strange = KeyPair::from_seed(Seed::new([4; 32]));
    let of = |contents: &Contents<'_>, key: &KeyPair| {
        let mut head = [0; HEAD];
        let head = write_head(contents, |message| *key.sk.sign(message, None), &mut head).unwrap().to_vec();
        [head, vec![2; IMAGE]].concat()
    };
    let (size, digest) = (IMAGE as u64, crate::digest::of(&[2; IMAGE]));
    let plain = Contents { version: "1", counter: 2, class: CLASS, formats: FORMATS, size, digest };
    for (bytes, reason) in [
        (of(&plain, &strange), Refusal::Signature),
        (of(&Contents { class: [8; 16], ..plain }, &KEY), Refusal::Board),
        (BUNDLES[0].clone(), Refusal::Counter),
        (of(&Contents { formats: &FORMATS[..1], ..plain }, &KEY), Refusal::Formats),
        (make_of(2, 65 << 10), Refusal::TooLarge),
        (good[..good.len() - 1].to_vec(), Refusal::Truncated),
        (good[..100].to_vec(), Refusal::Truncated),
        ([&good[..], &[0]].concat(), Refusal::NotABundle),
        (vec![0; 9000], Refusal::NotABundle),
    ] {
        let mut flash = fresh();
        let before = flash.bytes.clone();
        let mut now = updater(&flash, Slot::A);
        assert_eq!(upload(&mut now, &mut flash, &bytes, 4096), Err(UpdateError::Refused(reason)));
        assert!(flash.bytes == before && now.info().refusal.get() == reason as u32, "{reason}");
    }
}

#[test]
fn an_image_that_is_not_the_signed_one_is_never_staged() {
    let mut flash = fresh();
    let mut bytes = BUNDLES[2].clone();
    *bytes.last_mut().unwrap() ^= 1;
    let mut now = updater(&flash, Slot::A);
    assert_eq!(upload(&mut now, &mut flash, &bytes, 4096), Err(UpdateError::Refused(Refusal::Digest)));
    assert_eq!(order(&mut now, &mut flash, Updater::activate), Err(UpdateError::WrongState));
    assert_eq!(boot(&mut flash), (Slot::A, 1));
}

#[test]
fn an_upload_whose_size_nobody_has_said_is_as_long_as_its_bundle_says() {
    let (mut flash, bundle) = (fresh(), &BUNDLES[2]);
    let mut now = updater(&flash, Slot::A);
    let mut send = |bytes: &[u8]| {
        until_done(|| now.begin(&mut flash, 0))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[now.write(&mut flash, &host(), rest)?..];
        }
        until_done(|| now.finish(&mut flash, &host()))?;
        settle(&mut now, &mut flash)
    };
    for count in [0, 100, 4096, bundle.len() - 1] {
        assert_eq!(send(&bundle[..count]), Err(Refusal::Truncated.into()), "{count}");
    }
    assert_eq!(send(&[&bundle[..], &[0]].concat()), Err(Refusal::NotABundle.into()));
    let small = make_of(2, 100);
    assert_eq!(send(&[&small[..], &[0]].concat()), Err(Refusal::NotABundle.into()));
    assert_eq!(send(&small), Ok(()));
    assert_eq!(send(bundle), Ok(()));
}

#[test]
fn an_upload_that_stops_is_no_obstacle_to_the_next() {
    let mut flash = fresh();
    let mut now = updater(&flash, Slot::A);
    now.begin(&mut flash, BUNDLES[2].len() as u64).unwrap();
    let mut sent = 0;
    while sent < 4200 {
        sent += now.write(&mut flash, &host(), &BUNDLES[2][sent..][..100]).unwrap();
    }
    assert_eq!(now.finish(&mut flash, &host()), Err(UpdateError::Refused(Refusal::Truncated)));
    until_done(|| now.begin(&mut flash, 1)).unwrap();
    upload(&mut now, &mut flash, &BUNDLES[3], 4096).unwrap();
    assert_eq!(now.info().slots[1].counter.get(), 3);
}

#[test]
fn a_flash_that_lost_one_copy_of_its_boot_control_boots_as_before() {
    for copy in layout::CONTROL {
        let mut flash = fresh();
        update_and_confirm(&mut flash).unwrap();
        flash.bytes[copy as usize + 20] ^= 4;
        assert_eq!(boot(&mut flash), (Slot::B, 2));
    }
}

#[test]
fn a_flash_that_lost_its_boot_control_boots_the_higher_counter() {
    let mut flash = fresh();
    update_and_confirm(&mut flash).unwrap();
    for copy in layout::CONTROL {
        flash.bytes[copy as usize + 20] ^= 4;
    }
    assert_eq!(boot(&mut flash), (Slot::B, 2));
}

#[test]
fn a_confirmed_slot_that_rots_gives_way_to_the_other() {
    let mut flash = fresh();
    let mut now = updater(&flash, Slot::A);
    upload(&mut now, &mut flash, &BUNDLES[2], 4096).unwrap();
    flash.bytes[layout::SLOTS[0] as usize + 4500] ^= 1;
    assert_eq!(boot(&mut flash), (Slot::B, 2));
    flash.bytes[layout::SLOTS[1] as usize + 3] ^= 1;
    let unusable = boot::start::<Sha256>(&mut flash, &host(), &mut vec![0; 64 << 10]);
    assert_eq!(unusable, Err([Refusal::Digest, Refusal::NotABundle]));
}

/// Cuts the power at every write of a story, boots twice, and checks that what boots is whole, and no older than what was
/// confirmed; then that the story can be told again.
fn cut_everywhere(story: Story) {
    let mut whole = fresh();
    whole.power_on();
    story(&mut whole).expect("without a cut");
    let steps = whole.steps;
    assert!(steps > 20);
    for cut in 0..steps {
        let mut flash = fresh();
        flash.cut_at(cut, cut);
        let _ = story_until_dark(story, &mut flash);
        flash.power_on();
        let control = Control::read(&flash).expect("one copy is whole");
        let (slot, counter) = boot(&mut flash);
        assert!(u64::from(counter) >= control.floor, "cut {cut}: {counter} boots, {control:?}");
        assert!(slot == control.confirmed || matches!(control.standby, Standby::Trial(_)), "cut {cut}: {control:?}");
        // Without confirmation it is the confirmed one again, however long it takes.
        let tries = if matches!(control.standby, Standby::Trial(_)) { MAX_ATTEMPTS } else { 1 };
        let last = (0..tries).map(|_| boot(&mut flash).0).last();
        assert_eq!(last, Some(control.confirmed), "cut {cut}");
    }
}

/// Tells a story; when the power goes, what it does then has no effect, and what it finds does not matter.
fn story_until_dark(story: Story, flash: &mut Simulated) -> std::thread::Result<Result<(), UpdateError>> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(flash)))
}

#[test]
fn power_cut_at_any_write_of_an_update_leaves_what_boots() {
    cut_everywhere(update_and_confirm);
}

#[test]
fn power_cut_at_any_write_of_an_update_that_is_never_confirmed_leaves_what_boots() {
    cut_everywhere(update_without_confirmation);
}

#[test]
fn power_cut_at_any_write_of_a_cancelled_update_leaves_what_boots() {
    cut_everywhere(update_and_cancel);
}

#[test]
fn power_cut_at_any_write_of_two_updates_leaves_what_boots() {
    cut_everywhere(update_twice);
}

#[test]
fn power_cut_at_any_write_of_going_back_leaves_what_boots() {
    cut_everywhere(update_and_go_back);
}
