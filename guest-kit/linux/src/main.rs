//! `salp-guest`: the command line, what is said to a person, and the exit status. Everything else is in the library beside
//! it.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use salp_guest::agent::{self, Teller};
use salp_guest::apply;
use salp_guest::device::{Device, Registers};
use salp_guest::freeze::{WATCHDOG, freeze};
use salp_guest::hooks::Hooks;
use salp_guest::identity::{Identity, hex};
use salp_guest::memory::Opened;
use salp_guest::power;
use salp_guest::report::Report;
use salp_guest::watch::Watcher;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

/// Exit status: nothing was done.
const EXIT_NOTHING_DONE: u8 = 1;
/// Exit status: some steps or hooks failed.
const EXIT_SOME_FAILED: u8 = 3;

/// Where names are kept.
const ETC: &str = "/etc";

const STATUS: &str = "\
Exit status:
  0  all went well
  1  nothing was done, standard error says why: no guest device, no access to it, or a hook failed before the freeze
  2  wrong arguments
  3  it was done, but some steps or hooks failed";

const NEEDS: &str = "\
It needs root, /proc, /sys and /dev, and a kernel with CONFIG_DEVMEM=y that is not locked down. No kernel module is used.";

const HOOKS: &str = "\
Hooks are the executable files in /etc/salp/hooks.d (or --hooks DIR), by name; each gets the argument `before` or
`after`. The commands of --before and --after follow, in their order, by /bin/sh -c. Afterwards all find in their
environment:
  SALP_CLONE         1 if this VM has a new identity, 0 in the source
  SALP_INDEX         the clone's index, from 1
  SALP_NAME          the VM's name
  SALP_UUID          its UUID
  SALP_EPOCH         how often it got a new identity
  SALP_CONFIG_<KEY>  each key of its configuration, in upper case, with _ for what is no letter or digit";

const STEPS: &str = "\
Each step says what it did, one line; a step that fails does not stop the others:
  random       the kernel's random number generator gets a new seed and uses it at once
  clock        is set, if it is off by more than 1 ms
  hostname     the VM's name, or hostname= of the configuration; also in /etc/hostname, if that can be written
  machine-id   the VM's UUID in /etc/machine-id
  mac          of the first network interface, or interface= of the configuration: the VM's, or mac=. A change takes
               the interface down and up again
  address      address= of the configuration (10.0.0.5/24, fd00::5/64, several with spaces between) replaces those
               that the interface had. Without it they stay
  gateway      gateway= of the configuration. Without it those stay to which the addresses lead
  acknowledge  Salp lets this VM use the network from now on. Not done if mac=, address= or gateway= failed: then the
               VM may still answer to its source's addresses";

/// The guest side of Salp's cloning of virtual machines
///
/// A VM that is to be cloned runs `salp-guest freeze` when it is ready to serve. It stands still until its manager
/// clones it or lets it go on. Each clone goes on behind the freeze with an identity of its own: name, host name, UUID,
/// MAC address, addresses, clock and random numbers. A VM that is cloned while it runs has `salp-guest watch` in the
/// background.
#[derive(Debug, Parser)]
#[command(name = "salp-guest", version, verbatim_doc_comment, after_help = format!("{NEEDS}\n\n{STATUS}"))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Freeze this VM so that it can be cloned; prints `source`, or `clone index=N name=NAME` in a clone
    ///
    /// Runs the hooks for before, writes file systems to their disks, freezes the VM. Behind the freeze a clone takes
    /// its identity on (see `salp-guest identity --help`; the steps are said on standard error), then the hooks for after
    /// run, in the source too. If a hook fails before the freeze, the VM is not frozen.
    #[command(verbatim_doc_comment, after_help = format!("{HOOKS}\n\n{STATUS}"))]
    Freeze {
        /// Run this command before the freeze; may be given several times
        #[arg(long, value_name = "CMD")]
        before: Vec<String>,
        #[command(flatten)]
        after: After,
        /// Leave the kernel's lockup detector (/proc/sys/kernel/watchdog) on; else it is off while the VM is frozen
        #[arg(long)]
        keep_watchdog: bool,
    },
    /// Take the present identity on
    #[command(after_help = format!("{STEPS}\n\n{STATUS}"))]
    Identity {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Wait for new identities: take each on, then run the hooks for after
    ///
    /// For VMs that are cloned while they run, or reverted to a snapshot. What `salp-guest freeze` of the same VM deals
    /// with is left to it.
    #[command(verbatim_doc_comment, after_help = format!("{HOOKS}\n\n{STATUS}"))]
    Watch {
        /// How often to look, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
        interval: u64,
        #[command(flatten)]
        after: After,
    },
    /// Wait until the power button is pressed, then run a command
    ///
    /// For guests without systemd-logind, or whose kernel has no driver for the button (Debian's cloud kernels). It goes on in
    /// the background of an init script, and ends with the command's exit status.
    Power {
        /// The command
        #[arg(long, value_name = "CMD", default_value = "poweroff")]
        then: String,
    },
    /// Tell the manager now and then that this guest lives, its host name and its addresses
    ///
    /// The manager shows it, and tells when a guest or its application is up and when it has fallen silent. Each report is a
    /// heartbeat. A clone of this VM tells for itself.
    Agent {
        /// How often to tell, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(100..))]
        interval: u64,
        /// Tell besides whether the application lives: whether this command succeeds (by /bin/sh -c, within the interval)
        #[arg(long, value_name = "CMD")]
        application: Option<String>,
        /// Tell once, and end
        #[arg(long)]
        once: bool,
    },
    /// Print who this VM is and its configuration, as key=value lines
    Info,
    /// Print N random bytes of the kernel's generator as hexadecimal digits
    Random {
        /// How many: 1 to 1048576
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
        bytes: u32,
    },
}

