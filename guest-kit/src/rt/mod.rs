//! The runtime: everything that needs unsafe code or assembly. Before: whoever loaded the guest. After: `guests`.
//!
//! [`start`] is the first instruction of every vCPU, [`exception`] what the vectors lead to, [`cpu`] starts the other
//! vCPUs, [`console`] prints, [`mmio`] and [`sysreg`] reach the machine, [`mmu`] edits the address map, [`ram`] hands
//! out the memory that the image does not use, [`el0`] runs code at EL0, [`instruction`] holds single instructions
//! that a test wants to execute just so, [`freeze`](mod@freeze) is the call that clones return from.
//! With the feature `net`, `heap`, `virtio` and `net` are for guests on the network, and `copy` is quicker for them.
#![allow(unsafe_code)]

pub mod console;
#[cfg(feature = "net")]
mod copy;
pub mod cpu;
pub mod debug;
pub mod el0;
pub mod exception;
pub mod freeze;
pub mod generated;
#[cfg(feature = "net")]
pub mod heap;
pub mod instruction;
pub mod mmio;
pub mod mmu;
#[cfg(feature = "net")]
pub mod net;
pub mod operation;
pub mod ram;
pub mod registers;
pub mod ruin;
pub mod start;
pub mod sysreg;
pub mod tree;
#[cfg(feature = "net")]
pub mod virtio;
