//! True Random Number Generator firmware interface 1.0 (DEN0098). Before: [`super::dispatch`]; after:
//! [`crate::entropy`].

use super::{Action, NOT_SUPPORTED};

const VERSION: u32 = 0x8400_0050;
const FEATURES: u32 = 0x8400_0051;
const GET_UUID: u32 = 0x8400_0052;
const RND32: u32 = 0x8400_0053;
const RND64: u32 = 0xc400_0053;

const VERSION_1_0: u64 = 0x1_0000;
const INVALID_PARAMETERS: u64 = -2i64 as u64;
const NO_ENTROPY: u64 = -3i64 as u64;

/// The UUID of this source: 4cd1a1f0-8c26-4f4f-a8a4-6f1c37be7d02.
pub const UUID: [u8; 16] =
    [0x4c, 0xd1, 0xa1, 0xf0, 0x8c, 0x26, 0x4f, 0x4f, 0xa8, 0xa4, 0x6f, 0x1c, 0x37, 0xbe, 0x7d, 0x02];

/// Where random bytes come from.
pub trait Entropy {
    /// Fills `words` with bits that nobody else has seen or can guess. Returns false if there are none now.
    fn fill(&mut self, words: &mut [u64; 3]) -> bool;
}

/// Returns true for functions of this service: owner 4, numbers 0x50 to 0x5f.
pub const fn owns(id: u32) -> bool {
    id & !(1 << 30) & !0xf == VERSION
}

/// Returns true if the function exists.
pub const fn is_implemented(id: u32) -> bool {
    matches!(id, VERSION | FEATURES | GET_UUID | RND32 | RND64)
}

/// Answers a function of this service. `argument` is x1.
pub fn call(id: u32, argument: u64, entropy: &mut dyn Entropy) -> Action {
    match id {
        VERSION => Action::Return(VERSION_1_0),
        FEATURES => Action::Return(if is_implemented(argument as u32) { 0 } else { NOT_SUPPORTED }),
        GET_UUID => Action::Return4(uuid_registers(&UUID)),
        RND32 => random(u64::from(argument as u32), 32, entropy),
        RND64 => random(argument, 64, entropy),
        _ => Action::Return(NOT_SUPPORTED),
    }
}

/// Answers TRNG_RND: x3 holds the least significant bits, then x2, then x1; bits that were not asked for are zero
/// (DEN0098 2.5).
fn random(bits: u64, register_bits: u32, entropy: &mut dyn Entropy) -> Action {
    if bits == 0 || bits > 3 * u64::from(register_bits) {
        return Action::Return(INVALID_PARAMETERS);
    }
    let mut words = [0; 3];
    if !entropy.fill(&mut words) {
        return Action::Return(NO_ENTROPY);
    }
    let mut left = bits as u32;
    for word in &mut words {
        let here = left.min(register_bits);
        *word &= u64::MAX.checked_shr(64 - here).unwrap_or(0);
        left -= here;
    }
    let [low, middle, high] = words;
    Action::Return4([0, high, middle, low])
}

/// Returns x0 to x3 of a call that answers a UUID: four bytes to a register, the first in bits 7:0 (SMCCC 6.2).
pub(super) const fn uuid_registers(uuid: &[u8; 16]) -> [u64; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *uuid;
    [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l]), word([m, n, o, p])]
}

const fn word(bytes: [u8; 4]) -> u64 {
    u32::from_le_bytes(bytes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ones;
    impl Entropy for Ones {
        fn fill(&mut self, words: &mut [u64; 3]) -> bool {
            *words = [u64::MAX; 3];
            true
        }
    }

    struct Dry;
    impl Entropy for Dry {
        fn fill(&mut self, _: &mut [u64; 3]) -> bool {
            false
        }
    }

    #[test]
    fn a_guest_gets_as_many_bits_as_it_asks_for() {
        for (id, width) in [(RND32, 32u32), (RND64, 64)] {
            for bits in 1..=3 * width {
                let Action::Return4([0, high, middle, low]) = call(id, u64::from(bits), &mut Ones) else { panic!() };
                assert_eq!(high.count_ones() + middle.count_ones() + low.count_ones(), bits);
                assert_eq!(low.count_ones(), bits.min(width));
                assert!(low.trailing_ones() == low.count_ones() && high.trailing_ones() == high.count_ones());
                assert!((middle == 0 || low.count_ones() == width) && (high == 0 || middle.count_ones() == width));
            }
            for bits in [0, u64::from(3 * width) + 1] {
                assert_eq!(call(id, bits, &mut Ones), Action::Return(INVALID_PARAMETERS));
            }
        }
        assert_eq!(call(RND64, u64::MAX, &mut Ones), Action::Return(INVALID_PARAMETERS));
        assert!(matches!(call(RND32, 0xffff_ffff_0000_0001, &mut Ones), Action::Return4(_)), "w1 counts");
        assert_eq!(call(RND64, 64, &mut Dry), Action::Return(NO_ENTROPY));
    }

    #[test]
    fn linux_finds_the_generator() {
        assert_eq!(call(VERSION, 0, &mut Dry), Action::Return(0x10000));
        assert_eq!(call(FEATURES, u64::from(RND64), &mut Dry), Action::Return(0));
        assert_eq!(call(FEATURES, 0x8400_0054, &mut Dry), Action::Return(NOT_SUPPORTED));
        let Action::Return4([first, ..]) = call(GET_UUID, 0, &mut Dry) else { panic!() };
        assert_eq!(first, 0xf0a1_d14c);
    }
}
