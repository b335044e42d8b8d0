//! The device's side of a split virtqueue (Virtio 1.2, 2.7), with event indexes and indirect descriptors. Before:
//! [`super::virtio_mmio`], where the driver sets it up; after: the devices, which move bytes through it.
//!
//! Everything in a ring is an allegation of the guest's, and may change while it is looked at. So each word is copied once,
//! checked and then used; nothing is remembered but positions, and guest memory is only ever copied in and out
//! ([`GuestMem`]). A chain is walked as it is copied: at most as many descriptors as the queue has, and as many again in one
//! indirect table. What breaks the rules is a [`Breach`]: the device stops until its driver resets it, and nobody else
//! notices.
//!
//! What a guest sends to another may stay where it is at first: a chain tells of its [`Piece`]s, and the bytes go from there
//! into the receiver's buffers. Until then their guest may change them, as it might have before.

use crate::addr::Ipa;
use crate::stage2::Fault;
use core::sync::atomic::{Ordering, fence};
use heapless::Vec;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// A guest's memory, by copy.
pub trait GuestMem {
    /// Copies bytes out.
    ///
    /// # Errors
    ///
    /// Part of the range is no RAM.
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault>;

    /// Copies bytes in.
    ///
    /// # Errors
    ///
    /// Part of the range is no RAM, or the machine has no memory for it.
    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault>;

    /// Returns true if all of the range is RAM.
    fn holds(&self, at: Ipa, bytes: u64) -> bool;

    /// Copies bytes out of the sender's memory, which is this one unless it is said to be another. What is no RAM there reads
    /// as zeros: it was looked at before.
    fn fetch(&mut self, from: Ipa, to: &mut [u8]) {
        if self.read(from, to).is_err() {
            to.fill(0);
        }
    }

    /// Copies bytes from the [sender's memory](Self::fetch) into this one.
    ///
    /// # Errors
    ///
    /// As for [`Self::write`], but some bytes may be changed.
    fn carry(&mut self, from: Ipa, to: Ipa, bytes: usize) -> Result<(), Fault> {
        let mut part = [0; 256];
        for done in (0..bytes).step_by(part.len()) {
            let count = part.len().min(bytes - done);
            let Some(part) = part.get_mut(..count) else { break };
            self.fetch(plus(from, done as u64), part);
            self.write(plus(to, done as u64), part)?;
        }
        Ok(())
    }
}

/// A part of a guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub at: Ipa,
    /// How long it is.
    pub bytes: u32,
}

/// What is on its way into buffers: bytes of EL2's in three parts, of which none is behind an empty one, then pieces of the
/// sender's memory.
#[derive(Clone, Debug, Default)]
pub struct Source<'a> {
    first: &'a [u8],
    second: &'a [u8],
    third: &'a [u8],
    pieces: &'a [Piece],
    /// How much of the first piece has gone.
    gone: u32,
}

impl<'a> Source<'a> {
    /// Returns these bytes.
    pub const fn new([first, second, third]: [&'a [u8]; 3], pieces: &'a [Piece]) -> Self {
        Self { first, second, third, pieces, gone: 0 }
    }

    /// Returns true if nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.first.is_empty() && self.second.is_empty() && self.pieces.is_empty()
    }

    /// Moves at most so many bytes into memory. Returns how many, at least one.
    fn move_to(&mut self, mem: &mut impl GuestMem, at: Ipa, most: u32) -> Result<u32, Fault> {
        if self.first.is_empty() {
            self.first = core::mem::replace(&mut self.second, core::mem::take(&mut self.third));
        }
        if self.first.is_empty() {
            let Some((piece, rest)) = self.pieces.split_first() else { return Ok(0) };
            let left = piece.bytes.saturating_sub(self.gone);
            let count = left.min(most);
            mem.carry(plus(piece.at, self.gone.into()), at, count as usize)?;
            (self.pieces, self.gone) = if count == left { (rest, 0) } else { (self.pieces, self.gone + count) };
            return Ok(count);
        }
        let (now, later) = self.first.split_at_checked(most as usize).unwrap_or((self.first, &[]));
        mem.write(at, now)?;
        self.first = later;
        Ok(now.len() as u32)
    }
}

/// The greatest size of a queue.
pub const MAX_SIZE: u16 = 1024;

/// How a driver broke the rules of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A ring, a table or a buffer is not in memory.
    Outside,
    /// More chains are available than the queue has room for.
    Jump,
    /// A descriptor or the head of a chain is not in its table.
    Index,
    /// A chain is longer than its table: it loops.
    Loop,
    /// An indirect table inside another, or with more behind it, or empty, or not of whole descriptors, or larger than the
    /// queue, or not negotiated.
    Indirect,
    /// A buffer of no bytes.
    Empty,
    /// A buffer for the device to read behind one for it to write.
    Order,
}

