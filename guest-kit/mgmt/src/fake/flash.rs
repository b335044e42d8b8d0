//! Two slots, and what can be done with them. A bundle here is text: `salp VERSION`, a line's end, anything, and a dot at its end;
//! what begins with `refuse NUMBER` is refused for that reason.

use alloc::vec::Vec;

use salp_hvc::status;
use salp_hvc::update::{
    MAX_ATTEMPTS, PHASE_IDLE, PHASE_NONE, PHASE_UPLOAD, REFUSAL_NOT_A_BUNDLE, REFUSAL_TRUNCATED, STANDBY_EMPTY,
    STANDBY_FAILED, STANDBY_PREVIOUS, STANDBY_STAGED, STANDBY_TRIAL, STANDBY_WRITING, SlotInfo, UpdateInfo,
};
use zerocopy::FromZeros;

use crate::hypervisor::{Answer, HandOvers, Refused, SlotChange, padded};

/// How many bytes are judged at once.
const HEAD: usize = 64;

/// The flash.
#[derive(Debug)]
pub struct Flash {
    /// What is told of it.
    pub info: UpdateInfo,
    /// How images took over.
    pub hand_overs: HandOvers,
    /// Why the next one fails to, if it does: `FAILED_…`.
    pub fails: u32,
    upload: Option<Vec<u8>>,
}

impl Default for Flash {
    fn default() -> Self {
        let mut info = UpdateInfo::new_zeroed();
        let (version, counter) = (padded(env!("CARGO_PKG_VERSION")), 1.into());
        info.slots[0] = SlotInfo { version, counter, size: 9.into(), digest: [7; 32] };
        info.floor = 1.into();
        Self { info, upload: None, hand_overs: HandOvers::default(), fails: 0 }
    }
}

impl Flash {
    /// Returns that of a machine without one.
    pub fn none() -> Self {
        Self { info: UpdateInfo { phase: PHASE_NONE.into(), ..UpdateInfo::new_zeroed() }, ..Self::default() }
    }

    fn standby(&self) -> u32 {
        self.info.standby.get()
    }

    fn slot(&mut self) -> &mut SlotInfo {
        let standby = 1 - self.info.confirmed.get() as usize;
        &mut self.info.slots[standby]
    }

    fn refuse<T>(&mut self, refusal: u32) -> Answer<T> {
        (self.info.refusal, self.info.phase, self.upload) = (refusal.into(), PHASE_IDLE.into(), None);
        Err(Refused(status::REFUSED))
    }

    /// Begins an upload.
    pub fn begin(&mut self) -> Answer<()> {
        if self.info.phase.get() == PHASE_NONE {
            return Err(Refused(status::NOT_FOUND));
        }
        if self.standby() == STANDBY_TRIAL {
            return Err(Refused(status::WRONG_STATE));
        }
        (self.info.refusal, self.info.phase, self.upload) = (0.into(), PHASE_UPLOAD.into(), Some(Vec::new()));
        self.info.written = 0.into();
        Ok(())
    }

    /// Takes the next bytes, a few at a time.
    pub fn write(&mut self, bytes: &[u8]) -> Answer<usize> {
        let upload = self.upload.as_mut().ok_or(Refused(status::WRONG_STATE))?;
        let taken = bytes.len().min(100);
        upload.extend_from_slice(&bytes[..taken]);
        if upload.len() >= HEAD {
            self.judge()?;
        }
        Ok(taken)
    }

    /// Looks at how the bundle begins, and returns its version.
    fn judge(&mut self) -> Answer<alloc::string::String> {
        let upload = self.upload.as_deref().unwrap_or_default();
        let line = upload.split(|&byte| byte == b'\n').next().and_then(|line| str::from_utf8(line).ok());
        let (version, refusal) = match line.and_then(|line| line.split_once(' ')) {
            Some(("salp", version)) => (version.into(), None),
            Some(("refuse", number)) => (Default::default(), Some(number.parse().unwrap_or(REFUSAL_NOT_A_BUNDLE))),
            _ => (Default::default(), Some(REFUSAL_NOT_A_BUNDLE)),
        };
        if let Some(refusal) = refusal {
            return self.refuse(refusal);
        }
        (self.info.written, self.info.standby) = ((upload.len() as u64).into(), STANDBY_WRITING.into());
        *self.slot() = SlotInfo::default();
        Ok(version)
    }

    /// Changes the slots.
    pub fn change(&mut self, change: SlotChange) -> Answer<()> {
        let wrong = Err(Refused(status::WRONG_STATE));
        let (running, confirmed) = (self.info.running.get(), self.info.confirmed.get());
        if self.upload.is_some() && change != SlotChange::Finish {
            return Err(Refused(status::BUSY));
        }
        match (change, self.standby()) {
            (SlotChange::Finish, _) => {
                let Some(upload) = &self.upload else { return wrong };
                if !upload.ends_with(b".") {
                    return self.refuse(REFUSAL_TRUNCATED);
                }
                let size = upload.len() as u64;
                let version = self.judge()?;
                *self.slot() =
                    SlotInfo { version: padded(&version), counter: 2.into(), size: size.into(), digest: [8; 32] };
                (self.info.standby, self.info.phase, self.upload) = (STANDBY_STAGED.into(), PHASE_IDLE.into(), None);
            }
            (SlotChange::Activate, STANDBY_STAGED | STANDBY_PREVIOUS) => {
                (self.info.standby, self.info.attempts) = (STANDBY_TRIAL.into(), 0.into());
            }
            (SlotChange::Confirm, STANDBY_TRIAL) if running != confirmed => {
                (self.info.confirmed, self.info.standby) = (running.into(), STANDBY_PREVIOUS.into());
            }
            (SlotChange::Cancel, STANDBY_TRIAL) => self.info.standby = STANDBY_FAILED.into(),
            _ => return wrong,
        }
        Ok(())
    }

    /// Lets what is in the standby slot take over.
    pub fn hand_over(&mut self) -> Answer<()> {
        if self.standby() != STANDBY_TRIAL {
            return Err(Refused(status::WRONG_STATE));
        }
        self.hand_overs = HandOvers { count: self.hand_overs.count + 1, failed: self.fails };
        if self.fails != 0 {
            return Err(Refused(status::FAILED));
        }
        self.info.running = (1 - self.info.confirmed.get()).into();
        Ok(())
    }

    /// Starts the machine anew.
    pub fn reset(&mut self) {
        let attempts = self.info.attempts.get() + 1;
        let is_tried = self.standby() == STANDBY_TRIAL && attempts <= MAX_ATTEMPTS;
        if is_tried {
            self.info.attempts = attempts.into();
        } else if self.standby() == STANDBY_TRIAL {
            self.info.standby = STANDBY_FAILED.into();
        } else if self.standby() == STANDBY_WRITING {
            self.info.standby = STANDBY_EMPTY.into();
        }
        let confirmed = self.info.confirmed.get();
        self.info.running = if is_tried { 1 - confirmed } else { confirmed }.into();
        self.upload = None;
    }
}
