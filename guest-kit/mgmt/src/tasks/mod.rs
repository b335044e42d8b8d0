//! What takes longer than a request may: done in steps, each of which is short, from the main loop. Before: resources, which
//! [`start`](Tasks::start) a [`Job`]. After: [`hypervisor`](crate::hypervisor); [`state`](crate::state), which keeps tasks.
//!
//! A task outlives this guest: what was kept of its job goes on, or the task says that it was interrupted. [`clones`] makes many
//! clones, [`group`] does something to many VMs, [`fetch`] gets what an address leads to, [`install`] installs an image.

pub mod clones;
pub mod fetch;
pub mod group;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Debug;

use salp_json::{Parsed, Value, json};

use crate::events::journal::{Journal, News};
use crate::events::registry::Entry;
use crate::hypervisor::Hypervisor;
use crate::media::jobs::Jobs;
use crate::message::Failure;
use crate::updates::install;

/// The most tasks, those that have ended too.
pub const MOST: usize = 64;
/// How long a task that has ended can be read, in seconds, unless there are too many.
pub const KEEP: u64 = 3600;
/// The longest body of a request that is shown and kept.
const PAYLOAD: usize = 2048;
/// The most bytes of what is kept of all tasks.
const ROOM: usize = 10 << 10;

/// What a job works with.
pub struct Tools<'a> {
    /// The hypervisor.
    pub hypervisor: &'a mut dyn Hypervisor,
    /// What is fetched.
    pub jobs: &'a mut Jobs,
    /// The time, in seconds since 1970.
    pub now: u64,
}

/// Work that is done step by step.
pub trait Job: Debug {
    /// Does a little of it.
    fn step(&mut self, tools: &mut Tools<'_>) -> Step;

    /// Stops, if it can: what was done so far is undone by further steps, or left.
    ///
    /// # Errors
    ///
    /// If there is nothing more to do.
    fn cancel(&mut self) -> Result<(), End>;

    /// Returns what [`REVIVERS`] need to go on with it; null for what cannot go on.
    fn kept(&self) -> Value;

    /// Returns messages about what it does now.
    fn said(&self) -> Vec<Value> {
        Vec::new()
    }
}

/// How far a job has come.
#[derive(Debug)]
pub enum Step {
    /// So many per cent are done.
    More(u64),
    /// So many per cent are done, and there is nothing to do before some time.
    Wait {
        /// How much.
        percent: u64,
        /// The time, in seconds since 1970.
        until: u64,
    },
    /// It is over.
    End(End),
}

/// How a job has ended: the answer to the request.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The status; what failed has one of 400 and more.
    pub status: u16,
    /// Where something is now.
    pub location: Option<String>,
    /// Systems that were made: the first and the last.
    pub made: Option<(u64, u64)>,
    /// What else there is to say.
    pub value: Option<Value>,
    /// Messages besides: what went wrong with parts of it.
    pub messages: Vec<Value>,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        let response = failure.response();
        Self {
            status: response.status,
            value: serde_json::from_slice::<Parsed>(&response.body).ok().map(Value::from),
            ..Self::default()
        }
    }
}

/// Makes a job of what was kept of it.
pub type Reviver = fn(&Parsed) -> Option<Box<dyn Job>>;

/// Kinds of jobs that go on after a failure of this guest.
pub const REVIVERS: [(&str, Reviver); 4] = [
    (clones::KIND, clones::revive),
    (group::KIND, group::revive),
    (fetch::KIND, fetch::revive),
    (install::KIND, install::revive),
];

/// States of tasks, as the standard names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being worked at.
    Running,
    /// It is being undone.
    Cancelling,
    /// It was done.
    Completed,
    /// It has failed.
    Exception,
    /// Somebody did not want it any more.
    Cancelled,
}

impl State {
    const ALL: [(&'static str, Self); 5] = [
        ("Running", Self::Running),
        ("Cancelling", Self::Cancelling),
        ("Completed", Self::Completed),
        ("Exception", Self::Exception),
        ("Cancelled", Self::Cancelled),
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(name, _)| name)
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|&(_, state)| state)
    }
}

/// Who wants what.
#[derive(Clone, Debug)]
pub struct Order {
    /// What people call it.
    pub name: &'static str,
    /// The kind of the job.
    pub kind: &'static str,
    /// Who asked.
    pub user: String,
    /// The path of the request.
    pub target: String,
    /// Its body; none if it is not to be shown.
    pub body: Option<String>,
}

/// A task.
#[derive(Debug)]
pub struct Task {
    /// What people call it.
    pub name: String,
    kind: String,
    /// Who asked for it.
    pub user: String,
    /// The path of the request.
    pub target: String,
    /// Its body; none if it is too long.
    pub body: Option<String>,
    /// Its state.
    pub state: State,
    /// How much of it is done, in per cent.
    pub percent: u64,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// How it ended.
    pub end: Option<End>,
    job: Option<Box<dyn Job>>,
    due: u64,
}

