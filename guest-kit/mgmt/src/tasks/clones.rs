//! Many clones of one VM, put where they belong some at a time. Before: [`clones`](crate::resources::clones). After:
//! [`hypervisor`](crate::hypervisor).
//!
//! The hypervisor makes all of them in one call, or none; their NICs are what takes time. If one of them cannot be as it was asked
//! for, all are destroyed.

use alloc::boxed::Box;

use salp_json::{Parsed, Value, json};

use super::{End, Job, Step, Tools, interrupted};
use crate::message::Failure;
use crate::resources::clones::{Plan, plug};
use crate::resources::systems;

/// The kind of these jobs.
pub const KIND: &str = "Clones";

/// The most clones in one step.
const STEP: u64 = 8;

/// What is being done.
#[derive(Clone, Debug)]
enum Phase {
    /// The answer to the request goes first.
    Begin,
    /// The hypervisor is asked for them.
    Make,
    /// They were asked for, and this guest has failed since.
    Unknown,
    /// The NICs of `at` and later ones are put where they belong.
    Plug { first: u64, last: u64, at: u64 },
    /// All of them are destroyed, from `at` on.
    Undo { last: u64, at: u64, end: End },
}

/// Clones.
#[derive(Debug)]
pub struct Clones {
    plan: Plan,
    phase: Phase,
}

impl Clones {
    /// Returns the job of making these clones.
    pub fn new(plan: Plan) -> Self {
        Self { plan, phase: Phase::Begin }
    }
}

fn done(first: u64, last: u64) -> End {
    End { status: 201, location: Some(systems::path(first)), made: Some((first, last)), ..End::default() }
}

impl Job for Clones {
    fn step(&mut self, tools: &mut Tools<'_>) -> Step {
        match &mut self.phase {
            Phase::Begin => {
                self.phase = Phase::Make;
                Step::More(0)
            }
            Phase::Make => match tools.hypervisor.clone_vm(&self.plan.cloning()) {
                Ok((first, last)) => {
                    self.phase = Phase::Plug { first, last, at: first };
                    Step::More(50)
                }
                Err(refused) => Step::End(Failure::refused(refused, &self.plan.target).into()),
            },
            Phase::Unknown => Step::End(interrupted("it is not known whether the clones were made")),
            Phase::Plug { first, last, at } => {
                let (first, last) = (*first, *last);
                if self.plan.nics.is_empty() {
                    return Step::End(done(first, last));
                }
                for _ in 0..STEP {
                    if *at > last {
                        return Step::End(done(first, last));
                    }
                    if let Err(refused) = plug(tools.hypervisor, *at, &self.plan.nics, !self.plan.disconnected) {
                        let end = Failure::refused(refused, &self.plan.target).into();
                        self.phase = Phase::Undo { last, at: first, end };
                        return Step::More(50);
                    }
                    *at += 1;
                }
                Step::More(50 + (*at - first) * 50 / (last - first + 1))
            }
            Phase::Undo { last, at, end } => {
                for _ in 0..STEP {
                    if *at > *last {
                        return Step::End(end.clone());
                    }
                    // One that has ended itself is gone already.
                    _ = tools.hypervisor.destroy(*at);
                    *at += 1;
                }
                Step::More(50)
            }
        }
    }

    fn cancel(&mut self) -> Result<(), End> {
        match &self.phase {
            Phase::Begin | Phase::Make => Err(End::default()),
            Phase::Unknown => Err(interrupted("it is not known whether the clones were made")),
            Phase::Plug { first, last, .. } => {
                self.phase = Phase::Undo { last: *last, at: *first, end: End::default() };
                Ok(())
            }
            Phase::Undo { .. } => Ok(()),
        }
    }

    fn kept(&self) -> Value {
        let phase = match &self.phase {
            Phase::Begin => json!(["begin"]),
            Phase::Make | Phase::Unknown => json!(["make"]),
            Phase::Plug { first, last, at } => json!(["plug", first, last, at]),
            Phase::Undo { last, at, end } => json!(["undo", last, at, end.status, &end.value]),
        };
        json!({ "target": &self.plan.target, "action": self.plan.action, "body": &self.plan.body, "source": self.plan.source, "phase": phase })
    }
}

/// Goes on with what was kept of a job.
pub fn revive(kept: &Parsed) -> Option<Box<dyn Job>> {
    let phase = &kept["phase"];
    let number = |index: usize| phase[index].as_u64();
    let phase = match phase[0].as_str()? {
        "begin" => Phase::Make,
        "make" => Phase::Unknown,
        "plug" => Phase::Plug { first: number(1)?, last: number(2)?, at: number(3)? },
        _ => {
            let value = Some(Value::from(phase[4].clone())).filter(|value| !value.is_null());
            let end = End { status: number(3)? as u16, value, ..End::default() };
            Phase::Undo { last: number(1)?, at: number(2)?, end }
        }
    };
    let (target, body) = (kept["target"].as_str()?, kept["body"].as_str()?);
    let plan = Plan::read(target, kept["action"].as_str()?, body, kept["source"].as_u64()?)?;
    Some(Box::new(Clones { plan, phase }))
}
