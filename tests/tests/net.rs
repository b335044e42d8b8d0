//! The virtual network: VMs that reach each other, VMs that do not, and clones that say nothing before they know who they are.

use anyhow::Result;
use salp_qemu::debian::Stock;
use salp_qemu::initrd::Initrd;
use salp_qemu::machine::Uplink;
use salp_tests::machine::lines_of;
use salp_tests::{Running, Setup, Vm, guest, long, vm};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::{fs, thread};

/// Returns a Debian that has an address on its NIC and does this.
fn debian(name: &str, address: u8, nics: &[&str], command: &str) -> Vm {
    debian_with(name, nics, &format!("ip address add 10.9.0.{address}/24 dev eth0\n{command}"))
}

/// Returns a Debian whose NIC is up and which does this.
fn debian_with(name: &str, nics: &[&str], command: &str) -> Vm {
    debian_of(name, Initrd::busybox(), nics, command)
}

/// Returns a Debian with this besides, whose NIC is up and which does this.
fn debian_of(name: &str, initrd: Result<Initrd>, nics: &[&str], command: &str) -> Vm {
    vm::debian_on(nics, name, initrd, command)
}

/// Waits for a neighbour, then takes 8 MiB from it and says what their sum is.
fn take_from(address: u8) -> String {
    format!(
        "until ping -c 1 -W 1 10.9.0.{address} >/dev/null; do :; done; echo REACHED {address}\n\
         ping -c 5 -i 0.2 -s 3000 10.9.0.{address} | grep received\n\
         until ping6 -c 1 fe80::5054:ff:fe00:{address}%eth0 >/dev/null 2>&1; do sleep 1; done\n\
         ping6 -c 5 -i 0.2 -s 3000 fe80::5054:ff:fe00:{address}%eth0 | grep received\n\
         mkfifo /tmp/open; exec 3<>/tmp/open\n\
         until nc 10.9.0.{address} 7000 <&3 >/tmp/got; do sleep 1; done\n\
         echo SUM $(md5sum </tmp/got) $(wc -c </tmp/got)\n\
         echo BYE | nc 10.9.0.{address} 7001"
    )
}

/// Gets an address by DHCP and says which.
const LEASE: &str = "
printf '#!/bin/sh\n[ $1 = bound ] || exit 0\nip address flush dev eth0 scope global\n\
ip address add $ip/24 dev eth0\nip route replace default via $router\n' > /lease; chmod 755 /lease
udhcpc -i eth0 -n -q -t 10 -T 1 -s /lease
echo LEASE $(ip -4 -o address show dev eth0 | awk '{print $4}')
";

/// Serves one request for a megabyte of `x` on the host. Returns the port.
fn serve_a_megabyte() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a guest");
        let mut request = BufReader::new(stream.try_clone().expect("a stream"));
        let mut line = String::new();
        while request.read_line(&mut line).expect("a request") > 2 {
            line.clear();
        }
        let body = [b'x'; 1 << 20];
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).expect("a head");
        stream.write_all(&body).expect("a body");
    });
    port
}

const GIVE: &str = "dd if=/dev/zero bs=1M count=8 2>/dev/null | nc -l -p 7000; nc -l -p 7001; echo GIVEN";

/// Returns a number in the row of a VM's first NIC.
fn count(machine: &mut Running, vm: &str, key: &str) -> u64 {
    let reply = machine.monitor(&format!("net {vm}"));
    reply.rows.first().and_then(|row| row.number(key)).unwrap_or_else(|| panic!("{key}: {reply:?}"))
}

