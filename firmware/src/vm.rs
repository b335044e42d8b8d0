//! A VM: core's parts put together, from a boot set's description to its last frame.

use crate::console::{LineBuffer, log};
use crate::machine::{self, Machine, Store};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use salp_core::addr::Pa;
use salp_core::bootset::VmSpec;
use salp_core::calls::psci::Power;
use salp_core::context::Context;
use salp_core::dev::pl011::Pl011;
use salp_core::dev::pl031::Pl031;
use salp_core::frames::{FrameStore, Kind, OutOfMemory};
use salp_core::sched::{VCPUS_PER_VM, VcpuRef};
use salp_core::stage2::{AddressSpace, CreateError, MapError, MemAttr, Policy};
use salp_core::vgic::{VcpuSet, Vgic};
use salp_hw::lock::Mutex;
use salp_hw::memory::{Ram, VmTlb};
use salp_hw::own::Own;

/// Where a VM is in its life. Only the vCPU that finds a VM `Running` decides what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Its vCPUs run.
    Running,
    /// It turned itself off.
    Off,
    /// It wants to start again.
    Reset,
    /// It cannot go on.
    Crashed,
    /// Its last vCPU has left; it is being taken down.
    Ending,
}

impl Fate {
    fn of(value: u8) -> Self {
        match value {
            0 => Self::Running,
            1 => Self::Off,
            2 => Self::Reset,
            3 => Self::Crashed,
            _ => Self::Ending,
        }
    }
}

/// The devices of a VM that are emulated, and what goes with them.
pub struct Devices {
    /// The console.
    pub uart: Pl011,
    /// The clock.
    pub rtc: Pl031,
    /// The line that the console is writing.
    pub line: LineBuffer,
    /// Reads of the console's registers since it last wrote.
    pub polls: u8,
    /// A key waits for room in the console's FIFO.
    pub typing_stalled: bool,
}

/// One virtual CPU.
pub struct Vcpu {
    /// Its registers. Whoever holds the lock runs it.
    pub context: Mutex<Context>,
}

/// One virtual machine.
pub struct Vm {
    /// Its place in the table of VMs.
    pub slot: usize,
    /// Where it comes from: kept for a restart.
    pub spec: VmSpec<'static>,
    /// Its memory; none only between the end of one life and the start of the next.
    pub memory: Mutex<Option<AddressSpace>>,
    /// Its interrupt controller.
    pub vgic: Own<Mutex<Vgic>>,
    /// Which vCPUs are on.
    pub power: Mutex<Power>,
    /// Its devices.
    pub devices: Mutex<Devices>,
    /// Its vCPUs.
    vcpus: [Option<Own<Vcpu>>; VCPUS_PER_VM],
    fate: AtomicU8,
    vttbr: AtomicU64,
    counter_offset: AtomicU64,
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
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("the machine has no memory left for it"),
            Self::TooMany => f.write_str("there are too many VMs"),
            Self::Image(error) => write!(f, "its image cannot be mapped: {error:?}"),
            Self::BadRam => f.write_str("its RAM is empty or too large"),
        }
    }
}

