//! The guests, one module each with a function `main`. Before: the runtime. After: the console.

pub mod abort;
pub mod bench;
pub mod builtin;
pub mod crash;
pub mod debug;
pub mod fpsimd;
pub mod hostile;
pub mod irq;
pub mod memory;
pub mod psci;
pub mod spin;
pub mod timer;
pub mod tiny;
