//! The list of what has happened: bounded, numbered, and kept so that it outlives this guest. Before: whoever tells. After:
//! [`stream`](super::stream), [`subscription`](super::subscription), logs; [`state`](crate::state), which keeps it.
//!
//! Everybody reads from the same list, from a number on, so a listener costs a number and not a queue.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Parsed, Value, json};

use super::registry::{self, Entry};
use crate::resources::time;

/// The most events that are remembered.
pub const MOST: usize = 2048;
/// The most bytes of all events.
const MEMORY: usize = 2 << 20;

/// Something that has happened, before it has its number.
#[derive(Debug)]
pub struct News<'a> {
    key: &'static str,
    arguments: &'a [&'a str],
    origin: &'a str,
    said: &'a [(&'a str, Value)],
}

impl<'a> News<'a> {
    /// Returns the message with this key and these arguments, about the resource at `origin`.
    pub const fn new(key: &'static str, arguments: &'a [&'a str], origin: &'a str) -> Self {
        Self { key, arguments, origin, said: &[] }
    }

    /// Says this in place of what the message says.
    pub const fn saying(self, said: &'a [(&'a str, Value)]) -> Self {
        Self { said, ..self }
    }
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its number, from 1 on; never used twice.
    pub number: u64,
    /// When it was, in seconds since 1970.
    pub time: u64,
    /// What it says.
    pub entry: &'static Entry,
    /// With which arguments.
    pub arguments: Vec<String>,
    /// The path of the resource that it is about; empty if it is about none.
    pub origin: String,
    /// The event as it is sent.
    pub record: String,
    /// What it says in place of what the message says; null for nothing.
    said: Value,
}

impl Event {
    fn new(
        (number, time): (u64, u64),
        entry: &'static Entry,
        arguments: Vec<String>,
        origin: String,
        said: Value,
    ) -> Self {
        let mut record = record(number, time, entry, &arguments, &origin);
        for (name, value) in said.as_object().into_iter().flatten() {
            *record.member(name.clone()) = value.clone();
        }
        Self { number, time, entry, arguments, origin, record: record.to_string(), said }
    }

    /// Returns the path of the metric report that has been made, if it tells of one.
    pub fn report(&self) -> Option<&str> {
        let is_report = self.entry.key == "ResourceChanged" && registry::type_of(&self.origin) == Some("MetricReport");
        is_report.then_some(&*self.origin)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
            + self.record.len()
            + self.origin.len()
            + self.arguments.iter().map(String::len).sum::<usize>()
    }

    fn kept(&self) -> Value {
        json!([self.number, self.time, self.entry.key, &self.origin, &self.arguments, &self.said])
    }

    fn put_back(kept: &Parsed) -> Option<Self> {
        let entry = Entry::find(kept[2].as_str()?)?;
        let origin = kept[3].as_str()?.to_string();
        let when = (kept[0].as_u64()?, kept[1].as_u64()?);
        Some(Self::new(when, entry, super::texts(&kept[4]), origin, kept[5].clone().into()))
    }
}

/// Returns an event as it is sent.
pub fn record(number: u64, when: u64, entry: &Entry, arguments: &[String], origin: &str) -> Value {
    let kind = match entry.key {
        "ResourceCreated" => "ResourceAdded",
        "ResourceRemoved" => "ResourceRemoved",
        "ResourceChanged" => "ResourceUpdated",
        _ if entry.severity != "OK" => "Alert",
        _ => "StatusChange",
    };
    let mut value = json!({
        "MemberId": number.to_string(),
        "EventId": number.to_string(),
        "EventType": kind,
        "EventTimestamp": time(when),
        "MessageId": entry.id(),
        "Message": entry.say(arguments),
        "MessageArgs": arguments,
        "MessageSeverity": entry.severity,
    });
    if !origin.is_empty() {
        value["OriginOfCondition"] = json!({ "@odata.id": origin.to_string() });
    }
    value
}

/// The list.
#[derive(Debug)]
pub struct Journal {
    events: VecDeque<Event>,
    /// The number of the next event.
    next: u64,
    /// The number of the hypervisor's next event.
    pub source: u64,
    memory: usize,
    is_changed: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self { events: VecDeque::new(), next: 1, source: 1, memory: 0, is_changed: false }
    }
}

