//! The guests, one module each with a function `main`. Before: the runtime. After: the console.

pub mod builtin;
pub mod psci;
pub mod spin;
pub mod tiny;
