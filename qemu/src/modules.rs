//! Kernel modules out of a kernel's package: found by name, uncompressed, with all that they depend on.
//!
//! [`debian`](crate::debian) has the packages; an [`initrd`](crate::initrd) takes modules in. Packages do not say what
//! depends on what (`depmod` finds out where they are installed); the modules do.

use anyhow::{Context, Result, ensure};
use lzma_rust2::XzReader;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A module that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, as `modprobe` knows it.
    pub name: String,
    /// The ELF.
    pub bytes: Vec<u8>,
    /// Names of the modules that it needs.
    pub depends: Vec<String>,
}

/// The modules of one release of a kernel.
#[derive(Clone, Debug)]
pub struct Modules {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Looks at a directory as Linux wants it: `RELEASE/kernel/…/NAME.ko` or `NAME.ko.xz`.
    ///
    /// # Errors
    ///
    /// That it is none.
    pub fn find(root: &Path) -> Result<Self> {
        let releases = fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
        let release = releases.filter_map(Result::ok).map(|entry| entry.file_name()).next();
        let release = release.with_context(|| format!("{} has no modules", root.display()))?;
        let mut files = BTreeMap::new();
        collect(&root.join(&release), &mut files)?;
        Ok(Self { release: release.to_string_lossy().into_owned(), files })
    }

    /// Returns a module and all that it needs.
    ///
    /// # Errors
    ///
    /// Which one is missing or damaged.
    pub fn with_dependencies(&self, name: &str) -> Result<Vec<Module>> {
        let mut found: Vec<Module> = Vec::new();
        let mut wanted = vec![name.replace('-', "_")];
        while let Some(name) = wanted.pop() {
            if found.iter().all(|module| module.name != name) {
                let module = self.read(&name)?;
                wanted.extend(module.depends.iter().cloned());
                found.push(module);
            }
        }
        Ok(found)
    }

    fn read(&self, name: &str) -> Result<Module> {
        let file = self.files.get(name).with_context(|| {
            format!("Linux {} has no module {name}: it may be built in, or part of another package", self.release)
        })?;
        let mut bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        if file.extension().is_some_and(|end| end == "xz") {
            let mut unpacked = Vec::new();
            let read = XzReader::new(&bytes[..], false).read_to_end(&mut unpacked);
            read.with_context(|| format!("{} is damaged", file.display()))?;
            bytes = unpacked;
        }
        let depends = depends(&bytes).with_context(|| format!("{} is no usable module", file.display()))?;
        Ok(Module { name: name.into(), bytes, depends })
    }
}

/// Collects modules by name, in which `-` and `_` are the same.
fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files)?;
            continue;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(name) = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Returns the modules that one needs, from its section `.modinfo`: `key=value`, each ended by a zero.
fn depends(bytes: &[u8]) -> Result<Vec<String>> {
    let elf: ElfFile64<'_> = ElfFile64::parse(bytes)?;
    let section = elf.section_by_name(".modinfo").context("it has no section .modinfo")?;
    ensure!(elf.architecture() == object::Architecture::Aarch64, "it is not for arm64");
    let entries = section.data()?.split(|&byte| byte == 0);
    let names = entries.filter_map(|entry| entry.strip_prefix(b"depends="));
    let names = names.flat_map(|names| names.split(|&byte| byte == b','));
    let names = names.filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lzma_rust2::{CheckType, XzOptions, XzWriter};
    use std::io::Write;

    /// An arm64 ELF with this `.modinfo`, and no other section than the one that names have.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let sections = (64 + info.len() + names.len()).next_multiple_of(8);
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend([1_u16, 183].map(u16::to_le_bytes).concat());
        file.extend(1_u32.to_le_bytes());
        file.extend([0, 0, sections as u64].map(u64::to_le_bytes).concat());
        file.extend(0_u32.to_le_bytes());
        file.extend([64_u16, 0, 0, 64, 3, 2].map(u16::to_le_bytes).concat());
        file.extend(info);
        file.extend(names);
        file.resize(sections + 64, 0);
        for (name, kind, at, size) in [(1_u32, 1_u32, 64, info.len()), (10, 3, 64 + info.len(), names.len())] {
            file.extend([name, kind].map(u32::to_le_bytes).concat());
            file.extend([0, 0, at as u64, size as u64, 0, 1, 0].map(u64::to_le_bytes).concat());
        }
        file
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut options = XzOptions::with_preset(6);
        // As the kernel's build has it.
        options.check_type = CheckType::Crc32;
        let mut writer = XzWriter::new(Vec::new(), options).expect("xz");
        writer.write_all(bytes).expect("xz");
        writer.finish().expect("xz")
    }

    fn tree(modules: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, bytes) in modules {
            let path = root.path().join("6.1.0/kernel").join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, bytes).expect("written");
        }
        root
    }

    #[test]
    fn a_module_comes_with_all_that_it_needs() {
        let root = tree(&[
            ("drivers/net/virtio_net.ko", &module(b"license=GPL\0depends=net-failover,virtio\0name=virtio_net\0")),
            ("drivers/net/net_failover.ko", &module(b"depends=failover,virtio\0")),
            ("net/core/failover.ko.xz", &xz(&module(b"depends=\0"))),
            ("drivers/virtio/virtio.ko", &module(b"depends=\0")),
            ("drivers/net/dummy.ko", &module(b"depends=\0")),
        ]);
        let modules = Modules::find(root.path()).expect("modules");
        assert_eq!(modules.release, "6.1.0");
        let found = modules.with_dependencies("virtio-net").expect("found");
        let mut names: Vec<&str> = found.iter().map(|module| &*module.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["failover", "net_failover", "virtio", "virtio_net"]);
        assert_eq!(found[0].depends, ["net_failover", "virtio"]);
        assert!(found.iter().all(|module| module.bytes.starts_with(b"\x7fELF")));
    }

    #[test]
    fn what_is_missing_or_damaged_is_said() {
        let root = tree(&[("a.ko", b"\x7fELF"), ("b.ko.xz", b"\xfd7zXZ\0"), ("c.ko", &module(b"depends=d\0"))]);
        let modules = Modules::find(root.path()).expect("modules");
        let error = |name| format!("{:#}", modules.with_dependencies(name).expect_err("refused"));
        assert!(error("a").contains("a.ko is no usable module"));
        assert!(error("b").contains("b.ko.xz is damaged"));
        assert!(error("c").contains("has no module d"));
        assert!(Modules::find(&root.path().join("6.1.0/kernel/none")).is_err());
    }
}
