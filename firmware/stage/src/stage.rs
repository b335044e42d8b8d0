//! From the board's facts to the image.

use core::fmt::Write;
use heapless::Vec;
use salp_board::facts::MAX_MODELS;
use salp_core::bundle::{Host, class_of};
use salp_core::keys::Keys;
use salp_core::slots::boot::{self, Started, Unusable};
use salp_core::watchdog::{PATIENCE_MS, Watchdog};
use salp_hvc::update::FORMATS;
use salp_hw::sha256::Sha256;
use salp_hw::stage;

/// Who may sign what is started.
static KEYS: Keys = Keys::parse(option_env!("SALP_KEYS"));

/// The first stage's main function.
pub fn main() -> ! {
    let board = stage::board().unwrap_or_else(|error| panic!("{error}"));
    let mut console = stage::console(&board);
    let Some(mut flash) = stage::flash(&board) else { panic!("the device tree names no flash that Salp knows") };
    let classes: Vec<_, MAX_MODELS> = board.models.iter().map(|model| class_of(model)).collect();
    let host = Host { keys: KEYS.list(), classes: &classes, formats: FORMATS, room: stage::IMAGE_SIZE };
    let memory = stage::image_memory();
    let mut watchdog = stage::watchdog(&board);
    let was_expired = watchdog.as_mut().is_some_and(Watchdog::take_expired);
    if was_expired {
        let _ = writeln!(console, "salp| the watchdog has reset the machine");
    }
    // From here on, so that whatever hangs is tried again, or counted.
    watchdog.iter_mut().for_each(|watchdog| watchdog.arm(PATIENCE_MS));
    let _ = match boot::start::<Sha256>(&mut flash, &host, memory) {
        Ok(started) => {
            let _ = announce(&mut console, &started);
            stage::start(memory, started.slot, was_expired)
        }
        Err(refused) => {
            watchdog.iter_mut().for_each(Watchdog::disarm);
            rescue(&mut console, &refused)
        }
    };
    stage::halt()
}

fn announce(console: &mut impl Write, started: &Started) -> core::fmt::Result {
    if let Some((slot, refusal)) = started.refused {
        writeln!(console, "salp| slot {}: {refusal}", slot.letter())?;
    }
    let manifest = &started.bundle.manifest;
    let version = manifest.version.split(|&byte| byte == 0).next().unwrap_or_default();
    let version = core::str::from_utf8(version).unwrap_or_default();
    writeln!(console, "salp| slot {}: {version}, security counter {}", started.slot.letter(), manifest.counter)
}

/// Tells what is wrong with both slots, and what a person can do.
fn rescue(console: &mut impl Write, [a, b]: &Unusable) -> core::fmt::Result {
    writeln!(console, "salp| slot A: {a}")?;
    writeln!(console, "salp| slot B: {b}")?;
    writeln!(console, "salp| RESCUE: neither slot can be started, and none was changed. The machine stays here.")?;
    writeln!(
        console,
        "salp| Write a signed bundle to offset 0x400000 of the flash (slot A) or 0x800000 (slot B), with what"
    )?;
    writeln!(console, "salp| programs this board's flash, and reset the machine: docs/update.md, \"Rescue\".")
}
