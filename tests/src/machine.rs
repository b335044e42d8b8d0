//! Machines of tests: two at a time, each with a time limit; when something is wrong the console's last lines are told.
//!
//! Comes after [`vm`](crate::vm).

use crate::api::Api;
use crate::vm::Vm;
use salp_qemu::console::Console;
use salp_qemu::image::{self, Image};
use salp_qemu::machine::{Config, Machine, Outcome, Payload, Uplink};
use salp_qemu::management::{self, Contact, Leases};
use salp_qemu::monitor::{Monitor, Reply};
use salp_qemu::pack;
use salp_qemu::setup::Qemu;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How many machines run at once.
const AT_ONCE: usize = 2;

/// How long a machine may take unless its test says otherwise. Generous: hosts of tests are busy.
const LIMIT: Duration = Duration::from_secs(240);

/// How many lines of a console are told when something is wrong.
const TAIL: usize = 60;

/// Returns the release image, built once.
///
/// # Panics
///
/// If it cannot be built.
pub fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| image::build().unwrap_or_else(|error| panic!("{error:#}")))
}

/// Returns the image of a version to come, whose hand-overs have other records; built once.
///
/// # Panics
///
/// If it cannot be built.
pub fn next_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| image::build_next().unwrap_or_else(|error| panic!("{error:#}")))
}

/// Returns the host's QEMU.
///
/// # Panics
///
/// If there is none.
pub fn qemu() -> Qemu {
    Qemu::find().unwrap_or_else(|error| panic!("{error:#}"))
}

/// A machine to be, with 2 CPUs and 1 GiB of RAM, or as much as its VMs need.
#[derive(Clone, Debug)]
pub struct Setup {
    cpus: u32,
    memory: Option<u64>,
    model: Option<String>,
    qemu: Option<Qemu>,
    icount: bool,
    attach: Option<String>,
    option: Option<String>,
    monitor: bool,
    watchdog: bool,
    uplink: Option<Uplink>,
    /// The boot arguments of the management guest, if it is there.
    management: Option<String>,
    /// The segments on which it gives out addresses.
    leases: Vec<Leases>,
    /// What it starts from instead of an image of the host's.
    flash: Option<PathBuf>,
    resets: bool,
    limit: Duration,
    vms: Vec<Vm>,
}

impl Setup {
    /// Returns a machine without a VM: it has the one that is packed in the image.
    pub fn builtin() -> Self {
        Self {
            cpus: 2,
            memory: None,
            model: None,
            qemu: None,
            icount: false,
            attach: None,
            option: None,
            monitor: false,
            watchdog: false,
            uplink: None,
            management: None,
            leases: Vec::new(),
            flash: None,
            resets: false,
            limit: LIMIT,
            vms: Vec::new(),
        }
    }

    /// Returns a machine with one VM.
    pub fn of(vm: Vm) -> Self {
        Self::builtin().vm(vm)
    }

    /// Adds a VM.
    pub fn vm(mut self, vm: Vm) -> Self {
        self.vms.push(vm);
        self
    }

    /// Gives it CPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Gives it RAM, in MiB.
    pub fn mib(mut self, mib: u64) -> Self {
        self.memory = Some(mib << 20);
        self
    }

    /// Sets the CPU model.
    pub fn model(mut self, model: &str) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Sets the QEMU to use.
    pub fn qemu(mut self, qemu: Qemu) -> Self {
        self.qemu = Some(qemu);
        self
    }

    /// Lets time count instructions.
    pub fn icount(mut self) -> Self {
        self.icount = true;
        self
    }

    /// Shows this VM's console raw, instead of the log of all.
    pub fn attach(mut self, vm: &str) -> Self {
        self.attach = Some(vm.into());
        self
    }

    /// Adds a word to EL2's command line.
    pub fn option(mut self, word: &str) -> Self {
        self.option = Some(word.into());
        self
    }

    /// Gives EL2's monitor a line, for [`Running::monitor`].
    pub fn monitor(mut self) -> Self {
        self.monitor = true;
        self
    }

    /// Gives the board a watchdog, as a machine has that starts from a flash.
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// Says more of the uplink, which a machine has when a VM has a NIC there.
    pub fn uplink(mut self, uplink: Uplink) -> Self {
        self.uplink = Some(uplink);
        self
    }

