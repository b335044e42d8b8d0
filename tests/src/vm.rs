//! VMs of tests: the guests of guest-kit, and stock kernels. [`machine`](crate::machine) starts them.

use anyhow::Result;
use salp_qemu::debian::{self, Stock};
use salp_qemu::image;
use salp_qemu::initrd::Initrd;
use salp_qemu::place::{Files, Placed, place_files};
use salp_qemu::vm::{Restart, VmRequest};
use std::path::{Path, PathBuf};

/// The `/init` of a Linux guest of tests: says that it is there, runs a command of the test's, and turns off.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox --install -s /bin
export PATH=/bin
echo "INIT $(uname -r) cpus=$(nproc) page=$(getconf PAGESIZE 2>/dev/null)"
@COMMAND@
poweroff -f
"#;

/// A VM to be.
#[derive(Clone, Debug)]
pub struct Vm {
    request: VmRequest,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    append: String,
}

/// Returns a VM with a guest of guest-kit, of the same name, with one vCPU and 64 MiB.
///
/// # Panics
///
/// If the guest cannot be built.
pub fn guest(name: &str) -> Vm {
    let kernel = image::build_guest(name).unwrap_or_else(|error| panic!("guest {name}: {error:#}"));
    Vm {
        request: VmRequest { memory: 64 << 20, ..VmRequest::new(name, name) },
        kernel,
        initrd: None,
        append: String::new(),
    }
}

/// Returns a VM with a stock guest of the runner, with 512 MiB and what a user gets with it: Linux has a shell.
///
/// # Panics
///
/// If it cannot be had.
pub fn stock(name: &str) -> Vm {
    let stock = Stock::named(name).unwrap_or_else(|| panic!("there is no stock guest {name}"));
    let kernel = stock.fetch().unwrap_or_else(|error| panic!("{error:#}"));
    let request = VmRequest { load: stock.load, ..VmRequest::new(name, name) };
    let initrd = stock.linux.then(|| Initrd::shell().unwrap_or_else(|error| panic!("{error:#}")));
    Vm { request, kernel, initrd, append: if stock.linux { "console=ttyAMA0".into() } else { String::new() } }
}

/// Returns a VM with a stock kernel that runs `command` by itself, without a shell for people, and turns off.
///
/// # Panics
///
/// If it cannot be had.
pub fn linux(name: &str, command: &str) -> Vm {
    let initrd = Initrd::busybox().unwrap_or_else(|error| panic!("{error:#}"));
    linux_with(name, initrd, command)
}

/// Returns a VM as [`linux`] does, with more files in its initial RAM disk.
///
/// # Panics
///
/// If it cannot be had.
pub fn linux_with(name: &str, initrd: Initrd, command: &str) -> Vm {
    let initrd = initrd.init(INIT.replace("@COMMAND@", command));
    // One file for each content: tests run side by side.
    let save = |archive: Vec<u8>| initrd.save(&format!("test-{:016x}", sum(&archive)));
    let file = initrd.build().and_then(save).unwrap_or_else(|error| panic!("{error:#}"));
    Vm { initrd: Some(file), ..stock(name) }
}

/// Returns a VM with Debian's kernel, as [`linux_with`] does, whose first NIC is up before the command.
///
/// # Panics
///
/// If it cannot be had.
pub fn debian_on(nics: &[&str], name: &str, initrd: Result<Initrd>, command: &str) -> Vm {
    let stock = Stock::named("debian").expect("a stock guest");
    let initrd = initrd
        .and_then(|initrd| initrd.module(stock, "virtio_mmio"))
        .and_then(|initrd| initrd.module(stock, "virtio_net"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let command =
        format!("modprobe virtio_mmio; modprobe virtio_net; ip link set lo up; ip link set eth0 up\n{command}");
    let debian = linux_with("debian", initrd, &command).named(name).mib(256);
    nics.iter().fold(debian, |vm, nic| vm.nic(nic))
}

/// Returns busybox and iperf3, for [`debian_on`].
///
/// # Errors
///
/// It cannot be had.
pub fn iperf3() -> Result<Initrd> {
    Initrd::busybox()?.program(&debian::iperf3()?, "usr/bin/iperf3")
}

/// Returns a sum of bytes (FNV-1a) that others hardly have.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

impl Vm {
    /// Names it.
    pub fn named(mut self, name: &str) -> Self {
        self.request.name = name.into();
        self
    }

    /// Gives it vCPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.request.cpus = cpus;
        self
    }

    /// Gives it RAM, in MiB.
    pub fn mib(mut self, mib: u64) -> Self {
        self.request.memory = mib << 20;
        self
    }

    /// Adds boot arguments.
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append).trim().into();
        self
    }

    /// Lets it start again when it crashes.
    pub fn restarts_on_crash(mut self) -> Self {
        self.request.restart = Restart::OnCrash;
        self
    }

    /// Gives it memory in pages of 4 KiB only.
    pub fn small_pages(mut self) -> Self {
        self.request.small_pages = true;
        self
    }

    /// Freezes it before its first instruction.
    pub fn frozen(mut self) -> Self {
        self.request.frozen = true;
        self
    }

    /// Keeps it when it is off.
    pub fn stays(mut self) -> Self {
        self.request.stays = true;
        self
    }

    /// Leaves it off at first.
    pub fn off(mut self) -> Self {
        self.request.off = true;
        self
    }

    /// Lets it make management calls.
    pub fn manager(mut self) -> Self {
        self.request.manager = true;
        self
    }

    /// Gives it a NIC, as `--vm` does: `SEGMENT[:MAC]` and what follows.
    ///
    /// # Panics
    ///
    /// If there cannot be such a NIC.
    pub fn nic(mut self, nic: &str) -> Self {
        self.request.nics.push(nic.parse().unwrap_or_else(|error| panic!("{error:#}")));
        self
    }

    /// Gives it an initial RAM disk.
    pub fn initrd(mut self, file: &Path) -> Self {
        self.initrd = Some(file.into());
        self
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.request.name
    }

    /// Lays it out.
    ///
    /// # Panics
    ///
    /// If it does not fit.
    pub fn place(&self) -> Placed {
        let files = Files { kernel: self.kernel.clone(), initrd: self.initrd.clone(), append: self.append.clone() };
        place_files(&self.request, &files).unwrap_or_else(|error| panic!("{error:#}"))
    }
}
