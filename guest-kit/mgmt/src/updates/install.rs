//! The task that installs an image: what has come is staged, and started when it is to be. Before: [`push`](super::push),
//! [`resources::updates`](crate::resources::updates). After: the slots of the flash.
//!
//! The image takes over under all VMs, this guest among them; one that does not leaves the one before. Only who asks for that
//! has the machine reset: what was kept of the task goes on after that, and says which image runs.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::calls::{MachineInfo, WATCHDOG_EXPIRED};
use salp_hvc::handover::failure;
use salp_hvc::status;
use salp_hvc::update::{PHASE_IDLE, STANDBY_PREVIOUS, STANDBY_STAGED, STANDBY_TRIAL, UpdateInfo};
use salp_json::{Parsed, Value, json};

use super::stream::{Stream, refused};
use super::when::When;
use super::{standby, version};
use crate::events::registry::Entry;
use crate::hypervisor::{Refused, SlotChange};
use crate::media::fetch::Order;
use crate::media::jobs::Then;
use crate::message::{Failure, Message};
use crate::resources::managers;
use crate::tasks::{End, Job, Step, Tools, message};

/// The kind of this job.
pub const KIND: &str = "Install";

/// How long who waits for the task may read that another image takes over, in seconds.
const GRACE: u64 = 2;

/// What is to be done next.
#[derive(Debug)]
enum Stage {
    /// It is to be fetched from there.
    Order(Order),
    /// It is being fetched, by this job.
    Fetch(u64),
    /// Its last bytes are being written.
    Rest(Stream),
    /// All is there.
    Finish,
    /// It is being staged.
    Settle,
    /// It waits for its time.
    Wait,
    Activate,
    /// It is being activated.
    Arm,
    /// It takes over, and is on trial.
    Switch,
}

impl Stage {
    /// Those that go on after a failure of this guest.
    const NAMES: [(&'static str, Self); 6] = [
        ("Finish", Self::Finish),
        ("Settle", Self::Settle),
        ("Wait", Self::Wait),
        ("Activate", Self::Activate),
        ("Arm", Self::Arm),
        ("Switch", Self::Switch),
    ];

    fn name(&self) -> Option<&'static str> {
        let is_it = |(_, other): &&(&str, Self)| core::mem::discriminant(other) == core::mem::discriminant(self);
        Self::NAMES.iter().find(is_it).map(|(name, _)| *name)
    }
}

/// An update.
#[derive(Debug)]
pub struct Install {
    stage: Stage,
    when: When,
    /// The version of the image, once that is known.
    version: String,
    /// When it takes over.
    due: Option<u64>,
    /// How many images had taken over before, once it is to.
    before: Option<u64>,
    is_cancelled: bool,
}

/// Returns a message of ours about an image.
fn told(key: &str, version: &str) -> Value {
    Entry::find(key).map(|entry| message(entry, &[version.into()])).unwrap_or_default()
}

/// Returns the message that says that the machine has to be reset.
pub fn reset_required() -> Value {
    Message::new("ResetRequired", &[managers::RESET_ACTION, "ForceRestart"]).value()
}

impl Install {
    fn new(stage: Stage, when: When) -> Self {
        Self { stage, when, version: String::new(), due: None, before: None, is_cancelled: false }
    }

    /// Returns the job for a bundle of which all but what `rest` holds is written.
    pub fn of_upload(rest: Stream, when: When) -> Self {
        Self::new(Stage::Rest(rest), when)
    }

    /// Returns the job for a bundle that is to be fetched.
    pub fn of_fetch(order: Order, when: When) -> Self {
        Self::new(Stage::Order(order), when)
    }

    /// Returns the job of starting what is staged.
    pub fn of_staged(version: String) -> Self {
        Self { version, ..Self::new(Stage::Activate, When::Immediate) }
    }

