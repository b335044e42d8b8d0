//! A manager's calls about the slots of the flash ([`salp_hvc::update`]), one function each. The flash takes its time: what is
//! [`BUSY`](salp_hvc::status::BUSY) is asked for again.

use salp_hvc::update::{self, UpdateInfo};

use super::{Answer, call, record};

/// Returns what there is to know of the slots.
pub fn status() -> Answer<UpdateInfo> {
    record(update::UPDATE_STATUS, |address| [address, 0, 0])
}

/// Begins an upload of a bundle with so many bytes.
pub fn begin(size: u64) -> Answer<()> {
    call(update::UPDATE_BEGIN, [size]).map(drop)
}

/// Sends the next bytes, and returns how many were taken.
pub fn write(bytes: &[u8]) -> Answer<usize> {
    let address = bytes.as_ptr().expose_provenance() as u64;
    call(update::UPDATE_WRITE, [address, bytes.len() as u64]).map(|[taken, ..]| taken as usize)
}

/// Ends the upload.
pub fn finish() -> Answer<()> {
    call(update::UPDATE_FINISH, []).map(drop)
}

/// Lets the standby slot boot, on trial.
pub fn activate() -> Answer<()> {
    call(update::UPDATE_ACTIVATE, []).map(drop)
}

/// Confirms the slot that is tried.
pub fn confirm() -> Answer<()> {
    call(update::UPDATE_CONFIRM, []).map(drop)
}

/// Ends the trial.
pub fn cancel() -> Answer<()> {
    call(update::UPDATE_CANCEL, []).map(drop)
}

/// Resets the machine; returns if that is refused.
pub fn reset() -> Answer<()> {
    call(update::MACHINE_RESET, []).map(drop)
}
