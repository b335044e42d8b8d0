//! Records as a version to come might have them: a build of tests hands over to and from an image that has them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which vCPUs are on: PSCI.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Power {
    /// The sum of all words of `states`, as [`Power::new`] adds them up.
    pub sum: u64,
    /// Of each vCPU: as [`PowerV1::states`].
    pub states: [[u64; 3]; 8],
    /// Zero.
    pub reserved: [u64; 2],
}

impl Power {
    /// Returns the record of these states.
    pub fn new(states: [[u64; 3]; 8]) -> Self {
        let sum = states.as_flattened().iter().fold(0, |sum: u64, word| sum.rotate_left(1) ^ word);
        Self { sum, states, reserved: [0; 2] }
    }
}

/// How many parts a VM has: an optional kind, [`kind::PARTS`](super::kind::PARTS).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Parts {
    /// vCPUs.
    pub vcpus: u32,
    /// NICs.
    pub nics: u32,
}
