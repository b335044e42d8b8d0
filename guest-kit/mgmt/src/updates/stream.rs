//! A bundle on its way into the flash. Before: [`push`](super::push), [`media::fetch`](crate::media::fetch). After: EL2, which takes
//! as much as the flash is ready for.

use alloc::vec::Vec;

use salp_hvc::status;
use salp_hvc::update::refusal_word;

use crate::hypervisor::{Hypervisor, Refused};
use crate::message::Failure;
use crate::resources::updates::SERVICE;

/// An upload.
#[derive(Debug, Default)]
pub struct Stream {
    /// What the flash had no time for yet: as much as comes at a time.
    pending: Vec<u8>,
}

/// Returns why a call about the slots was refused, for people.
pub fn refused(hypervisor: &dyn Hypervisor, Refused(why): Refused) -> Failure {
    match why {
        status::REFUSED => {
            let reason = hypervisor.slots().map_or("", |info| refusal_word(info.refusal.get()));
            let why = alloc::format!("The bundle is refused: {reason}. What starts is what started before.");
            Failure::because(400, &why)
        }
        status::WRONG_STATE => Failure::because(
            409,
            "The slots are in no state for it: an image is on trial or waits for it, or none is staged.",
        ),
        why => Failure::refused(Refused(why), SERVICE),
    }
}

impl Stream {
    /// Begins an upload of so many bytes, or of as many as the bundle says for 0.
    ///
    /// # Errors
    ///
    /// Why there can be none.
    pub fn begin(hypervisor: &mut dyn Hypervisor, size: u64) -> Result<Self, Failure> {
        let begun = hypervisor.begin_update(size);
        begun.map_err(|why| refused(hypervisor, why)).map(|()| Self::default())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// The bundle is refused.
    pub fn push(&mut self, hypervisor: &mut dyn Hypervisor, bytes: &[u8]) -> Result<(), Failure> {
        self.pending.extend_from_slice(bytes);
        self.drain(hypervisor).map(drop)
    }

    /// Goes on, as far as the flash is ready for it; returns whether all is there.
    ///
    /// # Errors
    ///
    /// The bundle is refused.
    pub fn drain(&mut self, hypervisor: &mut dyn Hypervisor) -> Result<bool, Failure> {
        let mut rest = &self.pending[..];
        while !rest.is_empty() {
            match hypervisor.write_update(rest) {
                Ok(0) => break,
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(why) => return Err(refused(hypervisor, why)),
            }
        }
        self.pending = rest.to_vec();
        Ok(self.pending.is_empty())
    }
}
