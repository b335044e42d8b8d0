//! Kernel files: what they are, and which bytes they want where.
//!
//! Whoever makes VMs (the runner, the management guest) reads a file through [`Source`]; [`layout`](crate::layout) adds the
//! device tree and the initial RAM disk. A file is an arm64 `Image` (Linux `Documentation/arch/arm64/booting.rst`), an ELF,
//! or a flat binary; each may be inside gzip, and an `Image` inside an EFI zboot program ([`packing`]). Files are
//! untrusted: whatever is in them, the answer is a [`Kernel`] or an [`Unfit`].

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::guest::RAM_BASE;
use crate::size::Size;

/// Where a flat binary is loaded unless its user says otherwise: as QEMU does.
pub const FLAT_OFFSET: u64 = 0x8_0000;

/// How much of a file is looked at to tell what it is.
const HEAD: usize = 1024;

/// The greatest number of program headers of an ELF.
const MAX_HEADERS: u64 = 256;

/// The machine number of AArch64 in ELF files.
const EM_AARCH64: u16 = 183;

/// Why something does not fit: a sentence for the person who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Unfit {}

/// Returns the sentence as the reason.
pub(crate) fn unfit<T>(why: impl ToString) -> Result<T, Unfit> {
    Err(Unfit(why.to_string()))
}

/// The bytes of a file.
pub trait Source {
    /// Returns how many there are.
    fn size(&self) -> u64;
    /// Reads the bytes from an offset on; returns false if they are not all there.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> bool;
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let start = usize::try_from(offset).ok();
        let from = start.and_then(|start| self.get(start..start.checked_add(bytes.len())?));
        from.map(|from| bytes.copy_from_slice(from)).is_some()
    }
}

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

/// Bytes of the file and the guest physical address where they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The guest physical address of the first byte.
    pub ipa: u64,
    /// Where it is in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl Part {
    /// Returns the guest physical address behind the last byte.
    pub fn end(&self) -> u64 {
        self.ipa.saturating_add(self.length)
    }
}

/// A kernel that has been understood.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What the file was.
    pub kind: Kind,
    /// Its parts, in ascending order, not overlapping, inside RAM.
    pub parts: Vec<Part>,
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

/// How a file has to be unpacked before it is [`read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// So many bytes from an offset on are gzip data.
    Gzip {
        /// Where they start.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// Tells how a file has to be unpacked. What comes out may have to be unpacked again: an EFI zboot program in gzip.
///
/// # Errors
///
/// If the file is empty, or packed in a way that is not known.
pub fn packing(file: &dyn Source, flat: FlatPlace) -> Result<Packing, Unfit> {
    let size = file.size();
    if size == 0 {
        return unfit("the file is empty");
    }
    let head = head(file);
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Packing::Gzip { offset: 0, length: size });
    }
    // An EFI zboot program (Linux `drivers/firmware/efi/libstub/zboot-header.S`).
    if flat.is_given() || !head.starts_with(b"MZ") || head.get(4..8) != Some(b"zimg") {
        return Ok(Packing::Plain);
    }
    let (Some(offset), Some(length)) = (le32(&head, 8), le32(&head, 12)) else {
        return unfit("its zboot header is truncated");
    };
    if head.get(24..28) != Some(b"gzip") {
        return unfit("it is an EFI zboot program compressed with something other than gzip");
    }
    let (offset, length) = (u64::from(offset), u64::from(length));
    if offset + length > size {
        return unfit("it is truncated: its zboot payload ends behind the file's end");
    }
    Ok(Packing::Gzip { offset, length })
}

