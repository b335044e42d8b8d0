//! Boot control: which slot boots, and what the other one is good for. Two copies in the flash, each with a checksum and a
//! number that rises; both hold the same but while they are written, one after the other, so at any cut one is whole.
//! Before: [`crate::flash`]; after: [`boot`], which the first stage runs, and [`crate::update`].
//!
//! ```text
//! Empty ─▶ Writing ─▶ Staged ─▶ Trial(0) ─ reset ─▶ Trial(1) … ─ confirmed ─▶ the confirmed slot; the other is Previous
//!             ▲           ▲        │ cancelled       │ MAX_ATTEMPTS without confirmation, or unusable
//!   any ──────┘           └────────┘                 └▶ Failed
//! ```
//!
//! The confirmed slot is written by nobody, and nothing is counted against it.

pub mod boot;

use crate::digest;
use crate::flash::{Flash, PAGE, Progress, Worn};
use salp_hvc::update::{
    MAX_ATTEMPTS, STANDBY_EMPTY, STANDBY_FAILED, STANDBY_PREVIOUS, STANDBY_STAGED, STANDBY_TRIAL, STANDBY_WRITING,
    layout,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Returns the other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Returns 0 for A, 1 for B.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the slot with this index.
    pub fn from_index(index: u32) -> Option<Self> {
        [Self::A, Self::B].get(index as usize).copied()
    }

    /// Returns where it is in the flash.
    pub fn at(self) -> u64 {
        layout::SLOTS[self.index()]
    }

    /// Returns its letter.
    pub fn letter(self) -> char {
        ['A', 'B'][self.index()]
    }
}

/// What is in the slot that is not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standby {
    /// Nothing of use.
    Empty,
    /// A part of a bundle.
    Writing,
    /// A whole bundle that was not started yet.
    Staged,
    /// A bundle that boots, with how often it was tried.
    Trial(u32),
    /// A bundle that was tried and not confirmed.
    Failed,
    /// What was confirmed before.
    Previous,
}

impl Standby {
    /// Returns `STANDBY_…` and how often it was tried.
    pub fn code(self) -> (u32, u32) {
        match self {
            Self::Empty => (STANDBY_EMPTY, 0),
            Self::Writing => (STANDBY_WRITING, 0),
            Self::Staged => (STANDBY_STAGED, 0),
            Self::Trial(attempts) => (STANDBY_TRIAL, attempts),
            Self::Failed => (STANDBY_FAILED, 0),
            Self::Previous => (STANDBY_PREVIOUS, 0),
        }
    }

    fn from_code(code: u32, attempts: u32) -> Option<Self> {
        let standby = match code {
            STANDBY_EMPTY => Self::Empty,
            STANDBY_WRITING => Self::Writing,
            STANDBY_STAGED => Self::Staged,
            STANDBY_TRIAL => Self::Trial(attempts),
            STANDBY_FAILED => Self::Failed,
            STANDBY_PREVIOUS => Self::Previous,
            _ => return None,
        };
        (standby.code() == (code, attempts)).then_some(standby)
    }
}

/// The boot control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// How often it was changed.
    pub sequence: u64,
    /// The least security counter that is accepted.
    pub floor: u64,
    /// The slot that boots when there is no trial.
    pub confirmed: Slot,
    /// The other slot.
    pub standby: Standby,
}

/// Says that the slots are in no state for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState;

const MAGIC: [u8; 8] = *b"SALPSLOT";
const VERSION: u32 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Record {
    magic: [u8; 8],
    version: U32,
    confirmed: U32,
    sequence: U64,
    floor: U64,
    standby: U32,
    attempts: U32,
    checksum: U64,
}

/// The size of a copy, in bytes.
pub const SIZE: usize = size_of::<Record>();
const CHECKED: usize = SIZE - size_of::<U64>();

impl Control {
    /// Returns the boot control of a flash that was just filled.
    pub fn new(confirmed: Slot, floor: u64) -> Self {
        Self { sequence: 1, floor, confirmed, standby: Standby::Empty }
    }

