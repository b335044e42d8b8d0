//! Floating point and SIMD are always this vCPU's own; what the VM is not given is not there. Boot argument `seconds=N`
//! (default 2): how long the registers are held.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::rt::exception::class;
use crate::rt::generated::{REGISTERS, Snippets};
use crate::rt::ram::Ram;
use crate::rt::registers::{Event, Registers};
use crate::rt::{cpu, exception, sysreg};
use crate::test::Outcome;
use crate::{cases, check, check_eq, gic, machine, println, skip, timer};

/// Runs the guest.
pub fn main() {
    gic::init();
    exception::set_irq_hook(Some(|_| {
        let intid = gic::acknowledge();
        if intid < gic::SPURIOUS {
            gic::end(intid);
        }
    }));
    cases!(held_alone, held_on_every_vcpu, sve, sme, mte, pmu);
}

static STOP: AtomicBool = AtomicBool::new(false);
static WRONG: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// Holds a pattern through calls, sleep and interruption, until told to stop.
fn hold(context: u64) {
    if cpu::index() != 0 {
        gic::init_cpu();
    }
    gic::enable(1);
    let end = sysreg::cntvct() + timer::ticks(machine::number("seconds", 2) * 1_000_000);
    let mut round = context << 40;
    while !STOP.load(Ordering::Acquire) && sysreg::cntvct() < end {
        for event in [Event::Hvc, Event::Wfi, Event::Spin] {
            round += 1;
            let mut before = Registers::pattern(round);
            match event {
                Event::Hvc => before.x[0] = smccc::psci::PSCI_VERSION.into(),
                Event::Spin => before.x[30] = 20_000,
                Event::Wfi => {
                    gic::enable(timer::VIRTUAL_INTID);
                    sysreg::set_cntv_tval(timer::ticks(100));
                    sysreg::set_cntv_ctl(timer::ENABLE);
                }
            }
            if event == Event::Spin {
                gic::send_to_others(1);
                sysreg::unmask_irq();
            }
            let after = before.across(event);
            sysreg::mask_irq();
            sysreg::set_cntv_ctl(0);
            let first = if event == Event::Hvc { 4 } else { 0 };
            if let Some((name, number)) = before.difference(&after, first, event == Event::Spin) {
                println!("  vCPU {}: {event:?} changed {name}{number}", cpu::index());
                WRONG.fetch_add(1, Ordering::Relaxed);
            }
        }
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
    STOP.store(true, Ordering::Release);
    gic::disable(timer::VIRTUAL_INTID);
}

fn held_alone() -> Outcome {
    STOP.store(false, Ordering::Release);
    WRONG.store(0, Ordering::Relaxed);
    hold(9);
    check_eq!(WRONG.load(Ordering::Relaxed), 0, "registers lost");
    Ok(())
}

fn held_on_every_vcpu() -> Outcome {
    STOP.store(false, Ordering::Release);
    WRONG.store(0, Ordering::Relaxed);
    ROUNDS.store(0, Ordering::Relaxed);
    let count = cpu::start_all(hold);
    hold(0);
    for other in 1..count {
        check!(cpu::wait_off(other, 20_000), "vCPU {other} does not stop");
    }
    println!("  {} rounds", ROUNDS.load(Ordering::Relaxed));
    check_eq!(WRONG.load(Ordering::Relaxed), 0, "registers lost");
    Ok(())
}

/// Checks that these instructions are UNDEFINED.
fn absent(instructions: &[u32]) -> Outcome {
    let page = Snippets::new(Ram::largest());
    page.load(instructions);
    for (index, instruction) in instructions.iter().enumerate() {
        match page.run(index, &[0; REGISTERS]).exception {
            None => check!(false, "{instruction:#010x} is executed, but the ID registers say it is not there"),
            Some(exception) => check_eq!(exception.class(), class::UNKNOWN, "EC of {instruction:#010x}"),
        }
    }
    Ok(())
}

/// `MRS x0, ZCR_EL1`; `RDVL x0, #1`; `PTRUE p0.b`.
fn sve() -> Outcome {
    if sysreg::id_aa64pfr0() >> 32 & 0xf != 0 {
        skip!("the VM has SVE");
    }
    check_eq!(sysreg::id_aa64zfr0(), 0, "ID_AA64ZFR0_EL1");
    absent(&[0xd538_1200, 0x04bf_5020, 0x2518_e3e0])
}

/// `MRS x0, SMCR_EL1`; `MRS x0, SVCR`; `RDSVL x0, #1`; `SMSTART`.
fn sme() -> Outcome {
    if sysreg::id_aa64pfr1() >> 24 & 0xf != 0 {
        skip!("the VM has SME");
    }
    absent(&[0xd538_12c0, 0xd53b_4240, 0x04bf_5820, 0xd503_477f])
}

/// `MRS x0, GCR_EL1`; `MRS x0, TFSR_EL1`; `LDG x0, [sp]`.
fn mte() -> Outcome {
    match sysreg::id_aa64pfr1() >> 8 & 0xf {
        0 => absent(&[0xd538_10c0, 0xd538_5600, 0xd960_03e0]),
        _ => skip!("the VM has MTE"),
    }
}

/// A PMU is wholly there or not at all: `MRS x0, PMCR_EL0`; `MRS x0, PMCCNTR_EL0`; `MRS x0, PMINTENSET_EL1`.
fn pmu() -> Outcome {
    match sysreg::id_aa64dfr0() >> 8 & 0xf {
        0 | 15 => absent(&[0xd53b_9c00, 0xd53b_9d00, 0xd538_9e20]),
        _ => cycles_count(),
    }
}

/// Checks that the cycle counter counts when it is enabled: `MSR PMCR_EL0, x0`; `MSR PMCNTENSET_EL0, x0`;
/// `MSR PMCCFILTR_EL0, x0`; `MRS x0, PMCCNTR_EL0`.
fn cycles_count() -> Outcome {
    let page = Snippets::new(Ram::largest());
    page.load(&[0xd51b_9c00, 0xd51b_9c20, 0xd51b_efe0, 0xd53b_9d00]);
    let run = |index, x0| {
        let mut registers = [0; REGISTERS];
        registers[0] = x0;
        page.run(index, &registers)
    };
    // Enable, and count in 64 bits (PMCR_EL0.E and LC); the cycle counter; at every level.
    for (index, x0) in [(0, 1 | 1 << 6), (1, 1 << 31), (2, 0)] {
        let outcome = run(index, x0);
        check!(
            outcome.exception.is_none(),
            "the ID register says PMU, but instruction {index} is {:x?}",
            outcome.exception
        );
    }
    let first = run(3, 0).registers[0];
    timer::spin(1000);
    let second = run(3, 0).registers[0];
    run(0, 0);
    check!(second > first, "the cycle counter went from {first} to {second}");
    Ok(())
}
