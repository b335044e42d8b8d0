//! A machine: QEMU with the image, a boot set, a serial line, QMP, and EL2's monitor if it is asked for.
//!
//! The end of the way from a command line: [`image`](crate::image) and [`pack`](crate::pack) come before.

use crate::console::Console;
use crate::kernel::Piece;
use crate::monitor::{self, Monitor};
use crate::place::Placed;
use crate::qmp::{Cause, Qmp};
use crate::setup::{self, Qemu};
use crate::vm::Size;

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use salp_board::guest::RAM_BASE;
use salp_hvc::bootset::{PAGE, UPLINK};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The line with which EL2 says that its VMs have been started.
pub const READY: &str = "salp| ready";

/// The socket of the line to EL2's monitor, beside those of QEMU.
const MONITOR: &str = "monitor.el2";

/// The greatest number of CPUs of a machine.
pub const MAX_CPUS: u32 = 8;

/// The least and the greatest amount of RAM of a machine, in bytes.
pub const MEMORY: std::ops::RangeInclusive<u64> = (256 << 20)..=(64 << 30);

/// What a machine consists of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The QEMU to start.
    pub qemu: Qemu,
    /// How many CPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The CPU model, with options as QEMU has them; `None` for the default one.
    pub model: Option<String>,
    /// Whether time counts instructions: the same run each time, on one host thread.
    pub icount: bool,
    /// Whether such time goes on as the host's does while nothing runs, rather than to whatever comes next: clients of the host
    /// cannot keep pace with that.
    pub waits: bool,
    /// What is started.
    pub payload: Payload,
    /// Where the serial line is copied to.
    pub serial_log: Option<PathBuf>,
    /// Whether EL2's monitor has a line of its own. Without it the machine has one device less.
    pub monitor: bool,
    /// Whether the board has a watchdog. Who starts from a flash has one.
    pub watchdog: bool,
    /// The network that the machine is on; `None` for none.
    pub uplink: Option<Uplink>,
    /// The port of a GDB server on the loopback address.
    pub gdb: Option<u16>,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
    /// Whether a reset starts it again, as it does from a flash, and does not end it.
    pub resets: bool,
}

/// The machine's NIC on a network of QEMU's own (10.0.2.0/24), behind which is the host's: to guests under EL2 the segment
/// [`UPLINK`].
#[derive(Clone, Debug, Default)]
pub struct Uplink {
    /// Ports of the host's loopback address, each with a guest's address and TCP port that connections to it go to.
    pub forwards: Vec<(u16, Ipv4Addr, u16)>,
    /// Where all frames are written, as tcpdump does.
    pub capture: Option<PathBuf>,
}

impl Uplink {
    /// Returns a machine's plain uplink if one of its VMs has a NIC there.
    pub fn for_vms(vms: &[Placed]) -> Option<Self> {
        vms.iter().flat_map(|vm| &vm.nics).any(|nic| nic.segment == UPLINK).then(Self::default)
    }

    fn arguments(&self) -> Vec<OsString> {
        let forward = |(host, guest, port): &_| format!(",hostfwd=tcp:127.0.0.1:{host}-{guest}:{port}");
        let forwards: String = self.forwards.iter().map(forward).collect();
        let mut words = vec!["-netdev".into(), format!("user,id=uplink{forwards}").into()];
        // The first place, where the device tree of a bare guest has its first NIC.
        words.extend(["-device".into(), "virtio-net-device,netdev=uplink,bus=virtio-mmio-bus.0".into()]);
        if let Some(file) = &self.capture {
            let dump = format!("filter-dump,id=capture,netdev=uplink,file={}", escaped(file));
            words.extend(["-object".into(), dump.into()]);
        }
        words
    }
}

/// What a machine starts.
#[derive(Clone, Debug)]
pub enum Payload {
    /// EL2, our image.
    Firmware {
        /// The flat image.
        image: PathBuf,
        /// The boot set; `None` for the one in the image.
        boot_set: Option<Vec<u8>>,
        /// EL2's options, with spaces between them.
        options: String,
    },
    /// EL2 from this flash, which keeps what is written to it. The machine goes on after a reset.
    Flash(PathBuf),
    /// One guest at EL1 without a hypervisor, laid out as EL2 would: for comparison.
    Bare(Placed),
}