/// Why a queue does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The driver's fault.
    Breach(Breach),
    /// The machine has no memory for what is to be written at this address. The queue is as it was at the last
    /// [`Virtq::mark`].
    NoMemory(Ipa),
}

impl From<Breach> for QueueError {
    fn from(breach: Breach) -> Self {
        Self::Breach(breach)
    }
}

fn failed(fault: Fault, at: Ipa) -> QueueError {
    match fault {
        Fault::OutsideRam => QueueError::Breach(Breach::Outside),
        Fault::OutOfMemory => QueueError::NoMemory(at),
    }
}

#[inline]
fn read_u16(mem: &mut impl GuestMem, at: Ipa) -> Result<u16, QueueError> {
    let mut bytes = [0; 2];
    mem.read(at, &mut bytes).map_err(|fault| failed(fault, at))?;
    Ok(u16::from_le_bytes(bytes))
}

#[inline]
fn write(mem: &mut impl GuestMem, at: Ipa, from: &[u8]) -> Result<(), QueueError> {
    mem.write(at, from).map_err(|fault| failed(fault, at))
}

/// Returns `base` and some bytes; beyond the end of all addresses is nowhere, as memory will find.
const fn plus(base: Ipa, bytes: u64) -> Ipa {
    Ipa(base.0.saturating_add(bytes))
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The size of a descriptor, in bytes.
const DESCRIPTOR: u32 = 16;

/// The driver does not want to be told of used buffers (without event indexes).
const NO_INTERRUPT: u16 = 1;

/// One virtqueue. A hand-over has it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Virtq {
    /// Where the descriptors are.
    pub descriptors: Ipa,
    /// Where the available ring is, which the driver writes.
    pub available: Ipa,
    /// Where the used ring is, which the device writes.
    pub used: Ipa,
    /// How many entries: a power of two, 1 to [`MAX_SIZE`], once it is ready.
    pub size: u16,
    /// The next available chain to take.
    next_available: u16,
    /// The index of the available ring when it was last read.
    seen_available: u16,
    /// The next used entry to write.
    next_used: u16,
    /// The used index as the driver can see it.
    published: u16,
    /// The used index when the driver was last told of it, or did not want to be.
    told: u16,
    /// The driver has set it up.
    pub is_ready: bool,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub has_events: bool,
    /// VIRTIO_F_INDIRECT_DESC was negotiated.
    pub has_indirect: bool,
    reserved: u8,
}

/// A position of a queue to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    available: u16,
    used: u16,
}

impl Virtq {
    /// Returns true if a driver may set a queue up like this.
    pub const fn is_well_placed(&self) -> bool {
        self.size.is_power_of_two()
            && self.size <= MAX_SIZE
            && self.descriptors.0.is_multiple_of(16)
            && self.available.0.is_multiple_of(2)
            && self.used.0.is_multiple_of(4)
    }

    /// Returns true if no record could make it invalid.
    pub const fn is_valid(&self) -> bool {
        let taken = self.seen_available.wrapping_sub(self.next_available);
        let hidden = self.next_used.wrapping_sub(self.published);
        !self.is_ready || self.is_well_placed() && taken <= self.size && hidden <= self.size
    }

    /// Takes the queue out of use. Where the driver has put it stays, positions do not.
    pub const fn stop(&mut self) {
        self.is_ready = false;
        self.next_available = 0;
        self.seen_available = 0;
        self.next_used = 0;
        self.published = 0;
        self.told = 0;
    }

    /// Returns where the queue is, to go [back](Self::rewind) to before anything is published.
    pub const fn mark(&self) -> Mark {
        Mark { available: self.next_available, used: self.next_used }
    }

    /// Gives back what was taken since: it is available as before.
    pub const fn rewind(&mut self, mark: Mark) {
        self.next_available = mark.available;
        self.next_used = mark.used;
    }

