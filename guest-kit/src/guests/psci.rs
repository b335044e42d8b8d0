//! PSCI 1.1, SMCCC 1.1 and TRNG 1.0 as Arm DEN0022, DEN0028 and DEN0098 describe them. Needs two vCPUs; with three or
//! more also the races. Plain QEMU fails `affinity_levels` (it looks at no level), and `turned_on_is_not_off` and
//! `cpu_on_race` (a vCPU is off until it runs, and both who turn it on are told that they won).
//!
//! Boot argument `reset`: prints `RESET marker=…`, with what a word of RAM holds that nobody loaded, writes to the
//! word, and makes SYSTEM_RESET. Whoever reads the console counts the lines and ends the guest; a marker that is not
//! zero is RAM that was not made new (plain QEMU keeps RAM).
//! Boot argument `count=N`: how often vCPUs are turned off and on (default 200).

use core::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use smccc::{arch, psci as id};

use crate::rt::ram::Ram;
use crate::rt::registers::{Event, Registers};
use crate::rt::{cpu, sysreg};
use crate::test::Outcome;
use crate::{cases, check, check_eq, gic, machine, println, psci, skip, timer};

/// Runs the guest.
pub fn main() {
    if machine::has("reset") {
        return reset();
    }
    gic::init();
    cases!(
        version,
        features,
        unknown_functions,
        smccc_version,
        workarounds,
        registers_preserved,
        affinity_info,
        cpu_on_arguments,
        cpu_on_all,
        cpu_off_and_on,
        suspend_standby,
        suspend_powerdown,
        trng_version,
        trng_draws,
        trng_arguments,
        affinity_levels,
        turned_on_is_not_off,
        cpu_on_race,
    );
}

fn reset() {
    let ram = Ram::largest();
    let middle = ram.start() + ((ram.end() - ram.start()) / 2).next_multiple_of(8);
    println!("RESET marker={:#x}", ram.read(middle));
    ram.write(middle, 0x5a5a_5a5a);
    psci::system_reset();
}

fn version() -> Outcome {
    let version = psci::call(id::PSCI_VERSION, [0; 3]);
    check!((0x1_0001..0x2_0000).contains(&version), "version {version:#x} is not 1.1 or a later 1.x");
    Ok(())
}

/// What PSCI_FEATURES must know, by DEN0022 table 5: the calls that 1.1 makes mandatory, and what Linux looks for.
const MANDATORY: &[u32] = &[
    id::PSCI_VERSION,
    id::PSCI_CPU_SUSPEND_32,
    id::PSCI_CPU_SUSPEND_64,
    id::PSCI_CPU_OFF,
    id::PSCI_CPU_ON_32,
    id::PSCI_CPU_ON_64,
    id::PSCI_AFFINITY_INFO_32,
    id::PSCI_AFFINITY_INFO_64,
    id::PSCI_SYSTEM_OFF,
    id::PSCI_SYSTEM_RESET,
    id::PSCI_FEATURES,
];

fn features() -> Outcome {
    for &function in MANDATORY {
        let answer = psci::features(function);
        check!(answer >= 0, "features of {function:#x}: {answer}");
    }
    for function in [0x8400_00ff, 0xc400_001f, 0x1234_5678, 0] {
        check_eq!(psci::features(function), psci::NOT_SUPPORTED, "features of {function:#x}");
    }
    Ok(())
}

fn unknown_functions() -> Outcome {
    // One of each owner of DEN0028 table 6-1 that a VM has no service of, and holes in services it has.
    for function in
        [0x8400_001fu32, 0xc400_00f0, 0x8000_7000, 0xc000_0123, 0x8200_0000, 0x8300_ff00, 0xb200_0000, 0xbf00_0042]
    {
        check_eq!(psci::call(function, [1, 2, 3]), psci::NOT_SUPPORTED, "function {function:#x}");
    }
    Ok(())
}

