//! From "a guest exited" to "go on". Before: the world switch, which leaves ESR, FAR and HPFAR; after: [`crate::calls`]
//! for calls, [`crate::dev`] and [`crate::vgic`] for MMIO.
//!
//! - [`decode`]: what happened.
//! - [`sysreg`], [`idregs`]: what a trapped system register access answers.
//! - [`inject`]: the exception that a guest takes when what it did is not allowed.
//! - [`walk`]: at which level the guest's own table walk went wrong.
//! - [`skip`]: going on after an emulated instruction.

pub mod decode;
pub mod idregs;
pub mod inject;
pub mod skip;
pub mod sysreg;
pub mod walk;

#[cfg(test)]
pub(crate) mod tests {
    /// A reproducible source of numbers for tests (xorshift64*).
    pub(crate) struct Random(pub u64);

    /// The number of rounds of a random test: `full`, or few under Miri, which is slow.
    pub(crate) fn rounds(full: u64) -> u64 {
        if cfg!(miri) { full / 500 } else { full }
    }

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        /// A number below `limit`.
        pub(crate) fn below(&mut self, limit: u64) -> u64 {
            (self.next() >> 33) % limit
        }

        /// A number of any magnitude: small ones, and ones near a power of two, are as likely as large ones.
        pub(crate) fn spread(&mut self) -> u64 {
            let shift = self.below(64) as u32;
            match self.below(3) {
                0 => self.next() >> shift,
                1 => (1u64 << shift).wrapping_sub(self.below(3)),
                _ => u64::MAX << shift,
            }
        }
    }
}
