//! Random bytes for guests: a generator for the machine, and one for each VM made from it. Used by
//! [`crate::calls::trng`] and by the VM that makes identities.
//!
//! ChaCha20 with fast key erasure: each draw starts from the key, its first 32 bytes replace the key, the rest is output.
//! What was drawn cannot be found from the state that is left. The state is one key, so a record can hold it.

use crate::calls::trng::Entropy;
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// A generator of random bytes. It is not `Clone`: two VMs with one state would draw the same bytes, so a clone gets
/// [`Drbg::fork`].
#[derive(PartialEq, Eq)]
pub struct Drbg {
    key: [u8; 32],
}

impl Drbg {
    /// Returns a generator made from `seed`, which may have any length; its bytes need not be uniform. What is drawn is as
    /// unpredictable as the seed.
    pub fn new(seed: &[u8]) -> Self {
        let mut drbg = Self { key: [0; 32] };
        drbg.reseed(seed);
        drbg
    }

    /// Mixes `seed` in. A bad seed does no harm to what was there.
    pub fn reseed(&mut self, seed: &[u8]) {
        for chunk in seed.chunks(self.key.len()) {
            for (key, byte) in self.key.iter_mut().zip(chunk) {
                *key ^= byte;
            }
            self.draw(&mut []);
        }
        // The length, so that a seed and the same seed with zeros behind differ.
        for (key, byte) in self.key.iter_mut().zip((seed.len() as u64).to_le_bytes()) {
            *key ^= byte;
        }
        self.draw(&mut []);
    }

    /// Returns a new generator whose output is unrelated to what this one gives from now on: what a VM gets from the
    /// machine's generator, and a clone gets instead of a copy of its source's.
    pub fn fork(&mut self) -> Self {
        let mut key = [0; 32];
        self.draw(&mut key);
        Self { key }
    }

    /// Fills `bytes` with random bytes.
    pub fn draw(&mut self, bytes: &mut [u8]) {
        let mut stream = ChaCha20Rng::from_seed(self.key);
        stream.fill_bytes(&mut self.key);
        stream.fill_bytes(bytes);
    }

    /// Returns the state, for a record that one VM continues from and no other.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.key
    }

    /// Returns the generator whose state was saved.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        Self { key }
    }
}

impl Entropy for Drbg {
    fn fill(&mut self, words: &mut [u64; 3]) -> bool {
        let mut bytes = [0; 24];
        self.draw(&mut bytes);
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        true
    }
}

impl core::fmt::Debug for Drbg {
    /// Shows nothing of the state: logs are not secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Drbg")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::tests::rounds;

    fn drawn(drbg: &mut Drbg) -> [u8; 48] {
        let mut bytes = [0; 48];
        drbg.draw(&mut bytes);
        bytes
    }

    #[test]
    fn the_stream_is_chacha20() {
        // RFC 8439 appendix A.1, test vector 1: key and nonce zero, block 0.
        let mut drbg = Drbg::from_bytes([0; 32]);
        let output = drawn(&mut drbg);
        assert_eq!(drbg.to_bytes()[..8], [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
        assert_eq!(output[..8], [0xda, 0x41, 0x59, 0x7c, 0x51, 0x57, 0x48, 0x8d]);
    }

    #[test]
    fn siblings_and_source_share_nothing() {
        let mut root = Drbg::new(b"seed");
        let mut seen = std::collections::HashSet::new();
        for _ in 0..rounds(1_000) {
            let mut vm = root.fork();
            assert!(seen.insert(drawn(&mut vm)) && seen.insert(drawn(&mut vm)));
            assert!(seen.insert(drawn(&mut vm.fork())));
        }
        assert!(seen.insert(drawn(&mut root)));
    }

    #[test]
    fn every_byte_of_a_seed_counts() {
        let mut outputs = std::collections::HashSet::new();
        for length in 0..if cfg!(miri) { 6 } else { 100 } {
            assert!(outputs.insert(drawn(&mut Drbg::new(&vec![0; length]))));
            for at in 0..length {
                let mut seed = vec![0; length];
                seed[at] = 1;
                assert!(outputs.insert(drawn(&mut Drbg::new(&seed))), "{length} {at}");
            }
        }
    }

    #[test]
    fn reseeding_changes_what_comes_and_a_saved_state_goes_on() {
        let mut a = Drbg::new(b"x");
        let mut b = Drbg::from_bytes(a.to_bytes());
        assert_eq!(drawn(&mut a), drawn(&mut b));
        b.reseed(&[0]);
        assert_ne!(drawn(&mut a), drawn(&mut b));
        assert_eq!(format!("{a:?}"), "Drbg");
    }
}
