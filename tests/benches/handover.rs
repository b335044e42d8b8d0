//! Prints for how long VMs stand still for a hand-over, in instructions, beside the goals, and writes the figures to
//! `target/bench/handover.json`.

use salp_qemu::paths;
use salp_tests::handovers::{self, FIGURES};
use serde_json::json;

fn main() {
    // `cargo test --benches` only wants to know that this starts.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let measured = handovers::measure();
    println!("{:<36} {:>12} {:>12}", "instructions", "Salp", "goal");
    for figure in FIGURES {
        let ours = measured.get(figure.name).map_or("-".into(), u64::to_string);
        println!("{:<36} {ours:>12} {:>12}", figure.about, figure.goal);
    }

    let rows = FIGURES.map(|figure| {
        let ours = measured.get(figure.name);
        json!({"name": figure.name, "salp": ours, "goal": figure.goal})
    });
    let all = json!({
        "machine": "neoverse-n1,cntfrq=1000000000 -icount shift=0,sleep=off -seed 1",
        "compared": rows,
        "measured": measured,
    });
    let file = paths::target().join("bench/handover.json");
    paths::write_whole(&file, format!("{all:#}\n").as_bytes()).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", file.display());
}
