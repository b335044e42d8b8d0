//! Management calls about the machine itself, and about what a VM starts from ([`salp_hvc::host`]): taken out of a manager's
//! registers. Before: [`super::manage`]; after: the machine, which carries a [`Request`] out.

use crate::addr::Ipa;
use salp_hvc::host::{CLOCK, LOG_READ, MACHINE_CPU, MACHINE_POWER, VM_MEDIUM, VM_START_FROM};

/// What a manager asks for. Addresses are in its RAM and not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// Put the image into the VM's drive, or take out what is in it, or look.
    Medium { vm: u64, image: u64 },
    /// Start the VM from what the records name: for one life, or until it is off.
    StartFrom { vm: u64, from: Ipa, size: u64, lasts: u64 },
    /// Set the clock, unless it is 0.
    Clock { time: u64 },
    /// Write what is in the log from this position on.
    ReadLog { position: u64, to: Ipa, room: u64 },
    /// Reset the machine, or turn it off.
    Power { how: u64 },
    /// Describe a CPU.
    Cpu { index: u64 },
}

/// Returns what such a call asks for, or `None` if there is no such call.
pub const fn decode(id: u32, [a, b, c, d]: [u64; 4]) -> Option<Request> {
    Some(match id {
        VM_MEDIUM => Request::Medium { vm: a, image: b },
        VM_START_FROM => Request::StartFrom { vm: a, from: Ipa(b), size: c, lasts: d },
        CLOCK => Request::Clock { time: a },
        LOG_READ => Request::ReadLog { position: a, to: Ipa(b), room: c },
        MACHINE_POWER => Request::Power { how: a },
        MACHINE_CPU => Request::Cpu { index: a },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_where_the_calls_say() {
        let args = [1, 2, 3, 4];
        assert_eq!(decode(VM_MEDIUM, args), Some(Request::Medium { vm: 1, image: 2 }));
        let start = Request::StartFrom { vm: 1, from: Ipa(2), size: 3, lasts: 4 };
        assert_eq!(decode(VM_START_FROM, args), Some(start));
        assert_eq!(decode(LOG_READ, args), Some(Request::ReadLog { position: 1, to: Ipa(2), room: 3 }));
        assert_eq!(decode(CLOCK, args), Some(Request::Clock { time: 1 }));
        assert_eq!(decode(MACHINE_CPU | 8, args), None);
    }
}