impl Config {
    /// Returns a machine with 2 CPUs, 1 GiB of RAM and the default CPU model.
    pub fn new(qemu: Qemu, payload: Payload) -> Self {
        Self {
            qemu,
            cpus: 2,
            memory: 1 << 30,
            model: None,
            icount: false,
            waits: false,
            payload,
            serial_log: None,
            monitor: false,
            watchdog: false,
            uplink: None,
            gdb: None,
            extra: Vec::new(),
            resets: false,
        }
    }

    /// Checks the limits of machines.
    ///
    /// # Errors
    ///
    /// A sentence that names the limit.
    pub fn check(&self) -> Result<()> {
        ensure!((1..=MAX_CPUS).contains(&self.cpus), "--cpus {}: a machine has 1 to {MAX_CPUS}", self.cpus);
        let bare = matches!(self.payload, Payload::Bare(_));
        ensure!(
            bare || MEMORY.contains(&self.memory),
            "--memory {}: a machine has {} to {}",
            Size(self.memory),
            Size(*MEMORY.start()),
            Size(*MEMORY.end())
        );
        if let Some(model) = &self.model {
            let name = model.split(',').next().unwrap_or_default();
            ensure!(
                self.qemu.has_model(name),
                "--cpu {name}: QEMU {}.{} does not have it; `{} -M virt -cpu help` names what it has",
                self.qemu.version.0,
                self.qemu.version.1,
                self.qemu.program.display()
            );
        }
        Ok(())
    }

    /// Returns QEMU's arguments; files are put in `directory`.
    fn arguments(&self, directory: &Path) -> Result<Vec<OsString>> {
        let firmware = !matches!(self.payload, Payload::Bare(_));
        let virtualization = if firmware { "on" } else { "off" };
        let model = match &self.model {
            Some(model) => model.clone(),
            None if self.icount => format!("{},cntfrq=1000000000", self.qemu.default_model()),
            None => self.qemu.default_model().into(),
        };
        let log = self.serial_log.clone().unwrap_or_else(|| directory.join("serial.log"));
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: String| words.extend([name.into(), value.into()]);
        add("-M", format!("virt,gic-version=3,virtualization={virtualization},memory-backend=ram"));
        // Not reserved: 64 GiB of RAM need no 64 GiB of host memory while nobody touches them.
        add("-object", format!("memory-backend-ram,id=ram,size={},reserve=off", self.memory));
        add("-m", format!("{}B", self.memory));
        add("-smp", self.cpus.to_string());
        add("-cpu", model);
        if self.icount {
            add("-accel", "tcg,thread=single".into());
            add("-icount", format!("shift=0,sleep={}", if self.waits { "on" } else { "off" }));
            add("-seed", "1".into());
        } else {
            add("-accel", "tcg,thread=multi".into());
        }
        let socket = |name: &str| escaped(&directory.join(name));
        add("-chardev", format!("socket,id=own,path={},server=on,wait=off", socket("own.qmp")));
        add("-mon", "chardev=own,mode=control".into());
        add("-chardev", format!("socket,id=qmp,path={},server=on,wait=off", socket("qmp")));
        add("-mon", "chardev=qmp,mode=control".into());
        add(
            "-chardev",
            format!(
                "socket,id=serial,path={},server=on,wait=off,logfile={},logappend=off",
                socket("serial"),
                escaped(&log)
            ),
        );
        add("-serial", "chardev:serial".into());
        if self.monitor || self.uplink.is_some() {
            add("-global", "virtio-mmio.force-legacy=false".into());
        }
        if self.monitor {
            add("-chardev", format!("socket,id=monitor,path={},server=on,wait=off", socket(MONITOR)));
            add("-device", "virtio-serial-device".into());
            add("-device", "virtconsole,chardev=monitor".into());
        }
        if self.watchdog || matches!(self.payload, Payload::Flash(_)) {
            add("-device", "i6300esb".into());
            add("-watchdog-action", "reset".into());
        }
        add("-display", "none".into());
        if let Some(port) = self.gdb {
            add("-gdb", format!("tcp:127.0.0.1:{port}"));
        }
        if let Some(data) = &self.qemu.data {
            add("-L", data.display().to_string());
        }
        match &self.payload {
            Payload::Firmware { image, boot_set, options } => {
                add("-kernel", image.display().to_string());
                add("-append", options.clone());
                if let Some(set) = boot_set {
                    let path = directory.join("bootset.bin");
                    fs::write(&path, set).with_context(|| format!("cannot write {}", path.display()))?;
                    add("-initrd", path.display().to_string());
                }
            }
            Payload::Flash(file) => {
                add("-drive", format!("if=pflash,unit=0,format=raw,file={}", escaped(file)));
            }
            Payload::Bare(vm) => {
                let path = directory.join("bare.elf");
                fs::write(&path, bare_elf(vm)).with_context(|| format!("cannot write {}", path.display()))?;
                add("-kernel", path.display().to_string());
            }
        }
        for word in ["-nodefaults", "-no-user-config", "-S"] {
            words.push(word.into());
        }
        if !self.resets && !matches!(self.payload, Payload::Flash(_)) {
            words.push("-no-reboot".into());
        }
        match &self.uplink {
            Some(uplink) => words.extend(uplink.arguments()),
            None => words.extend(["-nic".into(), "none".into()]),
        }
        words.extend(self.extra.iter().map(OsString::from));
        Ok(words)
    }
}

