//! Listeners as people have them: programs on the network that are sent events, and programs that are connected and read them.

use rcgen::CertifiedKey;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use salp_tests::{Api, Setup, guest};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const SERVICE: &str = "/redfish/v1/EventService";
/// The host, as guests see it.
const HOST: &str = "10.0.2.2";

/// A listener on the host.
struct Listener {
    port: u16,
    heard: Receiver<(String, Value)>,
    /// What it answers next; 204 when there is nothing left.
    answers: Arc<Mutex<Vec<u16>>>,
}

/// Reads a request and returns its head and its body.
fn read(stream: &mut (impl Read + ?Sized)) -> Option<(String, Value)> {
    let (mut reader, mut head) = (BufReader::new(stream), String::new());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).ok()?))
}

impl Listener {
    /// Returns one that speaks TLS if it has a configuration.
    fn new(tls: Option<Arc<ServerConfig>>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        let (tell, heard) = channel();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let next = answers.clone();
        thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let (tell, next, tls) = (tell.clone(), next.clone(), tls.clone());
                thread::spawn(move || {
                    let answer = |stream: &mut dyn ReadWrite| {
                        let Some(request) = read(stream) else { return };
                        let status = next.lock().expect("nobody panics here").pop().unwrap_or(204);
                        let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                        let _ = tell.send(request);
                    };
                    let mut stream: TcpStream = stream;
                    match tls.and_then(|tls| ServerConnection::new(tls).ok()) {
                        Some(connection) => answer(&mut StreamOwned::new(connection, stream)),
                        None => answer(&mut stream),
                    }
                });
            }
        });
        Self { port, heard, answers }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{HOST}:{}/events?from=salp", self.port)
    }

    /// Returns the next request, if one comes.
    fn next(&self, seconds: u64) -> Option<(String, Value)> {
        self.heard.recv_timeout(Duration::from_secs(seconds)).ok()
    }

    /// Waits for an event with this message about this resource, and returns the request.
    fn expect(&self, key: &str, origin: &str) -> (String, Value) {
        loop {
            let (head, body) = self.next(120).unwrap_or_else(|| panic!("{key} of {origin} was not heard"));
            let is_it = |event: &Value| {
                let id = event["MessageId"].as_str().unwrap_or_default();
                id.ends_with(&format!(".{key}")) && event["OriginOfCondition"]["@odata.id"] == origin
            };
            if body["Events"].as_array().is_some_and(|events| events.iter().any(is_it)) {
                return (head, body);
            }
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn subscribe(api: &Api, order: &Value) -> String {
    api.post(&format!("{SERVICE}/Subscriptions"), order).is(201).location.expect("a location")
}

fn reset(api: &Api, kind: &str) {
    api.post("/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", &json!({ "ResetType": kind })).is(204);
}

#[test]
fn a_listener_hears_what_becomes_of_a_vm_though_it_fails_at_first() {
    let mut machine = Setup::of(guest("spin").named("web")).managed().monitor().seconds(600).start();
    let api = machine.api();
    let listener = Listener::new(None);
    *listener.answers.lock().expect("nobody panics here") = vec![503, 500];
    api.patch(SERVICE, &json!({ "DeliveryRetryIntervalSeconds": 1 })).is(200);
    let order = json!({
        "Destination": listener.url("http"), "Context": "rack 7", "ResourceTypes": ["ComputerSystem"],
        "HttpHeaders": [{ "Authorization": "Bearer secret" }],
    });
    let subscription = subscribe(&api, &order);
    // The management guest does not do it: the hypervisor tells.
    assert!(machine.monitor("freeze web").is_ok());
    for _ in 0..3 {
        let (head, body) = listener.expect("ResourcePaused", "/redfish/v1/Systems/1");
        assert!(head.starts_with("POST /events?from=salp HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nAuthorization: Bearer secret\r\n"), "{head}");
        assert_eq!((&body["Context"], &body["Events"][0]["MessageArgs"][0]), (&json!("rack 7"), &json!("web")));
    }
    api.delete(&subscription).is(204);
    reset(&api, "Resume");
    assert!(listener.next(3).is_none(), "nobody listens any more");
    machine.stop();
}

#[test]
fn a_listener_is_believed_if_it_has_the_certificate_that_was_given() {
    let mut machine = Setup::of(guest("spin").named("web")).managed().seconds(600).start();
    let api = machine.api();
    let make = || rcgen::generate_simple_self_signed(vec![HOST.to_string()]).expect("a certificate");
    let serve = |CertifiedKey { cert, signing_key }: &CertifiedKey<rcgen::KeyPair>| {
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        Listener::new(Some(Arc::new(config.expect("a configuration"))))
    };
    let (known, foreign) = (make(), make());
    let (listener, stranger, anybody) = (serve(&known), serve(&foreign), serve(&foreign));
    let order = |listener: &Listener, verify: bool| {
        let destination = listener.url("https");
        json!({ "Destination": destination, "VerifyCertificate": verify, "DeliveryRetryPolicy": "SuspendRetries" })
    };
    api.patch(SERVICE, &json!({ "DeliveryRetryAttempts": 0, "DeliveryRetryIntervalSeconds": 1 })).is(200);
    let refused = subscribe(&api, &order(&stranger, true));
    for (path, certificate) in [(subscribe(&api, &order(&listener, true)), &known), (refused.clone(), &known)] {
        let pem = json!({ "CertificateString": certificate.cert.pem(), "CertificateType": "PEM" });
        api.post(&format!("{path}/Certificates"), &pem);
    }
    subscribe(&api, &order(&anybody, false));
    api.post(&format!("{SERVICE}/Actions/EventService.SubmitTestEvent"), &json!({ "OriginOfCondition": "/x" })).is(204);
    anybody.expect("TestMessage", "/x");
    // It may have been tried before its certificate was there.
    let path = "/redfish/v1/EventService/Subscriptions/2";
    if api.get(path).json()["Status"]["State"] == "Disabled" {
        api.post(&format!("{path}/Actions/EventDestination.ResumeSubscription"), &json!({})).is(204);
    }
    listener.expect("TestMessage", "/x");
    let is_given_up = || api.get(&refused).json()["Status"]["State"] == "Disabled";
    assert!((0..60).any(|_| {
        assert!(stranger.next(1).is_none(), "a stranger was believed");
        is_given_up()
    }));
    machine.stop();
}

/// Reads a stream of events up to one with this message, and returns its identifier.
fn hear(stream: &mut impl BufRead, key: &str) -> u64 {
    let (mut id, mut line) = (0, String::new());
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).expect("the stream") > 0, "the stream ends before {key}");
        if let Some(number) = line.strip_prefix("id: ") {
            id = number.trim().parse().expect("a number");
        }
        if line.starts_with("data: ") && line.contains(&format!(".{key}\"")) {
            return id;
        }
    }
}

