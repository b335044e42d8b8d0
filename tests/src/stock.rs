//! Programs of others that manage the appliance: in Python, pinned by `tests/stock/requirements.txt`, in an environment of
//! their own under `target/salp`. Beside [`api`](crate::api), which is a client of ours.

use crate::tools::{both, succeed};
use anyhow::{Context, Result, ensure};
use salp_qemu::management::Contact;
use salp_qemu::{debian, paths, setup};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What the environment is made of; kept in it when it is whole.
const REQUIREMENTS: &str = include_str!("../stock/requirements.txt");

/// Variables by which a host tells such programs whom to trust, which they prefer to what they are told.
const MISLEADING: [&str; 4] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "PYTHONPATH"];

/// The programs, and the endpoint that they manage.
#[derive(Clone, Debug)]
pub struct Stock {
    place: PathBuf,
    /// How the endpoint is reached.
    pub contact: Contact,
}

impl Stock {
    /// Returns the programs, installed once.
    ///
    /// # Panics
    ///
    /// If they cannot be had.
    pub fn new(contact: &Contact) -> Self {
        let place = install().unwrap_or_else(|error| panic!("{error:#}"));
        Self { place, contact: contact.clone() }
    }

    /// Returns one of the programs, or a program in Python of `tests/stock`.
    pub fn program(&self, name: &str) -> Command {
        let own = paths::checkout().join("tests/stock").join(name);
        let mut command = if own.exists() {
            let mut command = Command::new(self.place.join("bin/python"));
            command.arg(own);
            command
        } else {
            Command::new(self.place.join("bin").join(name))
        };
        self.settle(&mut command);
        command
    }

    /// Returns Debian's agent for fencing by Redfish.
    ///
    /// # Panics
    ///
    /// If it cannot be had.
    pub fn fence(&self) -> Command {
        let root = debian::fence_agents().unwrap_or_else(|error| panic!("{error:#}"));
        let mut command = Command::new(self.place.join("bin/python"));
        self.settle(&mut command);
        command.env("PYTHONPATH", root.join("usr/share/fence")).args(["-W", "ignore"]);
        command.arg(root.join("usr/sbin/fence_redfish"));
        let (host, port) = self.address();
        let (user, password) = (&self.contact.user, &self.contact.password);
        command.args(["-a", host, "--ipport", port, "--ssl-insecure", "-l", user, "-p", password]);
        command
    }

    /// Runs one of the programs, told who and where by `options`, with these words; returns what it says.
    ///
    /// # Panics
    ///
    /// With all that it says, if it fails.
    pub fn run(&self, name: &str, options: &[&str], words: &str) -> String {
        both(&succeed(self.program(name).args(options).args(words.split_whitespace())))
    }

    /// Returns the origin: scheme, host and port.
    pub fn origin(&self) -> &str {
        self.contact.url.trim_end_matches("/redfish/v1/")
    }

    /// Returns host and port.
    pub fn address(&self) -> (&str, &str) {
        self.origin().trim_start_matches("https://").rsplit_once(':').unwrap_or_default()
    }

    fn settle(&self, command: &mut Command) {
        MISLEADING.iter().for_each(|name| _ = command.env_remove(name));
        command.env("HOME", &self.place).current_dir(paths::checkout()).stdin(Stdio::null());
    }
}

fn install() -> Result<PathBuf> {
    let place = paths::checkout().join("target/salp/stock");
    let mark = place.join("requirements.txt");
    let _lock = paths::lock(&paths::output())?;
    if fs::read_to_string(&mark).is_ok_and(|made| made == REQUIREMENTS) {
        return Ok(place);
    }
    let mut known = Command::new("python3");
    let has_venv = known.args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    if !has_venv.is_ok_and(|status| status.success()) {
        setup::install(&["python3-venv"])?;
    }
    let _ = fs::remove_dir_all(&place);
    let run = |command: &mut Command| -> Result<()> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", both(&output));
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let own = paths::checkout().join("tests/stock");
    let list = own.join("requirements.txt");
    run(Command::new(place.join("bin/pip")).args(["install", "--quiet", "--no-compile", "--requirement"]).arg(list))?;
    run(Command::new(place.join("bin/python")).arg(own.join("install.py")))?;
    paths::write_whole(&mark, REQUIREMENTS.as_bytes())?;
    Ok(place)
}
