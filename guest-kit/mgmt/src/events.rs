//! What became of VMs: changes of their states, as this service sees them when somebody changes a VM, and once a minute.
//! Before: [`service`](crate::service). After: [`logs`](crate::resources::logs), which shows them.

use alloc::collections::{BTreeMap, VecDeque};

use salp_hvc::calls::{STATE_SNAPSHOT, state_word};

use crate::agent::{self, Life};
use crate::hypervisor::{self, Hypervisor};

/// The most events that are remembered.
const MOST: usize = 512;

/// What a guest is, and its application.
const GUEST: [&str; 2] = ["guest silent", "guest up"];
const APPLICATION: [&str; 2] = ["application down", "application up"];

/// A VM has another state, or its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's number, from 1 on.
    pub number: u64,
    /// When it was seen, in seconds since 1970.
    pub time: u64,
    /// Which VM.
    pub vm: u64,
    /// Its state before; none if it was not there.
    pub from: Option<&'static str>,
    /// Its state now.
    pub to: &'static str,
}

/// Who watches VMs.
#[derive(Debug, Default)]
pub struct Watch {
    states: BTreeMap<u64, u32>,
    lives: BTreeMap<u64, Life>,
    events: VecDeque<Event>,
    last: u64,
}

impl Watch {
    /// Looks at all VMs.
    pub fn look(&mut self, hypervisor: &dyn Hypervisor, now: u64) {
        let vms = hypervisor::all(hypervisor).filter(|info| info.state.get() != STATE_SNAPSHOT);
        let states: BTreeMap<u64, u32> = vms.map(|info| (info.id.get(), info.state.get())).collect();
        for (&vm, &state) in &states {
            let before = self.states.get(&vm);
            if before != Some(&state) {
                self.last += 1;
                let from = before.map(|&state| state_word(state));
                self.events.push_back(Event { number: self.last, time: now, vm, from, to: state_word(state) });
            }
        }
        self.states = states;
        self.look_at_agents(hypervisor, now);
        let above = self.events.len().saturating_sub(MOST);
        self.events.drain(..above);
    }

    /// Looks which guests and applications are up, by what their agents tell.
    fn look_at_agents(&mut self, hypervisor: &dyn Hypervisor, now: u64) {
        let mut lives = BTreeMap::new();
        for info in hypervisor::all(hypervisor).filter(|info| info.state.get() != STATE_SNAPSHOT) {
            let (vm, life) = (info.id.get(), agent::life(hypervisor, &info));
            let before = self.lives.get(&vm).copied().unwrap_or_default();
            for (was, is, words) in
                [(before.guest, life.guest, GUEST), (before.application, life.application, APPLICATION)]
            {
                if was != is {
                    self.last += 1;
                    let (from, to) = (Some(words[usize::from(was)]), words[usize::from(is)]);
                    self.events.push_back(Event { number: self.last, time: now, vm, from, to });
                }
            }
            if life != Life::default() {
                lives.insert(vm, life);
            }
        }
        self.lives = lives;
    }

    /// Returns the events of a VM, the oldest one first.
    pub fn of(&self, vm: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.vm == vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn a_change_is_seen_once_and_the_oldest_are_forgotten() {
        let (mut fake, mut watch) = (Fake::default(), Watch::default());
        watch.look(&fake, 1);
        watch.look(&fake, 2);
        fake.freeze(2).unwrap();
        watch.look(&fake, 3);
        let seen: alloc::vec::Vec<_> = watch.of(2).map(|event| (event.time, event.from, event.to)).collect();
        let expected = [
            (1, None, "running"),
            (1, Some("guest silent"), "guest up"),
            (1, Some("application down"), "application up"),
            (3, Some("running"), "frozen"),
        ];
        assert_eq!(seen, expected);
        for _ in 0..MOST {
            fake.unfreeze(2).unwrap();
            watch.look(&fake, 4);
            fake.freeze(2).unwrap();
            watch.look(&fake, 5);
        }
        assert_eq!((watch.events.len(), watch.of(3).count()), (MOST, 0));
    }
}
