//! Which guests and applications are up, as their agents tell. Before: [`agent`](crate::agent). After: [`journal`](super::journal).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use salp_hvc::calls::STATE_SNAPSHOT;

use super::journal::{Journal, News};
use crate::agent::{self, Life};
use crate::hypervisor::{self, Hypervisor, name_text};
use crate::resources::systems;

/// How often it is looked, in seconds.
const PERIOD: u64 = 2;

/// What is kept of a VM beside its identifier: its guest is up, its application is.
const GUEST: u64 = 1 << 63;
const APPLICATION: u64 = 1 << 62;

/// What was seen last, which outlives this guest: who takes over tells nothing twice, and leaves out nothing.
#[derive(Debug, Default)]
pub struct Agents {
    lives: BTreeMap<u64, Life>,
    looked: u64,
}

impl Agents {
    /// Tells what has changed since the last look, if that was long enough ago.
    pub fn look(&mut self, journal: &mut Journal, hypervisor: &dyn Hypervisor, now: u64) {
        if now.saturating_sub(self.looked) < PERIOD {
            return;
        }
        self.looked = now;
        let mut lives = BTreeMap::new();
        for info in hypervisor::all(hypervisor).filter(|info| info.state.get() != STATE_SNAPSHOT) {
            let (vm, life) = (info.id.get(), agent::life(hypervisor, &info));
            let before = self.lives.get(&vm).copied().unwrap_or_default();
            for (was, is, keys) in [
                (before.guest, life.guest, ["GuestSilent", "GuestUp"]),
                (before.application, life.application, ["ApplicationDown", "ApplicationUp"]),
            ] {
                if was != is {
                    let (name, path) = (name_text(&info.name), systems::path(vm));
                    journal.tell(News::new(keys[usize::from(is)], &[name], &path), now);
                }
            }
            if life != Life::default() {
                lives.insert(vm, life);
            }
        }
        self.lives = lives;
    }

    /// Returns what was seen as it is kept: a word for each VM that is up. It changes only when the journal does.
    pub fn kept(&self) -> Vec<u8> {
        let word = |(&vm, life): (&u64, &Life)| {
            vm | if life.guest { GUEST } else { 0 } | if life.application { APPLICATION } else { 0 }
        };
        self.lives.iter().map(word).flat_map(u64::to_le_bytes).collect()
    }

    /// Puts what was kept in place of what is here.
    pub fn put_back(&mut self, kept: &[u8]) {
        let life = |word: u64| Life { guest: word & GUEST != 0, application: word & APPLICATION != 0 };
        let words = kept.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
        self.lives = words.map(|word| (word & !(GUEST | APPLICATION), life(word))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    fn told(journal: &Journal) -> Vec<(u64, &str)> {
        journal.since(1).1.map(|event| (event.time, event.entry.key)).collect()
    }

    #[test]
    fn a_guest_that_was_up_first_and_is_silent_from_now_on_is_told_once() {
        let (mut fake, mut journal, mut agents) = (Fake::default(), Journal::default(), Agents::default());
        agents.look(&mut journal, &fake, 10);
        fake.stop(2).unwrap();
        for now in [11, 20, 30] {
            agents.look(&mut journal, &fake, now);
        }
        let ups = [(10, "GuestUp"), (10, "ApplicationUp")];
        assert_eq!(told(&journal), [&ups[..], &[(20, "GuestSilent"), (20, "ApplicationDown")]].concat());
    }

    #[test]
    fn who_takes_over_tells_only_what_was_not_told() {
        let (mut fake, mut journal, mut agents) = (Fake::default(), Journal::default(), Agents::default());
        agents.look(&mut journal, &fake, 10);
        let (kept, mut journal) = (agents.kept(), Journal::default());
        let mut later = Agents::default();
        later.put_back(&kept);
        later.look(&mut journal, &fake, 20);
        assert_eq!(told(&journal), []);
        fake.stop(2).unwrap();
        later.look(&mut journal, &fake, 30);
        assert_eq!(told(&journal), [(30, "GuestSilent"), (30, "ApplicationDown")]);
    }
}
