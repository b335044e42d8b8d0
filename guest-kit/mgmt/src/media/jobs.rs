//! Media under way, and what comes after they are there. Before: [`resources`](crate::resources), which begin them, and who waits
//! for their end: a connection, or a task. After: [`fetch`](super::fetch).
//!
//! A job has a number, progress, and an outcome that stays until it was asked for. A client that is gone does not end it.

use core::array;

use super::fetch::{Fetch, Order, Wire};
use super::set_origin;
use crate::hypervisor::Hypervisor;
use crate::images::IMAGES;
use crate::message::Failure;
use crate::systems::boot;

/// How many there can be at a time.
pub const MOST: usize = 2;
/// How long an outcome stays that nobody asks for, in milliseconds.
const FORGET: u64 = 60_000;

/// What is done with what was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes into the drive of this VM.
    Insert(u64),
    /// This VM, which is off, starts from it.
    Start(u64),
    /// It is a bundle, and goes into the flash.
    Install,
}

#[derive(Debug)]
struct Job {
    number: u64,
    address: alloc::string::String,
    fetch: Fetch,
    then: Then,
    outcome: Option<Result<(), Failure>>,
    /// When it came to its end.
    ended: u64,
}

/// All jobs.
#[derive(Debug)]
pub struct Jobs {
    places: [Option<Job>; MOST],
    last: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { places: array::from_fn(|_| None), last: 0 }
    }
}

impl Jobs {
    /// Begins a job, and returns its number.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn begin(&mut self, order: Order, address: &str, then: Then) -> Result<u64, Failure> {
        let full =
            || Failure::because(503, "As many media as can be fetched at a time are under way: try again later.");
        let place = self.places.iter_mut().find(|place| place.is_none()).ok_or_else(full)?;
        self.last += 1;
        let fetch = if then == Then::Install { Fetch::of_bundle(order) } else { Fetch::new(order) };
        let number = self.last;
        *place = Some(Job { number, address: address.into(), fetch, then, outcome: None, ended: 0 });
        Ok(number)
    }

    /// Returns true if there is none, not even one that is over.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }

    /// Returns true if any is under way.
    pub fn is_busy(&self) -> bool {
        self.places.iter().flatten().any(|job| job.outcome.is_none())
    }

    /// Returns how many bytes of how many have come.
    pub fn progress(&self, number: u64) -> Option<(u64, Option<u64>)> {
        self.places.iter().flatten().find(|job| job.number == number).map(|job| job.fetch.progress())
    }

    /// Ends a job that is under way.
    pub fn stop(&mut self, number: u64) {
        let jobs = self.places.iter_mut().flatten();
        jobs.filter(|job| job.number == number).for_each(|job| job.fetch.stop());
    }

    /// Returns how a job went, once; `None` while it is under way.
    pub fn take(&mut self, number: u64) -> Option<Result<(), Failure>> {
        let is_it = |place: &&mut Option<Job>| place.as_ref().is_some_and(|job| job.number == number);
        let Some(place) = self.places.iter_mut().find(is_it) else {
            return Some(Err(Failure::because(500, "What became of it is not known any more.")));
        };
        let outcome = place.as_mut()?.outcome.take()?;
        *place = None;
        Some(outcome)
    }

    /// Lets the job at a place go on over this wire, which is that of the place; `now` in milliseconds, `seconds` since 1970.
    pub fn drive(
        &mut self,
        place: usize,
        wire: &mut dyn Wire,
        hypervisor: &mut dyn Hypervisor,
        now: u64,
        seconds: u64,
    ) {
        let Some(slot) = self.places.get_mut(place) else { return };
        let Some(job) = slot else { return };
        if job.outcome.is_some() {
            if now.saturating_sub(job.ended) > FORGET {
                *slot = None;
            }
            return;
        }
        job.fetch.drive(wire, hypervisor, now, seconds);
        if let Some(outcome) = job.fetch.outcome() {
            let done = outcome.clone().and_then(|image| job.carry_on(hypervisor, image, seconds));
            (job.outcome, job.ended) = (Some(done), now);
        }
    }
}

impl Job {
    fn carry_on(&self, hypervisor: &mut dyn Hypervisor, image: u64, now: u64) -> Result<(), Failure> {
        let refused = |refused| Failure::refused(refused, IMAGES);
        match self.then {
            Then::Insert(vm) => {
                set_origin(hypervisor, image, &self.address).map_err(refused)?;
                hypervisor.change_medium(vm, Some(image)).map_err(refused)
            }
            Then::Start(vm) => boot::start(hypervisor, vm, Some(image), now),
            Then::Install => Ok(()),
        }
    }
}
