//! Hand-over: the running image is replaced by the next one under VMs that stand still for a moment; the one before stays in memory
//! and comes back until the next one is confirmed.
//!
//! Before: [`crate::life`] and [`crate::commands`], who ask. After: [`salp_hw::handover`], which goes to another image, and in that
//! one [`take_over`].
//!
//! - [`submit`] copies and checks the next image while VMs run. Then every CPU comes to [`serve`] with nothing loaded; all but the
//!   first wait at their doors, and that one writes the records ([`records`]) and jumps.
//! - The next image makes all VMs anew out of the records, in the frames that they had. It takes no frame and writes to no table and
//!   no guest: until it [runs the VMs](salp_hw::handover::trust) the one before finds everything as it was in the same records,
//!   and begins again with them, as the next one did.
//! - From then on only the next one knows how the VMs are, and its own management guest replaces that of the one before
//!   ([`manager`]). If nobody confirms it in time, it hands over to the one before: by new
//!   records, which is the same in the other direction.

mod manager;
mod records;

use crate::console::log;
use crate::machine::{self, Store};
use crate::monitor;
use crate::operation::{self, Answer, Asker};
use crate::vm::Vm;
use crate::{images, update, watch, watchdog};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
pub use records::{Found, adopt_pool};
use salp_core::addr::Pa;
use salp_core::bundle::Refusal::Formats;
use salp_core::frames::{FrameStore, Frames, Kind};
use salp_core::handover::common;
use salp_core::sched::{CpuSet, Leave, VcpuRef};
use salp_hvc::handover::{
    FAILED_REFUSED, FAILED_UNCONFIRMED, Header, IMAGE_ROOM, MAGIC, OFFER, Offer, PAGE, ROOM, STANDBY, Side, failure,
};
use salp_hvc::status;
use salp_hw::crash::{self, Failure, Left, Rescue};
use salp_hw::handover::{self as hw, Head};
use salp_hw::lock::{Mutex, relax};
use salp_hw::{boot, cpu, gic};
use zerocopy::{FromBytes, FromZeros};

/// How long the next image has until it runs the VMs, in milliseconds.
const PATIENCE_MS: u64 = 2000;

/// How long it has until it is confirmed, in milliseconds; `handover-trial=MS` on EL2's command line says otherwise. Its management
/// guest starts in that time, and looks at the machine for ten seconds.
const TRIAL_MS: u64 = 60_000;

/// For how long VMs run before the management guest is replaced, in milliseconds: a slice.
const MANAGER_MS: u64 = 2;

/// How often a lock is tried whose holder may never come back.
const SOON: u32 = 10_000;

/// The slot in a header's asker that stands for the monitor.
const MONITOR: u64 = u64::MAX;

/// A hand-over that is to be done when every CPU is free.
#[derive(Clone, Copy)]
struct Wish {
    head: Head,
    next: Side,
    /// The version that both images know.
    version: u16,
    asker: [u64; 4],
    /// Why this image gives up, if that is it: `FAILED_…`.
    failed: u32,
    /// What the next image's management guest starts from; 0 if this one's goes on.
    manager: u64,
}

/// How it went so far.
struct State {
    /// How many hand-overs there were.
    count: u64,
    /// Why the last one failed.
    failed: u32,
    /// The header of one that is not confirmed.
    trial: Option<Head>,
    /// Until when it must be, by the counter.
    until: u64,
    /// A frame for the header of the way back, meanwhile.
    spare: Option<Pa>,
    /// What the management guest was before that.
    manager: Option<manager::Before>,
    /// What it is to start from, once; 0 for nothing.
    next_manager: u64,
}

static WISH: Mutex<Option<Wish>> = Mutex::new(None);
static IS_WANTED: AtomicBool = AtomicBool::new(false);
static STATE: Mutex<State> =
    Mutex::new(State { count: 0, failed: 0, trial: None, until: 0, spare: None, manager: None, next_manager: 0 });
/// Since when, by the counter, this image runs VMs and is not confirmed. 0 if it is not so.
static TRIED_SINCE: AtomicU64 = AtomicU64::new(0);
/// The CPUs that run, one bit each.
static CPUS: AtomicU8 = AtomicU8::new(0);
/// The first CPU lets the others begin.
static MAY_BEGIN: AtomicBool = AtomicBool::new(false);

