//! A server of the host's that the appliance fetches from (it sees the host as 10.0.2.2): one file over HTTP.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// Serves these bytes to whoever asks. Returns the port.
///
/// # Panics
///
/// If the host has no port for it.
pub fn serve(bytes: Vec<u8>) -> u16 {
    let (port, go) = serve_halves(bytes);
    // Everybody may have both halves at once.
    thread::spawn(move || while go.send(()).is_ok() {});
    port
}

/// Serves these bytes to whoever asks: the second half when that is said, once for each. Returns the port.
///
/// Nobody waits for who asked before: one that failed meanwhile says neither what it wants nor that it is gone.
///
/// # Panics
///
/// If the host has no port for it.
pub fn serve_halves(bytes: Vec<u8>) -> (u16, SyncSender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (say, go) = sync_channel(2);
    let shared = Arc::new((bytes, Mutex::new(go)));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            // Who is gone meanwhile asks again.
            thread::spawn(move || answer(stream, &shared.0, &shared.1));
        }
    });
    (port, say)
}

fn answer(mut stream: TcpStream, bytes: &[u8], go: &Mutex<Receiver<()>>) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first)?;
    let said = go.lock().map(|go| go.recv().is_ok());
    if said.is_ok_and(|said| said) { stream.write_all(second) } else { Ok(()) }
}
