//! Management calls about a manager's own life, carried out.
//!
//! Before: [`crate::manage`]. After: [`crate::watch`], [`crate::keep`].

use crate::keep;
use crate::operation::{self, Answer, Asker, What};
use crate::vm::Vm;
use salp_core::calls::life::Request;
use salp_hvc::status;

/// Carries out a call of a manager. Returns the answer, or `None` if the asker gets it later.
pub fn carry_out(manager: &Vm, request: Request, asker: Asker) -> Option<Answer> {
    let answer = match request {
        // Other vCPUs would be in the middle of something.
        Request::Checkpoint if manager.vcpus() != 1 => Err(status::WRONG_STATE),
        Request::Checkpoint => return operation::submit(manager.id, What::Checkpoint, asker),
        Request::Heartbeat { within } => {
            manager.watch.heartbeat(within);
            Ok([0; 3])
        }
        Request::Keep { record, from, size } => keep::keep(manager, record, from, size).map(|()| [0; 3]),
        Request::Recall { record, to, room } => keep::recall(manager, record, to, room).map(|size| [size, 0, 0]),
    };
    Some(answer.into())
}
