//! What there is one of: the frame table, the scheduler, the table of VMs, the physical GIC. And the machine's main
//! function, on every CPU.

use crate::console::{self, log};
use crate::drive;
use crate::events;
use crate::fork::Activities;
use crate::handover::{self, Found};
use crate::images;
use crate::keep;
use crate::merge;
use crate::monitor;
use crate::net;
use crate::operation::{self, Answer, Asker};
use crate::update;
use crate::vcpu;
use crate::vm::{self, Fate, Records, Vm, VmError};
use crate::watch;
use crate::watchdog;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use salp_board::facts::MAX_CPUS;
use salp_core::addr::{PAGE_SIZE, Pa};
use salp_core::bootset::{BootSet, VmSpec};
use salp_core::calls::arch::{Mitigation, Mitigations};
use salp_core::directory::{Directory, MAX_VMS, Place};
use salp_core::entropy::Drbg;
use salp_core::exit::idregs::IdRegs;
use salp_core::exit::inject::Features;
use salp_core::frames::{FrameStore, Frames, Kind};
use salp_core::handover::Full;
use salp_core::identity::{Identity, Name, Seed, Seeds};
use salp_core::remains;
use salp_core::sched::{CpuSet, Scheduler, VcpuRef};
use salp_hvc::events as event;
use salp_hvc::handover::{Pool, kind};
use salp_hvc::manager::{RECOVERY_CRASH, RECOVERY_HANG};
use salp_hvc::status;
use salp_hw::boot::{self, Boot};
use salp_hw::gic::Gic;
use salp_hw::lock::{self, Mutex, RwLock, RwLockWriteGuard};
use salp_hw::own::Own;
use salp_hw::{cpu, crash, gic, memory, psci};
use spin::Once;
use zerocopy::IntoBytes;

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
    /// It was said that none of these is left.
    has_said_so: AtomicBool,
    all_ended_well: AtomicBool,
    /// The counter when this began.
    pub started: u64,
    /// For how long CPUs had nothing to do since then, in ticks, all together.
    pub idle_ticks: AtomicU64,
}

static FRAMES: Once<Mutex<Frames<'static>>> = Once::new();
static MACHINE: Once<Machine> = Once::new();
static VMS: [RwLock<Option<Own<Vm>>>; MAX_VMS] = [const { RwLock::new(None) }; MAX_VMS];
/// How many VMs and snapshots there are of each family: those that descend from one VM.
static FAMILIES: [AtomicU32; MAX_VMS] = [const { AtomicU32::new(0) }; MAX_VMS];
/// Which VM is where.
static DIRECTORY: Once<&'static Mutex<Directory>> = Once::new();
static MPIDR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static MIDR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
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
    if cpus == 0 {
        return;
    }
    for (index, mpidr) in MPIDR.iter().enumerate() {
        if cpus >> index & 1 != 0 {
            gic::kick(mpidr.load(Ordering::Relaxed));
        }
    }
}

/// Returns what the wall clock showed when the counter was zero, in nanoseconds since 1970: by the board's clock at the start,
/// or by who set it.
fn epoch() -> &'static AtomicU64 {
    static EPOCH: Once<AtomicU64> = Once::new();
    EPOCH.call_once(|| {
        let start = boot::get().board.rtc.map_or(0, boot::read_rtc).saturating_mul(1_000_000_000);
        AtomicU64::new(start.saturating_sub(nanoseconds(cpu::counter())))
    })
}

/// Returns the wall-clock time, in seconds since 1970.
pub fn wall_clock() -> u64 {
    wall_clock_ns() / 1_000_000_000
}

/// Sets the wall clock, in nanoseconds since 1970.
pub fn set_wall_clock(time: u64) {
    epoch().store(time.wrapping_sub(nanoseconds(cpu::counter())), Ordering::Relaxed);
}

/// Returns how long so many ticks of the counter are, in nanoseconds.
pub fn nanoseconds(ticks: u64) -> u64 {
    let frequency = cpu::counter_frequency().max(1);
    (ticks / frequency) * 1_000_000_000 + ticks % frequency * 1_000_000_000 / frequency
}

/// Returns for how long EL2 runs, in nanoseconds.
pub fn uptime() -> u64 {
    nanoseconds(cpu::counter().wrapping_sub(get().started))
}