impl Task {
    fn kept(&self) -> Value {
        let end = self.end.as_ref().map(|end| {
            // A refusal is short; what was made is two numbers.
            let value = end.value.as_ref().filter(|value| value.to_string().len() < 1024);
            json!([end.status, &end.location, end.made, value, end.messages.get(..4).unwrap_or(&end.messages)])
        });
        json!({
            "name": &self.name, "kind": &self.kind, "user": &self.user, "target": &self.target, "body": &self.body,
            "state": self.state.name(), "percent": self.percent, "started": self.started, "ended": self.ended, "end": end,
            "job": self.job.as_ref().map(|job| job.kept()),
        })
    }

    fn put_back(kept: &Parsed) -> Option<Self> {
        let text = |name: &str| kept[name].as_str().map(ToString::to_string);
        let end = &kept["end"];
        let revive = |kind: &str| REVIVERS.iter().find(|(known, _)| *known == kind)?.1(&kept["job"]);
        Some(Self {
            name: text("name")?,
            kind: text("kind")?,
            user: text("user")?,
            target: text("target")?,
            body: text("body"),
            state: State::of(kept["state"].as_str()?)?,
            percent: kept["percent"].as_u64()?,
            started: kept["started"].as_u64()?,
            ended: kept["ended"].as_u64(),
            end: end[0].as_u64().map(|status| End {
                status: status as u16,
                location: end[1].as_str().map(ToString::to_string),
                made: end[2][0].as_u64().zip(end[2][1].as_u64()),
                value: Some(end[3].clone().into()).filter(|value: &Value| !value.is_null()),
                messages: end[4].as_array().into_iter().flatten().cloned().map(Value::from).collect(),
            }),
            job: revive(kept["kind"].as_str()?),
            due: 0,
        })
    }

    /// Notes how far it has come.
    fn advance(&mut self, number: u64, percent: u64, journal: &mut Journal, now: u64) {
        let percent = percent.min(99);
        // Each tenth is worth telling.
        if percent / 10 > self.percent / 10 {
            tell(journal, "TaskProgressChanged", number, Some(percent), now);
        }
        self.percent = percent;
    }

    /// Returns whether it goes on.
    pub fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    /// Returns messages about what it does now.
    pub fn said(&self) -> Vec<Value> {
        self.job.as_ref().map(|job| job.said()).unwrap_or_default()
    }

    /// Returns how well it went, as the standard says it.
    pub fn health(&self) -> &'static str {
        match self.state {
            State::Exception => "Critical",
            State::Cancelled => "Warning",
            _ if self.end.as_ref().is_some_and(|end| !end.messages.is_empty()) => "Warning",
            _ => "OK",
        }
    }
}

/// All tasks.
#[derive(Debug, Default)]
pub struct Tasks {
    all: BTreeMap<u64, Task>,
    last: u64,
    is_changed: bool,
}

/// Returns where a task is.
pub fn path(number: u64) -> String {
    alloc::format!("/redfish/v1/TaskService/Tasks/{number}")
}

impl Tasks {
    /// Begins a job, and returns the task's number.
    ///
    /// # Errors
    ///
    /// If there are too many tasks.
    pub fn start(&mut self, order: Order, job: Box<dyn Job>, journal: &mut Journal, now: u64) -> Result<u64, Failure> {
        let is_ended = |(&number, task): (&u64, &Task)| (!task.is_running()).then_some(number);
        while self.all.len() >= MOST {
            let oldest = self.all.iter().find_map(is_ended);
            let oldest = oldest.ok_or_else(|| Failure::new(503, "CreateLimitReachedForResource", &[]))?;
            self.all.remove(&oldest);
        }
        self.last += 1;
        let task = Task {
            name: order.name.into(),
            kind: order.kind.into(),
            user: order.user,
            target: order.target,
            body: order.body.filter(|body| body.len() <= PAYLOAD),
            state: State::Running,
            percent: 0,
            started: now,
            ended: None,
            end: None,
            job: Some(job),
            due: 0,
        };
        self.all.insert(self.last, task);
        self.is_changed = true;
        if self.kept().to_string().len() > ROOM {
            // It could not be told what became of it.
            self.all.remove(&self.last);
            return Err(Failure::new(503, "CreateLimitReachedForResource", &[]));
        }
        tell(journal, "TaskStarted", self.last, None, now);
        Ok(self.last)
    }

    /// Returns all tasks.
    pub fn all(&self) -> impl Iterator<Item = (u64, &Task)> {
        self.all.iter().map(|(&number, task)| (number, task))
    }

    /// Returns the number of a task of this kind that goes on.
    pub fn running(&self, kind: &str) -> Option<u64> {
        self.all().find(|(_, task)| task.is_running() && task.kind == kind).map(|(number, _)| number)
    }

    /// Returns a task.
    pub fn get(&self, number: u64) -> Option<&Task> {
        self.all.get(&number)
    }

