//! Management calls ([`salp_hvc::manager`]) about a manager's own life, and about what is outside of a VM's memory: its
//! console, its power button, what became of it. Before: [`super::manage`]; after: the machine, which carries a [`Request`] out.

use crate::addr::Ipa;
use salp_hvc::handover::{CONFIRM, HANDOVER, HANDOVER_STATE};
use salp_hvc::manager::{
    CHECKPOINT, CONSOLE_READ, CONSOLE_WRITE, EVENT_READ, HEARTBEAT, KEEP, RECALL, VM_SIGNAL, VM_USAGE,
};

/// What a manager asks for. Addresses are in its RAM and not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// Keep the manager's state, to go back to.
    Checkpoint,
    /// Expect the next sign of life within so many milliseconds; none if 0.
    Heartbeat { within: u64 },
    /// Keep these bytes as a record.
    Keep { record: u64, from: Ipa, size: u64 },
    /// Write a record.
    Recall { record: u64, to: Ipa, room: u64 },
    /// Write what became of VMs from this event on, and pulse this SPI when there is one more; none if 0.
    ReadEvents { from: u64, to: Ipa, room: u64, intid: u64 },
    /// Tell what the VM has had of the CPUs.
    Usage { vm: u64 },
    /// Write what the VM wrote to its console from this position on.
    ReadConsole { vm: u64, position: u64, to: Ipa, room: u64 },
    /// Type these bytes at the VM's console.
    WriteConsole { vm: u64, from: Ipa, size: u64 },
    /// Press the VM's power button.
    Signal { vm: u64, signal: u64 },
    /// Replace the hypervisor by this image.
    Handover { image: u64 },
    /// Give the hypervisor before it up.
    Confirm,
    /// Tell how hand-overs went.
    HandoverState,
}

/// Returns what a call asks for, or `None` if there is no such call here.
pub const fn decode(id: u32, [a, b, c, d]: [u64; 4]) -> Option<Request> {
    Some(match id {
        CHECKPOINT => Request::Checkpoint,
        HEARTBEAT => Request::Heartbeat { within: a },
        KEEP => Request::Keep { record: a, from: Ipa(b), size: c },
        RECALL => Request::Recall { record: a, to: Ipa(b), room: c },
        VM_USAGE => Request::Usage { vm: a },
        EVENT_READ => Request::ReadEvents { from: a, to: Ipa(b), room: c, intid: d },
        CONSOLE_READ => Request::ReadConsole { vm: a, position: b, to: Ipa(c), room: d },
        CONSOLE_WRITE => Request::WriteConsole { vm: a, from: Ipa(b), size: c },
        VM_SIGNAL => Request::Signal { vm: a, signal: b },
        HANDOVER => Request::Handover { image: a },
        CONFIRM => Request::Confirm,
        HANDOVER_STATE => Request::HandoverState,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_where_the_calls_say() {
        let args = [1, 2, 3, 4];
        assert_eq!(decode(HEARTBEAT, args), Some(Request::Heartbeat { within: 1 }));
        assert_eq!(decode(KEEP, args), Some(Request::Keep { record: 1, from: Ipa(2), size: 3 }));
        let read = Request::ReadConsole { vm: 1, position: 2, to: Ipa(3), room: 4 };
        assert_eq!(decode(CONSOLE_READ, args), Some(read));
        assert_eq!(decode(RECALL, args), Some(Request::Recall { record: 1, to: Ipa(2), room: 3 }));
        assert_eq!(decode(HANDOVER, args), Some(Request::Handover { image: 1 }));
        let read = Request::ReadEvents { from: 1, to: Ipa(2), room: 3, intid: 4 };
        assert_eq!(decode(EVENT_READ, args), Some(read));
        assert_eq!(decode(VM_USAGE, args), Some(Request::Usage { vm: 1 }));
        assert_eq!(decode(KEEP | 0x8, args), None);
    }
}
