//! The guests, one module each with a function `main`. Before: the runtime. After: the console.

pub mod abort;
pub mod bench;
pub mod builtin;
pub mod psci;
pub mod spin;
pub mod timer;
pub mod tiny;
