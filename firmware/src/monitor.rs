//! The monitor.

use crate::operation::Answer;

/// Gives an answer to whoever asked at the monitor.
pub fn deliver(_answer: Answer) {}
