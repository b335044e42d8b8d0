//! Management calls about a manager's own life, carried out.
//!
//! Before: [`crate::manage`]. After: [`crate::keep`].

use crate::keep;
use crate::operation::Answer;
use crate::vm::Vm;
use salp_core::calls::life::Request;

/// Carries out a call of a manager. Returns the answer, or `None` if it comes later.
pub fn carry_out(manager: &Vm, request: Request) -> Option<Answer> {
    let answer = match request {
        Request::Keep { record, from, size } => keep::keep(manager, record, from, size).map(|()| [0; 3]),
        Request::Recall { record, to, room } => keep::recall(manager, record, to, room).map(|size| [size, 0, 0]),
    };
    Some(answer.into())
}
