//! Updates of the flash, a step at a time: a bundle is written into the standby slot as it comes in, boot control is changed as
//! a manager asks. Before: [`crate::bundle`], [`crate::slots`]; after: the machine's calls, which drive it.
//!
//! Nothing waits for the flash: [`Updater::step`] does what it is ready for, and whoever calls does so again. A bundle's first
//! bytes are collected and judged before anything is erased. What is hashed is what the flash has kept.

use crate::bundle::{self, Bundle, HEAD, Host, Refusal};
use crate::digest::{Hasher, Sha256};
use crate::flash::{Flash, PAGE, Progress, Worn};
use crate::slots::{Control, Slot, Standby, Writer, WrongState, boot};
use salp_hvc::status;
use salp_hvc::update::{NO_SLOT, PHASE_IDLE, PHASE_UPLOAD, PHASE_WRITING, STANDBY_EMPTY, SlotInfo, UpdateInfo, layout};
use zerocopy::FromZeros;

/// How many bytes one call writes at most.
pub const MAX_STEP: usize = HEAD;

/// Why a call did nothing, or no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// The flash is not ready yet.
    Busy,
    /// The machine has no flash that Salp knows.
    NoFlash,
    /// The slots are in no state for it.
    WrongState,
    /// The bundle is refused, and the upload ended.
    Refused(Refusal),
}

impl UpdateError {
    /// Returns what a caller is told.
    pub fn status(self) -> i64 {
        match self {
            Self::Busy => status::BUSY,
            Self::NoFlash => status::NOT_FOUND,
            Self::WrongState => status::WRONG_STATE,
            Self::Refused(_) => status::REFUSED,
        }
    }
}

impl From<WrongState> for UpdateError {
    fn from(_: WrongState) -> Self {
        Self::WrongState
    }
}

impl From<Worn> for UpdateError {
    fn from(_: Worn) -> Self {
        Self::Refused(Refusal::Flash)
    }
}

impl From<Refusal> for UpdateError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A bundle that comes in.
struct Upload {
    /// How many bytes come, once that is known.
    size: Option<u64>,
    /// What has not been written yet.
    buffer: [u8; HEAD],
    filled: usize,
    /// How much of the buffer is in the flash, and how much of that is known to be.
    written: usize,
    kept: usize,
    /// Where the buffer's start belongs in the slot, and up to where the slot is erased.
    at: u64,
    erased: u64,
    bundle: Option<Bundle>,
    hash: Sha256,
}

/// What keeps boot control.
pub struct Updater {
    control: Control,
    /// What the flash is told to keep instead; it counts when it is there.
    writer: Option<(Writer, Control)>,
    upload: Option<Upload>,
    running: Option<Slot>,
    refusal: Option<Refusal>,
    slots: [SlotInfo; 2],
}

impl Updater {
    /// Reads the flash. `running` is the slot that the running image was started from.
    pub fn new(flash: &impl Flash, keys: &[bundle::Key], running: Option<Slot>) -> Self {
        let slots = [Slot::A, Slot::B].map(|slot| {
            let bundle = boot::open(flash, slot, keys).ok();
            bundle.map_or_else(SlotInfo::new_zeroed, |bundle| bundle.manifest.info())
        });
        let confirmed = running.unwrap_or(Slot::A);
        let lost = || Control::new(confirmed, slots.get(confirmed.index()).map_or(0, |slot| slot.counter.get()));
        let control = Control::read(flash).unwrap_or_else(lost);
        Self { control, writer: None, upload: None, running, refusal: None, slots }
    }

    /// Returns false if something is being written, or an upload is under way.
    pub const fn is_idle(&self) -> bool {
        self.writer.is_none() && self.upload.is_none()
    }

    /// Returns the boot control as the flash has it.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Returns what managers are told.
    pub fn info(&self) -> UpdateInfo {
        let (standby, attempts) = self.control.standby.code();
        let phase = match (&self.writer, &self.upload) {
            (Some(_), None) => PHASE_WRITING,
            (_, Some(_)) => PHASE_UPLOAD,
            (None, None) => PHASE_IDLE,
        };
        let mut slots = self.slots;
        if matches!(self.control.standby, Standby::Writing)
            && let Some(standby) = slots.get_mut(self.control.standby_slot().index())
        {
            *standby = SlotInfo::default();
        }
        UpdateInfo {
            phase: phase.into(),
            refusal: self.refusal.map_or(STANDBY_EMPTY, |refusal| refusal as u32).into(),
            running: self.running.map_or(NO_SLOT, |slot| slot as u32).into(),
            confirmed: (self.control.confirmed as u32).into(),
            standby: standby.into(),
            attempts: attempts.into(),
            floor: self.control.floor.into(),
            written: self.upload.as_ref().map_or(0, |upload| upload.at + upload.kept as u64).into(),
            slots,
        }
    }

