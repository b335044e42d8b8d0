//! Kernel files: what they are, and which bytes they want where.
//!
//! Comes after [`vm`](crate::vm); [`place`](crate::place) adds the device tree and the initial RAM disk. A file is an
//! arm64 `Image` (Linux `Documentation/arch/arm64/booting.rst`), an ELF, or a flat binary; each may be inside gzip, and
//! an `Image` inside an EFI zboot program. Files are untrusted: whatever is in them, the answer is a [`Kernel`] or an
//! error.

use crate::vm::Size;
use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use object::elf::{EM_AARCH64, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use salp_board::guest::RAM_BASE;
use std::io::Read;

/// Where a flat binary is loaded unless its user says otherwise: as QEMU does.
pub const FLAT_OFFSET: u64 = 0x8_0000;

/// What kind of file a kernel was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An arm64 `Image`.
    Image,
    /// An ELF.
    Elf,
    /// A flat binary.
    Flat,
}

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

/// A kernel that has been understood.
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

/// Where the user wants a flat binary.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlatPlace {
    /// The guest physical address of its first byte.
    pub load: Option<u64>,
    /// The guest physical address of its first instruction.
    pub entry: Option<u64>,
}

impl FlatPlace {
    fn is_given(self) -> bool {
        self.load.is_some() || self.entry.is_some()
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
    ensure!(!file.is_empty(), "the file is empty");
    let unpacked;
    let mut bytes = file;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        unpacked = gunzip(bytes, memory)?;
        bytes = &unpacked;
    }
    if flat.is_given() {
        return read_flat(bytes, flat, memory);
    }
    let zboot;
    if bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg") {
        zboot = unpack_zboot(bytes, memory)?;
        bytes = &zboot;
    }
    if bytes.starts_with(&elf::ELFMAG) {
        return read_elf(bytes, memory);
    }
    if bytes.get(56..60) == Some(b"ARM\x64") {
        return read_image(bytes, memory);
    }
    if let Some(other) = other_kind(bytes) {
        bail!("it is {other}; a kernel is an arm64 Image (plain or gzip), an ELF, or a flat binary");
    }
    read_flat(bytes, flat, memory)
}

/// Recognises files that are certainly no guests.
fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    if at(0x202, b"HdrS") {
        Some("an x86 kernel, not an arm64 Image")
    } else if at(0, b"MZ") {
        Some("an EFI program, not an arm64 Image")
    } else if at(0, &[0x27, 0x05, 0x19, 0x56]) {
        Some("a U-Boot uImage, not an arm64 Image")
    } else if at(0, &[0xd0, 0x0d, 0xfe, 0xed]) {
        Some("a device tree or FIT image, not an arm64 Image")
    } else if at(0, b"070701") || at(0, b"070702") {
        Some("a cpio archive, such as an initial RAM disk, not an arm64 Image")
    } else if at(0, &[0xfd, b'7', b'z', b'X', b'Z', 0]) || at(0, &[0x28, 0xb5, 0x2f, 0xfd]) || at(0, b"BZh") {
        Some("compressed with something other than gzip, not an arm64 Image")
    } else if at(0, b"!<arch>\n") {
        Some("a Debian package or archive, not an arm64 Image")
    } else if bytes.iter().take(512).all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        Some("text, not an arm64 Image")
    } else {
        None
    }
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

/// Unpacks the payload of an EFI zboot program (Linux `drivers/firmware/efi/libstub/zboot-header.S`).
fn unpack_zboot(bytes: &[u8], memory: u64) -> Result<Vec<u8>> {
    let offset = u64::from(le32(bytes, 8).context("its zboot header is truncated")?);
    let size = u64::from(le32(bytes, 12).context("its zboot header is truncated")?);
    let kind = bytes.get(24..28).unwrap_or_default();
    ensure!(kind == b"gzip", "it is an EFI zboot program compressed with something other than gzip");
    let payload =
        slice(bytes, offset, size).context("it is truncated: its zboot payload ends behind the file's end")?;
    gunzip(payload, memory)
}

fn read_image(bytes: &[u8], memory: u64) -> Result<Kernel> {
    let field = |offset| le64(bytes, offset).context("it is truncated: an arm64 Image starts with 64 bytes of header");
    let (text_offset, image_size, flags) = (field(8)?, field(16)?, field(24)?);
    check_sections(bytes)?;
    ensure!(flags & 1 == 0, "it is a big-endian Image, which is not supported");
    // Before Linux 3.17 the header said nothing of the size, and the offset was this one.
    let (text_offset, image_size) = if image_size == 0 { (FLAT_OFFSET, 0) } else { (text_offset, image_size) };
    ensure!(text_offset < 2 << 20, "its header is damaged: text_offset {text_offset:#x} is not below 2 MiB");
    ensure!(
        text_offset.is_multiple_of(4096),
        "its header is damaged: text_offset {text_offset:#x} is not page aligned"
    );
    let size = image_size.max(bytes.len() as u64);
    ensure!(
        text_offset.checked_add(size).is_some_and(|end| end <= memory),
        "it needs {} from the start of RAM, and the VM's memory is {}",
        Size(text_offset.saturating_add(size)),
        Size(memory)
    );
    let ipa = RAM_BASE + text_offset;
    Ok(Kernel { kind: Kind::Image, pieces: vec![Piece { ipa, bytes: bytes.to_vec() }], entry: ipa, end: ipa + size })
}

