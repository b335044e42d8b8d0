//! The flash of the machine: managers' calls about its slots, and the records that it keeps for them.
//!
//! Before: [`crate::manage`], [`crate::keep`]. After: [`salp_core::update`] and [`salp_core::store`], which say what is right, over
//! [`salp_hw::cfi`]. One lock covers the flash and all that is known of it; behind it comes that of a record. No call waits for
//! the flash: calls of managers drive it on.

use crate::console::log;
use crate::keep;
use crate::manage;
use crate::operation::Answer;
use crate::vm::{Records, Vm};
use crate::watchdog;
use core::sync::atomic::{AtomicU64, Ordering};
use salp_core::addr::Ipa;
use salp_core::bundle::{self, Host, class_of};
use salp_core::calls::update::Request;
use salp_core::digest::Sha256;
use salp_core::flash::{Flash, Progress};
use salp_core::handover::Full;
use salp_core::keys::Keys;
use salp_core::slots::{self, Slot, Standby};
use salp_core::store::{KEYS, Store};
use salp_core::update::{MAX_STEP, UpdateError, Updater};
use salp_hvc::handover::kind;
use salp_hvc::status;
use salp_hvc::update::{FORMATS, PHASE_NONE, SECURITY_COUNTER, UpdateInfo, layout};
use salp_hw::boot;
use salp_hw::cfi::Nor;
use salp_hw::lock::{Mutex, relax};
use salp_hw::stage::IMAGE_SIZE;
use spin::Once;
use zerocopy::{FromZeros, IntoBytes};

/// Who may sign what this image accepts.
static SIGNERS: Keys = Keys::parse(option_env!("SALP_KEYS"));

/// The flash, and what is known of it.
struct Chip {
    flash: Option<Nor>,
    /// Made when it is first asked for: it checks signatures.
    updater: Option<Updater>,
    store: Store,
    /// The store knows what is in the flash.
    is_read: bool,
}

/// The slot that an image before was started from, plus 1: a hand-over has brought it.
static HANDED: AtomicU64 = AtomicU64::new(0);

/// How many steps one call does for the store.
const STEPS: usize = 8;

/// Returns the flash. It has none if the machine has none that Salp knows.
fn chip() -> &'static Mutex<Chip> {
    static CHIP: Once<&'static Mutex<Chip>> = Once::new();
    CHIP.call_once(|| {
        let chip = boot::get().keep(
            const {
                let store = Store::new(layout::STORE, layout::STORE_SIZE);
                Mutex::new(Chip { flash: None, updater: None, store, is_read: false })
            },
        );
        chip.lock().flash = boot::flash();
        chip
    })
}

/// Returns whether records are kept here: the machine was started from this flash. One beside another loader is not ours.
fn keeps_records() -> bool {
    slot().is_some()
}

/// Returns the slot that this image, or the one before it, was started from.
pub fn slot() -> Option<Slot> {
    let handed = || Slot::from_index((HANDED.load(Ordering::Relaxed) as u32).checked_sub(1)?);
    boot::get().loaded.slot.or_else(handed)
}

/// Takes over what a hand-over says of the slot: 0 for none, then A, B.
pub fn adopt(slot: u64) {
    HANDED.store(slot, Ordering::Relaxed);
}

/// Returns false if something is under way that a hand-over would break off.
pub fn is_idle() -> bool {
    let chip = chip().lock();
    chip.store.is_idle() && chip.updater.as_ref().is_none_or(Updater::is_idle)
}

/// Waits until the flash is not busy, and writes what a hand-over has of it.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_record(out: &mut Records<'_>) -> Result<(), Full> {
    let Chip { flash: Some(flash), store, .. } = &mut *chip().lock() else { return Ok(()) };
    while flash.poll() == Progress::Busy {
        relax();
    }
    store.record().map_or(Ok(()), |record| out.write(kind::STORE, 0, &[record.as_bytes()]))
}

/// Takes over where the records are in the flash. Returns false if that cannot be.
pub fn resume(record: &salp_hvc::handover::Store) -> bool {
    let mut chip = chip().lock();
    chip.is_read = chip.store.resume(record);
    chip.is_read
}

/// Reads the records that were kept before the machine was reset, for [`keep`].
pub fn recall_all() {
    if !keeps_records() {
        return;
    }
    let Chip { flash: Some(flash), store, is_read, .. } = &mut *chip().lock() else { return };
    store.load(flash);
    *is_read = true;
    for key in 0..KEYS {
        let size = store.size(key);
        if size > 0 && !keep::restore(key, size, |offset, part| store.read(flash, key, offset, part)) {
            log!("there is no memory for record {key}, which the flash keeps");
        }
    }
}

/// Goes on with writing down the records that have changed. Returns whether all are written.
pub fn write_records() -> bool {
    if !keeps_records() {
        return true;
    }
    let Chip { flash: Some(flash), store, is_read, .. } = &mut *chip().lock() else { return true };
    if !core::mem::replace(is_read, true) {
        // It was written to when this image was handed over to: what came of that is not known.
        store.load(flash);
        (0..KEYS).for_each(keep::mark_changed);
    }
    for _ in 0..STEPS {
        match store.step(flash) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => {
                log!("the flash does not keep records any more");
                return true;
            }
        }
        let Some(key) = keep::next_changed() else { return true };
        let size = keep::size(key);
        if flash.poll() == Progress::Busy || store.put(key, size, |room| keep::copy(key, room)).is_err() {
            keep::mark_changed(key);
            return false;
        }
    }
    false
}

