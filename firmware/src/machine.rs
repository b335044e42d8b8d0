//! What there is one of: the frame table, the scheduler, the table of VMs, the physical GIC. And the machine's main
//! function, on every CPU.

use crate::console::{self, log};
use crate::merge;
use crate::monitor;
use crate::net;
use crate::operation;
use crate::vcpu;
use crate::vm::{self, Fate, Vm};
use crate::watch;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use salp_board::facts::MAX_CPUS;
use salp_core::addr::{PAGE_SIZE, Pa};
use salp_core::bootset::BootSet;
use salp_core::calls::arch::{Mitigation, Mitigations};
use salp_core::directory::{Directory, MAX_VMS, PlaceError};
use salp_core::entropy::Drbg;
use salp_core::exit::idregs::IdRegs;
use salp_core::exit::inject::Features;
use salp_core::frames::{FrameStore, Frames, Kind};
use salp_core::identity::{Name, Seed, Seeds};
use salp_core::sched::{CpuSet, Scheduler, VcpuRef};
use salp_hw::boot::{self, Boot};
use salp_hw::gic::Gic;
use salp_hw::lock::{Mutex, RwLock};
use salp_hw::own::Own;
use salp_hw::{cpu, gic, memory, psci};
use spin::Once;

/// How many frames must be free before VMs go on that wait for memory.
pub const ENOUGH: usize = 64;

/// How long a vCPU runs while others wait, in milliseconds.
const SLICE_MS: u64 = 2;

/// The machine.
pub struct Machine {
    /// Which vCPU runs where.
    pub scheduler: Mutex<Scheduler<'static>>,
    /// The physical GIC, for set-up.
    pub gic: Mutex<Gic>,
    /// Where the boot set lies.
    pub boot_set: Pa,
    /// Stage 2 makes guest accesses cacheable whatever the guest says (FEAT_S2FWB).
    pub force_write_back: bool,
    /// CPUs may share TLB entries of a VM (FEAT_TTCNP).
    pub common_not_private: bool,
    /// What decides PSTATE when an exception is given to a guest.
    pub inject_features: Features,
    /// What guests read from ID registers.
    pub id_registers: IdRegs,
    /// What the firmware below does about the CPU's flaws.
    pub mitigations: Mitigations,
    /// Random numbers.
    pub entropy: Mutex<Drbg>,
    seeds: Mutex<Seeds>,
    /// VMs that stand still for want of memory, or might.
    starved: AtomicBool,
    /// Whose pages are merged.
    pub merge: merge::Policy,
    wide_vmid: bool,
    exit_when_idle: bool,
    families: AtomicUsize,
    running: AtomicUsize,
    all_ended_well: AtomicBool,
    /// The counter when this began.
    pub started: u64,
    /// For how long CPUs had nothing to do since then, in ticks, all together.
    pub idle_ticks: AtomicU64,
}

static FRAMES: Once<Mutex<Frames<'static>>> = Once::new();
static MACHINE: Once<Machine> = Once::new();
static VMS: [RwLock<Option<Own<Vm>>>; MAX_VMS] = [const { RwLock::new(None) }; MAX_VMS];
/// How many VMs and snapshots descend from each VM of the boot set, whose identifiers are the first.
static FAMILIES: [AtomicU32; MAX_VMS + 1] = [const { AtomicU32::new(0) }; MAX_VMS + 1];
/// Which VM is where.
static DIRECTORY: Once<&'static Mutex<Directory>> = Once::new();
static MPIDR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static CPUS_READY: AtomicU32 = AtomicU32::new(0);

/// The frame table behind its lock.
pub struct Store;

impl FrameStore for Store {
    fn with<R>(&self, f: impl FnOnce(&mut Frames<'_>) -> R) -> R {
        f(&mut FRAMES.get().expect("set before the first VM").lock())
    }
}

/// Returns the machine.
pub fn get() -> &'static Machine {
    MACHINE.get().expect("set before the first VM")
}

/// Returns the slot of a VM, locked for as long as its parts are used.
pub fn slot(index: usize) -> &'static RwLock<Option<Own<Vm>>> {
    &VMS[index % MAX_VMS]
}

