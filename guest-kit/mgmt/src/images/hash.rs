//! SHA-256 (FIPS 180-4) that can be interrupted: its state after whole blocks is 32 bytes, which fit a label. Before:
//! [`upload`](super::upload). After: nothing.

use sha2::block_api::compress256;

/// The size of a block, in bytes.
pub const BLOCK: usize = 64;

/// The state before the first byte.
pub const START: [u8; 32] = {
    let words: [u32; 8] =
        [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
    let mut bytes = [0; 32];
    let mut index = 0;
    while index < 32 {
        bytes[index] = words[index / 4].to_be_bytes()[index % 4];
        index += 1;
    }
    bytes
};

/// A hash of what has come so far.
#[derive(Clone, Debug)]
pub struct Hash {
    state: [u32; 8],
    rest: [u8; BLOCK],
    length: u64,
}

impl Hash {
    /// Returns the hash with this state behind the whole blocks of `length` bytes, of which `rest` are the last ones, less
    /// than a block.
    pub fn resume(state: &[u8; 32], length: u64, rest: &[u8]) -> Self {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(state.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let mut hash = Self { state: words, rest: [0; BLOCK], length };
        hash.rest[..rest.len()].copy_from_slice(rest);
        hash
    }

    /// Returns the state behind the whole blocks.
    pub fn state(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        bytes
    }

    /// Takes bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        let held = (self.length % BLOCK as u64) as usize;
        self.length += bytes.len() as u64;
        if held > 0 {
            let taken = bytes.len().min(BLOCK - held);
            self.rest[held..held + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if held + taken < BLOCK {
                return;
            }
            compress256(&mut self.state, &[self.rest]);
        }
        let (blocks, rest) = bytes.as_chunks();
        compress256(&mut self.state, blocks);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// Returns the hash of all that was taken.
    pub fn finish(mut self) -> [u8; 32] {
        let held = (self.length % BLOCK as u64) as usize;
        let bits = (self.length * 8).to_be_bytes();
        self.rest[held] = 0x80;
        self.rest[held + 1..].fill(0);
        if held >= BLOCK - 8 {
            compress256(&mut self.state, &[self.rest]);
            self.rest.fill(0);
        }
        self.rest[BLOCK - 8..].copy_from_slice(&bits);
        compress256(&mut self.state, &[self.rest]);
        self.state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    proptest! {
        #[test]
        fn interruptions_do_not_change_the_hash(pieces in proptest::collection::vec(0usize..200, 0..8)) {
            let whole: Vec<u8> = (0..pieces.iter().sum::<usize>()).map(|at| at as u8).collect();
            let (mut hash, mut at) = (Hash::resume(&START, 0, &[]), 0);
            for piece in pieces {
                hash.update(&whole[at..at + piece]);
                at += piece;
                hash = Hash::resume(&hash.state(), at as u64, &whole[at - at % BLOCK..at]);
            }
            prop_assert_eq!(hash.finish(), <[u8; 32]>::from(Sha256::digest(&whole)));
        }
    }
}