    fn go_on(&mut self, tools: &mut Tools<'_>) -> Result<Step, Failure> {
        let percent = match &mut self.stage {
            Stage::Order(order) => {
                // As many as can be may be under way.
                if let Some(job) = tools.jobs.begin(order.clone(), "", Then::Install) {
                    self.stage = Stage::Fetch(job);
                }
                return Ok(Step::Wait { percent: 0, until: tools.now + 1 });
            }
            Stage::Fetch(job) => match tools.jobs.take(*job) {
                None => {
                    let (came, size) = tools.jobs.progress(*job).unwrap_or_default();
                    let percent = size.map_or(0, |size| came * 80 / size.max(1));
                    return Ok(Step::Wait { percent, until: tools.now + 1 });
                }
                Some(outcome) => {
                    outcome?;
                    self.stage = Stage::Finish;
                    80
                }
            },
            Stage::Rest(stream) => {
                if stream.drain(tools.hypervisor)? {
                    self.stage = Stage::Finish;
                }
                80
            }
            Stage::Finish => {
                self.change(tools, SlotChange::Finish, STANDBY_STAGED, Stage::Settle)?;
                85
            }
            Stage::Settle => {
                if let Some(info) = settled(tools)? {
                    self.version = version(&info, standby(&info));
                    match self.when {
                        When::OnRequest => return Ok(Step::End(self.end(Vec::new()))),
                        When::Window(..) => self.stage = Stage::Wait,
                        When::Immediate | When::OnReset => self.stage = Stage::Activate,
                    }
                }
                88
            }
            Stage::Wait => {
                match self.when {
                    When::Window(start, _) if tools.now < start => return Ok(Step::Wait { percent: 88, until: start }),
                    When::Window(start, length) if tools.now >= start + length => {
                        let why = "The window is over. The image is staged: UpdateService.StartUpdate starts it.";
                        return Err(Failure::because(409, why));
                    }
                    _ => self.stage = Stage::Activate,
                }
                88
            }
            Stage::Activate => {
                self.change(tools, SlotChange::Activate, STANDBY_TRIAL, Stage::Arm)?;
                90
            }
            Stage::Arm => {
                if settled(tools)?.is_some() {
                    if self.when == When::OnReset {
                        return Ok(Step::End(self.end(Vec::from([reset_required()]))));
                    }
                    self.stage = Stage::Switch;
                }
                92
            }
            Stage::Switch => return self.switch(tools),
        };
        Ok(Step::More(percent))
    }

    /// Changes the slots, unless that was done before this guest failed.
    fn change(&mut self, tools: &mut Tools<'_>, change: SlotChange, done: u32, next: Stage) -> Result<(), Failure> {
        match tools.hypervisor.change_slots(change) {
            Ok(()) => self.stage = next,
            Err(Refused(status::BUSY)) => {}
            Err(Refused(status::WRONG_STATE))
                if tools.hypervisor.slots().is_ok_and(|info| info.standby.get() == done) =>
            {
                self.stage = next;
            }
            Err(why) => return Err(refused(tools.hypervisor, why)),
        }
        Ok(())
    }

    /// Lets the image take over, and sees how it is after that.
    fn switch(&mut self, tools: &mut Tools<'_>) -> Result<Step, Failure> {
        let Some(info) = settled(tools)? else { return Ok(Step::More(93)) };
        let running = info.running.get();
        match (info.standby.get(), self.due) {
            // Who confirms it is not this task.
            (STANDBY_TRIAL, _) if running != info.confirmed.get() => {
                Ok(Step::Wait { percent: 97, until: tools.now + 1 })
            }
            (STANDBY_TRIAL, Some(due)) if tools.now >= due => self.take_over(tools),
            (STANDBY_TRIAL, due) => {
                Ok(Step::Wait { percent: 94, until: *self.due.insert(due.unwrap_or(tools.now + GRACE)) })
            }
            (STANDBY_PREVIOUS, _) => Ok(Step::End(self.end(Vec::from([told("ImageConfirmed", &self.version)])))),
            _ => {
                let (wanted, runs) = (&self.version, version(&info, running));
                let by_watchdog = |machine: MachineInfo| machine.watchdog.get() & WATCHDOG_EXPIRED != 0;
                let hung = tools.hypervisor.machine().is_ok_and(by_watchdog);
                let how = if hung { "ended by the watchdog" } else { "not confirmed" };
                let why = alloc::format!("The image {wanted} was tried and {how}: {runs} runs.");
                Err(Failure::because(500, &why))
            }
        }
    }