#[test]
fn a_stream_goes_on_where_it_was_also_after_the_management_guest_has_failed() {
    let web = guest("spin").named("web");
    let mut machine = Setup::of(web).managed_with("fault=crash:12").monitor().seconds(600).start();
    let api = machine.api().with_session().with_own_connections(60);
    let filter = "$filter=OriginResource%20eq%20'/redfish/v1/Systems/1'";
    let path = format!("{SERVICE}/SSE?{filter}");
    let mut stream = BufReader::new(api.follow(&path, &[]));
    assert!(machine.monitor("freeze web").is_ok());
    let seen = hear(&mut stream, "ResourcePaused");
    drop(stream);
    assert!(machine.monitor("unfreeze web").is_ok());
    // It fails at the twelfth request.
    while !machine.text().contains("taken back to its checkpoint (1)") {
        let _ = api.try_send("GET", "/redfish/v1/Systems/1", &[], Vec::new());
    }
    assert!(machine.monitor("freeze web").is_ok());
    let last = seen.to_string();
    let mut stream = BufReader::new(api.follow(&path, &[("Last-Event-ID", &last)]));
    let resumed = hear(&mut stream, "SystemResumed");
    assert!(resumed > seen && hear(&mut stream, "ResourcePaused") > resumed);
    machine.stop();
}

/// What a stream has told.
#[derive(Debug, Default)]
struct Told {
    /// The number of the last event.
    last: u64,
    heard: u64,
    /// Events of which it said that they were lost.
    lost: u64,
}

/// Reads a stream up to the event of a test; nothing may be missing of which it does not say so.
fn count(stream: impl Read) -> Told {
    let (mut told, mut id) = (Told::default(), 0u64);
    for line in BufReader::new(stream).lines() {
        let line = line.expect("the stream");
        if let Some(number) = line.strip_prefix("id: ") {
            id = number.parse().expect("a number");
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event = &serde_json::from_str::<Value>(data).expect("an event")["Events"][0];
        let key = event["MessageId"].as_str().and_then(|id| id.rsplit('.').next()).unwrap_or_default();
        if told.last != 0 && id != told.last + 1 {
            let lost = event["MessageArgs"][0].as_str().and_then(|count| count.parse().ok()).unwrap_or(0);
            assert_eq!((key, lost), ("EventsLost", id - told.last), "it says of {event} behind {told:?}");
            told.lost += lost;
        } else {
            told.heard += 1;
        }
        told.last = id;
        if key == "TestMessage" {
            return told;
        }
    }
    panic!("the stream ends: {told:?}");
}

/// Returns how long the machine has run, in nanoseconds: instructions of a CPU, here.
fn uptime(api: &Api) -> u64 {
    let manager = api.get("/redfish/v1/Managers/salp").is(200).json();
    manager["Oem"]["Salp"]["Statistics"]["UptimeNanoseconds"].as_u64().unwrap_or_else(|| panic!("{manager}"))
}

#[test]
fn sixteen_streams_tell_of_a_thousand_vms_at_once_or_how_many_they_have_lost() {
    let idle = guest("button").named("idle").append("deaf").mib(16);
    let mut machine = Setup::of(idle).managed().mib(2048).icount().seconds(900).start();
    machine.expect("idle| READY");
    let api = machine.api().with_session();
    let streams: Vec<_> = (0..16)
        .map(|_| {
            let listener = api.with_own_connections(900);
            // Who is connected is there before anything happens.
            let stream = listener.follow(&format!("{SERVICE}/SSE"), &[]);
            thread::spawn(move || count(stream))
        })
        .collect();
    let begin = uptime(&api);
    let clone = "/redfish/v1/Systems/1/Actions/Oem/SalpComputerSystem.InstantClone";
    let monitor = api.post(clone, &json!({ "Name": "vm", "Count": 999 })).is(202).location.expect("a monitor");
    while api.get(&monitor).status == 202 {}
    api.post(&format!("{SERVICE}/Actions/EventService.SubmitTestEvent"), &json!({})).is(204);
    let all: Vec<Told> = streams.into_iter().map(|stream| stream.join().expect("a stream")).collect();
    let span = uptime(&api) - begin;
    let (heard, lost) = all.iter().fold((0, 0), |(heard, lost), told| (heard + told.heard, lost + told.lost));
    eprintln!("16 streams heard {heard} events and lost {lost} within {span} ns of machine time: {:?}", all[0]);
    assert!(all.iter().all(|told| told.heard + told.lost >= 999), "{all:?}");
    assert!(all.iter().all(|told| told.last == all[0].last), "{all:?}");
    let ended = machine.stop();
    ended.check(!ended.text.contains("mgmt: it "), "the management guest has failed");
}