/// Returns true if this CPU's vCPU is to leave because of a hand-over.
#[inline]
pub fn is_wanted() -> bool {
    IS_WANTED.load(Ordering::Relaxed)
}

/// Returns the CPUs that run.
pub fn cpus() -> CpuSet {
    CPUS.load(Ordering::Acquire)
}

/// Notes that a CPU has come, and lets it wait until the first one has made the VMs.
pub fn arrive(index: usize) {
    CPUS.fetch_or(1 << index, Ordering::AcqRel);
    if index != 0 {
        while !MAY_BEGIN.load(Ordering::Acquire) {
            if let Some(head) = boot::get().handed.filter(|_| hw::has_failed()) {
                head.wait(index);
            }
            cpu::wait_for_event();
        }
    }
    gic::listen_to_timer_alone(false);
}

/// Lets the other CPUs begin.
pub fn begin() {
    MAY_BEGIN.store(true, Ordering::Release);
    cpu::send_event();
}

/// Replaces this image by another one, as [`salp_hvc::handover::HANDOVER`] says. Returns the answer if it is not done; else the
/// asker gets it later.
pub fn submit(image: u64, asker: Asker) -> Option<Answer> {
    let asker = match asker {
        Asker::Nobody => [0; 4],
        Asker::Monitor => [MONITOR, 0, 0, 0],
        Asker::Vcpu { vcpu, vm, life } => [vcpu.slot() as u64 + 1, vcpu.index() as u64, vm, life.into()],
    };
    if STATE.lock().trial.is_some() {
        return Some(Answer::of(status::WRONG_STATE));
    }
    // One at a time: who asks meanwhile finds it there.
    let mut wish = WISH.lock();
    if wish.is_some() || !update::is_idle() {
        return Some(Answer::of(status::BUSY));
    }
    match prepare(image) {
        Ok((head, next, version, manager)) => {
            *wish = Some(Wish { head, next, version, asker, failed: 0, manager });
            drop(wish);
            want();
            None
        }
        Err(answer) => Some(answer),
    }
}

/// Makes every CPU come to [`serve`].
fn want() {
    IS_WANTED.store(true, Ordering::Release);
    machine::kick(cpus());
}

/// Puts the next image where it will run. Returns a frame for the header, the image's memory, the version that it knows too, and
/// what its management guest starts from.
#[inline(never)] // It has pages on its stack.
fn prepare(image: u64) -> Result<(Head, Side, u16, u64), Answer> {
    let (block, room, frame) = Store
        .with(|frames| {
            let block = frames.alloc_blocks(Kind::Hyp, (IMAGE_ROOM / ROOM) as usize).map_err(|_| status::NO_MEMORY)?;
            let room = frames.alloc_blocks(Kind::Hyp, 1);
            let frame = frames.alloc(Kind::Hyp);
            match (room, frame) {
                (Ok(room), Ok(frame)) => Ok((block, room, frame)),
                (room, frame) => {
                    frames.give_up(block..Pa(block.0 + IMAGE_ROOM));
                    room.into_iter().for_each(|room| frames.give_up(room..Pa(room.0 + ROOM)));
                    frame.into_iter().for_each(|frame| frames.free(frame));
                    Err(status::NO_MEMORY)
                }
            }
        })
        .map_err(Answer::of)?;
    let next = boot::get().next_side(block, room);
    let copied = match image {
        0 => Ok(hw::copy_self(block)),
        STANDBY => update::load_standby(hw::image_memory(block)),
        image => images::size(image)
            .map_err(Answer::of)
            .and_then(|size| update::load(&|at, to| images::read(image, size, at, to), hw::image_memory(block))),
    };
    let verified = copied.and_then(|size| verify(block, size).map_err(Answer::of)).and_then(|(offer, set)| {
        let theirs = offer.versions;
        let version = common(theirs)
            .ok_or_else(|| update::refuse(Formats, format_args!(": it knows hand-overs of versions {theirs:?}")))?;
        // A copy of this image has this one's management guest.
        let set = hw::image_memory(block).get(set).filter(|_| image != 0).unwrap_or_default();
        manager::set_aside(set).map(|manager| (version, manager)).map_err(Answer::of)
    });
    match verified {
        Ok((version, manager)) => Ok((Head::new(frame, &Header::new_zeroed()), next, version, manager)),
        Err(error) => {
            Store.with(|frames| {
                give_up(frames, &next);
                frames.free(frame);
            });
            Err(error)
        }
    }
}