    /// Lets the image take over, unless that was tried: then the one before is back.
    fn take_over(&mut self, tools: &mut Tools<'_>) -> Result<Step, Failure> {
        let known = tools.hypervisor.hand_overs().map_err(|why| refused(tools.hypervisor, why))?;
        let Some(before) = self.before else {
            // What is kept of the task knows it before it is tried.
            self.before = Some(known.count);
            return Ok(Step::More(94));
        };
        let tried = if known.count == before { tools.hypervisor.hand_over() } else { Err(Refused(status::FAILED)) };
        let why = match tried {
            Ok(()) | Err(Refused(status::BUSY)) => return Ok(Step::Wait { percent: 95, until: tools.now + 1 }),
            Err(Refused(status::FAILED)) => failure(tools.hypervisor.hand_overs().map_or(0, |known| known.failed)),
            Err(Refused(why)) => status::word(why),
        };
        // What is staged stays, for a reset.
        let _ = tools.hypervisor.change_slots(SlotChange::Cancel);
        let why = alloc::format!(
            "The image {} did not take over: {why}. The one before goes on, with all VMs.",
            self.version
        );
        Err(Failure::because(500, &why))
    }

    fn end(&self, others: Vec<Value>) -> End {
        let messages = core::iter::once(told("ImageStaged", &self.version)).chain(others).collect();
        End { status: 200, messages, ..End::default() }
    }

    /// Leaves the slots as they were, as far as that goes.
    fn undo(&self, tools: &mut Tools<'_>) -> Step {
        match self.stage {
            Stage::Fetch(job) => tools.jobs.cancel(job),
            // Refused for another reason, it was not activated yet.
            Stage::Activate | Stage::Arm | Stage::Switch
                if tools.hypervisor.change_slots(SlotChange::Cancel) == Err(Refused(status::BUSY)) =>
            {
                return Step::More(90);
            }
            _ => {}
        }
        Step::End(End { status: 200, ..End::default() })
    }
}

/// Returns what is known of the slots, once nothing is written any more.
fn settled(tools: &Tools<'_>) -> Result<Option<UpdateInfo>, Failure> {
    let info = tools.hypervisor.slots().map_err(|why| refused(tools.hypervisor, why))?;
    if info.refusal.get() != 0 {
        return Err(refused(tools.hypervisor, Refused(status::REFUSED)));
    }
    Ok(Some(info).filter(|info| info.phase.get() == PHASE_IDLE))
}

impl Job for Install {
    fn step(&mut self, tools: &mut Tools<'_>) -> Step {
        if self.is_cancelled {
            return self.undo(tools);
        }
        self.go_on(tools).unwrap_or_else(|failure| Step::End(failure.into()))
    }

    fn cancel(&mut self) -> Result<(), End> {
        self.is_cancelled = true;
        Ok(())
    }

    fn kept(&self) -> Value {
        let Some(stage) = self.stage.name() else { return Value::Null };
        json!({
            "stage": stage, "when": self.when.kept(), "version": &self.version, "cancelled": self.is_cancelled,
            "before": self.before,
        })
    }

    fn said(&self) -> Vec<Value> {
        match self.stage {
            Stage::Arm | Stage::Switch if self.when != When::OnReset => {
                Vec::from([told("ImageTakesOver", &self.version)])
            }
            _ => Vec::new(),
        }
    }
}

/// Goes on with what was kept of a job.
pub fn revive(kept: &Parsed) -> Option<Box<dyn Job>> {
    let name = kept["stage"].as_str()?;
    let stage = Stage::NAMES.into_iter().find(|(known, _)| *known == name)?.1;
    let (when, version) = (When::put_back(&kept["when"])?, kept["version"].as_str()?.to_string());
    let (is_cancelled, before) = (kept["cancelled"] == true, kept["before"].as_u64());
    Some(Box::new(Install { version, is_cancelled, before, ..Install::new(stage, when) }))
}
