//! A VM: core's parts put together, from a boot set's description to its last frame. [`life`] says when it runs;
//! [`crate::fork`] makes one out of another; [`crate::operation`] is what is done to one from outside.

mod life;
mod record;

pub use life::{Fate, Freezer, hold};
pub use record::{Records, sheets};

use crate::console::LineBuffer;
use crate::images;
use crate::machine::{self, Machine, Store};
use crate::net::{self, Nics};
use crate::operation::{Answer, Asker, Ticket};
use crate::watch::Watch;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use salp_core::addr::Pa;
use salp_core::agent::{Agent, Teller};
use salp_core::bootset::VmSpec;
use salp_core::calls::psci::Power;
use salp_core::context::Context;
use salp_core::dev::drive::Drive;
use salp_core::dev::net::Nic;
use salp_core::dev::pl011::Pl011;
use salp_core::dev::pl031::Pl031;
use salp_core::dev::pl061::Pl061;
use salp_core::directory::{Place, PlaceError};
use salp_core::frames::{FrameStore, Kind, OutOfMemory};
use salp_core::identity::{Identity, Name};
use salp_core::sched::{VCPUS_PER_VM, VcpuRef};
use salp_core::scrollback::{PAGE, Scrollback};
use salp_core::stage2::{AddressSpace, CreateError, Fault, MapError, MemAttr, Policy};
use salp_core::vgic::{VcpuSet, Vgic};
use salp_hvc::agent::AgentInfo;
use salp_hvc::status;
use salp_hw::lock::Mutex;
use salp_hw::memory::{Ram, VmTlb};
use salp_hw::own::Own;
use zerocopy::FromZeros;

/// The devices of a VM that are emulated, and what goes with them.
pub struct Devices {
    /// The console.
    pub uart: Pl011,
    /// The clock.
    pub rtc: Pl031,
    /// The power button.
    pub gpio: Pl061,
    /// The drive.
    pub drive: Drive,
    /// The line that the console is writing.
    pub line: LineBuffer,
    /// Reads of the console's registers since it last wrote.
    pub polls: u8,
    /// What the console has written.
    pub written: Scrollback<Own<[u8; PAGE]>>,
    /// A key waits for room in the console's FIFO.
    pub typing_stalled: bool,
}

impl Devices {
    /// Returns the devices of a clone: what the source has written, or begun to write, is the source's alone.
    pub fn for_clone(&self) -> Self {
        Self {
            uart: self.uart.clone(),
            rtc: self.rtc.clone(),
            gpio: self.gpio.released(),
            drive: self.drive.clone(),
            line: LineBuffer::EMPTY,
            written: Scrollback::EMPTY,
            ..*self
        }
    }

    /// Takes over the state of others. What was written was written.
    pub fn become_like(&mut self, others: &Self) {
        let written = core::mem::take(&mut self.written);
        *self = Self { written, ..others.for_clone() };
    }
}

/// One virtual CPU.
pub struct Vcpu {
    /// Its registers. Whoever holds the lock runs it.
    pub context: Mutex<Context>,
    /// The answer to the call that it waits for.
    pub answer: Mutex<Option<Answer>>,
    /// How often it came back to EL2. Written by the CPU that runs it.
    pub exits: AtomicU64,
    /// For how long it ran, in ticks.
    ran: AtomicU64,
    /// For how long it waited for a CPU that it had to leave, in ticks.
    waited: AtomicU64,
    /// When it had to leave; 0 if it did not.
    left: AtomicU64,
}

impl Vcpu {
    /// Returns a vCPU with these registers.
    #[inline(always)]
    pub fn new(context: Context) -> Self {
        let zero = || AtomicU64::new(0);
        let (exits, ran, waited, left) = (zero(), zero(), zero(), zero());
        Self { context: Mutex::new(context), answer: Mutex::new(None), exits, ran, waited, left }
    }

    /// Returns for how long it ran and waited, and when it had to leave, in ticks.
    pub fn usage(&self) -> [u64; 3] {
        [&self.ran, &self.waited, &self.left].map(|time| time.load(Ordering::Relaxed))
    }

    /// Goes on from such times.
    pub fn resume_usage(&self, [ran, waited, left]: [u64; 3]) {
        self.ran.store(ran, Ordering::Relaxed);
        self.waited.store(waited, Ordering::Relaxed);
        self.left.store(left, Ordering::Relaxed);
    }

