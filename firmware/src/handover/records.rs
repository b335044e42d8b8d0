//! The records of a hand-over: all that EL2 knows, written, checked, and made anew.
//!
//! Before: [`super`], which has stopped every CPU. After: [`salp_core::handover`], and each part's own record.

use crate::console;
use crate::events;
use crate::images;
use crate::keep;
use crate::machine::{self, Store};
use crate::merge;
use crate::update;
use crate::vm::{Records, Vm, sheets};
use salp_core::addr::Pa;
use salp_core::frames::{FrameStore, Frames, Kind};
use salp_core::handover::{Full, Part, Refusal, Sheet, Writer, activity, is_frame, read};
use salp_core::sched::{Activity, VCPUS_PER_VM};
use salp_hvc::handover::{self, Header, Page, kind};
use salp_hw::handover::{Head, Sheets, sheet};
use zerocopy::{FromBytes, IntoBytes};

/// What was found when the records were checked.
pub struct Found {
    /// What there is one of.
    pub machine: handover::Machine,
    /// How many VMs and snapshots there are.
    pub vms: u64,
}

/// How many frames the records of all but VMs take at most.
const OTHERS: usize = 32;

/// Frames for records, linked by the first word of each.
struct Supply {
    next: Pa,
}

impl Supply {
    fn take(count: usize) -> Result<Self, Full> {
        let mut this = Self { next: Pa(0) };
        for _ in 0..count {
            let Ok(frame) = Store.with(|frames| frames.alloc(Kind::Hyp)) else {
                this.give_back();
                return Err(Full);
            };
            this.link(frame);
        }
        Ok(this)
    }

    fn link(&mut self, frame: Pa) {
        let head = Page { next: self.next.0, used: 0, reserved: 0 };
        if let Some(place) = sheet(frame).0.get_mut(..size_of::<Page>()) {
            place.copy_from_slice(head.as_bytes());
        }
        self.next = frame;
    }

    fn pop(&mut self) -> Option<Pa> {
        let frame = Some(self.next).filter(|next| next.0 != 0)?;
        self.next = next_of(frame);
        Some(frame)
    }

    fn give_back(mut self) {
        while let Some(frame) = self.pop() {
            Store.with(|frames| frames.free(frame));
        }
    }
}

/// Returns the frame that comes after one.
fn next_of(frame: Pa) -> Pa {
    Page::read_from_prefix(&sheet(frame).0).map_or(Pa(0), |(head, _)| Pa(head.next))
}

/// Writes all records, for an image that knows this version. No vCPU is on any CPU, and no other CPU is in this image. Returns the first frame, and how many hold
/// records.
///
/// # Errors
///
/// There are not enough frames.
pub fn write(version: u16) -> Result<(Pa, u64), Full> {
    let mut count = OTHERS;
    machine::for_each(|vm, _| {
        let one = |vm: &Vm| 4 + vm.vcpus();
        count += one(vm) + vm.watch.with_checkpoint(one).unwrap_or(0);
    });
    let mut supply = Supply::take(count)?;
    let mut take = || supply.pop().map(|frame| (frame, sheet(frame)));
    write_all(version, &mut take)
}

