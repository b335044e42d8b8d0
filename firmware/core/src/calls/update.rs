//! Management calls about the slots of the flash ([`salp_hvc::update`]), taken out of a manager's registers. Before:
//! [`super::manage`]; after: [`crate::update`] and the machine, which carry a [`Request`] out.

use crate::addr::Ipa;
use salp_hvc::update::{
    MACHINE_RESET, UPDATE_ACTIVATE, UPDATE_BEGIN, UPDATE_CANCEL, UPDATE_CONFIRM, UPDATE_FINISH, UPDATE_STATUS,
    UPDATE_WRITE,
};

/// What a manager asks for. Addresses are in its RAM and not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// Write what is known of the slots.
    Status { to: Ipa },
    /// Begin an upload of so many bytes.
    Begin { size: u64 },
    /// Take the next bytes.
    Write { from: Ipa, size: u64 },
    /// End the upload.
    Finish,
    /// Let the standby slot boot, on trial.
    Activate,
    /// Confirm what is tried.
    Confirm,
    /// End the trial.
    Cancel,
    /// Reset the machine.
    Reset,
}

/// Returns what a call asks for, or `None` if there is no such call here.
pub const fn decode(id: u32, [a, b, _, _]: [u64; 4]) -> Option<Request> {
    Some(match id {
        UPDATE_STATUS => Request::Status { to: Ipa(a) },
        UPDATE_BEGIN => Request::Begin { size: a },
        UPDATE_WRITE => Request::Write { from: Ipa(a), size: b },
        UPDATE_FINISH => Request::Finish,
        UPDATE_ACTIVATE => Request::Activate,
        UPDATE_CONFIRM => Request::Confirm,
        UPDATE_CANCEL => Request::Cancel,
        MACHINE_RESET => Request::Reset,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_where_the_calls_say() {
        assert_eq!(decode(UPDATE_WRITE, [1, 2, 3, 4]), Some(Request::Write { from: Ipa(1), size: 2 }));
        assert_eq!(decode(UPDATE_STATUS, [1, 2, 3, 4]), Some(Request::Status { to: Ipa(1) }));
        assert_eq!(decode(0xc600_0078, [0; 4]), None);
    }
}
