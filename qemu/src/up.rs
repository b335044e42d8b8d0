//! `salp up`: from requests to a machine that runs, and to its exit status.

use crate::cli::{EXIT_QEMU, EXIT_RESET, Up};
use anyhow::{Context, Result, bail, ensure};
use salp_qemu::console::{self, Terminal};
use salp_qemu::machine::{Config, Machine, Outcome, Payload, Uplink};
use salp_qemu::management::{self, Contact};
use salp_qemu::monitor::server::Server;
use salp_qemu::setup::Qemu;
use salp_qemu::vm::{Size, VmRequest};
use salp_qemu::{flash, image, prepare, say};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// How often the machine is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Starts a machine with Salp.
pub fn run(options: Up) -> Result<ExitCode> {
    let qemu = Qemu::find()?;
    if let Some(file) = &options.flash {
        return run_flash(qemu, file, &options);
    }
    let mut requests = options.vms.clone();
    if requests.is_empty() {
        requests.push(default_guest());
    }
    let names: Vec<String> = requests.iter().map(|vm| vm.name.clone()).collect();
    if let Some(name) = &options.attach {
        ensure!(names.contains(name), "--attach {name}: there is no such VM, but {}", names.join(", "));
    }
    let interactive = !options.headless && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let attach = options.attach.clone().or_else(|| (interactive && names.len() == 1).then(|| names[0].clone()));
    let mut words: Vec<String> = Vec::new();
    if options.exit_when_idle {
        words.push("idle=poweroff".into());
    }
    words.extend(attach.iter().map(|name| format!("attach={name}")));
    let words = words.join(" ");

    let mut vms = requests.iter().map(prepare::prepare).collect::<Result<Vec<_>>>()?;
    if !options.no_management {
        ensure!(
            !names.iter().any(|name| name == management::NAME),
            "{}: the name of the management guest",
            management::NAME
        );
        say("building the management guest");
        // What is off can be started again, by the endpoint.
        vms.iter_mut().for_each(|vm| vm.stays = true);
        vms.push(management::guest_on_qemu("", &options.dhcp)?);
    }
    let mut config = prepare::machine(qemu, &vms, options.memory, options.overcommit, &words)?;
    config.cpus = options.cpus;
    configure(&mut config, &options);
    (config.monitor, config.watchdog) = (true, !options.no_management);
    let https = match &mut config.uplink {
        Some(uplink) if !options.no_management => Some(management::forward(uplink, options.https)?),
        _ => None,
    };
    config.check()?;
    say("building the image");
    image::build()?;
    let list = names.join(", ");
    say(format_args!("starting {list} on {} CPU(s) with {}", config.cpus, Size(config.memory)));
    start(&config, &options, https)
}

/// Starts a machine from its flash.
fn run_flash(qemu: Qemu, file: &Path, options: &Up) -> Result<ExitCode> {
    flash::prepare(file)?;
    let mut config = Config::new(qemu, Payload::Flash(file.into()));
    (config.cpus, config.memory) = (options.cpus, options.memory.unwrap_or(prepare::USUAL_MEMORY));
    configure(&mut config, options);
    config.monitor = true;
    let mut uplink = Uplink::default();
    let https = management::forward_leased(&mut uplink, options.https)?;
    config.uplink = Some(uplink);
    config.check()?;
    say(format_args!("starting from {} on {} CPU(s) with {}", file.display(), config.cpus, Size(config.memory)));
    start(&config, options, Some(https))
}

/// Starts one guest without Salp.
pub fn run_bare(options: Up) -> Result<ExitCode> {
    let qemu = Qemu::find()?;
    let request = match &options.vms[..] {
        [] => default_guest(),
        [one] => one.clone(),
        _ => bail!("without Salp there is one VM: give one --vm"),
    };
    ensure!(options.monitor.is_none(), "--monitor: without Salp there is no monitor");
    let mut config = prepare::bare_machine(qemu, &prepare::prepare(&request)?);
    configure(&mut config, &options);
    start(&config, &options, None)
}

fn configure(config: &mut Config, options: &Up) {
    config.model.clone_from(&options.cpu);
    config.icount = options.icount;
    config.serial_log.clone_from(&options.serial);
    config.gdb = options.gdb;
}

/// Returns the guest of `salp` without arguments.
fn default_guest() -> VmRequest {
    prepare::default_guest().unwrap_or_else(|error| {
        say(format_args!("{error:#}"));
        say("going on with the small guest that is packed in the image (--vm builtin)");
        prepare::packed_guest()
    })
}