/// Returns the wall-clock time, in nanoseconds since 1970.
pub fn wall_clock_ns() -> u64 {
    epoch().load(Ordering::Relaxed).wrapping_add(nanoseconds(cpu::counter()))
}

/// Returns what a CPU is, and its affinity: MIDR_EL1, and MPIDR_EL1 without its flags.
pub fn describe_cpu(index: u64) -> Option<(u64, u64)> {
    let index = usize::try_from(index).ok().filter(|&index| index < boot::get().board.cpus.len())?;
    let model = MIDR[index % MAX_CPUS].load(Ordering::Relaxed);
    // One that did not start tells nothing.
    (model != 0).then(|| (model, MPIDR[index % MAX_CPUS].load(Ordering::Relaxed)))
}

/// The main function of every CPU.
pub fn main(index: usize) -> ! {
    let boot = boot::get();
    let found = if index == 0 { first_cpu(boot) } else { None };
    let machine = get();
    MPIDR[index].store(cpu::affinity(), Ordering::Relaxed);
    MIDR[index].store(cpu::model(), Ordering::Relaxed);
    cpu::init_stage2(machine.wide_vmid);
    let redistributor = match machine.gic.lock().init_cpu(boot.board.gic.redistributors.end) {
        Ok(redistributor) => redistributor,
        Err(error) => panic!("{error}"),
    };
    memory::invalidate_all();
    if index == 0 {
        machine.gic.lock().enable_shared(boot.board.uart.interrupt);
        monitor::init(machine);
        net::uplink::init(machine);
        if let (Some(head), Some(found)) = (boot.handed, found) {
            handover::fault("devices");
            handover::take_over(head, &found);
        } else {
            events::prepare();
            start_other_cpus(boot);
            start_vms(boot, machine);
            crash_on_request(boot);
        }
        watchdog::begin();
        handover::begin();
    } else {
        CPUS_READY.fetch_add(1, Ordering::Release);
        cpu::send_event();
    }
    handover::arrive(index);
    hang_on_request(boot, index);
    vcpu::run(index, redistributor)
}

/// Makes the machine. Returns what was found of the VMs if this image was handed over to.
fn first_cpu(boot: &'static Boot) -> Option<Found> {
    console::init();
    let ram: u64 = boot.board.ram.iter().map(|bank| bank.end - bank.start).sum();
    log!("Salp {} on {} CPUs, {} MiB of RAM", env!("CARGO_PKG_VERSION"), boot.board.cpus.len(), ram >> 20);
    if boot.board.cpus_left_out > 0 {
        log!("{} more CPUs are left out: Salp drives {MAX_CPUS}", boot.board.cpus_left_out);
    }
    tell_remains();
    let banks: heapless::Vec<_, 8> = boot.board.ram.iter().map(|bank| Pa(bank.start)..Pa(bank.end)).collect();
    let (storage, nodes) = boot.take_tables().expect("asked for once");
    let (frames, boot_set, found) = match boot.handed {
        Some(head) => {
            let (frames, found) = handover::examine(head, &banks, storage);
            (frames, head.get().boot_set, Some(found))
        }
        None => (new_frames(boot, &banks, storage), boot.boot_set().map_or(0, |set| set.start), None),
    };
    FRAMES.call_once(|| Mutex::new(frames));
    if let Some(found) = &found {
        // What the image before has counted goes on.
        epoch().store(found.machine.clock, Ordering::Relaxed);
        update::adopt(found.machine.slot);
    }
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
        boot_set: Pa(boot_set),
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
        entropy: Mutex::new(
            found.as_ref().map_or_else(|| Drbg::new(&seed), |found| Drbg::from_bytes(found.machine.entropy)),
        ),
        seeds: Mutex::new(Seeds::default()),
        starved: AtomicBool::new(false),
        wide_vmid: cpu::has_wide_vmids(),
        merge: merge::Policy::of(&boot.board),
        families: AtomicUsize::new(0),
        exit_when_idle: boot.board.option("idle") == Some("poweroff"),
        running: AtomicUsize::new(0),
        all_ended_well: AtomicBool::new(found.as_ref().is_none_or(|found| found.machine.ended_badly == 0)),
        started: found.as_ref().map_or_else(cpu::counter, |found| found.machine.started),
        idle_ticks: AtomicU64::new(found.as_ref().map_or(0, |found| found.machine.idle)),
        has_said_so: AtomicBool::new(false),
    });
    if let (Some(head), Some(found)) = (boot.handed, &found) {
        if !get().wide_vmid {
            directory().lock().limit(255);
        }
        directory().lock().skip_to(found.machine.last_vm);
        images::skip_to(found.machine.last_image);
        handover::adopt_pool(head);
    }
    found
}

