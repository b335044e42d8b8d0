//! Initial RAM disks: busybox, an `/init`, `salp-guest`, kernel modules, and whatever a test wants to have in it.
//!
//! [`place`](crate::place) puts them in guest memory. The archive (cpio, `newc`) depends on its content only: the same
//! content gives the same bytes.

use crate::debian::{self, Stock};
use crate::modules::Modules;
use crate::{image, paths};
use anyhow::{Context, Result, bail, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The `/init` of a guest for people: a shell on the console.
pub const SHELL: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=vt100 ENV=/etc/profile PS1='# '
cd /root
echo
echo "Linux $(uname -r) on $(nproc) CPU(s), $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MiB. \`poweroff\` turns this VM off."
setsid cttyhack sh
poweroff -f
"#;

/// Makes `poweroff` and `reboot` work without an init that listens.
const PROFILE: &str = "alias poweroff='busybox poweroff -f' reboot='busybox reboot -f' halt='busybox poweroff -f'\n";

/// What an initial RAM disk holds.
#[derive(Clone, Debug, Default)]
pub struct Initrd {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link(String),
    Console,
}

impl Initrd {
    /// Returns an archive with busybox and [`SHELL`].
    ///
    /// # Errors
    ///
    /// Why busybox could not be had.
    pub fn busybox() -> Result<Self> {
        let busybox = debian::busybox()?;
        let bytes = fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
        let mut initrd = Self::default();
        initrd.entries.insert("dev".into(), Entry::Directory);
        initrd.entries.insert("dev/console".into(), Entry::Console);
        for directory in ["proc", "sys", "tmp", "root"] {
            initrd.entries.insert(directory.into(), Entry::Directory);
        }
        Ok(initrd
            .file("bin/busybox", bytes, 0o755)
            .link("bin/sh", "busybox")
            .file("etc/profile", PROFILE, 0o644)
            .init(SHELL))
    }

    /// Returns the file of an archive for people: busybox with [`SHELL`], and `salp-guest`.
    ///
    /// # Errors
    ///
    /// Why one of them could not be had.
    pub fn shell() -> Result<PathBuf> {
        Self::busybox()?.salp_guest()?.save("busybox-shell")
    }

    /// Sets `/init`, a script for `#!/bin/busybox sh` or a program.
    pub fn init(self, script: impl Into<Vec<u8>>) -> Self {
        self.file("init", script, 0o755)
    }

    /// Adds a file, with the directories that it lies in.
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        let path = self.prepare(path);
        self.entries.insert(path, Entry::File { mode, bytes: bytes.into() });
        self
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let path = self.prepare(path);
        self.entries.insert(path, Entry::Link(target.into()));
        self
    }

    /// Adds an arm64 program out of `root` (a directory of unpacked packages) with its interpreter and all shared
    /// libraries that it needs, each at the path that it has there.
    ///
    /// # Errors
    ///
    /// Which file or library is missing or no arm64 ELF.
    pub fn program(mut self, root: &Path, path: &str) -> Result<Self> {
        let mut wanted = vec![path.trim_start_matches('/').to_string()];
        while let Some(path) = wanted.pop() {
            if self.entries.contains_key(&path) {
                continue;
            }
            let file =
                fs::canonicalize(root.join(&path)).with_context(|| format!("{} has no {path}", root.display()))?;
            let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let needs = needs(&bytes).with_context(|| format!("{} is no usable program", file.display()))?;
            self = self.file(&path, bytes, 0o755);
            wanted.extend(needs.interpreter.map(|name| name.trim_start_matches('/').to_string()));
            for library in needs.libraries {
                let directories = ["lib", "usr/lib"].map(|start| format!("{start}/aarch64-linux-gnu/{library}"));
                let found = directories.into_iter().find(|path| root.join(path).exists());
                wanted.push(found.with_context(|| format!("{} has no {library}", root.display()))?);
            }
        }
        Ok(self)
    }

    /// Adds `salp-guest`, the guest side of cloning, as `/bin/salp-guest`.
    ///
    /// # Errors
    ///
    /// Why it could not be built.
    pub fn salp_guest(self) -> Result<Self> {
        let program = image::build_salp_guest()?;
        let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        Ok(self.file("bin/salp-guest", bytes, 0o755))
    }

    /// Adds a module of a stock kernel and all that it depends on, so that `modprobe NAME` loads it.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn module(mut self, stock: &Stock, name: &str) -> Result<Self> {
        let root = stock.modules()?.with_context(|| format!("{} has no modules", stock.name))?;
        let modules = Modules::find(&root)?;
        let directory = format!("lib/modules/{}", modules.release);
        let list = format!("{directory}/modules.dep");
        for module in modules.with_dependencies(name)? {
            // All that it needs, as modprobe looks no further than its own line, the last first: who needs least.
            let mut needed = Vec::new();
            for other in modules.with_dependencies(&module.name)?.iter().skip(1) {
                needed.push((modules.with_dependencies(&other.name)?.len(), other.name.clone()));
            }
            needed.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
            let needs: String = needed.iter().map(|(_, name)| format!(" {name}.ko")).collect();
            let line = format!("{}.ko:{needs}\n", module.name);
            let mut lines = match self.entries.get(&list) {
                Some(Entry::File { bytes, .. }) => bytes.clone(),
                _ => Vec::new(),
            };
            if !lines.split_inclusive(|&byte| byte == b'\n').any(|old| old == line.as_bytes()) {
                lines.extend(line.as_bytes());
            }
            self = self.file(&format!("{directory}/{}.ko", module.name), module.bytes, 0o644).file(&list, lines, 0o644);
        }
        Ok(self)
    }

    /// Returns the archive.
    ///
    /// # Errors
    ///
    /// None in practice: it is written to memory.
    pub fn build(&self) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let new = Builder::new(path).ino(number as u32 + 1).nlink(1);
            let (new, bytes): (Builder, &[u8]) = match entry {
                Entry::Directory => (new.mode(0o755).set_mode_file_type(ModeFileType::Directory), &[]),
                Entry::File { mode, bytes } => (new.mode(*mode).set_mode_file_type(ModeFileType::Regular), bytes),
                Entry::Link(target) => (new.mode(0o777).set_mode_file_type(ModeFileType::Symlink), target.as_bytes()),
                Entry::Console => {
                    (new.mode(0o600).set_mode_file_type(ModeFileType::Char).rdev_major(5).rdev_minor(1), &[])
                }
            };
            let size = u32::try_from(bytes.len()).with_context(|| format!("{path} is too large for a cpio archive"))?;
            let mut writer = new.write(&mut archive, size);
            std::io::Write::write_all(&mut writer, bytes)?;
            writer.finish()?;
        }
        trailer(&mut archive)?;
        Ok(archive)
    }

    /// Writes the archive to a file in `target/salp/guests` and returns its path.
    ///
    /// # Errors
    ///
    /// What the file system answers.
    pub fn save(&self, name: &str) -> Result<PathBuf> {
        let path = paths::guests().join(format!("{name}.cpio"));
        let archive = self.build()?;
        if fs::read(&path).ok().as_deref() != Some(&archive[..]) {
            paths::write_whole(&path, &archive)?;
        }
        Ok(path)
    }

    fn prepare(&mut self, path: &str) -> String {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].into()).or_insert(Entry::Directory);
        }
        path.into()
    }
}

