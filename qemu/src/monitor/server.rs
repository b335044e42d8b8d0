//! The monitor for scripts: a Unix socket that takes a request in JSON a line and answers each with one line.
//!
//! Connections come and go; EL2 is asked one thing at a time.

use super::{Monitor, reply};
use crate::say;
use anyhow::{Context, Result, ensure};
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The greatest length of a request, in bytes: more than the longest line for EL2, each byte written as an escape.
const MAX_REQUEST: u64 = 64 << 10;

/// A socket that is served. Dropping it takes the socket away.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    ending: Arc<AtomicBool>,
}

impl Server {
    /// Makes the socket and serves it in the background.
    ///
    /// # Errors
    ///
    /// If the file is there already and is no socket that was left behind, or cannot be made.
    pub fn start(path: &Path, monitor: Monitor) -> Result<Self> {
        let listener = bind(path).with_context(|| format!("--monitor: cannot make the socket {}", path.display()))?;
        let ending = Arc::new(AtomicBool::new(false));
        let server = Self { path: path.into(), ending: Arc::clone(&ending) };
        let monitor = Arc::new(Mutex::new(monitor));
        thread::Builder::new().name("monitor".into()).spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    break;
                }
                let monitor = Arc::clone(&monitor);
                let serve =
                    |stream| thread::Builder::new().name("client".into()).spawn(move || serve(stream, &monitor));
                if let Err(error) = stream.and_then(serve) {
                    say(format_args!("monitor: {error}"));
                }
            }
        })?;
        Ok(server)
    }

    /// Returns where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    if let Ok(found) = fs::symlink_metadata(path) {
        ensure!(found.file_type().is_socket(), "there is a file of this name");
        let refused = UnixStream::connect(path).err().is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(refused, "another machine uses it");
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Who may manage the machine is who started it.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers the requests of a connection, in order, until it ends.
fn serve(stream: UnixStream, monitor: &Mutex<Monitor>) {
    // That a client hangs up is no error.
    let _ = answer_all(&stream, monitor);
}

fn answer_all(stream: &UnixStream, monitor: &Mutex<Monitor>) -> io::Result<()> {
    let mut requests = BufReader::new(stream);
    let mut output = stream;
    loop {
        let mut request = Vec::new();
        requests.by_ref().take(MAX_REQUEST).read_until(b'\n', &mut request)?;
        if request.is_empty() {
            return Ok(());
        }
        let is_whole = request.ends_with(b"\n") || (request.len() as u64) < MAX_REQUEST;
        let reply = if is_whole {
            let reply = monitor.lock().unwrap_or_else(PoisonError::into_inner).request(&request);
            if reply["error"] == "no-answer" {
                say(format_args!("monitor: {}", reply["message"].as_str().unwrap_or_default()));
            }
            reply
        } else {
            reply::failure("invalid", &format!("a request is one line of at most {MAX_REQUEST} bytes"))
        };
        writeln!(output, "{reply}")?;
        if !is_whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;
    use serde_json::{Value, json};

    /// A server in a directory of its own, in front of an EL2 with one VM.
    fn server() -> (Server, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let monitor = Monitor::new(fake::el2(fake::one_vm)).expect("a monitor");
        (Server::start(&directory.path().join("socket"), monitor).expect("a server"), directory)
    }

    struct Client(BufReader<UnixStream>);

    impl Client {
        fn of(server: &Server) -> Self {
            Self(BufReader::new(UnixStream::connect(server.path()).expect("a connection")))
        }

        fn send(&mut self, text: &str) {
            self.0.get_mut().write_all(text.as_bytes()).expect("sent");
        }

        fn reply(&mut self) -> Value {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a line");
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
        }
    }

    #[test]
    fn requests_of_a_connection_are_answered_in_order() {
        let (server, _directory) = server();
        let mut client = Client::of(&server);
        client.send("{\"op\":\"list\"}\nnonsense\n{\"op\":\"clone\",\"vm\":\"web\"}\n");
        assert_eq!(client.reply()["rows"][0]["name"], "web");
        assert_eq!(client.reply()["error"], "invalid");
        assert_eq!(client.reply()["made"], 1);
    }

    #[test]
    fn many_connections_get_each_their_own_answers() {
        let (server, _directory) = server();
        let mut clients: Vec<Client> = (0..4).map(|_| Client::of(&server)).collect();
        for round in 0..5 {
            for (index, client) in clients.iter_mut().enumerate() {
                client.send(&format!("{}\n", json!({"op": "clone", "vm": "web", "count": 1 + round + index})));
            }
            for (index, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.reply()["made"], 1 + round + index);
            }
        }
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let (server, _directory) = server();
        let mut client = Client::of(&server);
        client.send(&"x".repeat(MAX_REQUEST as usize));
        assert_eq!(client.reply()["error"], "invalid");
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).expect("the connection ends");
        assert!(rest.is_empty());
    }

    #[test]
    fn the_socket_is_its_owners_and_goes_away() {
        let (server, _directory) = server();
        let path = server.path().to_path_buf();
        assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_was_left_behind_is_taken_and_nothing_else() {
        let monitor = || Monitor::new(fake::el2(fake::one_vm)).expect("a monitor");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).expect("a socket"));
        let server = Server::start(&path, monitor()).expect("a server");
        let taken = format!("{:#}", Server::start(&path, monitor()).expect_err("it is taken"));
        assert!(taken.contains("another machine uses it"), "{taken}");
        drop(server);
        fs::write(&path, "precious").expect("a file");
        let file = format!("{:#}", Server::start(&path, monitor()).expect_err("it is a file"));
        assert!(file.contains("there is a file") && path.exists(), "{file}");
    }
}