/// Makes the frame table of a machine that a boot loader has started.
fn new_frames(boot: &Boot, banks: &[Range<Pa>], storage: &'static mut [u64]) -> Frames<'static> {
    let mut frames = Frames::new(banks, storage).unwrap_or_else(|error| panic!("RAM is unusable: {error:?}"));
    let boot_set = boot.boot_set();
    for range in boot.taken.iter().filter(|range| boot_set.as_ref().is_none_or(|set| set.start != range.start)) {
        // Parts that are no RAM of ours or reserved twice are none the worse for it.
        let _ = frames.reserve(Pa(range.start).page()..Pa(range.end.next_multiple_of(PAGE_SIZE)));
    }
    frames
}

/// Tells what EL2 said before it reset the machine, if that is why the machine starts.
fn tell_remains() {
    let page = crash::take_remains();
    for line in remains::lines(&page).into_iter().flatten() {
        log!("before this start: {}", line.strip_prefix("salp| ").unwrap_or(line));
    }
}

/// Counts a VM that a hand-over has brought as a user of the images that it starts from.
fn count_images_of(vm: &Vm) {
    images::count_user(&vm.spec, true);
    vm.own.iter().for_each(|(own, _)| images::count_user(own, true));
}

/// Writes what a hand-over has of what there is one of.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_records(out: &mut Records<'_>) -> Result<(), Full> {
    let machine = get();
    let (last_vm, vms) = {
        let directory = directory().lock();
        (directory.last_id(), directory.count() as u64)
    };
    let about = salp_hvc::handover::Machine {
        last_vm,
        last_image: images::last_id(),
        started: machine.started,
        idle: machine.idle_ticks.load(Ordering::Relaxed),
        clock: epoch().load(Ordering::Relaxed),
        entropy: machine.entropy.lock().to_bytes(),
        attached: console::attached().map_or(0, |slot| slot as u32 + 1),
        ended_badly: (!machine.all_ended_well.load(Ordering::Relaxed)).into(),
        vms,
        unwritten: keep::changed().into(),
        slot: update::slot().map_or(0, |slot| slot as u64 + 1),
    };
    out.write(kind::MACHINE, 0, &[about.as_bytes()])?;
    out.write(kind::FRAMES, 0, &[Store.with(|frames| frames.record()).as_bytes()])?;
    let pool = POOL.lock();
    let mut about = Pool { count: pool.taken.len() as u64, frames: [0; MAX_POOL] };
    about.frames.iter_mut().zip(&pool.taken).for_each(|(to, frame)| *to = frame.0);
    out.write(kind::POOL, 0, &[about.as_bytes()])
}

const MAX_POOL: usize = salp_hvc::handover::POOL;

/// Frames of drivers of the machine's devices: those that they have, and those that the drivers of the image before had.
struct Drivers {
    taken: heapless::Vec<Pa, MAX_POOL>,
    given: heapless::Vec<Pa, MAX_POOL>,
}

static POOL: Mutex<Drivers> = Mutex::new(Drivers { taken: heapless::Vec::new(), given: heapless::Vec::new() });

/// Gives drivers the frames that those of the image before had.
pub fn give_pool(frames: &[u64]) {
    let mut pool = POOL.lock();
    pool.given = frames.iter().map(|&at| Pa(at)).take(MAX_POOL).collect();
}

/// Takes a frame for a driver. After a hand-over these are the frames that were a driver's before: nothing else is taken.
pub fn take_driver_frame() -> Option<Pa> {
    let mut pool = POOL.lock();
    let frame = match boot::get().handed {
        Some(_) => pool.given.pop(),
        None => Store.with(|frames| frames.alloc(Kind::Hyp)).ok(),
    }?;
    let _ = pool.taken.push(frame);
    Some(frame)
}

/// Calls `act` with each VM and snapshot, and the frame that it lies in.
pub fn for_each(mut act: impl FnMut(&Vm, Pa)) {
    for slot in slots() {
        if let Some(vm) = slot.read().as_ref() {
            act(vm, vm.frame());
        }
    }
}

