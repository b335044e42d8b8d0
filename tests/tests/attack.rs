//! Attacks on the management endpoint over the network, while somebody who is logged in goes on working with it.
//!
//! Each attack ends with the same: every request of the good client was answered, a new client is served, and the management
//! guest was never brought back to its checkpoint.

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use salp_tests::api::turn_to_connect;
use salp_tests::{Api, Running, Setup, guest};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// More connections than the endpoint has places for.
const MANY: usize = 100;
/// A request that everybody may make, and no other behind it.
const LOOK: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
/// After how many seconds a peer that was not cut off gives up.
const SECONDS: usize = 120;

/// A machine under attack.
struct Target {
    machine: Running,
    api: Api,
    /// Where a connection goes, and how TLS is spoken there.
    attacker: Attacker,
}

/// Who attacks.
#[derive(Clone)]
struct Attacker {
    address: String,
    config: Arc<ClientConfig>,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Attacker {
    fn new(api: &Api) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(api.certificate().to_vec())).expect("a certificate");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { address: api.address().into(), config: Arc::new(config) }
    }

    /// Connects. Whether there is a place is known when something is read.
    fn connect(&self) -> TcpStream {
        let _turn = turn_to_connect();
        let stream = TcpStream::connect(&self.address).unwrap_or_else(|error| panic!("{}: {error}", self.address));
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(120))).expect("a timeout");
        stream
    }

    /// Speaks TLS.
    fn secure(&self) -> Tls {
        self.secure_on(self.connect())
    }

    fn secure_on(&self, stream: TcpStream) -> Tls {
        let name = ServerName::try_from("localhost").expect("a name");
        StreamOwned::new(ClientConnection::new(self.config.clone(), name).expect("a configuration"), stream)
    }

    /// Sends these bytes inside of TLS, and returns all that is answered before the end.
    fn say(&self, bytes: &[u8]) -> String {
        self.say_on(self.connect(), bytes)
    }

    fn say_on(&self, stream: TcpStream, bytes: &[u8]) -> String {
        let mut stream = self.secure_on(stream);
        // Who is refused early cannot send on.
        let _ = stream.write_all(bytes);
        let mut heard = Vec::new();
        // How the other side ends the connection is its own affair.
        let _ = stream.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).into_owned()
    }
}

/// Waits until the other side has ended the connection; returns false if it never does.
fn ends(stream: &mut impl Read) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// Ends the work of the good client, also when the attack panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Attacks a machine while a client with a session asks on and on, and looks at both afterwards.
fn attack(attack: impl FnOnce(&Attacker)) {
    let target = Target::start();
    let good = target.api.with_session().with_own_connections(60);
    let path = "/redfish/v1/Systems/1";
    // Its connection is there before all places are taken.
    good.get(path).is(200);
    let is_over = AtomicBool::new(false);
    let judged = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut answered = 0;
                while !is_over.load(Ordering::Relaxed) {
                    good.get(path).is(200);
                    answered += 1;
                    thread::sleep(Duration::from_millis(20));
                }
                answered
            });
            let ends = Ends(&is_over);
            attack(&target.attacker);
            drop(ends);
            client.join().expect("each request of the good client is answered")
        })
    }));
    let answered = judged.unwrap_or_else(|why| {
        println!("---- what the management guest said\n{}\n----", target.machine.lines("mgmt").join("\n"));
        println!("---- what Salp said\n{}\n----", target.machine.lines("salp").join("\n"));
        resume_unwind(why)
    });
    assert!(answered > 0, "the attack was over before it was noticed");
    target.check();
}

impl Target {
    fn start() -> Self {
        let mut machine = Setup::of(guest("spin")).managed().start();
        let api = machine.api();
        let attacker = Attacker::new(&api);
        Self { machine, api, attacker }
    }

    /// Panics unless everything works as before, and the management guest has lived through it.
    fn check(self) {
        let fresh = self.api.with_own_connections(60);
        let served = (0..30).any(|_| {
            let answer = fresh.try_send("GET", "/redfish/v1/Systems", &[], Vec::new());
            answer.is_ok_and(|answer| answer.status == 200) || {
                // The last attackers' places are not free yet.
                thread::sleep(Duration::from_secs(1));
                false
            }
        });
        let ended = self.machine.stop();
        ended.check(served, "a new client is not served");
        let is_alive = !ended.text.contains("taken back") && ended.text.matches("first-contact").count() == 1;
        ended.check(is_alive, "the management guest has failed");
        ended.check(!ended.text.contains("PANIC"), "something panicked");
    }
}