#[test]
fn two_debians_reach_each_other() {
    let giver = debian("giver", 1, &["lan:52:54:00:00:00:01"], GIVE);
    let ended = Setup::of(giver).vm(debian("taker", 2, &["lan"], &take_from(1))).seconds(500).run().all_off();
    let taken = ended.lines("taker");
    ended.check(taken.contains(&"SUM 96995b58d4cbf6aaa9041b4f00c7f6ae - 8388608"), "8 MiB of zeroes did not arrive");
    let pings = taken.iter().filter(|line| line.contains("5 packets received")).count();
    ended.check(pings == 2, "echoes in fragments were lost, of IPv4 or IPv6");
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

#[test]
fn a_debian_has_its_address_and_a_megabyte_from_outside_and_a_neighbour_too() {
    let port = serve_a_megabyte();
    let fetch = format!(
        "{LEASE}\nuntil ping -c 1 -W 5 10.0.2.2 >/dev/null; do :; done\n\
         echo SUM $(wget -q -O - http://10.0.2.2:{port}/ | md5sum)"
    );
    let ended = Setup::of(debian_with("one", &["uplink"], &fetch))
        .vm(debian_with("two", &["uplink"], LEASE))
        .seconds(500)
        .run()
        .all_off();
    let lease =
        |vm: &str| ended.lines(vm).into_iter().find(|line| line.starts_with("LEASE 10.0.2.")).map(str::to_owned);
    ended.check(lease("one").is_some() && lease("two").is_some() && lease("one") != lease("two"), "no leases");
    ended.check(
        ended.lines("one").contains(&"SUM b561f87202d04959e37588ee05cf5b10 -"),
        "a megabyte of x did not arrive",
    );
}

/// Returns the sources of the frames in a capture.
fn senders(capture: &Path) -> Vec<[u8; 6]> {
    let bytes = fs::read(capture).expect("a capture");
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut senders = Vec::new();
    while let Some((head, frames)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some(frame) = frames.get(..length) else { break };
        senders.push(frame[6..12].try_into().expect("a source"));
        rest = &frames[length..];
    }
    senders
}

/// The source talks all the time, so its clones go on doing so until they know who they are.
#[test]
fn clones_say_nothing_outside_with_the_address_of_their_source_and_get_their_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let capture = directory.path().join("net.pcap");
    let command = format!(
        "{LEASE}\nping 10.0.2.2 >/dev/null &\nsalp-guest freeze 2>&1\nkill %1\n{LEASE}\necho MAC $(cat /sys/class/net/eth0/address)"
    );
    let source =
        debian_of("web", Initrd::busybox().and_then(Initrd::salp_guest), &["uplink:52:54:00:00:00:01"], &command);
    let uplink = Uplink { capture: Some(capture.clone()), ..Uplink::default() };
    let mut machine = Setup::of(source).uplink(uplink).mib(1024).monitor().seconds(500).start();
    machine.expect("salp| web: is frozen");
    let before = senders(&capture);
    let own = [0x52, 0x54, 0, 0, 0, 1];
    assert!(before.contains(&own), "the source has said nothing");
    assert!(machine.monitor("clone web --count 10").is_ok());
    assert!(machine.monitor("destroy web").is_ok());
    let ended = machine.finish().all_off();
    let after = senders(&capture).split_off(before.len());
    ended.check(!after.contains(&own), "a clone has spoken with the address of its source");
    let said = |word: &str| -> BTreeSet<&str> {
        (1..=10)
            .filter_map(|n| ended.lines(&format!("web-{n}")).into_iter().rev().find(|line| line.starts_with(word)))
            .collect()
    };
    ended.check(said("LEASE 10.0.2.").len() == 10, format_args!("leases: {:?}", said("LEASE")));
    ended.check(said("MAC ").len() == 10, format_args!("addresses: {:?}", said("MAC")));
    let speakers: BTreeSet<_> = after.into_iter().collect();
    ended.check(speakers.len() > 10, "not every clone has spoken");
}

/// Returns the MB a second that the client of iperf3 tells of.
fn iperf(lines: &[&str]) -> f64 {
    // [  5]   0.00-10.00  sec   100 MBytes  10.0 MBytes/sec                  receiver
    let receiver = lines.iter().find(|line| line.ends_with("receiver"));
    let told = receiver.and_then(|line| line.split("Bytes").nth(1)?.split_whitespace().next()?.parse().ok());
    told.unwrap_or_else(|| panic!("{lines:#?}"))
}

/// A campaign: TCP from guest to guest, beside two guests without Salp, each on a user network of its own QEMU.
#[test]
fn tcp_between_guests_is_compared_with_a_user_network() {
    if !long() {
        return;
    }
    let with = |name: &str, nic: &str, command: &str| {
        debian_of(name, vm::iperf3(), &[nic], &format!("mkdir -p /tmp; export TMPDIR=/tmp\n{command}"))
    };
    let serve = "/usr/bin/iperf3 -s -1 >/dev/null; sleep 1";
    let client =
        |address: &str, port: u16| format!("until /usr/bin/iperf3 -c {address} -p {port} -t 10 -f M; do sleep 1; done");
    let address = |last: u8| format!("ip address add 10.0.2.{last}/24 dev eth0");
    let one = with("one", "lan", &format!("{}\n{serve}", address(15)));
    let two = with("two", "lan", &format!("{}\n{}", address(16), client("10.0.2.15", 5201)));
    let ended = Setup::of(one).vm(two).seconds(900).run().all_off();
    let salp = iperf(&ended.lines("two"));

    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let uplink = Uplink { forwards: vec![(port, Ipv4Addr::new(10, 0, 2, 15), 5201)], capture: None };
    let one = with("one", "uplink", &format!("{}\n{serve}", address(15)));
    let server = Setup::of(one).uplink(uplink).seconds(900).start_bare();
    let two = with("two", "uplink", &format!("{}\n{}", address(15), client("10.0.2.2", port)));
    let ended = Setup::of(two).seconds(900).start_bare().finish();
    let text: Vec<&str> = ended.text.lines().map(str::trim_end).collect();
    let plain = iperf(&text);
    server.stop();
    println!("guest to guest {salp} MB/s, by user networks {plain} MB/s: {:.2}", salp / plain);
}

