//! Figures of the network: what the guest `net` measures.
//!
//! Comes after [`figures`], whose rules hold here too.

use crate::figures::{self, Figure};
use crate::{Setup, guest};
use std::collections::BTreeMap;

/// What is compared, in instructions of EL2 for each frame.
#[rustfmt::skip]
pub const FIGURES: [Figure; 3] = [
    figure("frame_1500", "frame of 1,500 bytes, of 64", 3_000),
    figure("frame_1500_alone", "frame of 1,500 bytes, alone", 6_000),
    figure("frame_64k", "frame of 64 KiB to be cut", 20_000),
];

const fn figure(name: &'static str, about: &'static str, goal: u64) -> Figure {
    Figure { name, about, xen: None, kvm: None, goal, budget: goal }
}

/// Returns the figures, by name.
///
/// # Panics
///
/// If the machine does not end well.
pub fn measure() -> BTreeMap<String, u64> {
    let ended = Setup::of(guest("net").nic("lan").nic("lan")).cpus(1).icount().run().all_off();
    ended.lines("net").into_iter().filter_map(figures::read).collect()
}
