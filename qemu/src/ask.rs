//! `salp monitor`: one command to a machine that runs.

use crate::cli::{EXIT_NOT_STARTED, Monitor};
use anyhow::{Context, Result};
use salp_qemu::monitor::{client, request};
use salp_qemu::say;
use std::io::Write;
use std::process::ExitCode;

/// Asks, and prints the answer.
pub fn run(options: &Monitor) -> Result<ExitCode> {
    let request = request::from_words(&options.words)?;
    let reply = client::ask(client::connect(options.socket.as_deref())?, &request)?;
    let is_done = reply["ok"] == true;
    let mut output = std::io::stdout();
    if options.json {
        writeln!(output, "{reply}").context("cannot write to standard output")?;
    } else if is_done {
        output.write_all(client::table(&reply).as_bytes()).context("cannot write to standard output")?;
    } else {
        let part = |key: &str| reply[key].as_str().unwrap_or_default();
        say(format_args!("{}: {}", part("error"), part("message")));
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_STARTED) })
}
