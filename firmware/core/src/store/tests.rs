use super::*;
use crate::flash::simulated::Simulated;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const BLOCK: u64 = 4096;
const HALF: u64 = 32 * BLOCK;
const HALVES: [u64; 2] = [0, HALF];

fn fresh() -> Simulated {
    Simulated::new(2 * HALF, BLOCK)
}

fn open(flash: &Simulated) -> Store {
    let mut store = Store::new(HALVES, HALF);
    store.load(flash);
    store
}

fn put(store: &mut Store, flash: &mut Simulated, key: usize, bytes: &[u8]) {
    store.put(key, bytes.len(), |room| room.copy_from_slice(bytes)).unwrap();
    settle(store, flash);
}

fn settle(store: &mut Store, flash: &mut Simulated) {
    while !store.step(flash).unwrap() {}
}

fn get(store: &Store, flash: &Simulated, key: usize) -> Vec<u8> {
    let mut bytes = vec![0; store.size(key)];
    store.read(flash, key, 0, &mut bytes);
    bytes
}

#[test]
fn records_are_there_after_a_reset() {
    let mut flash = fresh();
    let mut store = open(&flash);
    assert_eq!(store.size(0), 0);
    put(&mut store, &mut flash, 3, b"three");
    put(&mut store, &mut flash, 5, &[5; MAX]);
    put(&mut store, &mut flash, 3, b"another three");
    for store in [store, open(&flash)] {
        assert_eq!((get(&store, &flash, 3), get(&store, &flash, 5)), (b"another three".to_vec(), vec![5; MAX]));
        let mut part = [0; 5];
        store.read(&flash, 3, 8, &mut part);
        assert_eq!(&part, b"three");
    }
}

#[test]
fn a_store_goes_on_from_a_record_of_it() {
    let mut flash = fresh();
    let mut store = open(&flash);
    let mut next = Store::new(HALVES, HALF);
    assert!(next.resume(&store.record().unwrap()), "an empty one");
    store.put(3, 5, |room| room.copy_from_slice(b"three")).unwrap();
    assert_eq!(store.record(), None, "it is written to");
    settle(&mut store, &mut flash);
    let record = store.record().unwrap();
    assert!(next.resume(&record));
    assert_eq!(get(&next, &flash, 3), b"three");
    put(&mut next, &mut flash, 4, b"four");
    settle(&mut next, &mut flash);
    assert_eq!((get(&open(&flash), &flash, 3), get(&open(&flash), &flash, 4)), (b"three".to_vec(), b"four".to_vec()));
    let mut outside = record;
    outside.index[0] = [HALVES[1] + HALF - 4, 5];
    assert!(!next.resume(&outside));
}

#[test]
fn what_is_removed_is_gone() {
    let mut flash = fresh();
    let mut store = open(&flash);
    put(&mut store, &mut flash, 1, b"one");
    put(&mut store, &mut flash, 1, b"");
    assert_eq!((store.size(1), open(&flash).size(1)), (0, 0));
}

#[test]
fn what_cannot_be_a_record_is_refused() {
    let mut flash = fresh();
    let mut store = open(&flash);
    assert_eq!(store.put(KEYS, 1, |_| ()), Err(StoreError::Invalid));
    assert_eq!(store.put(0, MAX + 1, |_| ()), Err(StoreError::Invalid));
    store.put(0, 1, |_| ()).unwrap();
    assert_eq!(store.put(0, 1, |_| ()), Err(StoreError::Busy));
    settle(&mut store, &mut flash);
}

#[test]
fn a_full_half_gives_way_to_the_other_and_nothing_is_lost() {
    let mut flash = fresh();
    let mut store = open(&flash);
    put(&mut store, &mut flash, 0, b"for ever");
    let rounds = 2 * HALF as usize / MAX + 10;
    for round in 0..rounds {
        put(&mut store, &mut flash, 1 + round % 3, &[round as u8; MAX]);
    }
    assert!(store.generation >= 3);
    let store = open(&flash);
    assert_eq!(get(&store, &flash, 0), b"for ever");
    let last = rounds - 1;
    assert_eq!(get(&store, &flash, 1 + last % 3), [last as u8; MAX]);
}

/// Cuts the power at every write of `story`'s last record, and checks that all records are as before or as after it.
fn cut_everywhere(prepared: &Simulated, key: usize, new: &[u8]) {
    let before = open(prepared);
    let old: Vec<_> = (0..KEYS).map(|key| get(&before, prepared, key)).collect();
    let mut whole = prepared.clone();
    whole.power_on();
    put(&mut open(&whole), &mut whole, key, new);
    for cut in 0..whole.steps {
        let mut flash = prepared.clone();
        let mut store = open(&flash);
        flash.cut_at(cut, cut);
        store.put(key, new.len(), |room| room.copy_from_slice(new)).unwrap();
        settle(&mut store, &mut flash);
        flash.power_on();
        let mut store = open(&flash);
        for (other, old) in old.iter().enumerate() {
            let now = get(&store, &flash, other);
            assert!(now == *old || (other == key && now == new), "cut {cut}: record {other} is {now:?}");
        }
        // It goes on from there.
        put(&mut store, &mut flash, 7, b"later");
        let store = open(&flash);
        assert_eq!(get(&store, &flash, 7), b"later", "cut {cut}");
        for (other, old) in old.iter().enumerate().filter(|&(other, _)| other != 7) {
            let now = get(&store, &flash, other);
            assert!(now == *old || (other == key && now == new), "cut {cut}, then record {other} is {now:?}");
        }
    }
}

#[test]
fn power_cut_at_any_write_of_a_record_leaves_the_old_or_the_new_one() {
    let mut flash = fresh();
    let mut store = open(&flash);
    put(&mut store, &mut flash, 0, b"zero");
    put(&mut store, &mut flash, 1, &[1; 3000]);
    // It goes over the end of a block.
    cut_everywhere(&flash, 1, &[2; 1200]);
}

#[test]
fn power_cut_at_any_write_while_records_move_leaves_all_of_them() {
    let mut flash = fresh();
    let mut store = open(&flash);
    put(&mut store, &mut flash, 0, b"zero");
    put(&mut store, &mut flash, 1, &[1; 700]);
    // Something unfinished is behind them.
    flash.bytes[store.end as usize] = 0;
    cut_everywhere(&flash, 0, b"a new zero");
}

proptest! {
    #[test]
    fn any_orders_leave_what_a_map_would_hold(orders in proptest::collection::vec((0_usize..KEYS, 0_usize..600, any::<bool>()), 1..12)) {
        let mut flash = fresh();
        let mut store = open(&flash);
        let mut model = vec![Vec::new(); KEYS];
        for (key, size, reset) in orders {
            let bytes = vec![size as u8; size];
            put(&mut store, &mut flash, key, &bytes);
            model[key] = bytes;
            if reset {
                store = open(&flash);
            }
            for (key, bytes) in model.iter().enumerate() {
                prop_assert_eq!(&get(&store, &flash, key), bytes);
            }
        }
    }

    #[test]
    fn any_bytes_as_a_log_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..700) {
        let mut flash = fresh();
        let mut store = open(&flash);
        put(&mut store, &mut flash, 2, b"two");
        let start = HALVES[store.half] as usize + at;
        flash.bytes[start..start + bytes.len()].copy_from_slice(&bytes);
        let store = open(&flash);
        (0..KEYS).for_each(|key| assert!(get(&store, &flash, key).len() <= MAX));
    }
}
