//! Fetches under way, and what comes after what they fetch is there. Before: [`tasks::fetch`](crate::tasks::fetch), whose work
//! they are. After: [`fetch`](super::fetch).
//!
//! A job has a number, progress, and an outcome that stays until it was asked for.

use alloc::string::String;
use core::array;

use super::fetch::{Fetch, Order, Wire};
use super::{origin, set_origin};
use crate::hypervisor::Hypervisor;
use crate::images::IMAGES;
use crate::message::Failure;
use crate::systems::boot;

/// How many there can be at a time.
pub const MOST: usize = 2;

/// What is done with what was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing: it stays as an image.
    Keep,
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
    address: String,
    fetch: Fetch,
    then: Then,
    outcome: Option<Result<(), Failure>>,
    is_unwanted: bool,
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
    /// Begins a job, and returns its number; none if there are as many as there can be.
    pub fn begin(&mut self, order: Order, address: &str, then: Then) -> Option<u64> {
        let place = self.places.iter_mut().find(|place| place.is_none())?;
        self.last += 1;
        let fetch = if then == Then::Install { Fetch::of_bundle(order) } else { Fetch::new(order) };
        let number = self.last;
        *place = Some(Job { number, address: address.into(), fetch, then, outcome: None, is_unwanted: false });
        Some(number)
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

    /// Lets a job end that nobody wants any more; what it has done already stays.
    pub fn cancel(&mut self, number: u64) {
        if let Some(job) = self.places.iter_mut().flatten().find(|job| job.number == number) {
            job.is_unwanted = true;
        }
    }

    /// Lets the job at a place go on over this wire, which is that of the place; `now` in milliseconds, `seconds` since 1970.
    /// Returns true if it has come to its end.
    pub fn drive(
        &mut self,
        place: usize,
        wire: &mut dyn Wire,
        hypervisor: &mut dyn Hypervisor,
        now: u64,
        seconds: u64,
    ) -> bool {
        let Some(slot) = self.places.get_mut(place) else { return false };
        let Some(job) = slot else { return false };
        if job.is_unwanted {
            job.fetch.stop(wire, hypervisor);
            *slot = None;
            return false;
        }
        if job.outcome.is_some() {
            return false;
        }
        job.fetch.drive(wire, hypervisor, now, seconds);
        let Some(outcome) = job.fetch.outcome() else { return false };
        job.outcome = Some(outcome.clone().and_then(|image| job.carry_on(hypervisor, image, seconds)));
        true
    }
}

impl Job {
    fn carry_on(&self, hypervisor: &mut dyn Hypervisor, image: u64, now: u64) -> Result<(), Failure> {
        let refused = |refused| Failure::refused(refused, IMAGES);
        match self.then {
            Then::Keep | Then::Install => Ok(()),
            Then::Insert(vm) => {
                // Somebody may have put another one in meanwhile.
                let inserted = match hypervisor.medium(vm).map_err(refused)? {
                    Some(_) => Err(Failure::because(409, "There is another medium in the drive by now.")),
                    None => set_origin(hypervisor, image, &self.address)
                        .and_then(|()| hypervisor.change_medium(vm, Some(image)))
                        .map_err(refused),
                };
                if inserted.is_err() {
                    crate::images::sweep(hypervisor, now);
                }
                inserted
            }
            Then::Start(vm) => boot::start(hypervisor, vm, Some(image), now),
        }
    }
}

/// Returns whether what this address leads to is in the drive of this VM.
pub fn is_inserted(hypervisor: &dyn Hypervisor, vm: u64, address: &str) -> bool {
    let medium = hypervisor.medium(vm).ok().flatten();
    medium.and_then(|image| origin(hypervisor, image)).is_some_and(|known| known == address)
}
