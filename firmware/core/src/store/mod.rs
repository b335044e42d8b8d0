//! Records that outlive a reset, in a log in the flash: two halves, of which one counts. A record is written behind the others
//! and takes the place of the one before with its key; when a half is full, what is still of use goes to the other one, whose
//! header is written last. At any cut of power a record is what it was or what it was to be. Before: [`crate::flash`]; after:
//! the machine, which keeps managers' records so.
//!
//! ```text
//! half:  Header, to the end of its page | Entry, bytes, padding to whole words of 16 | Entry, bytes, … | erased
//! ```
//!
//! Nothing waits for the flash: [`Store::step`] does what it is ready for.

use crate::digest;
use crate::flash::{Flash, PAGE, Progress, Worn};
use salp_hvc::handover;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The greatest size of a record, in bytes.
pub const MAX: usize = 16 << 10;

/// How many records there are, by their keys from 0.
pub const KEYS: usize = 16;

const ALIGN: u64 = 16;
const HALF_MAGIC: [u8; 8] = *b"SALPSTOR";
const ENTRY_MAGIC: U32 = U32::new(u32::from_le_bytes(*b"SALP"));
const VERSION: U32 = U32::new(1);

/// The start of a half.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    reserved: U32,
    generation: U64,
    checksum: U64,
}

/// The start of a record.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    magic: U32,
    key: U32,
    size: U32,
    reserved: U32,
    /// That of the half: what an earlier one left in the same place is none.
    generation: U64,
    data: U64,
    checksum: U64,
}

const ENTRY: usize = size_of::<Entry>();

impl Header {
    fn new(generation: u64) -> Self {
        let zero = U32::new(0);
        let mut header = Self {
            magic: HALF_MAGIC,
            version: VERSION,
            reserved: zero,
            generation: generation.into(),
            checksum: 0.into(),
        };
        header.checksum = header.sum().into();
        header
    }

    fn sum(&self) -> u64 {
        digest::checksum(self.as_bytes().get(..size_of::<Self>() - 8).unwrap_or_default())
    }

    fn read(flash: &impl Flash, at: u64) -> Option<u64> {
        let mut bytes = [0; size_of::<Self>()];
        flash.read(at, &mut bytes);
        let header: Self = zerocopy::transmute!(bytes);
        let is_one = header.magic == HALF_MAGIC && header.version == VERSION && header.checksum.get() == header.sum();
        is_one.then_some(header.generation.get())
    }
}

impl Entry {
    fn new(key: u32, generation: u64, bytes: &[u8]) -> Self {
        let mut entry = Self {
            magic: ENTRY_MAGIC,
            key: key.into(),
            size: (bytes.len() as u32).into(),
            reserved: 0.into(),
            generation: generation.into(),
            data: digest::checksum(bytes).into(),
            checksum: 0.into(),
        };
        entry.checksum = entry.sum().into();
        entry
    }

    fn sum(&self) -> u64 {
        digest::checksum(self.as_bytes().get(..ENTRY - 8).unwrap_or_default())
    }

    /// Returns how much room it takes with its bytes.
    fn room(&self) -> u64 {
        room(self.size.get() as usize)
    }
}

fn room(size: usize) -> u64 {
    ((ENTRY + size) as u64).next_multiple_of(ALIGN)
}

/// Where a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    at: u64,
    size: usize,
}

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Nothing,
    /// The record in the buffer.
    Record {
        key: usize,
    },
    /// Records of use go to the other half, this one next.
    Moving {
        key: usize,
    },
    /// They are all there: the header makes that half count.
    Header,
}

/// The store.
pub struct Store {
    /// Where the halves are in the flash, and how large each is, in bytes: room for all records at once, and more.
    halves: [u64; 2],
    size: u64,
    /// Which half counts, and its number.
    half: usize,
    generation: u64,
    index: [Place; KEYS],
    /// Where the next record goes, and up to where the half is known to be erased.
    end: u64,
    erased: u64,
    /// Something unfinished is behind the last record: nothing is written there.
    is_torn: bool,
    work: Work,
    /// While records move: where they are there.
    moved: [Place; KEYS],
    /// What is written, and how much of that is.
    buffer: [u8; MAX + ENTRY + ALIGN as usize],
    filled: usize,
    written: usize,
    /// What waits until the records have moved.
    waiting: Option<(usize, usize)>,
}

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The one before is not written yet.
    Busy,
    /// It is too long, or there is no such record.
    Invalid,
}

impl Store {
    /// Returns an empty one with these halves.
    pub const fn new(halves: [u64; 2], size: u64) -> Self {
        Self {
            halves,
            size,
            half: 0,
            generation: 0,
            index: [Place { at: 0, size: 0 }; KEYS],
            end: 0,
            erased: 0,
            // A half without a header is not written to: the first record moves to the other.
            is_torn: true,
            work: Work::Nothing,
            moved: [Place { at: 0, size: 0 }; KEYS],
            buffer: [0; MAX + ENTRY + ALIGN as usize],
            filled: 0,
            written: 0,
            waiting: None,
        }
    }