/// Returns the SMCCC version, or `None` where PSCI knows no SMCCC_VERSION and so it must not be called.
fn smccc() -> Option<i64> {
    (psci::features(arch::SMCCC_VERSION) >= 0).then(|| psci::call(arch::SMCCC_VERSION, [0; 3]))
}

fn smccc_version() -> Outcome {
    let Some(version) = smccc() else { skip!("PSCI_FEATURES does not know SMCCC_VERSION") };
    check!(version >= 0x1_0001, "version {version:#x} is below 1.1");
    check_eq!(psci::call(arch::SMCCC_ARCH_FEATURES, [arch::SMCCC_VERSION.into(), 0, 0]), 0, "of SMCCC_VERSION");
    check_eq!(psci::call(arch::SMCCC_ARCH_FEATURES, [arch::SMCCC_ARCH_FEATURES.into(), 0, 0]), 0, "of ARCH_FEATURES");
    check_eq!(psci::call(arch::SMCCC_ARCH_FEATURES, [0x8000_7123, 0, 0]), psci::NOT_SUPPORTED, "of an unknown call");
    Ok(())
}

fn workarounds() -> Outcome {
    if smccc().is_none() {
        skip!("PSCI_FEATURES does not know SMCCC_VERSION");
    }
    for function in [arch::SMCCC_ARCH_WORKAROUND_1, arch::SMCCC_ARCH_WORKAROUND_2, arch::SMCCC_ARCH_WORKAROUND_3] {
        let answer = psci::call(arch::SMCCC_ARCH_FEATURES, [function.into(), 0, 0]);
        // DEN0028 7.5 to 7.7: not there, there, or (1) not needed on this CPU; (-2) only for WORKAROUND_2.
        check!((-2..=1).contains(&answer), "features of {function:#x}: {answer}");
        if answer >= 0 {
            psci::call(function, [0; 3]);
        }
    }
    Ok(())
}

fn registers_preserved() -> Outcome {
    for (round, function) in
        [id::PSCI_VERSION, arch::SMCCC_VERSION, id::PSCI_FEATURES, id::PSCI_AFFINITY_INFO_64, 0x8400_001f]
            .into_iter()
            .cycle()
            .take(50)
            .enumerate()
    {
        let mut before = Registers::pattern(round as u64);
        before.x[0] = function.into();
        let after = before.across(Event::Hvc);
        if let Some((name, number)) = before.difference(&after, 4, false) {
            check!(false, "function {function:#x} changed {name}{number}");
        }
    }
    Ok(())
}

fn affinity_info() -> Outcome {
    check_eq!(psci::affinity_info(machine::mpidr(cpu::index()), 0), psci::ON, "of this vCPU");
    for other in 1..machine::cpu_count() {
        check_eq!(psci::affinity_info(machine::mpidr(other), 0), psci::OFF, "of vCPU {other}");
    }
    check_eq!(psci::affinity_info(0x77, 0), psci::INVALID_PARAMETERS, "of a vCPU that does not exist");
    Ok(())
}

fn affinity_levels() -> Outcome {
    check_eq!(psci::affinity_info(machine::mpidr(0), 4), psci::INVALID_PARAMETERS, "at level 4");
    Ok(())
}

static SEEN: [AtomicU64; machine::MAX_CPUS] = [const { AtomicU64::new(0) }; machine::MAX_CPUS];
static GO: AtomicU64 = AtomicU64::new(0);
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

fn note_context(context: u64) {
    SEEN[cpu::index()].store(context, Ordering::Release);
    ARRIVED.fetch_add(1, Ordering::Release);
}

fn note_and_wait(context: u64) {
    note_context(context);
    while GO.load(Ordering::Acquire) == 0 {
        crate::rt::cpu::relax();
    }
}

fn cpu_on_arguments() -> Outcome {
    check_eq!(psci::cpu_on(0x77, cpu::entry_address(), 0), psci::INVALID_PARAMETERS, "a vCPU that does not exist");
    check_eq!(psci::cpu_on(machine::mpidr(0), cpu::entry_address(), 0), psci::ALREADY_ON, "the vCPU that asks");
    check_eq!(psci::cpu_on(1 << 63, cpu::entry_address(), 0), psci::INVALID_PARAMETERS, "reserved affinity bits");
    Ok(())
}

