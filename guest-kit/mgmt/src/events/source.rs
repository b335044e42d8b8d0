//! What the hypervisor tells of VMs, as events. Before: [`hypervisor`](crate::hypervisor). After: [`journal`](super::journal).

use alloc::format;
use alloc::string::String;

use salp_hvc::events::{self as event, EventRecord};
use salp_hvc::manager::RECOVERY_HANG;
use zerocopy::FromZeros;

use super::journal::{Journal, News};
use crate::hypervisor::{Hypervisor, name_text};
use crate::resources::managers::SALP;
use crate::resources::{nics, snapshots, systems};

/// How many events are read at a time.
const PIECE: usize = 32;

/// What a kind of event is told as, with the name of the VM as first argument if it has any.
const MESSAGES: [(u32, &str, bool); 14] = [
    (event::CREATED, "ResourceCreated", false),
    (event::STARTED, "ResourcePoweredOn", true),
    (event::OFF, "SystemPoweredOffByGuest", true),
    (event::RESTARTED, "SystemRestartedByGuest", true),
    (event::CRASHED, "SystemCrashed", true),
    (event::STOPPED, "ResourcePoweredOff", true),
    (event::RESET, "SystemReset", true),
    (event::DESTROYED, "ResourceRemoved", false),
    (event::FROZEN, "ResourcePaused", true),
    (event::UNFROZEN, "SystemResumed", true),
    (event::NO_MEMORY, "SystemWaitsForMemory", true),
    (event::MEMORY_BACK, "SystemHasMemoryAgain", true),
    (event::REVERTED, "SystemReverted", true),
    (event::CHANGED, "ResourceChanged", false),
];

/// Returns what became of a VM after an end.
fn after(detail: u32) -> &'static str {
    match detail {
        event::AFTER_OFF => "is off",
        event::AFTER_AGAIN => "runs again",
        _ => "is gone",
    }
}

/// Takes note of what became of VMs since the last look, but for `own`, this VM itself.
pub fn look(journal: &mut Journal, hypervisor: &dyn Hypervisor, own: Option<u64>, now: u64) {
    // Where there is no clock below, things happen when they are seen.
    let seconds = |record: &EventRecord| match record.time.get() / 1_000_000_000 {
        0 => now,
        seconds => seconds,
    };
    let mut room = [EventRecord::new_zeroed(); PIECE];
    loop {
        let before = journal.source;
        // Who tells nothing has nothing to tell.
        let Ok((count, next)) = hypervisor.events(before, &mut room) else { return };
        let mut expected = before;
        for record in &room[..count] {
            lose(journal, record.number.get().saturating_sub(expected), seconds(record));
            expected = record.number.get() + 1;
            note(journal, record, own, seconds(record));
        }
        if next != before {
            let time = room[..count].last().map_or(now, seconds);
            lose(journal, next.saturating_sub(expected), time);
            journal.source = next;
            journal.mark_changed();
        }
        if count < PIECE {
            return;
        }
    }
}

/// Tells that events of the hypervisor were lost.
fn lose(journal: &mut Journal, count: u64, time: u64) {
    // What was before the first look is not lost.
    if count > 0 && journal.source > 1 {
        journal.tell(News::new("EventsLost", &[&format!("{count}")], SALP), time);
    }
}

