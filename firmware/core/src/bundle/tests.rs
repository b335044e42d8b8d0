use super::*;
use ed25519_compact::{KeyPair, Seed};
use proptest::prelude::*;
use std::vec::Vec;

const CLASS_ID: [u8; 16] = [7; 16];
const FORMATS: &[Format] =
    &[Format { name: "store", reads: [1, 3], writes: 3 }, Format { name: "vm", reads: [2, 2], writes: 2 }];

fn keys(number: u8) -> KeyPair {
    KeyPair::from_seed(Seed::new([number; 32]))
}

fn public(number: u8) -> Key {
    *keys(number).pk
}

fn contents(image: &[u8]) -> Contents<'static> {
    let (size, digest) = (image.len() as u64, digest::of(image));
    Contents { version: "1.2.3", counter: 9, class: CLASS_ID, formats: FORMATS, size, digest }
}

fn sealed(contents: &Contents<'_>, key: u8, image: &[u8]) -> Vec<u8> {
    let mut head = [0; HEAD];
    let sign = |message: &[u8]| *keys(key).sk.sign(message, None);
    [write(contents, sign, &mut head).unwrap(), image].concat()
}

fn bundle() -> Vec<u8> {
    let image = [0x5a; 1000];
    sealed(&contents(&image), 1, &image)
}

fn host<'a>(classes: &'a [[u8; 16]], formats: &'a [Format]) -> Host<'a> {
    Host { keys: &[], classes, formats, room: 4096 }
}

#[test]
fn a_bundle_is_read_back_by_who_has_one_of_the_keys() {
    let bytes = bundle();
    let read = open(&bytes, &[public(2), public(1)]).unwrap();
    assert_eq!(&read.manifest.version[..6], b"1.2.3\0");
    assert_eq!((read.manifest.counter, read.manifest.class, read.manifest.size), (9, CLASS_ID, 1000));
    let image = &bytes[read.payload as usize..];
    assert_eq!((image.len(), digest::of(image)), (1000, read.manifest.digest));
    assert_eq!(read.manifest.info().counter.get(), 9);
}

#[test]
fn the_image_need_not_be_there_to_read_what_is_said_of_it() {
    let bytes = bundle();
    let payload = open(&bytes, &[public(1)]).unwrap().payload as usize;
    assert!(open(&bytes[..payload], &[public(1)]).is_ok());
    for end in 0..payload {
        assert_eq!(open(&bytes[..end], &[public(1)]).unwrap_err(), Refusal::Truncated, "{end} bytes");
    }
}

#[test]
fn the_keys_of_others_are_refused() {
    assert_eq!(open(&bundle(), &[public(2)]), Err(Refusal::Signature));
    assert_eq!(open(&bundle(), &[]), Err(Refusal::Signature));
}

#[test]
fn no_bit_of_the_head_can_be_changed() {
    let bytes = bundle();
    let payload = open(&bytes, &[public(1)]).unwrap().payload as usize;
    for bit in 0..payload * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&changed, &[public(1)]).is_err(), "bit {bit}");
    }
}

#[test]
fn the_manifest_of_one_bundle_does_not_go_with_the_signature_of_another() {
    let (one, other) = (bundle(), sealed(&Contents { counter: 8, ..contents(&[0x5a; 1000]) }, 1, &[0x5a; 1000]));
    let at = one.iter().zip(&other).rposition(|(a, b)| a != b).unwrap();
    let mixed = [&one[..at], &other[at..]].concat();
    assert_eq!(open(&mixed, &[public(1)]), Err(Refusal::Signature));
}

#[test]
fn each_thing_that_a_machine_has_against_a_bundle_has_its_reason() {
    let manifest = open(&bundle(), &[public(1)]).unwrap().manifest;
    let (here, elsewhere) = ([CLASS_ID], [[8; 16]]);
    assert_eq!(manifest.check(&host(&here, FORMATS), 9), Ok(()));
    assert_eq!(manifest.check(&host(&elsewhere, FORMATS), 9), Err(Refusal::Board));
    assert_eq!(manifest.check(&host(&here, FORMATS), 10), Err(Refusal::Counter));
    let newer = [Format { name: "store", reads: [4, 4], writes: 4 }];
    assert_eq!(manifest.check(&host(&here, &newer), 9), Err(Refusal::Formats));
    let unknown = [Format { name: "disk", reads: [1, 1], writes: 1 }];
    assert_eq!(manifest.check(&host(&here, &unknown), 9), Err(Refusal::Formats));
    let small = Host { room: 999, ..host(&here, FORMATS) };
    assert_eq!(manifest.check(&small, 9), Err(Refusal::TooLarge));
}

#[test]
fn versions_and_formats_that_make_no_sense_are_refused_though_signed() {
    let image = [0; 300];
    let plain = contents(&image);
    let backwards = [Format { name: "store", reads: [3, 2], writes: 3 }];
    let many = [FORMATS[0]; MAX_FORMATS + 1];
    for bad in [
        Contents { version: "", ..plain },
        Contents { version: "one two", ..plain },
        Contents { version: "0123456789012345678901234567890123456789", ..plain },
        Contents { formats: &backwards, ..plain },
        Contents { formats: &many, ..plain },
        Contents { size: 301, formats: &[Format { name: "a name that is too long", ..FORMATS[0] }], ..plain },
    ] {
        assert_eq!(open(&sealed(&bad, 1, &image), &[public(1)]), Err(Refusal::NotABundle), "{bad:?}");
    }
}

#[test]
fn boards_have_kinds_of_their_own() {
    assert_ne!(class_of("linux,dummy-virt"), class_of("arm,sbsa-ref"));
    assert_eq!(class_of("linux,dummy-virt")[6] >> 4, 8);
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(open(&bytes, &[public(1)]).is_err());
    }

    #[test]
    fn a_signed_manifest_of_any_bytes_is_refused(manifest in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::parse(&manifest).is_err());
    }

    #[test]
    fn a_signed_manifest_with_bytes_changed_makes_sense_or_is_refused(
        at in 0_usize..160, value in any::<u8>(), cut in 0_usize..200
    ) {
        let bytes = bundle();
        let mut envelope = Decoder::new(&bytes);
        let (_, _, _, _) = (envelope.tag().unwrap(), envelope.map().unwrap(), envelope.u64().unwrap(), envelope.bytes().unwrap());
        envelope.u64().unwrap();
        let mut manifest = envelope.bytes().unwrap().to_vec();
        let end = manifest.len();
        manifest[at % end] = value;
        manifest.truncate(end.saturating_sub(cut.saturating_sub(100)));
        if let Ok(read) = Manifest::parse(&manifest) {
            prop_assert!(read.version[0] != 0 && read.version[VERSION - 1] == 0);
        }
    }
}