/// Writes a guest as an ELF that QEMU starts at EL1 by itself: its segments, and code in the last page of its RAM that
/// sets the registers of the boot protocol.
fn bare_elf(vm: &Placed) -> Vec<u8> {
    // ldr x0, 0x18; mov x1, xzr; mov x2, xzr; mov x3, xzr; ldr x4, 0x20; br x4
    let code = [0x5800_00c0_u32, 0xaa1f_03e1, 0xaa1f_03e2, 0xaa1f_03e3, 0x5800_0084, 0xd61f_0080];
    let mut start: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    start.extend(vm.device_tree.to_le_bytes());
    start.extend(vm.entry.to_le_bytes());
    let start = Piece { ipa: RAM_BASE + vm.memory - PAGE, bytes: start };

    let pieces: Vec<&Piece> = vm.segments.iter().chain([&start]).collect();
    let mut file = elf::ELFMAG.to_vec();
    file.extend([elf::ELFCLASS64, elf::ELFDATA2LSB, elf::EV_CURRENT]);
    file.resize(16, 0);
    file.extend(elf::ET_EXEC.to_le_bytes());
    file.extend(elf::EM_AARCH64.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for word in [start.ipa, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, pieces.len() as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = (64 + 56 * pieces.len() as u64).next_multiple_of(PAGE);
    for piece in &pieces {
        file.extend(elf::PT_LOAD.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        let size = piece.bytes.len() as u64;
        for word in [offset, piece.ipa, piece.ipa, size, size, PAGE] {
            file.extend(word.to_le_bytes());
        }
        offset += size.next_multiple_of(PAGE);
    }
    for piece in pieces {
        file.resize(file.len().next_multiple_of(PAGE as usize), 0);
        file.extend(&piece.bytes);
    }
    file
}

/// Doubles commas, as QEMU wants them inside a value.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By SYSTEM_OFF: every VM had turned itself off.
    Off,
    /// By a reset: a VM crashed or reset the machine, or EL2 itself did.
    Reset,
    /// It was told to from outside: by QMP, a signal, or a person.
    Quit,
    /// QEMU failed: in its own words.
    Failed(String),
}

/// A running machine. Dropping it ends it.
///
/// QEMU ends with the thread that called [`Machine::start`], whatever happens to this process.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    qmp: Qmp,
    cause: Cause,
    directory: TempDir,
    log: PathBuf,
    ended: Option<Outcome>,
}

impl Machine {
    /// Starts QEMU with the machine stopped before its first instruction. [`Machine::run`] lets it go.
    ///
    /// # Errors
    ///
    /// A limit that the configuration breaks, or QEMU's own words.
    pub fn start(config: &Config) -> Result<Self> {
        config.check()?;
        let directory = tempfile::Builder::new()
            .prefix(monitor::client::DIRECTORY)
            .tempdir()
            .context("cannot make a directory for sockets")?;
        let arguments = config.arguments(directory.path())?;
        let errors = directory.path().join("stderr");
        // QEMU must not outlive its runner.
        let mut command = match setup::find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(&config.qemu.program);
                command
            }
            None => Command::new(&config.qemu.program),
        };
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {}", config.qemu.program.display()))?;
        let socket = directory.path().join("own.qmp");
        let deadline = Instant::now() + Duration::from_secs(60);
        let qmp = loop {
            if let Ok(qmp) = Qmp::connect(&socket) {
                break qmp;
            }
            if let Some(status) = child.try_wait()? {
                bail!("QEMU did not start ({}): {}", describe(status), fs::read_to_string(&errors)?.trim());
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("QEMU did not open its monitor within a minute");
            }
            thread::sleep(Duration::from_millis(10));
        };
        let log = config.serial_log.clone().unwrap_or_else(|| directory.path().join("serial.log"));
        Ok(Self { child, cause: qmp.cause(), qmp, directory, log, ended: None })
    }

    /// Starts a machine, connects a program to its console, and lets it run.
    ///
    /// # Errors
    ///
    /// As for [`Machine::start`].
    pub fn with_console(config: &Config) -> Result<(Self, Console)> {
        let mut machine = Self::start(config)?;
        let console = Console::new(machine.connect_serial()?)?;
        machine.run()?;
        Ok((machine, console))
    }

    /// Lets the machine run.
    ///
    /// # Errors
    ///
    /// QEMU's own words.
    pub fn run(&mut self) -> Result<()> {
        self.qmp.run("cont", json!({})).map(|_| ())
    }

    /// Runs a QMP command and returns what it returns.
    ///
    /// # Errors
    ///
    /// QEMU's own words.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.run(command, arguments)
    }

    /// Connects to the serial line; QEMU takes one connection at a time. What the machine writes while nobody is
    /// connected is in [`log`](Self::log) only.
    ///
    /// # Errors
    ///
    /// What the socket answers.
    pub fn connect_serial(&self) -> Result<UnixStream> {
        let path = self.serial_socket();
        UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))
    }

    /// Returns the socket of the serial line.
    pub fn serial_socket(&self) -> PathBuf {
        self.directory.path().join("serial")
    }

    /// Connects to EL2's monitor; QEMU takes one connection at a time.
    ///
    /// # Errors
    ///
    /// What the socket answers, also if [`Config::monitor`] was not set.
    pub fn monitor(&self) -> Result<Monitor> {
        let path = self.directory.path().join(MONITOR);
        let stream = UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))?;
        Monitor::new(stream)
    }

    /// Returns where the socket of the monitor for scripts belongs, if a machine has one: other programs look there.
    pub fn monitor_socket(&self) -> PathBuf {
        self.directory.path().join(monitor::client::SOCKET)
    }

    /// Returns a QMP socket for other programs.
    pub fn qmp_socket(&self) -> PathBuf {
        self.directory.path().join("qmp")
    }

    /// Returns the file with all that the machine wrote to its serial line.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns where the certificate of the management guest belongs.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Returns QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether EL2 has said that its VMs have been started.
    pub fn is_ready(&self) -> bool {
        let text = fs::read(&self.log).unwrap_or_default();
        text.split(|&byte| byte == b'\n').any(|line| line.starts_with(READY.as_bytes()))
    }

    /// Returns how the machine ended, or `None` while it runs.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn poll(&mut self) -> Result<Option<Outcome>> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            self.ended = Some(self.outcome(status));
        }
        Ok(self.ended.clone())
    }

    /// Waits until the machine ends.
    ///
    /// # Errors
    ///
    /// If `timeout` passes first.
    pub fn wait(&mut self, timeout: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(outcome) = self.poll()? {
                return Ok(outcome);
            }
            ensure!(Instant::now() < deadline, "the machine still runs after {timeout:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the machine as if its power was cut.
    ///
    /// # Errors
    ///
    /// If QEMU does not end.
    pub fn quit(&mut self) -> Result<Outcome> {
        if self.poll()?.is_none() && self.qmp.run("quit", json!({})).is_err() {
            let _ = self.child.kill();
        }
        self.wait(Duration::from_secs(30))
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        // The event is written before QEMU exits, but read by another thread.
        for _ in 0..100 {
            if self.cause.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match cause.as_deref() {
            Some("guest-shutdown") => Outcome::Off,
            Some("guest-reset" | "guest-panic") => Outcome::Reset,
            Some("host-qmp-quit" | "host-signal" | "host-ui" | "host-qmp-system-reset") => Outcome::Quit,
            _ => {
                let errors = fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
                Outcome::Failed(format!("{}: {}", describe(status), errors.trim()))
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{self, FlatPlace};
    use crate::vm::Restart;

    #[test]
    fn the_monitor_is_all_that_its_line_adds_to_a_machine() {
        let qemu = Qemu { program: "qemu".into(), data: None, version: (7, 2), models: Vec::new() };
        let payload = Payload::Firmware { image: "image".into(), boot_set: None, options: String::new() };
        let plain = Config::new(qemu, payload);
        let words = |config: &Config| -> Vec<String> {
            let words = config.arguments(Path::new("/d,d")).expect("arguments");
            words.into_iter().map(|word| word.into_string().expect("text")).collect()
        };
        let with = words(&Config { monitor: true, ..plain.clone() });
        let plain = words(&plain);
        let added: Vec<&str> = with.iter().filter(|word| !plain.contains(word)).map(|word| &**word).collect();
        assert_eq!(
            added,
            [
                "-global",
                "virtio-mmio.force-legacy=false",
                "socket,id=monitor,path=/d,,d/monitor.el2,server=on,wait=off",
                "-device",
                "virtio-serial-device",
                "-device",
                "virtconsole,chardev=monitor",
            ]
        );
        assert_eq!(with.len(), plain.len() + 8);
    }

    #[test]
    fn an_uplink_forwards_connections_and_is_captured() {
        let forwards = vec![(8443, Ipv4Addr::new(10, 0, 2, 15), 443)];
        let uplink = Uplink { forwards, capture: Some("/d,d/net.pcap".into()) };
        assert_eq!(
            uplink.arguments(),
            [
                "-netdev",
                "user,id=uplink,hostfwd=tcp:127.0.0.1:8443-10.0.2.15:443",
                "-device",
                "virtio-net-device,netdev=uplink,bus=virtio-mmio-bus.0",
                "-object",
                "filter-dump,id=capture,netdev=uplink,file=/d,,d/net.pcap",
            ]
        );
    }

    #[test]
    fn a_bare_guest_is_an_elf_that_starts_with_the_boot_protocol() {
        let vm = Placed {
            name: "x".into(),
            cpus: 1,
            memory: 16 << 20,
            entry: RAM_BASE + 0x8_0000,
            device_tree: RAM_BASE,
            restart: Restart::No,
            small_pages: false,
            frozen: false,
            manager: false,
            stays: false,
            off: false,
            nics: Vec::new(),
            segments: vec![
                Piece { ipa: RAM_BASE, bytes: vec![1; 100] },
                Piece { ipa: RAM_BASE + 0x8_0000, bytes: vec![2; 5000] },
            ],
        };
        let read = kernel::read(&bare_elf(&vm), FlatPlace::default(), vm.memory).expect("an ELF");
        assert_eq!(read.pieces[..2], vm.segments[..]);
        assert_eq!(read.entry, RAM_BASE + vm.memory - PAGE);
        assert_eq!(read.pieces[2].bytes[0x18..0x20], vm.device_tree.to_le_bytes());
        assert_eq!(read.pieces[2].bytes[0x20..0x28], vm.entry.to_le_bytes());
    }
}