fn cpu_on_all() -> Outcome {
    let count = machine::cpu_count();
    if count < 2 {
        skip!("one vCPU");
    }
    GO.store(0, Ordering::Release);
    for (other, seen) in SEEN.iter().enumerate().take(count).skip(1) {
        let context = 0x0123_4567_89ab_cd00 + other as u64;
        check_eq!(cpu::start(other, note_and_wait, context), psci::SUCCESS, "CPU_ON of vCPU {other}");
        check!(
            timer::wait_until(5000, || seen.load(Ordering::Acquire) == context),
            "vCPU {other} saw context {:#x}",
            seen.load(Ordering::Acquire)
        );
        check_eq!(psci::affinity_info(machine::mpidr(other), 0), psci::ON, "of running vCPU {other}");
        check_eq!(cpu::start(other, note_and_wait, 0), psci::ALREADY_ON, "CPU_ON of running vCPU {other}");
    }
    GO.store(1, Ordering::Release);
    for other in 1..count {
        check!(cpu::wait_off(other, 5000), "vCPU {other} does not go off");
    }
    Ok(())
}

fn turned_on_is_not_off() -> Outcome {
    let count = machine::cpu_count();
    if count < 2 {
        skip!("one vCPU");
    }
    for round in 0..50 {
        ARRIVED.store(0, Ordering::Release);
        GO.store(0, Ordering::Release);
        check_eq!(cpu::start(1, note_and_wait, 0), psci::SUCCESS, "round {round}: CPU_ON");
        let state = psci::affinity_info(machine::mpidr(1), 0);
        let came = timer::wait_until(5000, || ARRIVED.load(Ordering::Acquire) > 0);
        GO.store(1, Ordering::Release);
        check!(came && cpu::wait_off(1, 5000), "round {round}: it does not come or go");
        check!(state == psci::ON || state == psci::PENDING, "round {round}: AFFINITY_INFO after CPU_ON: {state}");
    }
    Ok(())
}

static ANSWERS: [AtomicI64; 2] = [const { AtomicI64::new(0) }; 2];
static READY: AtomicUsize = AtomicUsize::new(0);
static ROUND: AtomicU64 = AtomicU64::new(0);

/// Turns the last vCPU on in every round, at the same moment as the vCPU that runs the case.
fn racer(rounds: u64) {
    for round in 1..=rounds {
        READY.fetch_add(1, Ordering::AcqRel);
        while ROUND.load(Ordering::Acquire) < round {
            crate::rt::cpu::relax();
        }
        ANSWERS[1].store(turn_last_on(), Ordering::Release);
        READY.fetch_add(1, Ordering::AcqRel);
        while READY.load(Ordering::Acquire) != 0 {
            crate::rt::cpu::relax();
        }
    }
}

fn turn_last_on() -> i64 {
    psci::cpu_on(machine::mpidr(machine::cpu_count() - 1), cpu::entry_address(), 7)
}

