//! The flash of the machine: managers' calls about its slots, and the records that it keeps for them.
//!
//! Before: [`crate::manage`], [`crate::keep`]. After: [`salp_core::update`] and [`salp_core::store`], which say what is right, over
//! [`salp_hw::cfi`]. One lock covers the flash and all that is known of it; behind it comes that of a record. No call waits for
//! the flash: calls of managers drive it on.

use crate::console::log;
use crate::keep;
use crate::manage;
use crate::operation::Answer;
use crate::vm::Vm;
use salp_core::addr::Ipa;
use salp_core::bundle::{Host, class_of};
use salp_core::calls::update::Request;
use salp_core::flash::{Flash, Progress};
use salp_core::keys::Keys;
use salp_core::store::{KEYS, Store};
use salp_core::update::{MAX_STEP, UpdateError, Updater};
use salp_hvc::status;
use salp_hvc::update::{FORMATS, PHASE_NONE, UpdateInfo, layout};
use salp_hw::boot;
use salp_hw::cfi::Nor;
use salp_hw::lock::Mutex;
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
}

/// How many steps one call does for the store.
const STEPS: usize = 8;

/// Returns the flash. It has none if the machine has none that Salp knows.
fn chip() -> &'static Mutex<Chip> {
    static CHIP: Once<&'static Mutex<Chip>> = Once::new();
    CHIP.call_once(|| {
        let chip = boot::get().keep(
            const {
                let store = Store::new(layout::STORE, layout::STORE_SIZE);
                Mutex::new(Chip { flash: None, updater: None, store })
            },
        );
        chip.lock().flash = boot::flash();
        chip
    })
}

/// Returns whether records are kept here: the machine was started from this flash. One beside another loader is not ours.
fn keeps_records() -> bool {
    boot::get().loaded.slot.is_some()
}

/// Reads the records that were kept before the machine was reset, for [`keep`].
pub fn recall_all() {
    if !keeps_records() {
        return;
    }
    let Chip { flash: Some(flash), store, .. } = &mut *chip().lock() else { return };
    store.load(flash);
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
    let Chip { flash: Some(flash), store, .. } = &mut *chip().lock() else { return true };
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

/// Does something with the slots, unless the flash is busy.
fn on_flash<R>(what: impl FnOnce(&mut Updater, &mut Nor) -> Result<R, UpdateError>) -> Result<R, UpdateError> {
    let Chip { flash: Some(flash), updater, .. } = &mut *chip().lock() else { return Err(UpdateError::NoFlash) };
    if flash.poll() == Progress::Busy {
        return Err(UpdateError::Busy);
    }
    let updater = updater.get_or_insert_with(|| Updater::new(flash, SIGNERS.list(), boot::get().loaded.slot));
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

fn answer(result: Result<u64, UpdateError>) -> Answer {
    match result {
        Ok(value) => Ok([value, 0, 0]).into(),
        Err(UpdateError::Refused(refusal)) => {
            log!("a bundle is refused: {refusal}");
            Answer { status: status::REFUSED, values: [refusal as u64, 0, 0] }
        }
        Err(error) => Answer::of(error.status()),
    }
}