/// Checks the image that was copied to `block`, before any VM stands still for it, and makes it ready to be started. Whatever is to
/// be known of an image before it runs is looked at here. Returns what it offers, and where its boot set is in it.
fn verify(block: Pa, size: u64) -> Result<(Offer, Range<usize>), i64> {
    const IMAGE_SIZE: usize = 16;
    const ARM64: core::ops::Range<usize> = 56..60;
    let start = &hw::sheet(block).0;
    let (offer, _) = start
        .get(OFFER as usize..)
        .and_then(|bytes| Offer::read_from_prefix(bytes).ok())
        .filter(|(offer, _)| offer.magic == MAGIC && start.get(ARM64) == Some(b"ARM\x64"))
        .ok_or(status::INVALID)?;
    let (image_size, _) = start
        .get(IMAGE_SIZE..)
        .and_then(|bytes| u64::read_from_prefix(bytes).ok())
        .filter(|(image_size, _)| (size..=IMAGE_ROOM).contains(image_size))
        .ok_or(status::INVALID)?;
    let packed = u64::from(offer.packed);
    let is_place = packed.is_multiple_of(PAGE as u64) && packed + PAGE as u64 <= size;
    if !is_place {
        return Err(status::INVALID);
    }
    let area = &hw::sheet(Pa(block.0 + packed)).0;
    let (area, _) = salp_hvc::packed::Header::read_from_prefix(area).map_err(|_| status::INVALID)?;
    let end = packed.checked_add(area.total_size.get());
    if area.magic != salp_hvc::packed::MAGIC
        || end.is_none_or(|end| end > size.next_multiple_of(PAGE as u64) || end > image_size)
    {
        return Err(status::INVALID);
    }
    hw::finish_copy(block, size);
    let set = (packed + u64::from(area.bootset_offset.get())) as usize;
    Ok((offer, set..set.saturating_add(area.bootset_len.get() as usize)))
}

fn give_up(frames: &mut Frames<'_>, side: &Side) {
    let [a, b] = side.parts;
    for [start, end] in [side.early, side.nodes, side.room, a, b] {
        frames.give_up(Pa(start)..Pa(end));
    }
}

/// Hands over if that is wanted. No vCPU is loaded on this CPU, and no lock is held.
pub fn serve(index: usize) {
    if !is_wanted() {
        return;
    }
    let Some(wish) = *WISH.lock() else { return };
    if index != 0 {
        wish.head.wait(index);
    }
    // Who does not come to its door, and what no fall-back catches, ends in a reset.
    watchdog::hurry();
    let others = cpus() & !1;
    for other in (0..8).filter(|other| others >> other & 1 != 0) {
        while !wish.head.is_waiting(other) {
            relax();
        }
    }
    let left = hw::take_left(wish.head);
    let can_go_on = left.is_empty();
    if !can_go_on {
        left.into_iter().for_each(tidy_up);
        // What vCPUs were about to be told, nobody tells them now: all look.
        machine::get().scheduler.lock().wake_all();
    }
    let error = hand_over(&wish);
    assert!(can_go_on, "the machine has no memory for records, and a CPU has failed");
    // Nobody has left: everything goes on.
    log!("no hand-over: the machine has no memory for records");
    Store.with(|frames| {
        if wish.failed == 0 {
            give_up(frames, &wish.next);
        }
    });
    let _ = images::delete(wish.manager);
    IS_WANTED.store(false, Ordering::Release);
    *WISH.lock() = None;
    restart_others(wish.head);
    watchdog::begin();
    Store.with(|frames| frames.free(wish.head.frame()));
    answer(wish.asker, Answer::of(error));
}