fn write_all(version: u16, take: &mut dyn FnMut() -> Option<(Pa, &'static mut Sheet)>) -> Result<(Pa, u64), Full> {
    let mut out: Records<'_> = Writer::new(version, take);
    // All frames are taken: the table is as it will be found. Those that are left are linked behind the records.
    machine::write_records(&mut out)?;
    images::write_records(&mut out)?;
    keep::write_records(&mut out)?;
    update::write_record(&mut out)?;
    events::write_record(&mut out)?;
    console::write_records(&mut out)?;
    merge::write_record(&mut out)?;
    let mut result = Ok(());
    machine::for_each(|vm, frame| {
        if result.is_ok() {
            result = vm.write_records(frame, &mut out);
        }
    });
    result?;
    out.finish()
}

/// Gives back the frames of the records of a hand-over, and that of its header.
pub fn discard(head: Head) {
    let mut next = Pa(head.get().first);
    while next.0 != 0 {
        let frame = next;
        next = next_of(frame);
        Store.with(|frames| frames.free(frame));
    }
    Store.with(|frames| frames.free(head.frame()));
}

/// Checks all records of a hand-over, and takes the frame table over.
///
/// # Errors
///
/// Says what is wrong. Nothing was changed.
pub fn check(
    header: &Header,
    banks: &[core::ops::Range<Pa>],
    storage: &'static mut [u64],
) -> Result<(Frames<'static>, Found), Refusal> {
    let first = Pa(header.first);
    let is_ram = |at: Pa| banks.iter().any(|bank| bank.contains(&at));
    let (mut machine, mut table) = (None, None);
    read(&Sheets(is_ram), first, header.pages, &mut |part| {
        match part {
            Part::Machine(record) => machine = Some(*record),
            Part::Frames(record) => table = Some(*record),
            _ => {}
        }
        Ok(())
    })?;
    let machine = machine.ok_or(Refusal::Lacks(kind::MACHINE))?;
    let table = table.ok_or(Refusal::Lacks(kind::FRAMES))?;
    let frames = Frames::adopt(banks, storage, &table).ok_or(Refusal::Wrong(kind::FRAMES))?;
    let mut vms = 0;
    // What frames of records are is known now too.
    read(&Sheets(|at: Pa| is_frame(&frames, at.0)), first, header.pages, &mut |part| {
        let is_sound = match &part {
            Part::Vm(vm) => {
                vms += u64::from(vm.about.id != 0);
                return vm.check(&frames);
            }
            Part::Kept(index, pages) => {
                (*index < 16 && pages.pages.iter().all(|&at| at == 0 || is_frame(&frames, at)), kind::KEPT)
            }
            Part::Events(about) => (about.pages.iter().all(|&at| at == 0 || is_frame(&frames, at)), kind::EVENTS),
            Part::Pool(pool) => (pool.iter().all(|&at| is_frame(&frames, at)), kind::POOL),
            _ => (true, 0),
        };
        if is_sound.0 { Ok(()) } else { Err(Refusal::Wrong(is_sound.1)) }
    })?;
    if vms == machine.vms { Ok((frames, Found { machine, vms })) } else { Err(Refusal::Lacks(kind::VM)) }
}

/// Gives the drivers the frames that those of the image before had.
pub fn adopt_pool(head: Head) {
    let header = head.get();
    let _ = read(&sheets(), Pa(header.first), header.pages, &mut |part| {
        if let Part::Pool(pool) = part {
            machine::give_pool(pool);
        }
        Ok(())
    });
}

/// Makes everything anew that the records tell of.
///
/// # Errors
///
/// They are not what was checked.
pub fn adopt(header: &Header, found: &Found) -> Result<(), Refusal> {
    let machine = machine::get();
    let mut last = None;
    read(&sheets(), Pa(header.first), header.pages, &mut |part| {
        let is_done = match &part {
            Part::Image(record) => images::restore(record),
            Part::Kept(index, pages) => keep::adopt(*index, pages),
            Part::Events(about) => events::resume(about),
            Part::Store(about) => update::resume(about),
            Part::Log(position, text) => {
                console::resume_log(*position, text);
                true
            }
            Part::Merging(record) => merge::restore(record),
            Part::Vm(saved) => match Vm::restored(machine, saved) {
                None => false,
                Some(vm) if saved.about.id == 0 => machine.keep_again(last, vm),
                Some(vm) => {
                    last = Some(vm.slot);
                    let vcpus = &saved.vcpus;
                    let activities: [Activity; VCPUS_PER_VM] = core::array::from_fn(|index| {
                        vcpus
                            .get(index)
                            .copied()
                            .flatten()
                            .and_then(|vcpu| activity(&vcpu.about))
                            .unwrap_or(Activity::Off)
                    });
                    machine.publish_again(vm, &activities)
                }
            },
            _ => true,
        };
        if is_done { Ok(()) } else { Err(Refusal::Wrong(kind::VM)) }
    })?;
    (0..u32::BITS as usize).filter(|record| found.machine.unwritten >> record & 1 != 0).for_each(keep::mark_changed);
    if let Some(slot) = (found.machine.attached as usize).checked_sub(1) {
        console::attach_again(slot);
    }
    Ok(())
}