/// Sends a byte each second until the connection is ended; returns false if it never is.
fn trickle(stream: &mut (impl Read + Write), bytes: &[u8]) -> bool {
    for byte in bytes.iter().cycle().take(SECONDS) {
        if stream.write_all(&[*byte]).is_err() || stream.flush().is_err() {
            return true;
        }
        // The timeout of the socket is the second.
        match stream.read(&mut [0; 512]) {
            Ok(0) => return true,
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn forty_slow_peers_are_cut_off_and_hold_nobody_up() {
    attack(|attacker| {
        thread::scope(|scope| {
            let peers: Vec<_> = (0..40)
                .map(|number| {
                    scope.spawn(move || {
                        let second = Some(Duration::from_secs(1));
                        if number % 2 == 0 {
                            let mut stream = attacker.connect();
                            stream.set_read_timeout(second).expect("a timeout");
                            return trickle(&mut stream, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
                        }
                        let mut stream = attacker.secure();
                        stream.write_all(b"GET /redfish").expect("TLS is spoken");
                        stream.flush().expect("TLS is spoken");
                        stream.sock.set_read_timeout(second).expect("a timeout");
                        trickle(&mut stream, b"/v1")
                    })
                })
                .collect();
            for peer in peers {
                assert!(peer.join().expect("a peer"), "a slow peer is never cut off");
            }
        });
    });
}

#[test]
fn more_peers_than_there_are_places_leave_those_who_are_served_alone() {
    attack(|attacker| {
        let mut peers: Vec<TcpStream> = (0..MANY).map(|_| attacker.connect()).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            // Some say nothing, some end their half, some begin a record.
            match number % 3 {
                0 => {}
                1 => drop(peer.shutdown(Shutdown::Write)),
                _ => drop(peer.write_all(&[0x16, 3, 1, 0x40])),
            }
        }
        for peer in &mut peers {
            assert!(ends(peer), "a silent peer is never cut off");
        }
    });
}

#[test]
fn silent_peers_in_all_places_make_room_for_who_comes() {
    attack(|attacker| {
        let peers: Vec<TcpStream> = (0..MANY).map(|_| attacker.connect()).collect();
        // Many times: whoever comes is served while all of them are still patient.
        for _ in 0..5 {
            let heard = attacker.say(LOOK);
            assert!(heard.starts_with("HTTP/1.1 200 "), "who comes is not served: {heard:?}");
        }
        drop(peers);
    });
}

/// All of them are there when the machine looks: it has stood still meanwhile.
#[test]
fn who_comes_last_in_a_crowd_is_served() {
    let mut target = Target::start();
    for _ in 0..10 {
        target.machine.qmp("stop");
        let mut crowd: Vec<TcpStream> = Vec::new();
        for _ in 0..=MANY {
            crowd.push(target.attacker.connect());
            // QEMU, which is idle, looks at its network once a second, or when it is asked for something.
            target.machine.qmp("query-status");
        }
        let last = crowd.pop().expect("somebody has come");
        target.machine.qmp("cont");
        let heard = target.attacker.say_on(last, LOOK);
        assert!(heard.starts_with("HTTP/1.1 200 "), "who comes last is not served: {heard:?}");
        drop(crowd);
    }
    target.check();
}

#[test]
fn bodies_in_all_places_find_memory() {
    attack(|attacker| {
        let head = "POST /redfish/v1/SessionService/Sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 65536\r\n\r\n";
        let bytes = [head.as_bytes(), &[b'['; 65535]].concat();
        let mut peers: Vec<Tls> = (0..60)
            .map(|_| {
                let mut peer = attacker.secure();
                let _ = peer.write_all(&bytes);
                peer
            })
            .collect();
        // The last byte of some; the others are cut off.
        for peer in peers.iter_mut().step_by(2) {
            let _ = peer.write_all(b"[");
        }
        peers.iter_mut().for_each(|peer| assert!(ends(peer), "a body that never ends is waited for"));
    });
}

#[test]
fn broken_records_end_their_connections() {
    let hello = [&b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"[..], &[7; 189]].concat();
    let records: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec(),
        [&b"\x16\x03\x03\xff\xff"[..], &[1; 65535]].concat(),
        b"\x16\x03\x03\x00\x00".repeat(1000),
        b"\x14\x03\x03\x00\x01\x01".repeat(1000),
        b"\x15\x03\x03\x00\x02\x01\x5a".repeat(1000),
        [&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[3; 16380]].concat().repeat(8),
        b"\x17\x03\x03\x00\x20".repeat(100),
        b"\x18\x03\x03\x00\x03\x01\xff\xff".to_vec(),
        hello.clone(),
        hello[..20].to_vec(),
        vec![0; 70_000],
        vec![0xff; 70_000],
    ];
    attack(|attacker| {
        thread::scope(|scope| {
            for record in &records {
                scope.spawn(move || {
                    let mut stream = attacker.connect();
                    let _ = stream.write_all(record);
                    assert!(ends(&mut stream), "{:x?}… is not ended", &record[..5]);
                });
                // And the same behind a handshake that is in order.
                scope.spawn(move || {
                    let mut stream = attacker.secure();
                    stream.write_all(b"GET / HTTP/1.1\r\n").expect("TLS is spoken");
                    stream.flush().expect("TLS is spoken");
                    let _ = stream.sock.write_all(record);
                    assert!(ends(&mut stream.sock), "{:x?}… behind a handshake is not ended", &record[..5]);
                });
            }
        });
    });
}

#[test]
fn what_could_be_read_in_two_ways_is_read_in_none() {
    /// A request that is answered where it is taken for one.
    const HIDDEN: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = |fields: &str, body: &str| format!("POST /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}");
    let get = |fields: &str| format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let shapes = [
        ("a length and chunks", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        ("chunks and a length", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"), 400),
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 40\r\n", ""), 400),
        ("a list of lengths", post("Content-Length: 0, 0\r\n", ""), 400),
        ("a length with a sign", post("Content-Length: +0\r\n", ""), 400),
        ("a length in hexadecimal", post("Content-Length: 0x0\r\n", ""), 400),
        ("two codings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), 400),
        ("an unknown coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501),
        ("a space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400),
        ("a field on two lines", get("X: a\r\n b: c\r\n"), 400),
        ("a bare line feed", get("X: a\nContent-Length: 40\r\n"), 400),
        ("a bare carriage return", get("X: a\rContent-Length: 40\r\n"), 400),
        ("a zero", get("X: a\0b\r\n"), 400),
        ("a chunk's size with a prefix", post("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n"), 400),
        ("a giant chunk", post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff0\r\n\r\n"), 400),
        ("a chunk that ends early", post("Transfer-Encoding: chunked\r\n", "1\r\n\r\n0\r\n\r\n"), 400),
        ("fields behind the body", post("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 40\r\n\r\n"), 400),
        ("two hosts", get("Host: y\r\n"), 400),
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".into(), 400),
        ("chunks in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("a hidden slash", "GET /a%2fb HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("a giant field", get(&format!("X: {}\r\n", "a".repeat(100_000))), 431),
        ("a hundred fields", get(&"X: a\r\n".repeat(100)), 431),
        ("a giant target", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000)), 431),
        ("a giant body", post("Content-Length: 99999999999\r\n", &"a".repeat(100_000)), 413),
        (
            "many chunks",
            post("Transfer-Encoding: chunked\r\n", &format!("{0:x}\r\n{1}\r\n", 60_000, "a".repeat(60_000)).repeat(3)),
            413,
        ),
    ];
    attack(|attacker| {
        for (name, shape, status) in &shapes {
            let heard = attacker.say(format!("{shape}{HIDDEN}").as_bytes());
            // A refusal may be lost when more comes than is read.
            let is_large = shape.len() > 8192;
            assert!(
                heard.starts_with(&format!("HTTP/1.1 {status} ")) || (is_large && heard.is_empty()),
                "{name}: {heard}"
            );
            assert!(!heard.contains("HTTP/1.1 200 "), "{name}: what is hidden behind it is answered: {heard}");
        }
    });
}

#[test]
fn pipelined_requests_are_answered_up_to_the_first_garbage() {
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    attack(|attacker| {
        for garbage in ["\x16\x03\x01\r\n\r\n", "GET\r\n\r\n", "\r\n\r\n\r\n\r\n", "{}\r\n\r\n"] {
            let heard = attacker.say(format!("{}{garbage}{request}", request.repeat(150)).as_bytes());
            let count = |status: &str| heard.matches(&format!("HTTP/1.1 {status} ")).count();
            assert_eq!((count("200"), count("400")), (150, 1), "{garbage:?}");
        }
    });
}

#[test]
fn wrong_passwords_by_the_hundred_hold_nobody_up() {
    let request = "GET /redfish/v1/Systems HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWRtaW46d3Jvbmc=\r\n\r\n";
    attack(|attacker| {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let last = request.replace("Host: x", "Host: x\r\nConnection: close");
                    let heard = attacker.say(format!("{}{last}", request.repeat(50)).as_bytes());
                    assert_eq!(heard.matches("HTTP/1.1 401 ").count(), 51, "{heard}");
                });
            }
        });
    });
}

#[test]
fn who_does_not_read_its_answers_is_cut_off() {
    let request = "GET /redfish/v1/$metadata HTTP/1.1\r\nHost: x\r\n\r\n";
    attack(|attacker| {
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let mut stream = attacker.secure();
                    stream.sock.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                    let requests = request.repeat(300);
                    let mut seconds = 0;
                    // It is held back at some point, and cut off later.
                    while seconds < SECONDS {
                        match stream.write(requests.as_bytes()) {
                            Ok(_) => {}
                            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                                seconds += 1
                            }
                            Err(_) => return,
                        }
                    }
                    panic!("nobody reads the answers, and it is never cut off");
                });
            }
        });
    });
}