    /// Takes the next chain that the driver has made available.
    ///
    /// # Errors
    ///
    /// The driver broke the rules.
    #[inline(always)] // A large frame takes many buffers.
    pub fn pop(&mut self, mem: &mut impl GuestMem) -> Result<Option<Chain>, QueueError> {
        if self.next_available == self.seen_available && !self.look(mem)? {
            return Ok(None);
        }
        let entry = u64::from(self.next_available & (self.size - 1));
        let head = read_u16(mem, plus(self.available, 4 + 2 * entry))?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(Chain {
            head,
            table: self.descriptors,
            length: self.size,
            next: Some(head),
            left: self.size,
            largest_table: if self.has_indirect { self.size } else { 0 },
            is_writing: false,
            at: Ipa(0),
            bytes: 0,
        }))
    }

    /// Reads how much is available. Returns true if there is something to take.
    fn look(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        if !self.is_ready {
            return Ok(false);
        }
        let index = read_u16(mem, plus(self.available, 2))?;
        if index.wrapping_sub(self.next_available) > self.size {
            return Err(Breach::Jump.into());
        }
        self.seen_available = index;
        // What the driver wrote before the index is read after it.
        fence(Ordering::Acquire);
        Ok(index != self.next_available)
    }

    /// Puts a chain into the used ring: the device has written so many bytes to it. The driver sees it once it is
    /// [published](Self::publish).
    ///
    /// # Errors
    ///
    /// The ring is not in memory, or there is no memory for it.
    #[inline(always)]
    pub fn push(&mut self, mem: &mut impl GuestMem, head: u16, written: u32) -> Result<(), QueueError> {
        let entry = u64::from(self.next_used & (self.size - 1));
        let [a, b, c, d] = u32::from(head).to_le_bytes();
        let [e, f, g, h] = written.to_le_bytes();
        write(mem, plus(self.used, 4 + 8 * entry), &[a, b, c, d, e, f, g, h])?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Returns true if something was [pushed](Self::push) that the driver cannot see yet.
    pub const fn is_behind(&self) -> bool {
        self.next_used != self.published
    }

    /// Shows the driver all that was [pushed](Self::push).
    ///
    /// # Errors
    ///
    /// As for [`Self::push`].
    #[inline]
    pub fn publish(&mut self, mem: &mut impl GuestMem) -> Result<(), QueueError> {
        fence(Ordering::Release);
        write(mem, plus(self.used, 2), &self.next_used.to_le_bytes())?;
        self.published = self.next_used;
        Ok(())
    }

    /// Returns true if the driver wants to be told of what was published since it was last asked.
    ///
    /// # Errors
    ///
    /// The driver broke the rules.
    #[inline]
    pub fn should_interrupt(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        if self.told == self.published {
            return Ok(false);
        }
        let before = core::mem::replace(&mut self.told, self.published);
        // The driver sees the index before it is asked: it asks for the next one and looks again.
        fence(Ordering::SeqCst);
        if self.has_events {
            let event = read_u16(mem, plus(self.available, 4 + 2 * u64::from(self.size)))?;
            Ok(self.published.wrapping_sub(event).wrapping_sub(1) < self.published.wrapping_sub(before))
        } else {
            Ok(read_u16(mem, self.available)? & NO_INTERRUPT == 0)
        }
    }

    /// Asks the driver to tell of the next chain. Returns true if there is one already.
    ///
    /// # Errors
    ///
    /// As for [`Self::pop`] and [`Self::push`].
    pub fn arm(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        self.ask_to_tell(mem, self.next_available)?;
        self.look(mem)
    }

    /// Asks the driver to tell of the next chain beyond those that were seen. Returns true if there is one already.
    ///
    /// # Errors
    ///
    /// As for [`Self::arm`].
    pub fn arm_for_more(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        let seen = self.seen_available;
        self.ask_to_tell(mem, seen)?;
        self.look(mem)?;
        Ok(self.seen_available != seen)
    }

    fn ask_to_tell(&self, mem: &mut impl GuestMem, of: u16) -> Result<(), QueueError> {
        if self.has_events && self.is_ready {
            write(mem, plus(self.used, 4 + 8 * u64::from(self.size)), &of.to_le_bytes())?;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }
}

/// A chain of buffers on its way through a device: first those to read, then those to write.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What the driver knows it by.
    pub head: u16,
    table: Ipa,
    /// How many descriptors the table has.
    length: u16,
    next: Option<u16>,
    /// How many more descriptors the chain can have without a loop.
    left: u16,
    /// How many descriptors an indirect table may have; 0 when there can be none.
    largest_table: u16,
    /// The buffer at hand, and all that come, are to be written.
    is_writing: bool,
    /// What is left of the buffer at hand.
    at: Ipa,
    bytes: u32,
}

