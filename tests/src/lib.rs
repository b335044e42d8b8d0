//! Whole-machine tests and benchmarks: a description of a machine and its VMs, started, watched, and judged.
//!
//! Comes after the runner (`salp_qemu`), which builds and starts everything. From a description to a verdict:
//! [`Setup`] (with [`Vm`]s) → [`Running`] → [`Ended`]; [`figures`] reads what the guest `bench` measures, [`clones`] what
//! clones cost, [`network`] what frames do, [`handovers`] what replacing the hypervisor does; [`report`] shows it.
//! [`stock`](mod@stock) are programs of others that manage the machine.
//!
//! A test is a story about what a user sees on the console; whatever goes wrong panics with the last lines of it.

#![forbid(unsafe_code)]

pub mod api;
pub mod clones;
pub mod figures;
pub mod handovers;
pub mod machine;
pub mod network;
pub mod report;
pub mod server;
pub mod stock;
pub mod tools;
pub mod vm;

pub use api::Api;
pub use machine::{Ended, Running, Setup};
pub use salp_qemu::monitor::Reply;
pub use vm::{Vm, guest, linux, stock};

/// Returns whether the long variants of tests are asked for: `SALP_LONG=1`.
pub fn long() -> bool {
    std::env::var("SALP_LONG").is_ok_and(|value| !matches!(&*value, "" | "0"))
}
