//! `salp monitor`: one command to a machine that runs.

use crate::cli::{EXIT_NOT_STARTED, Monitor};
use anyhow::Result;
use salp_qemu::monitor::{client, request};
use salp_qemu::say;
use std::process::ExitCode;

/// Asks, and prints the answer.
pub fn run(options: &Monitor) -> Result<ExitCode> {
    let request = request::from_words(&options.words)?;
    let reply = client::ask(client::connect(options.socket.as_deref())?, &request)?;
    let is_done = reply["ok"] == true;
    if options.json {
        println!("{reply}");
    } else if is_done {
        print!("{}", client::table(&reply));
    } else {
        let part = |key: &str| reply[key].as_str().unwrap_or_default();
        say(format_args!("{}: {}", part("error"), part("message")));
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_STARTED) })
}