    /// Reads the log into an empty store. One that is not there is empty.
    pub fn load(&mut self, flash: &impl Flash) {
        let generations = self.halves.map(|at| Header::read(flash, at));
        self.half = usize::from(generations[1] > generations[0]);
        if let Some(generation) = generations.into_iter().flatten().max() {
            self.generation = generation;
            self.scan(flash);
        }
    }

    /// Returns what a hand-over has of it. `None` if it is being written to.
    pub fn record(&self) -> Option<handover::Store> {
        self.is_idle().then(|| handover::Store {
            half: self.half as u32,
            is_torn: self.is_torn.into(),
            generation: self.generation,
            end: self.end,
            erased: self.erased,
            index: self.index.map(|place| [place.at, place.size as u64]),
        })
    }

    /// Takes over what a record says of the flash, without a look at that. Returns false if it cannot be.
    pub fn resume(&mut self, record: &handover::Store) -> bool {
        let half = record.half as usize;
        let Some(&base) = self.halves.get(half) else { return false };
        let is_inside = |at: u64| (base..=base + self.size).contains(&at);
        let is_place = |&[at, size]: &[u64; 2]| {
            size == 0 || size <= MAX as u64 && is_inside(at) && at.checked_add(size).is_some_and(is_inside)
        };
        // One without a half is as it was made: nothing was ever written.
        let is_new = *record == handover::Store { half: record.half, is_torn: record.is_torn, ..Default::default() };
        let is_sound = is_new || is_inside(record.end) && is_inside(record.erased) && record.end.is_multiple_of(ALIGN);
        if !is_sound || record.is_torn > 1 || !record.index.iter().all(is_place) {
            return false;
        }
        (self.half, self.generation) = (half, record.generation);
        (self.end, self.erased, self.is_torn) = (record.end, record.erased, record.is_torn == 1);
        self.index = record.index.map(|[at, size]| Place { at, size: size as usize });
        true
    }

    fn base(&self) -> u64 {
        self.halves[self.half % 2]
    }

    fn limit(&self) -> u64 {
        self.base() + self.size
    }

    /// Finds the last record of each key, and the end.
    fn scan(&mut self, flash: &impl Flash) {
        let mut at = self.base() + PAGE as u64;
        while let Some(entry) = self.entry(flash, at) {
            if let Some(place) = self.index.get_mut(entry.key.get() as usize) {
                *place = Place { at: at + ENTRY as u64, size: entry.size.get() as usize };
            }
            at += entry.room();
        }
        self.end = at;
        self.erased = at.next_multiple_of(flash.block());
        self.is_torn = !is_blank(flash, at, self.erased.min(self.limit()));
    }

    /// Reads the record at `at`, if a whole one is there.
    fn entry(&self, flash: &impl Flash, at: u64) -> Option<Entry> {
        if at + ENTRY as u64 > self.limit() {
            return None;
        }
        let mut bytes = [0; ENTRY];
        flash.read(at, &mut bytes);
        let entry: Entry = zerocopy::transmute!(bytes);
        let is_one = entry.magic == ENTRY_MAGIC
            && entry.checksum.get() == entry.sum()
            && entry.generation.get() == self.generation
            && entry.size.get() as usize <= MAX
            && at + entry.room() <= self.limit();
        (is_one && sum_of(flash, at + ENTRY as u64, entry.size.get() as usize) == entry.data.get()).then_some(entry)
    }

    /// Returns the size of a record; 0 if there is none.
    pub fn size(&self, key: usize) -> usize {
        self.index.get(key).map_or(0, |place| place.size)
    }

    /// Reads a part of a record.
    pub fn read(&self, flash: &impl Flash, key: usize, offset: usize, to: &mut [u8]) {
        if let Some(place) = self.index.get(key).filter(|place| offset + to.len() <= place.size) {
            flash.read(place.at + offset as u64, to);
        }
    }

    /// Returns whether all is written.
    pub fn is_idle(&self) -> bool {
        self.work == Work::Nothing
    }

    /// Begins to write `size` bytes, which `fill` gives, as record `key`; none removes it.
    ///
    /// # Errors
    ///
    /// It cannot be, or not now.
    pub fn put(&mut self, key: usize, size: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), StoreError> {
        if !self.is_idle() {
            return Err(StoreError::Busy);
        }
        let bytes = self.buffer.get_mut(ENTRY..ENTRY + size).filter(|_| key < KEYS && size <= MAX);
        fill(bytes.ok_or(StoreError::Invalid)?);
        if self.is_torn || self.end + room(size) > self.limit() {
            self.waiting = Some((key, size));
            self.begin_moving();
        } else {
            self.seal(key, size);
            self.work = Work::Record { key };
        }
        Ok(())
    }

