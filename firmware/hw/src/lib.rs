//! All unsafe code and all assembly of the hypervisor, behind safe or narrowly unsafe functions.
//!
//! In the order of a boot: `entry.S` → [`mmu`] → [`cpu`], [`gic`], [`uart`], [`virtio`] → [`switch`]; [`memory`] and
//! [`own`] are what `salp-core` stands on; [`cfi`] is the flash, [`watchdog`] what resets a machine that hangs; [`crash`] is the end, or [`handover`] a new beginning.
//! [`stage`] is what runs before all that,
//! with [`sha256`], which only a program without guests can use.
#![no_std]
#![cfg(target_os = "none")]

mod layout;
mod sysreg;

pub mod boot;
pub mod cfi;
pub mod cpu;
pub mod crash;
pub mod gic;
pub mod handover;
pub mod lock;
pub mod memory;
pub mod mmu;
pub mod own;
pub mod psci;
pub mod sha256;
pub mod stage;
pub mod switch;
pub mod uart;
pub mod virtio;
pub mod watchdog;
