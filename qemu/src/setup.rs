//! What the host must have: a QEMU and the Rust targets. Missing things are installed by root, and named to others.

use crate::{debian, paths, say};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program that runs machines.
const QEMU: &str = "qemu-system-aarch64";

/// A QEMU that can be started.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Its data files (`-L`), if it is not installed in the usual place.
    pub data: Option<PathBuf>,
    /// Its version: major and minor.
    pub version: (u32, u32),
    /// The CPU models that it has.
    pub models: Vec<String>,
}

impl Qemu {
    /// Finds the QEMU that `SALP_QEMU` names, else the one in `PATH`, and installs one if there is none.
    ///
    /// # Errors
    ///
    /// What to do, in one command.
    pub fn find() -> Result<Self> {
        if let Some(program) = std::env::var_os("SALP_QEMU").filter(|value| !value.is_empty()) {
            return Self::at(Path::new(&program), None).context("SALP_QEMU");
        }
        if find_program(QEMU).is_none() {
            install(&["qemu-system-arm"])?;
        }
        let program = find_program(QEMU).with_context(|| format!("{QEMU} is still not in PATH"))?;
        Self::at(&program, None)
    }

    /// Returns QEMU 10: the host's own if it is that new, else one from Debian's backports, downloaded and unpacked
    /// beside the guests without being installed.
    ///
    /// # Errors
    ///
    /// Why it could not be had.
    pub fn find_10() -> Result<Self> {
        let host = Self::find()?;
        if host.version.0 >= 10 {
            return Ok(host);
        }
        let root = debian::qemu_10()?;
        Self::at(&root.join("usr/bin").join(QEMU), Some(root.join("usr/share/qemu")))
    }

    /// Asks a QEMU who it is.
    fn at(program: &Path, data: Option<PathBuf>) -> Result<Self> {
        let ask = |arguments: &[&str]| -> Result<String> {
            let output = Command::new(program)
                .args(data.iter().flat_map(|data| ["-L".as_ref(), data.as_os_str()]))
                .args(arguments)
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("cannot run {}", program.display()))?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{} does not run: {}", program.display(), errors.trim());
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let text = ask(&["--version"])?;
        let version = text
            .split_whitespace()
            .skip_while(|word| *word != "version")
            .nth(1)
            .and_then(|version| {
                let mut numbers = version.split('.');
                Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
            })
            .with_context(|| format!("{} does not say which version it is: {text}", program.display()))?;
        ensure!(
            version >= (7, 2),
            "{} is QEMU {}.{}: it must be 7.2 or newer",
            program.display(),
            version.0,
            version.1
        );
        let models = ask(&["-M", "virt", "-cpu", "help"])?;
        let models =
            models.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(String::from).collect();
        Ok(Self { program: program.into(), data, version, models })
    }

    /// Returns whether it has a CPU model.
    pub fn has_model(&self, model: &str) -> bool {
        self.models.iter().any(|one| one == model)
    }

    /// Returns the CPU model of a machine that does not name one.
    pub fn default_model(&self) -> &'static str {
        if self.has_model("neoverse-n1") { "neoverse-n1" } else { "cortex-a72" }
    }
}

/// Returns where a program is, by `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Returns whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Installs Debian packages as root, or says how to.
///
/// # Errors
///
/// The one command to run, if this is not root's process or if it failed.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let command = format!("apt-get install -y --no-install-recommends {list}");
    ensure!(find_program("apt-get").is_some(), "{list} is missing, and this is not Debian: install it by hand");
    ensure!(is_root(), "{list} is missing. Run this once, then start again:\n  sudo {command}");
    say(format_args!("{list} is missing; installing it, as root: apt-get update && {command}"));
    for arguments in [vec!["update"], command.split(' ').skip(1).collect()] {
        let status = Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .status()
            .context("cannot run apt-get")?;
        // Lists may be new enough although one source failed.
        if !status.success() && arguments != ["update"] {
            bail!("apt-get failed. Run this once, then start again:\n  {command}");
        }
    }
    Ok(())
}

/// Adds a Rust target, if it is missing.
///
/// # Errors
///
/// The one command to run.
pub fn ensure_target(target: &str) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(paths::checkout())
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("cannot run rustc")?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && directory.is_dir() {
        return Ok(());
    }
    let command = format!("rustup target add {target}");
    ensure!(find_program("rustup").is_some(), "the Rust target {target} is missing, and there is no rustup to add it");
    say(format_args!("the Rust target {target} is missing; adding it: {command}"));
    let status = Command::new("rustup")
        .current_dir(paths::checkout())
        .args(["target", "add", target])
        .stdout(std::io::stderr())
        .status()
        .context("cannot run rustup")?;
    ensure!(status.success(), "rustup failed. Run this once, then start again:\n  {command}");
    Ok(())
}