    /// Notes that it comes to a CPU.
    pub fn comes(&self, now: u64) {
        let left = self.left.swap(0, Ordering::Relaxed);
        if left != 0 {
            self.waited.fetch_add(now.saturating_sub(left), Ordering::Relaxed);
        }
    }

    /// Returns true if it would run, and has no CPU.
    pub fn waits(&self) -> bool {
        self.left.load(Ordering::Relaxed) != 0
    }

    /// Notes that it leaves a CPU after so many ticks, though it would go on or not.
    pub fn leaves(&self, now: u64, ran: u64, would_go_on: bool) {
        self.ran.fetch_add(ran, Ordering::Relaxed);
        self.left.store(if would_go_on { now.max(1) } else { 0 }, Ordering::Relaxed);
    }
}

/// One virtual machine.
pub struct Vm {
    /// Its place in the table of VMs.
    pub slot: usize,
    /// Its identifier, never used again.
    pub id: u64,
    /// The VM that it is a clone or snapshot of, or 0.
    pub source: u64,
    /// The VM that was not made out of another and that it descends from.
    pub family: u64,
    /// The place where the members of its family are counted.
    pub kin: usize,
    name: Name,
    /// Where it comes from: kept for a restart.
    pub spec: VmSpec,
    /// What it is by itself, if `spec` is for this life only, or (true) until it is off.
    pub own: Option<(VmSpec, bool)>,
    /// Its memory; none while it is off, and between the end of one life and the start of the next.
    pub memory: Mutex<Option<AddressSpace>>,
    /// Its interrupt controller.
    pub vgic: Own<Mutex<Vgic>>,
    /// Which vCPUs are on.
    pub power: Mutex<Power>,
    /// Its devices.
    pub devices: Mutex<Devices>,
    /// Its NICs.
    nics: Option<Own<Mutex<Nics>>>,
    /// Which of them have frames that the guest does not tell of again, one bit each.
    senders: AtomicU32,
    /// Who it is.
    pub identity: Mutex<Identity>,
    /// What its guest's agent has told.
    agent: Mutex<Option<Own<Agent>>>,
    /// What is to be done when it stands still.
    pub pending: Mutex<Option<Ticket>>,
    /// An operation has it.
    pub is_busy: AtomicBool,
    /// How often it has started again, or was taken back to its checkpoint.
    pub life: AtomicU32,
    /// What EL2 watches over.
    pub watch: Watch,
    /// Who pressed its power button wants it to start again when it is off.
    pub starts_again: AtomicBool,
    /// Who waits for its end.
    pub mourner: Mutex<Asker>,
    /// Its vCPUs.
    vcpus: [Option<Own<Vcpu>>; VCPUS_PER_VM],
    /// [`Fate`] and [`hold`].
    control: AtomicU32,
    freezer: Mutex<Option<Freezer>>,
    /// While an operation has it: the counter when that began; else how long it took, in ticks.
    pause: AtomicU64,
    /// How many frames are set aside for it whatever it shares.
    reserve: AtomicU64,
    /// The number in the name of the last clone that was named after it.
    pub last_number: AtomicU64,
    /// Its memory was sealed since it was frozen.
    is_sealed: AtomicBool,
    vttbr: AtomicU64,
    counter_offset: AtomicU64,
}

/// What a VM gets that is made out of another one, by [`Vm::put_together`].
pub struct Parts {
    /// Its memory; none for one that is off at first.
    pub memory: Option<AddressSpace>,
    /// Its interrupt controller.
    pub vgic: Own<Mutex<Vgic>>,
    /// Its vCPUs.
    pub vcpus: [Option<Own<Vcpu>>; VCPUS_PER_VM],
    /// Which of them are on.
    pub power: Power,
    /// Its devices.
    pub devices: Devices,
    /// Its NICs.
    pub nics: Option<Own<Mutex<Nics>>>,
    /// Who it is.
    pub identity: Identity,
    /// The VM that it is made of, and the first one of their family; 0 and its own for a new one.
    pub source: u64,
    /// As said.
    pub family: u64,
    /// Where the members of the family are counted.
    pub kin: usize,
    /// What is subtracted from the counter.
    pub counter_offset: u64,
    /// Why it does not run: [`hold`].
    pub holds: u32,
    /// Who froze it from inside.
    pub freezer: Option<Freezer>,
}

