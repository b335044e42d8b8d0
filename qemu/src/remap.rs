//! Paths of this host that a build would put into what it makes, under names that every host has: two builds of one commit are equal,
//! wherever they are made.
//!
//! Before [`image`](crate::image), which gives them to cargo.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns cargo's setting for a target that has rustc name paths so.
///
/// # Errors
///
/// Rust, or the home of the user, is not found.
pub fn setting(target: &str) -> Result<String> {
    let places = [(paths::checkout(), "/salp"), (cargo_home()?, "/cargo"), (sysroot()?, "/rust")];
    let flags = places.map(|(from, to)| format!("'--remap-path-prefix={}={to}'", from.display()));
    Ok(format!("target.{target}.rustflags=[{}]", flags.join(",")))
}

/// Returns where cargo keeps the sources of crates.
///
/// # Errors
///
/// The user has no home.
pub fn cargo_home() -> Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty());
    let usual = || std::env::home_dir().map(|home| home.join(".cargo"));
    set.map(PathBuf::from).or_else(usual).context("there is neither CARGO_HOME nor a home")
}

/// Returns where Rust is.
///
/// # Errors
///
/// What rustc says.
pub fn sysroot() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(paths::checkout())
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc")?;
    ensure!(output.status.success(), "rustc does not say where it is");
    Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).to_path_buf())
}
