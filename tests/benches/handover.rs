//! Prints for how long VMs stand still for a hand-over, in instructions, beside the goals, and writes the figures to
//! `target/bench/handover.json`.

use salp_tests::handovers::{self, FIGURES};
use salp_tests::report;

fn main() {
    if report::is_wanted() {
        report::write("handover", &report::show("instructions", &FIGURES, &handovers::measure()));
    }
}
