//! Which guests and applications are up, as their agents tell. Before: [`agent`](crate::agent). After: [`journal`](super::journal).

use alloc::collections::BTreeMap;

use salp_hvc::calls::STATE_SNAPSHOT;

use super::journal::{Journal, News};
use crate::agent::{self, Life};
use crate::hypervisor::{self, Hypervisor, name_text};
use crate::resources::systems;

/// How often it is looked, in seconds.
const PERIOD: u64 = 2;

/// What was seen last.
#[derive(Debug, Default)]
pub struct Agents {
    /// None before the first look: what was up then may have been told before this guest was taken back.
    lives: Option<BTreeMap<u64, Life>>,
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
            let before = self.lives.as_ref().map_or(life, |lives| lives.get(&vm).copied().unwrap_or_default());
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
        self.lives = Some(lives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use alloc::vec::Vec;

    #[test]
    fn a_guest_that_is_silent_from_now_on_is_told_once() {
        let (mut fake, mut journal, mut agents) = (Fake::default(), Journal::default(), Agents::default());
        agents.look(&mut journal, &fake, 10);
        fake.stop(2).unwrap();
        agents.look(&mut journal, &fake, 11);
        agents.look(&mut journal, &fake, 20);
        agents.look(&mut journal, &fake, 30);
        let told: Vec<_> = journal.since(1).1.map(|event| (event.time, event.entry.key)).collect();
        assert_eq!(told, [(20, "GuestSilent"), (20, "ApplicationDown")]);
    }
}