#[derive(Debug, Args)]
struct After {
    /// Run this command afterwards; may be given several times
    #[arg(long, value_name = "CMD")]
    after: Vec<String>,
    /// Where hooks are [default: /etc/salp/hooks.d, if it is there]
    #[arg(long, value_name = "DIR")]
    hooks: Option<PathBuf>,
}

impl After {
    fn hooks(self, before: Vec<String>) -> Hooks {
        Hooks { directory: self.hooks, before, after: self.after }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_SOME_FAILED),
        Err(error) => {
            eprintln!("salp-guest: {error:#}");
            ExitCode::from(EXIT_NOTHING_DONE)
        }
    }
}

/// Returns whether all went well.
fn run(command: Command) -> Result<bool> {
    let mut output = std::io::stdout();
    match command {
        Command::Freeze { before, after, keep_watchdog } => {
            let opened = Opened::open()?;
            let _lock = opened.lock()?;
            let watchdog = (!keep_watchdog).then_some(Path::new(WATCHDOG));
            let take_on = |identity: &Identity| take_on(&opened.device, identity, &mut std::io::stderr(), false);
            freeze(&opened.device, &after.hooks(before), watchdog, take_on, &mut output)
        }
        Command::Identity { dry_run } => {
            let opened = Opened::open()?;
            let _lock = opened.lock()?;
            Ok(take_on(&opened.device, &opened.device.identity(), &mut output, dry_run))
        }
        Command::Watch { interval, after } => watch(Duration::from_millis(interval), &after.hooks(Vec::new())),
        Command::Power { then } => {
            power::wait()?;
            let status = process::Command::new("/bin/sh").arg("-c").arg(&then).status();
            Ok(status.with_context(|| format!("cannot run {then:?}"))?.success())
        }
        Command::Agent { interval, application, once } => {
            tell(Duration::from_millis(interval), application.as_deref(), once)?;
            Ok(true)
        }
        Command::Info => {
            let identity = Opened::open()?.device.identity();
            output.write_all(identity.to_string().as_bytes())?;
            Ok(true)
        }
        Command::Random { bytes } => {
            let mut random = vec![0; bytes as usize];
            let mut rest = &mut random[..];
            while !rest.is_empty() {
                let read = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())?;
                rest = &mut rest[read..];
            }
            writeln!(output, "{}", hex(&random))?;
            Ok(true)
        }
    }
}

fn take_on<R: Registers>(device: &Device<R>, identity: &Identity, output: &mut dyn Write, dry_run: bool) -> bool {
    let mut report = Report::new(output, dry_run);
    apply::take_on(device, identity, Path::new(ETC), &mut report);
    report.is_clean()
}

/// Tells how this guest is, once or until the process ends.
fn tell(interval: Duration, application: Option<&str>, once: bool) -> Result<()> {
    let opened = Opened::open()?;
    let mut teller = Teller::default();
    loop {
        let begin = Instant::now();
        let lives = application.map(|command| agent::lives(command, interval)).transpose()?;
        teller.tell(&opened.device, &agent::look(lives)?);
        if once {
            return Ok(());
        }
        thread::sleep(interval.saturating_sub(begin.elapsed()));
    }
}

/// Waits for new identities until the process ends.
fn watch(interval: Duration, hooks: &Hooks) -> Result<bool> {
    let opened = Opened::open()?;
    let mut watcher = Watcher::new(&opened.device);
    loop {
        thread::sleep(interval);
        if !watcher.sees_change(&opened.device) {
            continue;
        }
        // Whoever holds the lock deals with it; what is left over is seen next time.
        let Some(_lock) = opened.try_lock()? else { continue };
        if let Some(identity) = watcher.take(&opened.device) {
            take_on(&opened.device, &identity, &mut std::io::stdout(), false);
            for error in hooks.after(&identity.environment(true)) {
                eprintln!("salp-guest: {error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn commands_and_hooks_may_be_given_several_times() {
        let words = ["salp-guest", "freeze", "--before", "a", "--before", "b", "--after", "c", "--hooks", "/d"];
        let Command::Freeze { before, after, keep_watchdog } = Arguments::parse_from(words).command else {
            panic!("another command")
        };
        let hooks = after.hooks(before);
        assert_eq!((&hooks.before[..], &hooks.after[..]), (&["a".into(), "b".into()][..], &["c".into()][..]));
        assert_eq!((hooks.directory, keep_watchdog), (Some("/d".into()), false));
    }

    #[test]
    fn mistakes_are_wrong_arguments() {
        for words in [
            &[][..],
            &["thaw"],
            &["random"],
            &["random", "0"],
            &["watch", "--interval", "0"],
            &["agent", "--interval", "9"],
        ] {
            let error = Arguments::try_parse_from(["salp-guest"].iter().chain(words)).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn the_help_names_the_directory_that_is_used() {
        assert!(HOOKS.contains(salp_guest::hooks::DIRECTORY));
    }
}
