//! Records that managers keep at EL2: what has to outlive the crash of a manager.
//!
//! Before: [`crate::life`]. After: the frame table, and the flash if the machine was started from one ([`crate::update`]): records
//! outlive a reset then. A record has frames of its own as long as it holds something.

use crate::machine::Store;
use crate::manage;
use crate::update;
use crate::vm::{Records, Vm};
use core::sync::atomic::{AtomicU32, Ordering};
use salp_core::addr::{Ipa, PAGE_SIZE, Pa};
use salp_core::frames::{FrameStore, Kind};
use salp_core::handover::Full;
use salp_hvc::handover::{Pages, kind};
use salp_hvc::manager::{MAX_RECORD, RECORDS};
use salp_hvc::status;
use salp_hw::lock::Mutex;
use salp_hw::own::Own;
use zerocopy::IntoBytes;

const PAGE: usize = PAGE_SIZE as usize;

struct Record {
    pages: [Option<Own<[u8; PAGE]>>; MAX_RECORD as usize / PAGE],
    size: u64,
}

impl Record {
    const EMPTY: Self = Self { pages: [const { None }; MAX_RECORD as usize / PAGE], size: 0 };

    /// Fills an empty record with what `read` puts into its parts.
    fn fill(&mut self, size: u64, read: impl Fn(u64, &mut [u8]) -> Result<(), i64>) -> Result<(), i64> {
        self.size = size;
        let offsets = (0..size).step_by(PAGE);
        for (place, offset) in self.pages.iter_mut().zip(offsets) {
            let frame = Store.with(|frames| frames.alloc(Kind::Hyp)).map_err(|_| status::NO_MEMORY)?;
            let page = place.insert(Own::new(frame, [0; PAGE]));
            let part = page.get_mut(..PAGE.min((size - offset) as usize)).unwrap_or_default();
            read(offset, part)?;
        }
        Ok(())
    }

    fn give_back(self) {
        let frames = self.pages.into_iter().flatten().map(Own::release);
        frames.for_each(|frame| Store.with(|frames| frames.free(frame)));
    }
}

static KEPT: [Mutex<Record>; RECORDS as usize] = [const { Mutex::new(Record::EMPTY) }; RECORDS as usize];

/// Which of them have changed since they were written to the flash.
static CHANGED: AtomicU32 = AtomicU32::new(0);

fn place(record: u64) -> Result<&'static Mutex<Record>, i64> {
    KEPT.get(usize::try_from(record).unwrap_or(usize::MAX)).ok_or(status::INVALID)
}

/// Keeps bytes of a manager's memory as a record, in place of what it held.
///
/// # Errors
///
/// A status; the record is as it was then.
pub fn keep(manager: &Vm, record: u64, from: Ipa, size: u64) -> Result<(), i64> {
    let place = place(record)?;
    if size > MAX_RECORD {
        return Err(status::INVALID);
    }
    let mut new = Record::EMPTY;
    let result = new.fill(size, |offset, part| manage::read(manager, Ipa(from.0.wrapping_add(offset)), part));
    if result.is_ok() {
        core::mem::swap(&mut *place.lock(), &mut new);
        mark_changed(record as usize);
    }
    new.give_back();
    update::write_records();
    result
}

/// Puts a record in place that was kept before the machine was reset. Returns false if there is no memory for it.
pub fn restore(record: usize, size: usize, read: impl Fn(usize, &mut [u8])) -> bool {
    let Some(place) = KEPT.get(record) else { return false };
    let mut new = Record::EMPTY;
    let is_done = new
        .fill(size as u64, |offset, part| {
            read(offset as usize, part);
            Ok(())
        })
        .is_ok();
    if is_done {
        core::mem::swap(&mut *place.lock(), &mut new);
    }
    new.give_back();
    is_done
}

/// Notes that a record is to be written to the flash.
pub fn mark_changed(record: usize) {
    CHANGED.fetch_or(1 << record, Ordering::Release);
}

/// Returns which records have changed, one bit each.
pub fn changed() -> u32 {
    CHANGED.load(Ordering::Acquire)
}

/// Returns a record that has changed since it was written to the flash, once.
pub fn next_changed() -> Option<usize> {
    let record = CHANGED.load(Ordering::Acquire).trailing_zeros();
    (record < u32::BITS).then(|| {
        CHANGED.fetch_and(!(1 << record), Ordering::AcqRel);
        record as usize
    })
}

/// Returns the size of a record.
pub fn size(record: usize) -> usize {
    KEPT.get(record).map_or(0, |record| record.lock().size as usize)
}

/// Copies a record, or as much of it as there is room for.
pub fn copy(record: usize, to: &mut [u8]) {
    let Some(record) = KEPT.get(record) else { return };
    for (to, page) in to.chunks_mut(PAGE).zip(record.lock().pages.iter().flatten()) {
        to.copy_from_slice(page.get(..to.len()).unwrap_or_default());
    }
}

/// Writes what a hand-over has of them.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_records(out: &mut Records<'_>) -> Result<(), Full> {
    for (index, record) in KEPT.iter().enumerate() {
        let record = record.lock();
        if record.size != 0 {
            let mut about = Pages { size: record.size, ..Pages::default() };
            let frames = record.pages.iter().map(|page| page.as_ref().map_or(0, |page| page.frame().0));
            about.pages.iter_mut().zip(frames).for_each(|(to, frame)| *to = frame);
            out.write(kind::KEPT, index as u64, &[about.as_bytes()])?;
        }
    }
    Ok(())
}

/// Takes over a record that was kept before a hand-over. Returns false if there is no such record.
pub fn adopt(index: u64, about: &Pages) -> bool {
    let Ok(place) = place(index) else { return false };
    let mut record = place.lock();
    record.size = about.size.min(MAX_RECORD);
    for (place, &frame) in record.pages.iter_mut().zip(&about.pages) {
        *place = (frame != 0).then(|| Own::adopt(Pa(frame)));
    }
    true
}

/// Writes as much of a record to a manager's memory as there is room for. Returns the record's size.
///
/// # Errors
///
/// A status.
pub fn recall(manager: &Vm, record: u64, to: Ipa, room: u64) -> Result<u64, i64> {
    let record = place(record)?.lock();
    let wanted = record.size.min(room);
    for (page, offset) in record.pages.iter().flatten().zip((0..wanted).step_by(PAGE)) {
        let part = page.get(..PAGE.min((wanted - offset) as usize)).unwrap_or_default();
        manage::write(manager, Ipa(to.0.wrapping_add(offset)), part)?;
    }
    Ok(record.size)
}
