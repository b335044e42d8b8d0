//! SHA-256: by portable code, or by whatever the machine has for it. Before: [`crate::bundle`], [`crate::slots`]; after: the
//! crate `sha2`, or the CPU's own instructions, which only a program without guests can use (their registers are guests').

use sha2::Digest;

/// Makes SHA-256 digests.
pub trait Hasher: Default {
    /// Takes more bytes.
    fn update(&mut self, bytes: &[u8]);

    /// Returns the digest of all of them.
    fn finish(self) -> [u8; 32];
}

/// The portable one.
#[derive(Clone, Debug, Default)]
pub struct Sha256(sha2::Sha256);

impl Hasher for Sha256 {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Returns the digest of `bytes`.
pub fn of(bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::default();
    hash.update(bytes);
    hash.finish()
}

/// Returns the first eight bytes of a digest: a checksum of records that nobody forges, but that may be cut short.
pub fn checksum(bytes: &[u8]) -> u64 {
    of(bytes).first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}