/// Writes the records and starts the next image. Returns why not.
fn hand_over(wish: &Wish) -> i64 {
    let began = cpu::counter();
    let boot = boot::get();
    let before = STATE.lock().trial.take();
    TRIED_SINCE.store(0, Ordering::Release);
    if let Some(head) = before {
        // What it says is no longer true, and is not needed: this image is trusted with nothing any more.
        records::discard(head);
    }
    let manager = STATE.lock().manager.take();
    if let Some(manager) = manager {
        manager.come_back();
    }
    let Ok((first, pages)) = records::write(wish.version) else { return status::NO_MEMORY };
    let ticks = |ms: u64| cpu::counter_frequency() / 1000 * ms;
    let trial = boot.board.option("handover-trial").and_then(|text| text.parse().ok()).unwrap_or(TRIAL_MS);
    let [frames, merger] = boot.shared_tables();
    let said = wish.head.get();
    let header = Header {
        magic: MAGIC,
        version: wish.version.into(),
        starting: 1,
        sides: [boot.side, wish.next],
        device_tree: boot.loaded.device_tree.as_ptr() as u64,
        first: first.0,
        pages,
        frames,
        merger,
        boot_set: machine::get().boot_set.0,
        deadline: began + ticks(PATIENCE_MS),
        count: STATE.lock().count + 1,
        trial: ticks(trial),
        began,
        way_back: hw::way_back().0,
        failed: wish.failed,
        asker: wish.asker,
        cpus: cpus().into(),
        manager: wish.manager,
        ..said
    };
    wish.head.put(&header);
    wish.head.start()
}

/// Lets the CPUs that wait at the doors of this header come to this image.
fn restart_others(head: Head) {
    let others = cpus() & !1;
    for index in (1..boot::get().board.cpus.len()).filter(|index| others >> index & 1 != 0) {
        let _ = boot::get().start_cpu(index, Some(head));
        // Until it is gone the door is its own.
        while head.is_waiting(index) {
            relax();
        }
    }
}

/// Fails on the operator's request (`handover-fault=STEP:panic`, `:hang`, `:refuse` or `:exception` on EL2's command line), if this
/// image has just been handed over to: to see that the one before comes back.
pub fn fault(step: &str) {
    if hw::is_on_trial()
        && let Some(how) = wanted_fault(step)
    {
        fail(step, how);
    }
}

/// Returns how it is to fail at a step.
fn wanted_fault(step: &str) -> Option<&'static str> {
    let wanted = boot::get().board.option("handover-fault").and_then(|fault| fault.split_once(':'));
    wanted.filter(|(at, _)| *at == step).map(|(_, how)| how)
}

fn fail(step: &str, how: &str) {
    match how {
        "panic" => panic!("the operator asked for it ({step})"),
        "hang" => loop {
            relax();
        },
        "refuse" => refuse(format_args!("the operator asked for it ({step})")),
        "exception" => machine::overflow(),
        _ => {}
    }
}

fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    hw::go_back(FAILED_REFUSED, why);
    panic!("{why}")
}

/// Checks what this image was handed, and takes the frame table over. It goes back if that cannot be.
pub fn examine(head: Head, banks: &[Range<Pa>], storage: &'static mut [u64]) -> (Frames<'static>, Found) {
    fault("start");
    let header = head.get();
    let found = records::check(&header, banks, storage).unwrap_or_else(|error| refuse(format_args!("{error}")));
    let mut state = STATE.lock();
    state.count = header.count;
    state.failed = header.failed;
    fault("check");
    found
}

