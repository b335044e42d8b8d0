//! Stock guests, unmodified: Debian's kernels to their shell and off, and its U-Boot.

use salp_qemu::debian;
use salp_qemu::initrd::Initrd;
use salp_tests::{Ended, Running, Setup, Vm, linux, long, stock, vm};

/// The shell's prompt, behind the line that `/init` says.
const PROMPT: &str = "# ";

/// Boots a kernel with a shell to its prompt.
fn to_shell(vm: Vm) -> Running {
    to_shell_on(Setup::of(vm))
}

fn to_shell_on(setup: Setup) -> Running {
    let mut machine = setup.seconds(420).start();
    machine.expect("turns this VM off.");
    machine.expect(PROMPT);
    machine
}

/// Lets the shell answer and turn off; nothing may be left behind.
fn answers_and_turns_off(mut machine: Running, cpus: u32) -> Ended {
    machine.send("echo there are $(nproc) CPUs, $((6 * 7))\r");
    machine.expect(&format!("there are {cpus} CPUs, 42"));
    machine.send("poweroff\r");
    let ended = machine.finish().all_off();
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
    for word in ["Kernel panic", "BUG:", "Oops", "rcu: INFO", "Unhandled"] {
        ended.check(!ended.text.contains(word), word);
    }
    ended
}

#[test]
fn debian_with_one_vcpu_reaches_its_shell_and_turns_off() {
    answers_and_turns_off(to_shell(stock("debian")), 1);
}

#[test]
fn debian_with_two_vcpus_reaches_its_shell_and_turns_off() {
    answers_and_turns_off(to_shell(stock("debian").cpus(2)), 2);
}

#[test]
fn debian_with_four_vcpus_reaches_its_shell_and_turns_off() {
    answers_and_turns_off(to_shell(stock("debian").cpus(4)), 4);
}

#[test]
fn debian_6_12_reaches_its_shell_and_turns_off() {
    let cpus: &[u32] = if long() { &[1, 2, 4] } else { &[2] };
    for &cpus in cpus {
        answers_and_turns_off(to_shell(stock("debian-6.12").cpus(cpus)), cpus);
    }
}

#[test]
fn debian_with_pages_of_16_kib_reaches_its_shell_and_turns_off() {
    let cpus: &[u32] = if long() { &[1, 2, 4] } else { &[2] };
    for &cpus in cpus {
        let setup = Setup::of(stock("debian-16k").cpus(cpus)).model("max");
        answers_and_turns_off(to_shell_on(setup), cpus);
    }
}

#[test]
fn u_boot_reaches_its_prompt_and_turns_off() {
    let mut machine = Setup::of(stock("u-boot")).attach("u-boot").start();
    machine.expect("U-Boot 20");
    machine.expect("Hit any key to stop autoboot");
    machine.send("\r");
    machine.expect("=> ");
    machine.send("poweroff\r");
    machine.finish().all_off();
}

#[test]
fn u_boot_resets_its_vm() {
    let mut machine = Setup::of(stock("u-boot")).attach("u-boot").start();
    machine.expect("Hit any key to stop autoboot");
    machine.send("\r");
    machine.expect("=> ");
    machine.send("reset\r");
    machine.expect("salp| u-boot: restarts");
    machine.expect("Hit any key to stop autoboot");
    machine.stop();
}

#[test]
fn two_debians_run_beside_each_other() {
    let command = "dd if=/dev/zero bs=1M count=64 2>/dev/null | md5sum";
    let one = |name: &str| linux("debian", command).named(name).cpus(2).mib(256);
    let ended = Setup::of(one("left")).vm(one("right")).seconds(420).run().all_off();
    for name in ["left", "right"] {
        let sum = ended.lines(name).iter().any(|line| line.starts_with("7f614da9329cd3aebf59b91aadc30bf0"));
        ended.check(sum, format_args!("{name} does not have the sum of 64 MiB of zeroes"));
    }
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

/// A minute of everything that stress-ng has for CPUs, memory and scheduling (only with `SALP_LONG=1`; else 5 s).
#[test]
fn debian_with_four_vcpus_stands_stress() {
    let seconds = if long() { 60 } else { 5 };
    let root = debian::stress_ng().unwrap_or_else(|error| panic!("{error:#}"));
    let initrd = Initrd::busybox()
        .and_then(|initrd| initrd.program(&root, "usr/bin/stress-ng"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let command = format!(
        "mkdir -p /tmp; cd /tmp; /usr/bin/stress-ng --cpu 2 --vm 1 --vm-bytes 64M --switch 2 --timer 1 --fork 1 --futex 1 \
         --timeout {seconds}s --verify && echo STRESS is over"
    );
    let vm = vm::linux_with("debian", initrd, &command).cpus(4).mib(1024);
    let ended = Setup::of(vm).seconds(600).run().all_off();
    ended.says("STRESS is over");
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}
