//! Updates of the machine's image. Before: [`resources::updates`](crate::resources::updates),
//! [`resources::software`](crate::resources::software). After: the slots of the flash ([`hypervisor`](crate::hypervisor)).
//!
//! A bundle comes in by [`push`], or is fetched ([`media::fetch`](crate::media::fetch)); [`stream`] gives it to EL2 as it comes,
//! [`install`] is the task that stages and starts it, [`when`] it is to be started. Who looks after an image on trial is here: what
//! confirms it, or gives it up, needs nobody.

pub mod install;
pub mod push;
pub mod stream;
pub mod when;

use alloc::rc::{Rc, Weak};
use alloc::string::String;

use salp_hvc::calls::{STATE_ENDING, STATE_NO_MEMORY};
use salp_hvc::update::{NO_SLOT, PHASE_IDLE, PHASE_NONE, PHASE_UPLOAD, STANDBY_TRIAL, SlotInfo, UpdateInfo};

use crate::events::journal::{Journal, News};
use crate::hypervisor::{self, Hypervisor, SlotChange, name_text};
use crate::message::Failure;
use crate::resources::software;
use crate::tasks::Tasks;

/// For how many looks on end an image on trial has to be well: ten seconds.
pub const WELL: u32 = 20;
/// After how many looks one is given up that is not: five minutes.
pub const PATIENCE: u32 = 600;

/// What becomes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Stay,
    /// It is to be reset, to go back to the image before.
    GoBack,
}

/// An image on trial.
#[derive(Debug)]
struct Trial {
    looks: u32,
    /// How many of the last looks on end found it well.
    well: u32,
    /// Up to which event VMs have not crashed.
    seen: u64,
}

/// Updates under way.
#[derive(Debug, Default)]
pub struct Updates {
    /// Is somebody's as long as an upload goes on.
    upload: Weak<()>,
    trial: Option<Trial>,
}

/// Returns whether the machine can be updated: it was started from its flash.
pub fn is_enabled(info: &UpdateInfo) -> bool {
    info.phase.get() != PHASE_NONE && info.running.get() != NO_SLOT
}

/// Returns what is known of the slots.
///
/// # Errors
///
/// The machine cannot be updated.
pub fn known(hypervisor: &dyn Hypervisor) -> Result<UpdateInfo, Failure> {
    let why = "The machine was not started from a flash of its own: it cannot be updated here.";
    let info = hypervisor.slots().ok().filter(is_enabled);
    info.ok_or_else(|| Failure::because(503, why))
}

/// Returns the slot that does not boot unless it is tried.
pub fn standby(info: &UpdateInfo) -> u32 {
    1 - info.confirmed.get().min(1)
}

/// Returns what is in a slot, if anything is.
pub fn slot(info: &UpdateInfo, slot: u32) -> Option<&SlotInfo> {
    info.slots.get(slot as usize).filter(|slot| slot.version[0] != 0)
}

/// Returns the version of what is in a slot.
pub fn version(info: &UpdateInfo, slot: u32) -> String {
    self::slot(info, slot).map_or("", |slot| name_text(&slot.version)).into()
}

impl Updates {
    /// Returns what somebody keeps as long as an upload goes on.
    ///
    /// # Errors
    ///
    /// There is another one, or a task.
    pub fn claim(&mut self, tasks: &Tasks) -> Result<Rc<()>, Failure> {
        if self.upload.strong_count() > 0 {
            return Err(Failure::because(409, "Another upload is under way."));
        }
        only_one(tasks)?;
        let lease = Rc::new(());
        self.upload = Rc::downgrade(&lease);
        Ok(lease)
    }

    /// Sees to what nobody has to ask for: uploads that have stopped, and images on trial. To be called twice a second. `is_reached`
    /// says whether the endpoint can be, `is_updated` whether a task works at it.
    pub fn go_on(
        &mut self,
        hypervisor: &mut dyn Hypervisor,
        journal: &mut Journal,
        (is_reached, is_updated): (bool, bool),
        now: u64,
    ) -> Verdict {
        let Ok(info) = hypervisor.slots() else { return Verdict::Stay };
        if info.phase.get() == PHASE_UPLOAD && !is_updated && self.upload.strong_count() == 0 {
            // It ends as truncated: what is staged before the task for it begins would not be told.
            let _ = hypervisor.change_slots(SlotChange::Finish);
        }
        if info.phase.get() != PHASE_IDLE {
            return Verdict::Stay;
        }
        let running = info.running.get();
        if !is_enabled(&info) || running == info.confirmed.get() || info.standby.get() != STANDBY_TRIAL {
            self.trial = None;
            return Verdict::Stay;
        }
        let trial = self.trial.get_or_insert_with(|| Trial { looks: 0, well: 0, seen: journal.next() });
        let why = ailment(hypervisor, journal, is_reached, trial.seen);
        trial.looks += 1;
        trial.seen = journal.next();
        trial.well = if why.is_some() { 0 } else { trial.well + 1 };
        let (version, place) = (version(&info, running), software::path(running));
        if trial.well >= WELL {
            // One that was started by a reset has nobody to give up.
            let _ = hypervisor.confirm_hand_over();
        }
        if trial.well >= WELL && hypervisor.change_slots(SlotChange::Confirm).is_ok() {
            journal.tell(News::new("ImageConfirmed", &[&version], &place), now);
        }
        if let Some(why) = why.filter(|_| trial.looks >= PATIENCE)
            && hypervisor.change_slots(SlotChange::Cancel).is_ok()
        {
            journal.tell(News::new("ImageGivenUp", &[&version, why], &place), now);
            return Verdict::GoBack;
        }
        Verdict::Stay
    }
}

