//! Spins forever on every vCPU, with interrupts masked: the neighbour that a fair scheduler must hold back.

use core::hint;

use crate::println;
use crate::rt::{cpu, sysreg};

/// Runs the guest.
pub fn main() {
    println!("spin: {} vCPUs", cpu::start_all(spin));
    spin(0);
}

fn spin(_: u64) {
    sysreg::mask_all();
    loop {
        hint::spin_loop();
    }
}
