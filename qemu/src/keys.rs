//! Keys of release bundles: the development key, which everybody has, and those of people who release.
//!
//! Before [`bundle`](crate::bundle), which signs; [`image`](crate::image) compiles the public half into what it builds. Files
//! are PKCS #8 in PEM, as OpenSSL has them.

use crate::paths;
use anyhow::{Context, Result, ensure};
use ed25519_compact::{KeyPair, Seed};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A key that signs.
#[derive(Clone)]
pub struct Signer(KeyPair);

impl Signer {
    /// Returns the development key. It is no secret: what it signs is refused by releases.
    pub fn development() -> Self {
        let seed = salp_core::digest::of(b"Salp's development key: everybody has it");
        Self(KeyPair::from_seed(Seed::new(seed)))
    }

    /// Reads a key that signs releases.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds no such key, or the development key.
    pub fn release(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let key = KeyPair::from_pem(&text).with_context(|| format!("{} has no Ed25519 private key", path.display()))?;
        ensure!(
            key.pk != Self::development().0.pk,
            "{} is the development key, which everybody has: releases refuse it",
            path.display()
        );
        Ok(Self(key))
    }

    /// Signs a message. Equal messages get equal signatures (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        *self.0.sk.sign(message, None)
    }

    /// Returns the public half.
    pub fn public(&self) -> [u8; 32] {
        *self.0.pk
    }

    /// Returns the public half as builds have it: hexadecimal.
    pub fn public_text(&self) -> String {
        self.public().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Makes a key for releases, readable by its owner only, in a file that is not there yet.
///
/// # Errors
///
/// What the file system answers.
pub fn make(path: &Path) -> Result<Signer> {
    let key = Signer(KeyPair::from_seed(Seed::generate()));
    let about = || format!("cannot make {}", path.display());
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(about)?;
    std::io::Write::write_all(&mut file, key.0.sk.to_pem().as_bytes()).with_context(about)?;
    Ok(key)
}

/// Writes the development key to `target/salp`, for other programs.
///
/// # Errors
///
/// What the file system answers.
pub fn write_development() -> Result<PathBuf> {
    let path = paths::output().join("development.pem");
    paths::write_whole(&path, Signer::development().0.sk.to_pem().as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_for_releases_is_read_back_and_never_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("release.pem");
        let made = make(&path).expect("a key");
        assert_eq!(Signer::release(&path).expect("a key").public(), made.public());
        assert_ne!(made.public(), Signer::development().public());
        assert!(make(&path).is_err());
    }

    #[test]
    fn releases_refuse_the_development_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("development.pem");
        fs::write(&path, Signer::development().0.sk.to_pem()).expect("a file");
        let error = format!("{:#}", Signer::release(&path).err().expect("refused"));
        assert!(error.contains("development key"), "{error}");
    }
}
