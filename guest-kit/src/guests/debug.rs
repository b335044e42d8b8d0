//! Self-hosted debug (Arm ARM D2): breakpoints, watchpoints, software step and BRK, of this guest's own EL1 and of EL0.
//! Boot argument `seconds=N` (default 2): how long debug registers must keep their values beside others.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::random::Random;
use crate::rt::debug::{self, KERNEL, LOADS, MONITOR, SPSR_STEP, STEP, STORES};
use crate::rt::exception::{self, Frame, catch, class};
use crate::rt::ram::Ram;
use crate::rt::{cpu, el0, mmu, sysreg};
use crate::test::Outcome;
use crate::{cases, check, check_eq, gic, machine, timer};

/// Runs the guest.
pub fn main() {
    gic::init();
    cases!(
        brk_el1,
        breakpoint_el1,
        watchpoint_el1,
        step_el1,
        svc_el0,
        brk_el0,
        breakpoint_el0,
        watchpoint_el0,
        step_el0,
        registers_kept,
    );
}

/// The debug exceptions that the hook saw: classes and addresses.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static SEEN: [[AtomicU64; 3]; 8] = [const { [const { AtomicU64::new(0) }; 3] }; 8];

fn note(frame: &Frame) -> usize {
    let index = COUNT.fetch_add(1, Ordering::SeqCst);
    if let Some(slot) = SEEN.get(index) {
        for (place, value) in slot.iter().zip([frame.esr >> 26, frame.elr, frame.far]) {
            place.store(value, Ordering::SeqCst);
        }
    }
    index + 1
}

fn seen(index: usize) -> [u64; 3] {
    SEEN[index].each_ref().map(|value| value.load(Ordering::SeqCst))
}

/// Runs `f` with debug exceptions of EL1 on, noting each; `hook` decides how to go on.
fn debugging(control: u64, hook: exception::SyncHook, f: impl FnOnce()) {
    COUNT.store(0, Ordering::SeqCst);
    exception::set_sync_hook(Some(hook));
    sysreg::set_mdscr(control | KERNEL);
    sysreg::unmask_debug();
    f();
    debug::off();
    exception::set_sync_hook(None);
}

/// Notes the exception and turns all units off, so that the same instruction goes on.
fn once(frame: &mut Frame) -> bool {
    note(frame);
    for unit in 0..debug::UNITS {
        debug::set_break_control(unit, 0);
        debug::set_watch_control(unit, 0);
    }
    true
}

fn brk_el1() -> Outcome {
    let Some(exception) = catch(exception::brk) else {
        check!(false, "no exception");
        return Ok(());
    };
    check_eq!(exception.class(), class::BRK, "EC");
    check_eq!(exception.iss() & 0xffff, 0x5a5, "immediate");
    Ok(())
}

fn breakpoint_el1() -> Outcome {
    for unit in 0..debug::UNITS {
        debug::set_break_value(unit, debug::target());
        debug::set_break_control(unit, debug::BREAK_EL1);
        debugging(MONITOR, once, || {
            debug::run_target();
            debug::run_target();
        });
        check_eq!(COUNT.load(Ordering::SeqCst), 1, "exceptions of breakpoint {unit}");
        let [class, elr, _] = seen(0);
        check_eq!(class, class::BREAKPOINT_LOWER + 1, "EC of breakpoint {unit}");
        check_eq!(elr, debug::target(), "ELR of breakpoint {unit}");
        // Off: nothing happens.
        debug::set_break_control(unit, debug::BREAK_EL1);
        debugging(0, once, debug::run_target);
        check_eq!(COUNT.load(Ordering::SeqCst), 0, "exceptions of breakpoint {unit} with MDE off");
        debug::set_break_control(unit, debug::BREAK_EL0);
        debugging(MONITOR, once, debug::run_target);
        check_eq!(COUNT.load(Ordering::SeqCst), 0, "exceptions at EL1 of breakpoint {unit} for EL0");
    }
    Ok(())
}

fn watchpoint_el1() -> Outcome {
    let ram = Ram::largest();
    let word = ram.start() + 64;
    for unit in 0..debug::UNITS {
        for (control, hits) in [(LOADS, 1), (STORES, 1), (LOADS | STORES, 1), (0, 0)] {
            debug::set_watch_value(unit, word);
            // LSC zero is reserved, so "none" is a watchpoint that is off.
            let enabled = if control == 0 { 0 } else { debug::WATCH_EL1 | control };
            debug::set_watch_control(unit, enabled);
            debugging(MONITOR, once, || {
                ram.write(word + 8, 1);
                if control & STORES != 0 {
                    ram.write(word, 2);
                }
                ram.read(word);
            });
            check_eq!(COUNT.load(Ordering::SeqCst), hits, "exceptions of watchpoint {unit}, control {control:#x}");
            if hits == 1 {
                let [class, _, far] = seen(0);
                check_eq!(class, class::WATCHPOINT_LOWER + 1, "EC of watchpoint {unit}");
                check_eq!(far, word, "FAR of watchpoint {unit}");
            }
        }
        check_eq!(ram.read(word), 2, "the watched word");
    }
    Ok(())
}

/// From the BRK on, steps four instructions.
fn stepping(frame: &mut Frame) -> bool {
    match frame.esr >> 26 {
        class::BRK => {
            frame.elr += 4;
            sysreg::set_mdscr(KERNEL | STEP);
            frame.spsr = frame.spsr & !(1 << 9) | SPSR_STEP;
        }
        _ if note(frame) < 4 => frame.spsr |= SPSR_STEP,
        _ => sysreg::set_mdscr(0),
    }
    true
}