    /// Adds the management guest, for [`Running::api`].
    pub fn managed(self) -> Self {
        self.managed_with("")
    }

    /// Adds the management guest with these boot arguments.
    pub fn managed_with(mut self, append: &str) -> Self {
        self.management = Some(append.into());
        self
    }

    /// Lets the management guest give out addresses on a segment: `SEGMENT=ADDRESS/LENGTH`.
    ///
    /// # Panics
    ///
    /// If that makes no sense.
    pub fn dhcp(mut self, leases: &str) -> Self {
        self.leases.push(leases.parse().unwrap_or_else(|error| panic!("{error:#}")));
        self
    }

    /// Starts it from a flash, and again after each reset.
    pub fn flash(mut self, file: &Path) -> Self {
        self.flash = Some(file.into());
        self
    }

    /// Limits how long the machine may take.
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// A reset starts the machine again.
    pub fn resets(mut self) -> Self {
        self.resets = true;
        self
    }

    /// Starts the machine under Salp; it ends when every VM is off.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(&self) -> Running {
        if let Some(file) = &self.flash {
            // Who manages it is in the image that lies there, at the address of tests.
            let uplink = self.management.is_some().then(Uplink::default);
            return self.start_payload(Payload::Flash(file.clone()), 1 << 30, uplink);
        }
        let mut vms: Vec<_> = self.vms.iter().map(Vm::place).collect();
        if let Some(append) = &self.management {
            vms.push(management::guest_on_qemu(append, &self.leases).unwrap_or_else(|error| panic!("{error:#}")));
        }
        let boot_set = (!vms.is_empty()).then(|| pack::pack(&vms).unwrap_or_else(|error| panic!("{error:#}")));
        let needed = pack::memory_needed(&vms, boot_set.as_deref().unwrap_or_default());
        // One that is managed may have all its VMs off.
        let idle = self.management.is_none().then(|| "idle=poweroff".to_string());
        let mut options: Vec<_> = idle.into_iter().collect();
        options.extend(self.attach.iter().map(|name| format!("attach={name}")));
        options.extend(self.option.clone());
        let payload = Payload::Firmware { image: image().bin.clone(), boot_set, options: options.join(" ") };
        self.start_payload(payload, needed.max(1 << 30), Uplink::for_vms(&vms))
    }

    /// Starts its only VM at EL1, without Salp.
    ///
    /// # Panics
    ///
    /// If there is not one VM, or it cannot be started.
    pub fn start_bare(&self) -> Running {
        let [vm] = &self.vms[..] else { panic!("without Salp there is one VM") };
        let vm = vm.place();
        let memory = vm.memory;
        let bare = Self { cpus: vm.cpus, ..self.clone() };
        let uplink = Uplink::for_vms(core::slice::from_ref(&vm));
        bare.start_payload(Payload::Bare(vm), memory, uplink)
    }

    fn start_payload(&self, payload: Payload, memory: u64, uplink: Option<Uplink>) -> Running {
        let permit = Permit::take();
        let mut config = Config::new(self.qemu.clone().unwrap_or_else(qemu), payload);
        config.cpus = self.cpus;
        config.memory = self.memory.unwrap_or(memory);
        config.model.clone_from(&self.model);
        config.icount = self.icount;
        config.waits = self.management.is_some();
        config.monitor = self.monitor;
        config.resets = self.resets;
        config.watchdog = self.watchdog;
        config.uplink = self.uplink.clone().or(uplink);
        let https = config
            .uplink
            .as_mut()
            .filter(|_| self.management.is_some())
            .map(|uplink| management::forward(uplink, Some(0)).unwrap_or_else(|error| panic!("{error:#}")));
        if let Some(uplink) = &mut config.uplink {
            uplink.capture = uplink.capture.take().or_else(capture_file);
        }
        let (machine, console) = Machine::with_console(&config).unwrap_or_else(|error| panic!("{error:#}"));
        let monitor = self.monitor.then(|| machine.monitor().unwrap_or_else(|error| panic!("{error:#}")));
        Running { machine, console, monitor, https, deadline: Instant::now() + self.limit, _permit: permit }
    }

    /// Starts the machine under Salp and waits until it ends.
    ///
    /// # Panics
    ///
    /// If it does not start, or does not end in time.
    pub fn run(&self) -> Ended {
        self.start().finish()
    }
}