/// Returns the directory of VMs: which one is where.
pub fn directory() -> &'static Mutex<Directory> {
    DIRECTORY.call_once(|| boot::get().keep(const { Mutex::new(Directory::new()) }))
}

/// Returns the slots that may have VMs.
fn slots() -> &'static [RwLock<Option<Own<Vm>>>] {
    let used = directory().lock().slots();
    VMS.get(used).unwrap_or_default()
}

/// Wakes vCPUs whose timers have fired: for work between which this CPU takes no interrupt.
pub fn wake_sleepers() {
    let kicks = get().scheduler.lock().expire(cpu::counter());
    kick(kicks);
}

/// Makes CPUs look at their work.
pub fn kick(cpus: CpuSet) {
    for (index, mpidr) in MPIDR.iter().enumerate() {
        if cpus >> index & 1 != 0 {
            gic::kick(mpidr.load(Ordering::Relaxed));
        }
    }
}

/// Returns the wall-clock time, in seconds since 1970: the board's clock at the start, and the counter since.
pub fn wall_clock() -> u64 {
    static START: Once<u64> = Once::new();
    let up = cpu::counter() / cpu::counter_frequency().max(1);
    up + *START.call_once(|| boot::get().board.rtc.map_or(0, boot::read_rtc).saturating_sub(up))
}

/// Returns how long so many ticks of the counter are, in nanoseconds.
pub fn nanoseconds(ticks: u64) -> u64 {
    let frequency = cpu::counter_frequency().max(1);
    (u128::from(ticks) * 1_000_000_000 / u128::from(frequency)) as u64
}

/// Returns the wall-clock time, in nanoseconds since 1970.
pub fn wall_clock_ns() -> u64 {
    let frequency = cpu::counter_frequency().max(1);
    let seconds = wall_clock();
    let part = cpu::counter() % frequency;
    seconds.saturating_mul(1_000_000_000).saturating_add(part * 1_000_000_000 / frequency)
}

/// The main function of every CPU.
pub fn main(index: usize) -> ! {
    let boot = boot::get();
    if index == 0 {
        first_cpu(boot);
    }
    let machine = get();
    MPIDR[index].store(cpu::affinity(), Ordering::Relaxed);
    cpu::init_stage2(machine.wide_vmid);
    let redistributor = match machine.gic.lock().init_cpu(boot.board.gic.redistributors.end) {
        Ok(redistributor) => redistributor,
        Err(error) => panic!("{error}"),
    };
    memory::invalidate_all();
    if index == 0 {
        machine.gic.lock().enable_shared(boot.board.uart.interrupt);
        monitor::init(machine);
        start_other_cpus(boot);
        start_vms(boot, machine);
        crash_on_request(boot);
    } else {
        CPUS_READY.fetch_add(1, Ordering::Release);
        cpu::send_event();
    }
    vcpu::run(index, redistributor)
}