/// Starts the machine and stays until it ends. `https` is the host's port of its management guest.
fn start(config: &Config, options: &Up, https: Option<u16>) -> Result<ExitCode> {
    let headless = options.headless;
    let signal = Arc::new(AtomicI32::new(0));
    watch_signals(&signal)?;
    let left = Arc::new(AtomicBool::new(false));
    let mut machine = Machine::start(config)?;
    let monitor = if config.monitor { Some(serve(&machine, options.monitor.as_deref())?) } else { None };
    let mut terminal: Option<Terminal> = None;
    if !headless {
        say("Ctrl-] leaves; Ctrl-^ (Ctrl-6) goes to the next VM's console, and at last back to the log of all;");
        say("Ctrl-_ (Ctrl-7) opens EL2's monitor; `salp monitor` asks it from another terminal");
        let leave = Arc::clone(&left);
        let line = machine.connect_serial()?;
        terminal = Some(console::connect_terminal(line, move || leave.store(true, Ordering::SeqCst))?);
    }
    machine.run()?;
    let mut announced = !headless && https.is_none();
    let outcome = loop {
        if !announced && (machine.is_ready() || matches!(config.payload, Payload::Bare(_))) {
            let contact = match https {
                Some(port) => Contact::find(&fs::read(machine.log())?, port, &machine.ca_file())?,
                None => None,
            };
            announced = https.is_none() || contact.is_some();
            match &contact {
                Some(contact) if !headless => introduce(contact),
                _ if announced => announce(&machine, monitor.as_ref(), contact.as_ref())?,
                _ => {}
            }
        }
        if let Some(outcome) = machine.poll()? {
            break outcome;
        }
        if left.load(Ordering::SeqCst) || signal.load(Ordering::SeqCst) != 0 {
            machine.quit()?;
            break Outcome::Quit;
        }
        thread::sleep(TICK);
    };
    if let Some(terminal) = &mut terminal {
        terminal.drain();
    }
    drop(terminal);
    if !headless {
        println!();
    }
    let number = signal.load(Ordering::SeqCst);
    if number != 0 {
        return Ok(ExitCode::from(128 + number as u8));
    }
    Ok(match outcome {
        Outcome::Off => {
            say("every VM has turned itself off");
            ExitCode::SUCCESS
        }
        Outcome::Quit => {
            say("left");
            ExitCode::SUCCESS
        }
        Outcome::Reset => {
            say("the machine ended by a reset: a VM crashed or reset itself, or EL2 panicked; its log says why");
            ExitCode::from(EXIT_RESET)
        }
        Outcome::Failed(why) => {
            say(format_args!("QEMU failed: {why}"));
            ExitCode::from(EXIT_QEMU)
        }
    })
}

/// Serves EL2's monitor to scripts: where `path` says, and where `salp monitor` looks.
fn serve(machine: &Machine, path: Option<&Path>) -> Result<Server> {
    let usual = machine.monitor_socket();
    let server = Server::start(path.unwrap_or(&usual), machine.monitor()?)?;
    if path.is_some() {
        let target = std::path::absolute(server.path())?;
        std::os::unix::fs::symlink(target, &usual).with_context(|| format!("cannot make {}", usual.display()))?;
    }
    Ok(server)
}

fn watch_signals(seen: &Arc<AtomicI32>) -> Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    let seen = Arc::clone(seen);
    thread::Builder::new().name("signals".into()).spawn(move || {
        for number in signals.forever() {
            seen.store(number, Ordering::SeqCst);
        }
    })?;
    Ok(())
}

/// Tells a person how to reach the management guest. The terminal may be in raw mode.
fn introduce(contact: &Contact) {
    let Contact { url, user, password, ca } = contact;
    eprint!("\r\nsalp: managed at {url}: user {user}, password {password}, certificate {}\r\n", ca.display());
    eprint!("salp: try: curl --cacert {} -u {user}:{password} {url}Systems\r\n", ca.display());
}

/// Tells a script what it needs.
fn announce(machine: &Machine, monitor: Option<&Server>, contact: Option<&Contact>) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let mut line = json!({
        "serial": text(&machine.serial_socket()),
        "qmp": text(&machine.qmp_socket()),
        "log": text(machine.log()),
        "pid": machine.pid(),
    });
    if let Some(monitor) = monitor {
        line["monitor"] = json!(text(monitor.path()));
    }
    if let Some(contact) = contact {
        line["url"] = json!(contact.url);
        line["user"] = json!(contact.user);
        line["password"] = json!(contact.password);
        line["ca"] = json!(text(&contact.ca));
    }
    let mut output = std::io::stdout();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("cannot write to standard output")
}
