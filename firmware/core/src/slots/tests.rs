use super::*;
use crate::flash::simulated::Simulated;
use proptest::prelude::*;

#[test]
fn a_copy_is_read_back_and_any_bit_counts() {
    let control = Control { sequence: 7, floor: 3, confirmed: Slot::B, standby: Standby::Trial(2) };
    let bytes = control.to_bytes();
    assert_eq!(Control::parse(&bytes), Some(control));
    for bit in 0..SIZE * 8 {
        let mut changed = bytes;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Control::parse(&changed), None, "bit {bit}");
    }
}

#[test]
fn what_is_confirmed_is_never_counted() {
    for standby in [Standby::Empty, Standby::Writing, Standby::Staged, Standby::Failed, Standby::Previous] {
        let control = Control { standby, ..Control::new(Slot::A, 0) };
        assert_eq!(control.next_start(), (Slot::A, None), "{standby:?}");
    }
}

#[test]
fn only_the_slot_that_runs_and_is_tried_is_confirmed() {
    let trial = Control { standby: Standby::Trial(1), ..Control::new(Slot::A, 4) };
    assert!(trial.confirm(Some(Slot::A), 9).is_err() && trial.confirm(None, 9).is_err());
    let confirmed = trial.confirm(Some(Slot::B), 9).unwrap();
    assert_eq!((confirmed.confirmed, confirmed.floor, confirmed.standby), (Slot::B, 9, Standby::Previous));
    assert!(confirmed.confirm(Some(Slot::B), 9).is_err());
}

#[test]
fn the_copy_that_is_not_whole_is_written_first() {
    let mut flash = Simulated::new(layout::SLOTS[0], 4096);
    write(&mut flash, &Control::new(Slot::A, 0)).unwrap();
    flash.bytes[layout::CONTROL[1] as usize] = 0;
    let next = Control::new(Slot::A, 0).with(Standby::Staged);
    // Erasing takes two steps: the power goes in the middle of the other copy's.
    flash.cut_at(2 + SIZE as u64 / 4, 1);
    let _ = write(&mut flash, &next);
    flash.power_on();
    assert_eq!(Control::copies(&flash), [None, Some(next)]);
}

proptest! {
    #[test]
    fn any_bytes_are_no_copy(bytes in proptest::array::uniform32(any::<u8>()), more in proptest::array::uniform16(any::<u8>())) {
        let mut copy = [0; SIZE];
        copy.iter_mut().zip(bytes.iter().chain(&more)).for_each(|(place, byte)| *place = *byte);
        prop_assert_eq!(Control::parse(&copy), None);
    }

    #[test]
    fn orders_in_any_sequence_never_take_the_confirmed_slot_s_standing(orders in proptest::collection::vec(0_u8..6, 0..40)) {
        let mut control = Control::new(Slot::A, 0);
        let mut running = Slot::A;
        for order in orders {
            let next = match order {
                0 => control.begin(Some(running)),
                1 => control.finish(),
                2 => control.activate(),
                3 => control.cancel(),
                4 => control.confirm(Some(running), 0),
                _ => {
                    let (slot, counted) = control.next_start();
                    running = slot;
                    Ok(counted.unwrap_or(control))
                }
            };
            let Ok(next) = next else { continue };
            // Only the confirmation of the slot that runs makes another one confirmed.
            prop_assert!(next.confirmed == control.confirmed || (order == 4 && next.confirmed == running));
            prop_assert!(next.standby != Standby::Writing || running != next.standby_slot());
            prop_assert_eq!(Control::parse(&next.to_bytes()), Some(next));
            control = next;
        }
    }
}
