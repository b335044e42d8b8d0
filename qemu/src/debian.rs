//! Stock guests from Debian packages, fetched by apt into private directories: nothing is installed, no root is needed.
//!
//! Packages come from the mirror that the host itself uses. What a guest needs is taken out of its package once and kept
//! in `target/salp/guests`; [`vm`](crate::vm) requests name it, and [`initrd`](crate::initrd) takes programs from here.

use crate::{paths, say, setup};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The release that guests come from.
const RELEASE: &str = "bookworm";

/// Where the packages of kernels have their modules.
const MODULES: &str = "./lib/modules/*";

/// A stock kernel or boot loader.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    /// Its name in `kernel=`.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    package: &'static str,
    backports: bool,
    /// The file inside the package; a `*` at the end stands for the version.
    file: &'static str,
    /// Where a flat binary is loaded.
    pub load: Option<u64>,
    /// Whether it is Linux, and wants an initial RAM disk and a console.
    pub linux: bool,
}

/// Every stock guest, by name.
pub const STOCK: [Stock; 4] = [
    Stock {
        name: "debian",
        about: "Debian's 6.1 cloud kernel",
        package: "linux-image-cloud-arm64",
        backports: false,
        file: "./boot/vmlinuz-*",
        load: None,
        linux: true,
    },
    Stock {
        name: "debian-6.12",
        about: "Debian's 6.12 cloud kernel, from backports",
        package: "linux-image-cloud-arm64",
        backports: true,
        file: "./boot/vmlinuz-*",
        load: None,
        linux: true,
    },
    Stock {
        name: "debian-16k",
        about: "Debian's 6.12 kernel with pages of 16 KiB, from backports (needs --cpu max)",
        package: "linux-image-arm64-16k",
        backports: true,
        file: "./boot/vmlinuz-*",
        load: None,
        linux: true,
    },
    Stock {
        name: "u-boot",
        about: "Debian's U-Boot for qemu_arm64",
        package: "u-boot-qemu",
        backports: false,
        file: "./usr/lib/u-boot/qemu_arm64/u-boot.bin",
        load: Some(0x4020_0000),
        linux: false,
    },
];

impl Stock {
    /// Returns the stock guest of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        STOCK.iter().find(|stock| stock.name == name)
    }

    /// Returns its kernel, downloaded if it is not here yet.
    ///
    /// # Errors
    ///
    /// Why it could not be had.
    pub fn fetch(&self) -> Result<PathBuf> {
        let kept = paths::guests().join(self.name);
        keep(&kept, || self.unpack(&kept, None))
    }

    /// Returns a directory with its modules as Linux wants them, by release, downloaded if they are not here yet; `None`
    /// if it is not Linux.
    ///
    /// # Errors
    ///
    /// Why they could not be had.
    pub fn modules(&self) -> Result<Option<PathBuf>> {
        let kept = paths::guests().join(format!("{}-modules", self.name));
        // A kernel loads modules of its own package only: it comes new with them.
        let kernel = paths::guests().join(self.name);
        let keep = || keep(&kept, || self.unpack(&kernel, Some(&kept)));
        self.linux.then(keep).transpose()
    }

    /// Downloads the package and takes out what is asked for.
    fn unpack(&self, kernel: &Path, modules: Option<&Path>) -> Result<()> {
        let apt = Apt::new("arm64")?;
        let package = apt.newest(self.package, self.backports)?;
        say(format_args!("downloading {} ({package})", self.about));
        let work = tempfile::tempdir_in(paths::guests())?;
        let wanted: Vec<&str> = [self.file].into_iter().chain(modules.map(|_| MODULES)).collect();
        for archive in apt.download(&[&package], self.backports, work.path())? {
            unpack(&archive, work.path(), &wanted)?;
        }
        let file = work.path().join(self.file.trim_end_matches('*'));
        let directory = file.parent().context("a directory")?.to_path_buf();
        let start = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = fs::read_dir(&directory)
            .with_context(|| format!("{package} has no {}", self.file))?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with(&start))
            .with_context(|| format!("{package} has no {}", self.file))?;
        fs::rename(found.path(), kernel)?;
        if let Some(modules) = modules {
            fs::rename(work.path().join("lib/modules"), modules)?;
        }
        Ok(())
    }
}

