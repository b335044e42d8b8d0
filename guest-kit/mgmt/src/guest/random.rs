//! Random bytes. Before: everything that is secret. After: the TRNG call (Arm DEN0098).
//!
//! Plain QEMU has no such call. There, and only there, the seed in the device tree is spun out: good enough to try this
//! guest by itself, and said so on the console.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_kit::rt::sysreg;
use guest_kit::{machine, println, psci, salp};
use salp_provider::entropy::Entropy;
use sha2::{Digest, Sha256};

const TRNG_VERSION: u32 = 0x8400_0050;

#[derive(Debug)]
struct Trng;

impl Entropy for Trng {
    fn fill(&self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            // There may be none for a moment.
            let word = loop {
                if let Some(word) = salp::random() {
                    break word;
                }
            };
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
    }
}

/// The device tree's seed, spun out.
#[derive(Debug)]
struct FakeTrng;

impl Entropy for FakeTrng {
    fn fill(&self, out: &mut [u8]) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        for piece in out.chunks_mut(32) {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let hash = Sha256::new()
                .chain_update(machine::seed())
                .chain_update(count.to_le_bytes())
                .chain_update(sysreg::cntvct().to_le_bytes())
                .finalize();
            piece.copy_from_slice(&hash[..piece.len()]);
        }
    }
}

/// Returns where random bytes come from.
///
/// # Panics
///
/// If there is nowhere.
pub fn source() -> &'static dyn Entropy {
    if psci::call(TRNG_VERSION, [0; 3]) >= 0 {
        return &Trng;
    }
    assert!(machine::seed().len() >= 16, "there is no source of random bytes");
    println!("mgmt: no TRNG: random bytes are FAKE, spun out of the device tree's seed");
    &FakeTrng
}