fn cpu_on_race() -> Outcome {
    let count = machine::cpu_count();
    if count < 3 {
        skip!("fewer than three vCPUs");
    }
    let (last, rounds) = (count - 1, machine::number("count", 200));
    GO.store(0, Ordering::Release);
    ROUND.store(0, Ordering::Release);
    READY.store(0, Ordering::Release);
    cpu::set_entry(last, note_and_wait);
    check_eq!(cpu::start(1, racer, rounds), psci::SUCCESS, "CPU_ON of the racer");
    for round in 1..=rounds {
        GO.store(0, Ordering::Release);
        ARRIVED.store(0, Ordering::Release);
        check!(timer::wait_until(5000, || READY.load(Ordering::Acquire) == 1), "the racer is not ready");
        ROUND.store(round, Ordering::Release);
        let mine = turn_last_on();
        check!(timer::wait_until(5000, || READY.load(Ordering::Acquire) == 2), "the racer has no answer");
        let answers = [mine, ANSWERS[1].load(Ordering::Acquire)];
        let won = answers.iter().filter(|&&answer| answer == psci::SUCCESS).count();
        let lost = answers.iter().filter(|&&answer| answer == psci::ALREADY_ON || answer == psci::ON_PENDING).count();
        check!(won == 1 && lost == 1, "round {round}: answers {answers:?}");
        check!(timer::wait_until(5000, || ARRIVED.load(Ordering::Acquire) == 1), "round {round}: it does not come");
        GO.store(1, Ordering::Release);
        check!(cpu::wait_off(last, 5000), "round {round}: it does not go off");
        check_eq!(ARRIVED.load(Ordering::Acquire), 1, "round {round}: arrivals");
        READY.store(0, Ordering::Release);
    }
    check!(cpu::wait_off(1, 5000), "the racer does not go off");
    Ok(())
}

fn cpu_off_and_on() -> Outcome {
    let count = machine::cpu_count();
    if count < 2 {
        skip!("one vCPU");
    }
    for round in 0..machine::number("count", 200) {
        let other = 1 + (round as usize) % (count - 1);
        ARRIVED.store(0, Ordering::Release);
        check_eq!(cpu::start(other, note_context, round), psci::SUCCESS, "round {round}: CPU_ON of vCPU {other}");
        check!(timer::wait_until(5000, || ARRIVED.load(Ordering::Acquire) > 0), "round {round}: it does not come");
        check!(cpu::wait_off(other, 5000), "round {round}: vCPU {other} does not go off");
        check_eq!(ARRIVED.load(Ordering::Acquire), 1, "round {round}: arrivals");
        check_eq!(SEEN[other].load(Ordering::Acquire), round, "round {round}: context");
    }
    Ok(())
}

/// Lets the virtual timer become pending in 2 ms; interrupts are masked at the vCPU, so it only wakes.
fn set_alarm() -> u64 {
    gic::enable(timer::VIRTUAL_INTID);
    let due = sysreg::cntvct() + timer::ticks(2000);
    sysreg::set_cntv_cval(due);
    sysreg::set_cntv_ctl(timer::ENABLE);
    due
}

fn stop_alarm() {
    sysreg::set_cntv_ctl(0);
    gic::disable(timer::VIRTUAL_INTID);
}

fn suspend_standby() -> Outcome {
    for round in 0..20 {
        let due = set_alarm();
        let answer = psci::call(id::PSCI_CPU_SUSPEND_64, [0, cpu::entry_address(), 0]);
        let now = sysreg::cntvct();
        stop_alarm();
        check_eq!(answer, psci::SUCCESS, "round {round}: CPU_SUSPEND to standby");
        // Standby may end early, but that ours does each time would be a busy loop.
        check!(round != 0 || now + timer::ticks(500) >= due, "woke {} ticks early", due.saturating_sub(now));
    }
    Ok(())
}

/// Runs on another vCPU: suspends to power down. Comes back here by the entry point, or at once with a refusal.
fn suspender(context: u64) {
    if context == 1 {
        gic::init_cpu();
        set_alarm();
        let answer = psci::call(id::PSCI_CPU_SUSPEND_64, [1 << 16, cpu::entry_address(), 0x5afe]);
        ANSWERS[0].store(answer, Ordering::Release);
    }
    stop_alarm();
    note_context(context);
}

