//! The language in which a person or a script manages the machine: one line of text is a command, lines of text are the
//! reply. Before: the line, from the serial console (through [`editor`]) or from the runner; after: EL2, which carries the
//! [`Command`] out and answers through [`reply`].
//!
//! A line is words with spaces between them. A part of a word in double quotes may hold spaces; in it `\"`, `\\` and `\n`
//! stand for a quote, a backslash and a line feed. A reply is rows of `key=value`, quoted in the same way ([`words`]), and a
//! last line that begins with `ok` or `error`, which no row does.
//!
//! Only reading and writing is here: nothing is looked up, nothing is done.

pub mod command;
pub mod editor;
pub mod reply;
pub mod words;

pub use command::{Cloning, Command, CommandError, Target, parse};

/// The greatest length of a line, in bytes.
pub const MAX_LINE: usize = 2048;
