//! Any file as a kernel (gzip, arm64 Image, ELF): a sentence, or pieces that fit the VM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_qemu::kernel::{FlatPlace, read};

const MEMORY: u64 = 64 << 20;

fuzz_target!(|file: &[u8]| {
    if let Ok(kernel) = read(file, FlatPlace::default(), MEMORY) {
        assert!(kernel.pieces.iter().all(|piece| piece.end() <= kernel.end));
    }
});