#[test]
fn debians_on_a_segment_of_their_own_get_addresses_from_the_management_guest() {
    let lease = |name: &str| debian_with(name, &["lan"], LEASE);
    let mut machine = Setup::of(lease("one")).vm(lease("two")).managed().dhcp("lan=10.1.0.1/24").seconds(400).start();
    let leases = ["one", "two"].map(|vm| {
        let line = machine.expect_line(vm, "LEASE ");
        assert!(line.starts_with("LEASE 10.1.0."), "{vm}: {line}");
        line
    });
    assert_ne!(leases[0], leases[1]);
    machine.stop();
}

#[test]
fn segments_and_vlans_do_not_reach_each_other() {
    let silent = |name: &str, nic: &str| debian(name, 1, &[nic], "read line");
    let tries = "ping -c 3 -W 1 10.9.0.1 | grep received; echo TRIED";
    let mut machine = Setup::of(silent("other", "dmz"))
        .vm(silent("tagged", "lan+vlan=5"))
        .vm(debian("alone", 2, &["lan"], tries))
        .monitor()
        .seconds(500)
        .start();
    machine.expect("alone| TRIED");
    assert!(
        lines_of(&machine.text(), "alone").iter().any(|line| line.contains(" 0 packets received")),
        "{}",
        machine.text()
    );
    assert_eq!(count(&mut machine, "other", "received") + count(&mut machine, "tagged", "received"), 0);
    machine.stop();
}

/// The trunk port's guest is up in the second VLAN only when the neighbour in the first one is there: what that does not hear then,
/// it cannot hear.
#[test]
fn a_debian_on_a_trunk_port_is_in_its_vlans_and_they_stay_apart() {
    let stock = Stock::named("debian").expect("a stock guest");
    let initrd = Initrd::busybox().and_then(|initrd| initrd.module(stock, "8021q"));
    let command = format!(
        "modprobe 8021q\n\
         for vlan in 10 20; do ip link add link eth0 name eth0.$vlan type vlan id $vlan; done\n\
         ip address add 10.9.0.1/24 dev eth0.10; ip link set eth0.10 up\n\
         until ping -c 1 -W 1 10.9.0.2 >/dev/null; do :; done\n\
         ip address add 10.9.1.1/24 dev eth0.20; ip link set eth0.20 up\n{GIVE}"
    );
    let tries = "ip address add 10.9.1.3/24 dev eth0\n\
                 until ping -c 1 -W 1 10.9.1.1 >/dev/null; do :; done; echo REACHED\n\
                 ping -c 3 -W 1 10.9.0.2 | grep received; echo TRIED; read line";
    let taker = format!("{}\nread line", take_from(1));
    let mut machine = Setup::of(debian_of("trunk", initrd, &["lan:52:54:00:00:00:01+vlans=10:20"], &command))
        .vm(debian("ten", 2, &["lan+vlan=10"], &taker))
        .vm(debian("twenty", 3, &["lan+vlan=20"], tries))
        .vm(debian("plain", 4, &["lan"], "read line"))
        .monitor()
        .seconds(900)
        .start();
    assert_eq!(machine.expect_line("ten", "SUM "), "SUM 96995b58d4cbf6aaa9041b4f00c7f6ae - 8388608");
    machine.expect_line("twenty", "TRIED");
    let twenty = lines_of(&machine.text(), "twenty").iter().any(|line| line.contains(" 0 packets received"));
    assert!(twenty, "{}", machine.text());
    assert_eq!(count(&mut machine, "plain", "received"), 0);
    machine.stop();
}

#[test]
fn a_manager_moves_nics_and_pulls_their_plugs() {
    let manager = guest("manager").manager().nic("lan").append("do=plug");
    Setup::of(manager).run().all_off().passed("manager");
}

#[test]
fn a_driver_that_breaks_every_rule_harms_nobody_but_its_nic() {
    let bad = guest("rings").nic("lan");
    let ended = Setup::of(bad).vm(guest("memory").mib(32).nic("lan")).run().all_off().passed("rings").passed("memory");
    ended.says("rings: NIC 0 stands still: its driver broke the rules of its queues");
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}
