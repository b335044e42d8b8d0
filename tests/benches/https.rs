//! Prints how many requests a second the management endpoint answers over TLS on connections that stay, and how long they take,
//! beside nginx that serves a file of the same bytes in a Debian guest on the same machine, and writes the figures to
//! `target/bench/https.json`.
//!
//! These are wall-clock figures of one run on a host that others use too: only their ratio means something.

use salp_qemu::debian;
use salp_qemu::debian::Stock;
use salp_qemu::initrd::Initrd;
use salp_qemu::machine::Uplink;
use salp_qemu::management::{self, Contact};

use salp_tests::{Api, Setup, Vm, report, vm};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// For how long each is asked.
const SECONDS: u64 = 10;

const NGINX: &str = "
user root; worker_processes 1; daemon off; pid /tmp/pid; error_log /tmp/errors;
events { worker_connections 256; }
http {
  access_log off; keepalive_requests 1000000; tcp_nodelay on;
  server { listen 443 ssl; ssl_certificate /cert.pem; ssl_certificate_key /key.pem; ssl_protocols TLSv1.3; root /www; }
}
";

/// Returns a Debian in which nginx serves these bytes as `/file`.
fn nginx(address: Ipv4Addr, file: Vec<u8>, certificate: &str, key: &str) -> Vm {
    let stock = Stock::named("debian").expect("a stock guest");
    let initrd = debian::root_of("nginx", &["nginx"])
        .and_then(|root| Initrd::busybox()?.program(&root, "usr/sbin/nginx"))
        .and_then(|initrd| initrd.module(stock, "virtio_mmio"))
        .and_then(|initrd| initrd.module(stock, "virtio_net"))
        .unwrap_or_else(|error| panic!("{error:#}"))
        .file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n", 0o644)
        .file("etc/group", "root:x:0:\n", 0o644)
        .file("etc/nginx/nginx.conf", NGINX, 0o644)
        .file("cert.pem", certificate, 0o644)
        .file("key.pem", key, 0o600)
        .file("www/file", file, 0o644);
    let command = format!(
        "modprobe virtio_mmio; modprobe virtio_net; ip link set lo up; ip link set eth0 up\n\
         ip address add {address}/24 dev eth0; ip route add default via 10.0.2.2\n\
         mkdir -p /var/lib/nginx /var/log/nginx /tmp; ping -c 1 10.0.2.2 >/dev/null; echo SERVES\n\
         /usr/sbin/nginx; cat /tmp/errors"
    );
    vm::linux_with("debian", initrd, &command).named("nginx").mib(128).nic("uplink")
}

/// Asks for a path on so many connections at once.
fn ask(api: &Api, path: &str, connections: usize) -> Value {
    let all_are_there = Arc::new(Barrier::new(connections));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (api, path, all_are_there) = (api.with_own_connections(120), path.to_string(), all_are_there.clone());
            thread::spawn(move || {
                let mut times = Vec::new();
                // The first one is the handshake's.
                drop(api.get(&path).is(200));
                all_are_there.wait();
                let end = Instant::now() + Duration::from_secs(SECONDS);
                while Instant::now() < end {
                    let start = Instant::now();
                    drop(api.get(&path).is(200));
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times: Vec<Duration> =
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|_| panic!("a request failed"))).collect();
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0, |time| time.as_micros() as u64);
    json!({ "connections": connections, "per_second": times.len() as u64 / SECONDS, "p50_us": at(50), "p99_us": at(99) })
}

fn main() {
    if !report::is_wanted() {
        return;
    }
    let address = Ipv4Addr::new(10, 0, 2, 20);
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).expect("a certificate");
    let port = management::free_port().expect("a port");
    // What a VM looks like, for the size of the file.
    let file = {
        let mut machine = Setup::of(salp_tests::guest("spin")).managed().start();
        machine.api().get("/redfish/v1/Systems/1").is(200).bytes
    };
    let size = file.len();
    let web = nginx(address, file, &made.cert.pem(), &made.signing_key.serialize_pem());
    let uplink = Uplink { forwards: vec![(port, address, 443)], capture: None };
    let mut machine = Setup::of(web).uplink(uplink).managed().seconds(900).start();
    let salp = machine.api();
    machine.expect("nginx| SERVES");
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), made.cert.pem()).expect("a certificate");
    let url = format!("https://127.0.0.1:{port}/redfish/v1/");
    let contact = Contact { url, user: "a".into(), password: "b".into(), ca: ca.path().into() };
    let nginx = Api::new(&contact);
    let mut rows = Vec::new();
    for connections in [1, 8, 64] {
        let ours = ask(&salp, "/redfish/v1/Systems/1", connections);
        let theirs = ask(&nginx, "/file", connections);
        println!("{connections:>3} connections: Salp {ours}\n                 nginx {theirs}");
        rows.push(json!({ "salp": ours, "nginx": theirs }));
    }
    machine.stop();
    report::write("https", &json!({ "bytes": size, "seconds": SECONDS, "rows": rows }));
}
