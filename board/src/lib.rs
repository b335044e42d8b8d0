//! What machine is this, and what machine does a guest see.
//!
//! - `guest` (feature `guest`): the machine that a guest sees, written as its device tree.
//! - `kernel`, `layout` (feature `guest`): what kernel files are, and where everything lies in a guest's memory.
//! - [`facts`]: the device tree of the machine, read into [`facts::Board`]. It is the only place that knows device tree
//!   bindings; the rest of EL2 sees facts.
#![no_std]
#![forbid(unsafe_code)]

pub mod facts;
#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "guest")]
pub mod kernel;
#[cfg(feature = "guest")]
pub mod layout;
#[cfg(feature = "guest")]
pub mod size;
