//! A listener that is connected: events as they come, as server-sent events (WHATWG HTML section 9.2, DSP0266 section 13.5). Before:
//! [`events`](crate::resources::events). After: [`journal`](super::journal).

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;

use super::journal::record;
use super::registry::Entry;
use super::{choice, payload};
use crate::flow::{Flow, Heard};
use crate::hypervisor::Hypervisor;
use crate::query::filter::Filter;
use crate::resources::managers::SALP;

/// The most listeners: they must leave connections to others.
pub const MOST: usize = 32;
/// No more is said at a time once there are so many bytes.
const PIECE: usize = 16 << 10;
/// After how many seconds of silence a word is said: who hears nothing else knows that the stream is alive.
const SILENCE: u64 = 15;

/// Who is connected.
#[derive(Debug, Default)]
pub struct Streams {
    seats: BTreeMap<u64, Weak<Seat>>,
    last: u64,
}

/// What is known of a listener as long as it is connected.
#[derive(Debug)]
pub struct Seat {
    /// Its number.
    pub number: u64,
    /// Who it is.
    pub user: String,
    /// Its filter, as it was asked for.
    pub filter: Option<String>,
    is_closed: Cell<bool>,
}

impl Streams {
    /// Returns a place for a listener, if there is one.
    pub fn open(&mut self, user: &str, filter: Option<&str>) -> Option<Rc<Seat>> {
        self.seats.retain(|_, seat| seat.strong_count() > 0);
        if self.seats.len() >= MOST {
            return None;
        }
        self.last += 1;
        let (number, filter) = (self.last, filter.map(ToString::to_string));
        let seat = Rc::new(Seat { number, user: user.to_string(), filter, is_closed: Cell::new(false) });
        self.seats.insert(number, Rc::downgrade(&seat));
        Some(seat)
    }

    /// Returns who is connected.
    pub fn seats(&self) -> impl Iterator<Item = Rc<Seat>> + '_ {
        self.seats.values().filter_map(Weak::upgrade).filter(|seat| !seat.is_closed.get())
    }

    /// Ends a stream; returns false if there is none.
    pub fn close(&mut self, number: u64) -> bool {
        let seat = self.seats.remove(&number).and_then(|seat| seat.upgrade());
        seat.map(|seat| seat.is_closed.set(true)).is_some()
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Stream {
    seat: Rc<Seat>,
    filter: Option<Filter>,
    /// The number of the next event.
    next: u64,
    /// When something was said last, in seconds since 1970.
    spoken: u64,
}

impl Stream {
    /// Returns a stream that begins with the event `next`.
    pub fn new(seat: Rc<Seat>, filter: Option<Filter>, next: u64, now: u64) -> Self {
        Self { seat, filter, next, spoken: now }
    }
}

fn say(output: &mut Vec<u8>, number: u64, data: &str) {
    output.extend(alloc::format!("id: {number}\ndata: {data}\n\n").bytes());
}

impl Flow for Stream {
    fn drive(&mut self, _: &mut dyn Hypervisor, _: &mut Vec<u8>, _: &mut Vec<u8>) -> bool {
        !self.seat.is_closed.get()
    }

    fn hear(&mut self, heard: &Heard<'_>, output: &mut Vec<u8>) {
        let (lost, events) = heard.journal.since(self.next);
        if lost > 0 {
            self.next += lost;
            if let Some(entry) = Entry::find("EventsLost") {
                let number = self.next - 1;
                let told = record(number, heard.now, entry, &[lost.to_string()], SALP).to_string();
                say(output, number, &payload(number, None, &[&told]));
            }
        }
        for event in events {
            if output.len() >= PIECE {
                break;
            }
            self.next = event.number + 1;
            if self.filter.as_ref().is_some_and(|filter| !choice::takes(filter, event)) {
                continue;
            }
            match event.report() {
                None => say(output, event.number, &payload(event.number, None, &[&event.record])),
                // One that is gone or another one by now is not missed.
                Some(path) => heard.report(path).into_iter().for_each(|report| say(output, event.number, report)),
            }
        }
        if output.is_empty() && heard.now.saturating_sub(self.spoken) >= SILENCE {
            output.extend(b":\n\n");
        }
        if !output.is_empty() {
            self.spoken = heard.now;
        }
    }
}