    /// Puts what is in front of the record in the buffer.
    fn seal(&mut self, key: usize, size: usize) {
        let bytes = self.buffer.get(ENTRY..ENTRY + size).unwrap_or_default();
        let entry = Entry::new(key as u32, self.generation, bytes);
        self.buffer.iter_mut().zip(entry.as_bytes()).for_each(|(place, byte)| *place = *byte);
        let end = room(size) as usize;
        self.buffer.iter_mut().take(end).skip(ENTRY + size).for_each(|byte| *byte = 0xff);
        (self.filled, self.written) = (end, 0);
    }

    /// Turns to the other half. What waits in the buffer is one of the records that move, so it comes first.
    fn begin_moving(&mut self) {
        self.half ^= 1;
        self.generation += 1;
        self.moved = [Place::default(); KEYS];
        self.end = self.base() + PAGE as u64;
        self.erased = self.base();
        let (key, size) = self.waiting.take().unwrap_or_default();
        self.seal(key, size);
        self.waiting = Some((key, size));
        self.work = Work::Moving { key };
    }

    /// Does what the flash is ready for. Returns whether all is written.
    ///
    /// # Errors
    ///
    /// The flash does not keep it: the store takes nothing more.
    pub fn step(&mut self, flash: &mut impl Flash) -> Result<bool, Worn> {
        if self.is_idle() {
            return Ok(true);
        }
        match flash.poll() {
            Progress::Busy => return Ok(false),
            Progress::Failed => return Err(Worn),
            Progress::Ready => {}
        }
        if self.written == self.filled {
            self.go_on(flash);
            return Ok(self.is_idle());
        }
        let at = if self.work == Work::Header { self.base() } else { self.end + self.written as u64 };
        if self.work != Work::Header && at + 1 > self.erased {
            flash.erase(self.erased);
            self.erased += flash.block();
            return Ok(false);
        }
        let length = (PAGE - at as usize % PAGE).min(self.filled - self.written);
        flash.program(at, self.buffer.get(self.written..self.written + length).unwrap_or_default());
        self.written += length;
        Ok(false)
    }

    /// Takes note of what is written, and begins with what is next.
    fn go_on(&mut self, flash: &impl Flash) {
        let place = |end: u64, filled: usize, buffer: &[u8]| {
            let entry = Entry::ref_from_prefix(buffer).map(|(entry, _)| entry.size.get()).unwrap_or(0);
            debug_assert!(filled >= ENTRY);
            Place { at: end + ENTRY as u64, size: entry as usize }
        };
        match self.work {
            Work::Nothing => {}
            Work::Record { key } => {
                if let Some(old) = self.index.get_mut(key) {
                    *old = place(self.end, self.filled, &self.buffer);
                }
                self.end += self.filled as u64;
                self.work = Work::Nothing;
            }
            Work::Moving { key } => {
                if let Some(new) = self.moved.get_mut(key) {
                    *new = place(self.end, self.filled, &self.buffer);
                }
                self.end += self.filled as u64;
                self.move_next(flash);
            }
            Work::Header => {
                self.index = self.moved;
                self.is_torn = false;
                self.waiting = None;
                self.work = Work::Nothing;
            }
        }
    }

    /// Fills the buffer with the next record that has to move; with the header if there is none.
    fn move_next(&mut self, flash: &impl Flash) {
        let changed = self.waiting.map(|(key, _)| key);
        let next = (0..KEYS).find(|&key| {
            Some(key) != changed && self.size(key) > 0 && self.moved.get(key).is_some_and(|moved| moved.size == 0)
        });
        match next {
            Some(key) => {
                let place = self.index.get(key).copied().unwrap_or_default();
                flash.read(place.at, self.buffer.get_mut(ENTRY..ENTRY + place.size).unwrap_or_default());
                self.seal(key, place.size);
                self.work = Work::Moving { key };
            }
            None => {
                let header = Header::new(self.generation);
                self.buffer.iter_mut().zip(header.as_bytes()).for_each(|(place, byte)| *place = *byte);
                (self.filled, self.written) = (size_of::<Header>(), 0);
                self.work = Work::Header;
            }
        }
    }
}

/// Returns the checksum of bytes in the flash.
fn sum_of(flash: &impl Flash, at: u64, size: usize) -> u64 {
    let mut hash = digest::Sha256::default();
    let mut part = [0; PAGE];
    for offset in (0..size).step_by(PAGE) {
        let part = part.get_mut(..PAGE.min(size - offset)).unwrap_or_default();
        flash.read(at + offset as u64, part);
        digest::Hasher::update(&mut hash, part);
    }
    digest::Hasher::finish(hash).first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// Returns whether a range is erased.
fn is_blank(flash: &impl Flash, from: u64, to: u64) -> bool {
    let mut part = [0; PAGE];
    (from..to).step_by(PAGE).all(|at| {
        let part = part.get_mut(..PAGE.min((to - at) as usize)).unwrap_or_default();
        flash.read(at, part);
        part.iter().all(|&byte| byte == 0xff)
    })
}

#[cfg(test)]
mod tests;