    /// Does what the flash is ready for. Returns whether nothing is left to be written down.
    ///
    /// # Errors
    ///
    /// The flash does not keep it.
    pub fn step(&mut self, flash: &mut impl Flash) -> Result<(), UpdateError> {
        let Some((writer, control)) = &mut self.writer else { return Ok(()) };
        match writer.advance(flash) {
            Ok(true) => self.control = *control,
            Ok(false) => return Err(UpdateError::Busy),
            Err(Worn) => {
                self.refusal = Some(Refusal::Flash);
                (self.writer, self.upload) = (None, None);
                return Err(Worn.into());
            }
        }
        self.writer = None;
        Ok(())
    }

    fn begin_writing(&mut self, flash: &impl Flash, control: Control) {
        self.writer = Some((Writer::new(flash, &control), control));
    }

    /// Begins a change of boot control.
    fn change(
        &mut self,
        flash: &mut impl Flash,
        change: impl FnOnce(&Self) -> Result<Control, WrongState>,
    ) -> Result<(), UpdateError> {
        self.step(flash)?;
        if self.upload.is_some() {
            return Err(UpdateError::Busy);
        }
        let control = change(self)?;
        self.begin_writing(flash, control);
        Ok(())
    }

    /// Lets the standby slot boot, on trial.
    ///
    /// # Errors
    ///
    /// It cannot, or not now.
    pub fn activate(&mut self, flash: &mut impl Flash) -> Result<(), UpdateError> {
        self.change(flash, |updater| updater.control.activate())
    }

    /// Confirms the slot that is tried.
    ///
    /// # Errors
    ///
    /// There is none, or another one runs, or not now.
    pub fn confirm(&mut self, flash: &mut impl Flash) -> Result<(), UpdateError> {
        self.change(flash, |updater| {
            let info = updater.running.and_then(|slot| updater.slots.get(slot.index()));
            updater.control.confirm(updater.running, info.map_or(0, |info| info.counter.get()))
        })
    }

    /// Ends the trial.
    ///
    /// # Errors
    ///
    /// There is none, or not now.
    pub fn cancel(&mut self, flash: &mut impl Flash) -> Result<(), UpdateError> {
        self.change(flash, |updater| updater.control.cancel())
    }

    /// Begins an upload of so many bytes, or of as many as the bundle says for 0, in place of one that is under way.
    ///
    /// # Errors
    ///
    /// The standby slot runs, or is about to; it does not fit; or not now.
    pub fn begin(&mut self, flash: &mut impl Flash, size: u64) -> Result<(), UpdateError> {
        self.step(flash)?;
        if flash.poll() == Progress::Busy {
            return Err(UpdateError::Busy);
        }
        self.control.begin(self.running)?;
        (self.refusal, self.upload) = (None, None);
        if size > layout::SLOT_SIZE {
            return self.refuse(Refusal::TooLarge);
        }
        self.upload = Some(Upload {
            size: Some(size).filter(|&size| size > 0),
            buffer: [0; HEAD],
            filled: 0,
            written: 0,
            kept: 0,
            at: 0,
            erased: 0,
            bundle: None,
            hash: Sha256::default(),
        });
        Ok(())
    }

    fn refuse<T>(&mut self, refusal: Refusal) -> Result<T, UpdateError> {
        (self.refusal, self.upload) = (Some(refusal), None);
        Err(refusal.into())
    }

    /// Takes the next bytes of the bundle, and returns how many; none while the flash is busy.
    ///
    /// # Errors
    ///
    /// The bundle is refused, or none is expected.
    pub fn write(&mut self, flash: &mut impl Flash, host: &Host<'_>, bytes: &[u8]) -> Result<usize, UpdateError> {
        if self.upload.is_none() {
            return Err(UpdateError::WrongState);
        }
        match self.drain(flash, host) {
            Ok(()) => {}
            Err(UpdateError::Busy) => return Ok(0),
            Err(error) => return Err(error),
        }
        let upload = self.upload.as_mut().ok_or(UpdateError::WrongState)?;
        if upload.size.is_some_and(|size| bytes.len() as u64 > size - upload.received()) {
            return self.refuse(Refusal::NotABundle);
        }
        let room = upload.buffer.get_mut(upload.filled..).unwrap_or_default();
        let taken = bytes.len().min(room.len());
        room.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        upload.filled += taken;
        match self.drain(flash, host) {
            Ok(()) | Err(UpdateError::Busy) => Ok(taken),
            Err(error) => Err(error),
        }
    }

