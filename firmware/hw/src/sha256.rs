//! SHA-256 by the CPU's instructions (FEAT_SHA256), where it has them. They work in the registers that guests keep their
//! floating point in: the first stage, before any guest, may use them, and nobody else here.

use crate::sysreg::{isb, read, write};
use salp_core::digest::{self, Hasher};

core::arch::global_asm!(include_str!("sha256.S"));

unsafe extern "C" {
    /// Takes `count` blocks of 64 bytes into `state`.
    fn salp_sha256_blocks(state: *mut u32, blocks: *const u8, count: u64);
}

const BLOCK: usize = 64;

/// Initial hash value (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A digest by instructions, or by portable code on CPUs without.
pub enum Sha256 {
    /// By instructions.
    Fast(Fast),
    /// By portable code.
    Portable(digest::Sha256),
}

/// A digest by instructions.
pub struct Fast {
    state: [u32; 8],
    length: u64,
    rest: [u8; BLOCK],
}

impl Default for Sha256 {
    fn default() -> Self {
        // ID_AA64ISAR0_EL1.SHA2
        if read!(id_aa64isar0_el1) >> 12 & 0xf == 0 {
            return Self::Portable(digest::Sha256::default());
        }
        // CPTR_EL2 as without VHE: nothing is trapped. There is no guest whose registers these are.
        write!(cptr_el2, 0x33ff & !(1 << 10));
        isb!();
        Self::Fast(Fast { state: INITIAL, length: 0, rest: [0; BLOCK] })
    }
}

impl Fast {
    fn blocks(&mut self, blocks: &[u8]) {
        // SAFETY: whole blocks, as many as there are; the routine keeps to the calling convention of a function without
        // floating-point arguments, and Rust code here uses no such registers.
        unsafe { salp_sha256_blocks(self.state.as_mut_ptr(), blocks.as_ptr(), (blocks.len() / BLOCK) as u64) };
    }

    fn update(&mut self, mut bytes: &[u8]) {
        let filled = self.length as usize % BLOCK;
        self.length += bytes.len() as u64;
        if filled > 0 {
            let (first, others) = bytes.split_at(bytes.len().min(BLOCK - filled));
            self.rest[filled..filled + first.len()].copy_from_slice(first);
            if filled + first.len() < BLOCK {
                return;
            }
            let block = self.rest;
            self.blocks(&block);
            bytes = others;
        }
        let (whole, rest) = bytes.split_at(bytes.len() / BLOCK * BLOCK);
        self.blocks(whole);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    fn finish(mut self) -> [u8; 32] {
        let bits = self.length * 8;
        let zeros = (2 * BLOCK - 9 - self.length as usize % BLOCK) % BLOCK;
        self.update(&[0x80]);
        self.update(&[0; BLOCK][..zeros]);
        self.update(&bits.to_be_bytes());
        let mut digest = [0; 32];
        digest.chunks_exact_mut(4).zip(self.state).for_each(|(place, word)| place.copy_from_slice(&word.to_be_bytes()));
        digest
    }
}

impl Hasher for Sha256 {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Fast(hash) => hash.update(bytes),
            Self::Portable(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> [u8; 32] {
        match self {
            Self::Fast(hash) => hash.finish(),
            Self::Portable(hash) => hash.finish(),
        }
    }
}