/// Checks that the sections that an Image's EFI header names (if it has one) are in the file.
fn check_sections(bytes: &[u8]) -> Result<()> {
    let Some(pe) = le32(bytes, 60).map(u64::from).filter(|&pe| slice(bytes, pe, 4) == Some(b"PE\0\0")) else {
        return Ok(());
    };
    let half = |offset: u64| slice(bytes, offset, 2).map(|two| u64::from(two[0]) | u64::from(two[1]) << 8);
    let (Some(sections), Some(optional)) = (half(pe + 6), half(pe + 20)) else {
        bail!("it is truncated: its EFI header is cut");
    };
    for index in 0..sections {
        let header =
            slice(bytes, pe + 24 + optional + index * 40, 40).context("it is truncated: its EFI header is cut")?;
        let size = u64::from(le32(header, 16).unwrap_or_default());
        let offset = u64::from(le32(header, 20).unwrap_or_default());
        ensure!(
            size == 0 || offset + size <= bytes.len() as u64,
            "it is truncated: it should have at least {} bytes, and has {}",
            offset + size,
            bytes.len()
        );
    }
    Ok(())
}

fn read_flat(bytes: &[u8], flat: FlatPlace, memory: u64) -> Result<Kernel> {
    let load = flat.load.unwrap_or(RAM_BASE + FLAT_OFFSET);
    let entry = flat.entry.unwrap_or(load);
    let piece = Piece { ipa: load, bytes: bytes.to_vec() };
    check_in_ram(load, bytes.len() as u64, memory)?;
    ensure!(load.is_multiple_of(4), "load={load:#x} is not a multiple of 4");
    ensure!(
        (load..piece.end()).contains(&entry) && entry.is_multiple_of(4),
        "entry={entry:#x} is not an instruction inside the binary ({load:#x} to {:#x})",
        piece.end()
    );
    Ok(Kernel { kind: Kind::Flat, end: piece.end(), entry, pieces: vec![piece] })
}

fn read_elf(bytes: &[u8], memory: u64) -> Result<Kernel> {
    let header = FileHeader64::<Endianness>::parse(bytes).context("it is not a 64-bit ELF")?;
    let endian = header.endian().context("its ELF header is damaged")?;
    let machine = header.e_machine(endian);
    ensure!(machine == EM_AARCH64, "it is an ELF for another processor (machine {machine}, AArch64 is {EM_AARCH64})");
    ensure!(endian == Endianness::Little, "it is a big-endian ELF, which is not supported");
    let segments = header.program_headers(endian, bytes).context("it is truncated: its program headers are cut")?;
    let virtual_entry = header.e_entry(endian);
    let mut entry = None;
    let mut end = 0;
    let mut pieces = Vec::new();
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let (ipa, size) = (segment.p_paddr(endian), segment.p_memsz(endian));
        if size == 0 {
            continue;
        }
        check_in_ram(ipa, size, memory)?;
        let (offset, length) = segment.file_range(endian);
        ensure!(length <= size, "its program headers are damaged: more bytes in the file than in memory");
        let data = slice(bytes, offset, length).with_context(|| {
            let wanted = offset.saturating_add(length);
            format!("it is truncated: it should have at least {wanted} bytes, and has {}", bytes.len())
        })?;
        if let Some(inside) = virtual_entry.checked_sub(segment.p_vaddr(endian)).filter(|&inside| inside < size) {
            entry = Some(ipa + inside);
        }
        end = end.max(ipa + size);
        if !data.is_empty() {
            pieces.push(Piece { ipa, bytes: data.to_vec() });
        }
    }
    pieces.sort_by_key(|piece| piece.ipa);
    for pair in pieces.windows(2) {
        ensure!(pair[0].end() <= pair[1].ipa, "its segments overlap: {:?} and {:?}", pair[0], pair[1]);
    }
    ensure!(!pieces.is_empty(), "it has nothing to load");
    let entry = entry.with_context(|| format!("its entry point {virtual_entry:#x} is in none of its segments"))?;
    Ok(Kernel { kind: Kind::Elf, pieces, entry, end })
}

fn check_in_ram(start: u64, size: u64, memory: u64) -> Result<()> {
    let ram_end = RAM_BASE.saturating_add(memory);
    let end = start.checked_add(size).filter(|&end| start >= RAM_BASE && end <= ram_end);
    ensure!(
        end.is_some(),
        "it wants {} at {start:#x}, and the VM's RAM ({}) is {RAM_BASE:#x} to {ram_end:#x}",
        Size(size),
        Size(memory)
    );
    Ok(())
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let offset = usize::try_from(offset).ok()?;
    let end = offset.checked_add(usize::try_from(size).ok()?)?;
    bytes.get(offset..end)
}

fn le32(bytes: &[u8], offset: u64) -> Option<u32> {
    Some(u32::from_le_bytes(slice(bytes, offset, 4)?.try_into().ok()?))
}

fn le64(bytes: &[u8], offset: u64) -> Option<u64> {
    Some(u64::from_le_bytes(slice(bytes, offset, 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
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