/// Makes the VMs out of the records and runs them. Called by the first CPU of an image that was handed over to, or has come back;
/// the others wait at their doors.
pub fn take_over(head: Head, found: &Found) {
    let header = head.get();
    records::adopt(&header, found).unwrap_or_else(|error| refuse(format_args!("{error}")));
    fault("adopt");
    let is_complete = call_others(head, &header);
    fault("cpus");
    let came_back = header.starting == 0 || header.failed != 0;
    hw::trust();
    let pause = machine::nanoseconds(cpu::counter().wrapping_sub(header.began)) / 1000;
    if came_back {
        let text = header.reason.get(..header.reason_length as usize).unwrap_or_default();
        let text = core::str::from_utf8(text).unwrap_or_default();
        let separator = if text.is_empty() { "" } else { ": " };
        log!(
            "hand-over {}: the next image did not take over, {}{separator}{text}; the one before goes on with {} VMs after {pause} us",
            header.count,
            failure(header.failed),
            found.vms
        );
        if header.failed == salp_hvc::handover::FAILED_EXCEPTION {
            let [esr, elr, far] = header.exception;
            log!("  ESR {esr:#x}  PC {elr:#x}  FAR {far:#x}");
        }
        finish(head, (usize::from(header.starting == 0), is_complete));
        let _ = images::delete(header.manager);
        answer(header.asker, Answer::of(status::FAILED));
    } else {
        let (now, next_manager) = (cpu::counter(), manager::stop(header.manager));
        let until = now.saturating_add(header.trial);
        {
            let mut state = STATE.lock();
            state.trial = Some(head);
            state.until = until;
            state.spare = Store.with(|frames| frames.alloc(Kind::Hyp)).ok();
            state.next_manager = next_manager;
        }
        crash::set_rescue(Rescue {
            is_possible: || TRIED_SINCE.load(Ordering::Acquire) != 0 && !is_wanted(),
            act: rescue,
        });
        TRIED_SINCE.store(now, Ordering::Release);
        watch::remind(until);
        if boot::get().board.option("handover-fault").is_some() {
            watch::remind(now + fault_ticks());
        }
        if next_manager != 0 {
            watch::remind(now + cpu::counter_frequency() / 1000 * MANAGER_MS);
        }
        log!(
            "hand-over {}: goes on with {} VMs after {pause} us, by records of version {}, to be confirmed",
            header.count,
            found.vms,
            header.version
        );
        answer(header.asker, Answer { status: status::OK, values: [header.count, 0, 0] });
    }
}

/// Gets the CPUs here that wait at their doors, or are about to. Returns true if all came that the image before had.
fn call_others(head: Head, header: &Header) -> bool {
    let second = cpu::counter_frequency();
    let until = cpu::counter() + second / 2;
    let others = (1..boot::get().board.cpus.len()).filter(|index| header.cpus >> index & 1 != 0);
    let mut wanted = 0;
    for index in others {
        while !head.is_waiting(index) && cpu::counter() < until {
            relax();
        }
        if !head.is_waiting(index) {
            log!("CPU {index} is lost: the image before still has it");
            continue;
        }
        match boot::get().start_cpu(index, Some(head)) {
            Ok(()) => wanted |= 1u8 << index,
            Err(error) => log!("CPU {index} did not come: {error}"),
        }
    }
    while cpus() & wanted != wanted {
        let told = head.get().failed;
        if told != header.failed {
            // Another CPU has failed, and said why.
            hw::go_back(told, format_args!(""));
        }
        relax();
    }
    u64::from(wanted) | 1 == header.cpus | 1
}

/// Gives up what a hand-over took, and the image that is this side of it, unless a CPU may still be in that.
fn finish(head: Head, (side, is_left): (usize, bool)) {
    let header = head.get();
    records::discard(head);
    if let Some(side) = header.sides.get(side).filter(|_| is_left) {
        Store.with(|frames| give_up(frames, side));
    }
    machine::get().memory_may_be_back();
}

/// Confirms this image: the one before is given up.
///
/// # Errors
///
/// There is nothing to confirm: a status.
pub fn confirm() -> Result<(), i64> {
    let (head, count, manager, spare) = {
        let mut state = STATE.lock();
        let head = state.trial.take().ok_or(status::WRONG_STATE)?;
        (head, state.count, state.manager.take(), state.spare.take())
    };
    TRIED_SINCE.store(0, Ordering::Release);
    spare.into_iter().for_each(|spare| Store.with(|frames| frames.free(spare)));
    manager.into_iter().for_each(manager::Before::forget);
    finish(head, (0, true));
    log!("hand-over {count}: confirmed");
    Ok(())
}

/// Returns how many hand-overs there were, whether one waits to be confirmed, and why the last one failed.
pub fn state() -> [u64; 3] {
    let state = STATE.lock();
    [state.count, state.trial.is_some().into(), state.failed.into()]
}

/// Replaces the management guest if it waits for that.
fn replace_manager() {
    let image = core::mem::take(&mut STATE.lock().next_manager);
    if image == 0 {
        return;
    }
    let Some(before) = manager::replace(image) else { return };
    let mut state = STATE.lock();
    if state.trial.is_some() {
        state.manager = Some(before);
    } else {
        // Somebody was fast to confirm the image.
        drop(state);
        before.forget();
    }
}