fn first_cpu(boot: &'static Boot) {
    console::init();
    let ram: u64 = boot.board.ram.iter().map(|bank| bank.end - bank.start).sum();
    log!("Salp {} on {} CPUs, {} MiB of RAM", env!("CARGO_PKG_VERSION"), boot.board.cpus.len(), ram >> 20);
    if boot.board.cpus_left_out > 0 {
        log!("{} more CPUs are left out: Salp drives {MAX_CPUS}", boot.board.cpus_left_out);
    }
    let banks: heapless::Vec<_, 8> = boot.board.ram.iter().map(|bank| Pa(bank.start)..Pa(bank.end)).collect();
    let (storage, nodes) = boot.take_tables().expect("asked for once");
    let mut frames = Frames::new(&banks, storage).unwrap_or_else(|error| panic!("RAM is unusable: {error:?}"));
    let boot_set = boot.boot_set();
    for range in boot.taken.iter().filter(|range| boot_set.as_ref().is_none_or(|set| set.start != range.start)) {
        // Parts that are no RAM of ours or reserved twice are none the worse for it.
        let _ = frames.reserve(Pa(range.start).page()..Pa(range.end.next_multiple_of(PAGE_SIZE)));
    }
    FRAMES.call_once(|| Mutex::new(frames));

    let slice = (cpu::counter_frequency() * SLICE_MS / 1000).clamp(1, u32::MAX.into()) as u32;
    let fwb = cpu::id_register(7, 2) >> 40 & 0xf != 0;
    memory::set_coherent_memory(fwb);
    let answer = |function| Mitigation::of_answer(psci::arch_features(function));
    let mut seed = [0u8; 32];
    for (at, byte) in boot.board.seed.iter().enumerate() {
        seed[at % 32] ^= byte;
    }
    cpu::stir(&mut seed);
    MACHINE.call_once(|| Machine {
        scheduler: Mutex::new(Scheduler::new(nodes, boot.board.cpus.len(), slice)),
        gic: Mutex::new(boot::gic().unwrap_or_else(|error| panic!("{error}"))),
        boot_set: Pa(boot_set.map_or(0, |set| set.start)),
        force_write_back: fwb,
        common_not_private: cpu::id_register(7, 2) & 0xf != 0,
        inject_features: Features {
            pan: cpu::id_register(7, 1) >> 20 & 0xf != 0,
            ssbs: cpu::id_register(4, 1) >> 4 & 0xf != 0,
            mte: false,
        },
        id_registers: IdRegs::new(&core::array::from_fn(|n| cpu::id_register(n as u8 / 8, n as u8 % 8))),
        mitigations: Mitigations {
            branch_predictor: answer(0x8000_8000),
            store_bypass: answer(0x8000_7fff),
            branch_history: answer(0x8000_3fff),
        },
        entropy: Mutex::new(Drbg::new(&seed)),
        seeds: Mutex::new(Seeds::default()),
        starved: AtomicBool::new(false),
        wide_vmid: cpu::has_wide_vmids(),
        merge: merge::Policy::of(&boot.board),
        families: AtomicUsize::new(0),
        exit_when_idle: boot.board.option("idle") == Some("poweroff"),
        running: AtomicUsize::new(0),
        all_ended_well: AtomicBool::new(true),
        started: cpu::counter(),
        idle_ticks: AtomicU64::new(0),
    });
}

/// Crashes on the operator's request (`crash=panic` or `crash=overflow` on EL2's command line), to see what a crash
/// report looks like and where it arrives.
fn crash_on_request(boot: &Boot) {
    #[inline(never)]
    fn overflow(depth: u64) -> u64 {
        if depth == u64::MAX {
            return 0;
        }
        let filler = core::hint::black_box([depth; 64]);
        overflow(core::hint::black_box(depth.wrapping_add(1))).wrapping_add(filler[0])
    }
    match boot.board.option("crash") {
        Some("panic") => panic!("the operator asked for it"),
        Some("overflow") => {
            overflow(0);
        }
        _ => {}
    }
}

fn start_other_cpus(boot: &Boot) {
    let mut started = 0;
    for index in 1..boot.board.cpus.len() {
        match boot.start_cpu(index) {
            Ok(()) => started += 1,
            Err(error) => log!("CPU {:#x} did not start: {error}", boot.board.cpus[index]),
        }
    }
    while CPUS_READY.load(Ordering::Acquire) < started {
        cpu::wait_for_event();
    }
}

fn start_vms(boot: &'static Boot, machine: &'static Machine) {
    let Some(range) = boot.boot_set() else {
        log!("there is no boot set: nothing to run");
        return;
    };
    let set = boot::boot_set_bytes(range.clone());
    let set = match BootSet::parse(set) {
        Ok(set) if range.start.is_multiple_of(PAGE_SIZE) => set,
        Ok(_) => return log!("the boot set is not page aligned: the boot loader must load it so"),
        Err(error) => return log!("{error}"),
    };
    let frames = Pa(range.start)..Pa(range.start + set.size());
    if Store.with(|store| store.adopt_image(frames.clone())).is_err() {
        return log!("the boot set is not in RAM of its own");
    }
    let stats = Store.with(|frames| frames.stats());
    let free = stats.frames(Kind::Free) as u64 * PAGE_SIZE;
    log!("{} MiB free for VMs, boot set of {} KiB", free >> 20, set.size() >> 10);
    let mut first = None;
    if !machine.wide_vmid {
        directory().lock().limit(255);
    }
    for spec in set.vms() {
        let name = spec.name();
        match add_vm(machine, spec) {
            Ok(slot) => {
                log!("{name}: {} vCPUs, {} KiB", spec.vcpus(), (spec.ram().end.0 - spec.ram().start.0) >> 10);
                first.get_or_insert(slot);
                if boot.board.option("attach") == Some(name) {
                    console::attach(Some(slot), name);
                }
            }
            Err(error) => {
                log!("{name} cannot be started: {error}");
                machine.all_ended_well.store(false, Ordering::Relaxed);
            }
        }
    }
    log!("ready");
    for (slot, vm) in VMS.iter().enumerate() {
        if let Some(vm) = vm.read().as_deref() {
            if vm.is_held_by(vm::hold::FROZEN) {
                vm.hold(vm::hold::FROZEN);
                operation::attend(slot);
            }
            let kicks = machine.scheduler.lock().turn_on(VcpuRef::new(slot, 0));
            kick(kicks);
        }
    }
    if first.is_none() {
        machine.idle();
    }
}

