//! A client of the QEMU Machine Protocol: commands, and the event that says how a machine ended.
//!
//! [`machine`](crate::machine) owns one. QMP is one JSON object a line in each direction.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a machine stopped (QMP `ShutdownCause`).
pub type Cause = Arc<Mutex<Option<String>>>;

/// A connection to QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    replies: Receiver<Value>,
    cause: Cause,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Errors
    ///
    /// What the socket or QEMU answers.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        let lines = BufReader::new(stream.try_clone()?);
        let (sender, replies) = channel();
        let cause = Cause::default();
        let known = Arc::clone(&cause);
        thread::Builder::new().name("qmp".into()).spawn(move || read(lines, &sender, &known))?;
        let mut qmp = Self { stream, replies, cause };
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    ///
    /// # Errors
    ///
    /// QEMU's own description of the error, or that it does not answer.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream, "{request}").with_context(|| format!("QEMU is gone: {command} was not sent"))?;
        let mut reply =
            self.replies.recv_timeout(PATIENCE).with_context(|| format!("QEMU does not answer {command}"))?;
        if let Some(error) = reply.get("error") {
            bail!("QEMU refuses {command}: {}", error["desc"].as_str().unwrap_or("no reason given"));
        }
        Ok(reply["return"].take())
    }

    /// Returns where the cause of the machine's end appears.
    pub fn cause(&self) -> Cause {
        Arc::clone(&self.cause)
    }
}

/// Sorts QEMU's lines into replies and the event of interest, until the connection ends.
fn read(lines: impl BufRead, replies: &Sender<Value>, cause: &Cause) {
    for line in lines.lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message["event"] == "SHUTDOWN" {
            let reason = message["data"]["reason"].as_str().unwrap_or_default().to_string();
            cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        } else if (message.get("return").is_some() || message.get("error").is_some()) && replies.send(message).is_err()
        {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_between_replies_are_kept_apart() {
        let lines = b"{\"QMP\": {}}\nnoise\n{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n\
            {\"return\": {}}\n{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"host-qmp-quit\"}}\n";
        let (sender, replies) = channel();
        let cause = Cause::default();
        read(&lines[..], &sender, &cause);
        drop(sender);
        assert_eq!(replies.iter().count(), 1);
        assert_eq!(cause.lock().expect("no panic").as_deref(), Some("guest-reset"), "the first cause counts");
    }
}
