//! The service on the host, over HTTP without TLS, on the hypervisor that is a list: for tests by programs of others, which make
//! thousands of requests, and to look around. `cargo run -p salp-mgmt --example serve 127.0.0.1:8080 PASSWORD`.
//!
//! One loop moves the bytes of all connections, as the guest's does.

use salp_mgmt::auth::{ADMINISTRATOR, Role};
use salp_mgmt::fake::Fake;
use salp_mgmt::http::Connection;
use salp_mgmt::media::fetch::{Link, Wire};
use salp_mgmt::media::jobs;
use salp_mgmt::media::url::Url;
use salp_mgmt::service::{Facts, Service};
use salp_mgmt::tls::certificate::Identity;
use salp_provider::entropy::Entropy;
use std::fs::File;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// There is no way out: what is fetched is not found.
#[derive(Debug)]
struct Nowhere;

impl Wire for Nowhere {
    fn open(&mut self, _: &Url) {}
    fn link(&mut self) -> Link {
        Link::Failed("this service has no network.")
    }
    fn send(&mut self, _: &[u8]) -> usize {
        0
    }
    fn receive(&mut self, _: &mut Vec<u8>, _: usize) {}
    fn close(&mut self) {}
}

/// Room for images.
const ROOM: usize = 64 << 20;

/// The host's random bytes.
#[derive(Debug)]
struct Host;

impl Entropy for Host {
    fn fill(&self, out: &mut [u8]) {
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(out)).expect("random bytes");
    }
}

/// Returns the time, in seconds since 1970.
fn seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// Moves what there is to move; returns whether there was anything, or that the connection is over.
fn drive(stream: &mut TcpStream, connection: &mut Connection, service: &mut Service, now: u64) -> Result<bool> {
    let mut is_busy = false;
    let mut bytes = vec![0; connection.room()];
    if !bytes.is_empty() {
        match stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                connection.receive(&bytes[..count], now);
                is_busy = true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    connection.serve(now, &mut service.at(seconds()));
    while !connection.outgoing().is_empty() {
        match stream.write(connection.outgoing()) {
            Ok(count) => connection.sent(count, now),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
        is_busy = true;
    }
    if connection.is_finished() || connection.is_overdue(now) {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    Ok(is_busy)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(password)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: serve ADDRESS:PORT PASSWORD");
        std::process::exit(2);
    };
    let identity = Identity::new(&Host, seconds(), &["localhost"], &[]);
    let mut uuid = [0; 16];
    Host.fill(&mut uuid);
    let facts = Facts { uuid, started: seconds() };
    let mut service = Service::new(Box::new(Fake::new(ROOM)), &Host, identity, facts);
    assert!(service.auth.set(ADMINISTRATOR, &password, Role::Administrator), "memory for a password");
    let listener = TcpListener::bind(&address)?;
    listener.set_nonblocking(true)?;
    println!("http://{}", listener.local_addr()?);
    let (begin, mut places) = (Instant::now(), Vec::new());
    loop {
        // It fits for 500 million years.
        let now = begin.elapsed().as_millis() as u64;
        let mut is_busy = false;
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            places.push((stream, Connection::new(now)));
        }
        places.retain_mut(|(stream, connection)| match drive(stream, connection, &mut service, now) {
            Ok(busy) => {
                is_busy |= busy;
                true
            }
            Err(_) => false,
        });
        is_busy |= service.work(seconds());
        (0..jobs::MOST).for_each(|place| service.drive_job(place, &mut Nowhere, now, seconds()));
        service.go_on(seconds());
        if !is_busy {
            sleep(Duration::from_micros(200));
        }
    }
}