/// The frames of a VM's own records: taken before anything else, so that what follows cannot run out of them.
pub struct VmFrames(heapless::Vec<Pa, { VCPUS_PER_VM + 3 }>);

impl VmFrames {
    /// Takes the frames of a VM with so many vCPUs, and NICs or none.
    ///
    /// # Errors
    ///
    /// There are not enough; none is taken.
    pub fn take(vcpus: usize, has_nics: bool) -> Result<Self, OutOfMemory> {
        let mut taken = Self(heapless::Vec::new());
        let result = Store.with(|frames| {
            (0..vcpus.min(VCPUS_PER_VM) + 2 + usize::from(has_nics)).try_for_each(|_| {
                let _ = taken.0.push(frames.alloc(Kind::Hyp)?);
                Ok(())
            })
        });
        match result {
            Ok(()) => Ok(taken),
            Err(error) => {
                taken.give_back();
                Err(error)
            }
        }
    }

    /// Puts `value` into one of them.
    #[inline(always)]
    pub fn fill<T>(&mut self, value: T) -> Own<T> {
        Own::new(self.0.pop().expect("one for the VM, its vGIC, its NICs, each vCPU"), value)
    }

    /// Gives back those that are left.
    pub fn give_back(self) {
        Store.with(|frames| self.0.into_iter().for_each(|frame| frames.free(frame)));
    }
}

/// Why a VM cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmError {
    /// No frame is free.
    OutOfMemory,
    /// There are as many VMs as the machine has identifiers for.
    TooMany,
    /// The boot set's segments do not fit.
    Image(MapError),
    /// Its RAM makes no sense.
    BadRam,
    /// Another one has its name.
    NameTaken,
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("the machine has no memory left for it"),
            Self::TooMany => f.write_str("there are too many VMs"),
            Self::Image(error) => write!(f, "its image cannot be mapped: {error:?}"),
            Self::BadRam => f.write_str("its RAM is empty or too large"),
            Self::NameTaken => f.write_str("there is another VM of this name"),
        }
    }
}

impl VmError {
    /// Returns the status that says this to a manager.
    pub const fn status(self) -> i64 {
        match self {
            Self::OutOfMemory => status::NO_MEMORY,
            Self::TooMany => status::TOO_MANY,
            Self::Image(_) | Self::BadRam => status::INVALID,
            Self::NameTaken => status::NAME_TAKEN,
        }
    }
}

impl From<PlaceError> for VmError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::TooMany => Self::TooMany,
            PlaceError::NameTaken => Self::NameTaken,
        }
    }
}

impl From<OutOfMemory> for VmError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Gives a value and its frame back.
fn free<T>(own: Own<T>) {
    let frame = own.release();
    Store.with(|frames| frames.free(frame));
}

fn new_vgic(vcpus: usize) -> Vgic {
    let mut vgic = Vgic::new(vcpus);
    // The two EL1 timers are the physical ones, passed through.
    for timer in [salp_hw::gic::VIRTUAL_TIMER, salp_hw::gic::PHYSICAL_TIMER] {
        vgic.map_hw(timer, timer);
    }
    vgic
}

