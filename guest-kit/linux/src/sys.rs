//! What the compiler cannot check: the mapping of the device's page, its loads and stores, and the ioctls of
//! `/dev/urandom` and of GPIO controllers. [`memory`](crate::memory), [`apply`](crate::apply) and [`power`](crate::power) use
//! it.

#![allow(unsafe_code)]

use crate::device::{Registers, SEED};
use rustix::io::Errno;
use rustix::ioctl::{self, Getter, NoArg, Setter, Updater, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use salp_hvc::device::SIZE;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd};
use std::ptr::{NonNull, null_mut};

/// A page of a file, for as long as this value lives.
#[derive(Debug)]
pub struct Page {
    start: NonNull<u8>,
}

impl Page {
    /// Maps the [`SIZE`] bytes at `offset`, which is at a page boundary, of a file that nobody makes shorter.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn map(file: &File, offset: u64) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where, so no memory that Rust knows is replaced.
        let start = unsafe { mmap(null_mut(), SIZE as usize, access, MapFlags::SHARED, file, offset) }?;
        Ok(Self { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)? })
    }

    /// Returns the place of a value of type `T` in the page.
    fn place<T>(&self, offset: u64) -> NonNull<T> {
        let size = size_of::<T>() as u64;
        assert!(offset.is_multiple_of(size) && offset <= SIZE - size, "no register at {offset:#x}");
        // SAFETY: the whole value lies in the mapping, by the assertion.
        unsafe { self.start.add(offset as usize) }.cast()
    }
}

/// Each is one instruction of its simplest form, as hypervisors emulate no others: in a function of its own it cannot be
/// joined with its neighbours, nor with the arithmetic on its address.
impl Registers for Page {
    #[inline(never)]
    fn read32(&self, offset: u64) -> u32 {
        // SAFETY: `place` gives an aligned address in the mapping, which is readable and made of plain bytes.
        u32::from_le(unsafe { self.place(offset).read_volatile() })
    }

    #[inline(never)]
    fn read64(&self, offset: u64) -> u64 {
        // SAFETY: as above.
        u64::from_le(unsafe { self.place(offset).read_volatile() })
    }

    #[inline(never)]
    fn write32(&self, offset: u64, value: u32) {
        // SAFETY: as above, and writable; no reference into the mapping exists.
        unsafe { self.place(offset).write_volatile(value.to_le()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping, and nothing points into it any longer. It can fail for bad arguments only.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), SIZE as usize) };
    }
}

/// `struct rand_pool_info` of `linux/random.h`, with the bytes behind it.
#[repr(C)]
struct Entropy {
    bits: i32,
    size: i32,
    bytes: [u8; SEED],
}

/// `RNDADDENTROPY`: its number has the size of the structure without the bytes.
const ADD_ENTROPY: ioctl::Opcode = opcode::write::<[i32; 2]>(b'R', 3);
/// `RNDRESEEDCRNG`.
const RESEED: ioctl::Opcode = opcode::none(b'R', 7);

/// Gives the kernel a seed of its random number generator, all of it unpredictable, and lets it take effect at once.
///
/// # Errors
///
/// What the kernel answers.
pub fn reseed(urandom: impl AsFd, seed: [u8; SEED]) -> Result<(), Errno> {
    let entropy = Entropy { bits: SEED as i32 * 8, size: SEED as i32, bytes: seed };
    // SAFETY: the argument of this ioctl is a pointer to such a structure, which the kernel only reads.
    unsafe { ioctl::ioctl(&urandom, Setter::<ADD_ENTROPY, Entropy>::new(entropy)) }?;
    // SAFETY: this ioctl has no argument.
    unsafe { ioctl::ioctl(&urandom, NoArg::<RESEED>::new()) }
}

/// `struct gpiochip_info` of `linux/gpio.h`.
#[repr(C)]
struct ChipInfo {
    name: [u8; 32],
    label: [u8; 32],
    lines: u32,
}

/// `struct gpio_v2_line_request`, with a configuration without attributes.
#[repr(C)]
struct LineRequest {
    offsets: [u32; 64],
    consumer: [u8; 32],
    flags: u64,
    attributes: [u64; 33],
    count: u32,
    buffer: u32,
    padding: [u32; 5],
    fd: i32,
}

/// `GPIO_GET_CHIPINFO_IOCTL`.
const CHIP_INFO: ioctl::Opcode = opcode::read::<ChipInfo>(0xb4, 1);
/// `GPIO_V2_GET_LINE_IOCTL`.
const GET_LINE: ioctl::Opcode = opcode::read_write::<LineRequest>(0xb4, 7);
/// `GPIO_V2_LINE_FLAG_INPUT` and `GPIO_V2_LINE_FLAG_EDGE_RISING`.
const RISING_INPUT: u64 = 1 << 2 | 1 << 4;

/// The size of an event of a line, `struct gpio_v2_line_event`.
pub const GPIO_EVENT: usize = 48;

/// Returns the label of a GPIO controller.
///
/// # Errors
///
/// What the kernel answers.
pub fn gpio_label(chip: impl AsFd) -> Result<String, Errno> {
    // SAFETY: the kernel fills such a structure, of plain bytes.
    let info = unsafe { ioctl::ioctl(&chip, Getter::<CHIP_INFO, ChipInfo>::new()) }?;
    let text = info.label.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Takes a line of a GPIO controller as an input. The file returned gives an event each time that it rises.
///
/// # Errors
///
/// What the kernel answers: somebody else may have the line.
pub fn gpio_rising(chip: impl AsFd, line: u32) -> Result<File, Errno> {
    let mut request = LineRequest {
        offsets: [0; 64],
        consumer: [0; 32],
        flags: RISING_INPUT,
        attributes: [0; 33],
        count: 1,
        buffer: 0,
        padding: [0; 5],
        fd: -1,
    };
    request.offsets[0] = line;
    request.consumer[..4].copy_from_slice(b"salp");
    // SAFETY: the argument is a pointer to such a structure, which the kernel reads and writes.
    unsafe { ioctl::ioctl(&chip, Updater::<GET_LINE, LineRequest>::new(&mut request)) }?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(request.fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};

    #[test]
    fn a_page_of_a_file_is_read_and_written_in_words() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[0; 4096]).expect("written");
        file.write_all(b"SALP\x01\0\0\0").expect("written");
        file.set_len(8192).expect("long enough");
        let page = Page::map(&file, 4096).expect("a mapping");
        assert_eq!(page.read32(0), u32::from_le_bytes(*b"SALP"));
        assert_eq!(page.read64(0), 0x1_504c_4153);
        page.write32(8, 0x0403_0201);
        let mut bytes = [0; 4];
        file.seek(SeekFrom::Start(4096 + 8)).expect("sought");
        file.read_exact(&mut bytes).expect("read");
        assert_eq!(bytes, [1, 2, 3, 4]);
    }

    #[test]
    #[should_panic(expected = "no register at 0xffc")]
    fn nothing_behind_the_page_is_read() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("long enough");
        Page::map(&file, 0).expect("a mapping").read64(0xffc);
    }

    #[test]
    fn the_numbers_of_ioctls_are_those_of_the_kernel() {
        assert_eq!((ADD_ENTROPY, RESEED), (0x4008_5203, 0x5207));
        assert_eq!(size_of::<Entropy>(), 8 + SEED);
        assert_eq!((CHIP_INFO, GET_LINE), (0x8044_b401, 0xc250_b407));
    }
}
