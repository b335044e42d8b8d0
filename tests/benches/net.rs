//! Prints what frames between guests cost, in instructions, beside the goals, and writes the figures to
//! `target/bench/net.json`.

use salp_tests::network::{self, FIGURES};
use salp_tests::report;

fn main() {
    if report::is_wanted() {
        report::write("net", &report::show("instructions", &FIGURES, &network::measure()));
    }
}
