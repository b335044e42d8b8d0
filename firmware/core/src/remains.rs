//! What EL2 said last before a reset, in a page that the reset leaves alone. Before: the crash path, which writes it. After: the
//! next start, which tells it.
//!
//! What is in RAM after power came is anything: a page counts only with its magic and a checksum of its text.

use crate::addr::PAGE_SIZE;
use crate::digest;
use core::fmt;

const PAGE: usize = PAGE_SIZE as usize;
const MAGIC: u64 = u64::from_le_bytes(*b"SALPLAST");
/// Magic, length, checksum.
const HEAD: usize = 24;

/// A page that words are written to: the first ones are kept if not all fit.
#[derive(Debug)]
pub struct Remains<'a> {
    page: &'a mut [u8; PAGE],
    length: usize,
}

impl fmt::Write for Remains<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let from = HEAD + self.length;
        let fits = text.len().min(PAGE - from);
        self.page[from..from + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.length += fits;
        Ok(())
    }
}

impl<'a> Remains<'a> {
    /// Begins anew in this page.
    pub fn new(page: &'a mut [u8; PAGE]) -> Self {
        Self { page, length: 0 }
    }

    /// Makes what was written count.
    pub fn seal(&mut self) {
        let sum = digest::checksum(&self.page[HEAD..HEAD + self.length]);
        for (place, word) in self.page.as_chunks_mut().0.iter_mut().zip([MAGIC, self.length as u64, sum]) {
            *place = word.to_le_bytes();
        }
    }
}

/// Returns the lines of a page that was sealed; bytes that are no printable ASCII end a line.
pub fn lines(page: &[u8; PAGE]) -> Option<impl Iterator<Item = &str>> {
    let [magic, length, sum] = *page.as_chunks().0.first_chunk::<3>()?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok()?;
    let text = page[HEAD..].get(..length)?;
    if u64::from_le_bytes(magic) != MAGIC || u64::from_le_bytes(sum) != digest::checksum(text) {
        return None;
    }
    let is_no_text = |byte: &u8| !matches!(byte, b' '..=b'~');
    Some(text.split(is_no_text).filter_map(|line| core::str::from_utf8(line).ok()).filter(|line| !line.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Returns a page in which these words are sealed.
    fn page(words: fmt::Arguments<'_>) -> [u8; PAGE] {
        let mut page = [0xa5; PAGE];
        let mut remains = Remains::new(&mut page);
        remains.write_fmt(words).unwrap();
        remains.seal();
        page
    }

    #[test]
    fn what_was_said_last_is_told() {
        let page = page(format_args!("\nsalp| PANIC on CPU {:#x}: why\nsalp|   here\n", 1));
        let told: Vec<_> = lines(&page).unwrap().collect();
        assert_eq!(told, ["salp| PANIC on CPU 0x1: why", "salp|   here"]);
        assert!(lines(&[0; PAGE]).is_none() && lines(&[0xff; PAGE]).is_none());
    }

    #[test]
    fn the_first_words_are_kept_if_there_are_too_many() {
        let page = page(format_args!("{}", "one line\n".repeat(1000)));
        assert_eq!(lines(&page).unwrap().filter(|line| *line == "one line").count(), (PAGE - HEAD) / 9);
    }

    proptest! {
        #[test]
        fn a_page_that_was_spoilt_tells_nothing_that_was_not_said(at in 0..200_usize, value: u8) {
            let mut page = page(format_args!("{}", "the same words. ".repeat(10)));
            let was = core::mem::replace(&mut page[at], value);
            let told = lines(&page).map(|lines| lines.map(str::len).sum::<usize>());
            prop_assert_eq!(told, (was == value || at >= HEAD + 160).then_some(160));
        }
    }
}
