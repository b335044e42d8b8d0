//! Clones of stock Debian: many idle ones that all answer, and a busy source that is none the worse for being cloned.

use salp_qemu::debian;
use salp_qemu::initrd::Initrd;
use salp_tests::{Setup, linux, long, stock, vm};

/// A thousand idle clones on four CPUs and 4 GiB (only with `SALP_LONG=1`; else thirty). Time counts instructions: how busy
/// the host is makes no clone late.
#[test]
fn every_one_of_many_idle_clones_answers_on_its_console() {
    let count = if long() { 1000 } else { 30 };
    let mut machine = Setup::of(stock("debian").named("web").mib(256))
        .cpus(4)
        .mib(4096)
        .icount()
        .monitor()
        .seconds(if long() { 3000 } else { 420 })
        .start();
    machine.expect("turns this VM off.");
    machine.expect("# ");
    assert!(machine.monitor("freeze web").is_ok());
    let made = machine.monitor(&format!("clone web --count {count} --name c"));
    assert_eq!(made.number("made"), Some(count), "{made:?}");
    for n in 1..=count {
        assert!(machine.monitor(&format!("console c-{n}")).is_ok());
        machine.send(&format!("echo clone $(({n} * 7))\r"));
        machine.expect(&format!("clone {}\r", n * 7));
    }
    let stats = machine.monitor("stats");
    assert_eq!(stats.rows[0].number("starved"), Some(0), "{stats:?}");
    assert!(!machine.stop().text.contains("Oops"));
}

/// A source with four busy vCPUs is cloned a thousand times (only with `SALP_LONG=1`; else twenty times), each clone runs a
/// little and is destroyed; stress-ng verifies its own memory all the time.
#[test]
fn a_busy_debian_is_cloned_again_and_again_and_does_not_notice() {
    let (times, seconds) = if long() { (1000, 300) } else { (20, 20) };
    let root = debian::stress_ng().unwrap_or_else(|error| panic!("{error:#}"));
    let initrd = Initrd::busybox()
        .and_then(|initrd| initrd.program(&root, "usr/bin/stress-ng"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let command = format!(
        "mkdir -p /tmp; cd /tmp; echo STRESS begins; /usr/bin/stress-ng --cpu 2 --vm 1 --vm-bytes 32M --switch 2 --timer 1 \
         --fork 1 --futex 1 --timeout {seconds}s --verify && echo STRESS is over"
    );
    let source = vm::linux_with("debian", initrd, &command).named("source").cpus(4).mib(512);
    let mut machine = Setup::of(source).cpus(4).mib(2048).monitor().seconds(3000).start();
    machine.expect("source| STRESS begins");
    for n in 0..times {
        assert!(machine.monitor(&format!("clone source --name c{n}")).is_ok());
        assert!(machine.monitor(&format!("destroy c{n}")).is_ok());
    }
    machine.expect("source| STRESS is over");
    let ended = machine.finish().all_off();
    for word in ["Kernel panic", "BUG:", "Oops", "Unhandled", "Call trace"] {
        ended.check(!ended.text.contains(word), word);
    }
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

/// Siblings of a kernel that learns of its generation id (6.10 and newer) draw different random numbers.
#[test]
fn clones_of_debian_6_12_reseed_by_themselves_and_draw_apart() {
    let command = "read -r go; head -c 16 /dev/urandom | md5sum; dmesg | grep 'crng reseeded'";
    let mut machine = Setup::of(linux("debian-6.12", command).named("web").mib(256)).mib(2048).monitor().start();
    machine.expect("web| INIT");
    assert!(machine.monitor("freeze web").is_ok());
    assert!(machine.monitor("clone web --count 2 --name c").is_ok());
    for n in [1, 2] {
        assert!(machine.monitor(&format!("console c-{n}")).is_ok());
        machine.send("go\r");
        machine.expect("  -\r");
        machine.expect("random: crng reseeded due to virtual machine fork");
        machine.expect(&format!("salp| c-{n}: is off"));
    }
    let text = machine.stop().text;
    let sums: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.trim_end().strip_suffix("  -")).collect();
    assert_eq!(sums.len(), 2, "{text}");
}
