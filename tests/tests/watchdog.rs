//! The board's watchdog, which has 30 seconds of patience: `tests/flash.rs` has what it does about images that do not start.

use salp_qemu::machine::Outcome;
use salp_tests::{Setup, Vm, guest};

/// Returns a VM that lives for longer than the watchdog's time.
fn long_living() -> Vm {
    guest("timer").append("only=ticks_virtual period=1000000 ticks=90")
}

/// Returns a manager that has the hypervisor replaced.
fn replacing(words: &str) -> Vm {
    guest("manager").manager().append("do=replace").append(words)
}

#[test]
fn a_machine_of_which_one_cpu_hangs_is_reset() {
    let setup = Setup::of(long_living()).watchdog().icount().option("crash=hang");
    let ended = setup.run();
    ended.check(ended.outcome == Outcome::Reset, format_args!("the machine ended with {:?}", ended.outcome));
    ended.check(!ended.text.contains("salp| PANIC"), "EL2 panicked");
}

#[test]
fn a_machine_whose_cpus_live_is_left_alone() {
    Setup::of(long_living()).watchdog().icount().cpus(4).run().all_off().passed("timer");
}

#[test]
fn a_machine_without_a_watchdog_says_so_and_runs() {
    let ended = Setup::of(guest("tiny")).run().all_off();
    ended.says("salp| there is no watchdog");
}

#[test]
fn the_next_hypervisor_takes_the_watchdog_over() {
    let setup = Setup::of(replacing("times=2")).vm(long_living()).watchdog().icount();
    setup.run().all_off().passed("manager").passed("timer");
}

#[test]
fn the_hypervisor_before_takes_the_watchdog_back_when_the_next_one_fails() {
    let setup = Setup::of(replacing("times=2 expect=failed")).vm(long_living()).watchdog().icount();
    setup.option("handover-fault=adopt:panic").run().all_off().passed("manager").passed("timer");
}