impl From<OutOfMemory> for VmError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Puts `value` into a frame of its own.
///
/// # Errors
///
/// No frame is free.
pub fn own<T>(value: T) -> Result<Own<T>, OutOfMemory> {
    Ok(Own::new(Store.with(|frames| frames.alloc(Kind::Hyp))?, value))
}

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
    /// Makes the VM that `spec` describes. It does not run yet.
    ///
    /// # Errors
    ///
    /// Says what is missing; everything taken is given back.
    pub fn new(machine: &Machine, slot: usize, spec: VmSpec<'static>) -> Result<Self, VmError> {
        let memory = Self::load(machine, &spec)?;
        match Self::assemble(machine, slot, spec, memory) {
            Ok(vm) => Ok(vm),
            Err((memory, error)) => {
                memory.destroy(&Store, &Ram, &VmTlb { vttbr: 0 });
                Err(error.into())
            }
        }
    }

    fn assemble(
        machine: &Machine,
        slot: usize,
        spec: VmSpec<'static>,
        memory: AddressSpace,
    ) -> Result<Self, (AddressSpace, OutOfMemory)> {
        let vgic = match own(Mutex::new(new_vgic(spec.vcpus()))) {
            Ok(vgic) => vgic,
            Err(error) => return Err((memory, error)),
        };
        let mut vcpus = [const { None }; VCPUS_PER_VM];
        for index in 0..spec.vcpus() {
            match own(Vcpu { context: Mutex::new(Context::default()) }) {
                Ok(vcpu) => vcpus[index] = Some(vcpu),
                Err(error) => {
                    vcpus.into_iter().flatten().for_each(free);
                    free(vgic);
                    return Err((memory, error));
                }
            }
        }
        let vttbr = vttbr(machine, slot, memory.root());
        let vm = Self {
            slot,
            spec,
            memory: Mutex::new(Some(memory)),
            vgic,
            power: Mutex::new(Power::new(spec.vcpus())),
            devices: Mutex::new(Devices {
                uart: Pl011::new(),
                rtc: Pl031::new(machine::wall_clock()),
                line: LineBuffer::EMPTY,
                typing_stalled: false,
                polls: 0,
            }),
            vcpus,
            fate: AtomicU8::new(Fate::Running as u8),
            vttbr: AtomicU64::new(vttbr),
            counter_offset: AtomicU64::new(salp_hw::cpu::counter()),
        };
        vm.reset_vcpus();
        Ok(vm)
    }

    fn reset_vcpus(&self) {
        let (entry, x0) = self.spec.entry();
        if let Some(first) = self.vcpu(0) {
            *first.context.lock() = Context::reset(entry, x0);
        }
    }

    /// Makes an address space with the VM's segments in it.
    fn load(machine: &Machine, spec: &VmSpec<'_>) -> Result<AddressSpace, VmError> {
        let policy = if spec.has_small_pages() { Policy::SmallPages } else { Policy::Blocks };
        let attr = if machine.force_write_back { MemAttr::ForcedWriteBack } else { MemAttr::WriteBack };
        let mut memory = AddressSpace::new(&Store, &Ram, spec.ram(), policy, attr).map_err(|error| match error {
            CreateError::BadRange => VmError::BadRam,
            CreateError::OutOfMemory => VmError::OutOfMemory,
        })?;
        for segment in spec.segments() {
            let at = Pa(machine.boot_set.0 + segment.offset);
            if let Err(error) = memory.map_image(&Store, &Ram, segment.ipa, at, segment.length) {
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
    pub fn name(&self) -> &'static str {
        self.spec.name()
    }

    /// Returns vCPU `index`.
    pub fn vcpu(&self, index: usize) -> Option<&Vcpu> {
        self.vcpus.get(index)?.as_deref()
    }

    /// Returns where the VM is in its life.
    #[inline]
    pub fn fate(&self) -> Fate {
        Fate::of(self.fate.load(Ordering::Relaxed))
    }

    /// Returns VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.vttbr.load(Ordering::Relaxed)
    }

    /// Returns CNTVOFF_EL2: the virtual counter starts at 0 with the VM.
    pub fn counter_offset(&self) -> u64 {
        self.counter_offset.load(Ordering::Relaxed)
    }

    /// Returns the VM's TLB entries.
    pub fn tlb(&self) -> VmTlb {
        VmTlb { vttbr: self.vttbr() }
    }

    /// Stops the VM for this reason, unless it is stopping already: every vCPU leaves its CPU.
    pub fn stop(&self, fate: Fate) {
        let running = Fate::Running as u8;
        if self.fate.compare_exchange(running, fate as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let mut scheduler = machine::get().scheduler.lock();
            let kicks =
                (0..VCPUS_PER_VM).fold(0, |set, index| set | scheduler.turn_off(VcpuRef::new(self.slot, index)));
            drop(scheduler);
            machine::kick(kicks);
        }
    }

    /// Stops the VM because it cannot go on, with the reason in the log.
    pub fn crash(&self, vcpu: usize, why: fmt::Arguments<'_>) {
        if self.fate() == Fate::Running {
            log!("{}: vCPU {vcpu} stopped the VM: {why}", self.name());
            self.stop(Fate::Crashed);
        }
    }

    /// Claims the end of a VM whose vCPUs have all left. Exactly one caller gets it, and learns why the VM stopped.
    pub fn begin_end(&self) -> Option<Fate> {
        let fate = self.fate();
        if matches!(fate, Fate::Running | Fate::Ending) {
            return None;
        }
        let claimed =
            self.fate.compare_exchange(fate as u8, Fate::Ending as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        claimed.then_some(fate)
    }

    /// Starts again from the first state. The VM has no vCPU on any CPU.
    ///
    /// # Errors
    ///
    /// There is no memory to load it again.
    pub fn restart(&self, machine: &Machine) -> Result<(), VmError> {
        // What it had comes back first: the machine may have no more than that.
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
        }
        self.counter_offset.store(salp_hw::cpu::counter(), Ordering::Relaxed);
        self.reset_vcpus();
        self.fate.store(Fate::Running as u8, Ordering::Release);
        Ok(())
    }

    fn give_memory_back(&self) {
        if let Some(memory) = self.memory.lock().take() {
            memory.destroy(&Store, &Ram, &self.tlb());
        }
    }

    /// Gives everything back.
    pub fn destroy(self) {
        self.give_memory_back();
        free(self.vgic);
        self.vcpus.into_iter().flatten().for_each(free);
    }

    /// Tells vCPUs that their interrupts changed.
    pub fn notify(&self, set: VcpuSet) {
        let mut kicks = 0;
        if !set.is_empty() {
            let mut scheduler = machine::get().scheduler.lock();
            for index in set.iter() {
                kicks |= scheduler.wake(VcpuRef::new(self.slot, index));
            }
        }
        machine::kick(kicks);
    }
}

/// VTTBR_EL2. VMID 0 stands for "none". CnP: every CPU has the same tables for a VMID, so they may share TLB entries.
fn vttbr(machine: &Machine, slot: usize, root: Pa) -> u64 {
    (slot as u64 + 1) << 48 | root.0 | u64::from(machine.common_not_private)
}

const _: () = assert!(size_of::<Vm>() <= 4096 && size_of::<Mutex<Vgic>>() <= 4096);
