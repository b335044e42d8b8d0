//! What became of VMs last. Before: the machine, which tells; after: managers, who read it ([`salp_hvc::events`]).
//!
//! A ring of pages that are taken when the first event comes to each. Events are numbered from 1 on, those that find no memory too:
//! a reader sees what is missing.

use crate::addr::PAGE_SIZE;
use core::ops::DerefMut;
use salp_hvc::events::{EventRecord, KEPT};

/// How many events a page has.
pub const RECORDS: usize = PAGE_SIZE as usize / size_of::<EventRecord>();

const PAGES: usize = KEPT / RECORDS;
const ROOM: u64 = KEPT as u64;

/// The last events, in pages of this type.
#[derive(Debug)]
pub struct Ring<P> {
    pages: [Option<P>; PAGES],
    last: u64,
}

impl<P> Ring<P> {
    /// Nothing has happened.
    pub const EMPTY: Self = Self { pages: [const { None }; PAGES], last: 0 };

    /// Returns the number of the last event; 0 if there was none.
    pub const fn last(&self) -> u64 {
        self.last
    }
}

const _: () = assert!(PAGES * RECORDS == KEPT);

/// Returns the page of an event and its place in it.
const fn place(number: u64) -> (usize, usize) {
    let index = (number % ROOM) as usize;
    (index / RECORDS, index % RECORDS)
}

impl<P: DerefMut<Target = [EventRecord; RECORDS]>> Ring<P> {
    /// Gives the ring its pages, as many as there are. Events that would be in others are lost.
    pub fn prepare(&mut self, mut take: impl FnMut() -> Option<P>) {
        self.pages.iter_mut().for_each(|page| *page = take());
    }

    /// Gives an event its number and puts it in place of the oldest one.
    pub fn push(&mut self, event: &EventRecord) {
        self.last += 1;
        let (page, index) = place(self.last);
        let page = self.pages.get_mut(page).and_then(Option::as_deref_mut);
        if let Some(record) = page.and_then(|page| page.get_mut(index)) {
            *record = EventRecord { number: self.last.into(), ..*event };
        }
    }

    /// Returns its pages, where there are some.
    pub fn pages(&self) -> impl Iterator<Item = Option<&P>> {
        self.pages.iter().map(Option::as_ref)
    }

    /// Takes over the pages of a ring whose last event had this number.
    pub fn resume(&mut self, mut pages: impl Iterator<Item = Option<P>>, last: u64) {
        self.pages.iter_mut().for_each(|page| *page = pages.next().flatten());
        self.last = last;
    }

    /// Copies the events from this number on, as many as there is room for. Returns how many, and the number to go on with.
    pub fn read(&self, from: u64, to: &mut [EventRecord]) -> (usize, u64) {
        let mut count = 0;
        // Who asks for what has not happened yet is told where to go on.
        let mut next = from.min(self.last + 1).max((self.last + 1).saturating_sub(ROOM)).max(1);
        while next <= self.last {
            let (page, index) = place(next);
            let record = self.pages.get(page).and_then(Option::as_deref).and_then(|page| page.get(index));
            if let Some(record) = record.filter(|record| record.number.get() == next) {
                let Some(place) = to.get_mut(count) else { break };
                *place = *record;
                count += 1;
            }
            next += 1;
        }
        (count, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    type Page = Box<[EventRecord; RECORDS]>;

    fn ring(pages: usize) -> Ring<Page> {
        let (mut ring, mut left) = (Ring::EMPTY, pages);
        ring.prepare(|| {
            left = left.checked_sub(1)?;
            Some(Box::new([EventRecord::new_zeroed(); RECORDS]))
        });
        ring
    }

    fn push(ring: &mut Ring<Page>, vm: u64) {
        ring.push(&EventRecord { vm: vm.into(), ..EventRecord::new_zeroed() });
    }

    fn read(ring: &Ring<Page>, from: u64, room: usize) -> (Vec<u64>, u64) {
        let mut records = vec![EventRecord::new_zeroed(); room];
        let (count, next) = ring.read(from, &mut records);
        (records[..count].iter().map(|record| record.number.get()).collect(), next)
    }

    #[test]
    fn events_are_read_in_their_order_and_in_parts() {
        let mut ring = ring(PAGES);
        assert_eq!(read(&ring, 0, 4), (vec![], 1));
        (1..=5).for_each(|vm| push(&mut ring, vm));
        assert_eq!(read(&ring, 0, 3), (vec![1, 2, 3], 4));
        assert_eq!(read(&ring, 4, 3), (vec![4, 5], 6));
        assert_eq!(read(&ring, 6, 3), (vec![], 6));
        assert_eq!(read(&ring, u64::MAX, 3), (vec![], 6));
    }

    #[test]
    fn what_was_lost_for_want_of_memory_is_missing() {
        let mut ring = ring(1);
        let most = RECORDS as u64;
        (1..=most).for_each(|vm| push(&mut ring, vm));
        // The first number is 1, the first place is for 0.
        assert_eq!(read(&ring, most - 2, 4), (vec![most - 2, most - 1], most + 1));
    }

    proptest! {
        #[test]
        fn the_last_ones_are_there_however_many_there_were(count in 0u64..4000, from in 0u64..5000) {
            let mut ring = ring(PAGES);
            (1..=count).for_each(|vm| push(&mut ring, vm));
            let (numbers, next) = read(&ring, from, 5000);
            prop_assert_eq!(next, count + 1);
            let oldest = from.max(count.saturating_sub(ROOM - 1)).max(1);
            prop_assert_eq!(numbers, (oldest..=count).collect::<Vec<_>>());
        }
    }
}
