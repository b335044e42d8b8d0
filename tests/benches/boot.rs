//! Prints what Salp's operations cost, in instructions, beside what others need on the same machine and beside the goals,
//! and writes the figures to `target/bench/boot.json`.

use salp_qemu::paths;
use salp_tests::figures::{self, FIGURES};
use serde_json::json;

fn main() {
    // `cargo test --benches` only wants to know that this starts.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let measured = figures::measure();
    let shown = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    println!("{:<36} {:>12} {:>12} {:>12} {:>10}", "instructions", "Salp", "Xen 4.17", "KVM 6.1", "goal");
    for figure in FIGURES {
        let (ours, xen, kvm) = (measured.get(figure.name).copied(), shown(figure.xen), shown(figure.kvm));
        println!("{:<36} {:>12} {xen:>12} {kvm:>12} {:>10}", figure.about, shown(ours), figure.goal);
    }
    for (name, value) in measured.iter().filter(|(name, _)| FIGURES.iter().all(|figure| figure.name != **name)) {
        println!("{name:<36} {value:>12}");
    }
    let (salp, bare) = (figures::boot_to_init(false), figures::boot_to_init(true));
    let ratio = salp.clock / bare.clock;
    println!("{:<36} {ratio:>12.4} {:>12} {:>12} {:>10}", "kernel boot to init, to bare EL1", 1.028, 1.014, 1.010);
    let wall = salp.wall / bare.wall;
    println!("{:<36} {wall:>12.2}", "the same by the host's clock");

    let rows = FIGURES.map(|figure| {
        let ours = measured.get(figure.name);
        json!({"name": figure.name, "salp": ours, "xen": figure.xen, "kvm": figure.kvm, "goal": figure.goal})
    });
    let all = json!({
        "machine": "neoverse-n1,cntfrq=1000000000 -icount shift=0,sleep=off -seed 1",
        "compared": rows,
        "measured": measured,
        "boot_to_init": {"salp": salp.clock, "bare": bare.clock, "ratio": ratio, "wall_ratio": wall},
    });
    let file = paths::target().join("bench/boot.json");
    paths::write_whole(&file, format!("{all:#}\n").as_bytes()).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", file.display());
}
