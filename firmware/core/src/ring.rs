//! The last bytes of something that is written for good: EL2's own log. Before: the console. After: managers, who read it.
//!
//! Bytes are counted from the first one on, as in [`crate::scrollback`], but the room is there from the start: who writes here
//! may hold any lock.

/// The last `SIZE` bytes.
#[derive(Debug)]
pub struct Ring<const SIZE: usize> {
    bytes: [u8; SIZE],
    end: u64,
}

impl<const SIZE: usize> Ring<SIZE> {
    /// Nothing was written.
    pub const EMPTY: Self = Self { bytes: [0; SIZE], end: 0 };

    /// Returns how many bytes were written so far.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Goes on as one to which so many bytes were written. What was, up to its size, is to be appended again.
    pub const fn resume(&mut self, end: u64) {
        self.end = end;
    }

    /// Appends bytes in place of the oldest.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.end as usize % SIZE) {
                *place = byte;
                self.end += 1;
            }
        }
    }

    /// Reads bytes from `position` on, or from the oldest one if that is later. Returns the position of the first one, and how
    /// many there were.
    pub fn read(&self, position: u64, to: &mut [u8]) -> (u64, usize) {
        let first = position.max(self.end.saturating_sub(SIZE as u64)).min(self.end);
        let count = to.len().min((self.end - first) as usize);
        for (byte, at) in to.iter_mut().zip(first as usize..).take(count) {
            *byte = self.bytes.get(at % SIZE).copied().unwrap_or_default();
        }
        (first, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written_last(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10),
            position in 0u64..400,
            length in 0usize..80,
        ) {
            let (mut ring, mut all) = (Ring::<64>::EMPTY, Vec::new());
            for piece in &pieces {
                ring.push(piece);
                all.extend(piece);
            }
            let mut read = vec![0; length];
            let (first, count) = ring.read(position, &mut read);
            let oldest = all.len().saturating_sub(64);
            prop_assert_eq!(first as usize, (position as usize).clamp(oldest, all.len()));
            prop_assert_eq!(count, length.min(all.len() - first as usize));
            prop_assert_eq!(&read[..count], &all[first as usize..][..count]);
            prop_assert_eq!(ring.end() as usize, all.len());
        }
    }
}