/// Understands a kernel file, unpacked, for a VM with `memory` bytes of RAM.
///
/// With a place given, the bytes are a flat binary whatever they look like.
///
/// # Errors
///
/// A sentence that says what is wrong with the file, or which limit it breaks.
pub fn read(file: &dyn Source, flat: FlatPlace, memory: u64) -> Result<Kernel, Unfit> {
    let head = head(file);
    if head.is_empty() {
        return unfit("the file is empty");
    }
    if flat.is_given() {
        return read_flat(file, flat, memory);
    }
    if head.starts_with(b"\x7fELF") {
        return read_elf(file, &head, memory);
    }
    if head.get(56..60) == Some(b"ARM\x64") {
        return read_image(file, &head, memory);
    }
    if let Some(other) = other_kind(&head) {
        return unfit(format!("it is {other}; a kernel is an arm64 Image (plain or gzip), an ELF, or a flat binary"));
    }
    read_flat(file, flat, memory)
}

/// Returns the first bytes.
fn head(file: &dyn Source) -> Vec<u8> {
    let length = file.size().min(HEAD as u64);
    bytes(file, 0, length).unwrap_or_default()
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

fn read_image(file: &dyn Source, head: &[u8], memory: u64) -> Result<Kernel, Unfit> {
    let (Some(text_offset), Some(image_size), Some(flags)) = (le64(head, 8), le64(head, 16), le64(head, 24)) else {
        return unfit("it is truncated: an arm64 Image starts with 64 bytes of header");
    };
    check_sections(file, head)?;
    if flags & 1 != 0 {
        return unfit("it is a big-endian Image, which is not supported");
    }
    // Before Linux 3.17 the header said nothing of the size, and the offset was this one.
    let (text_offset, image_size) = if image_size == 0 { (FLAT_OFFSET, 0) } else { (text_offset, image_size) };
    if text_offset >= 2 << 20 {
        return unfit(format!("its header is damaged: text_offset {text_offset:#x} is not below 2 MiB"));
    }
    if !text_offset.is_multiple_of(4096) {
        return unfit(format!("its header is damaged: text_offset {text_offset:#x} is not page aligned"));
    }
    let size = image_size.max(file.size());
    if text_offset.checked_add(size).is_none_or(|end| end > memory) {
        let needed = Size(text_offset.saturating_add(size));
        return unfit(format!("it needs {needed} from the start of RAM, and the VM's memory is {}", Size(memory)));
    }
    let ipa = RAM_BASE + text_offset;
    let part = Part { ipa, offset: 0, length: file.size() };
    Ok(Kernel { kind: Kind::Image, parts: vec![part], entry: ipa, end: ipa + size })
}

/// Checks that the sections that an Image's EFI header names (if it has one) are in the file.
fn check_sections(file: &dyn Source, head: &[u8]) -> Result<(), Unfit> {
    const CUT: &str = "it is truncated: its EFI header is cut";
    let Some(pe) = le32(head, 60).map(u64::from) else { return Ok(()) };
    let Some(header) = bytes(file, pe, 24).filter(|header| header.starts_with(b"PE\0\0")) else { return Ok(()) };
    let half = |offset: usize| header.get(offset..offset + 2).map(|two| u64::from(two[0]) | u64::from(two[1]) << 8);
    let (Some(sections), Some(optional)) = (half(6), half(20)) else { return unfit(CUT) };
    for index in 0..sections {
        let Some(section) = bytes(file, pe + 24 + optional + index * 40, 40) else { return unfit(CUT) };
        let size = u64::from(le32(&section, 16).unwrap_or_default());
        let end = u64::from(le32(&section, 20).unwrap_or_default()) + size;
        if size > 0 && end > file.size() {
            return truncated(end, file);
        }
    }
    Ok(())
}

fn truncated<T>(wanted: u64, file: &dyn Source) -> Result<T, Unfit> {
    unfit(format!("it is truncated: it should have at least {wanted} bytes, and has {}", file.size()))
}

fn read_flat(file: &dyn Source, flat: FlatPlace, memory: u64) -> Result<Kernel, Unfit> {
    let load = flat.load.unwrap_or(RAM_BASE + FLAT_OFFSET);
    let entry = flat.entry.unwrap_or(load);
    let part = Part { ipa: load, offset: 0, length: file.size() };
    check_in_ram(load, part.length, memory)?;
    if !load.is_multiple_of(4) {
        return unfit(format!("load={load:#x} is not a multiple of 4"));
    }
    if !(load..part.end()).contains(&entry) || !entry.is_multiple_of(4) {
        let end = part.end();
        return unfit(format!("entry={entry:#x} is not an instruction inside the binary ({load:#x} to {end:#x})"));
    }
    Ok(Kernel { kind: Kind::Flat, end: part.end(), entry, parts: vec![part] })
}

fn read_elf(file: &dyn Source, head: &[u8], memory: u64) -> Result<Kernel, Unfit> {
    let half = |bytes: &[u8], offset: usize| bytes.get(offset..offset + 2).map(|two| [two[0], two[1]]);
    if head.get(4) != Some(&2) || head.len() < 64 {
        return unfit("it is not a 64-bit ELF");
    }
    let is_big = head.get(5) == Some(&2);
    let machine = half(head, 18).map(|two| if is_big { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) });
    let machine = machine.unwrap_or_default();
    if machine != EM_AARCH64 {
        return unfit(format!("it is an ELF for another processor (machine {machine}, AArch64 is {EM_AARCH64})"));
    }
    if is_big {
        return unfit("it is a big-endian ELF, which is not supported");
    }
    let number = |offset| half(head, offset).map(u16::from_le_bytes).unwrap_or_default().into();
    let (virtual_entry, table) = (le64(head, 24).unwrap_or_default(), le64(head, 32).unwrap_or_default());
    let (each, count): (u64, u64) = (number(54), number(56));
    if each != 56 && count > 0 || count > MAX_HEADERS {
        return unfit("its ELF header is damaged");
    }
    let Some(headers) = bytes(file, table, each * count) else {
        return unfit("it is truncated: its program headers are cut");
    };
    let (mut entry, mut end, mut parts) = (None, 0, Vec::new());
    for header in headers.chunks_exact(56).filter(|header| le32(header, 0) == Some(1)) {
        let word = |index: usize| le64(header, index * 8).unwrap_or_default();
        let [offset, address, ipa, length, size] = [1, 2, 3, 4, 5].map(word);
        if size == 0 {
            continue;
        }
        check_in_ram(ipa, size, memory)?;
        if length > size {
            return unfit("its program headers are damaged: more bytes in the file than in memory");
        }
        let wanted = offset.saturating_add(length);
        if wanted > file.size() {
            return truncated(wanted, file);
        }
        if let Some(inside) = virtual_entry.checked_sub(address).filter(|&inside| inside < size) {
            entry = Some(ipa + inside);
        }
        end = end.max(ipa + size);
        if length > 0 {
            parts.push(Part { ipa, offset, length });
        }
    }
    parts.sort_by_key(|part| part.ipa);
    for pair in parts.windows(2) {
        if pair[0].end() > pair[1].ipa {
            return unfit(format!("its segments overlap at {:#x}", pair[1].ipa));
        }
    }
    if parts.is_empty() {
        return unfit("it has nothing to load");
    }
    let Some(entry) = entry else {
        return unfit(format!("its entry point {virtual_entry:#x} is in none of its segments"));
    };
    Ok(Kernel { kind: Kind::Elf, parts, entry, end })
}

fn check_in_ram(start: u64, size: u64, memory: u64) -> Result<(), Unfit> {
    let ram_end = RAM_BASE.saturating_add(memory);
    match start.checked_add(size) {
        Some(end) if start >= RAM_BASE && end <= ram_end => Ok(()),
        _ => unfit(format!(
            "it wants {} at {start:#x}, and the VM's RAM ({}) is {RAM_BASE:#x} to {ram_end:#x}",
            Size(size),
            Size(memory)
        )),
    }
}

/// Returns bytes of a file, if they are there. What a file says of itself makes nobody ask for more than it has.
fn bytes(file: &dyn Source, offset: u64, length: u64) -> Option<Vec<u8>> {
    offset.checked_add(length).filter(|&end| end <= file.size())?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read(offset, &mut bytes).then_some(bytes)
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}