fn add_vm(machine: &'static Machine, spec: salp_core::bootset::VmSpec<'static>) -> Result<usize, vm::VmError> {
    let name = Name::new(spec.name().as_bytes()).ok_or(vm::VmError::NameTaken)?;
    let place = directory().lock().take(&name).map_err(|error| match error {
        PlaceError::TooMany => vm::VmError::TooMany,
        PlaceError::NameTaken => vm::VmError::NameTaken,
    })?;
    match Vm::new(machine, place, name, spec) {
        Ok(vm) => machine.publish(vm),
        Err(error) => {
            directory().lock().give_back(place.slot);
            return Err(error);
        }
    }
    Ok(place.slot)
}

/// Ends a VM whose last vCPU has left its CPU: gives its memory back, or starts it again.
pub fn end_vm(index: usize, fate: Fate) {
    let machine = get();
    let again = {
        let slot = VMS[index].read();
        let Some(vm) = slot.as_deref() else { return };
        operation::bury(vm);
        let starts_again = fate == Fate::Off && vm.starts_again.load(Ordering::Relaxed);
        let fate = if starts_again { Fate::Reset } else { fate };
        let fails = matches!(fate, Fate::Crashed | Fate::Hung);
        let again = fate == Fate::Reset || fails && vm.spec.restarts_on_crash();
        let what = match fate {
            Fate::Off => "is off",
            Fate::Reset => "restarts",
            Fate::Destroyed => "is destroyed",
            Fate::Hung => "does not answer",
            _ => "crashed",
        };
        let back = watch::take_back(vm, fate, what);
        if back.is_none() {
            log!("{}: {what}{}", vm.name(), if fails && again { " and restarts" } else { "" });
        }
        back == Some(true)
            || (again || back == Some(false))
                && match vm.restart(machine) {
                    Ok(()) => true,
                    Err(error) => {
                        log!("{} cannot restart: {error}", vm.name());
                        false
                    }
                }
    };
    if again {
        let kicks = machine.scheduler.lock().turn_on(VcpuRef::new(index, 0));
        kick(kicks);
        // It may have been asked to stand still in between.
        return operation::attend(index);
    }
    machine.unpublish(index);
    if !matches!(fate, Fate::Off | Fate::Destroyed) {
        machine.all_ended_well.store(false, Ordering::Relaxed);
    }
    if machine.running.load(Ordering::Acquire) == 0 {
        let stats = Store.with(|frames| frames.stats());
        log!("all VMs are off, {} KiB in use by guests", (stats.frames(Kind::Guest) + stats.frames(Kind::Node)) * 4);
        machine.idle();
    }
}

impl Machine {
    /// Puts a VM into its slot. Nothing runs it yet.
    pub fn publish(&self, vm: Own<Vm>) {
        if !vm.is_held_by(vm::hold::SNAPSHOT) {
            self.running.fetch_add(1, Ordering::Relaxed);
        }
        if FAMILIES[vm.family as usize % FAMILIES.len()].fetch_add(1, Ordering::Relaxed) == 1 {
            self.families.fetch_add(1, Ordering::Relaxed);
        }
        self.want_merging();
        let slot = vm.slot;
        net::plug_in(&vm);
        *VMS[slot].write() = Some(vm);
    }