fn step_el1() -> Outcome {
    debugging(0, stepping, debug::run_steps);
    check_eq!(COUNT.load(Ordering::SeqCst), 4, "steps");
    for step in 0..4 {
        let [class, elr, _] = seen(step);
        check_eq!(class, class::STEP_LOWER + 1, "EC of step {step}");
        check_eq!(elr, debug::steps() + 8 + step as u64 * 4, "ELR of step {step}");
    }
    Ok(())
}

/// Interrupts stay masked at EL0.
const QUIET: u64 = 0x1c0;

/// Returns the address at which EL0 sees a free word.
fn el0_word() -> u64 {
    Ram::largest().start() + 64 + mmu::open_to_el0()
}

fn svc_el0() -> Outcome {
    let exception = el0::run(debug::el0_code(), el0_word(), QUIET);
    check_eq!(exception.class(), class::SVC, "EC");
    check_eq!(exception.iss(), 7, "immediate");
    check_eq!(exception.spsr & 0xf, 0, "SPSR mode");
    Ok(())
}

fn brk_el0() -> Outcome {
    let exception = el0::run(debug::el0_brk(), 0, QUIET);
    check_eq!(exception.class(), class::BRK, "EC");
    check_eq!(exception.iss() & 0xffff, 9, "immediate");
    Ok(())
}

fn breakpoint_el0() -> Outcome {
    let address = debug::el0_code() + 8 + mmu::open_to_el0();
    debug::set_break_value(0, address);
    debug::set_break_control(0, debug::BREAK_EL0);
    sysreg::set_mdscr(MONITOR);
    let exception = el0::run(debug::el0_code(), el0_word(), QUIET);
    debug::off();
    check_eq!(exception.class(), class::BREAKPOINT_LOWER, "EC");
    check_eq!(exception.elr, address, "ELR");
    Ok(())
}

fn watchpoint_el0() -> Outcome {
    for (control, instruction) in [(LOADS, 4), (STORES, 8)] {
        debug::set_watch_value(0, el0_word());
        debug::set_watch_control(0, debug::WATCH_EL0 | control);
        sysreg::set_mdscr(MONITOR);
        let exception = el0::run(debug::el0_code(), el0_word(), QUIET);
        debug::off();
        check_eq!(exception.class(), class::WATCHPOINT_LOWER, "EC");
        check_eq!(exception.elr, debug::el0_code() + instruction + mmu::open_to_el0(), "ELR");
        check_eq!(exception.far, el0_word(), "FAR");
        check_eq!(exception.esr >> 6 & 1 == 1, control == STORES, "WnR");
    }
    Ok(())
}

fn step_el0() -> Outcome {
    for instruction in 0..3 {
        sysreg::set_mdscr(STEP);
        let exception = el0::run(debug::el0_code() + instruction * 4, el0_word(), QUIET | SPSR_STEP);
        debug::off();
        check_eq!(exception.class(), class::STEP_LOWER, "EC");
        check_eq!(exception.elr, debug::el0_code() + instruction * 4 + 4 + mmu::open_to_el0(), "ELR");
    }
    Ok(())
}

static WRONG: AtomicU64 = AtomicU64::new(0);

/// Keeps a pattern in this vCPU's debug registers while it sleeps and works.
fn keep(context: u64) {
    if cpu::index() != 0 {
        gic::init_cpu();
    }
    gic::enable(timer::VIRTUAL_INTID);
    let mut random = Random::new(context);
    let end = sysreg::cntvct() + timer::ticks(machine::number("seconds", 2) * 1_000_000);
    while sysreg::cntvct() < end {
        let values: [u64; 2 * debug::UNITS] = core::array::from_fn(|_| random.below(1 << 38) & !7);
        for unit in 0..debug::UNITS {
            debug::set_break_value(unit, values[unit]);
            debug::set_break_control(unit, debug::BREAK_EL0);
            debug::set_watch_value(unit, values[debug::UNITS + unit]);
            debug::set_watch_control(unit, debug::WATCH_EL0 | LOADS);
        }
        // MDE on for code at EL0 that never runs: on hardware the registers are then live.
        sysreg::set_mdscr(MONITOR);
        sysreg::set_cntv_tval(timer::ticks(200));
        sysreg::set_cntv_ctl(timer::ENABLE);
        sysreg::wfi();
        sysreg::set_cntv_ctl(0);
        timer::spin(300);
        let kept = (0..debug::UNITS).all(|unit| {
            debug::break_value(unit) == values[unit]
                && debug::break_control(unit) == debug::BREAK_EL0
                && debug::watch_value(unit) == values[debug::UNITS + unit]
                && debug::watch_control(unit) == debug::WATCH_EL0 | LOADS
        }) && sysreg::mdscr() == MONITOR;
        WRONG.fetch_add(u64::from(!kept), Ordering::Relaxed);
    }
    debug::off();
    gic::disable(timer::VIRTUAL_INTID);
}

fn registers_kept() -> Outcome {
    let count = cpu::start_all(keep);
    keep(0);
    for other in 1..count {
        check!(cpu::wait_off(other, 20_000), "vCPU {other} does not stop");
    }
    check_eq!(WRONG.load(Ordering::Relaxed), 0, "times that a debug register had another value");
    Ok(())
}
