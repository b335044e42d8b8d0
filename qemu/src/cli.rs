//! The command line of `salp`.

use clap::{Args, Parser, Subcommand};
use salp_qemu::management::Leases;
use salp_qemu::vm::{self, VmRequest};
use std::path::PathBuf;

/// Exit status: nothing was started, because of a bad file, a limit, or something missing on this host.
pub const EXIT_NOT_STARTED: u8 = 1;

/// Exit status: the machine ended by a reset.
pub const EXIT_RESET: u8 = 3;

/// Exit status: QEMU itself failed.
pub const EXIT_QEMU: u8 = 4;

const STATUS: &str = "Exit status:
  0      the machine was left with Ctrl-], or ended with every VM turned off by itself
  1      nothing was started: a bad file, a limit, or something missing on this host
  2      wrong arguments
  3      the machine ended by a reset: a VM crashed or did not turn itself off, or EL2 panicked
  4      QEMU failed
  128+N  ended by signal N";

const KEYS: &str = "Keys:
  Ctrl-]            leaves
  Ctrl-^ (Ctrl-6)   goes to the next VM's console, and at last back to the log of all
  Ctrl-_ (Ctrl-7)   opens EL2's monitor; `help` there lists its commands";

const MONITOR: &str =
    "The commands are those of the prompt that Ctrl-_ opens on the console; `salp monitor help` lists them.
VM is a name, or #ID. Options of `salp monitor` itself go before the command.

  salp monitor list
  salp monitor clone web --count 10 --name w --config role=worker --reserve 50%
  salp monitor --json stats w-3

Exit status: 0 it was done, 1 it was not, 2 wrong arguments.";

const VMS: &str = "A VM is described by key=value with commas between; a comma inside a value is written twice:
  name=N            1 to 31 of A-Z a-z 0-9 . _ - (default: the kernel's name)
  kernel=PATH       an arm64 Image (plain or gzip), an ELF, or a flat binary; or a stock guest:
                    debian (6.1), debian-6.12, debian-16k, u-boot, builtin, or kit:NAME of guest-kit
  initrd=PATH       an initial RAM disk; busybox; or none (default for Debian's kernels: busybox)
  cpus=N            vCPUs, 1 to 8 (default 1)
  memory=SIZE       RAM (default 512M)
  append=ARGS       boot arguments
  restart=no|on-crash
  pages=any|small   prefer blocks of 2 MiB, or give memory in pages of 4 KiB only
  frozen=yes|no     freeze it before its first instruction, for cloning (default no)
  stays=yes|no      keep it when it is off, so that `monitor start` can start it again (default no)
  off=yes|no        leave it off at first (default no)
  nic=SEGMENT[:MAC][+vlan=N|+vlans=N:N...][+ip=ADDRESS]...[+rate=BYTES]
                    a NIC, up to 4 of them: it reaches those of the same segment and VLAN; ip= are the only addresses that
                    it may send with, rate= is in bytes per second
  manager=yes|no    let it make management calls: make, list, freeze and destroy VMs (default no)
  load=ADDR         where a flat binary is loaded (default 0x40080000)
  entry=ADDR        where it starts (default: where it is loaded)
`--vm builtin` is the small guest that is packed in the image.";

/// Salp: hypervisor firmware for Armv8 servers. This is its runner: it builds the image, prepares guests and starts
/// them on an emulated machine (QEMU). Without a command it does `up`.
#[derive(Debug, Parser)]
#[command(name = "salp", version, after_help = STATUS, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `up`.
    #[command(flatten)]
    pub up: Up,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a machine with Salp and its VMs, and connect this terminal with its console
    #[command(after_help = format!("{VMS}\n\n{KEYS}\n\n{STATUS}"))]
    Up(Up),
    /// Send one command to the monitor of a machine that runs: list, clone, freeze, destroy VMs
    #[command(after_help = MONITOR)]
    Monitor(Monitor),
    /// Build the release image and its signed bundle into target/salp and print its size by section
    Image(Release),
    /// Make a key that signs releases, or write the development key to target/salp
    Keys {
        /// Make a key for releases in this file, which is not there yet
        #[arg(long, value_name = "FILE")]
        release: Option<PathBuf>,
    },
    /// Make a flash image with the first stage and the bundle in slot A
    Flash(Release),
    /// Check what this host needs (installing it, as root)
    Setup {
        /// Download every stock guest too
        #[arg(long)]
        guests: bool,
    },
    /// Start one VM at EL1 without Salp, laid out the same way: for comparison
    #[command(after_help = format!("{VMS}\n\n{STATUS}"))]
    Bare(Up),
}

/// The options of `up`.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// How many CPUs the machine has: 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub cpus: u32,
    /// How much RAM the machine has: 256M to 64G [default: what the VMs need, at least 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// The CPU model, as QEMU names it [default: neoverse-n1]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Stay in the foreground without a console; print one line of JSON when the machine is ready
    #[arg(long)]
    pub headless: bool,
    /// Start with the console of this VM, raw in both directions
    #[arg(long, value_name = "VM")]
    pub attach: Option<String>,
    /// End when every VM is off; status 0 only if all turned themselves off
    #[arg(long)]
    pub exit_when_idle: bool,
    /// Let time count instructions: the same run each time
    #[arg(long)]
    pub icount: bool,
    /// Copy all that the machine writes to its serial line to this file
    #[arg(long, value_name = "FILE")]
    pub serial: Option<PathBuf>,
    /// Make the socket of the monitor here instead of beside the others; it takes one JSON request a line
    #[arg(long, value_name = "SOCKET")]
    pub monitor: Option<PathBuf>,
    /// Serve the management endpoint on this port of the loopback address [default: 8443 if it is free]
    #[arg(long, value_name = "PORT", conflicts_with = "no_management")]
    pub https: Option<u16>,
    /// Let the management guest give out addresses on a segment, with this address of its own; up to three times
    #[arg(long, value_name = "SEGMENT=ADDRESS/LENGTH", value_parser = parse_leases, conflicts_with = "no_management")]
    pub dhcp: Vec<Leases>,
    /// Start without the management guest
    #[arg(long)]
    pub no_management: bool,
    /// Wait for no debugger, but serve GDB on this port of the loopback address
    #[arg(long, value_name = "PORT")]
    pub gdb: Option<u16>,
    /// Start from this flash, which is made if it is not there and keeps what is written to it; a reset starts it again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vms", "attach", "exit_when_idle", "dhcp", "no_management", "overcommit"])]
    pub flash: Option<PathBuf>,
    /// Give the VMs more memory together than the machine has
    #[arg(long)]
    pub overcommit: bool,
    /// A VM: see below; may be given several times [default: one Debian guest]
    #[arg(long = "vm", value_name = "VM", value_parser = parse_vm)]
    pub vms: Vec<VmRequest>,
}

