//! Promises: free frames that are set aside, so that whoever counts on them gets them.
//!
//! Before: [`super::Frames`], whose free frames they are. After: [`crate::stage2`], whose address spaces hold promises.
//! A promise is a number, not certain frames. To take promised frames is to take the promise back and then the frames,
//! under one lock.

use super::record::Kind;
use super::{Frames, OutOfMemory};

impl Frames<'_> {
    /// Sets so many free frames aside: nobody gets them before the promise is taken back.
    ///
    /// # Errors
    ///
    /// Not so many are free and not promised.
    pub fn promise(&mut self, frames: usize) -> Result<(), OutOfMemory> {
        if frames > self.unpromised() {
            return Err(OutOfMemory);
        }
        self.stats.promised += frames;
        Ok(())
    }

    /// Takes a promise back, or part of one.
    pub fn unpromise(&mut self, frames: usize) {
        assert!(frames <= self.stats.promised, "more frames were unpromised than promised");
        self.stats.promised -= frames;
    }

    /// Returns how many frames are free and not promised.
    #[inline]
    pub fn unpromised(&self) -> usize {
        self.stats.frames(Kind::Free).saturating_sub(self.stats.promised)
    }
}
