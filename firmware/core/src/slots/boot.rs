//! What the first stage does: chooses a slot, counts the attempt, checks signature and digest, falls back. Before:
//! [`super::Control`]; after: the image.

use super::{Control, Slot, Standby, write};
use crate::bundle::{self, Bundle, HEAD, Host, Refusal};
use crate::digest::Hasher;
use crate::flash::Flash;

/// A slot that is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Which one.
    pub slot: Slot,
    /// What its bundle says.
    pub bundle: Bundle,
    /// Why the slot before it was not started.
    pub refused: Option<(Slot, Refusal)>,
}

/// Why neither slot can be started, A first.
pub type Unusable = [Refusal; 2];

/// Reads what a slot's bundle says, and checks its signature.
///
/// # Errors
///
/// Why it is no bundle of ours.
pub fn open(flash: &impl Flash, slot: Slot, keys: &[bundle::Key]) -> Result<Bundle, Refusal> {
    let mut head = [0; HEAD];
    flash.read(slot.at(), &mut head);
    bundle::open(&head, keys)
}

/// Copies a slot's image to the start of `memory`, if its bundle is good for this machine.
///
/// # Errors
///
/// As for [`bundle::load`].
pub fn load<H: Hasher>(
    flash: &impl Flash,
    slot: Slot,
    host: &Host<'_>,
    floor: u64,
    memory: &mut [u8],
) -> Result<Bundle, Refusal> {
    bundle::load::<H>(&|offset, to: &mut [u8]| flash.read(slot.at() + offset, to), host, floor, memory)
}

/// Chooses a slot and loads its image to the start of `memory`. What has to be remembered is written down before the image is
/// loaded; a flash that does not keep it does not stop the start of what is confirmed.
///
/// # Errors
///
/// Why neither slot can be started.
pub fn start<H: Hasher>(flash: &mut impl Flash, host: &Host<'_>, memory: &mut [u8]) -> Result<Started, Unusable> {
    let mut control = Control::read(flash).unwrap_or_else(|| found(flash, host));
    let (mut slot, counted) = control.next_start();
    if let Some(counted) = counted {
        if write(flash, &counted).is_err() {
            // What cannot be counted is not tried.
            slot = control.confirmed;
        }
        control = counted;
    }
    let first = match load::<H>(flash, slot, host, control.floor, memory) {
        Ok(bundle) => return Ok(Started { slot, bundle, refused: None }),
        Err(refusal) => refusal,
    };
    if let (true, Ok(failed)) = (slot != control.confirmed, control.cancel()) {
        let _ = write(flash, &failed);
    }
    let other = slot.other();
    // Half of a bundle has no digest that is right; what failed is better than nothing only if nothing else is left.
    match load::<H>(flash, other, host, control.floor, memory) {
        Ok(bundle) => Ok(Started { slot: other, bundle, refused: Some((slot, first)) }),
        Err(second) => Err(if slot == Slot::A { [first, second] } else { [second, first] }),
    }
}

/// Returns a boot control made from what is in the slots, when both copies are lost: the bundle with the greater security
/// counter counts as confirmed.
fn found(flash: &impl Flash, host: &Host<'_>) -> Control {
    let counter = |slot| open(flash, slot, host.keys).map(|bundle| bundle.manifest.counter).ok();
    let confirmed = if counter(Slot::B) > counter(Slot::A) { Slot::B } else { Slot::A };
    Control { standby: Standby::Failed, ..Control::new(confirmed, counter(confirmed).unwrap_or(0)) }
}
