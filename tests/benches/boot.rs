//! Prints what Salp's operations cost, in instructions, beside what others need on the same machine and beside the goals,
//! and writes the figures to `target/bench/boot.json`.

use salp_tests::figures::{self, FIGURES};
use salp_tests::report;
use serde_json::json;

fn main() {
    if !report::is_wanted() {
        return;
    }
    let mut all = report::show("instructions", &FIGURES, &figures::measure());
    let (salp, bare) = (figures::boot_to_init(false), figures::boot_to_init(true));
    let ratio = salp.clock / bare.clock;
    println!("{:<36} {ratio:>12.4} {:>12} {:>12} {:>10}", "kernel boot to init, to bare EL1", 1.028, 1.014, 1.010);
    let wall = salp.wall / bare.wall;
    println!("{:<36} {wall:>12.2}", "the same by the host's clock");
    all["boot_to_init"] = json!({"salp": salp.clock, "bare": bare.clock, "ratio": ratio, "wall_ratio": wall});
    report::write("boot", &all);
}
