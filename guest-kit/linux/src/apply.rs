//! Takes an identity on: random numbers, clock, names, network, and then the word to Salp that it is done.
//!
//! Comes after [`identity`](crate::identity); [`network`] does its part, [`report`](crate::report) says what was done.
//! Order matters: what is made of random numbers, or carries a time, comes after the seed and the clock.

use crate::device::{Device, Registers};
use crate::identity::Identity;
use crate::network;
use crate::report::Report;
use crate::sys;
use anyhow::{Context, Result, anyhow};
use rustix::fs::{Access, access};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::fs::{self, File};
use std::path::Path;

/// How far the clock may be off before it is set, in nanoseconds: a reading costs time itself.
const TOLERANCE: i64 = 1_000_000;

/// Takes an identity on, and acknowledges it unless a part of the network still is the source's. `etc` is `/etc`.
pub fn take_on<R: Registers>(device: &Device<R>, identity: &Identity, etc: &Path, report: &mut Report<'_>) {
    seed(device, report);
    clock(device, report);
    names(identity, etc, report);
    if network::take_on(identity, report) {
        report.step("acknowledge", "Salp is told that this identity is taken on", || {
            device.acknowledge();
            Ok(())
        });
    } else {
        let error =
            anyhow!("not done: this VM may still use its source's addresses; `salp-guest identity` tries again");
        report.fail("acknowledge", &error);
    }
}

fn seed<R: Registers>(device: &Device<R>, report: &mut Report<'_>) {
    report.step("random", "the kernel has a new seed", || {
        let urandom = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
        sys::reseed(urandom, device.random()).context("/dev/urandom does not take a seed")
    });
}

fn clock<R: Registers>(device: &Device<R>, report: &mut Report<'_>) {
    let difference = difference(device.time(), clock_gettime(ClockId::Realtime));
    if difference.abs() <= TOLERANCE {
        return report.say("clock", "right");
    }
    let way = if difference > 0 { "forward" } else { "back" };
    let seconds = difference.unsigned_abs() as f64 / 1e9;
    report.step("clock", format_args!("set {way} by {seconds:.3} s"), || {
        clock_settime(ClockId::Realtime, timespec(device.time())).context("cannot set the clock")
    });
}

/// Returns how far a clock must go forward to show `time`, in nanoseconds.
fn difference(time: u64, clock: Timespec) -> i64 {
    let shown = i128::from(clock.tv_sec) * 1_000_000_000 + i128::from(clock.tv_nsec);
    i64::try_from(i128::from(time) - shown).unwrap_or(i64::MAX)
}

fn timespec(time: u64) -> Timespec {
    Timespec { tv_sec: (time / 1_000_000_000) as i64, tv_nsec: (time % 1_000_000_000) as _ }
}

/// Sets the host name, and writes it and the machine id to their files.
fn names(identity: &Identity, etc: &Path, report: &mut Report<'_>) {
    let name = identity.host_name();
    let file = etc.join("hostname");
    let kept = is_writable(&file, etc);
    let place = if kept { format!(", also in {}", file.display()) } else { String::new() };
    report.step("hostname", format_args!("{name}{place}"), || {
        rustix::system::sethostname(name.as_bytes()).context("cannot set the host name")?;
        if kept { write(&file, name) } else { Ok(()) }
    });
    let (id, file) = (identity.machine_id(), etc.join("machine-id"));
    if file.exists() || is_writable(&file, etc) {
        report.step("machine-id", format_args!("{id} in {}", file.display()), || write(&file, &id));
    } else {
        report.say("machine-id", format_args!("not written, as there is no {} to write to", file.display()));
    }
}

/// Returns whether a file can be written, or made in its directory.
fn is_writable(file: &Path, directory: &Path) -> bool {
    let path = if file.exists() { file } else { directory };
    access(path, Access::WRITE_OK).is_ok()
}

fn write(file: &Path, line: &str) -> Result<()> {
    fs::write(file, format!("{line}\n")).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use salp_hvc::device::COMMAND_ACKNOWLEDGE;

    fn lines(dry_run: bool, act: impl FnOnce(&mut Report<'_>)) -> String {
        let mut output = Vec::new();
        act(&mut Report::new(&mut output, dry_run));
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn a_clock_is_set_by_what_it_lacks() {
        let clock = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        assert_eq!(difference(5_000_000_000, clock(4, 999_000_000)), 1_000_000);
        assert_eq!(difference(5_000_000_000, clock(6, 0)), -1_000_000_000);
        assert_eq!(difference(5_000_000_000, clock(-1, 0)), 6_000_000_000);
        assert_eq!(difference(u64::MAX, clock(0, 0)), i64::MAX);
        let time = timespec(1_700_000_000_123_456_789);
        assert_eq!((time.tv_sec, time.tv_nsec), (1_700_000_000, 123_456_789));
    }

    #[test]
    fn a_clock_that_is_far_off_is_set() {
        let device = Fake::source("web").device();
        let text = lines(true, |report| clock(&device, report));
        assert!(text.starts_with("clock: set back by "), "{text}");
    }

    #[test]
    fn a_dry_run_says_the_names_and_writes_none() {
        let etc = tempfile::tempdir().expect("a directory");
        let identity = Fake::clone_of("web", 1).device().identity();
        let text = lines(true, |report| names(&identity, etc.path(), report));
        let etc_path = etc.path().display();
        let expected = format!(
            "hostname: web-1, also in {etc_path}/hostname (dry run)\n\
             machine-id: 404142434445464748494a4b4c4d4e4f in {etc_path}/machine-id (dry run)\n"
        );
        assert_eq!(text, expected);
        assert_eq!(fs::read_dir(etc.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn without_a_directory_for_them_names_go_to_no_file() {
        let identity = Fake::clone_of("web", 1).device().identity();
        let text = lines(true, |report| names(&identity, Path::new("/nowhere/etc"), report));
        assert!(text.contains("hostname: web-1 (dry run)\nmachine-id: not written"), "{text}");
    }

    #[test]
    fn an_identity_with_a_mistake_in_its_network_is_not_acknowledged() {
        let device = Fake::new("web", 1, 1, "address=10.0.0.5\n").device();
        let mut output = Vec::new();
        let mut report = Report::new(&mut output, true);
        take_on(&device, &device.identity(), Path::new("/nowhere/etc"), &mut report);
        assert!(!report.is_clean());
        assert!(!device.registers().commands().contains(&COMMAND_ACKNOWLEDGE));
        let text = String::from_utf8(output).expect("text");
        assert!(text.contains("network: failed: address: 10.0.0.5 does not say"), "{text}");
        assert!(text.contains("acknowledge: failed: not done"), "{text}");
    }
}