    /// Returns a copy as bytes.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let (standby, attempts) = self.standby.code();
        let mut record = Record {
            magic: MAGIC,
            version: VERSION.into(),
            confirmed: (self.confirmed as u32).into(),
            sequence: self.sequence.into(),
            floor: self.floor.into(),
            standby: standby.into(),
            attempts: attempts.into(),
            checksum: 0.into(),
        };
        record.checksum = digest::checksum(record.as_bytes().get(..CHECKED).unwrap_or_default()).into();
        zerocopy::transmute!(record)
    }

    /// Reads a copy; `None` if it is not whole.
    pub fn parse(bytes: &[u8; SIZE]) -> Option<Self> {
        let record = Record::ref_from_bytes(bytes).ok()?;
        let is_whole = record.checksum.get() == digest::checksum(bytes.get(..CHECKED)?);
        if !is_whole || record.magic != MAGIC || record.version.get() != VERSION {
            return None;
        }
        let confirmed = Slot::from_index(record.confirmed.get())?;
        let standby = Standby::from_code(record.standby.get(), record.attempts.get())?;
        Some(Self { sequence: record.sequence.get(), floor: record.floor.get(), confirmed, standby })
    }

    /// Reads both copies and returns what counts; `None` if neither is whole, which no cut of power does.
    pub fn read(flash: &impl Flash) -> Option<Self> {
        Self::copies(flash).into_iter().flatten().max_by_key(|control| control.sequence)
    }

    fn copies(flash: &impl Flash) -> [Option<Self>; 2] {
        layout::CONTROL.map(|at| {
            let mut bytes = [0; SIZE];
            flash.read(at, &mut bytes);
            Self::parse(&bytes)
        })
    }

    /// Returns the slot that is not confirmed.
    pub fn standby_slot(&self) -> Slot {
        self.confirmed.other()
    }

    fn with(&self, standby: Standby) -> Self {
        Self { standby, sequence: self.sequence + 1, ..*self }
    }

    /// Begins to write the standby slot.
    ///
    /// # Errors
    ///
    /// The image in it runs, or is about to.
    pub fn begin(&self, running: Option<Slot>) -> Result<Self, WrongState> {
        match self.standby {
            Standby::Trial(_) => Err(WrongState),
            _ if running == Some(self.standby_slot()) => Err(WrongState),
            _ => Ok(self.with(Standby::Writing)),
        }
    }

    /// Notes that the standby slot has been written.
    ///
    /// # Errors
    ///
    /// It was not being written.
    pub fn finish(&self) -> Result<Self, WrongState> {
        if self.standby == Standby::Writing { Ok(self.with(Standby::Staged)) } else { Err(WrongState) }
    }

    /// Lets the standby slot boot, on trial.
    ///
    /// # Errors
    ///
    /// There is nothing in it that could.
    pub fn activate(&self) -> Result<Self, WrongState> {
        match self.standby {
            Standby::Staged | Standby::Previous => Ok(self.with(Standby::Trial(0))),
            _ => Err(WrongState),
        }
    }

    /// Ends the trial, or says that the standby slot failed it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn cancel(&self) -> Result<Self, WrongState> {
        match self.standby {
            Standby::Trial(0) => Ok(self.with(Standby::Staged)),
            Standby::Trial(_) => Ok(self.with(Standby::Failed)),
            _ => Err(WrongState),
        }
    }

    /// Confirms the slot that is tried, in which an image with this security counter runs.
    ///
    /// # Errors
    ///
    /// It is not the one that runs, or there is no trial.
    pub fn confirm(&self, running: Option<Slot>, counter: u64) -> Result<Self, WrongState> {
        let is_trial = matches!(self.standby, Standby::Trial(_)) && running == Some(self.standby_slot());
        if !is_trial {
            return Err(WrongState);
        }
        let floor = self.floor.max(counter);
        Ok(Self { confirmed: self.standby_slot(), floor, ..self.with(Standby::Previous) })
    }

    /// Returns which slot the next start tries, and what is to be written down before.
    pub fn next_start(&self) -> (Slot, Option<Self>) {
        match self.standby {
            Standby::Trial(attempts) if attempts < MAX_ATTEMPTS => {
                (self.standby_slot(), Some(self.with(Standby::Trial(attempts + 1))))
            }
            Standby::Trial(_) => (self.confirmed, Some(self.with(Standby::Failed))),
            _ => (self.confirmed, None),
        }
    }
}

/// Writes the boot control, step by step: the copy that is older or not whole first, then the other.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    bytes: [u8; SIZE],
    order: [u64; 2],
    step: usize,
}

impl Writer {
    /// Prepares to write `control`, which is newer than what is there.
    pub fn new(flash: &impl Flash, control: &Control) -> Self {
        let [first, second] = Control::copies(flash).map(|copy| copy.map(|copy| copy.sequence));
        let [a, b] = layout::CONTROL;
        let order = if first <= second { [a, b] } else { [b, a] };
        Self { bytes: control.to_bytes(), order, step: 0 }
    }

    /// Does a step, if the flash is ready for one. Returns whether all is done.
    ///
    /// # Errors
    ///
    /// The flash does not keep it.
    pub fn advance(&mut self, flash: &mut impl Flash) -> Result<bool, Worn> {
        const { assert!(SIZE <= PAGE) };
        match flash.poll() {
            Progress::Busy => return Ok(false),
            Progress::Failed => return Err(Worn),
            Progress::Ready => {}
        }
        if self.step.is_multiple_of(2)
            && let Some(&at) = self.step.checked_sub(2).and_then(|written| self.order.get(written / 2))
        {
            let mut kept = [0; SIZE];
            flash.read(at, &mut kept);
            if kept != self.bytes {
                return Err(Worn);
            }
        }
        let Some(&at) = self.order.get(self.step / 2) else { return Ok(true) };
        if self.step.is_multiple_of(2) {
            flash.erase(at)
        } else {
            flash.program(at, &self.bytes)
        }
        self.step += 1;
        Ok(false)
    }
}

/// Writes the boot control and waits until it is there.
///
/// # Errors
///
/// The flash does not keep it.
pub fn write(flash: &mut impl Flash, control: &Control) -> Result<(), Worn> {
    let mut writer = Writer::new(flash, control);
    while !writer.advance(flash)? {
        core::hint::spin_loop();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
