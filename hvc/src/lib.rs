//! The ABI of Salp: every record and number that crosses a boundary, and no logic.
//!
//! - [`bootset`]: the VMs that the machine starts with, as the runner (or flash) hands them to EL2.
//! - [`calls`]: what guests and managers ask of EL2, and the records that go with it; [`manager`] and [`host`]: more of it, for
//!   the management guest; [`events`]: what becomes of VMs; [`status`]: what it answers.
//! - [`device`]: the same for programs that cannot make calls: registers.
//! - [`handover`]: what one image of the hypervisor leaves to the next.
//! - [`agent`]: what a guest tells of itself, by either way.
//! - [`update`]: the flash, its slots, and the calls that update them.
//! - [`packed`]: what the image carries behind its code: symbols and the built-in boot set.
#![no_std]
#![forbid(unsafe_code)]

pub mod agent;
pub mod bootset;
pub mod calls;
pub mod device;
pub mod events;
pub mod handover;
pub mod host;
pub mod manager;
pub mod packed;
pub mod status;
pub mod update;
