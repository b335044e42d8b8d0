//! Hand-over, again and again, under guests of others that talk by TCP, with clones being made.

use salp_tests::vm::{debian_on, iperf3};
use salp_tests::{Running, Setup, Vm, guest, long};

/// How often the hypervisor is replaced: a hundred times when there is time.
fn times() -> usize {
    if long() { 100 } else { 5 }
}

/// How late a tick may be beside the pause, in microseconds: other VMs have their slices of the CPU.
const SLICES: u64 = 50_000;

/// Returns a Debian on the segment `lan` that does this with iperf3.
fn debian(name: &str, address: u8, command: &str) -> Vm {
    let command = format!("ip address add 10.9.0.{address}/24 dev eth0; mkdir -p /tmp; export TMPDIR=/tmp\n{command}");
    debian_on(&["lan"], name, iperf3(), &command)
}

fn ask(machine: &mut Running, line: &str) -> salp_tests::Reply {
    let reply = machine.monitor(line);
    assert!(reply.is_ok(), "{line}: {reply:?}\n{}", machine.text());
    reply
}

/// Returns what the client of iperf3 says of each tenth of a second: how many KBytes went.
fn told(lines: &[String]) -> Vec<f64> {
    // [  5]   0.00-0.10   sec   128 KBytes  1280 KBytes/sec    0   66.5 KBytes
    let rate = |line: &String| line.split(" sec ").nth(1)?.split_whitespace().nth(2)?.parse().ok();
    lines.iter().filter(|line| line.starts_with("[  5]")).filter_map(rate).collect()
}

/// Returns the greatest of the numbers that follow `key`.
fn greatest<'a>(lines: impl Iterator<Item = &'a str>, key: &str) -> u64 {
    let number = |line: &str| line.split(key).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    lines.filter_map(number).max().unwrap_or_else(|| panic!("nobody says {key}"))
}

#[test]
fn connections_timers_memory_and_clones_outlive_many_hypervisors() {
    let client = "until ping -c 1 -W 1 10.9.0.1 >/dev/null; do :; done\n\
                  until /usr/bin/iperf3 -c 10.9.0.1 -t 0 -i 0.1 -b 8M -l 8K -f K --forceflush; do sleep 1; echo AGAIN; done";
    let mut machine = Setup::of(debian("server", 1, "/usr/bin/iperf3 -s >/dev/null"))
        .vm(debian("client", 2, client))
        .vm(guest("clone").named("timers").append("role=timers every=100").cpus(2))
        .vm(guest("memory").mib(16).append("rounds=0 pause=20"))
        .vm(guest("clone").named("source").append("role=frozen then=wait"))
        .mib(2048)
        .icount()
        .monitor()
        .seconds(if long() { 3000 } else { 900 })
        .start();
    machine.expect("salp| source: is frozen");
    machine.expect("client| [  5]");
    let before = told(&machine.lines("client")).len();
    for round in 0..times() {
        ask(&mut machine, "clone source --count 3");
        ask(&mut machine, "handover");
        ask(&mut machine, "confirm");
        for clone in 1..=3 {
            machine.expect_line(&format!("source-{}", round * 3 + clone), "CLONE ");
            ask(&mut machine, &format!("destroy source-{}", round * 3 + clone));
        }
        for vm in ["client", "timers", "memory"] {
            machine.expect(&format!("{vm}| "));
        }
    }
    machine.expect("client| [  5]");
    machine.expect("timers| ");
    let ended = machine.stop();
    let pause = greatest(ended.lines("salp").into_iter(), " VMs after ");
    let late = greatest(ended.lines("timers").into_iter(), " late=");
    let sent = told(&ended.lines("client").into_iter().map(str::to_owned).collect::<Vec<_>>());
    let silent = sent.iter().filter(|&&rate| rate == 0.0).count();
    println!(
        "{} hand-overs: pause {pause} us, ticks {late} us late at most, {} tenths of a second, {silent} silent",
        times(),
        sent.len()
    );
    ended.check(sent.len() > before && sent.last().is_some_and(|&rate| rate > 0.0), "the connection is dead");
    ended.check(!ended.text.contains("client| AGAIN"), "the connection was broken");
    ended.check(late <= pause + SLICES, format_args!("a tick was {late} us late, and the pause was {pause} us"));
    let sums = ended.lines("memory");
    ended.check(sums.iter().filter(|line| line.starts_with("SUM ")).all(|line| line.contains(" wrong=0 ")), "memory");
    ended.check(!ended.text.contains("FAIL "), "a guest found something wrong");
}