impl Journal {
    /// Takes note of something that has just happened.
    pub fn tell(&mut self, news: News<'_>, now: u64) {
        let arguments = news.arguments.iter().map(ToString::to_string).collect();
        // Every key is in the table: tests see to it.
        if let Some(entry) = Entry::find(news.key) {
            let said = news.said.iter().map(|(name, value)| (name.to_string(), value.clone()));
            let said = if news.said.is_empty() { Value::Null } else { Value::Object(said.collect()) };
            self.push(Event::new((self.next, now), entry, arguments, news.origin.to_string(), said));
        }
    }

    fn push(&mut self, event: Event) {
        self.next = event.number + 1;
        self.memory += event.size();
        self.events.push_back(event);
        while self.events.len() > MOST || self.memory > MEMORY {
            let Some(oldest) = self.events.pop_front() else { break };
            self.memory -= oldest.size();
        }
        self.is_changed = true;
    }

    /// Returns the number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the events from a number on, the oldest one first, and how many are not there any more.
    pub fn since(&self, number: u64) -> (u64, impl Iterator<Item = &Event>) {
        let first = self.events.front().map_or(self.next, |event| event.number);
        let skipped = number.saturating_sub(first).min(self.events.len() as u64) as usize;
        (first.saturating_sub(number), self.events.iter().skip(skipped))
    }

    /// Returns the events of a resource and those below it, the oldest one first.
    pub fn of(&self, path: &str) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| {
            event.origin.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Returns, once, whether there is something that was not kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that there is something that was not kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns it as it is kept: the last events, as many as there is room for in so many bytes.
    pub fn kept(&self, room: usize) -> String {
        let (mut last, mut size) = (VecDeque::new(), 0);
        for event in self.events.iter().rev() {
            let kept = event.kept().to_string();
            size += kept.len() + 1;
            if size + 100 > room {
                break;
            }
            last.push_front(kept);
        }
        let events: Vec<String> = last.into();
        let (next, source, events) = (self.next, self.source, events.join(","));
        alloc::format!("{{\"next\":{next},\"source\":{source},\"events\":[{events}]}}")
    }

    /// Puts what was kept in place of what is here, as far as it can be read.
    pub fn put_back(&mut self, kept: &Parsed) {
        *self = Self::default();
        kept["events"].as_array().into_iter().flatten().filter_map(Event::put_back).for_each(|event| self.push(event));
        self.next = kept["next"].as_u64().unwrap_or(self.next).max(self.next);
        self.source = kept["source"].as_u64().unwrap_or(self.source);
        self.is_changed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(journal: &mut Journal, count: usize) {
        (0..count).for_each(|_| journal.tell(News::new("ResourceChanged", &[], "/redfish/v1/Systems/2"), 5));
    }

    fn numbers(journal: &Journal, from: u64) -> (u64, Vec<u64>) {
        let (lost, events) = journal.since(from);
        (lost, events.map(|event| event.number).collect())
    }

    #[test]
    fn who_reads_too_late_learns_how_many_were_lost() {
        let mut journal = Journal::default();
        assert_eq!(numbers(&journal, 1), (0, [].into()));
        tell(&mut journal, 3);
        assert_eq!(numbers(&journal, 1), (0, [1, 2, 3].into()));
        assert_eq!(numbers(&journal, 3), (0, [3].into()));
        assert_eq!(numbers(&journal, 4), (0, [].into()));
        tell(&mut journal, MOST);
        let (lost, events) = numbers(&journal, 2);
        assert_eq!((lost, events.len(), events[0]), (2, MOST, 4));
    }

    #[test]
    fn memory_is_bounded_whatever_events_say() {
        let mut journal = Journal::default();
        let long = "x".repeat(20_000);
        (0..500).for_each(|_| journal.tell(News::new("SystemReset", &[&long, ""], ""), 5));
        assert!(journal.memory <= MEMORY && journal.events.len() > 10);
    }

    #[test]
    fn what_is_kept_has_the_last_events_and_numbers_go_on() {
        let mut journal = Journal::default();
        tell(&mut journal, MOST);
        journal.tell(News::new("SystemCrashed", &["w%\"eb", "is off"], "/redfish/v1/Systems/2"), 7);
        journal.source = 99;
        let kept = journal.kept(15 << 10);
        assert!(kept.len() <= 15 << 10 && journal.has_changed());
        let mut later = Journal::default();
        later.put_back(&serde_json::from_str(&kept).unwrap());
        assert_eq!((later.next(), later.source), (MOST as u64 + 2, 99));
        let (lost, events) = later.since(1);
        let events: Vec<&Event> = events.collect();
        assert!(events.len() > 100 && lost == MOST as u64 + 1 - events.len() as u64);
        assert_eq!(events.last().unwrap().record, journal.events.back().unwrap().record);
    }
}
