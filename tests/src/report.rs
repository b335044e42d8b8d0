//! What benchmarks print and write: figures beside the goals and what others need.

use crate::figures::Figure;
use salp_qemu::paths;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Returns true if this is to measure: `cargo test --benches` only wants to know that it starts.
pub fn is_wanted() -> bool {
    std::env::args().any(|word| word == "--bench")
}

/// Prints what was measured beside Xen 4.17, KVM of Linux 6.1 and the goals. Returns it for [`write()`].
pub fn show(unit: &str, figures: &[Figure], measured: &BTreeMap<String, u64>) -> Value {
    let shown = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    println!("{unit:<36} {:>12} {:>12} {:>12} {:>10}", "Salp", "Xen 4.17", "KVM 6.1", "goal");
    for figure in figures {
        let (ours, xen, kvm) = (measured.get(figure.name).copied(), shown(figure.xen), shown(figure.kvm));
        println!("{:<36} {:>12} {xen:>12} {kvm:>12} {:>10}", figure.about, shown(ours), figure.goal);
    }
    for (name, value) in measured.iter().filter(|(name, _)| figures.iter().all(|figure| figure.name != **name)) {
        println!("{name:<36} {value:>12}");
    }
    let row = |figure: &Figure| {
        let ours = measured.get(figure.name);
        json!({"name": figure.name, "salp": ours, "xen": figure.xen, "kvm": figure.kvm, "goal": figure.goal})
    };
    json!({
        "machine": "neoverse-n1,cntfrq=1000000000 -icount shift=0,sleep=off -seed 1",
        "compared": figures.iter().map(row).collect::<Vec<_>>(),
        "measured": measured,
    })
}

/// Writes figures to `target/bench/NAME.json`, and says where they are.
///
/// # Panics
///
/// If that cannot be.
pub fn write(name: &str, figures: &Value) {
    let file = paths::target().join(format!("bench/{name}.json"));
    paths::write_whole(&file, format!("{figures:#}\n").as_bytes()).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", file.display());
}
