//! The guests of guest-kit under Salp: each looks at one part of the machine from inside, and says what is wrong.

use salp_tests::{Setup, Vm, guest, long};

/// Runs a guest with 4 vCPUs on 2 CPUs; it must pass, turn itself off, and leave nothing behind.
fn passes(vm: Vm) {
    let name = vm.name().to_string();
    let ended = Setup::of(vm).run().all_off().passed(&name);
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}

#[test]
fn psci_smccc_and_trng_answer_as_the_standards_say() {
    passes(guest("psci").cpus(4));
}

#[test]
fn system_reset_starts_the_vm_again_with_fresh_memory() {
    let mut machine = Setup::of(guest("psci").append("reset")).start();
    for _ in 0..5 {
        machine.expect("RESET marker=0x0\r\n");
        machine.expect("salp| psci: restarts");
    }
    machine.stop();
}

#[test]
fn interrupts_arrive_as_the_gic_architecture_says() {
    passes(guest("irq").cpus(4));
}

#[test]
fn interrupts_arrive_on_one_vcpu() {
    passes(guest("irq"));
}

#[test]
fn timers_of_four_vcpus_fire_in_time() {
    // Time counts instructions: a busy host makes no timer late.
    let ticks = guest("timer").cpus(4).append("only=ticks_virtual,ticks_physical late=1000");
    let ended = Setup::of(ticks).cpus(4).icount().run().all_off().passed("timer");
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}

#[test]
fn timers_of_four_vcpus_fire_on_two_cpus() {
    passes(guest("timer").cpus(4).append("late=2000000"));
}

#[test]
fn timers_that_fire_at_the_same_time_wake_both_vcpus_of_one_cpu() {
    let timer = guest("timer").cpus(2).append("only=both_wake_at_once");
    Setup::of(timer).cpus(1).run().all_off().passed("timer");
}

#[test]
fn a_guest_debugs_itself() {
    passes(guest("debug").cpus(4));
}

#[test]
fn floating_point_registers_are_always_the_guests_own() {
    passes(guest("fpsimd").cpus(4));
}

#[test]
fn floating_point_registers_are_kept_beside_another_vm() {
    let ended = Setup::of(guest("fpsimd").cpus(2).named("a")).vm(guest("fpsimd").cpus(2).named("b")).run();
    ended.all_off().passed("a").passed("b");
}

#[test]
fn accesses_to_nowhere_are_external_aborts() {
    passes(guest("abort").cpus(4));
}

#[test]
fn memory_holds_what_was_written() {
    passes(guest("memory").mib(256));
    passes(guest("memory").mib(64).small_pages());
}

#[test]
fn a_guest_gone_mad_harms_nobody() {
    let seeds: Vec<u64> = if long() { (1..=50).collect() } else { vec![1, 2, 3] };
    for seed in seeds {
        hostile(seed);
    }
}

/// With a seed that nobody ran before, or `SALP_SEED`: a failure says which it was.
#[test]
fn a_guest_gone_mad_in_a_new_way_harms_nobody() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let again = std::env::var("SALP_SEED").ok().and_then(|seed| seed.parse().ok());
    hostile(again.unwrap_or(now.as_micros() as u64));
}

/// Runs the hostile guest beside one whose memory must stay as it was.
fn hostile(seed: u64) {
    let count = if long() { 20_000 } else { 3000 };
    let mad = guest("hostile").cpus(4).append(&format!("seed={seed} count={count}"));
    let ended = Setup::of(mad).vm(guest("memory").mib(32)).run();
    let ended = ended.all_off().passed("hostile").passed("memory");
    ended.check(ended.kib_left() == [0], format_args!("seed {seed}: memory of guests is still in use"));
}
