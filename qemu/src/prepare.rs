//! From requests to machines: names of stock guests become files, VMs become a machine that can be started.
//!
//! Between [`vm`](crate::vm) and [`machine`](crate::machine), and what most tests start from.

use crate::debian::Stock;
use crate::image;
use crate::initrd::Initrd;
use crate::machine::{Config, Payload, Uplink};
use crate::pack;
use crate::place::{Files, Placed, place_files};
use crate::setup::Qemu;
use crate::vm::{Size, VmRequest};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// The memory of a machine whose VMs need less.
pub const USUAL_MEMORY: u64 = 1 << 30;

/// Returns the guest that a person gets who asks for none: Debian's kernel with a shell.
///
/// # Errors
///
/// Why the kernel could not be had.
pub fn default_guest() -> Result<VmRequest> {
    Stock::named("debian").context("a stock guest")?.fetch()?;
    Ok(VmRequest { cpus: 2, ..VmRequest::new("debian", "debian") })
}

/// Returns the guest that is packed in the image.
pub fn packed_guest() -> VmRequest {
    VmRequest::new("builtin", "builtin")
}

/// Finds the files of a VM (downloading or building what its kernel's name stands for) and lays it out.
///
/// `kernel=` may name a stock guest, `builtin`, or `kit:NAME` for one of guest-kit's guests.
///
/// # Errors
///
/// A sentence that names the VM, the file and the limit.
pub fn prepare(vm: &VmRequest) -> Result<Placed> {
    let mut vm = vm.clone();
    let stock = Stock::named(&vm.kernel);
    let kernel = match (stock, vm.kernel.strip_prefix("kit:")) {
        (Some(stock), _) => {
            vm.load = vm.load.or(stock.load);
            stock.fetch()?
        }
        (None, Some(guest)) => image::build_guest(guest)?,
        (None, None) if vm.kernel == "builtin" => image::build_guest("builtin")?,
        (None, None) => PathBuf::from(&vm.kernel),
    };
    let linux = stock.is_some_and(|stock| stock.linux);
    let initrd = match vm.initrd.as_deref() {
        Some("none") => None,
        None if !linux => None,
        Some("busybox") | None => Some(Initrd::shell()?),
        Some(path) => Some(PathBuf::from(path)),
    };
    let append = vm.append.clone().unwrap_or_else(|| if linux { "console=ttyAMA0".into() } else { String::new() });
    place_files(&vm, &Files { kernel, initrd, append })
}

/// Returns a machine with Salp and these VMs, and the memory that they need: at least `memory` if given (then it is
/// exactly that), else at least [`USUAL_MEMORY`]. `options` are EL2's: `idle=poweroff`, `attach=NAME`.
///
/// The image is not built; [`image::build`] does.
///
/// # Errors
///
/// A sentence that names the limit that the VMs break.
pub fn machine(qemu: Qemu, vms: &[Placed], memory: Option<u64>, overcommit: bool, options: &str) -> Result<Config> {
    let set = pack::pack(vms)?;
    let needed = pack::memory_needed(vms, &set);
    let memory = memory.unwrap_or(USUAL_MEMORY.max(needed));
    ensure!(
        memory >= needed || overcommit,
        "--memory {}: these VMs have {} together and need a machine with {} (or --overcommit)",
        Size(memory),
        Size(vms.iter().map(|vm| vm.memory).sum()),
        Size(needed)
    );
    pack::check_fits(&set, memory)?;
    let payload = Payload::Firmware { image: image::path(), boot_set: Some(set), options: options.into() };
    Ok(Config { memory, uplink: Uplink::for_vms(vms), ..Config::new(qemu, payload) })
}

/// Returns a machine that is one VM, without Salp.
pub fn bare_machine(qemu: Qemu, vm: &Placed) -> Config {
    let uplink = Uplink::for_vms(core::slice::from_ref(vm));
    Config { cpus: vm.cpus, memory: vm.memory, uplink, ..Config::new(qemu, Payload::Bare(vm.clone())) }
}
