//! What things cost, from inside a guest, in ticks of the virtual counter. With `-icount shift=0` and a counter of 1 GHz
//! a tick is an instruction, wherever it was executed, so the figures are exact and the same in every run.
//!
//! Boot arguments: `count=N` (default 1000) operations after a warm-up of 100; `only=FIGURE,…`. Every value is the mean of
//! one operation, without the loop around it.
//!
//! `ipi_round_trip`: this vCPU sends, sleeps in WFI, and is woken by the answer of another that slept in WFI. The figure
//! is elapsed time. The emulator with `-icount` executes its CPUs in turn against one clock, so elapsed time is then the
//! instructions of both CPUs together.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::rt::operation::{self, OPERATIONS};
use crate::rt::ram::Ram;
use crate::rt::{cpu, sysreg};
use crate::{gic, machine, println, psci, test, words};

const WARM_UP: u64 = 100;

/// Runs the guest.
pub fn main() {
    gic::init();
    gic::enable(0);
    gic::enable(1);
    let count = machine::number("count", 1000).max(1);
    operations(count);
    if selected("ipi_round_trip") && machine::cpu_count() > 1 {
        ipi(count);
    }
    first_writes(count.min(1000));
    test::done(0, 0, 0);
}

fn selected(name: &str) -> bool {
    words::selects(machine::bootargs(), "only", name)
}

fn operations(count: u64) {
    // To this vCPU itself, SGI 0.
    let own = 1 << (sysreg::mpidr() & 0xf);
    operation::timing_vectors_on();
    sysreg::unmask_irq();
    for operation in OPERATIONS.iter().filter(|operation| selected(operation.name)) {
        let operand = if operation.name == "sgi_to_self" { own } else { operation.operand };
        operation.time_with(operand, WARM_UP);
        let (all, empty) = operation.time_with(operand, count);
        test::bench(operation.name, count, all.saturating_sub(empty) / count);
    }
    sysreg::mask_irq();
    operation::usual_vectors();
}

static READY: AtomicU64 = AtomicU64::new(0);

/// Answers `rounds` interrupts; starts with the affinity of who asks.
fn answer(rounds: u64) {
    gic::init_cpu();
    gic::enable(0);
    let other = machine::mpidr(0);
    READY.store(1, Ordering::Release);
    for _ in 0..rounds {
        receive();
        gic::send_to_affinity(1, other);
    }
}

/// Sleeps until an interrupt comes, acknowledges and ends it. Interrupts are masked, so none is taken as an exception.
#[inline(always)]
fn receive() {
    loop {
        sysreg::wfi();
        let intid = gic::acknowledge();
        if intid < gic::SPURIOUS {
            gic::end(intid);
            return;
        }
    }
}

fn ipi(count: u64) {
    let other = machine::mpidr(1);
    let started = cpu::start(1, answer, count + WARM_UP);
    if started != psci::SUCCESS {
        println!("FAIL ipi_round_trip: CPU_ON says {started}");
        return;
    }
    while READY.load(Ordering::Acquire) == 0 {
        crate::rt::cpu::relax();
    }
    let round_trips = |count| {
        let start = sysreg::cntvct();
        for _ in 0..count {
            gic::send_to_affinity(0, other);
            receive();
        }
        sysreg::cntvct() - start
    };
    round_trips(WARM_UP);
    test::bench("ipi_round_trip", count, round_trips(count) / count);
    cpu::wait_off(1, 5000);
}

/// A pattern of first writes: in which order pages of a fresh run of RAM are written.
struct Pattern {
    name: &'static str,
    /// Bytes from one write to the next, modulo `span`.
    step: u64,
    /// Bytes of RAM that the pattern uses.
    span: u64,
    /// How many writes at most.
    most: u64,
}

const PATTERNS: [Pattern; 3] = [
    Pattern { name: "first_write_4k", step: 4096, span: 4 << 20, most: 1000 },
    Pattern { name: "first_write_4k_scattered", step: 4096 * 1021, span: 16 << 20, most: 1000 },
    Pattern { name: "first_write_2m", step: 2 << 20, span: 32 << 20, most: 16 },
];

fn first_writes(count: u64) {
    let free = Ram::largest();
    // From the end of RAM down: what is near the image may have been touched.
    let mut end = free.end() & !((2 << 20) - 1);
    for pattern in PATTERNS.iter().filter(|pattern| selected(pattern.name)) {
        let start = end.saturating_sub(pattern.span);
        let Some(ram) = (start > free.start()).then(|| free.from(start, pattern.span)).flatten() else {
            println!("SKIP {}: needs {} MiB of free RAM", pattern.name, pattern.span >> 20);
            continue;
        };
        end = start;
        let count = count.min(pattern.most);
        let first = operation::time_page_writes(&ram, count, pattern.step, pattern.span);
        let again = operation::time_page_writes(&ram, count, pattern.step, pattern.span);
        test::bench(pattern.name, count, first.saturating_sub(again) / count);
    }
}
