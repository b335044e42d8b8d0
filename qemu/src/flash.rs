//! Flash images: the first stage, a bundle in slot A, confirmed, and nothing else.
//!
//! After [`bundle`](crate::bundle); [`machine`](crate::machine) starts from one. The layout is
//! [`salp_hvc::update::layout`].

use crate::image::{self, Image};
use crate::keys::Signer;
use crate::paths;
use anyhow::{Context, Result, ensure};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSegment};
use salp_core::bundle;
use salp_core::slots::{Control, Slot};
use salp_hvc::update::layout;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns where [`build`] leaves the flash image.
pub fn path() -> PathBuf {
    paths::output().join("flash.img")
}

/// Builds the image, its bundle and the first stage with the development key, and makes a flash image of them.
///
/// # Errors
///
/// What cargo says, or what does not fit.
pub fn build() -> Result<PathBuf> {
    make_of(&image::build()?, &Signer::development())
}

/// Builds the same with this key.
///
/// # Errors
///
/// As [`build`].
pub fn build_signed(signer: &Signer) -> Result<PathBuf> {
    make_of(&image::build_signed(signer)?, signer)
}

fn make_of(image: &Image, signer: &Signer) -> Result<PathBuf> {
    let stage = build_stage(signer)?;
    let bundle = fs::read(&image.bundle).with_context(|| format!("cannot read {}", image.bundle.display()))?;
    let flash = make(&stage, &bundle, &[image.key])?;
    paths::write_whole(&path(), &flash)?;
    Ok(path())
}

/// Builds the first stage with this key, as it lies in the flash.
///
/// # Errors
///
/// What cargo says.
pub fn build_stage(signer: &Signer) -> Result<Vec<u8>> {
    let elf = image::build_stage(signer)?;
    flatten(&fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?)
}

/// Makes a flash image.
///
/// # Errors
///
/// What does not fit, or why the bundle is none.
pub fn make(stage: &[u8], bundle: &[u8], keys: &[bundle::Key]) -> Result<Vec<u8>> {
    ensure!(stage.len() as u64 <= layout::STAGE_SIZE, "the first stage has {} bytes", stage.len());
    ensure!(bundle.len() as u64 <= layout::SLOT_SIZE, "the bundle has {} bytes", bundle.len());
    let head = &bundle[..bundle.len().min(bundle::HEAD)];
    let read = bundle::open(head, keys).map_err(|refusal| anyhow::anyhow!("the bundle is refused: {refusal}"))?;
    let control = Control::new(Slot::A, read.manifest.counter).to_bytes();
    let mut flash = vec![0xff; layout::SIZE as usize];
    let parts = [(layout::STAGE, stage), (Slot::A.at(), bundle)];
    for (at, bytes) in parts.into_iter().chain(layout::CONTROL.map(|at| (at, &control[..]))) {
        flash[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(flash)
}

/// Makes the linked first stage flat: code, then data, as it copies itself.
fn flatten(file: &[u8]) -> Result<Vec<u8>> {
    let elf: ElfFile64<'_> = ElfFile64::parse(file).context("the first stage is no ELF")?;
    let mut segments = elf.segments().map(|part| Ok((part.address(), part.data()?))).collect::<Result<Vec<_>>>()?;
    segments.retain(|(_, data)| !data.is_empty());
    segments.sort_by_key(|&(address, _)| address);
    ensure!(segments.iter().all(|(_, data)| data.len().is_multiple_of(16)), "a part of the first stage is not aligned");
    Ok(segments.into_iter().flat_map(|(_, data)| data).copied().collect())
}

/// Makes `file` a copy of the flash image, if it is not there yet.
///
/// # Errors
///
/// What [`build`] says, or the file system; or the file is no flash image.
pub fn prepare(file: &Path) -> Result<()> {
    if !file.exists() {
        let made = build()?;
        fs::copy(&made, file).with_context(|| format!("cannot make {}", file.display()))?;
    }
    let size = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    ensure!(size == layout::SIZE, "{}: a flash has {} bytes, not {size}", file.display(), layout::SIZE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Release;

    #[test]
    fn a_flash_image_has_everything_where_the_machine_looks_for_it() {
        let signer = Signer::development();
        let bundle = crate::bundle::make(&[9; 5000], &Release::this(), &signer).expect("a bundle");
        let flash = make(&[7; 64], &bundle, &[signer.public()]).expect("a flash");
        assert_eq!((flash.len() as u64, &flash[..65]), (layout::SIZE, &[&[7; 64][..], &[0xff]].concat()[..]));
        assert_eq!(&flash[0x40_0000..][..bundle.len()], bundle);
        for at in layout::CONTROL {
            let copy = flash[at as usize..].first_chunk().expect("a copy");
            assert_eq!(Control::parse(copy).expect("a copy").confirmed, Slot::A);
        }
    }

    #[test]
    fn a_flash_image_with_a_bundle_of_strangers_is_not_made() {
        let bundle = crate::bundle::make(&[9; 5000], &Release::this(), &Signer::development()).expect("a bundle");
        let error = make(&[], &bundle, &[[1; 32]]).expect_err("refused");
        assert!(format!("{error:#}").contains("bad signature"), "{error:#}");
    }
}
