//! Freezes this VM, so that clones can be made of it: hooks, file systems, the freeze itself, and what comes after it in
//! the source and in every clone.
//!
//! [`device`](crate::device) freezes, [`apply`](crate::apply) gives a clone its identity, [`hooks`](crate::hooks) run
//! around it.

use crate::device::{Device, Registers};
use crate::hooks::Hooks;
use crate::identity::Identity;
use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The kernel's switch for its detector of CPUs that do not schedule.
pub const WATCHDOG: &str = "/proc/sys/kernel/watchdog";

/// Freezes this VM, and takes the identity of the clone on that it may have become. Says on `output` whether it is
/// `source` or `clone index=N name=NAME`. Returns whether all went well.
///
/// `watchdog` is the file of the kernel's switch, if it is to be off meanwhile; `take_on` returns whether no step failed.
///
/// # Errors
///
/// The hook that failed: then nothing was frozen.
pub fn freeze<R: Registers>(
    device: &Device<R>,
    hooks: &Hooks,
    watchdog: Option<&Path>,
    take_on: impl FnOnce(&Identity) -> bool,
    output: &mut dyn Write,
) -> Result<bool> {
    hooks.before().context("this VM was not frozen")?;
    rustix::fs::sync();
    let before = device.epoch();
    let silenced = watchdog.and_then(Silenced::new);
    device.freeze();
    drop(silenced);
    let identity = device.identity();
    let clone = identity.epoch != before;
    let mut clean = true;
    if clone {
        clean &= take_on(&identity);
        let _ = writeln!(output, "clone index={} name={}", identity.index, identity.name);
    } else {
        let _ = writeln!(output, "source");
    }
    let _ = output.flush();
    let errors = hooks.after(&identity.environment(clone));
    for error in &errors {
        eprintln!("salp-guest: {error:#}");
    }
    Ok(clean && errors.is_empty())
}

/// The kernel's detector of CPUs that do not schedule is off while this lives: a frozen VM's clock goes on.
struct Silenced(PathBuf);

impl Silenced {
    /// Turns it off, if this kernel has one and it is on.
    fn new(file: &Path) -> Option<Self> {
        let on = fs::read_to_string(file).is_ok_and(|text| text.trim() == "1");
        let off = on.then(|| fs::write(file, "0"))?;
        match off {
            Ok(()) => Some(Self(file.into())),
            Err(error) => {
                eprintln!("salp-guest: warning: the watchdog stays on: {}: {error}", file.display());
                None
            }
        }
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, "1") {
            eprintln!("salp-guest: warning: the watchdog stays off: {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use salp_hvc::device::COMMAND_FREEZE;

    struct Ended {
        result: Result<bool>,
        output: String,
        taken_on: Option<String>,
        commands: Vec<u32>,
    }

    fn run(fake: Fake, hooks: &Hooks, watchdog: Option<&Path>) -> Ended {
        let device = fake.device();
        let (mut output, mut taken_on) = (Vec::new(), None);
        let take_on = |identity: &Identity| {
            taken_on = Some(identity.name.clone());
            true
        };
        let result = freeze(&device, hooks, watchdog, take_on, &mut output);
        let output = String::from_utf8(output).expect("text");
        Ended { result, output, taken_on, commands: device.registers().commands() }
    }

    /// Hooks that write to a file: `before`, and the environment afterwards.
    fn hooks(log: &Path) -> Hooks {
        let log = log.display();
        Hooks {
            directory: None,
            before: vec![format!("echo before $SALP_CLONE >> {log}")],
            after: vec![format!("echo after $SALP_CLONE $SALP_INDEX $SALP_CONFIG_ROLE >> {log}")],
        }
    }

    #[test]
    fn the_source_goes_on_as_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let ended = run(Fake::source("web"), &hooks(&log), None);
        assert!(ended.result.expect("frozen"));
        assert_eq!((&*ended.output, ended.taken_on), ("source\n", None));
        assert_eq!(ended.commands, [COMMAND_FREEZE]);
        assert_eq!(fs::read_to_string(log).expect("a log"), "before\nafter 0 0\n");
    }

    #[test]
    fn a_clone_takes_its_identity_on_before_its_hooks_run() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let fake = Fake::source("web").becoming(Fake::clone_of("web", 2));
        let ended = run(fake, &hooks(&log), None);
        assert!(ended.result.expect("frozen"));
        assert_eq!(ended.output, "clone index=2 name=web-2\n");
        assert_eq!(ended.taken_on.as_deref(), Some("web-2"));
        assert_eq!(fs::read_to_string(log).expect("a log"), "before\nafter 1 2 web\n");
    }

    #[test]
    fn a_clone_that_is_frozen_again_goes_on_as_a_source() {
        let ended = run(Fake::clone_of("web", 2), &Hooks::default(), None);
        assert_eq!((&*ended.output, ended.taken_on), ("source\n", None));
    }

    #[test]
    fn a_hook_that_fails_keeps_the_vm_from_being_frozen() {
        let hooks = Hooks { before: vec!["exit 5".into()], after: vec!["exit 6".into()], ..Hooks::default() };
        let ended = run(Fake::source("web"), &hooks, None);
        let error = format!("{:#}", ended.result.expect_err("a failure"));
        assert_eq!(error, "this VM was not frozen: the command `exit 5` failed: exit status: 5");
        assert_eq!((&*ended.output, ended.commands), ("", vec![]));
    }

    #[test]
    fn a_hook_that_fails_afterwards_is_not_forgotten() {
        let hooks = Hooks { after: vec!["exit 6".into()], ..Hooks::default() };
        assert!(!run(Fake::source("web"), &hooks, None).result.expect("frozen"));
    }

    #[test]
    fn the_watchdog_is_off_only_while_the_vm_is_frozen_and_only_if_it_was_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("watchdog");
        for (text, meanwhile) in [("1\n", "0"), ("0\n", "0\n")] {
            fs::write(&file, text).expect("written");
            let silenced = Silenced::new(&file);
            assert_eq!(fs::read_to_string(&file).expect("read"), meanwhile);
            drop(silenced);
            assert_eq!(fs::read_to_string(&file).expect("read").trim(), text.trim());
        }
        assert!(Silenced::new(Path::new("/nowhere/watchdog")).is_none());
        assert!(run(Fake::source("web"), &Hooks::default(), Some(Path::new("/nowhere/watchdog"))).result.is_ok());
    }
}
