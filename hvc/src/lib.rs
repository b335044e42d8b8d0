//! The ABI of Salp: every record and number that crosses a boundary, and no logic.
//!
//! - [`bootset`]: the VMs that the machine starts with, as the runner (or flash) hands them to EL2.
#![no_std]
#![forbid(unsafe_code)]

pub mod bootset;