fn suspend_powerdown() -> Outcome {
    if machine::cpu_count() < 2 {
        skip!("one vCPU");
    }
    ARRIVED.store(0, Ordering::Release);
    check_eq!(cpu::start(1, suspender, 1), psci::SUCCESS, "CPU_ON");
    check!(timer::wait_until(5000, || ARRIVED.load(Ordering::Acquire) == 1), "the vCPU does not wake");
    check!(cpu::wait_off(1, 5000), "the vCPU does not go off");
    match SEEN[1].load(Ordering::Acquire) {
        0x5afe => Ok(()),
        1 if ANSWERS[0].load(Ordering::Acquire) == psci::SUCCESS => Ok(()),
        1 if ANSWERS[0].load(Ordering::Acquire) == psci::INVALID_PARAMETERS => {
            skip!("there is no power-down state")
        }
        context => {
            check!(false, "context {context:#x}, answer {}", ANSWERS[0].load(Ordering::Acquire));
            Ok(())
        }
    }
}

/// TRNG calls (Arm DEN0098).
const TRNG_VERSION: u32 = 0x8400_0050;
const TRNG_FEATURES: u32 = 0x8400_0051;
const TRNG_GET_UUID: u32 = 0x8400_0052;
const TRNG_RND32: u32 = 0x8400_0053;
const TRNG_RND64: u32 = 0xc400_0053;

fn trng() -> Option<i64> {
    let version = psci::call(TRNG_VERSION, [0; 3]);
    (version != psci::NOT_SUPPORTED).then_some(version)
}

fn trng_version() -> Outcome {
    let Some(version) = trng() else { skip!("no TRNG") };
    check!(version >= 0x1_0000, "version {version:#x}");
    for function in [TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64] {
        check!(psci::call(TRNG_FEATURES, [function.into(), 0, 0]) >= 0, "features of {function:#x}");
    }
    check_eq!(psci::call(TRNG_FEATURES, [0x8400_0054, 0, 0]), psci::NOT_SUPPORTED, "features of an unknown call");
    check!(psci::call(TRNG_GET_UUID, [0; 3]) != psci::NOT_SUPPORTED, "there is no UUID");
    Ok(())
}

/// Draws `bits` by the 64-bit call; returns x0 to x3.
fn draw(bits: u64) -> [u64; 4] {
    let mut arguments = [0; 17];
    arguments[0] = bits;
    let result = smccc::hvc64(TRNG_RND64, arguments);
    [result[0], result[1], result[2], result[3]]
}

fn trng_draws() -> Outcome {
    if trng().is_none() {
        skip!("no TRNG");
    }
    let mut before = [[0; 3]; 16];
    for round in 0..200 {
        let [status, x1, x2, x3] = draw(192);
        check_eq!(status as i64, 0, "round {round}: status");
        let words = [x1, x2, x3];
        check!(!words.contains(&0), "round {round}: {words:x?} holds an empty word");
        check!(words[0] != words[1] && words[1] != words[2], "round {round}: {words:x?} repeats itself");
        check!(!before.contains(&words), "round {round}: {words:x?} was drawn before");
        before[round % 16] = words;
    }
    // The bits come from x3 down, and what was not asked for is zero (DEN0098 2.5).
    for bits in [1, 7, 32, 64] {
        let [status, x1, x2, x3] = draw(bits);
        check_eq!(status as i64, 0, "{bits} bits: status");
        check!(x1 == 0 && x2 == 0, "{bits} bits: x1 {x1:#x}, x2 {x2:#x} are not zero");
        check!(bits == 64 || x3 >> bits == 0, "{bits} bits: x3 is {x3:#x}");
    }
    let [status, x1, _, _] = draw(100);
    check!(status == 0 && x1 == 0, "100 bits: status {}, x1 {x1:#x}", status as i64);
    Ok(())
}

fn trng_arguments() -> Outcome {
    if trng().is_none() {
        skip!("no TRNG");
    }
    for bits in [0, 193, 1 << 40, u64::MAX] {
        check_eq!(draw(bits)[0] as i64, -2, "{bits} bits by the 64-bit call");
    }
    for bits in [0, 97] {
        check_eq!(psci::call(TRNG_RND32, [bits, 0, 0]), -2, "{bits} bits by the 32-bit call");
    }
    check_eq!(psci::call(TRNG_RND32, [96, 0, 0]), 0, "96 bits by the 32-bit call");
    Ok(())
}
