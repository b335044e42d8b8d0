//! Programs of the host that tests run: cargo, and the runner as a user has it.

use salp_qemu::{management, paths};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Returns cargo, in the checkout, with the target directory of the tests.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::checkout()).env("CARGO_TARGET_DIR", paths::target()).stdin(Stdio::null());
    command
}

/// Runs a command.
///
/// # Panics
///
/// With all that it says, if it fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, both(&output));
    output
}

/// Returns what a program wrote to both of its outputs.
pub fn both(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Returns the runner, built once with all that it builds itself; coreutils' `timeout` ends it after so many seconds, with
/// status 124.
///
/// # Panics
///
/// If it cannot be built.
pub fn salp(seconds: u32) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        succeed(cargo().args(["build", "--quiet", "--package", "salp-qemu"]));
        // What it finds done costs it no time.
        management::guest_on_qemu("", &[]).unwrap_or_else(|error| panic!("{error:#}"));
        crate::machine::image();
        paths::target().join("debug/salp")
    });
    let mut command = Command::new("timeout");
    command.arg(seconds.to_string()).arg(program);
    command.current_dir(paths::checkout()).stdin(Stdio::null());
    command
}
