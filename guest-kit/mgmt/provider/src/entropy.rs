//! Random bytes for keys, passwords and tokens. Before: the TRNG call of EL2. After: [`auth`](crate::auth) and TLS.

use core::fmt::Debug;

/// A source of random bytes that nobody can guess.
pub trait Entropy: Debug + Send + Sync {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]);
}
