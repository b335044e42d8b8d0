//! Opens gzip (RFC 1952): an image becomes another one, a piece at a time. Before: [`build`](super::build). After: EL2.
//!
//! What comes out is kept as long as a VM uses it, for the next VM with the same kernel. Memory: the window of the format and
//! two buffers.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use salp_board::kernel::Source;
use salp_board::size::Size;
use salp_hvc::manager::{ImageInfo, MAX_IMAGE};

use super::Stored;
use crate::hypervisor::{self, Hypervisor};
use crate::images::label::{Kind, Label};
use crate::message::Failure;

/// The name of images that were unpacked.
const UNPACKED: &str = "unpacked";

/// How much is read and written at a time.
const PIECE: usize = 32 << 10;

/// The table of CRC-32, by bytes.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut value, mut bit) = (index as u32, 0);
        while bit < 8 {
            value = if value & 1 != 0 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)])
}

fn damaged() -> Failure {
    Failure::because(400, "The kernel's gzip data is damaged or truncated.")
}

/// Returns how long the header in front of the compressed data is.
fn header(head: &[u8]) -> Option<usize> {
    let flags = *head.get(3).filter(|_| head.starts_with(&[0x1f, 0x8b, 8]))?;
    let mut at = 10;
    if flags & 4 != 0 {
        at += 2 + usize::from(u16::from_le_bytes([*head.get(at)?, *head.get(at + 1)?]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            at += head.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    at += if flags & 2 != 0 { 2 } else { 0 };
    (at < head.len()).then_some(at)
}

/// Unpacks `length` bytes from `offset` on of an image, for a VM with `memory` bytes of RAM.
///
/// # Errors
///
/// If the data is damaged, or there is no room for what comes out. Nothing is left then.
pub fn unpack(
    hypervisor: &mut dyn Hypervisor,
    image: &ImageInfo,
    (offset, length): (u64, u64),
    memory: u64,
    now: u64,
) -> Result<ImageInfo, Failure> {
    let owner = image.id.get();
    let is_same = |info: &ImageInfo| {
        let label = Label::read(&info.label).filter(|_| info.finished.get() == 1);
        label
            .is_some_and(|label| label.kind() == Kind::Hidden && label.owner.get() == owner && label.name() == UNPACKED)
    };
    let known = hypervisor::images(hypervisor).find(is_same);
    let mut trailer = [0; 8];
    let source = Stored::new(hypervisor, image);
    let has_trailer = length >= 18 && source.read(offset + length - 8, &mut trailer);
    let [crc, size] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|index| trailer[at + index])));
    let size = u64::from(size);
    if !has_trailer || size == 0 {
        return Err(damaged());
    }
    if size > memory.min(MAX_IMAGE) {
        let why = format!("Unpacked the kernel is larger than the VM's memory of {}.", Size(memory));
        return Err(Failure::because(400, &why));
    }
    if let Some(known) = known {
        return Ok(known);
    }
    let mut label = Label::new(Kind::Hidden, UNPACKED, now);
    label.owner = owner.into();
    let refused = |refused| Failure::refused(refused, crate::images::IMAGES);
    let id = hypervisor.create_image(size, &label.bytes()).map_err(refused)?;
    let done = write(hypervisor, image, (offset, length), id, size).and_then(|found| {
        if found != crc {
            return Err(damaged());
        }
        hypervisor.finish_image(id).and_then(|()| hypervisor::image(hypervisor, id)).map_err(refused)
    });
    if done.is_err() {
        // Nobody uses it: it can go.
        let _ = hypervisor.delete_image(id);
    }
    done
}

/// Writes what comes out into the image `to` of `size` bytes, and returns the CRC of it.
fn write(
    hypervisor: &mut dyn Hypervisor,
    from: &ImageInfo,
    (offset, length): (u64, u64),
    to: u64,
    size: u64,
) -> Result<u32, Failure> {
    let (mut input, mut output) = (vec![0; PIECE], vec![0; PIECE]);
    let mut state: Box<InflateState> = InflateState::new_boxed(DataFormat::Raw);
    let (mut read, mut written, mut crc, mut is_first) = (0, 0, u32::MAX, true);
    while read < length - 8 {
        let count = ((length - 8 - read) as usize).min(PIECE);
        if !Stored::new(hypervisor, from).read(offset + read, &mut input[..count]) {
            return Err(damaged());
        }
        read += count as u64;
        let mut rest = &input[..count];
        if core::mem::take(&mut is_first) {
            rest = &rest[header(rest).ok_or_else(damaged)?..];
        }
        loop {
            let result = inflate(&mut state, rest, &mut output, MZFlush::None);
            rest = &rest[result.bytes_consumed..];
            let piece = &output[..result.bytes_written];
            if written + piece.len() as u64 > size {
                return Err(damaged());
            }
            if !piece.is_empty() {
                let refused = |refused| Failure::refused(refused, crate::images::IMAGES);
                hypervisor.write_image(to, written, piece).map_err(refused)?;
                crc = crc32(crc, piece);
                written += piece.len() as u64;
            }
            match result.status {
                Ok(MZStatus::StreamEnd) if written == size => return Ok(!crc),
                Ok(MZStatus::Ok) if !rest.is_empty() || result.bytes_written == PIECE => {}
                Ok(MZStatus::Ok) | Err(MZError::Buf) => break,
                _ => return Err(damaged()),
            }
        }
    }
    Err(damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_skipped_with_all_that_it_may_hold() {
        let head = |flags: u8, fields: &[u8]| [&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3][..], fields, b"x"].concat();
        assert_eq!(header(&head(0, b"")), Some(10));
        assert_eq!(header(&head(8, b"name\0")), Some(15));
        assert_eq!(header(&head(0x1e, b"\x02\0ab\0\0cc")), Some(18));
        assert_eq!(header(&head(8, b"name")), None);
        assert_eq!(header(&head(4, b"\xff\xff")), None);
        assert_eq!(header(b"\x1f\x8b\x09"), None);
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(!crc32(u32::MAX, b"123456789"), 0xcbf4_3926);
    }
}
