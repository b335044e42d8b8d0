//! The release image: the linked firmware made flat, with symbols and the built-in boot set packed behind it.
//!
//! [`machine`](crate::machine) starts it. Layout of the packed area: [`salp_hvc::packed`].

use crate::bundle::Release;
use crate::kernel::{self, FlatPlace};
use crate::keys::Signer;
use crate::place::{Placed, place};
use crate::vm::VmRequest;
use crate::{bundle, management, pack, paths, remap, setup, symbols};
use anyhow::{Context, Result, bail, ensure};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};
use salp_hvc::{bootset, packed};
use std::fmt::Write as _;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes;

/// The target that the image and the guests are built for.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// The target that the management guest is built for: it has the floating point and vector registers to itself.
pub const MANAGEMENT_TARGET: &str = "aarch64-unknown-none";

/// The target that programs for Linux guests are built for: static, without a C library of the guest's.
pub const LINUX_TARGET: &str = "aarch64-unknown-linux-musl";

/// The greatest size of EL2's part of the image, in bytes: room for the machine itself, cloning, the virtual switch, the
/// driver of the uplink, and for updates and the hand-over: signatures are checked at EL2, whatever the management guest says.
pub const BUDGET: u64 = 560 << 10;

/// Where the fields of the arm64 `Image` header are.
const HEADER_SIZE: usize = 64;
const MAGIC: std::ops::Range<usize> = 56..60;

/// A built image and what is in it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The flat image: what the machine starts.
    pub bin: PathBuf,
    /// The linked firmware, with debug information.
    pub elf: PathBuf,
    /// Addresses, sizes and names of all functions.
    pub map: PathBuf,
    /// The signed bundle: the same image with the management guest as its only VM.
    pub bundle: PathBuf,
    /// The public key that image and bundle have.
    pub key: [u8; 32],
    /// Sizes by part, in bytes, in the order of the image.
    pub parts: Vec<(String, u64)>,
    /// The size of the flat image in bytes.
    pub size: u64,
}

impl Image {
    /// Returns a table of sizes for people.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (name, size) in &self.parts {
            let _ = writeln!(text, "{name:<12} {size:>9}");
        }
        let share = self.own_size() * 100 / BUDGET;
        let _ = writeln!(text, "{:<12} {:>9}", "image", self.size);
        let _ = writeln!(text, "{:<12} {:>9}  {share} % of {} KiB", "EL2's part", self.own_size(), BUDGET >> 10);
        text
    }

    /// Returns the size of EL2's part of the image, in bytes: all but the boot set that is packed behind it.
    pub fn own_size(&self) -> u64 {
        let boot_set = self.parts.iter().find(|(name, _)| name == "boot set").map_or(0, |(_, size)| *size);
        self.size - boot_set
    }
}

/// Returns where [`build`] leaves the flat image.
pub fn path() -> PathBuf {
    paths::output().join("salp.bin")
}

/// Builds the image with the development key and leaves it in `target/salp`; once per process, whoever asks.
///
/// # Errors
///
/// What cargo says, or what is wrong with the linked firmware.
pub fn build() -> Result<Image> {
    static BUILT: Mutex<Option<Image>> = Mutex::new(None);
    once(&BUILT, || build_signed(&Signer::development()))
}

/// Builds the image of a version to come, for tests: its hand-overs have other records. As [`build`].
///
/// # Errors
///
/// As [`build`].
pub fn build_next() -> Result<Image> {
    static BUILT: Mutex<Option<Image>> = Mutex::new(None);
    once(&BUILT, || build_named("salp-next", &["--features", "next-formats"], &Signer::development()))
}

fn once(built: &Mutex<Option<Image>>, build: impl FnOnce() -> Result<Image>) -> Result<Image> {
    let mut built = built.lock().unwrap_or_else(PoisonError::into_inner);
    if built.is_none() {
        *built = Some(build()?);
    }
    built.clone().context("an image")
}

/// Builds the image with this key and leaves it in `target/salp`.
///
/// # Errors
///
/// As [`build`].
pub fn build_signed(signer: &Signer) -> Result<Image> {
    build_named("salp", &[], signer)
}

