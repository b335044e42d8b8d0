//! Figures of the guest `bench`, and what other hypervisors reach on the same machine.
//!
//! The benchmark prints them, a test holds them as budgets. With time that counts instructions they are exact.

use crate::{Setup, guest, linux};
use anyhow::{Context, Result};
use salp_qemu::bundle::{self, Release};
use salp_qemu::keys::Signer;
use salp_qemu::{flash, image, management};
use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

/// A figure: what it is called, what others need, and what is to be reached, in instructions.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name in the guest.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// Xen 4.17; `None` if it was not measured.
    pub xen: Option<u64>,
    /// KVM of Linux 6.1 with VHE.
    pub kvm: Option<u64>,
    /// The goal.
    pub goal: u64,
    /// What it may be: the goal where it is reached, else what was measured and a little.
    pub budget: u64,
}

impl Figure {
    /// Says what is wrong with what was measured, if it is not within the budget.
    pub fn excess(&self, measured: &BTreeMap<String, u64>) -> Option<String> {
        match measured.get(self.name) {
            Some(&value) if value <= self.budget => None,
            value => Some(format!("{}: {value:?}, the budget is {}", self.name, self.budget)),
        }
    }
}

/// What is compared. Others were measured on the same machine: `neoverse-n1,cntfrq=1000000000`, `-icount shift=0`.
#[rustfmt::skip]
pub const FIGURES: [Figure; 9] = [
    Figure { name: "hvc_smccc_version", about: "HVC, SMCCC_VERSION", xen: Some(559), kvm: Some(1066), goal: 180, budget: 180 },
    Figure { name: "id_register_read", about: "trapped ID register read", xen: Some(535), kvm: Some(1490), goal: 220, budget: 220 },
    Figure { name: "mmio_read_gicd_typer", about: "MMIO read, GICD", xen: Some(702), kvm: Some(1989), goal: 400, budget: 400 },
    Figure { name: "mmio_read_pl011_fr", about: "MMIO read, PL011", xen: Some(726), kvm: Some(5549), goal: 400, budget: 400 },
    Figure { name: "sgi_to_self", about: "SGI to self: send, take, end", xen: Some(1208), kvm: Some(2667), goal: 700, budget: 700 },
    Figure { name: "ipi_round_trip", about: "IPI ping-pong in WFI, two CPUs", xen: None, kvm: Some(9171), goal: 4000, budget: 4000 },
    Figure { name: "first_write_4k", about: "first write to a page, zeroed", xen: None, kvm: Some(7652), goal: 1200, budget: 1200 },
    Figure { name: "reset_to_first_instruction", about: "reset to first guest instruction", xen: Some(20_900_000), kvm: Some(1_082_000_000), goal: 4_000_000, budget: 4_000_000 },
    Figure { name: "flash_to_first_instruction", about: "the same from flash, signature checked", xen: None, kvm: None, goal: 15_000_000, budget: 15_000_000 },
];

/// Returns what the guests `bench` and `tiny` measure, by name.
///
/// # Panics
///
/// If a guest does not end well.
pub fn measure() -> BTreeMap<String, u64> {
    // Pages of 4 KiB only: the first write to each is what is measured.
    let bench = Setup::of(guest("bench").cpus(2).small_pages()).mib(2048).icount().run().all_off();
    let tiny = Setup::of(guest("tiny").mib(16)).mib(2048).icount().run().all_off();
    let lines = [bench.lines("bench"), tiny.lines("tiny")].concat();
    let mut measured: BTreeMap<_, _> = lines.into_iter().filter_map(read).collect();
    measured
        .insert("flash_to_first_instruction".into(), start_from_flash().unwrap_or_else(|error| panic!("{error:#}")));
    measured
}

/// Starts the guest `tiny` from a flash, out of a bundle that has the management guest too, and returns what it measures.
fn start_from_flash() -> Result<u64> {
    let (signer, directory) = (Signer::development(), tempfile::tempdir()?);
    let vms = [guest("tiny").mib(16).place(), management::guest_on_qemu("", &[])?];
    let image = image::with_vms(crate::machine::image(), &vms)?;
    let bundle = bundle::make(&image, &Release::this(), &signer)?;
    let file = directory.path().join("flash.img");
    fs::write(&file, flash::make(&flash::build_stage(&signer)?, &bundle, &[signer.public()])?)?;
    let mut machine = Setup::builtin().flash(&file).cpus(1).icount().start();
    let line = machine.expect_line("tiny", "BENCH reset_to_first_instruction ");
    machine.stop();
    read(&line).map(|(_, value)| value).with_context(|| format!("{line:?} has no figure"))
}

/// Reads `BENCH name count=N value=N`.
pub(crate) fn read(line: &str) -> Option<(String, u64)> {
    let mut words = line.strip_prefix("BENCH ")?.split(' ');
    let name = words.next()?;
    let value = words.find_map(|word| word.strip_prefix("value="))?.parse().ok()?;
    Some((name.into(), value))
}

/// How long a kernel took from its first instruction to its init, with one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// By the counter, in seconds: each stands for 10⁹ instructions.
    pub clock: f64,
    /// By the host's clock, in seconds, from the machine's start to its end.
    pub wall: f64,
}

/// Boots Debian's kernel to its init, under Salp or at EL1 without it.
///
/// # Panics
///
/// If it does not get there.
pub fn boot_to_init(bare: bool) -> Boot {
    let setup = Setup::of(linux("debian", "true")).icount().seconds(900);
    let start = Instant::now();
    let ended = if bare { setup.start_bare() } else { setup.start() }.finish();
    let wall = start.elapsed().as_secs_f64();
    // The kernel's own time stamp, in microseconds: `[    0.123456] Run /init as init process`.
    let stamp = |line: &str| line.split_once("] Run /init")?.0.rsplit('[').next()?.trim().parse().ok();
    let clock = ended.text.lines().find_map(stamp);
    Boot { clock: clock.unwrap_or_else(|| panic!("no time of init\n{}", ended.text)), wall }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_from_its_line() {
        assert_eq!(read("BENCH hvc count=1000 value=171"), Some(("hvc".into(), 171)));
        assert_eq!(read("PASS hvc"), None);
        assert_eq!(read("BENCH hvc count=1000"), None);
    }
}
