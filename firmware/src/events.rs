//! What becomes of VMs, told to managers: a ring of events, and the interrupt of those who wait for the next one.
//!
//! Before: [`crate::machine`], [`crate::vm`] and [`crate::operation`], which tell; [`crate::life`], by which managers read. After:
//! the frame table; [`crate::vcpu`] calls [`serve`] when no vCPU is loaded and no lock is held.

use crate::machine::{self, Store};
use crate::manage;
use crate::vm::{Records, Vm};
use core::sync::atomic::{AtomicBool, Ordering};
use salp_core::addr::{Ipa, Pa};
use salp_core::events::{RECORDS, Ring};
use salp_core::frames::{FrameStore, Kind};
use salp_core::handover::Full;
use salp_core::vgic::SPIS;
use salp_hvc::events::EventRecord;
use salp_hvc::handover::{self, kind};
use salp_hvc::status;
use salp_hw::boot::MAX_VMS;
use salp_hw::lock::Mutex;
use salp_hw::own::Own;
use salp_hw::{cpu, gic};
use zerocopy::{FromZeros, IntoBytes};

/// How many events are copied at a time.
const PIECE: usize = 16;
/// How many managers can wait for the next event.
const WAITERS: usize = handover::WAITERS;
/// Interrupts that a manager can wait by.
const INTIDS: core::ops::Range<u64> = 32..32 + SPIS as u64;

/// A manager that waits for the next event.
struct Waiter {
    slot: usize,
    id: u64,
    intid: u32,
}

struct Events {
    ring: Ring<Own<[EventRecord; RECORDS]>>,
    waiters: heapless::Vec<Waiter, WAITERS>,
}

static EVENTS: Mutex<Events> = Mutex::new(Events { ring: Ring::EMPTY, waiters: heapless::Vec::new() });
/// Somebody who waits has not been told yet.
static IS_NEWS: AtomicBool = AtomicBool::new(false);

/// Sets memory aside. Called once, before there are VMs.
pub fn prepare() {
    EVENTS.lock().ring.prepare(|| {
        let frame = Store.with(|frames| frames.alloc(Kind::Hyp)).ok()?;
        Some(Own::new(frame, [EventRecord::new_zeroed(); RECORDS]))
    });
}

/// Writes what a hand-over has of them.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_record(out: &mut Records<'_>) -> Result<(), Full> {
    let events = EVENTS.lock();
    let mut about = handover::Events { last: events.ring.last(), ..Default::default() };
    let pages = events.ring.pages().map(|page| page.map_or(0, |page| page.frame().0));
    about.pages.iter_mut().zip(pages).for_each(|(to, page)| *to = page);
    let waiters = events.waiters.iter().map(|waiter| [waiter.slot as u64, waiter.id, waiter.intid.into()]);
    about.waiters.iter_mut().zip(waiters).for_each(|(to, waiter)| *to = waiter);
    out.write(kind::EVENTS, 0, &[about.as_bytes()])
}

/// Takes over what a hand-over has of them. Returns false if that cannot be.
pub fn resume(about: &handover::Events) -> bool {
    let mut events = EVENTS.lock();
    events.ring.resume(about.pages.iter().map(|&page| (page != 0).then(|| Own::adopt(Pa(page)))), about.last);
    events.waiters.clear();
    for &[slot, id, intid] in about.waiters.iter().filter(|waiter| **waiter != [0; 3]) {
        if slot >= MAX_VMS as u64 || !INTIDS.contains(&intid) {
            return false;
        }
        // There is room for all that there were.
        let _ = events.waiters.push(Waiter { slot: slot as usize, id, intid: intid as u32 });
    }
    // Who is told once too often looks, and waits again.
    IS_NEWS.store(!events.waiters.is_empty(), Ordering::Release);
    true
}

/// Tells what became of a VM.
pub fn tell(vm: &Vm, kind: u32, detail: u32) {
    let event = EventRecord {
        number: 0.into(),
        time: machine::wall_clock_ns().into(),
        vm: vm.id.into(),
        kind: kind.into(),
        detail: detail.into(),
        name: *vm.full_name().padded(),
    };
    let mut events = EVENTS.lock();
    events.ring.push(&event);
    if !events.waiters.is_empty() && !IS_NEWS.swap(true, Ordering::AcqRel) {
        drop(events);
        // Who tells may be in the exit of a vCPU that stays, and on all other CPUs vCPUs may wait with their registers loaded.
        gic::kick(cpu::affinity());
    }
}

/// Returns true if a CPU is to [serve](serve): without a vCPU.
#[inline]
pub fn has_news() -> bool {
    IS_NEWS.load(Ordering::Relaxed)
}

/// Interrupts managers that wait, if there is something for them.
#[inline]
pub fn serve() {
    if IS_NEWS.load(Ordering::Relaxed) && IS_NEWS.swap(false, Ordering::AcqRel) {
        let waiters = core::mem::take(&mut EVENTS.lock().waiters);
        for Waiter { slot, id, intid } in waiters {
            if let Some(vm) = machine::slot(slot).read().as_deref().filter(|vm| vm.id == id) {
                let told = vm.vgic.lock().pulse(intid, 0);
                vm.notify(told);
            }
        }
    }
}

/// Writes events from a number on to a manager's memory. Returns how many, and the number to go on with. If that is all, the
/// manager gets the interrupt `intid` when there is one more, unless it is 0.
///
/// # Errors
///
/// A status.
pub fn read(manager: &Vm, from: u64, to: Ipa, room: u64, intid: u64) -> Result<[u64; 3], i64> {
    if intid != 0 && !INTIDS.contains(&intid) {
        return Err(status::INVALID);
    }
    let room = room / size_of::<EventRecord>() as u64;
    let (mut count, mut next) = (0, from);
    loop {
        let mut piece = [EventRecord::new_zeroed(); PIECE];
        let wanted = piece.get_mut(..PIECE.min((room - count) as usize)).unwrap_or_default();
        let (copied, is_all) = {
            let mut events = EVENTS.lock();
            let (copied, after) = events.ring.read(next, wanted);
            next = after;
            let is_all = next > events.ring.last();
            if is_all && intid != 0 {
                events.waiters.retain(|waiter| waiter.id != manager.id);
                let waiter = Waiter { slot: manager.slot, id: manager.id, intid: intid as u32 };
                events.waiters.push(waiter).map_err(|_| status::TOO_MANY)?;
            }
            (copied, is_all)
        };
        let offset = count * size_of::<EventRecord>() as u64;
        manage::write(manager, Ipa(to.0.wrapping_add(offset)), wanted.get(..copied).unwrap_or_default().as_bytes())?;
        count += copied as u64;
        if is_all || count == room {
            return Ok([count, next, 0]);
        }
    }
}
