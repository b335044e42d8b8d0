//! The same done to many VMs, some at a time. Before: [`aggregation`](crate::resources::aggregation). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Parsed, Value, json};

use super::{End, Job, Step, Tools};
use crate::hypervisor::{self, Refused};
use crate::images;
use crate::message::Failure;
use crate::resources::{power, systems};
use salp_hvc::status;

/// The kind of these jobs.
pub const KIND: &str = "Group";

/// The most VMs in one step.
const STEP: usize = 8;
/// The most failures that are told one by one.
const TOLD: usize = 8;

/// What is done to each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It is deleted.
    Delete,
    /// Its power is changed: a type of reset.
    Reset(String),
}

/// A group of VMs.
#[derive(Debug)]
pub struct Group {
    deed: Deed,
    /// Those that are left, the next one last.
    left: Vec<u64>,
    total: usize,
    failed: Vec<Value>,
    failures: usize,
    /// How many are done without a wait, and how long it is then, in seconds.
    batch: usize,
    delay: u64,
    /// How many of the present batch are done.
    done: usize,
}

impl Group {
    /// Returns the job of doing something to these, `batch` at a time with a wait of `delay` seconds in between.
    pub fn new(deed: Deed, mut members: Vec<u64>, batch: Option<u64>, delay: u64) -> Self {
        members.reverse();
        let batch = batch.filter(|&batch| batch > 0).map_or(usize::MAX, |batch| batch as usize);
        let total = members.len();
        Self { deed, left: members, total, failed: Vec::new(), failures: 0, batch, delay, done: 0 }
    }

    fn one(&mut self, id: u64, tools: &mut Tools<'_>) {
        let refused = |refused| Failure::refused(refused, &systems::path(id));
        let result = match (hypervisor::vm(tools.hypervisor, id), &self.deed) {
            // It is what was wanted.
            (Err(Refused(status::NOT_FOUND)), Deed::Delete) => Ok(()),
            (Err(why), _) => Err(refused(why)),
            (Ok(_), Deed::Delete) => tools.hypervisor.destroy(id).map_err(refused),
            (Ok(info), Deed::Reset(kind)) => power::change(tools.hypervisor, &info, kind, tools.now),
        };
        if let Err(why) = result {
            self.failures += 1;
            if self.failed.len() < TOLD {
                let mut message = why.messages.first().map(crate::message::Message::value).unwrap_or_default();
                message["RelatedProperties"] = json!([systems::path(id)]);
                self.failed.push(message);
            }
        }
    }

    fn percent(&self) -> u64 {
        ((self.total - self.left.len()) * 100 / self.total.max(1)) as u64
    }

    fn end(&self) -> End {
        let messages = self.failed.clone();
        let value = json!({ "Systems": self.total, "Failed": self.failures });
        End { status: 200, value: Some(value), messages, ..End::default() }
    }
}

impl Job for Group {
    fn step(&mut self, tools: &mut Tools<'_>) -> Step {
        for _ in 0..STEP {
            if self.done >= self.batch {
                self.done = 0;
                if self.delay > 0 && !self.left.is_empty() {
                    return Step::Wait { percent: self.percent(), until: tools.now + self.delay };
                }
            }
            let Some(id) = self.left.pop() else {
                // What was made for one alone goes with it.
                images::sweep(tools.hypervisor, tools.now);
                return Step::End(self.end());
            };
            self.one(id, tools);
            self.done += 1;
        }
        Step::More(self.percent())
    }

    fn cancel(&mut self) -> Result<(), End> {
        Err(self.end())
    }

    fn kept(&self) -> Value {
        let (deed, batch) = (if let Deed::Reset(kind) = &self.deed { &**kind } else { "" }, self.batch as u64);
        json!({
            "deed": deed.to_string(), "left": spans(&self.left), "total": self.total, "failed": &self.failed, "failures": self.failures,
            "batch": batch, "delay": self.delay,
        })
    }
}

/// Returns numbers as text, those that follow each other as one span.
fn spans(numbers: &[u64]) -> String {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match spans.last_mut() {
            Some((_, last)) if number.checked_add(1) == Some(*last) => *last = number,
            _ => spans.push((number, number)),
        }
    }
    let span = |&(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { alloc::format!("{first}-{last}") }
    };
    spans.iter().map(span).collect::<Vec<_>>().join(",")
}

fn read_spans(text: &str) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    for span in text.split(',').filter(|span| !span.is_empty()) {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        numbers.extend((last..=first).rev());
    }
    Some(numbers)
}

/// Goes on with what was kept of a job.
pub fn revive(kept: &Parsed) -> Option<Box<dyn Job>> {
    let number = |name: &str| kept[name].as_u64();
    let deed = kept["deed"].as_str()?;
    Some(Box::new(Group {
        deed: if deed.is_empty() { Deed::Delete } else { Deed::Reset(deed.to_string()) },
        left: read_spans(kept["left"].as_str()?)?,
        total: number("total")? as usize,
        failed: kept["failed"].as_array()?.iter().cloned().map(Value::from).collect(),
        failures: number("failures")? as usize,
        batch: number("batch")? as usize,
        delay: number("delay")?,
        done: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_kept_in_few_bytes() {
        let left = Vec::from([30, 22, 21, 20, 7, 3, 2]);
        assert_eq!(spans(&left), "30,22-20,7,3-2");
        assert_eq!(read_spans("30,22-20,7,3-2"), Some(left));
        assert_eq!(read_spans(""), Some(Vec::new()));
        let group = Group::new(Deed::Reset("On".into()), (2..=1001).collect(), Some(3), 9);
        let kept = group.kept();
        assert!(kept.to_string().len() < 200);
        assert_eq!(revive(&serde_json::from_str(&kept.to_string()).unwrap()).unwrap().kept(), kept);
    }
}
