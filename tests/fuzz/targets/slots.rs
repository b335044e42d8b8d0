//! Any bytes as boot control: none, or one that can be written again, and from which orders lead to sound ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_core::slots::{Control, SIZE};

fuzz_target!(|bytes: &[u8]| {
    let Some(copy) = bytes.first_chunk::<SIZE>() else { return };
    let Some(control) = Control::parse(copy) else { return };
    assert_eq!(control.to_bytes(), *copy);
    let (slot, counted) = control.next_start();
    assert!(slot == control.confirmed || counted.is_some());
});
