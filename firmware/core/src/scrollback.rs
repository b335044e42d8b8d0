//! What a VM wrote to its console last. Before: [`crate::dev::pl011`], which sends bytes; after: managers, who read them.
//!
//! A ring of pages that are taken when the first byte comes to each, so a VM that writes nothing has none. Bytes are counted
//! from the first one on: a reader says where it is, and learns whether it has missed something.

use crate::addr::PAGE_SIZE;
use core::ops::DerefMut;
use salp_hvc::manager::CONSOLE_SIZE;

/// The size of a page, in bytes.
pub const PAGE: usize = PAGE_SIZE as usize;

const PAGES: usize = CONSOLE_SIZE / PAGE;

/// The last [`CONSOLE_SIZE`] bytes, in pages of this type.
#[derive(Debug)]
pub struct Scrollback<P> {
    pages: [Option<P>; PAGES],
    end: u64,
}

impl<P> Default for Scrollback<P> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<P> Scrollback<P> {
    /// Nothing was written.
    pub const EMPTY: Self = Self { pages: [const { None }; PAGES], end: 0 };

    /// Returns how many bytes were written so far.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Returns how many pages there are.
    pub fn pages(&self) -> usize {
        self.pages.iter().flatten().count()
    }

    /// Returns the pages, each in its place.
    pub fn places(&self) -> impl Iterator<Item = Option<&P>> {
        self.pages.iter().map(Option::as_ref)
    }

    /// Returns one with these pages, into which so many bytes were written.
    pub fn restored(pages: impl IntoIterator<Item = Option<P>>, end: u64) -> Self {
        let mut this = Self { end, ..Self::EMPTY };
        this.pages.iter_mut().zip(pages).for_each(|(place, page)| *place = page);
        this
    }

    /// Forgets all bytes and returns the pages.
    pub fn take_pages(&mut self) -> impl Iterator<Item = P> {
        core::mem::take(self).pages.into_iter().flatten()
    }
}

impl<P: DerefMut<Target = [u8; PAGE]>> Scrollback<P> {
    /// Appends a byte in place of the oldest. If it needs a page, `take` is asked for one; the byte is dropped if there is none.
    #[inline]
    pub fn push(&mut self, byte: u8, take: impl FnOnce() -> Option<P>) {
        let Some(place) = self.pages.get_mut(self.end as usize / PAGE % PAGES) else { return };
        if place.is_none() {
            *place = take();
        }
        if let Some(byte_place) = place.as_deref_mut().and_then(|page| page.get_mut(self.end as usize % PAGE)) {
            *byte_place = byte;
            self.end += 1;
        }
    }

    /// Reads bytes from `position` on, or from the oldest one if that is later. Returns the position of the first one, and how
    /// many there were.
    pub fn read(&self, position: u64, to: &mut [u8]) -> (u64, usize) {
        let first = position.max(self.end.saturating_sub(CONSOLE_SIZE as u64)).min(self.end);
        let mut count = 0;
        let wanted = to.len().min((self.end - first) as usize);
        while let Some(rest) = to.get_mut(count..wanted).filter(|rest| !rest.is_empty()) {
            let at = first as usize + count;
            let page = self.pages.get(at / PAGE % PAGES).and_then(Option::as_deref);
            let Some(part) = page.and_then(|page| page.get(at % PAGE..)) else { break };
            let length = part.len().min(rest.len());
            rest.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            count += length;
        }
        (first, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Ring = Scrollback<Box<[u8; PAGE]>>;

    fn write(ring: &mut Ring, bytes: impl IntoIterator<Item = u8>) {
        bytes.into_iter().for_each(|byte| ring.push(byte, || Some(Box::new([0; PAGE]))));
    }

    #[test]
    fn pages_are_taken_when_they_are_needed_and_given_back() {
        let mut ring = Ring::EMPTY;
        assert_eq!((ring.pages(), ring.read(0, &mut [0; 8])), (0, (0, 0)));
        write(&mut ring, *b"hello");
        assert_eq!(ring.pages(), 1);
        write(&mut ring, [b'x'; 4092]);
        assert_eq!((ring.pages(), ring.end()), (2, 4097));
        write(&mut ring, core::iter::repeat_n(b'y', 3 * CONSOLE_SIZE));
        assert_eq!(ring.pages(), PAGES);
        assert_eq!((ring.take_pages().count(), ring.pages(), ring.end()), (PAGES, 0, 0));
    }

    #[test]
    fn a_byte_for_which_there_is_no_page_is_dropped() {
        let mut ring = Ring::EMPTY;
        ring.push(b'a', || None);
        assert_eq!(ring.end(), 0);
        write(&mut ring, *b"b");
        let mut read = [0; 4];
        assert_eq!((ring.read(0, &mut read), read[0]), ((0, 1), b'b'));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_reader_sees_the_last_bytes_and_where_they_are(
            writes in proptest::collection::vec(0usize..30_000, 0..12),
            position in 0u64..200_000,
            room in 0usize..100_000,
        ) {
            let (mut ring, mut all) = (Ring::EMPTY, vec![]);
            for length in writes {
                let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + all.len() / 3) as u8).collect();
                write(&mut ring, bytes.iter().copied());
                all.extend(bytes);
            }
            let mut to = vec![0; room];
            let (first, count) = ring.read(position, &mut to);
            let oldest = all.len().saturating_sub(CONSOLE_SIZE);
            let expected = (position as usize).clamp(oldest, all.len());
            prop_assert_eq!((first as usize, count), (expected, room.min(all.len() - expected)));
            prop_assert_eq!(&to[..count], &all[expected..expected + count]);
        }
    }
}