/// Returns where the frames of the next machine's uplink are written, if `SALP_CAPTURE` says in which directory.
fn capture_file() -> Option<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Some(PathBuf::from(std::env::var_os("SALP_CAPTURE")?).join(format!("{}-{count}.pcap", std::process::id())))
}

/// A machine that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    machine: Machine,
    console: Console,
    monitor: Option<Monitor>,
    /// The host's port of the management endpoint.
    https: Option<u16>,
    deadline: Instant,
    _permit: Permit,
}

impl Running {
    /// Waits until the console shows `text`, after what was waited for before; returns what came up to its end.
    ///
    /// # Panics
    ///
    /// If it does not come before the machine ends or the time is up.
    pub fn expect(&mut self, text: &str) -> String {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.console.expect(text, left).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until a VM has written a line that begins so, and returns it.
    ///
    /// # Panics
    ///
    /// If it does not come before the machine ends or the time is up.
    pub fn expect_line(&mut self, vm: &str, start: &str) -> String {
        loop {
            if let Some(line) = self.lines(vm).into_iter().find(|line| line.starts_with(start)) {
                return line;
            }
            drop(self.expect("\n"));
        }
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// If the machine has ended.
    pub fn send(&mut self, keys: &str) {
        self.console.send(keys).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Has QEMU do something.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn qmp(&mut self, command: &str) {
        let done = self.machine.qmp(command, serde_json::json!({}));
        done.unwrap_or_else(|error| panic!("{command}: {error:#}"));
    }

    /// Sends a line to EL2's monitor and returns what it answers, also if it refuses.
    ///
    /// # Panics
    ///
    /// If it does not answer before the time is up.
    pub fn monitor(&mut self, line: &str) -> Reply {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let monitor = self.monitor.as_mut().unwrap_or_else(|| panic!("{line}: `Setup::monitor` was not called"));
        let reply = monitor.set_patience(left).and_then(|()| monitor.call(line));
        reply.unwrap_or_else(|error| panic!("monitor: {line}: {error:#}\n{}", tail(&self.console.text())))
    }

    /// Asks for a resource, at most so many times, until the management guest fails at a request as its `fault=` says, and waits
    /// until it is back.
    ///
    /// # Panics
    ///
    /// If it does not fail, or does not come back.
    pub fn ask_until_it_fails(&mut self, client: &Api, path: &str, times: usize) {
        let client = client.with_own_connections(60);
        let is_there = || client.try_send("GET", path, &[], Vec::new()).is_ok();
        assert!((0..times).any(|_| !is_there()), "it does not fail");
        self.expect("taken back to its checkpoint");
    }

    /// Waits until the management endpoint has said who may log in, and returns a client that does.
    ///
    /// # Panics
    ///
    /// If it does not before the time is up, or [`Setup::managed`] was not called.
    pub fn api(&mut self) -> Api {
        Api::new(&self.contact())
    }

    /// Returns how the management endpoint is reached, when the management guest has told.
    ///
    /// # Panics
    ///
    /// If it does not before the time is up, or [`Setup::managed`] was not called.
    pub fn contact(&mut self) -> Contact {
        let port = self.port();
        loop {
            let found = Contact::find(self.console.text().as_bytes(), port, &self.machine.ca_file());
            match found.unwrap_or_else(|error| panic!("{error:#}")) {
                Some(contact) => return contact,
                // It is the last thing that it says, so nothing comes behind a line that is not whole yet.
                None => drop(self.expect(&format!("{}| mgmt: serves https://", management::NAME))),
            }
        }
    }

    /// Returns the host's port of the management endpoint.
    ///
    /// # Panics
    ///
    /// If [`Setup::managed`] was not called.
    pub fn port(&self) -> u16 {
        self.https.unwrap_or_else(|| panic!("`Setup::managed` was not called"))
    }

    /// Returns everything on the console so far.
    pub fn text(&self) -> String {
        self.console.text()
    }

    /// Returns the lines of a VM so far, without their prefix.
    pub fn lines(&self, vm: &str) -> Vec<String> {
        self.console.lines_of(vm)
    }

    /// Waits until the machine ends.
    ///
    /// # Panics
    ///
    /// If the time is up, with the console's last lines.
    pub fn finish(mut self) -> Ended {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.machine.wait(left) {
            Ok(outcome) => {
                self.console.wait_end(Duration::from_secs(30)).unwrap_or_else(|error| panic!("{error:#}"));
                Ended { outcome, text: self.console.text() }
            }
            Err(error) => panic!("{error:#}\n{}", tail(&self.console.text())),
        }
    }

    /// Cuts the power.
    ///
    /// # Panics
    ///
    /// If QEMU does not end.
    pub fn stop(mut self) -> Ended {
        let outcome = self.machine.quit().unwrap_or_else(|error| panic!("{error:#}"));
        Ended { outcome, text: self.console.text() }
    }
}

/// A machine that ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// All that it wrote.
    pub text: String,
}

impl Ended {
    /// Panics unless every VM turned itself off.
    ///
    /// # Panics
    ///
    /// As it says.
    pub fn all_off(self) -> Self {
        self.check(self.outcome == Outcome::Off, format_args!("the machine ended with {:?}", self.outcome));
        self.check(!self.text.contains("salp| PANIC"), "EL2 panicked");
        self
    }

    /// Panics unless the machine ended by a reset, because not every VM turned itself off.
    ///
    /// # Panics
    ///
    /// As it says.
    pub fn reset(self) -> Self {
        self.check(self.outcome == Outcome::Reset, format_args!("the machine ended with {:?}", self.outcome));
        self.says("salp| not every VM ended by its own SYSTEM_OFF");
        self
    }

    /// Panics unless the guest `vm` has run cases and none of them failed.
    ///
    /// # Panics
    ///
    /// As it says.
    pub fn passed(self, vm: &str) -> Self {
        let lines = self.lines(vm);
        let failed: Vec<_> =
            lines.iter().filter(|line| line.starts_with("FAIL") || line.starts_with("PANIC")).collect();
        self.check(failed.is_empty(), format_args!("{vm}: {failed:#?}"));
        let done = lines.iter().find(|line| line.starts_with("DONE "));
        let done = done.unwrap_or_else(|| panic!("{vm} is not DONE\n{}", tail(&self.text)));
        self.check(done.contains(" failed=0 ") && !done.contains("passed=0 "), format_args!("{vm}: {done}"));
        self
    }

    /// Panics unless the console has shown `text`.
    ///
    /// # Panics
    ///
    /// As it says.
    pub fn says(&self, text: &str) {
        self.check(self.text.contains(text), format_args!("the console does not show {text:?}"));
    }

    /// Returns the lines of a VM, without their prefix.
    pub fn lines(&self, vm: &str) -> Vec<&str> {
        lines_of(&self.text, vm)
    }

    /// Returns the KiB that guests still held when all VMs were off, each time that this was so.
    pub fn kib_left(&self) -> Vec<u64> {
        // Not always a line's beginning: the monitor's prompt may stand there.
        let counts = self.text.lines().filter_map(|line| {
            let (_, count) = line.trim_end().split_once("salp| all VMs are off, ")?;
            count.strip_suffix(" KiB in use by guests")?.parse().ok()
        });
        counts.collect()
    }

    /// Panics with a reason and the console's last lines unless `good`.
    ///
    /// # Panics
    ///
    /// As it says.
    pub fn check(&self, good: bool, why: impl Display) {
        assert!(good, "{why}\n{}", tail(&self.text));
    }
}

/// Returns the lines of `who` in a log, without their prefix.
pub fn lines_of<'a>(text: &'a str, who: &str) -> Vec<&'a str> {
    let own = |line: &'a str| line.strip_prefix(who)?.strip_prefix("| ");
    text.lines().filter_map(own).map(str::trim_end).collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    format!("---- the last lines of the console\n{}\n----", lines[lines.len().saturating_sub(TAIL)..].join("\n"))
}

impl Drop for Running {
    /// Shows what a machine said of whose test something else has failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", tail(&self.console.text()));
        }
    }
}

/// The right to run a machine.
#[derive(Debug)]
struct Permit;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

impl Permit {
    fn take() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| *taken >= AT_ONCE;
        *GIVEN_BACK.wait_while(taken, full).unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        GIVEN_BACK.notify_one();
    }
}
