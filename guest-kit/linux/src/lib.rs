//! The guest side of cloning, for Linux: one static program, no kernel module.
//!
//! A VM that is to be cloned asks for it ([`freeze`]) or is cloned while it runs ([`watch`]). Either way the clone finds its
//! new [`identity`] in registers of the guest device and takes it on. From the machine to the program:
//!
//! [`tree`] (where the device is) → [`memory`] (its page, through `/dev/mem`) → [`device`] (its registers) → [`identity`]
//! and [`config`] (who this VM is) → [`apply`] (random numbers, clock, names) and [`network`] (MAC, addresses, routes, by
//! [`netlink`]) → [`hooks`] (programs of the user's). [`report`] says what was done. [`power`] waits
//! for the power button, [`agent`] tells how the guest is.
//!
//! Everything but [`sys`] is safe code and is tested on the host.

#![deny(unsafe_code)]

pub mod agent;
pub mod apply;
pub mod config;
pub mod device;
pub mod freeze;
pub mod hooks;
pub mod identity;
pub mod memory;
pub mod netlink;
pub mod network;
pub mod power;
pub mod report;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod watch;