/// Returns Debian's static busybox for arm64.
///
/// # Errors
///
/// Why it could not be had.
pub fn busybox() -> Result<PathBuf> {
    let root = root_of("busybox", &["busybox-static"])?;
    let file = ["usr/bin/busybox", "bin/busybox"].map(|path| root.join(path)).into_iter().find(|path| path.is_file());
    file.context("busybox-static has no busybox")
}

/// Returns a directory with stress-ng for arm64 and all packages that it depends on, unpacked.
///
/// # Errors
///
/// Why it could not be had.
pub fn stress_ng() -> Result<PathBuf> {
    root_of("stress-ng", &["stress-ng"])
}

/// Returns a directory with iperf3 for arm64 and all packages that it depends on, unpacked.
///
/// # Errors
///
/// Why it could not be had.
pub fn iperf3() -> Result<PathBuf> {
    root_of("iperf3", &["iperf3"])
}

/// Returns a directory with the named arm64 packages and all that they depend on, unpacked. `name` is what the
/// directory is called.
///
/// # Errors
///
/// Why they could not be had.
pub fn root_of(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let kept = paths::guests().join(name);
    keep(&kept, || {
        say(format_args!("downloading {} for arm64", packages.join(", ")));
        let apt = Apt::new("arm64")?;
        unpack_all(&apt.download_with_dependencies(packages)?, &kept)
    })
}

/// Returns a directory with QEMU 10 of the backports for this host, unpacked. It uses the host's libraries.
///
/// # Errors
///
/// Why it could not be had.
pub fn qemu_10() -> Result<PathBuf> {
    let kept = paths::guests().join("qemu-10");
    keep(&kept, || {
        say("downloading QEMU 10 from Debian's backports");
        let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
        let apt = Apt::new(architecture.trim())?;
        let work = tempfile::tempdir_in(paths::guests())?;
        let packages = ["qemu-system-arm", "qemu-system-common", "qemu-system-data"];
        unpack_all(&apt.download(&packages, true, work.path())?, &kept)
    })
}

/// Returns a directory with Debian's fence agents, unpacked: Python programs, which need modules of Python besides.
///
/// # Errors
///
/// Why they could not be had.
pub fn fence_agents() -> Result<PathBuf> {
    let kept = paths::guests().join("fence-agents");
    keep(&kept, || {
        say("downloading Debian's fence agents");
        unpack_alone("fence-agents", &kept)
    })
}

/// Returns Prometheus' program that checks metrics, for this host.
///
/// # Errors
///
/// Why it could not be had.
pub fn promtool() -> Result<PathBuf> {
    let kept = paths::guests().join("prometheus");
    let root = keep(&kept, || {
        say("downloading Debian's Prometheus");
        unpack_alone("prometheus", &kept)
    })?;
    Ok(root.join("usr/bin/promtool"))
}

/// Unpacks a package for this host, without what it depends on.
fn unpack_alone(package: &str, kept: &Path) -> Result<()> {
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let apt = Apt::new(architecture.trim())?;
    let work = tempfile::tempdir_in(paths::guests())?;
    unpack_all(&apt.download(&[package], false, work.path())?, kept)
}

/// Makes something once: when `kept` exists it is whole.
fn keep(kept: &Path, make: impl FnOnce() -> Result<()>) -> Result<PathBuf> {
    if !kept.exists() {
        let _lock = paths::lock(&paths::guests())?;
        if !kept.exists() {
            make().with_context(|| format!("cannot get {}", kept.display()))?;
        }
    }
    Ok(kept.to_path_buf())
}

fn unpack_all(archives: &[PathBuf], kept: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(paths::guests())?;
    let root = work.path().join("root");
    fs::create_dir(&root)?;
    for archive in archives {
        unpack(archive, &root, &[])?;
    }
    fs::rename(&root, kept)?;
    Ok(())
}

/// Unpacks a package, or only the files that match one of `only`.
fn unpack(archive: &Path, into: &Path, only: &[&str]) -> Result<()> {
    let mut source = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("--no-same-owner").arg("-C").arg(into);
    if !only.is_empty() {
        tar.arg("--wildcards").args(only);
    }
    let stream = source.stdout.take().context("a pipe")?;
    let unpacked = tar.stdin(stream).status().context("cannot run tar")?;
    let read = source.wait()?;
    ensure!(unpacked.success() && read.success(), "cannot unpack {}", archive.display());
    Ok(())
}

/// apt with directories of its own, for one architecture.
struct Apt {
    directory: PathBuf,
    architecture: String,
}