/// What a program needs to be started.
struct Needs {
    interpreter: Option<String>,
    libraries: Vec<String>,
}

fn needs(bytes: &[u8]) -> Result<Needs> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    ensure!(header.e_machine(endian) == elf::EM_AARCH64, "it is not an arm64 program");
    let sections = header.sections(endian, bytes)?;
    let mut needs = Needs { interpreter: None, libraries: Vec::new() };
    for segment in header.program_headers(endian, bytes)? {
        if let Some(name) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(std::str::from_utf8(name)?.into());
        }
    }
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries.iter().filter(|entry| entry.tag32(endian) == Some(elf::DT_NEEDED)) {
            let Ok(name) = entry.string(endian, strings) else { bail!("a library's name cannot be read") };
            needs.libraries.push(std::str::from_utf8(name)?.into());
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_archive_holds_what_was_put_in_after_its_directories() {
        let initrd = Initrd::default().file("/usr/bin/x", "#!", 0o755).link("bin/sh", "busybox").init("hello");
        let archive = initrd.build().expect("an archive");
        assert_eq!(archive, initrd.build().expect("the same archive"));
        let mut rest = &archive[..];
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_string(), reader.entry().mode());
            let mut content = String::new();
            reader.read_to_string(&mut content).expect("content");
            seen.push((name, mode, content));
            rest = reader.finish().expect("the next entry");
        }
        let expected = [
            ("bin", 0o040_755, ""),
            ("bin/sh", 0o120_777, "busybox"),
            ("init", 0o100_755, "hello"),
            ("usr", 0o040_755, ""),
            ("usr/bin", 0o040_755, ""),
            ("usr/bin/x", 0o100_755, "#!"),
        ];
        assert_eq!(seen, expected.map(|(name, mode, content)| (name.into(), mode, content.into())));
    }
}
