//! Prints what cloning costs, in instructions and bytes, beside the leanest way to do it with KVM and beside the goals, and
//! writes the figures to `target/bench/clone.json`.

use salp_qemu::paths;
use salp_tests::clones::{self, FIGURES};
use serde_json::json;

fn main() {
    // `cargo test --benches` only wants to know that this starts.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let measured = clones::measure();
    let shown = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    println!("{:<36} {:>12} {:>12} {:>12}", "instructions, or bytes", "Salp", "KVM", "goal");
    for figure in FIGURES {
        let (ours, kvm) = (measured.get(figure.name).copied(), shown(figure.kvm));
        println!("{:<36} {:>12} {kvm:>12} {:>12}", figure.about, shown(ours), figure.goal);
    }
    for (name, value) in measured.iter().filter(|(name, _)| FIGURES.iter().all(|figure| figure.name != **name)) {
        println!("{name:<36} {value:>12}");
    }

    let rows = FIGURES.map(|figure| {
        let ours = measured.get(figure.name);
        json!({"name": figure.name, "salp": ours, "kvm": figure.kvm, "goal": figure.goal})
    });
    let all = json!({
        "machine": "neoverse-n1,cntfrq=1000000000 -icount shift=0,sleep=off -seed 1",
        "compared": rows,
        "measured": measured,
    });
    let file = paths::target().join("bench/clone.json");
    paths::write_whole(&file, format!("{all:#}\n").as_bytes()).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", file.display());
}
