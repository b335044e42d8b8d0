//! Kernel files on this machine: unpacked, and understood by [`salp_board::kernel`].
//!
//! Comes after [`vm`](crate::vm); [`place`](crate::place) adds the device tree and the initial RAM disk.

use crate::vm::Size;
use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use salp_board::kernel::{self, Packing, Part};
use std::io::Read;

pub use salp_board::kernel::{FlatPlace, Kind};

/// Bytes and the guest physical address where they start.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    /// The guest physical address of the first byte.
    pub ipa: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Returns the guest physical address behind the last byte.
    pub fn end(&self) -> u64 {
        self.ipa.saturating_add(self.bytes.len() as u64)
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({:#x}..{:#x})", self.ipa, self.end())
    }
}

/// A kernel that has been understood, with its bytes.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What the file was.
    pub kind: Kind,
    /// Its bytes, in ascending order, not overlapping, inside RAM.
    pub pieces: Vec<Piece>,
    /// The guest physical address of the first instruction.
    pub entry: u64,
    /// The guest physical address behind all that it occupies, its zeroed memory included.
    pub end: u64,
}

impl Kernel {
    /// Returns it as it is without its bytes.
    pub fn plan(&self) -> kernel::Kernel {
        let part = |piece: &Piece| Part { ipa: piece.ipa, offset: 0, length: piece.bytes.len() as u64 };
        let parts = self.pieces.iter().map(part).collect();
        kernel::Kernel { kind: self.kind, parts, entry: self.entry, end: self.end }
    }
}

/// Understands a kernel file for a VM with `memory` bytes of RAM.
///
/// With a place given, the bytes are a flat binary whatever they look like.
///
/// # Errors
///
/// A sentence that says what is wrong with the file, or which limit it breaks.
pub fn read(file: &[u8], flat: FlatPlace, memory: u64) -> Result<Kernel> {
    let mut unpacked;
    let mut bytes = file;
    // Gzip, and an EFI zboot program inside it.
    for _ in 0..2 {
        if let Packing::Gzip { offset, length } = kernel::packing(&bytes, flat)? {
            let inside = (offset as usize).saturating_add(length as usize).min(bytes.len());
            unpacked = gunzip(&bytes[offset as usize..inside], memory)?;
            bytes = &unpacked;
        }
    }
    let kernel::Kernel { kind, parts, entry, end } = kernel::read(&bytes, flat, memory)?;
    let piece =
        |part: Part| Piece { ipa: part.ipa, bytes: bytes[part.offset as usize..][..part.length as usize].to_vec() };
    Ok(Kernel { kind, pieces: parts.into_iter().map(piece).collect(), entry, end })
}

