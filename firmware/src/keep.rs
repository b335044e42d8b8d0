//! Records that managers keep at EL2: what has to outlive the crash of a manager.
//!
//! Before: [`crate::life`]. After: the frame table. A record has frames of its own as long as it holds something.

use crate::machine::Store;
use crate::manage;
use crate::vm::{Records, Vm};
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

    /// Fills an empty record.
    fn fill(&mut self, manager: &Vm, from: Ipa, size: u64) -> Result<(), i64> {
        self.size = size;
        let offsets = (0..size).step_by(PAGE);
        for (place, offset) in self.pages.iter_mut().zip(offsets) {
            let frame = Store.with(|frames| frames.alloc(Kind::Hyp)).map_err(|_| status::NO_MEMORY)?;
            let page = place.insert(Own::new(frame, [0; PAGE]));
            let part = page.get_mut(..PAGE.min((size - offset) as usize)).unwrap_or_default();
            manage::read(manager, Ipa(from.0.wrapping_add(offset)), part)?;
        }
        Ok(())
    }

    fn give_back(self) {
        let frames = self.pages.into_iter().flatten().map(Own::release);
        frames.for_each(|frame| Store.with(|frames| frames.free(frame)));
    }
}

static KEPT: [Mutex<Record>; RECORDS as usize] = [const { Mutex::new(Record::EMPTY) }; RECORDS as usize];

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
    let result = new.fill(manager, from, size);
    if result.is_ok() {
        core::mem::swap(&mut *place.lock(), &mut new);
    }
    new.give_back();
    result
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
pub fn restore(index: u64, about: &Pages) -> bool {
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
