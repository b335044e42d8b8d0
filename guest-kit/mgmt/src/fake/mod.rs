//! A hypervisor that is only a list. Before: tests, and the guest on plain QEMU. After: nothing.
//!
//! It keeps the rules that clients see (names are unique, identifiers are never used twice, states allow or forbid) and
//! no more: no VM of it runs. [`images`] are what VMs are made from, [`machine`] is what one VM has, [`flash`] is what it starts
//! from.

pub mod flash;
pub mod images;
pub mod machine;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;

use salp_hvc::agent::{AGENT_APPLICATION, AGENT_VERSION, AGENT_WATCHES, AgentInfo};
use salp_hvc::calls::{
    MAX_CLONES, MachineInfo, NAME, STATE_FROZEN, STATE_OFF, STATE_RUNNING, STATE_SNAPSHOT, VmInfo, VmMemory,
};
use salp_hvc::events::{self, EventRecord};
use salp_hvc::manager::{
    CONSOLE_SIZE, ImageInfo, LINK_DISCONNECTED, LINK_QUARANTINED, LINK_UP, MAX_RECORD, NicChange, NicInfo, RECORDS,
};
use salp_hvc::status;
use salp_hvc::update::UpdateInfo;
use zerocopy::FromZeros;

use crate::hypervisor::{
    Answer, Cloning, Cpu, HandOvers, Heard, Hypervisor, Label, MachinePower, Refused, Signal, SlotChange, Usage,
    is_config, is_name, name_text, padded,
};
use flash::Flash;
use images::Images;
use machine::{Console, Machine};

/// The greatest number of VMs and snapshots.
pub const MAX_VMS: usize = 1000;
/// The room for images, in bytes, unless it is said.
const IMAGE_ROOM: usize = 64 << 20;
/// How much more than a console keeps it takes at once.
const KEYS: usize = 1024;

/// VMs as entries of a list.
#[derive(Debug)]
pub struct Fake {
    entries: BTreeMap<u64, Machine>,
    last: u64,
    images: Images,
    records: BTreeMap<u64, Vec<u8>>,
    log: Console,
    clock: u64,
    events: VecDeque<EventRecord>,
    told: u64,
    /// What it starts from.
    pub flash: Flash,
    /// What is told of the watchdog: `WATCHDOG_…` bits.
    pub watchdog: u32,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new(IMAGE_ROOM)
    }
}