impl Vm {
    /// Makes the VM that `spec` describes. It does not run yet, and may be off at first.
    ///
    /// # Errors
    ///
    /// Says what is missing; everything taken is given back.
    pub fn new(machine: &Machine, place: Place, identity: Identity, spec: &VmSpec) -> Result<Own<Self>, VmError> {
        let has_nics = spec.nics().next().is_some();
        let mut frames = VmFrames::take(spec.vcpus(), has_nics)?;
        let memory = if spec.starts_off() { Ok(None) } else { Self::load(machine, spec).map(Some) };
        let memory = match memory {
            Ok(memory) => memory,
            Err(error) => {
                frames.give_back();
                return Err(error);
            }
        };
        let parts = Parts {
            memory,
            vgic: frames.fill(Mutex::new(new_vgic(spec.vcpus()))),
            vcpus: core::array::from_fn(|index| {
                (index < spec.vcpus()).then(|| frames.fill(Vcpu::new(Context::default())))
            }),
            power: Power::new(spec.vcpus()),
            devices: Devices {
                uart: Pl011::new(),
                rtc: Pl031::new(machine::wall_clock()),
                gpio: Pl061::new(),
                drive: Drive::default(),
                line: LineBuffer::EMPTY,
                written: Scrollback::EMPTY,
                typing_stalled: false,
                polls: 0,
            },
            nics: has_nics.then(|| frames.fill(Mutex::new(net::new_nics(spec, &identity)))),
            identity,
            source: 0,
            family: place.id,
            kin: 0,
            counter_offset: salp_hw::cpu::counter(),
            holds: match () {
                () if spec.starts_off() => hold::OFF,
                () if spec.starts_frozen() => hold::FROZEN,
                () => 0,
            },
            freezer: None,
        };
        let vm = frames.fill(Self::put_together(machine, place, spec, parts));
        frames.give_back();
        vm.reset_vcpus();
        Ok(vm)
    }

    /// Gives what the agent of the guest that this VM is now tells, and when, to who takes it.
    ///
    /// # Errors
    ///
    /// It is the first of this VM, and there is no memory for what it tells.
    pub fn hear_agent<T>(&self, take: impl FnOnce(&mut Agent, Teller, u64) -> T) -> Result<T, OutOfMemory> {
        let teller = self.teller();
        let mut place = self.agent.lock();
        let agent = match &mut *place {
            Some(agent) => agent,
            None => place.insert(Own::new(Store.with(|frames| frames.alloc(Kind::Hyp))?, Agent::default())),
        };
        Ok(take(agent, teller, machine::uptime()))
    }

    /// Returns what the agent of the guest that this VM is now has told.
    pub fn agent_info(&self) -> AgentInfo {
        let teller = self.teller();
        let info = |agent: &Own<Agent>| agent.info(teller, machine::uptime());
        self.agent.lock().as_ref().map_or(AgentInfo::new_zeroed(), info)
    }

    fn teller(&self) -> Teller {
        Teller { epoch: self.identity.lock().epoch, life: self.life.load(Ordering::Relaxed) }
    }

    /// Makes a VM of its parts. It does not run yet.
    #[inline(always)]
    pub fn put_together(machine: &Machine, place: Place, spec: &VmSpec, parts: Parts) -> Self {
        let vttbr = parts.memory.as_ref().map_or(0, |memory| vttbr(machine, place.slot, memory.root()));
        Self {
            slot: place.slot,
            id: place.id,
            source: parts.source,
            family: parts.family,
            kin: parts.kin,
            name: parts.identity.name,
            spec: *spec,
            own: None,
            memory: Mutex::new(parts.memory),
            vgic: parts.vgic,
            power: Mutex::new(parts.power),
            devices: Mutex::new(parts.devices),
            // What the queues of a copy held when they were copied, its guest has told of.
            senders: AtomicU32::new(if parts.nics.is_some() { u32::MAX } else { 0 }),
            nics: parts.nics,
            identity: Mutex::new(parts.identity),
            // What the source's agent told is nothing to a copy.
            agent: Mutex::new(None),
            pending: Mutex::new(None),
            // One that an operation holds from the start has not been started by it yet.
            is_busy: AtomicBool::new(parts.holds & hold::OPERATION != 0),
            life: AtomicU32::new(0),
            watch: Watch::new(),
            starts_again: AtomicBool::new(false),
            mourner: Mutex::new(Asker::Nobody),
            vcpus: parts.vcpus,
            control: AtomicU32::new(Fate::Running as u32 | parts.holds),
            freezer: Mutex::new(parts.freezer),
            last_number: AtomicU64::new(0),
            pause: AtomicU64::new(0),
            reserve: AtomicU64::new(0),
            is_sealed: AtomicBool::new(false),
            vttbr: AtomicU64::new(vttbr),
            counter_offset: AtomicU64::new(parts.counter_offset),
        }
    }

    fn reset_vcpus(&self) {
        let (entry, x0) = self.spec.entry();
        // What it waited for is nothing to its next life.
        self.vcpus.iter().flatten().for_each(|vcpu| *vcpu.answer.lock() = None);
        if let Some(first) = self.vcpu(0) {
            *first.context.lock() = Context::reset(entry, x0);
        }
    }

