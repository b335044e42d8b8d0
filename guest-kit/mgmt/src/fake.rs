//! A hypervisor that is only a list. Before: tests, and the guest on plain QEMU. After: nothing.
//!
//! It keeps the rules that clients see (names are unique, identifiers are never used twice, states allow or forbid) and
//! no more: no VM of it runs.

use alloc::collections::BTreeMap;
use alloc::format;

use salp_hvc::calls::{MAX_CLONES, MachineInfo, NAME, STATE_FROZEN, STATE_RUNNING, STATE_SNAPSHOT, VmInfo, VmMemory};
use salp_hvc::status;
use zerocopy::FromZeros;

use crate::hypervisor::{Answer, Cloning, Hypervisor, Refused, is_config, is_name, name_text};

/// The greatest number of VMs and snapshots.
pub const MAX_VMS: usize = 1000;

/// VMs as entries of a list.
#[derive(Debug)]
pub struct Fake {
    entries: BTreeMap<u64, VmInfo>,
    last: u64,
}

impl Default for Fake {
    /// Returns a machine with a VM `web` that runs and a VM `base` that is frozen.
    fn default() -> Self {
        let mut fake = Self { entries: BTreeMap::new(), last: 0 };
        let manager = fake.boot("mgmt", 32 << 20, STATE_RUNNING);
        debug_assert_eq!(manager, OWN);
        fake.boot("web", 512 << 20, STATE_RUNNING);
        fake.boot("base", 256 << 20, STATE_FROZEN);
        fake
    }
}

/// The entry that is this VM itself.
const OWN: u64 = 1;

fn padded(name: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    let length = name.len().min(NAME - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

impl Fake {
    fn boot(&mut self, name: &str, memory: u64, state: u32) -> u64 {
        let id = self.last + 1;
        let mut info = VmInfo::new_zeroed();
        info.family = id.into();
        info.vcpus = 1.into();
        info.memory = memory.into();
        self.add(info, name, state)
    }

    /// Adds an entry like `model` with an identity of its own.
    fn add(&mut self, model: VmInfo, name: &str, state: u32) -> u64 {
        self.last += 1;
        let mut info = model;
        info.id = self.last.into();
        info.name = padded(name);
        info.uuid = u128::from(self.last).to_be_bytes();
        info.uuid[6] = 0x40;
        info.uuid[8] = 0x80;
        info.mac = [0x52, 0x54, 0, 0, (self.last >> 8) as u8, self.last as u8];
        info.state = state.into();
        self.entries.insert(self.last, info);
        self.last
    }

    fn get(&mut self, id: u64) -> Answer<&mut VmInfo> {
        if id == OWN {
            return Err(Refused(status::INVALID));
        }
        self.entries.get_mut(&id).ok_or(Refused(status::NOT_FOUND))
    }

    fn is_taken(&self, name: &str) -> bool {
        self.entries.values().any(|info| name_text(&info.name) == name)
    }

    fn change(&mut self, id: u64, from: u32, to: u32) -> Answer<()> {
        let info = self.get(id)?;
        if info.state.get() != from {
            return Err(Refused(status::WRONG_STATE));
        }
        info.state = to.into();
        Ok(())
    }
}

impl Hypervisor for Fake {
    fn own_uuid(&self) -> Option<[u8; 16]> {
        self.entries.get(&OWN).map(|info| info.uuid)
    }

    fn machine(&self) -> Answer<MachineInfo> {
        let mut info = MachineInfo::new_zeroed();
        info.total = (4 << 30).into();
        info.free = (3 << 30).into();
        info.vms = (self.entries.len() as u32).into();
        Ok(info)
    }

    fn next(&self, after: u64) -> Answer<VmInfo> {
        let from = after.checked_add(1).ok_or(Refused(status::NOT_FOUND))?;
        self.entries.range(from..).next().map(|(_, info)| *info).ok_or(Refused(status::NOT_FOUND))
    }

    fn memory(&self, id: u64) -> Answer<VmMemory> {
        let info = self.entries.get(&id).ok_or(Refused(status::NOT_FOUND))?;
        let mut memory = VmMemory::new_zeroed();
        memory.private = (info.memory.get() / 2).into();
        Ok(memory)
    }

    fn clone_vm(&mut self, request: &Cloning<'_>) -> Answer<(u64, u64)> {
        let source = *self.get(request.source)?;
        if !(1..=MAX_CLONES).contains(&request.count) || !is_config(request.config) {
            return Err(Refused(status::INVALID));
        }
        if self.entries.len() + request.count as usize > MAX_VMS {
            return Err(Refused(status::TOO_MANY));
        }
        let begin = if request.name.is_empty() { name_text(&source.name) } else { request.name };
        let name = |index| if request.count == 1 { begin.into() } else { format!("{begin}-{index}") };
        for index in 1..=request.count {
            if !is_name(&name(index)) {
                return Err(Refused(status::INVALID));
            }
            if self.is_taken(&name(index)) {
                return Err(Refused(status::NAME_TAKEN));
            }
        }
        let first = self.last + 1;
        for index in 1..=request.count {
            let model = VmInfo { source: source.id, index: index.into(), ..source };
            self.add(model, &name(index), STATE_RUNNING);
        }
        Ok((first, self.last))
    }

    fn freeze(&mut self, id: u64) -> Answer<()> {
        self.change(id, STATE_RUNNING, STATE_FROZEN)
    }

    fn unfreeze(&mut self, id: u64) -> Answer<()> {
        self.change(id, STATE_FROZEN, STATE_RUNNING)
    }

    fn destroy(&mut self, id: u64) -> Answer<()> {
        self.get(id)?;
        self.entries.remove(&id);
        Ok(())
    }

    fn snapshot(&mut self, id: u64, name: &str) -> Answer<u64> {
        let source = *self.get(id)?;
        if !is_name(name) {
            return Err(Refused(status::INVALID));
        }
        if self.is_taken(name) {
            return Err(Refused(status::NAME_TAKEN));
        }
        if self.entries.len() >= MAX_VMS {
            return Err(Refused(status::TOO_MANY));
        }
        Ok(self.add(VmInfo { source: source.id, ..source }, name, STATE_SNAPSHOT))
    }

    fn revert(&mut self, id: u64, snapshot: u64) -> Answer<()> {
        let kept = *self.get(snapshot)?;
        let vm = self.get(id)?;
        if kept.state.get() != STATE_SNAPSHOT || vm.state.get() == STATE_SNAPSHOT || kept.family != vm.family {
            return Err(Refused(status::WRONG_STATE));
        }
        vm.state = STATE_RUNNING.into();
        Ok(())
    }
}