/// Builds an image by cargo with these words besides, and leaves it in files whose names begin so.
fn build_named(name: &str, words: &[&str], signer: &Signer) -> Result<Image> {
    let _lock = paths::lock(&paths::output())?;
    setup::ensure_target(TARGET)?;
    let keys = [(KEYS, signer.public_text())];
    let elf = cargo_build_with("salp-firmware", "salp-firmware", TARGET, "release", words, &keys)?;
    let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let management = management::guest("", &[])?;
    let appliance = pack::pack(core::slice::from_ref(&management))?;
    let set = pack::pack(&[builtin_vm()?, management])?;
    let Flat { bytes: flat, map, parts } =
        flatten(&bytes, Some(&set)).with_context(|| format!("{} is not a usable image", elf.display()))?;
    let release = bundle::make(&flatten(&bytes, Some(&appliance))?.bytes, &Release::this(), signer)?;
    let file = |end: &str| paths::output().join(format!("{name}{end}"));
    let image = Image {
        bundle: file(&format!("-{}.salp", Release::this().version)),
        key: signer.public(),
        bin: file(".bin"),
        elf: file(".elf"),
        map: file(".map"),
        size: flat.len() as u64,
        parts,
    };
    paths::write_whole(&image.bin, &flat)?;
    paths::write_whole(&image.elf, &bytes)?;
    paths::write_whole(&image.map, map.as_bytes())?;
    paths::write_whole(&image.bundle, &release)?;
    Ok(image)
}

/// Returns the built image with these VMs instead of those that it has.
///
/// # Errors
///
/// What is wrong with a VM, or that there is no room for them.
pub fn with_vms(image: &Image, vms: &[Placed]) -> Result<Vec<u8>> {
    let elf = fs::read(&image.elf).with_context(|| format!("cannot read {}", image.elf.display()))?;
    Ok(flatten(&elf, Some(&pack::pack(vms)?))?.bytes)
}

/// Builds the first stage with this key, and returns its ELF.
///
/// # Errors
///
/// What cargo says.
pub fn build_stage(signer: &Signer) -> Result<PathBuf> {
    setup::ensure_target(TARGET)?;
    cargo_build_with("salp-stage", "salp-stage", TARGET, "release", &[], &[(KEYS, signer.public_text())])
}

/// Builds one of guest-kit's guests, and returns its ELF.
///
/// # Errors
///
/// What cargo says.
pub fn build_guest(name: &str) -> Result<PathBuf> {
    setup::ensure_target(TARGET)?;
    cargo_build("guest-kit", name, TARGET, "release")
}

/// Builds `salp-guest`, the guest side of cloning for Linux, and returns the program.
///
/// # Errors
///
/// What cargo says.
pub fn build_salp_guest() -> Result<PathBuf> {
    setup::ensure_target(LINUX_TARGET)?;
    cargo_build("salp-guest", "salp-guest", LINUX_TARGET, "guest")
}

/// Builds the management guest, and returns its ELF.
///
/// # Errors
///
/// What cargo says.
pub fn build_management() -> Result<PathBuf> {
    // It takes long to find out that nothing has changed, too.
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.is_none() {
        setup::ensure_target(MANAGEMENT_TARGET)?;
        *built = Some(cargo_build("salp-mgmt", "mgmt", MANAGEMENT_TARGET, "release")?);
    }
    built.clone().context("a guest")
}

/// Returns the VM that is packed in the image.
fn builtin_vm() -> Result<Placed> {
    let path = build_guest("builtin")?;
    let vm = VmRequest { memory: 16 << 20, ..VmRequest::new("builtin", "builtin") };
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    kernel::read(&bytes, FlatPlace::default(), vm.memory)
        .and_then(|kernel| place(&vm, kernel, None, ""))
        .with_context(|| format!("the built-in guest {}", path.display()))
}

/// Builds a program for a guest or for the bare machine, and returns where it is.
fn cargo_build(package: &str, program: &str, target: &str, profile: &str) -> Result<PathBuf> {
    cargo_build_with(package, program, target, profile, &[], &[])
}

/// The variable with the public keys that are compiled in.
const KEYS: &str = "SALP_KEYS";

/// Returns what keeps rustc from telling of each crate that it does not vouch for `strict-align` (`.cargo/config.toml`). The lints
/// see what else there is to tell.
fn quieting(target: &str) -> [String; 2] {
    ["--config".into(), format!("target.{target}.rustflags=['-Awarnings']")]
}