/// Replaces the management guest if that is due, and gives this image up if it should have been confirmed by now.
pub fn look(now: u64) {
    replace_manager();
    {
        let mut state = STATE.lock();
        if state.trial.is_none() {
            return;
        }
        if state.spare.is_none() {
            state.spare = Store.with(|frames| frames.alloc(Kind::Hyp)).ok();
        }
        if now < state.until {
            return watch::remind(state.until);
        }
    }
    if give_image_up(FAILED_UNCONFIRMED, [0; 3], format_args!("")) {
        log!("nobody has confirmed this image: the one before comes back");
        want();
    } else {
        watch::remind(now + cpu::counter_frequency());
    }
}

/// Wishes that the image before comes back. Returns false if that cannot be now. It waits for no lock: who has one may never come
/// back.
fn give_image_up(failed: u32, exception: [u64; 3], why: core::fmt::Arguments<'_>) -> bool {
    let (Some(mut state), Some(mut wish)) = (STATE.lock_within(SOON), WISH.lock_within(SOON)) else { return false };
    let Some(trial) = state.trial.filter(|_| wish.is_none()) else { return false };
    let Some(spare) = state.spare.take() else { return false };
    let before = trial.get();
    let mut header = Header { exception, ..Header::new_zeroed() };
    hw::say(&mut header, why);
    *wish = Some(Wish {
        head: Head::new(spare, &header),
        next: before.sides[0],
        // What it has written it reads.
        version: before.version as u16,
        asker: [0; 4],
        failed,
        manager: 0,
    });
    true
}

/// Gives this image up because a CPU, this one, cannot go on, or waits for one that has done so. It has left everything as it was,
/// locks included: the first CPU takes that over when all others are at their doors.
fn rescue(index: usize, failure: Option<Failure>) {
    if let Some(why) = failure {
        if !give_image_up(why.failed, why.exception, format_args!("{}", why.why)) {
            return;
        }
        want();
    }
    while !is_wanted() {
        relax();
    }
    serve(index);
}

/// Does for a CPU that has left everything behind what it would have done before it came to its door.
fn tidy_up(left: Left) {
    let Left { cpu, mut lrs, .. } = left;
    let Some(vcpu) = machine::get().scheduler.lock().current(cpu) else { return };
    if let Some(vm) = machine::slot(vcpu.slot()).read().as_deref() {
        // Whom else that concerns will look anyway.
        let _ = vm.vgic.lock().fold(vcpu.index(), &mut lrs);
    }
    let _ = machine::get().scheduler.lock().leave(cpu, Leave::Preempted, cpu::counter());
}

/// Fails on the operator's request (`handover-fault=STEP:…`), if this image runs VMs for a while and is not confirmed: in the middle of
/// something on CPU 0 (`run0`) or 1 (`run1`), with a lock of the VM's; or so that every other CPU waits for what is locked
/// (`lock0`, `lock1`).
pub fn fault_running(index: usize, vm: Option<&Vm>) {
    let since = TRIED_SINCE.load(Ordering::Relaxed);
    if since != 0
        && cpu::counter() - since >= fault_ticks()
        && let Some(vm) = vm
        && let Some(&[alone, together]) = [["run0", "lock0"], ["run1", "lock1"]].get(index)
    {
        if let Some(how) = wanted_fault(alone) {
            let _held = vm.devices.lock();
            fail(alone, how);
        }
        if let Some(how) = wanted_fault(together) {
            let _held = machine::get().scheduler.lock();
            fail(together, how);
        }
    }
}

/// Returns for how long an image runs VMs before it fails on request: who asked for the hand-over knows by then that it is done.
fn fault_ticks() -> u64 {
    cpu::counter_frequency() / 2
}

fn answer([slot, vcpu, vm, life]: [u64; 4], answer: Answer) {
    match slot {
        0 => {}
        MONITOR => monitor::tell(answer),
        _ => {
            let vcpu = VcpuRef::new(slot as usize - 1, vcpu as usize);
            operation::deliver(Asker::Vcpu { vcpu, vm, life: life as u32 }, answer);
        }
    }
}