    fn want_merging(&self) {
        merge::want(self, self.families.load(Ordering::Relaxed), self.running.load(Ordering::Relaxed));
    }

    /// A VM has left its family. The last one of a family has nobody to copy for.
    fn leave_family(&self, family: u64) {
        if FAMILIES[family as usize % FAMILIES.len()].fetch_sub(1, Ordering::Relaxed) == 2 {
            self.families.fetch_sub(1, Ordering::Relaxed);
            let is_last = |vm: &&Vm| vm.family == family;
            for slot in slots() {
                if let Some(vm) = slot.read().as_deref().filter(is_last) {
                    vm.promise_no_copies();
                }
            }
        }
        self.want_merging();
    }

    /// Takes a VM that is on no CPU out of its slot and gives everything back that it had.
    pub fn unpublish(&self, slot: usize) {
        let Some(vm) = VMS[slot].write().take() else { return };
        let asker = *vm.mourner.lock();
        let family = vm.family;
        net::unplug(&vm);
        let is_snapshot = vm.is_held_by(vm::hold::SNAPSHOT);
        vm::discard(vm);
        if !is_snapshot {
            // Last: who finds that none is left finds all memory given back.
            self.running.fetch_sub(1, Ordering::AcqRel);
        }
        self.scheduler.lock().forget(slot);
        console::forget(slot);
        directory().lock().give_back(slot);
        self.leave_family(family);
        self.memory_may_be_back();
        operation::deliver(asker, operation::Answer::of(salp_hvc::status::OK));
    }

    /// Returns the random part of an identity.
    pub fn seed(&self) -> Seed {
        self.seeds.lock().take(&mut self.entropy.lock())
    }

    /// Makes identities ready for VMs to come. Called by CPUs that have nothing to do.
    pub fn replenish(&self) {
        let mut seeds = self.seeds.lock();
        if seeds.is_short() {
            seeds.refill(&mut self.entropy.lock());
        }
    }

    /// Lets VMs go on that stand still for want of memory, if there is some: called when frames were given back, and when a
    /// VM has just come to stand still.
    pub fn memory_may_be_back(&self) {
        if !self.starved.load(Ordering::Acquire) || Store.with(|frames| frames.unpromised()) < ENOUGH {
            return;
        }
        self.starved.store(false, Ordering::Release);
        for slot in slots() {
            if let Some(vm) = slot.read().as_deref().filter(|vm| vm.is_held_by(vm::hold::NO_MEMORY)) {
                vm.let_go(vm::hold::NO_MEMORY);
            }
        }
    }

    /// Returns how many VMs stand still for want of memory.
    pub fn count_starved(&self) -> u32 {
        let starves = |slot: &RwLock<Option<Own<Vm>>>| {
            slot.read().as_deref().is_some_and(|vm| vm.is_held_by(vm::hold::NO_MEMORY))
        };
        slots().iter().filter(|slot| starves(slot)).count() as u32
    }

    /// Notes that a VM stands still for want of memory.
    pub fn note_starved(&self) {
        self.starved.store(true, Ordering::Release);
    }

    /// Every VM is off: the end, if the operator asked for it.
    fn idle(&self) {
        if self.exit_when_idle {
            if self.all_ended_well.load(Ordering::Relaxed) {
                psci::system_off();
            }
            log!("not every VM ended by its own SYSTEM_OFF");
            psci::system_reset();
        }
    }
}

/// Returns the VM that keys go to: the attached one, else the first that exists.
pub fn console_vm() -> Option<usize> {
    console::attached().or_else(|| next_used(0))
}

/// Returns the first slot from here on that has a VM.
pub fn next_used(from: usize) -> Option<usize> {
    let is_used = |slot: &RwLock<Option<Own<Vm>>>| slot.read().is_some();
    slots().iter().skip(from).position(is_used).map(|distance| from + distance)
}

/// Shows the next console after `attached`: the next VM's, or the log after the last.
pub fn next_console() {
    let after = console::attached().map_or(0, |slot| slot + 1);
    let next = next_used(after);
    let name = next.and_then(|slot| VMS[slot].read().as_deref().map(Vm::full_name));
    console::attach(next, name.as_ref().map_or("", Name::as_str));
}