/// The options of `image` and `flash`.
#[derive(Clone, Debug, Args)]
pub struct Release {
    /// Sign a release with this key, the only one that the image then believes [default: the development key]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// The options of `monitor`.
#[derive(Clone, Debug, Args)]
pub struct Monitor {
    /// The machine's socket [default: that of the only machine that runs]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the reply as JSON
    #[arg(long)]
    pub json: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
    pub words: Vec<String>,
}

fn parse_size(text: &str) -> Result<u64, String> {
    vm::size(text).map_err(|error| format!("{error:#}"))
}

fn parse_leases(text: &str) -> Result<Leases, String> {
    text.parse().map_err(|error| format!("{error:#}"))
}

fn parse_vm(text: &str) -> Result<VmRequest, String> {
    text.parse().map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn up(words: &[&str]) -> Up {
        let parsed = Arguments::try_parse_from(["salp"].iter().chain(words)).expect("understood");
        match parsed.command {
            Some(Command::Up(up)) => up,
            None => parsed.up,
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn up_is_what_happens_without_a_command() {
        assert!(up(&[]).vms.is_empty());
        assert!(up(&["--icount"]).icount);
        let both = up(&["up", "--cpus", "4", "--memory", "2G", "--vm", "name=a,kernel=x", "--vm", "name=b,kernel=y"]);
        assert_eq!((both.cpus, both.memory), (4, Some(2 << 30)));
        assert_eq!(both.vms.iter().map(|vm| &*vm.name).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn words_for_the_monitor_keep_their_options() {
        let words = ["salp", "monitor", "--json", "clone", "web", "--count", "3", "--json"];
        let parsed = Arguments::try_parse_from(words).expect("understood");
        let Some(Command::Monitor(monitor)) = parsed.command else { panic!("{parsed:?}") };
        assert!(monitor.json && monitor.socket.is_none());
        assert_eq!(monitor.words, ["clone", "web", "--count", "3", "--json"]);
        assert!(Arguments::try_parse_from(["salp", "monitor"]).is_err());
    }

    #[test]
    fn mistakes_are_wrong_arguments() {
        for words in [&["up", "--vm", "name=a"][..], &["up", "--memory", "much"], &["down"], &["up", "--gdb", "70000"]]
        {
            let error = Arguments::try_parse_from(["salp"].iter().chain(words)).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
    }
}
