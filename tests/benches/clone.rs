//! Prints what cloning costs, in instructions and bytes, beside the leanest way to do it with KVM and beside the goals, and
//! writes the figures to `target/bench/clone.json`.

use salp_tests::clones::{self, FIGURES};
use salp_tests::report;

fn main() {
    if report::is_wanted() {
        report::write("clone", &report::show("instructions, or bytes", &FIGURES, &clones::measure()));
    }
}