fn cargo_build_with(
    package: &str,
    program: &str,
    target: &str,
    profile: &str,
    words: &[&str],
    environment: &[(&str, String)],
) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(paths::checkout())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["build", "--profile", profile, "--package", package, "--bin", program, "--target", target])
        .args(words)
        .args(["--target-dir".as_ref(), paths::target().as_os_str()])
        .args(["--config", &remap::setting(target)?])
        .args(quieting(target))
        .arg("--message-format=json-render-diagnostics")
        // A person sees what is being compiled; a log need not.
        .args((!std::io::stderr().is_terminal()).then_some("--quiet"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo could not build {program}");
    for line in output.stdout.split(|&byte| byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        if message["target"]["name"] == program
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("cargo built {program} but does not say where it is")
}

/// A flat image, its map, and the sizes of its parts.
struct Flat {
    bytes: Vec<u8>,
    map: String,
    parts: Vec<(String, u64)>,
}

/// Makes a linked firmware flat and packs what belongs behind it.
///
/// # Errors
///
/// What the linked firmware lacks.
fn flatten(file: &[u8], set: Option<&[u8]>) -> Result<Flat> {
    let elf: ElfFile64<'_> = ElfFile64::parse(file)?;
    let symbol = |name: &str| {
        let found = elf.symbols().find(|symbol| symbol.name() == Ok(name));
        found.map(|symbol| symbol.address()).with_context(|| format!("it has no symbol {name}"))
    };
    let (start, end) = (symbol("__image_start")?, symbol("__packed_start")?);
    ensure!(start < end && (end - start).is_multiple_of(bootset::PAGE), "__packed_start is not at a page boundary");
    let limit = symbol("__zeros_start")? - start;
    let mut flat = vec![0; (end - start) as usize];
    for segment in elf.segments() {
        let data = segment.data()?;
        if data.is_empty() {
            continue;
        }
        let place = segment
            .address()
            .checked_sub(start)
            .and_then(|offset| flat.get_mut(offset as usize..)?.get_mut(..data.len()))
            .with_context(|| format!("its segment at {:#x} is outside the image", segment.address()))?;
        place.copy_from_slice(data);
    }
    ensure!(
        flat.len() >= HEADER_SIZE && flat[MAGIC] == *b"ARM\x64",
        "it does not start with the header of an arm64 Image"
    );
    let functions = symbols::functions(&elf);
    let packed = packed_area(&symbols::table(&functions, start), set);
    let mut parts: Vec<(String, u64)> = elf
        .sections()
        .filter(|section| (start..end).contains(&section.address()) && section.size() > 0)
        .map(|section| (section.name().unwrap_or("?").into(), section.size()))
        .collect();
    let set_size = set.map_or(0, |set| set.len() as u64);
    parts.push(("symbols".into(), packed.len() as u64 - set_size));
    parts.push(("boot set".into(), set_size));
    flat.extend(packed);
    ensure!(
        flat.len() as u64 <= limit,
        "it has {} bytes with what is packed, and there is room for {limit}",
        flat.len()
    );
    let map = functions.iter().fold(String::new(), |mut map, function| {
        let _ = writeln!(map, "{:016x} {:6} {}", function.address, function.size, function.name);
        map
    });
    Ok(Flat { bytes: flat, map, parts })
}

/// Lays out the packed area.
fn packed_area(symbols: &[u8], set: Option<&[u8]>) -> Vec<u8> {
    let header_size = size_of::<packed::Header>();
    let set_at = (header_size + symbols.len()).next_multiple_of(bootset::PAGE as usize);
    let set_len = set.map_or(0, <[u8]>::len);
    let total = (set_at + set_len).next_multiple_of(bootset::PAGE as usize);
    let header = packed::Header {
        magic: packed::MAGIC,
        symbols_offset: (header_size as u32).into(),
        symbols_len: (symbols.len() as u32).into(),
        bootset_offset: (if set.is_some() { set_at as u32 } else { 0 }).into(),
        bootset_len: (set_len as u32).into(),
        total_size: (total as u64).into(),
    };
    let mut area = [header.as_bytes(), symbols].concat();
    area.resize(set_at, 0);
    area.extend(set.unwrap_or_default());
    area.resize(total, 0);
    area
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    #[test]
    fn the_packed_area_says_where_its_parts_are() {
        let symbols = vec![3; 5000];
        let set = vec![4; 8192];
        let area = packed_area(&symbols, Some(&set));
        let (header, _) = packed::Header::ref_from_prefix(&area).expect("a header");
        assert_eq!(header.magic, packed::MAGIC);
        assert_eq!(header.total_size.get(), area.len() as u64);
        assert_eq!((header.symbols_offset.get(), header.symbols_len.get()), (32, 5000));
        assert_eq!((header.bootset_offset.get(), header.bootset_len.get()), (8192, 8192));
        assert_eq!(&area[32..5032], &symbols);
        assert_eq!(&area[8192..16384], &set);
        let (none, _) = packed::Header::read_from_prefix(&packed_area(&symbols, None)).expect("a header");
        assert_eq!((none.bootset_offset.get(), none.bootset_len.get(), none.total_size.get()), (0, 0, 8192));
    }

    #[test]
    fn what_is_no_firmware_is_refused() {
        assert!(flatten(b"\x7fELF", None).is_err());
    }
}
