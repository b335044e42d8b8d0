//! A flash for tests, whose power is cut at any one word.

use super::{Flash, PAGE, Progress};
use std::vec;
use std::vec::Vec;

/// What erasing and programming take at once.
const WORD: usize = 4;

/// A flash in memory.
#[derive(Clone)]
pub struct Simulated {
    /// What it holds.
    pub bytes: Vec<u8>,
    block: u64,
    /// How many words were changed since the power came on; a block that is erased counts as two.
    pub steps: u64,
    /// At which of these steps the power goes.
    cut: Option<u64>,
    /// What chance does.
    seed: u64,
    busy: u32,
}

impl Simulated {
    /// Returns an erased flash.
    pub fn new(size: u64, block: u64) -> Self {
        Self { bytes: vec![0xff; size as usize], block, steps: 0, cut: None, seed: 0, busy: 0 }
    }

    /// Lets the power go at step `cut`, counted from now, with an outcome that `seed` chooses.
    pub fn cut_at(&mut self, cut: u64, seed: u64) {
        (self.steps, self.cut, self.seed) = (0, Some(cut), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    }

    /// Returns whether the power is gone.
    pub fn is_dead(&self) -> bool {
        self.cut.is_some_and(|cut| self.steps > cut)
    }

    /// Lets the power come back.
    pub fn power_on(&mut self) {
        (self.steps, self.cut, self.busy) = (0, None, 0);
    }

    fn chance(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    /// Returns whether this step is done; the one at which the power goes is done by half.
    fn step(&mut self) -> Step {
        let step = match self.cut {
            Some(cut) if self.steps == cut => Step::Half,
            Some(cut) if self.steps > cut => return Step::Not,
            _ => Step::Done,
        };
        self.steps += 1;
        step
    }
}

#[derive(PartialEq)]
enum Step {
    Done,
    Half,
    Not,
}

impl Flash for Simulated {
    fn block(&self) -> u64 {
        self.block
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        assert_eq!(self.busy, 0, "a flash that is busy is not read");
        to.copy_from_slice(&self.bytes[at as usize..][..to.len()]);
    }

    fn erase(&mut self, at: u64) {
        assert!(self.busy == 0 && at.is_multiple_of(self.block));
        let range = at as usize..(at + self.block) as usize;
        for half in [0, 1] {
            match self.step() {
                Step::Done if half == 1 => self.bytes[range.clone()].fill(0xff),
                // At first all bits are programmed (so that they wear alike), then erased bit by bit: anything is possible.
                Step::Half => {
                    for at in range.clone() {
                        let chance = self.chance() as u8;
                        self.bytes[at] = if half == 0 { self.bytes[at] & chance } else { self.bytes[at] | chance };
                    }
                }
                _ => {}
            }
        }
        self.busy = 2;
    }

    fn program(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.busy == 0 && at as usize / PAGE == (at as usize + bytes.len() - 1) / PAGE, "all in one page");
        let words = bytes.chunks(WORD).zip((at as usize..).step_by(WORD));
        for (word, at) in words {
            let place = at..at + word.len();
            match self.step() {
                Step::Done => self.bytes[place].iter_mut().zip(word).for_each(|(old, new)| *old &= new),
                Step::Half => {
                    for (at, new) in place.zip(word) {
                        let chance = self.chance() as u8;
                        self.bytes[at] &= new | chance;
                    }
                }
                Step::Not => {}
            }
        }
        self.busy = 1;
    }

    fn poll(&mut self) -> Progress {
        self.busy = self.busy.saturating_sub(1);
        if self.busy > 0 { Progress::Busy } else { Progress::Ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flash::wait;

    #[test]
    fn programming_clears_bits_and_erasing_sets_all() {
        let mut flash = Simulated::new(8192, 4096);
        flash.program(4096, &[0xf0; 8]);
        wait(&mut flash).unwrap();
        flash.program(4096, &[0x3c; 4]);
        wait(&mut flash).unwrap();
        assert_eq!(flash.bytes[4096..4106], [0x30, 0x30, 0x30, 0x30, 0xf0, 0xf0, 0xf0, 0xf0, 0xff, 0xff]);
        flash.erase(4096);
        wait(&mut flash).unwrap();
        assert!(flash.bytes.iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn a_cut_leaves_a_prefix_and_one_word_in_doubt() {
        let mut flash = Simulated::new(4096, 4096);
        flash.cut_at(2, 7);
        flash.program(0, &[0; 16]);
        assert!(flash.is_dead());
        assert_eq!((&flash.bytes[..8], &flash.bytes[12..16]), (&[0; 8][..], &[0xff; 4][..]));
    }
}
