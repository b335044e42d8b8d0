//! A machine that starts from its flash, and is updated there: by the guest `manager` with `do=flash`, whose initrd is a bundle.

use salp_qemu::bundle::{self, Release};
use salp_qemu::keys::Signer;
use salp_qemu::{flash, image};
use salp_tests::{Running, Setup, Vm, guest, machine};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A flash, and the files that it is made from.
struct Flash {
    directory: TempDir,
}

impl Flash {
    /// Makes a flash with an image whose manager updates it to one whose manager has these words.
    fn with_update(words: &str) -> Self {
        Self::with("", &bundle_of(&[manager(words)], 2), None)
    }

    /// The same with this bundle, with words for the manager of the first image, and another VM in that.
    fn with(first: &str, update: &[u8], other: Option<Vm>) -> Self {
        let flash = Self { directory: tempfile::tempdir().expect("a directory") };
        let next = flash.file("next.salp");
        write(&next, update);
        let stage = flash::build_stage(&Signer::development()).unwrap_or_else(|error| panic!("{error:#}"));
        let vms: Vec<_> = [manager(first).initrd(&next)].into_iter().chain(other).collect();
        let bundle = bundle_of(&vms, 1);
        let made = flash::make(&stage, &bundle, &[Signer::development().public()]);
        write(&flash.path(), &made.unwrap_or_else(|error| panic!("{error:#}")));
        flash
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn path(&self) -> PathBuf {
        self.file("flash.img")
    }

    /// Changes bytes while the power is off.
    fn scratch(&self, at: usize) {
        let mut bytes = fs::read(self.path()).expect("a file");
        bytes[at] ^= 0xff;
        write(&self.path(), &bytes);
    }

    fn start(&self) -> Running {
        self.setup().start()
    }

    fn setup(&self) -> Setup {
        Setup::builtin().flash(&self.path()).seconds(600)
    }
}

fn write(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn manager(words: &str) -> Vm {
    guest("manager").manager().append("do=flash").append(words)
}

fn bundle_of(vms: &[Vm], counter: u64) -> Vec<u8> {
    let vms: Vec<_> = vms.iter().map(Vm::place).collect();
    let image = image::with_vms(machine::image(), &vms);
    bundle_of_image(&image.unwrap_or_else(|error| panic!("{error:#}")), counter)
}

fn bundle_of_image(image: &[u8], counter: u64) -> Vec<u8> {
    let release = Release { counter, ..Release::this() };
    let bundle = bundle::make(image, &release, &Signer::development());
    bundle.unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn an_update_is_tried_confirmed_and_stays_without_power() {
    let flash = Flash::with_update("");
    let mut machine = flash.start();
    machine.expect("salp| slot A: ");
    machine.expect("SLOTS running=0 confirmed=0 standby=0 attempts=0 counters=1,0");
    machine.expect("UPLOADED ");
    machine.expect("salp| slot B: ");
    machine.expect("SLOTS running=1 confirmed=0 standby=3 attempts=1 counters=1,2");
    machine.expect("salp| slot B: ");
    machine.expect("SLOTS running=1 confirmed=1 standby=5 attempts=0 counters=1,2");
    machine.expect("DONE passed=1");
    drop(machine);
    let mut machine = flash.start();
    machine.expect("salp| slot B: ");
    machine.expect("SLOTS running=1 confirmed=1");
}

#[test]
fn an_update_takes_over_under_running_vms_and_stays_without_power() {
    let ticking = guest("timer").append("only=ticks_virtual late=500000000 ticks=20000");
    let next = bundle_of(&[manager("by=handover")], 2);
    let flash = Flash::with("by=handover", &next, Some(ticking));
    let mut machine = flash.start();
    machine.expect("UPLOADED ");
    machine.expect("salp| hand-over 1: goes on with 2 VMs");
    machine.expect("salp| manager: is replaced by the image's own");
    machine.expect("SLOTS running=1 confirmed=0 standby=3 attempts=0 counters=1,2");
    machine.expect("SLOTS running=1 confirmed=1 standby=5 attempts=0 counters=1,2");
    machine.expect("timer| DONE passed=1 failed=0");
    drop(machine);
    let mut machine = flash.start();
    machine.expect("salp| slot B: ");
    machine.expect("SLOTS running=1 confirmed=1");
}

#[test]
fn an_update_that_nobody_confirms_is_tried_three_times_and_then_left() {
    let flash = Flash::with_update("then=keep");
    let mut machine = flash.start();
    machine.expect("UPLOADED ");
    for attempt in 1..=3 {
        machine.expect("salp| slot B: ");
        machine.expect(&format!("SLOTS running=1 confirmed=0 standby=3 attempts={attempt}"));
    }
    machine.expect("salp| slot A: ");
    machine.expect("SLOTS running=0 confirmed=0 standby=4");
    machine.expect("DONE passed=1");
}

#[test]
fn an_update_that_hangs_at_once_is_ended_by_the_watchdog_three_times_and_then_left() {
    // It masks all exceptions and waits for ever.
    let mut image = [0xd503_4fdf_u32, 0xd503_207f, 0x17ff_ffff].map(u32::to_le_bytes).concat();
    image.resize(4096, 0);
    let flash = Flash::with("", &bundle_of_image(&image, 2), None);
    let mut machine = flash.setup().icount().start();
    machine.expect("UPLOADED ");
    for _ in 1..=3 {
        machine.expect("salp| slot B: ");
        machine.expect("salp| the watchdog has reset the machine");
    }
    machine.expect("salp| slot A: ");
    machine.expect("SLOTS running=0 confirmed=0 standby=4");
    machine.expect("DONE passed=1");
}

#[test]
fn a_machine_whose_slots_are_both_bad_says_what_to_do() {
    let flash = Flash::with_update("");
    flash.scratch(0x40_0000 + 100_000);
    let mut machine = flash.start();
    machine.expect("salp| slot A: bad digest");
    machine.expect("salp| slot B: not a bundle");
    machine.expect("salp| RESCUE");
}
