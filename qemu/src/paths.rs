//! Where the runner's files are.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Returns the checkout.
pub fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Returns cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => checkout().join(directory),
        _ => checkout().join("target"),
    }
}

/// Returns the directory of the built image: `target/salp`.
pub fn output() -> PathBuf {
    target().join("salp")
}

/// Returns the directory of downloaded guests: `target/salp/guests` of the checkout.
pub fn guests() -> PathBuf {
    checkout().join("target/salp/guests")
}

/// Writes a file so that nobody ever sees half of it.
///
/// # Errors
///
/// What the file system answers, with the file's name.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let write = || -> std::io::Result<()> {
        let everyone = fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(everyone).tempfile_in(directory)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Waits until no other runner holds the lock of `directory`, and holds it until the value is dropped.
///
/// # Errors
///
/// What the file system answers.
pub fn lock(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
