//! NOR flash with the Common Flash Interface (JESD68) and Intel's command set: two chips of 16 bits side by side, so every
//! command and status is there twice in a word of 32 bits. Before: the device tree; after: `salp_core::flash`.

use crate::sysreg::dsb;
use salp_core::addr::Va;
use salp_core::flash::{Flash, MAX_BLOCK, PAGE, Progress};

const QUERY: u32 = 0x0098_0098;
const ERASE: u32 = 0x0020_0020;
const CONFIRM: u32 = 0x00d0_00d0;
const BUFFER: u32 = 0x00e8_00e8;
const CLEAR_STATUS: u32 = 0x0050_0050;
const STATUS: u32 = 0x0070_0070;
const READ_ARRAY: u32 = 0x00ff_00ff;

/// Status: ready; and any of erase, program, voltage or protection failed.
const READY: u32 = 0x0080_0080;
const FAILED: u32 = 0x003a_003a;

const WORD: u64 = 4;
/// What is read at once, in bytes.
const DOUBLE: usize = 8;
const CHIPS: u64 = 2;

/// A bank of flash. It reads as memory unless something is under way.
#[derive(Debug)]
pub struct Nor {
    base: u64,
    block: u64,
    /// How much is programmed at once, in bytes.
    buffer: usize,
    is_busy: bool,
    has_failed: bool,
}

impl Nor {
    /// Takes the flash at `base`; `None` if it is none that Salp knows.
    ///
    /// # Safety
    ///
    /// `size` bytes from `base` are a bank of flash or nothing, mapped as device memory, and nothing else drives it.
    pub unsafe fn new(base: Va, size: u64) -> Option<Self> {
        let mut flash = Self { base: base.0, block: 0, buffer: 0, is_busy: false, has_failed: false };
        flash.write(0x55 * WORD, QUERY);
        // JESD68: tables of bytes, one a word; both chips answer.
        let byte = |at: u64| flash.load(at * WORD) as u8;
        let is_cfi = [0x10, 0x11, 0x12].map(byte) == *b"QRY" && byte(0x13) == 1;
        let buffer = 1_u64.checked_shl(byte(0x2a).into()).unwrap_or(0) * CHIPS;
        // One region of equal blocks: how many less one, and their size in units of 256 bytes.
        let [count, block] = [0x2d, 0x2f].map(|at| u64::from(byte(at)) | u64::from(byte(at + 1)) << 8);
        let block = block * 256 * CHIPS;
        let is_usable = is_cfi && byte(0x2c) == 1 && (count + 1) * block == size;
        flash.write(0, READ_ARRAY);
        flash.block = block;
        flash.buffer = buffer.min(PAGE as u64) as usize;
        (is_usable && buffer >= WORD && block.is_power_of_two() && block <= MAX_BLOCK).then_some(flash)
    }

    fn load(&self, at: u64) -> u32 {
        // SAFETY: inside the bank that `new` was promised; reading has no effect.
        unsafe { core::ptr::read_volatile((self.base + at) as *const u32) }
    }

    fn write(&mut self, at: u64, value: u32) {
        // SAFETY: a command inside the bank that `new` was promised.
        unsafe { core::ptr::write_volatile((self.base + at) as *mut u32, value) };
        dsb!("sy");
    }

    fn wait(&mut self) {
        while self.load(0) & READY != READY {
            core::hint::spin_loop();
        }
    }

    /// Fills the chips' buffers with words and lets them be programmed.
    fn program_buffer(&mut self, at: u64, bytes: &[u8]) {
        self.write(at, BUFFER);
        self.wait();
        let words = bytes.len().div_ceil(WORD as usize) as u32;
        self.write(at, (words - 1) << 16 | (words - 1));
        for (word, at) in bytes.chunks(WORD as usize).zip((at..).step_by(WORD as usize)) {
            let mut whole = [0xff; WORD as usize];
            whole.iter_mut().zip(word).for_each(|(place, byte)| *place = *byte);
            // SAFETY: data inside the bank; the last of them is followed by a barrier.
            unsafe { core::ptr::write_volatile((self.base + at) as *mut u32, u32::from_le_bytes(whole)) };
        }
        self.write(at, CONFIRM);
    }
}

impl Flash for Nor {
    fn block(&self) -> u64 {
        self.block
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        let start = self.base + at;
        let skip = (start % DOUBLE as u64) as usize;
        let mut from = start - skip as u64;
        let mut next = || {
            // SAFETY: an aligned double word of which a byte is asked for, so all of it is inside the bank.
            let word = unsafe { core::ptr::read_volatile(from as *const u64) };
            from += DOUBLE as u64;
            word.to_le_bytes()
        };
        let (head, rest) = to.split_at_mut(to.len().min((DOUBLE - skip) % DOUBLE));
        if !head.is_empty() {
            head.copy_from_slice(&next()[skip..skip + head.len()]);
        }
        let mut chunks = rest.chunks_exact_mut(DOUBLE);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&next());
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            tail.copy_from_slice(&next()[..tail.len()]);
        }
    }

    fn erase(&mut self, at: u64) {
        self.has_failed = false;
        self.write(at, CLEAR_STATUS);
        self.write(at, ERASE);
        self.write(at, CONFIRM);
        self.is_busy = true;
    }

    fn program(&mut self, at: u64, bytes: &[u8]) {
        self.has_failed = false;
        self.write(at, CLEAR_STATUS);
        let parts = bytes.chunks(self.buffer).zip((at..).step_by(self.buffer));
        for (index, (part, at)) in parts.enumerate() {
            if index > 0 {
                self.wait();
            }
            self.program_buffer(at, part);
        }
        self.is_busy = true;
    }

    fn poll(&mut self) -> Progress {
        if !self.is_busy {
            return if self.has_failed { Progress::Failed } else { Progress::Ready };
        }
        self.write(0, STATUS);
        let status = self.load(0);
        if status & READY != READY {
            return Progress::Busy;
        }
        self.write(0, CLEAR_STATUS);
        self.write(0, READ_ARRAY);
        self.is_busy = false;
        self.has_failed = status & FAILED != 0;
        self.poll()
    }
}