    /// Writes what the buffer holds once it is full, or all is there. Returns when there is room in it.
    fn drain(&mut self, flash: &mut impl Flash, host: &Host<'_>) -> Result<(), UpdateError> {
        self.step(flash)?;
        let Some(upload) = &mut self.upload else { return Ok(()) };
        if !upload.is_due() {
            return Ok(());
        }
        if upload.bundle.is_none() {
            match upload.judge(host, self.control.floor) {
                Ok(bundle) => {
                    upload.size = Some(bundle.payload + bundle.manifest.size);
                    upload.bundle = Some(bundle);
                }
                Err(refusal) => return self.refuse(refusal),
            }
            let control = self.control.begin(self.running)?;
            if control.standby != self.control.standby {
                self.begin_writing(flash, control);
                return Err(UpdateError::Busy);
            }
        }
        match upload.flush(flash, self.control.standby_slot()) {
            Err(UpdateError::Refused(refusal)) => self.refuse(refusal),
            result => result,
        }
    }

    /// Ends the upload: what the slot holds is staged, if it is all and right.
    ///
    /// # Errors
    ///
    /// The bundle is refused, none is expected, or not now.
    pub fn finish(&mut self, flash: &mut impl Flash, host: &Host<'_>) -> Result<(), UpdateError> {
        let Some(upload) = &mut self.upload else { return Err(UpdateError::WrongState) };
        // One that is shorter than what is judged at once says here that it was all.
        let received = upload.received();
        if received < *upload.size.get_or_insert(received) {
            return self.refuse(Refusal::Truncated);
        }
        self.drain(flash, host)?;
        let Some(Upload { hash, bundle: Some(bundle), .. }) = self.upload.take() else {
            return self.refuse(Refusal::Truncated);
        };
        if hash.finish() != bundle.manifest.digest {
            return self.refuse(Refusal::Digest);
        }
        let control = self.control.finish()?;
        if let Some(info) = self.slots.get_mut(self.control.standby_slot().index()) {
            *info = bundle.manifest.info();
        }
        self.begin_writing(flash, control);
        Ok(())
    }
}

impl Upload {
    /// Returns how many bytes have come.
    fn received(&self) -> u64 {
        self.at + self.filled as u64
    }

    /// Returns whether the buffer is to be written.
    fn is_due(&self) -> bool {
        self.filled == HEAD || (self.filled > 0 && self.size == Some(self.received()))
    }

    /// Checks what the bundle's first bytes say.
    fn judge(&self, host: &Host<'_>, floor: u64) -> Result<Bundle, Refusal> {
        let bundle = bundle::open(self.buffer.get(..self.filled).unwrap_or_default(), host.keys)?;
        bundle.manifest.check(host, floor)?;
        let size = bundle.payload + bundle.manifest.size;
        match self.size {
            Some(said) if size > said => Err(Refusal::Truncated),
            Some(said) if size < said => Err(Refusal::NotABundle),
            None if size < self.received() => Err(Refusal::NotABundle),
            None if size > layout::SLOT_SIZE => Err(Refusal::TooLarge),
            _ => Ok(bundle),
        }
    }

    /// Writes the buffer page by page, as far as the flash is ready.
    fn flush(&mut self, flash: &mut impl Flash, slot: Slot) -> Result<(), UpdateError> {
        loop {
            match flash.poll() {
                Progress::Busy => return Err(UpdateError::Busy),
                Progress::Failed => return Err(Worn.into()),
                Progress::Ready => {}
            }
            self.take_back(flash, slot)?;
            if self.kept == self.filled {
                self.at += self.filled as u64;
                (self.filled, self.written, self.kept) = (0, 0, 0);
                return Ok(());
            }
            let at = self.at + self.written as u64;
            if at >= self.erased {
                flash.erase(slot.at() + self.erased);
                self.erased += flash.block();
                continue;
            }
            let page = self.filled.min(self.written + PAGE);
            flash.program(slot.at() + at, self.buffer.get(self.written..page).unwrap_or_default());
            self.written = page;
        }
    }

    /// Reads what was written last, and hashes what of it is the image.
    fn take_back(&mut self, flash: &impl Flash, slot: Slot) -> Result<(), Worn> {
        let mut page = [0; PAGE];
        let page = page.get_mut(..self.written - self.kept).unwrap_or_default();
        let at = self.at + self.kept as u64;
        flash.read(slot.at() + at, page);
        if self.buffer.get(self.kept..self.written) != Some(page) {
            return Err(Worn);
        }
        let head = self.bundle.as_ref().map_or(0, |bundle| bundle.payload.saturating_sub(at));
        self.hash.update(page.get(page.len().min(head as usize)..).unwrap_or_default());
        self.kept = self.written;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
