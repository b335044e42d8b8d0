//! The virtual network: VMs that reach each other, VMs that do not, and clones that say nothing before they know who they are.

use salp_qemu::debian::Stock;
use salp_qemu::initrd::Initrd;
use salp_tests::machine::lines_of;
use salp_tests::{Running, Setup, Vm, guest, vm};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

/// Returns a Debian that has an address on its NIC and does this.
fn debian(name: &str, address: u8, nics: &[&str], command: &str) -> Vm {
    debian_with(name, nics, &format!("ip address add 10.9.0.{address}/24 dev eth0\n{command}"))
}

/// Returns a Debian whose NIC is up and which does this.
fn debian_with(name: &str, nics: &[&str], command: &str) -> Vm {
    let stock = Stock::named("debian").expect("a stock guest");
    let initrd = Initrd::busybox()
        .and_then(|initrd| initrd.module(stock, "virtio_mmio"))
        .and_then(|initrd| initrd.module(stock, "virtio_net"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let command =
        format!("modprobe virtio_mmio; modprobe virtio_net; ip link set lo up; ip link set eth0 up\n{command}");
    let debian = vm::linux_with("debian", initrd, &command).named(name).mib(256);
    nics.iter().fold(debian, |vm, nic| vm.nic(nic))
}

/// Waits for a neighbour, then takes 8 MiB from it and says what their sum is.
fn take_from(address: u8) -> String {
    format!(
        "until ping -c 1 -W 1 10.9.0.{address} >/dev/null; do :; done; echo REACHED {address}\n\
         ping -c 5 -i 0.2 -s 3000 10.9.0.{address} | grep received\n\
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
    let giver = debian("giver", 1, &["lan"], GIVE);
    let ended = Setup::of(giver).vm(debian("taker", 2, &["lan"], &take_from(1))).seconds(500).run().all_off();
    let taken = ended.lines("taker");
    ended.check(taken.contains(&"SUM 96995b58d4cbf6aaa9041b4f00c7f6ae - 8388608"), "8 MiB of zeroes did not arrive");
    let pings = taken.iter().any(|line| line.contains("5 packets received"));
    ended.check(pings, "echoes in fragments were lost");
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

#[test]
fn a_driver_that_breaks_every_rule_harms_nobody_but_its_nic() {
    let bad = guest("rings").nic("lan");
    let ended = Setup::of(bad).vm(guest("memory").mib(32).nic("lan")).run().all_off().passed("rings").passed("memory");
    ended.says("rings: NIC 0 stands still: its driver broke the rules of its queues");
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}