    /// Returns whether there is something to do now.
    pub fn is_busy(&self, now: u64) -> bool {
        self.all.values().any(|task| task.is_running() && task.due <= now)
    }

    /// Returns how many of a kind go on.
    pub fn count_running(&self, kind: &str) -> usize {
        self.all.values().filter(|task| task.is_running() && task.kind == kind).count()
    }

    /// Says that what those of a kind wait for has come.
    pub fn wake(&mut self, kind: &str) {
        self.all.values_mut().filter(|task| task.kind == kind).for_each(|task| task.due = 0);
    }

    /// Does one step of each job.
    pub fn work(&mut self, tools: &mut Tools<'_>, journal: &mut Journal) {
        let now = tools.now;
        for (&number, task) in self.all.iter_mut().filter(|(_, task)| task.is_running() && task.due <= now) {
            self.is_changed = true;
            let step = task.job.as_mut().map(|job| job.step(tools));
            match step {
                Some(Step::More(percent)) => task.advance(number, percent, journal, now),
                Some(Step::Wait { percent, until }) => {
                    task.advance(number, percent, journal, now);
                    task.due = until;
                }
                Some(Step::End(end)) => finish(number, task, end, journal, now),
                None => finish(number, task, interrupted("it is not known how much of it was done"), journal, now),
            }
        }
        let count = self.all.len();
        self.all.retain(|_, task| task.ended.is_none_or(|ended| now.saturating_sub(ended) <= KEEP));
        self.is_changed |= self.all.len() < count;
    }

    /// Stops a task that goes on, or forgets one that has ended; returns false if there is none.
    pub fn remove(&mut self, number: u64, journal: &mut Journal, now: u64) -> bool {
        let Some(task) = self.all.get_mut(&number) else { return false };
        self.is_changed = true;
        if !task.is_running() {
            self.all.remove(&number);
            tell(journal, "TaskRemoved", number, None, now);
            return true;
        }
        (task.state, task.due) = (State::Cancelling, 0);
        let end = task.job.as_mut().map_or(Err(End::default()), |job| job.cancel());
        if let Err(end) = end {
            finish(number, task, end, journal, now);
        }
        true
    }

    /// Returns, once, whether there is something that was not kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that there is something that was not kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns them as they are kept: all that go on, and of those that have ended the last ones, as many as there is room for.
    pub fn kept(&self) -> Value {
        let (mut kept, mut size) = (Vec::new(), 0);
        let (running, ended): (Vec<_>, Vec<_>) = self.all.iter().partition(|(_, task)| task.is_running());
        for (number, task) in running.into_iter().chain(ended.into_iter().rev()) {
            let one = json!([number, task.kept()]);
            size += one.to_string().len() + 1;
            if size > ROOM - 64 && !task.is_running() {
                break;
            }
            kept.push(one);
        }
        json!({ "last": self.last, "all": kept })
    }

    /// Puts what was kept in place of what is here.
    pub fn put_back(&mut self, kept: &Parsed) {
        let one = |pair: &Parsed| Some((pair[0].as_u64()?, Task::put_back(&pair[1])?));
        self.all = kept["all"].as_array().into_iter().flatten().filter_map(one).collect();
        self.last = kept["last"].as_u64().unwrap_or(0);
        self.is_changed = false;
    }
}

/// Returns how a task ends that cannot go on after a failure of this guest.
pub fn interrupted(what: &str) -> End {
    let message = Entry::find("TaskInterrupted").map(|entry| message(entry, &[what.into()]));
    let value = json!({ "error": { "code": "Salp.1.0.TaskInterrupted", "message": what.to_string(), "@Message.ExtendedInfo": &message } });
    End { status: 500, value: Some(value), messages: message.into_iter().collect(), ..End::default() }
}

/// Returns a message of a task.
pub fn message(entry: &Entry, arguments: &[String]) -> Value {
    json!({
        "@odata.type": "#Message.v1_3_0.Message",
        "MessageId": entry.id(),
        "Message": entry.say(arguments),
        "MessageArgs": arguments,
        "MessageSeverity": entry.severity,
        "Resolution": entry.resolution,
    })
}

fn tell(journal: &mut Journal, key: &'static str, number: u64, percent: Option<u64>, now: u64) {
    let (text, percent) = (number.to_string(), percent.map(|percent| percent.to_string()));
    let arguments: Vec<&str> = core::iter::once(&*text).chain(percent.as_deref()).collect();
    journal.tell(News::new(key, &arguments, &path(number)), now);
}

fn finish(number: u64, task: &mut Task, end: End, journal: &mut Journal, now: u64) {
    let (state, key) = match task.state {
        State::Cancelling => (State::Cancelled, "TaskCancelled"),
        _ if end.status >= 400 => (State::Exception, "TaskAborted"),
        _ => (State::Completed, "TaskCompletedOK"),
    };
    task.state = state;
    if state == State::Completed {
        task.percent = 100;
    }
    (task.ended, task.end, task.job) = (Some(now), Some(end), None);
    tell(journal, key, number, None, now);
}