impl Apt {
    fn new(architecture: &str) -> Result<Self> {
        ensure!(
            setup::find_program("apt-get").is_some(),
            "there is no apt-get: stock guests come from Debian packages"
        );
        let directory = paths::guests().join(format!("apt-{architecture}"));
        for part in ["state/lists/partial", "cache/archives/partial", "trusted"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let apt = Self { directory, architecture: architecture.into() };
        fs::write(apt.directory.join("status"), "")?;
        fs::write(apt.directory.join("sources.list"), sources()?)?;
        // The host's configuration may name hooks that need root; this one is read instead of it.
        let lists = apt.directory.join("state/lists");
        let fresh = fs::read_dir(&lists)?.filter_map(Result::ok).any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
            name.contains("Packages") && age.is_some_and(|age| age.as_secs() < 3600)
        });
        if !fresh {
            say("reading Debian's package lists");
            apt.run("apt-get", &["update"], None)?;
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let at = |part: &str| self.directory.join(part).display().to_string();
        let options = [
            format!("Dir::State={}", at("state")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=-".into(),
            "Dir::Etc::Preferences=-".into(),
            "Dir::Etc::PreferencesParts=-".into(),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures::={}", self.architecture),
            "APT::Sandbox::User=".into(),
            "APT::Update::Post-Invoke-Success=".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            "Debug::NoLocking=1".into(),
        ];
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.args(options.iter().flat_map(|option| ["-o", option]));
        command
    }

    fn run(&self, program: &str, arguments: &[&str], directory: Option<&Path>) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        output(&mut command)
    }

    /// Returns the arguments that select a release; without any, apt takes the newest of the release and its updates.
    fn release(backports: bool) -> Vec<String> {
        if backports { vec!["-t".into(), format!("{RELEASE}-backports")] } else { Vec::new() }
    }

    /// Returns the package that a metapackage stands for, or the package itself.
    fn newest(&self, package: &str, backports: bool) -> Result<String> {
        let release = Self::release(backports);
        let mut arguments: Vec<&str> = release.iter().map(String::as_str).collect();
        arguments.extend(["depends", package]);
        let text = self.run("apt-cache", &arguments, None)?;
        let start = "linux-image-";
        let mut depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let kernel = depends.rfind(|name| package.starts_with(start) && name.starts_with(start));
        Ok(kernel.unwrap_or(package).into())
    }

    /// Downloads packages alone, and returns the files.
    fn download(&self, packages: &[&str], backports: bool, into: &Path) -> Result<Vec<PathBuf>> {
        let release = Self::release(backports);
        let mut arguments: Vec<&str> = release.iter().map(String::as_str).collect();
        arguments.push("download");
        arguments.extend(packages);
        self.run("apt-get", &arguments, Some(into))?;
        archives(into)
    }

    /// Downloads packages and all that they depend on, and returns the files.
    fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let cache = self.directory.join("cache/archives");
        for old in archives(&cache)? {
            fs::remove_file(old)?;
        }
        let mut arguments = vec!["install", "--download-only", "-y", "--no-install-recommends"];
        arguments.extend(packages);
        self.run("apt-get", &arguments, None)?;
        archives(&cache)
    }
}

/// Returns the packages in a directory.
fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path());
    let mut archives: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    archives.sort();
    Ok(archives)
}

/// Writes apt sources for [`RELEASE`], its updates, security and backports, from the host's own mirror.
fn sources() -> Result<String> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let sites: Vec<(&str, &str)> = targets
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?, words.next()?))
        })
        .filter(|(_, _, component)| *component == "main")
        .map(|(site, release, _)| (site, release))
        .collect();
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| os.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"'));
    let codename = value("VERSION_CODENAME=").unwrap_or_default();
    let site = |release: &str| sites.iter().find(|site| site.1 == release).map(|site| site.0);
    let (true, Some(main)) = (value("ID=") == Some("debian"), site(codename)) else {
        bail!("this host's apt has no source of Debian packages");
    };
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let option = if Path::new(key).exists() { format!("[signed-by={key}] ") } else { String::new() };
    let mut text = String::new();
    for suite in [RELEASE.to_string(), format!("{RELEASE}-updates"), format!("{RELEASE}-backports")] {
        text += &format!("deb {option}{main} {suite} main\n");
    }
    if let Some(security) = site(&format!("{codename}-security")) {
        text += &format!("deb {option}{security} {RELEASE}-security main\n");
    }
    Ok(text)
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