fn gunzip(bytes: &[u8], memory: u64) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes)
        .take(memory.saturating_add(1))
        .read_to_end(&mut unpacked)
        .context("its gzip data is damaged or truncated")?;
    ensure!(unpacked.len() as u64 <= memory, "unpacked it is larger than the VM's memory of {}", Size(memory));
    ensure!(!unpacked.is_empty(), "its gzip data holds nothing");
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use object::elf::EM_AARCH64;
    use proptest::prelude::*;
    use salp_board::guest::RAM_BASE;
    use std::io::Write;

    const MEMORY: u64 = 64 << 20;

    fn image(text_offset: u64, image_size: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    }

    /// An ELF with one segment of `bytes` at `vaddr`, loaded at `paddr`.
    fn elf(machine: u16, vaddr: u64, paddr: u64, entry: u64, bytes: &[u8], memsz: u64) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(2_u16.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        for word in [entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        for word in [120, vaddr, paddr, bytes.len() as u64, memsz, 4096] {
            file.extend(word.to_le_bytes());
        }
        file.extend(bytes);
        file
    }

    fn refusal(file: &[u8]) -> String {
        format!("{:#}", read(file, FlatPlace::default(), MEMORY).expect_err("a refusal"))
    }

    #[test]
    fn an_image_lies_where_its_header_says() {
        let file = image(0x8_0000, 0x30_0000, 4096);
        for bytes in [gzip(&file), file] {
            let kernel = read(&bytes, FlatPlace::default(), MEMORY).expect("a kernel");
            assert_eq!(kernel.kind, Kind::Image);
            assert_eq!((kernel.entry, kernel.end), (0x4008_0000, 0x4038_0000));
            assert_eq!(kernel.pieces[0].bytes.len(), 4096);
        }
    }

    #[test]
    fn an_elf_starts_at_its_physical_entry() {
        let file = elf(EM_AARCH64, 0xffff_0000_0000_0000, 0x4010_0000, 0xffff_0000_0000_0008, &[1; 16], 0x2000);
        let kernel = read(&file, FlatPlace::default(), MEMORY).expect("a kernel");
        assert_eq!((kernel.kind, kernel.entry, kernel.end), (Kind::Elf, 0x4010_0008, 0x4010_2000));
        assert_eq!(kernel.pieces, [Piece { ipa: 0x4010_0000, bytes: vec![1; 16] }]);
    }

    #[test]
    fn a_flat_binary_lies_where_its_user_says() {
        let kernel = read(&[0x80; 64], FlatPlace::default(), MEMORY).expect("a kernel");
        assert_eq!((kernel.kind, kernel.entry), (Kind::Flat, 0x4008_0000));
        let place = FlatPlace { load: Some(0x4020_0000), entry: Some(0x4020_0010) };
        let kernel = read(&image(0, 1, 64), place, MEMORY).expect("a kernel");
        assert_eq!((kernel.kind, kernel.pieces[0].ipa, kernel.entry), (Kind::Flat, 0x4020_0000, 0x4020_0010));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        assert!(refusal(b"").contains("empty"));
        assert!(refusal(b"#!/bin/sh\nexit 1\n").contains("text, not an arm64 Image"));
        assert!(refusal(&gzip(&[7; 9000])[..30]).contains("truncated"));
        assert!(refusal(&gzip(&vec![0x80; MEMORY as usize + 1])).contains("larger than the VM's memory of 64 MiB"));
        assert!(refusal(&image(0, 1 << 40, 64)).contains("the VM's memory is 64 MiB"));
        assert!(refusal(&image(0, u64::MAX, 64)).contains("the VM's memory is 64 MiB"));
        assert!(refusal(&image(3, 64, 64)).contains("text_offset"));
        assert!(refusal(&elf(62, 0, RAM_BASE, 0, &[1], 1)).contains("another processor"));
        assert!(refusal(&elf(EM_AARCH64, 0, 0x1000, 0, &[1], 1)).contains("0x40000000 to 0x44000000"));
        assert!(refusal(&elf(EM_AARCH64, 0, RAM_BASE, 0, &[1], u64::MAX)).contains("RAM"));
        assert!(refusal(&elf(EM_AARCH64, 0, RAM_BASE, 64, &[1; 8], 8)).contains("entry point"));
        let whole = elf(EM_AARCH64, 0, RAM_BASE, 0, &[1; 64], 64);
        assert!(refusal(&whole[..whole.len() - 1]).contains("at least 184 bytes, and has 183"));
        let place = FlatPlace { load: Some(0x1000), entry: None };
        assert!(format!("{:#}", read(&[0; 64], place, MEMORY).expect_err("outside")).contains("0x1000"));
        let place = FlatPlace { load: None, entry: Some(RAM_BASE) };
        assert!(format!("{:#}", read(&[0; 64], place, MEMORY).expect_err("outside")).contains("entry=0x40000000"));
    }

    #[test]
    fn a_truncated_image_is_known_by_its_sections() {
        let mut file = image(0, 0x2000, 0x2000);
        file[60..64].copy_from_slice(&0x40_u32.to_le_bytes());
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x46] = 1;
        file[0x58 + 16..0x58 + 20].copy_from_slice(&0x1000_u32.to_le_bytes());
        file[0x58 + 20..0x58 + 24].copy_from_slice(&0x1000_u32.to_le_bytes());
        assert!(read(&file, FlatPlace::default(), MEMORY).is_ok());
        assert!(refusal(&file[..0x1fff]).contains("at least 8192 bytes, and has 8191"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            magic in 0..5_usize,
            mut bytes in prop::collection::vec(any::<u8>(), 0..600),
            load in proptest::option::of(any::<u64>()),
            entry in proptest::option::of(any::<u64>()),
        ) {
            let start: &[u8] = [&b""[..], b"\x7fELF\x02\x01\x01", b"\x1f\x8b\x08", b"MZ\0\0zimg", b""][magic];
            if bytes.len() >= 64 {
                bytes[..start.len()].copy_from_slice(start);
                if magic == 4 {
                    bytes[56..60].copy_from_slice(b"ARM\x64");
                }
            }
            for place in [FlatPlace::default(), FlatPlace { load, entry }] {
                if let Ok(kernel) = read(&bytes, place, MEMORY) {
                    prop_assert!(kernel.pieces.iter().all(|p| p.ipa >= RAM_BASE && p.end() <= RAM_BASE + MEMORY));
                    prop_assert!(kernel.end <= RAM_BASE + MEMORY);
                }
            }
        }

        #[test]
        fn a_damaged_elf_never_panics(at in 0..184_usize, value in any::<u8>(), cut in 0..184_usize) {
            let mut file = elf(EM_AARCH64, 0, RAM_BASE, 0, &[1; 64], 64);
            file[at] = value;
            let _ = read(&file, FlatPlace::default(), MEMORY);
            let _ = read(&file[..cut], FlatPlace::default(), MEMORY);
        }
    }
}
