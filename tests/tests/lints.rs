//! Rules for the source: format, lints, and where `unsafe` may be.

use salp_qemu::image::{LINUX_TARGET, MANAGEMENT_TARGET, TARGET};
use salp_qemu::paths;
use salp_tests::tools::{cargo, succeed};
use std::fs;
use std::path::{Path, PathBuf};

/// Where code that the compiler does not check may be: what touches the machine.
const UNSAFE_AT: [&str; 3] = ["firmware/hw/", "guest-kit/src/rt/", "guest-kit/linux/src/sys.rs"];

/// Parts of the checkout with Rust in them.
const PARTS: [&str; 6] = ["board", "firmware", "guest-kit", "hvc", "qemu", "tests"];

#[test]
fn everything_is_formatted() {
    succeed(cargo().args(["fmt", "--all", "--check"]));
}

#[test]
fn clippy_finds_nothing_on_the_host() {
    succeed(cargo().args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]));
}

#[test]
fn clippy_finds_nothing_in_what_runs_on_the_machine() {
    // Apart: together they would have each other's features, and EL2 has no heap.
    let machine = ["salp-firmware", "salp-stage", "salp-hw", "salp-core"];
    let guests = ["guest-kit", "salp-mgmt", "salp-json", "salp-provider", "cpufeatures"];
    let parts = [(TARGET, &machine[..]), (MANAGEMENT_TARGET, &guests[..])];
    for (target, packages) in parts {
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        succeed(
            cargo()
                .args(["clippy", "--quiet", "--release", "--target", target])
                .args(packages)
                .args(["--", "-D", "warnings"]),
        );
    }
}

/// The build of a version to come has code of its own.
#[test]
fn clippy_finds_nothing_in_the_version_to_come() {
    let arguments = ["clippy", "--quiet", "--release", "--target", TARGET, "--package", "salp-firmware"];
    succeed(cargo().args(arguments).args(["--features", "next-formats", "--", "-D", "warnings"]));
}

#[test]
fn the_tests_of_hand_overs_pass_in_the_version_to_come() {
    let arguments = ["test", "--quiet", "--package", "salp-core", "--features", "next-formats", "--lib", "handover"];
    succeed(cargo().args(arguments));
}

#[test]
fn clippy_finds_nothing_in_what_runs_in_linux_guests() {
    let arguments = ["clippy", "--quiet", "--all-targets", "--package", "salp-guest", "--target", LINUX_TARGET];
    succeed(cargo().args(arguments).args(["--", "-D", "warnings"]));
}

/// What the management guest consists of besides what other programs have, too.
const MANAGEMENT: [&str; 8] =
    ["--package", "salp-mgmt", "--package", "salp-json", "--package", "salp-provider", "--package", "cpufeatures"];

/// Apart: together with the runner it would have the features of its libraries, and JSON in another order.
#[test]
fn the_tests_of_the_management_guest_pass() {
    succeed(cargo().args(["test", "--quiet"]).args(MANAGEMENT));
}

#[test]
fn clippy_finds_nothing_in_the_management_guest() {
    succeed(cargo().args(["clippy", "--quiet", "--all-targets"]).args(MANAGEMENT).args(["--", "-D", "warnings"]));
}

#[test]
fn documentation_has_no_broken_links() {
    succeed(cargo().env("RUSTDOCFLAGS", "-D rustdoc::broken_intra_doc_links").args(["doc", "--quiet", "--no-deps"]));
}

#[test]
fn unsafe_code_is_only_where_the_machine_is_touched() {
    let mut files = Vec::new();
    for part in PARTS {
        collect(&paths::checkout().join(part), &mut files);
    }
    assert!(files.len() > 50, "{files:?}");
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(paths::checkout()).unwrap_or(&file).display().to_string();
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = text.lines().enumerate().filter(|(_, line)| is_unsafe(line));
        if !UNSAFE_AT.iter().any(|place| name.starts_with(place)) {
            found.extend(lines.map(|(number, line)| format!("{name}:{}: {}", number + 1, line.trim())));
        }
    }
    assert!(found.is_empty(), "unsafe code outside {UNSAFE_AT:?}:\n{}", found.join("\n"));
}

/// Returns whether a line has unsafe code: the word in front of a block, a function, an impl, or a trait. Attributes
/// (`#[unsafe(no_mangle)]`) that name an entry point are none.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let keyword = ["unsafe ", "{"].concat();
    [&*keyword, "unsafe\u{20}fn", "unsafe\u{20}impl", "unsafe\u{20}trait", "unsafe\u{20}extern"]
        .iter()
        .any(|start| code.contains(start))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// Needs the nightly toolchain with Miri: `rustup toolchain install nightly --component miri,rust-src`, then
/// `cargo test -p salp-tests --test lints -- --ignored`. It takes long.
#[test]
#[ignore = "needs nightly with Miri, and takes long"]
fn miri_finds_nothing_in_core() {
    let mut command = std::process::Command::new("cargo");
    command.current_dir(paths::checkout()).args(["+nightly", "miri", "test", "--package", "salp-core", "--lib"]);
    command.env("CARGO_TARGET_DIR", paths::target().join("miri"));
    // Property tests look for kept failures in files, and are slow here.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4");
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        command.env_remove(name);
    }
    succeed(&mut command);
}
