//! What is done and said, step by step: one line each, `key: what`. [`apply`](crate::apply) and
//! [`network`](crate::network) do their steps with it.

use anyhow::{Error, Result};
use std::fmt::Display;
use std::io::Write;

/// Does steps and says what they did. A step that fails does not stop the others.
pub struct Report<'a> {
    output: &'a mut dyn Write,
    dry_run: bool,
    failures: u32,
}

impl<'a> Report<'a> {
    /// Returns a report that is written to `output`; in a dry run no step is done, and each is said.
    pub fn new(output: &'a mut dyn Write, dry_run: bool) -> Self {
        Self { output, dry_run, failures: 0 }
    }

    /// Returns whether no step failed.
    pub fn is_clean(&self) -> bool {
        self.failures == 0
    }

    /// Does a step and says what it did, or why it failed. Returns whether it did.
    pub fn step(&mut self, key: &str, what: impl Display, action: impl FnOnce() -> Result<()>) -> bool {
        let result = self.attempt(key, what, action);
        result.map_err(|error| self.fail(key, &error)).is_ok()
    }

    /// Does a step that may fail, and says what it did or a warning.
    pub fn step_if_possible(&mut self, key: &str, what: impl Display, action: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.attempt(key, what, action) {
            self.say(key, format_args!("warning: {error:#}"));
        }
    }

    fn attempt(&mut self, key: &str, what: impl Display, action: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.dry_run {
            self.say(key, format_args!("{what} (dry run)"));
            return Ok(());
        }
        action()?;
        self.say(key, what);
        Ok(())
    }

    /// Says that a step failed.
    pub fn fail(&mut self, key: &str, error: &Error) {
        self.failures += 1;
        self.say(key, format_args!("failed: {error:#}"));
    }

    /// Says something of a step that has nothing to do.
    pub fn say(&mut self, key: &str, what: impl Display) {
        // One write: others may write to the same console. An identity is taken on whether or not anybody listens.
        let line = format!("{key}: {what}\n");
        let _ = self.output.write_all(line.as_bytes()).and_then(|()| self.output.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn text(output: Vec<u8>) -> String {
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn every_step_is_a_line_and_a_failure_is_remembered() {
        let mut output = Vec::new();
        let mut report = Report::new(&mut output, false);
        assert!(report.step("hostname", "web", || Ok(())));
        report.step_if_possible("mac", "eth0", || Err(anyhow!("it is busy").context("cannot set it")));
        assert!(report.is_clean());
        assert!(!report.step("clock", "set", || Err(anyhow!("not root"))));
        assert!(!report.is_clean());
        assert_eq!(text(output), "hostname: web\nmac: warning: cannot set it: it is busy\nclock: failed: not root\n");
    }

    #[test]
    fn a_dry_run_does_nothing() {
        let mut output = Vec::new();
        let mut report = Report::new(&mut output, true);
        assert!(report.step("hostname", "web", || panic!("done")));
        assert!(report.is_clean());
        assert_eq!(text(output), "hostname: web (dry run)\n");
    }
}