fn note(journal: &mut Journal, record: &EventRecord, own: Option<u64>, time: u64) {
    let vm = record.vm.get();
    let (kind, detail) = (record.kind.get(), record.detail.get());
    if kind == event::TAKEN_BACK {
        let how = if u64::from(detail) == RECOVERY_HANG { "did not answer" } else { "failed" };
        return journal.tell(News::new("ManagerRecovered", &[how], SALP), time);
    }
    if kind == event::REPLACED {
        let image = if detail == event::MANAGER_NEXT { "that has taken over" } else { "before, which is back" };
        return journal.tell(News::new("ManagerReplaced", &[image], SALP), time);
    }
    // The list of VMs does not show this one either.
    if Some(vm) == own {
        return;
    }
    if kind == event::SNAPSHOT {
        return journal.tell(News::new("ResourceCreated", &[], &snapshots::path(vm)), time);
    }
    if kind == event::NIC_CHANGED {
        let path: String = format!("{}/{detail}", nics::collection_path(vm));
        return journal.tell(News::new("ResourceChanged", &[], &path), time);
    }
    if kind == event::DELETED {
        return journal.tell(News::new("ResourceRemoved", &[], &snapshots::path(vm)), time);
    }
    let Some(&(_, key, is_named)) = MESSAGES.iter().find(|(known, ..)| *known == kind) else { return };
    let path = systems::path(vm);
    let arguments = [name_text(&record.name), after(detail)];
    let ends = matches!(kind, event::OFF | event::RESTARTED | event::CRASHED | event::RESET);
    let count = if ends { 2 } else { usize::from(is_named) };
    journal.tell(News::new(key, &arguments[..count], &path), time);
    if ends && detail == event::AFTER_GONE {
        journal.tell(News::new("ResourceRemoved", &[], &path), time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn told(journal: &Journal, from: u64) -> Vec<(String, String)> {
        let (_, events) = journal.since(from);
        events.map(|event| (event.entry.key.to_string(), event.origin.clone())).collect()
    }

    #[test]
    fn what_becomes_of_a_vm_is_told_once() {
        let (mut fake, mut journal) = (Fake::default(), Journal::default());
        look(&mut journal, &fake, Some(1), 5);
        let before = journal.next();
        assert_eq!(told(&journal, 1)[0], ("ResourceCreated".into(), "/redfish/v1/Systems/2".into()));
        fake.freeze(2).unwrap();
        fake.unfreeze(2).unwrap();
        let snapshot = fake.snapshot(2, "s").unwrap();
        fake.destroy(snapshot).unwrap();
        fake.stop(2).unwrap();
        look(&mut journal, &fake, Some(1), 5);
        look(&mut journal, &fake, Some(1), 5);
        let (web, kept) = ("/redfish/v1/Systems/2", "/redfish/v1/Oem/Salp/Snapshots/4");
        let expected = [
            ("ResourcePaused", web),
            ("SystemResumed", web),
            ("ResourceCreated", kept),
            ("ResourceRemoved", kept),
            ("ResourcePoweredOff", web),
        ];
        assert_eq!(told(&journal, before), expected.map(|(key, path)| (key.to_string(), path.to_string())));
    }

    #[test]
    fn the_number_of_lost_events_is_told() {
        let (mut fake, mut journal) = (Fake::default(), Journal::default());
        look(&mut journal, &fake, Some(1), 5);
        let before = journal.next();
        for _ in 0..event::KEPT {
            fake.freeze(2).unwrap();
            fake.unfreeze(2).unwrap();
        }
        look(&mut journal, &fake, Some(1), 5);
        let (_, mut events) = journal.since(before);
        let first = events.next().unwrap();
        assert_eq!((first.entry.key, &*first.arguments[0]), ("EventsLost", &*event::KEPT.to_string()));
        assert_eq!(events.count(), event::KEPT);
    }

    #[test]
    fn another_management_guest_is_told_of_by_the_one_that_it_is() {
        let (mut fake, mut journal) = (Fake::default(), Journal::default());
        look(&mut journal, &fake, Some(1), 5);
        let before = journal.next();
        fake.tell(1, event::STARTED, 0);
        fake.tell(1, event::REPLACED, event::MANAGER_NEXT);
        fake.tell(1, event::REPLACED, event::MANAGER_BEFORE);
        look(&mut journal, &fake, Some(1), 5);
        let said: Vec<String> = journal.since(before).1.map(|event| event.entry.say(&event.arguments)).collect();
        let end = ["that has taken over.", "before, which is back."];
        assert_eq!(said, end.map(|end| format!("The management guest is that of the image {end}")));
    }
}