    /// Makes an address space with the VM's segments in it.
    fn load(machine: &Machine, spec: &VmSpec) -> Result<AddressSpace, VmError> {
        let policy = if spec.has_small_pages() { Policy::SmallPages } else { Policy::Blocks };
        let attr = if machine.force_write_back { MemAttr::ForcedWriteBack } else { MemAttr::WriteBack };
        let mut memory = AddressSpace::new(&Store, &Ram, spec.ram(), policy, attr).map_err(|error| match error {
            CreateError::BadRange => VmError::BadRam,
            CreateError::OutOfMemory => VmError::OutOfMemory,
        })?;
        for segment in spec.segments() {
            let mapped = if segment.image == 0 {
                let at = Pa(machine.boot_set.0 + segment.offset);
                memory.map_image(&Store, &Ram, segment.ipa, at, segment.length)
            } else {
                images::map(&mut memory, &segment)
            };
            if let Err(error) = mapped {
                memory.destroy(&Store, &Ram, &VmTlb { vttbr: 0 });
                return Err(match error {
                    MapError::OutOfMemory => VmError::OutOfMemory,
                    error => VmError::Image(error),
                });
            }
        }
        Ok(memory)
    }

    /// Returns the VM's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the VM's name, to keep.
    pub fn full_name(&self) -> Name {
        self.name
    }

