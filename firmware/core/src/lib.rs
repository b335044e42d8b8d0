//! All logic of the hypervisor. It touches no hardware, has no unsafe code and runs on the host.
//!
//! Modules follow the path that data takes, each names the one before and after it in its first lines:
//! [`addr`] → memory → address spaces → VM → vCPU → exit → call / device → record ([`handover`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod agent;
pub mod bootset;
pub mod bundle;
pub mod calls;
pub mod context;
pub mod dev;
pub mod digest;
pub mod directory;
pub mod entropy;
pub mod events;
pub mod exit;
pub mod flash;
pub mod frames;
pub mod handover;
pub mod identity;
pub mod images;
pub mod keys;
pub mod monitor;
pub mod net;
pub mod pci;
pub mod place;
pub mod recovery;
pub mod remains;
pub mod ring;
pub mod sched;
pub mod scrollback;
pub mod slots;
pub mod stage2;
pub mod store;
#[cfg(test)]
mod testing;
pub mod update;
pub mod vgic;
pub mod watchdog;
