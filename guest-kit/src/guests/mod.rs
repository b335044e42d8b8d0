//! The guests, one module each with a function `main`. Before: the runtime. After: the console.
//!
//! | guest | what it shows |
//! |---|---|
//! | [`builtin`] | a friendly shell, packed in the image |
//! | [`tiny`] | the counter at the first instruction |
//! | [`psci`] | PSCI 1.1, SMCCC, TRNG |
//! | [`irq`] | GICv3 |
//! | [`timer`] | the generic timer on every vCPU |
//! | [`debug`] | breakpoints, watchpoints, software step |
//! | [`fpsimd`] | FP and SIMD are kept, absent features are UNDEFINED |
//! | [`abort`] | external aborts where nothing is |
//! | [`hostile`] | garbage to everything, repeatable by its seed |
//! | [`rings`] | a NIC, with rings that break every rule |
//! | [`button`] | the power button |
//! | [`memory`] | a pattern in all of RAM |
//! | [`spin`], [`crash`] | bad neighbours |
//! | [`clone`](mod@clone) | what clones are promised, and what they cost |
//! | [`manager`] | management calls |
//! | [`bench`](mod@bench) | what operations cost |
//! | [`net`] | what frames cost |

pub mod abort;
pub mod bench;
pub mod builtin;
pub mod button;
pub mod clone;
pub mod crash;
pub mod debug;
pub mod fpsimd;
pub mod hostile;
pub mod irq;
pub mod manager;
pub mod memory;
pub mod net;
mod nic;
pub mod psci;
pub mod rings;
pub mod spin;
pub mod timer;
pub mod tiny;