impl Chain {
    /// Goes to the next buffer. Returns false behind the last.
    #[inline(always)]
    fn advance(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        loop {
            let Some(index) = self.next else { return Ok(false) };
            if index >= self.length {
                return Err(Breach::Index.into());
            }
            self.left = self.left.checked_sub(1).ok_or(Breach::Loop)?;
            let place = plus(self.table, u64::from(index) * u64::from(DESCRIPTOR));
            let mut words = [0u64; 2];
            mem.read(place, words.as_mut_bytes()).map_err(|fault| failed(fault, place))?;
            let [at, word] = words.map(u64::from_le);
            let (at, bytes, flags, next) = (Ipa(at), word as u32, (word >> 32) as u16, word >> 48);
            self.next = (flags & NEXT != 0).then_some(next as u16);
            if bytes == 0 {
                return Err(Breach::Empty.into());
            }
            if flags & INDIRECT != 0 {
                let count = bytes / DESCRIPTOR;
                let is_whole = bytes.is_multiple_of(DESCRIPTOR) && count <= u32::from(self.largest_table);
                if !is_whole || self.next.is_some() {
                    return Err(Breach::Indirect.into());
                }
                // None inside it.
                self.largest_table = 0;
                self.table = at;
                self.length = count as u16;
                self.left = count as u16;
                self.next = Some(0);
                continue;
            }
            let is_writing = flags & WRITE != 0;
            if self.is_writing && !is_writing {
                return Err(Breach::Order.into());
            }
            self.is_writing = is_writing;
            self.at = at;
            self.bytes = bytes;
            return Ok(true);
        }
    }

    /// Copies from the buffers to read, as much as there is and `to` has room for. Returns how much.
    ///
    /// # Errors
    ///
    /// The driver broke the rules.
    pub fn read(&mut self, mem: &mut impl GuestMem, to: &mut [u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            if !self.has_more_to_read(mem)? {
                break;
            }
            let count = rest.len().min(self.bytes as usize);
            let Some(part) = rest.get_mut(..count) else { break };
            mem.read(self.at, part).map_err(|fault| failed(fault, self.at))?;
            self.consume(count as u32);
            done += count;
        }
        Ok(done)
    }

    /// Returns true if there are bytes that were not read.
    ///
    /// # Errors
    ///
    /// The driver broke the rules.
    pub fn has_more_to_read(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        Ok((self.bytes != 0 || self.advance(mem)?) && !self.is_writing)
    }

    /// Says where what is left to read is, instead of copying it, if that is at most `most` bytes; else `None`.
    ///
    /// # Errors
    ///
    /// The driver broke the rules.
    pub fn list<const N: usize>(
        &mut self,
        mem: &mut impl GuestMem,
        most: usize,
        pieces: &mut Vec<Piece, N>,
    ) -> Result<Option<usize>, QueueError> {
        let mut total = 0;
        while self.has_more_to_read(mem)? {
            let bytes = self.bytes.min((most - total) as u32);
            if !mem.holds(self.at, bytes.into()) {
                return Err(Breach::Outside.into());
            }
            if bytes != self.bytes || pieces.push(Piece { at: self.at, bytes }).is_err() {
                return Ok(None);
            }
            self.bytes = 0;
            total += bytes as usize;
        }
        Ok(Some(total))
    }

    /// Copies to the buffers to write, as much as `from` has and there is room for. Returns how much.
    ///
    /// # Errors
    ///
    /// The driver broke the rules, or there is no memory.
    pub fn write(&mut self, mem: &mut impl GuestMem, from: &[u8]) -> Result<usize, QueueError> {
        self.fill(mem, &mut Source::new([from, &[], &[]], &[]))
    }

    /// Moves what is left of `from` to the buffers to write, as much as there is room for. Returns how much.
    ///
    /// # Errors
    ///
    /// As for [`Self::write`].
    pub fn fill(&mut self, mem: &mut impl GuestMem, from: &mut Source<'_>) -> Result<usize, QueueError> {
        let mut done = 0;
        while !from.is_empty() {
            if (self.bytes == 0 || !self.is_writing) && !self.advance(mem)? {
                break;
            }
            if !self.is_writing {
                continue;
            }
            let count = from.move_to(mem, self.at, self.bytes).map_err(|fault| failed(fault, self.at))?;
            self.consume(count);
            done += count as usize;
        }
        Ok(done)
    }

    /// Passes over buffers to write, as many bytes as there are and at most `most`. Returns how many.
    ///
    /// # Errors
    ///
    /// The driver broke the rules.
    pub fn skip(&mut self, mem: &mut impl GuestMem, most: u64) -> Result<u64, QueueError> {
        let mut done = 0;
        while done < most && ((self.bytes != 0 && self.is_writing) || self.advance(mem)?) {
            if self.is_writing {
                let count = u64::from(self.bytes).min(most - done);
                self.consume(count as u32);
                done += count;
            }
        }
        Ok(done)
    }

    fn consume(&mut self, count: u32) {
        self.at = plus(self.at, count.into());
        self.bytes -= count;
    }
}

#[cfg(test)]
pub(crate) mod tests;
