//! What people say of VMs: asset tags and descriptions. Before: [`making`](crate::resources::making). After: [`state`], a record at
//! EL2, and nothing else.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Parsed, json};

use crate::hypervisor::{Answer, Hypervisor};
use crate::state;

/// What is said of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// What the VM is called in somebody's books.
    pub tag: String,
    /// What it is for.
    pub description: String,
}

/// VMs of which something is said. A clone is another VM.
#[derive(Clone, Debug, Default)]
pub struct Notes(Vec<(u64, Note)>);

impl Notes {
    /// Returns what is kept.
    pub fn recall(hypervisor: &dyn Hypervisor) -> Self {
        let text = |value: &Parsed| value.as_str().unwrap_or_default().to_string();
        let entry =
            |value: &Parsed| Some((value[0].as_u64()?, Note { tag: text(&value[1]), description: text(&value[2]) }));
        Self(state::recall_list(hypervisor, state::NOTES).iter().filter_map(entry).collect())
    }

    /// Returns what is said of a VM.
    pub fn of(&self, id: u64) -> Note {
        self.0.iter().find(|(vm, _)| *vm == id).map(|(_, note)| note.clone()).unwrap_or_default()
    }
}

/// Changes what is said of a VM; of those that are gone it is forgotten.
///
/// # Errors
///
/// If there is no room for it.
pub fn change(hypervisor: &mut dyn Hypervisor, id: u64, change: impl FnOnce(&mut Note)) -> Answer<()> {
    let Notes(mut all) = Notes::recall(hypervisor);
    let before = Notes(all.clone()).of(id);
    let mut note = before.clone();
    change(&mut note);
    if note == before {
        return Ok(());
    }
    all.retain(|(vm, _)| *vm != id && hypervisor.find(*vm).is_ok());
    if note != Note::default() {
        all.push((id, note));
    }
    let entry = |(id, note): &(u64, Note)| json!([id, &note.tag, &note.description]);
    state::keep_list(hypervisor, state::NOTES, all.iter().map(entry).collect())
}
