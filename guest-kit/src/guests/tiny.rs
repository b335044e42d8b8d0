//! The smallest guest: says what the counters were at its first instruction, and turns off. For the boot benchmark.

use crate::rt::start;
use crate::test;

/// Runs the guest.
pub fn main() {
    test::bench("reset_to_first_instruction", 1, start::first_physical_count());
    test::bench("reset_to_first_instruction_virtual", 1, start::first_virtual_count());
}