/// Does something with bundles in mind.
fn with_host<R>(act: impl FnOnce(&Host<'_>) -> R) -> R {
    let classes: heapless::Vec<_, 4> = boot::get().board.models.iter().map(|model| class_of(model)).collect();
    act(&Host { keys: SIGNERS.list(), classes: &classes, formats: FORMATS, room: IMAGE_SIZE })
}

/// Carries out a call of a manager.
#[inline(never)] // It has a page on its stack.
pub fn carry_out(manager: &Vm, request: Request) -> Answer {
    let result = match request {
        Request::Status { to } => {
            let info = on_flash(|updater, flash| {
                // What it finds is told.
                let _ = updater.step(flash);
                Ok(updater.info())
            });
            let none = UpdateInfo { phase: PHASE_NONE.into(), ..UpdateInfo::new_zeroed() };
            return match info {
                Ok(info) => manage::write(manager, to, info.as_bytes()).map(|()| [0; 3]).into(),
                Err(UpdateError::NoFlash) => manage::write(manager, to, none.as_bytes()).map(|()| [0; 3]).into(),
                Err(error) => answer(Err(error)),
            };
        }
        Request::Write { from, size } => return write(manager, from, size),
        Request::Reset if !write_records() => Err(UpdateError::Busy),
        Request::Reset => match on_flash(Updater::step) {
            Err(UpdateError::Busy) => Err(UpdateError::Busy),
            _ => {
                log!("a manager resets the machine");
                boot::system_reset()
            }
        },
        Request::Begin { size } => on_flash(|updater, flash| updater.begin(flash, size)),
        Request::Finish => with_host(|host| on_flash(|updater, flash| updater.finish(flash, host))),
        Request::Activate => on_flash(Updater::activate),
        Request::Confirm => on_flash(Updater::confirm),
        Request::Cancel => on_flash(Updater::cancel),
    };
    answer(result.map(|()| 0))
}

/// Copies the image in the standby slot, which is activated, to the start of `memory`, with a note of where it comes from. Returns
/// its size.
///
/// # Errors
///
/// What the asker is told.
pub fn load_standby(memory: &mut [u8]) -> Result<u64, Answer> {
    let loaded = with_host(|host| {
        on_flash(|updater, flash| {
            updater.step(flash)?;
            let control = updater.control();
            if !matches!(control.standby, Standby::Trial(_)) {
                return Err(UpdateError::WrongState);
            }
            let slot = control.standby_slot();
            let bundle =
                slots::boot::load::<Sha256>(flash, slot, host, control.floor, memory).map_err(UpdateError::Refused)?;
            boot::note(memory, Some(slot), watchdog::was_expired());
            Ok(bundle.manifest.size)
        })
    });
    loaded.map_err(|error| answer(Err(error)))
}

/// Copies the image of the bundle whose bytes `read` gives to the start of `memory`. Returns its size.
///
/// # Errors
///
/// What the asker is told.
pub fn load(read: &dyn Fn(u64, &mut [u8]), memory: &mut [u8]) -> Result<u64, Answer> {
    let floor = on_flash(|updater, _| Ok(updater.control().floor)).unwrap_or(SECURITY_COUNTER);
    let loaded = with_host(|host| bundle::load::<Sha256>(read, host, floor, memory));
    boot::note(memory, None, watchdog::was_expired());
    loaded.map(|bundle| bundle.manifest.size).map_err(|refusal| answer(Err(UpdateError::Refused(refusal))))
}

/// Does something with the slots, unless the flash is busy.
fn on_flash<R>(what: impl FnOnce(&mut Updater, &mut Nor) -> Result<R, UpdateError>) -> Result<R, UpdateError> {
    let Chip { flash: Some(flash), updater, .. } = &mut *chip().lock() else { return Err(UpdateError::NoFlash) };
    if flash.poll() == Progress::Busy {
        return Err(UpdateError::Busy);
    }
    let updater = updater.get_or_insert_with(|| Updater::new(flash, SIGNERS.list(), slot()));
    what(updater, flash)
}

/// Takes bytes of a manager's memory, as many as one step writes.
fn write(manager: &Vm, from: Ipa, size: u64) -> Answer {
    let mut bytes = [0; MAX_STEP];
    let bytes = bytes.get_mut(..size.min(MAX_STEP as u64) as usize).unwrap_or_default();
    if let Err(status) = manage::read(manager, from, bytes) {
        return Answer::of(status);
    }
    let taken = with_host(|host| on_flash(|updater, flash| updater.write(flash, host, bytes)));
    answer(match taken {
        Err(UpdateError::Busy) => Ok(0),
        taken => taken.map(|taken| taken as u64),
    })
}

/// Refuses a bundle, and tells of it.
pub fn refuse(refusal: bundle::Refusal, detail: core::fmt::Arguments<'_>) -> Answer {
    log!("a bundle is refused: {refusal}{detail}");
    Answer { status: status::REFUSED, values: [refusal as u64, 0, 0] }
}

fn answer(result: Result<u64, UpdateError>) -> Answer {
    match result {
        Ok(value) => Ok([value, 0, 0]).into(),
        Err(UpdateError::Refused(refusal)) => refuse(refusal, format_args!("")),
        Err(error) => Answer::of(error.status()),
    }
}
