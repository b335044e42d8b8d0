//! The monitor: how a running machine's VMs are listed, cloned, frozen and destroyed from this host.
//!
//! EL2 speaks lines of text ([`salp_core::monitor`]) on a virtio console of the machine's; [`Monitor`] is its client, for
//! tests and for the [`server`], where scripts speak JSON and which [`client`] finds for people. [`request`] turns JSON into
//! a line, [`reply`] a reply into JSON. [`machine`](crate::machine) comes before.

pub mod client;
pub mod reply;
pub mod request;
pub mod server;

pub use reply::{Reply, Row};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long EL2 may be silent while an answer is due.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to EL2's monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
    patience: Duration,
    /// What has come of the reply so far: whole lines, and bytes of the next.
    lines: Vec<String>,
    partial: Vec<u8>,
    /// A line has been sent and its reply is not complete.
    is_due: bool,
}

impl Monitor {
    /// Takes a stream to EL2.
    ///
    /// # Errors
    ///
    /// What the socket answers.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let mut monitor = Self {
            stream: BufReader::new(stream),
            patience: PATIENCE,
            lines: Vec::new(),
            partial: Vec::new(),
            is_due: false,
        };
        monitor.set_patience(PATIENCE)?;
        Ok(monitor)
    }

    /// Sets how long EL2 may be silent while an answer is due.
    ///
    /// # Errors
    ///
    /// What the socket answers.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        // A timeout of zero would mean none.
        self.patience = patience.max(Duration::from_millis(1));
        Ok(self.stream.get_ref().set_read_timeout(Some(self.patience))?)
    }

    /// Sends a line and returns what EL2 answers.
    ///
    /// # Errors
    ///
    /// If EL2 does not answer in time, has ended, or answers something that is no reply. That EL2 refuses is a [`Reply`].
    pub fn call(&mut self, line: &str) -> Result<Reply> {
        ensure!(!line.contains('\n'), "a command is one line");
        if self.is_due {
            // A reply that comes late belongs to the line before.
            self.receive()?;
        }
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).context("the machine has ended")?;
        self.is_due = true;
        Reply::read(&self.receive()?)
    }

    /// Takes a request in JSON and returns its reply in JSON: mistakes of the request are found without asking EL2.
    pub fn request(&mut self, request: &[u8]) -> Value {
        let line = match request::line(request) {
            Ok(line) => line,
            Err(error) => return reply::failure("invalid", &format!("{error:#}")),
        };
        match self.call(&line) {
            Ok(reply) => reply.to_json(),
            Err(error) => reply::failure("no-answer", &format!("{error:#}")),
        }
    }

    /// Waits for the lines of a reply.
    fn receive(&mut self) -> Result<Vec<String>> {
        loop {
            match self.stream.read_until(b'\n', &mut self.partial) {
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_string();
                    let is_last = reply::is_last(&line);
                    self.lines.push(line);
                    if is_last {
                        self.is_due = false;
                        return Ok(std::mem::take(&mut self.lines));
                    }
                }
                Ok(_) => bail!("the machine has ended"),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => bail!(
                    "EL2 has not answered for {} s: it has crashed (the machine's log says so), or its image has no monitor",
                    self.patience.as_secs_f32()
                ),
                Err(error) => return Err(error).context("the machine has ended"),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! EL2's side of the monitor, played by a thread.

    use salp_core::monitor::{Command, parse, reply};
    use salp_hvc::calls::MAX_CONFIG;
    use salp_hvc::status;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// Answers every line by `answer` until the other side hangs up.
    pub fn el2(mut answer: impl FnMut(&str) -> String + Send + 'static) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        thread::spawn(move || {
            let mut output = theirs.try_clone().expect("a clone");
            for line in BufReader::new(theirs).lines().map_while(Result::ok) {
                if output.write_all(answer(&line).as_bytes()).is_err() {
                    break;
                }
            }
        });
        ours
    }

    /// Answers as EL2 would that has one VM, `web`.
    pub fn one_vm(line: &str) -> String {
        let (mut line, mut config, mut text) = (line.as_bytes().to_vec(), [0; MAX_CONFIG], String::new());
        match parse(&mut line, &mut config) {
            Ok(Command::List) => {
                let row = reply::Row::new(&mut text).number("id", 1_u32).text("name", "web").flag("acknowledged", true);
                row.end().and_then(|()| reply::Row::ok(&mut text).end())
            }
            Ok(Command::Clone(cloning)) => {
                for index in 1..=cloning.count {
                    let name = format!("{}-{index}", cloning.name.unwrap_or("web"));
                    reply::Row::new(&mut text).number("id", 1 + index).text("name", &name).end().expect("a row");
                }
                let row = reply::Row::ok(&mut text).number("made", cloning.count).number("first", 2_u32);
                row.text("config", cloning.config).end()
            }
            Ok(Command::Info(vm)) => reply::error(&mut text, status::NOT_FOUND, &format_args!("there is no VM {vm}")),
            Ok(_) => reply::Row::ok(&mut text).end(),
            Err(error) => reply::error(&mut text, status::INVALID, &error),
        }
        .expect("written");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    fn monitor() -> Monitor {
        Monitor::new(fake::el2(fake::one_vm)).expect("a monitor")
    }

    #[test]
    fn a_line_is_answered_with_rows_and_an_outcome() {
        let mut monitor = monitor();
        let listed = monitor.call("list").expect("an answer");
        assert!(listed.is_ok());
        assert_eq!(
            (listed.rows.len(), listed.rows[0].text("name"), listed.rows[0].number("id")),
            (1, Some("web"), Some(1))
        );
        let refused = monitor.call("info db").expect("an answer");
        assert_eq!((refused.is_ok(), refused.error()), (false, Some("not-found")));
        assert_eq!(refused.message(), Some("there is no VM db"));
    }

    #[test]
    fn a_request_in_json_is_answered_in_json() {
        let request = br#"{"op":"clone","vm":"web","count":2,"name":"7","config":{"role":"a \"b\""},"reserve":"none"}"#;
        let expected = json!({
            "ok": true, "made": 2, "first": 2, "config": "role=a \"b\"\n",
            "rows": [{"id": 2, "name": "7-1"}, {"id": 3, "name": "7-2"}],
        });
        assert_eq!(monitor().request(request), expected);
        let expected = json!({"ok": true, "rows": [{"id": 1, "name": "web", "acknowledged": true}]});
        assert_eq!(monitor().request(br#"{"op":"list"}"#), expected);
        let expected = json!({"ok": false, "error": "not-found", "message": "there is no VM #9"});
        assert_eq!(monitor().request(br##"{"op":"info","vm":"#9"}"##), expected);
        let refused = monitor().request(br#"{"op":"clone","vm":"web","count":0}"#);
        assert_eq!((&refused["error"], &refused["ok"]), (&json!("invalid"), &json!(false)));
    }

    #[test]
    fn what_is_wrong_with_a_request_is_found_without_asking_el2() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let mut monitor = Monitor::new(fake::el2(|_| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            "ok\n".into()
        }))
        .expect("a monitor");
        for request in ["", "list", "{", "[]", r#"{"op":"reboot"}"#, r#"{"op":"info"}"#, r#"{"op":"info","vm":7}"#] {
            let reply = monitor.request(request.as_bytes());
            assert_eq!((&reply["ok"], &reply["error"]), (&json!(false), &json!("invalid")), "{request}: {reply}");
        }
        assert_eq!(monitor.request(br#"{"op":"log"}"#), json!({"ok": true, "rows": []}));
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_reply_that_comes_late_is_not_taken_for_the_next() {
        let (release, held) = channel::<()>();
        let mut monitor = Monitor::new(fake::el2(move |line| {
            if line == "list" {
                let _ = held.recv();
                return "id=1\nok late=true\n".into();
            }
            "ok\n".into()
        }))
        .expect("a monitor");
        monitor.set_patience(Duration::from_millis(20)).expect("set");
        let silent = monitor.request(br#"{"op":"list"}"#);
        assert_eq!((&silent["ok"], &silent["error"]), (&json!(false), &json!("no-answer")), "{silent}");
        assert!(monitor.call("log").is_err(), "EL2 is still busy");
        release.send(()).expect("it waits");
        monitor.set_patience(PATIENCE).expect("set");
        assert_eq!(monitor.request(br#"{"op":"log"}"#), json!({"ok": true, "rows": []}));
    }

    #[test]
    fn the_end_of_the_machine_is_an_error() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        let reply = Monitor::new(ours).expect("a monitor").request(br#"{"op":"list"}"#);
        assert_eq!(reply, json!({"ok": false, "error": "no-answer", "message": reply["message"]}));
        assert!(reply["message"].as_str().is_some_and(|message| message.contains("the machine has ended")), "{reply}");
    }
}
