//! The machine's serial line: for a program that waits for text, and for a person at a terminal.
//!
//! [`machine`](crate::machine) makes the socket that both use.

use anyhow::{Context, Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The key with which a person leaves, which ends QEMU: `Ctrl-]`.
pub const KEY_LEAVE: u8 = 0x1d;

/// The key with which a person goes to the next VM's console, and at last back to the log: `Ctrl-^`. EL2 handles it.
pub const KEY_NEXT: u8 = 0x1e;

/// The key with which a person opens EL2's monitor: `Ctrl-_`. EL2 handles it.
pub const KEY_MONITOR: u8 = 0x1f;

/// A console that a program drives: everything that the machine writes is kept, and can be waited for.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    received: Arc<Received>,
    /// What has been looked at so far.
    seen: usize,
}

#[derive(Debug, Default)]
struct Received {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Received {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Starts to listen to a serial line.
    ///
    /// # Errors
    ///
    /// What the socket answers.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let received = Arc::new(Received::default());
        let (mut input, filled) = (stream.try_clone()?, Arc::clone(&received));
        thread::Builder::new().name("console".into()).spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = input.read(&mut buffer).unwrap_or(0);
                let mut state = filled.lock();
                state.bytes.extend(&buffer[..count]);
                state.ended = count == 0;
                filled.changed.notify_all();
                if state.ended {
                    break;
                }
            }
        })?;
        Ok(Self { stream, received, seen: 0 })
    }

    /// Sends text as if it had been typed.
    ///
    /// # Errors
    ///
    /// If the machine has ended.
    pub fn send(&mut self, text: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(text.as_ref()).context("the serial line is closed")
    }

    /// Waits until the machine has written `text` after what was waited for before, and returns everything up to its
    /// end.
    ///
    /// # Errors
    ///
    /// If `timeout` passes or the machine ends first: with the last lines that it wrote.
    pub fn expect(&mut self, text: &str, timeout: Duration) -> Result<String> {
        self.expect_any(&[text], timeout).map(|(_, before)| before)
    }

    /// Waits for the first of several texts; returns its index and everything up to its end.
    ///
    /// # Errors
    ///
    /// As for [`expect`](Self::expect).
    pub fn expect_any(&mut self, texts: &[&str], timeout: Duration) -> Result<(usize, String)> {
        let deadline = Instant::now() + timeout;
        let mut state = self.received.lock();
        loop {
            let new = &state.bytes[self.seen..];
            let first =
                texts.iter().enumerate().filter_map(|(index, text)| Some((find(new, text.as_bytes())?, index))).min();
            if let Some((at, index)) = first {
                let end = at + texts[index].len();
                let before = String::from_utf8_lossy(&new[..end]).into_owned();
                self.seen += end;
                return Ok((index, before));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "the machine ended".into() } else { format!("{timeout:?} passed") };
                bail!("{why} while waiting for {texts:?}; the last lines of its console:\n{}", tail(&state.bytes));
            }
            state = self.received.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the machine has closed the line.
    ///
    /// # Errors
    ///
    /// If `timeout` passes first: with the last lines.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<()> {
        let state = self.received.lock();
        let wait = self.received.changed.wait_timeout_while(state, timeout, |state| !state.ended);
        let (state, passed) = wait.unwrap_or_else(PoisonError::into_inner);
        if passed.timed_out() {
            bail!("the machine still runs after {timeout:?}; the last lines of its console:\n{}", tail(&state.bytes));
        }
        Ok(())
    }

    /// Returns everything that the machine has written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().bytes).into_owned()
    }

    /// Returns the lines that one VM has written so far, without their prefix. For a machine whose console shows the
    /// log view.
    pub fn lines_of(&self, vm: &str) -> Vec<String> {
        let prefix = format!("{vm}| ");
        self.text().lines().filter_map(|line| line.strip_prefix(&prefix)).map(|line| line.trim_end().into()).collect()
    }
}

/// Returns where `text` first starts in `bytes`.
fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len().max(1)).position(|window| window == text)
}

/// Returns the last lines of a console.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Connects this process's standard input and output with the serial line, in the background: returns at once.
/// `leave` is called when the person presses [`KEY_LEAVE`].
///
/// The returned value gives the terminal back to the shell when it is dropped.
///
/// # Errors
///
/// What the terminal answers.
pub fn connect_terminal(stream: UnixStream, leave: impl Fn() + Send + 'static) -> Result<Terminal> {
    let mut terminal = Terminal::raw()?;
    let (mut from_machine, mut to_machine) = (stream.try_clone()?, stream);
    let output = thread::Builder::new().name("screen".into()).spawn(move || {
        let mut buffer = [0; 4096];
        let mut screen = std::io::stdout();
        while let Ok(count) = from_machine.read(&mut buffer) {
            if count == 0 || screen.write_all(&buffer[..count]).and_then(|()| screen.flush()).is_err() {
                break;
            }
        }
    })?;
    thread::Builder::new().name("keyboard".into()).spawn(move || {
        let mut buffer = [0; 256];
        let mut keyboard = std::io::stdin();
        while let Ok(count) = keyboard.read(&mut buffer) {
            let keys = &buffer[..count];
            let until = keys.iter().position(|&key| key == KEY_LEAVE);
            if to_machine.write_all(&keys[..until.unwrap_or(count)]).is_err() || count == 0 {
                break;
            }
            if until.is_some() {
                leave();
                break;
            }
        }
    })?;
    terminal.output = Some(output);
    Ok(terminal)
}

/// The terminal in raw mode, or nothing if standard input is none. Dropping it restores the mode.
pub struct Terminal {
    before: Option<Termios>,
    output: Option<thread::JoinHandle<()>>,
}

impl Terminal {
    fn raw() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self { before: None, output: None });
        }
        let before = tcgetattr(std::io::stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("cannot set the terminal's mode")?;
        Ok(Self { before: Some(before), output: None })
    }

    /// Waits until everything that the machine wrote is on the screen. The machine must have ended.
    pub fn drain(&mut self) {
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn text_is_waited_for_in_order() {
        let (ours, mut machine) = UnixStream::pair().expect("a pair");
        let mut console = Console::new(ours).expect("a console");
        machine.write_all(b"salp| ready\nweb| login: ").expect("sent");
        assert_eq!(console.expect("ready\n", SOON).expect("ready"), "salp| ready\n");
        console.send("root\n").expect("typed");
        let mut typed = [0; 5];
        machine.read_exact(&mut typed).expect("received");
        machine.write_all(b"root\nweb| # ").expect("sent");
        assert_eq!(console.expect_any(&["$ ", "# "], SOON).expect("a prompt").0, 1);
        let late = console.expect("ready", Duration::from_millis(10)).expect_err("it was before");
        assert!(late.to_string().contains("web| # "), "{late}");
        assert_eq!(console.lines_of("web"), ["login: root", "#"]);
        drop(machine);
        let ended = console.expect("more", SOON).expect_err("it ended");
        assert!(ended.to_string().contains("the machine ended"), "{ended}");
        console.wait_end(SOON).expect("it ended");
    }
}