#[cfg(test)]
std::thread_local! {
    /// How often a test's thread has begun to look at all images.
    pub static LOOKS: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

/// Returns what an agent tells of a guest with this MAC address.
fn agent(mac: &[u8; 6]) -> AgentInfo {
    let mut told = AgentInfo::new_zeroed();
    told.report.version = AGENT_VERSION.into();
    told.report.flags = (AGENT_WATCHES | AGENT_APPLICATION).into();
    told.report.host_name = padded("web.example");
    told.report.nics[0].mac = *mac;
    told.report.nics[0].ipv4 = [10, 0, 0, 3];
    told.report.nics[0].ipv6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    told.heartbeats = 1.into();
    told
}

/// The entry that is this VM itself.
const OWN: u64 = 1;

impl Fake {
    /// Returns a machine with a VM `web` that runs and has a NIC, like this VM itself, a VM `base` that is frozen, and room for so many bytes of
    /// images.
    pub fn new(room: usize) -> Self {
        let mut fake = Self {
            entries: BTreeMap::new(),
            last: 0,
            images: Images::new(room),
            records: BTreeMap::new(),
            log: Console::default(),
            clock: 1_000_000_000,
            events: VecDeque::new(),
            told: 0,
            flash: Flash::default(),
            watchdog: 0,
        };
        fake.log.write(b"7 ready\n8 mgmt: crashed: taken back to its checkpoint (1)\n");
        let manager = fake.boot("mgmt", 32 << 20, STATE_RUNNING);
        debug_assert_eq!(manager, OWN);
        let web = fake.boot("web", 512 << 20, STATE_RUNNING);
        fake.boot("base", 256 << 20, STATE_FROZEN);
        for (id, address) in [(manager, 1), (web, 2)] {
            let Some(machine) = fake.entries.get_mut(&id) else { continue };
            let mut nic = NicInfo::new_zeroed();
            (nic.segment, nic.mac, nic.ipv4) = (padded("lan"), machine.info.mac, [10, 0, 0, address]);
            nic.link = LINK_UP.into();
            machine.nics.push(nic);
            machine.info.nics = 1.into();
        }
        if let Some(web) = fake.entries.get_mut(&web) {
            web.console.write(b"web login: ");
            web.agent = agent(&web.info.mac);
        }
        fake
    }

    fn boot(&mut self, name: &str, memory: u64, state: u32) -> u64 {
        let mut info = VmInfo::new_zeroed();
        info.family = (self.last + 1).into();
        info.vcpus = 1.into();
        info.memory = memory.into();
        let (medium, agent) = (None, AgentInfo::new_zeroed());
        let model = Machine { info, nics: Vec::new(), images: Vec::new(), medium, console: Console::default(), agent };
        self.add(model, name, state)
    }

    /// Adds an entry like `model` with an identity of its own.
    fn add(&mut self, model: Machine, name: &str, state: u32) -> u64 {
        self.last += 1;
        let mut machine = model;
        machine.agent = AgentInfo::new_zeroed();
        let info = &mut machine.info;
        info.id = self.last.into();
        info.name = padded(name);
        info.uuid = u128::from(self.last).to_be_bytes();
        info.uuid[6] = 0x40;
        info.uuid[8] = 0x80;
        info.mac = [0x52, 0x54, 0, 0, (self.last >> 8) as u8, self.last as u8];
        info.state = state.into();
        for (index, nic) in machine.nics.iter_mut().enumerate() {
            nic.mac = [0x52, 0x54, 0, index as u8, (self.last >> 8) as u8, self.last as u8];
        }
        self.entries.insert(self.last, machine);
        let kind = if state == STATE_SNAPSHOT { events::SNAPSHOT } else { events::CREATED };
        self.tell(self.last, kind, 0);
        self.last
    }

    /// Tells what became of a VM. There is no clock here: all happens at once.
    pub(crate) fn tell(&mut self, vm: u64, kind: u32, detail: u32) {
        self.told += 1;
        let name = self.entries.get(&vm).map_or([0; NAME], |machine| machine.info.name);
        let (number, kind, detail) = (self.told.into(), kind.into(), detail.into());
        self.events.push_back(EventRecord { number, time: 0.into(), vm: vm.into(), kind, detail, name });
        if self.events.len() > events::KEPT {
            self.events.pop_front();
        }
    }

    fn get(&mut self, id: u64) -> Answer<&mut Machine> {
        if id == OWN {
            return Err(Refused(status::INVALID));
        }
        self.entries.get_mut(&id).ok_or(Refused(status::NOT_FOUND))
    }

    /// Returns how many VMs are made from an image, and drives have it.
    fn users(&self, image: u64) -> u32 {
        let uses =
            |machine: &Machine| u32::from(machine.images.contains(&image)) + u32::from(machine.medium == Some(image));
        self.entries.values().map(uses).sum()
    }

    fn is_taken(&self, name: &str) -> bool {
        self.entries.values().any(|machine| name_text(&machine.info.name) == name)
    }

    fn change_state(&mut self, id: u64, from: &[u32], to: u32, (kind, detail): (u32, u32)) -> Answer<()> {
        let info = &mut self.get(id)?.info;
        if !from.contains(&info.state.get()) {
            return Err(Refused(status::WRONG_STATE));
        }
        info.state = to.into();
        self.tell(id, kind, detail);
        Ok(())
    }

    /// Gives a VM what a description says.
    fn describe(&mut self, id: u64, description: machine::Description) {
        let Some(machine) = self.entries.get_mut(&id) else { return };
        machine.info.vcpus = description.vm.vcpus;
        machine.info.memory = description.vm.memory;
        machine.info.name = description.vm.name;
        machine.info.nics = (description.nics.len() as u32).into();
        let mac = machine.info.mac;
        machine.nics = description.nics.iter().map(machine::nic).collect();
        for (index, nic) in machine.nics.iter_mut().enumerate().filter(|(_, nic)| nic.mac == [0; 6]) {
            nic.mac = mac;
            nic.mac[3] = index as u8;
        }
        machine.images = description.images;
    }
}

/// States of VMs that are not off.
const ALIVE: [u32; 2] = [STATE_RUNNING, STATE_FROZEN];

impl Hypervisor for Fake {
    fn own_uuid(&self) -> Option<[u8; 16]> {
        self.entries.get(&OWN).map(|machine| machine.info.uuid)
    }

    fn machine(&self) -> Answer<MachineInfo> {
        let mut info = MachineInfo::new_zeroed();
        info.total = (4 << 30).into();
        info.free = (3 << 30).into();
        info.vms = (self.entries.len() as u32).into();
        info.watchdog = self.watchdog.into();
        Ok(info)
    }

    fn next(&self, after: u64) -> Answer<VmInfo> {
        let from = after.checked_add(1).ok_or(Refused(status::NOT_FOUND))?;
        self.entries.range(from..).next().map(|(_, machine)| machine.info).ok_or(Refused(status::NOT_FOUND))
    }

    fn memory(&self, id: u64) -> Answer<VmMemory> {
        let machine = self.entries.get(&id).ok_or(Refused(status::NOT_FOUND))?;
        let mut memory = VmMemory::new_zeroed();
        memory.private = (machine.info.memory.get() / 2).into();
        Ok(memory)
    }

    fn clone_vm(&mut self, request: &Cloning<'_>) -> Answer<(u64, u64)> {
        let source = self.get(request.source)?.clone();
        let is_one = request.count == 1 || request.uuid.is_none();
        if !(1..=MAX_CLONES).contains(&request.count) || !is_one || !is_config(request.config) {
            return Err(Refused(status::INVALID));
        }
        if source.info.state.get() == STATE_OFF {
            return Err(Refused(status::WRONG_STATE));
        }
        if self.entries.len() + request.count as usize > MAX_VMS {
            return Err(Refused(status::TOO_MANY));
        }
        let begin = if request.name.is_empty() { name_text(&source.info.name) } else { request.name };
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
            let mut model = source.clone();
            (model.info.source, model.info.index) = (source.info.id, index.into());
            let link = if request.disconnected { LINK_DISCONNECTED | LINK_QUARANTINED } else { LINK_QUARANTINED };
            model.nics.iter_mut().for_each(|nic| nic.link = link.into());
            let id = self.add(model, &name(index), STATE_RUNNING);
            if let (Some(uuid), Some(machine)) = (request.uuid, self.entries.get_mut(&id)) {
                machine.info.uuid = uuid;
            }
        }
        Ok((first, self.last))
    }

    fn freeze(&mut self, id: u64) -> Answer<()> {
        self.change_state(id, &[STATE_RUNNING], STATE_FROZEN, (events::FROZEN, 0))
    }

    fn unfreeze(&mut self, id: u64) -> Answer<()> {
        self.change_state(id, &[STATE_FROZEN], STATE_RUNNING, (events::UNFROZEN, 0))
    }

    fn destroy(&mut self, id: u64) -> Answer<()> {
        let is_snapshot = self.get(id)?.info.state.get() == STATE_SNAPSHOT;
        self.tell(id, if is_snapshot { events::DELETED } else { events::DESTROYED }, 0);
        self.entries.remove(&id);
        Ok(())
    }

    fn snapshot(&mut self, id: u64, name: &str) -> Answer<u64> {
        let source = self.get(id)?.clone();
        if !is_name(name) {
            return Err(Refused(status::INVALID));
        }
        if source.info.state.get() == STATE_OFF {
            return Err(Refused(status::WRONG_STATE));
        }
        if self.is_taken(name) {
            return Err(Refused(status::NAME_TAKEN));
        }
        if self.entries.len() >= MAX_VMS {
            return Err(Refused(status::TOO_MANY));
        }
        let mut kept = source;
        kept.info.source = id.into();
        Ok(self.add(kept, name, STATE_SNAPSHOT))
    }

    fn revert(&mut self, id: u64, snapshot: u64) -> Answer<()> {
        let kept = self.get(snapshot)?.info;
        let vm = &mut self.get(id)?.info;
        if kept.state.get() != STATE_SNAPSHOT || vm.state.get() == STATE_SNAPSHOT || kept.family != vm.family {
            return Err(Refused(status::WRONG_STATE));
        }
        vm.state = STATE_RUNNING.into();
        self.tell(id, events::REVERTED, 0);
        Ok(())
    }

    fn create(&mut self, description: &[u8]) -> Answer<u64> {
        let description = machine::describe(description, &self.images)?;
        let name = description.vm.name;
        if self.is_taken(name_text(&name)) {
            return Err(Refused(status::NAME_TAKEN));
        }
        if self.entries.len() >= MAX_VMS {
            return Err(Refused(status::TOO_MANY));
        }
        let id = self.boot(name_text(&name), 0, STATE_OFF);
        self.describe(id, description);
        Ok(id)
    }

    fn change(&mut self, id: u64, description: &[u8]) -> Answer<()> {
        let description = machine::describe(description, &self.images)?;
        let old = self.get(id)?.info;
        if old.state.get() != STATE_OFF {
            return Err(Refused(status::WRONG_STATE));
        }
        if old.name != description.vm.name && self.is_taken(name_text(&description.vm.name)) {
            return Err(Refused(status::NAME_TAKEN));
        }
        self.describe(id, description);
        self.tell(id, events::CHANGED, 0);
        Ok(())
    }

    fn start(&mut self, id: u64) -> Answer<()> {
        self.change_state(id, &[STATE_OFF], STATE_RUNNING, (events::STARTED, 0))?;
        let machine = self.get(id)?;
        (machine.console, machine.agent) = (Console::default(), AgentInfo::new_zeroed());
        Ok(())
    }

    fn stop(&mut self, id: u64) -> Answer<()> {
        self.change_state(id, &ALIVE, STATE_OFF, (events::STOPPED, 0))
    }

    fn reset(&mut self, id: u64) -> Answer<()> {
        self.change_state(id, &ALIVE, STATE_RUNNING, (events::RESET, events::AFTER_AGAIN))?;
        self.get(id)?.agent = AgentInfo::new_zeroed();
        Ok(())
    }

    fn signal(&mut self, id: u64, signal: Signal) -> Answer<()> {
        let (to, what) = match signal {
            Signal::Shutdown => (STATE_OFF, (events::OFF, events::AFTER_OFF)),
            Signal::Restart => (STATE_RUNNING, (events::RESTARTED, events::AFTER_AGAIN)),
        };
        self.change_state(id, &[STATE_RUNNING], to, what)
    }

    fn nic(&self, id: u64, index: u64) -> Answer<NicInfo> {
        let machine = self.entries.get(&id).ok_or(Refused(status::NOT_FOUND))?;
        let index = usize::try_from(index).map_err(|_| Refused(status::NOT_FOUND))?;
        machine.nics.get(index).copied().ok_or(Refused(status::NOT_FOUND))
    }

    fn agent(&self, id: u64) -> Answer<AgentInfo> {
        self.entries.get(&id).map(|machine| machine.agent).ok_or(Refused(status::NOT_FOUND))
    }

    fn change_nic(&mut self, id: u64, index: u64, change: &NicChange) -> Answer<()> {
        let nic = usize::try_from(index).ok().and_then(|index| self.get(id).ok()?.nics.get_mut(index));
        let nic = nic.ok_or(Refused(status::NOT_FOUND))?;
        if change.segment != [0; 16] {
            (nic.segment, nic.vlan, nic.vlans) = (change.segment, change.vlan, change.vlans);
        }
        nic.rate = change.rate;
        let quarantined = nic.link.get() & LINK_QUARANTINED;
        nic.link = match (change.connected.get(), quarantined) {
            (0, _) => LINK_DISCONNECTED | quarantined,
            (_, 0) => LINK_UP,
            _ => quarantined,
        }
        .into();
        self.tell(id, events::NIC_CHANGED, index as u32);
        Ok(())
    }

    fn create_image(&mut self, size: u64, label: &Label) -> Answer<u64> {
        self.images.create(size, label)
    }

    fn write_image(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        self.images.write(id, offset, bytes)
    }

    fn read_image(&self, id: u64, offset: u64, bytes: &mut [u8]) -> Answer<()> {
        self.images.read(id, offset, bytes)
    }

    fn finish_image(&mut self, id: u64) -> Answer<()> {
        self.images.finish(id)
    }

    fn delete_image(&mut self, id: u64) -> Answer<()> {
        if self.users(id) > 0 {
            return Err(Refused(status::IN_USE));
        }
        self.images.delete(id)
    }

    fn next_image(&self, after: u64) -> Answer<ImageInfo> {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + u32::from(after == 0));
        let mut info = self.images.next(after)?;
        let id = info.id.get();
        info.users = self.users(id).into();
        Ok(info)
    }

    fn label_image(&mut self, id: u64, label: &Label) -> Answer<()> {
        self.images.label(id, label)
    }

    fn read_console(&self, id: u64, position: u64, bytes: &mut [u8]) -> Answer<Heard> {
        let machine = self.entries.get(&id).ok_or(Refused(status::NOT_FOUND))?;
        Ok(machine.console.read(position, bytes))
    }

    fn write_console(&mut self, id: u64, bytes: &[u8]) -> Answer<usize> {
        const { assert!(KEYS < CONSOLE_SIZE) }
        let machine = self.get(id)?;
        if machine.info.state.get() != STATE_RUNNING {
            return Ok(0);
        }
        let taken = bytes.len().min(KEYS);
        machine.console.write(&bytes[..taken]);
        Ok(taken)
    }

    fn keep(&mut self, record: u64, bytes: &[u8]) -> Answer<()> {
        if record >= RECORDS || bytes.len() as u64 > MAX_RECORD {
            return Err(Refused(status::INVALID));
        }
        if bytes.is_empty() {
            self.records.remove(&record);
        } else {
            self.records.insert(record, bytes.to_vec());
        }
        Ok(())
    }

    fn recall(&self, record: u64, bytes: &mut [u8]) -> Answer<usize> {
        let Some(kept) = self.records.get(&record) else { return Ok(0) };
        bytes.get_mut(..kept.len()).ok_or(Refused(status::INVALID))?.copy_from_slice(kept);
        Ok(kept.len())
    }

    fn medium(&self, id: u64) -> Answer<Option<u64>> {
        self.entries.get(&id).map(|machine| machine.medium).ok_or(Refused(status::NOT_FOUND))
    }

    fn change_medium(&mut self, id: u64, image: Option<u64>) -> Answer<()> {
        if image.is_some_and(|image| !self.images.is_finished(image, 1)) {
            return Err(Refused(status::WRONG_STATE));
        }
        self.get(id)?.medium = image;
        Ok(())
    }

    fn start_from(&mut self, id: u64, description: &[u8], _: bool) -> Answer<()> {
        machine::describe(description, &self.images)?;
        self.start(id)?;
        self.get(id)?.console.write(b"started from something else");
        Ok(())
    }

    fn clock(&mut self, time: Option<u64>) -> Answer<u64> {
        self.clock = time.unwrap_or(self.clock);
        Ok(self.clock)
    }

    fn read_log(&self, position: u64, bytes: &mut [u8]) -> Answer<Heard> {
        Ok(self.log.read(position, bytes))
    }

    fn power(&mut self, how: MachinePower) -> Answer<()> {
        if how == MachinePower::Reset {
            self.flash.reset();
        }
        let vms = self.entries.iter_mut().filter(|(id, _)| **id != OWN);
        vms.for_each(|(_, machine)| machine.info.state = STATE_OFF.into());
        Ok(())
    }

    fn slots(&self) -> Answer<UpdateInfo> {
        Ok(self.flash.info)
    }

    fn begin_update(&mut self, _: u64) -> Answer<()> {
        self.flash.begin()
    }

    fn write_update(&mut self, bytes: &[u8]) -> Answer<usize> {
        self.flash.write(bytes)
    }

    fn change_slots(&mut self, change: SlotChange) -> Answer<()> {
        self.flash.change(change)
    }

    fn hand_over(&mut self) -> Answer<()> {
        self.flash.hand_over()
    }

    fn hand_overs(&self) -> Answer<HandOvers> {
        Ok(self.flash.hand_overs)
    }

    fn confirm_hand_over(&mut self) -> Answer<()> {
        Ok(())
    }

    fn cpu(&self, index: u64) -> Answer<Cpu> {
        if index == 0 { Ok(Cpu { model: 0x410f_d0c1, affinity: 0 }) } else { Err(Refused(status::NOT_FOUND)) }
    }

    fn usage(&self, id: u64) -> Answer<Usage> {
        // None of them runs.
        self.entries.get(&id).map(|_| Usage::default()).ok_or(Refused(status::NOT_FOUND))
    }

    fn events(&self, from: u64, room: &mut [EventRecord]) -> Answer<(usize, u64)> {
        let left = self.events.iter().filter(|event| event.number.get() >= from);
        let count = left.zip(room.iter_mut()).map(|(event, place)| *place = *event).count();
        let last = count.checked_sub(1).and_then(|last| room.get(last));
        Ok((count, last.map_or(self.told + 1, |event| event.number.get() + 1)))
    }
}
