//! Each version has one layout of a kind, and images find the version that both know.

use super::*;

#[test]
fn the_greatest_version_that_both_images_know_is_taken() {
    let [least, greatest] = VERSIONS;
    assert_eq!(common(VERSIONS), Some(greatest));
    assert_eq!(common([0, least]), Some(least));
    assert_eq!(common([greatest, greatest + 9]), Some(greatest));
    assert_eq!(common([greatest + 1, greatest + 9]), None);
    assert_eq!(common([0, least - 1]), None);
    assert_eq!(common([greatest, least - 1]), None);
}

#[test]
fn every_version_has_a_layout_of_what_must_be_there_and_reads_it() {
    for version in VERSIONS[0]..=VERSIONS[1] {
        for newest in NEWEST {
            let Some(layout) = written(newest.kind, version) else {
                panic!("there is no kind {} in version {version}", newest.kind);
            };
            let head = Record { kind: layout.kind, version: layout.version, length: layout.length as u32, index: 0 };
            assert!(is_known(&head) && layout.since <= version);
        }
    }
    assert!(written(kind::END, VERSIONS[0] - 1).is_none());
}

#[test]
fn a_kind_has_each_version_once_and_the_newer_ones_came_later() {
    assert!(NEWEST.windows(2).all(|pair| pair[0].kind < pair[1].kind), "kinds are not in order");
    for kind in NEWEST.iter().map(|layout| layout.kind) {
        let of_kind: Vec<_> = layouts(kind).collect();
        assert!(of_kind.windows(2).all(|pair| pair[0].version > pair[1].version && pair[0].since > pair[1].since));
    }
}