    /// Returns how many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.spec.vcpus()
    }

    /// Returns its NICs, if it has any.
    pub fn nics(&self) -> Option<&Mutex<Nics>> {
        self.nics.as_deref()
    }

    /// Notes that a NIC has frames that the guest does not tell of again.
    pub fn ask_to_send(&self, nic: usize) {
        self.senders.fetch_or(1 << (nic % 32), Ordering::Release);
    }

    /// Returns true if there are such NICs.
    #[inline]
    pub fn has_senders(&self) -> bool {
        self.senders.load(Ordering::Relaxed) != 0
    }

    /// Takes the set of such NICs, one bit each.
    pub fn take_senders(&self) -> u32 {
        self.senders.swap(0, Ordering::Acquire)
    }

    /// Returns vCPU `index`.
    pub fn vcpu(&self, index: usize) -> Option<&Vcpu> {
        self.vcpus.get(index)?.as_deref()
    }

    /// Returns how often its vCPUs came back to EL2.
    pub fn exits(&self) -> u64 {
        self.vcpus.iter().flatten().map(|vcpu| vcpu.exits.load(Ordering::Relaxed)).sum()
    }

    /// Returns for how long its vCPUs ran, and waited for a CPU that they had to leave, all together, in nanoseconds.
    pub fn usage(&self) -> [u64; 3] {
        let sum = |of: fn(&Vcpu) -> &AtomicU64| {
            let ticks = self.vcpus.iter().flatten().map(|vcpu| of(vcpu).load(Ordering::Relaxed)).sum();
            machine::nanoseconds(ticks)
        };
        [sum(|vcpu| &vcpu.ran), sum(|vcpu| &vcpu.waited), 0]
    }

    /// Sets frames aside for it: so many per cent of its RAM.
    ///
    /// # Errors
    ///
    /// There are not enough.
    pub fn reserve(&self, percent: u32) -> Result<(), OutOfMemory> {
        let mut memory = self.memory.lock();
        let Some(memory) = memory.as_mut() else { return Ok(()) };
        let frames = (memory.full_promise() as u64 * u64::from(percent)).div_ceil(100);
        memory.set_promise(&Store, frames as usize)?;
        self.reserve.store(frames, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what is set aside for copies that nobody needs: it shares nothing any more.
    pub fn promise_no_copies(&self) {
        if let Some(memory) = self.memory.lock().as_mut() {
            let kept = memory.promise().min(self.reserve.load(Ordering::Relaxed) as usize);
            // Less than there was always works.
            let _ = memory.set_promise(&Store, kept);
        }
    }

    /// Returns VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.vttbr.load(Ordering::Relaxed)
    }

    /// Returns CNTVOFF_EL2: the virtual counter starts at 0 with the VM.
    pub fn counter_offset(&self) -> u64 {
        self.counter_offset.load(Ordering::Relaxed)
    }

    /// Sets what is subtracted from the counter. The VM stands still.
    pub fn set_counter_offset(&self, offset: u64) {
        self.counter_offset.store(offset, Ordering::Relaxed);
    }

    /// Returns the VM's TLB entries.
    pub fn tlb(&self) -> VmTlb {
        VmTlb { vttbr: self.vttbr() }
    }

    /// Makes everything as it was in the first state; [`Vm::begin`] starts it. The VM has no vCPU on any CPU.
    ///
    /// # Errors
    ///
    /// There is no memory to load it again.
    pub fn restart(&self, machine: &Machine) -> Result<(), VmError> {
        // What it had comes back first: the machine may have no more than that.
        self.watch.end();
        self.starts_again.store(false, Ordering::Relaxed);
        self.give_memory_back();
        let fresh = Self::load(machine, &self.spec)?;
        let vttbr = vttbr(machine, self.slot, fresh.root());
        *self.memory.lock() = Some(fresh);
        self.vttbr.store(vttbr, Ordering::Relaxed);
        *self.vgic.lock() = new_vgic(self.spec.vcpus());
        *self.power.lock() = Power::new(self.spec.vcpus());
        {
            let mut devices = self.devices.lock();
            devices.uart = Pl011::new();
            devices.typing_stalled = false;
            devices.rtc = Pl031::new(machine::wall_clock());
            devices.gpio = Pl061::new();
            devices.drive.restart();
        }
        if let Some(nics) = self.nics() {
            nics.lock().iter_mut().flatten().for_each(Nic::restart);
        }
        self.counter_offset.store(salp_hw::cpu::counter(), Ordering::Relaxed);
        self.reset_vcpus();
        self.new_life(None);
        Ok(())
    }

    /// Writes the VM generation id where the guest reads it.
    ///
    /// # Errors
    ///
    /// There is no memory for the page.
    pub fn put_identity(&self) -> Result<(), Fault> {
        let generation = self.identity.lock().generation;
        match self.memory.lock().as_mut() {
            Some(memory) => memory.put_identity(&Store, &Ram, &self.tlb(), &generation),
            None => Ok(()),
        }
    }

    /// Gives the memory back.
    pub fn give_memory_back(&self) {
        if let Some(memory) = self.memory.lock().take() {
            memory.destroy(&Store, &Ram, &self.tlb());
        }
    }

    /// Gives everything back.
    pub fn destroy(self) {
        self.watch.end();
        self.give_memory_back();
        self.devices.lock().written.take_pages().for_each(free);
        free(self.vgic);
        self.nics.into_iter().for_each(free);
        self.agent.into_inner().into_iter().for_each(free);
        self.vcpus.into_iter().flatten().for_each(free);
    }

    /// Tells vCPUs that their interrupts changed.
    pub fn notify(&self, set: VcpuSet) {
        if set.is_empty() {
            return;
        }
        let mut kicks = 0;
        {
            let mut scheduler = machine::get().scheduler.lock();
            for index in set.iter() {
                kicks |= scheduler.wake(VcpuRef::new(self.slot, index));
            }
        }
        machine::kick(kicks);
    }
}

/// Gives a VM back that is in no slot any more, and all that it had.
pub fn discard(vm: Own<Vm>) {
    let (vm, frame) = vm.into_inner();
    vm.destroy();
    Store.with(|frames| frames.free(frame));
}

/// Promises an address space that is about to run what it may have to copy because it was forked.
///
/// # Errors
///
/// The machine cannot promise so much.
pub fn promise_shared(memory: &mut AddressSpace) -> Result<(), OutOfMemory> {
    let promise = memory.promise().max(memory.shared_pages());
    memory.set_promise(&Store, promise)
}

/// VTTBR_EL2. VMID 0 stands for "none". CnP: every CPU has the same tables for a VMID, so they may share TLB entries.
fn vttbr(machine: &Machine, slot: usize, root: Pa) -> u64 {
    (slot as u64 + 1) << 48 | root.0 | u64::from(machine.common_not_private)
}

const _: () = assert!(size_of::<Mutex<Nics>>() <= 4096 && size_of::<Vm>() <= 4096 && size_of::<Mutex<Vgic>>() <= 4096);