/// Crashes on the operator's request (`crash=panic` or `crash=overflow` on EL2's command line), to see what a crash
/// report looks like and where it arrives.
fn crash_on_request(boot: &Boot) {
    match boot.board.option("crash") {
        Some("panic") => panic!("the operator asked for it"),
        Some("overflow") => overflow(),
        _ => {}
    }
}

/// Lets the last CPU hang on the operator's request (`crash=hang`), while the others go on: to see that the watchdog finds out.
fn hang_on_request(boot: &Boot, index: usize) {
    let is_last = index + 1 == boot.board.cpus.len();
    if is_last && boot.handed.is_none() && boot.board.option("crash") == Some("hang") {
        // It waits for nothing, so that an emulated one takes no time of the host's.
        gic::listen_to_timer_alone(true);
        cpu::set_alarm(None);
        loop {
            cpu::wait_for_interrupt();
        }
    }
}

/// Uses up this CPU's stack.
pub fn overflow() {
    #[inline(never)]
    fn deeper(depth: u64) -> u64 {
        if depth == u64::MAX {
            return 0;
        }
        let filler = core::hint::black_box([depth; 64]);
        deeper(core::hint::black_box(depth.wrapping_add(1))).wrapping_add(filler[0])
    }
    deeper(0);
}

fn start_other_cpus(boot: &Boot) {
    let mut started = 0;
    for index in 1..boot.board.cpus.len() {
        match boot.start_cpu(index, None) {
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
    update::recall_all();
    log!("{} MiB free for VMs, boot set of {} KiB", free >> 20, set.size() >> 10);
    let mut first = None;
    if !machine.wide_vmid {
        directory().lock().limit(255);
    }
    for spec in set.vms() {
        let name = spec.name();
        match add_vm(machine, &spec) {
            Ok(Place { slot, .. }) => {
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
        if let Some(vm) = vm.read().as_deref().filter(|vm| !vm.is_held_by(vm::hold::OFF)) {
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

/// Makes the VM that `spec` describes. Nothing runs it yet. Returns its slot and identifier.
///
/// # Errors
///
/// Says what is missing; everything taken is given back.
pub fn add_vm(machine: &Machine, spec: &VmSpec) -> Result<Place, VmError> {
    let name = Name::new(spec.name().as_bytes()).ok_or(VmError::NameTaken)?;
    let place = directory().lock().take(&name)?;
    match Vm::new(machine, place, Identity::new(name, &machine.seed()), spec) {
        Ok(vm) => {
            events::tell(&vm, event::CREATED, 0);
            machine.publish(vm);
        }
        Err(error) => {
            directory().lock().give_back(place.slot);
            return Err(error);
        }
    }
    Ok(place)
}

/// Locks the slot of a VM that is off, to change it.
fn lock_off(slot: usize, id: u64) -> Result<RwLockWriteGuard<'static, Option<Own<Vm>>>, i64> {
    let is_off = |vm: Option<&Vm>| match vm.filter(|vm| vm.id == id) {
        Some(vm) if vm.control() == vm::hold::OFF => Ok(vm.is_busy.load(Ordering::Acquire)),
        Some(_) => Err(status::WRONG_STATE),
        None => Err(status::NOT_FOUND),
    };
    let guard = loop {
        // One that is started has its slot locked for as long as it runs.
        is_off(VMS[slot].read().as_deref())?;
        match VMS[slot].try_write() {
            Some(guard) => break guard,
            None => _ = lock::wait(),
        }
    };
    // Who is about to start it comes back to it.
    if is_off(guard.as_deref())? { Err(status::BUSY) } else { Ok(guard) }
}

/// Starts the VM with identifier `id`, which is off: for this life, or until it is off again, it is what `spec` says. The caller
/// has counted it as a user.
///
/// # Errors
///
/// A status; nothing has changed then.
pub fn start_as(id: u64, spec: &VmSpec, lasts: bool) -> Result<(), i64> {
    let slot = directory().lock().by_id(id).ok_or(status::NOT_FOUND)?;
    let mut guard = lock_off(slot, id)?;
    let vm = guard.as_mut().ok_or(status::NOT_FOUND)?;
    // Nobody else starts it, or ends it, until that is done.
    vm.is_busy.store(true, Ordering::Release);
    vm.own = Some((core::mem::replace(&mut vm.spec, *spec), lasts));
    drop(guard);
    let guard = VMS[slot].read();
    let vm = guard.as_deref().ok_or(status::NOT_FOUND)?;
    let started = get().start_vm(vm);
    if started.is_ok() {
        vm.is_busy.store(false, Ordering::Release);
        return started;
    }
    drop(guard);
    take_own(slot);
    if let Some(vm) = VMS[slot].read().as_deref() {
        vm.is_busy.store(false, Ordering::Release);
    }
    started
}

/// Makes a VM whose life is over what it is by itself. Until then nobody can start it: it is not off yet.
pub fn be_itself(slot: usize) {
    match VMS[slot].read().as_deref() {
        Some(vm) if vm.own.is_some() => vm.give_memory_back(),
        _ => return,
    }
    if let Some(over) = take_own(slot) {
        images::count_user(&over, false);
    }
}

/// Gives a VM that does not run its own description back. Returns what it was meanwhile.
fn take_own(slot: usize) -> Option<VmSpec> {
    // No vCPU of it is on a CPU: who has its slot locked has it only for a moment.
    let mut guard = VMS[slot].write();
    let vm = guard.as_mut()?;
    let (own, _) = vm.own.take()?;
    Some(core::mem::replace(&mut vm.spec, own))
}

/// Describes the VM with identifier `id`, which is off, anew: it is another one in its place, with its identity.
///
/// # Errors
///
/// A status; nothing has changed then.
pub fn change_vm(id: u64, spec: &VmSpec) -> Result<(), i64> {
    let machine = get();
    let name = Name::new(spec.name().as_bytes()).ok_or(status::INVALID)?;
    let slot = directory().lock().by_id(id).ok_or(status::NOT_FOUND)?;
    let mut guard = lock_off(slot, id)?;
    let vm = guard.as_mut().ok_or(status::NOT_FOUND)?;
    let identity = Identity { name, ..vm.identity.lock().clone() };
    let mut fresh = Vm::new(machine, Place { slot, id }, identity, spec).map_err(VmError::status)?;
    (fresh.source, fresh.family, fresh.kin) = (vm.source, vm.family, vm.kin);
    // Who still asks for the VM that it was gets no answer.
    fresh.life.store(vm.life.load(Ordering::Relaxed), Ordering::Relaxed);
    let renamed = directory().lock().rename(slot, &name);
    if renamed.is_ok() {
        drive::hand_over(vm, &fresh);
        core::mem::swap(vm, &mut fresh);
        events::tell(vm, event::CHANGED, 0);
    }
    drop(guard);
    // What is not in the slot goes. What its description names is the caller's, if that is the new one.
    if renamed.is_ok() {
        images::count_user(&fresh.spec, false);
    }
    vm::discard(fresh);
    renamed.map_err(|error| VmError::from(error).status())
}

/// What becomes of a VM whose life is over.
enum Next {
    /// It lives again. Who waits for that is answered.
    Again(Asker),
    /// It stays, off.
    Off,
    /// It goes.
    Gone,
}

/// Ends a life of a VM whose last vCPU has left its CPU: it starts again, is off, or is gone and gives everything back. Returns
/// the status for who asked for it; one that waits gets it.
pub fn end_vm(index: usize, fate: Fate) -> i64 {
    let machine = get();
    if !VMS[index].read().as_deref().is_some_and(|vm| matches!(vm.own, Some((_, true)))) {
        be_itself(index);
    }
    let decided = VMS[index].read().as_deref().map(|vm| go_on(machine, vm, fate));
    let Some((next, status)) = decided else { return status::NOT_FOUND };
    match next {
        Next::Again(asker) => {
            operation::deliver(asker, Answer::of(status));
            // It may have been asked to stand still in between.
            operation::attend(index);
            return status;
        }
        Next::Off => {
            // Before it is off: from then on others start it, as something else too.
            be_itself(index);
            let laid = VMS[index].read().as_deref().map(|vm| {
                let asker = vm.take_mourner();
                machine.lay_to_rest(vm);
                if is_by_manager(fate) {
                    vm.is_busy.store(false, Ordering::Release);
                }
                asker
            });
            laid.into_iter().for_each(|asker| operation::deliver(asker, Answer::of(status)));
            machine.memory_may_be_back();
        }
        Next::Gone => machine.unpublish(index),
    }
    if !matches!(fate, Fate::Off | Fate::Destroyed | Fate::Stopped) {
        machine.all_ended_well.store(false, Ordering::Relaxed);
    }
    // Two that end at the same time both find that none is left.
    if machine.running.load(Ordering::Acquire) == 0 && !machine.has_said_so.swap(true, Ordering::AcqRel) {
        let stats = Store.with(|frames| frames.stats());
        log!("all VMs are off, {} KiB in use by guests", (stats.frames(Kind::Guest) + stats.frames(Kind::Node)) * 4);
        machine.idle();
    }
    status
}

/// Returns true if a life that ended so was ended by a manager, which has the VM for itself meanwhile.
fn is_by_manager(fate: Fate) -> bool {
    matches!(fate, Fate::Stopped | Fate::Restarted)
}

/// Says how a life of a VM has ended, and begins the next one if there is one. Returns what becomes of the VM, and the status for
/// who asked for it.
fn go_on(machine: &Machine, vm: &Vm, fate: Fate) -> (Next, i64) {
    operation::bury(vm);
    let starts_again = fate == Fate::Off && vm.starts_again.load(Ordering::Relaxed);
    let fate = if starts_again { Fate::Reset } else { fate };
    let fails = matches!(fate, Fate::Crashed | Fate::Hung);
    let mut again = matches!(fate, Fate::Reset | Fate::Restarted) || fails && vm.spec.restarts_on_crash();
    let (what, kind) = match fate {
        Fate::Off => ("is off", event::OFF),
        Fate::Reset => ("restarts", event::RESTARTED),
        Fate::Destroyed if vm.is_held_by(vm::hold::SNAPSHOT) => ("is destroyed", event::DELETED),
        Fate::Destroyed => ("is destroyed", event::DESTROYED),
        Fate::Stopped => ("is turned off", event::STOPPED),
        Fate::Restarted => ("is started again", event::RESET),
        Fate::Hung => ("does not answer", event::CRASHED),
        _ => ("crashed", event::CRASHED),
    };
    let back = watch::take_back(vm, fate, what);
    if back.is_none() {
        log!("{}: {what}{}", vm.name(), if fails && again { " and restarts" } else { "" });
    }
    again |= back.is_some();
    let mut status = status::OK;
    if again
        && back != Some(true)
        && let Err(error) = vm.restart(machine)
    {
        log!("{} cannot restart: {error}", vm.name());
        (again, status) = (false, status::NO_MEMORY);
    }
    let stays = is_by_manager(fate) || vm.spec.stays() && fate != Fate::Destroyed;
    let (next, after) = match () {
        // Who asks for the end of the life that begins now is another.
        () if again => (Next::Again(vm.take_mourner()), event::AFTER_AGAIN),
        () if stays => (Next::Off, event::AFTER_OFF),
        () => (Next::Gone, event::AFTER_GONE),
    };
    if again {
        vm.begin(is_by_manager(fate));
    }
    match (back, fate) {
        (Some(true), Fate::Hung) => events::tell(vm, event::TAKEN_BACK, RECOVERY_HANG as u32),
        (Some(true), _) => events::tell(vm, event::TAKEN_BACK, RECOVERY_CRASH as u32),
        _ => events::tell(vm, kind, after),
    }
    if again && is_by_manager(fate) {
        vm.is_busy.store(false, Ordering::Release);
    }
    (next, status)
}

/// Returns true if the machine is not idle while this one runs. A manager that is started again whatever happens is part of the
/// machine.
fn counts(vm: &Vm) -> bool {
    let is_service = vm.spec.is_manager() && vm.spec.restarts_on_crash();
    !is_service && !vm.is_held_by(vm::hold::SNAPSHOT)
}

impl Machine {
    /// Puts a VM into its slot. Nothing runs it yet.
    pub fn publish(&self, mut vm: Own<Vm>) {
        if vm.source == 0 {
            // There are no more families than slots.
            let is_free =
                |count: &AtomicU32| count.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            vm.kin = FAMILIES.iter().position(is_free).unwrap_or_default();
        } else if FAMILIES[vm.kin].fetch_add(1, Ordering::Relaxed) == 1 {
            self.families.fetch_add(1, Ordering::Relaxed);
        }
        let slot = vm.slot;
        if vm.spec.is_manager() {
            self.scheduler.lock().favour(slot);
        }
        if !vm.is_held_by(vm::hold::OFF) {
            self.join(&vm);
        }
        *VMS[slot].write() = Some(vm);
    }

    /// Puts a VM into its slot that was there before a hand-over. Its vCPUs go on as these say. Returns false if there is another.
    pub fn publish_again(&self, vm: Own<Vm>, activities: &Activities) -> bool {
        let (slot, place) = (vm.slot, Place { slot: vm.slot, id: vm.id });
        if vm.kin >= MAX_VMS || !directory().lock().restore(place, &vm.full_name()) {
            return false;
        }
        if FAMILIES[vm.kin].fetch_add(1, Ordering::Relaxed) == 1 {
            self.families.fetch_add(1, Ordering::Relaxed);
        }
        count_images_of(&vm);
        if vm.is_held_by(vm::hold::NO_MEMORY) {
            self.note_starved();
        }
        if !vm.is_held_by(vm::hold::OFF) {
            self.join(&vm);
        }
        {
            let mut scheduler = self.scheduler.lock();
            if vm.spec.is_manager() {
                scheduler.favour(slot);
            }
            if vm.control() != 0 {
                let _ = scheduler.hold(slot);
            }
            // No CPU has begun: there is nobody to kick.
            for (index, &activity) in activities.iter().enumerate().take(vm.vcpus()) {
                let _ = scheduler.begin(VcpuRef::new(slot, index), activity);
            }
        }
        *VMS[slot].write() = Some(vm);
        true
    }

    /// Keeps a checkpoint of the VM in a slot that it had before a hand-over. Returns false if there is no such VM.
    pub fn keep_again(&self, slot: Option<usize>, checkpoint: Own<Vm>) -> bool {
        let Some(slot) = slot else { return false };
        count_images_of(&checkpoint);
        VMS[slot].read().as_deref().map(|vm| vm.watch.replace_checkpoint(checkpoint)).is_some()
    }

    /// A VM begins to be one of those that run: its NICs are plugged in.
    fn join(&self, vm: &Vm) {
        net::plug_in(vm);
        if counts(vm) {
            self.running.fetch_add(1, Ordering::Relaxed);
            self.has_said_so.store(false, Ordering::Release);
        }
        self.want_merging();
    }

    /// Starts a VM that is off, from its first state.
    ///
    /// # Errors
    ///
    /// A status; it stays off then.
    pub fn start_vm(&self, vm: &Vm) -> Result<(), i64> {
        vm.restart(self).map_err(VmError::status)?;
        self.join(vm);
        log!("{}: is started", vm.name());
        events::tell(vm, event::STARTED, 0);
        vm.begin(true);
        if vm.seal() {
            log!("{}: is frozen", vm.name());
        }
        Ok(())
    }

    /// Makes a VM off whose life is over: what it has of the machine it gives back.
    fn lay_to_rest(&self, vm: &Vm) {
        net::unplug(vm);
        vm.watch.end();
        vm.give_memory_back();
        if counts(vm) {
            self.running.fetch_sub(1, Ordering::AcqRel);
        }
        vm.rest();
    }

    /// Turns a VM off, without a word, whose end the caller has begun, or which is off.
    pub fn put_off(&self, vm: &Vm) {
        if !vm.is_held_by(vm::hold::OFF) {
            self.lay_to_rest(vm);
        }
    }

    fn want_merging(&self) {
        merge::want(self, self.families.load(Ordering::Relaxed), self.running.load(Ordering::Relaxed));
    }

    /// A VM has left its family. The last one of a family has nobody to copy for.
    fn leave_family(&self, family: u64, kin: usize) {
        if FAMILIES[kin].fetch_sub(1, Ordering::Relaxed) == 2 {
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
        let (family, kin) = (vm.family, vm.kin);
        let did_count = counts(&vm) && !vm.is_held_by(vm::hold::OFF);
        net::unplug(&vm);
        // Its memory first: an image that nobody uses may be deleted.
        vm.give_memory_back();
        images::count_user(&vm.spec, false);
        vm.own.iter().for_each(|(own, _)| images::count_user(own, false));
        drive::empty(&vm);
        vm::discard(vm);
        if did_count {
            // Last: who finds that none is left finds all memory given back.
            self.running.fetch_sub(1, Ordering::AcqRel);
        }
        self.scheduler.lock().forget(slot);
        console::forget(slot);
        self.leave_family(family, kin);
        directory().lock().give_back(slot);
        self.memory_may_be_back();
        operation::deliver(asker, Answer::of(status::OK));
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
                events::tell(vm, event::MEMORY_BACK, 0);
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