/// Refuses a second update beside one that is under way.
fn only_one(tasks: &Tasks) -> Result<(), Failure> {
    let Some(number) = tasks.running(install::KIND) else { return Ok(()) };
    let why = alloc::format!("The task {number} is an update already: wait for it, or cancel it.");
    Err(Failure::because(409, &why))
}

/// Returns what keeps an image on trial from being confirmed, if anything does.
fn ailment(hypervisor: &dyn Hypervisor, journal: &Journal, is_reached: bool, seen: u64) -> Option<&'static str> {
    let is_stuck = |info: salp_hvc::calls::VmInfo| matches!(info.state.get(), STATE_NO_MEMORY | STATE_ENDING);
    match () {
        () if !is_reached => Some("the management endpoint has no address"),
        () if hypervisor::all(hypervisor).any(is_stuck) => Some("a VM does not run"),
        () if journal.since(seen).1.any(|event| event.entry.key == "SystemCrashed") => Some("a VM has crashed"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::hypervisor::MachinePower;

    /// Returns a machine that has an image on trial.
    fn on_trial() -> Fake {
        let mut fake = Fake::default();
        fake.begin_update(0).unwrap();
        let mut rest = &b"salp 2.0\n."[..];
        while !rest.is_empty() {
            rest = &rest[fake.write_update(rest).unwrap()..];
        }
        fake.change_slots(SlotChange::Finish).unwrap();
        fake.change_slots(SlotChange::Activate).unwrap();
        fake.power(MachinePower::Reset).unwrap();
        assert_eq!((fake.flash.info.running.get(), fake.flash.info.confirmed.get()), (1, 0));
        fake
    }

    fn looks(fake: &mut Fake, updates: &mut Updates, journal: &mut Journal, is_reached: bool, count: u32) -> Verdict {
        let looks = (0..count).map(|_| updates.go_on(fake, journal, (is_reached, false), 5));
        looks.filter(|verdict| *verdict == Verdict::GoBack).last().unwrap_or(Verdict::Stay)
    }

    #[test]
    fn an_image_that_is_well_for_ten_seconds_is_confirmed() {
        let (mut fake, mut updates, mut journal) = (on_trial(), Updates::default(), Journal::default());
        assert_eq!(looks(&mut fake, &mut updates, &mut journal, true, WELL - 1), Verdict::Stay);
        assert_eq!(fake.flash.info.confirmed.get(), 0);
        looks(&mut fake, &mut updates, &mut journal, false, 1);
        looks(&mut fake, &mut updates, &mut journal, true, WELL - 1);
        assert_eq!(fake.flash.info.confirmed.get(), 0, "it was not reached for a moment");
        looks(&mut fake, &mut updates, &mut journal, true, 1);
        assert_eq!(fake.flash.info.confirmed.get(), 1);
        assert_eq!(journal.since(1).1.last().unwrap().entry.key, "ImageConfirmed");
    }

    #[test]
    fn an_image_under_which_a_vm_crashes_is_given_up_if_that_goes_on() {
        let (mut fake, mut updates, mut journal) = (on_trial(), Updates::default(), Journal::default());
        for look in 1..=PATIENCE {
            if look % 10 == 0 {
                journal.tell(News::new("SystemCrashed", &["web", "is off"], "/redfish/v1/Systems/2"), 5);
            }
            let verdict = looks(&mut fake, &mut updates, &mut journal, true, 1);
            assert_eq!(verdict == Verdict::GoBack, look == PATIENCE, "{look}");
        }
        fake.power(MachinePower::Reset).unwrap();
        assert_eq!((fake.flash.info.running.get(), fake.flash.info.confirmed.get()), (0, 0));
        let last = journal.since(1).1.last().unwrap();
        assert_eq!((last.entry.key, &*last.arguments[1]), ("ImageGivenUp", "a VM has crashed"));
    }

    #[test]
    fn an_upload_that_nobody_goes_on_with_ends() {
        let (mut fake, mut updates, mut journal) = (Fake::default(), Updates::default(), Journal::default());
        let lease = updates.claim(&Tasks::default()).unwrap();
        assert!(updates.claim(&Tasks::default()).is_err());
        fake.begin_update(0).unwrap();
        looks(&mut fake, &mut updates, &mut journal, true, 1);
        assert_eq!(fake.flash.info.phase.get(), PHASE_UPLOAD);
        drop(lease);
        looks(&mut fake, &mut updates, &mut journal, true, 1);
        assert_eq!(fake.flash.info.phase.get(), PHASE_IDLE);
        assert!(updates.claim(&Tasks::default()).is_ok());
    }
}
