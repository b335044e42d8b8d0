//! The virtual and the physical timer, on every vCPU at once. Boot arguments: `ticks=M` (default 500) ticks of
//! `period=US` (default 1000) on each vCPU, `late=US` (default 200000) what counts as too late.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::rt::{cpu, exception, sysreg};
use crate::test::Outcome;
use crate::timer::{self, ENABLE, MASKED, STATUS};
use crate::{cases, check, check_eq, gic, machine, skip, test};

/// One of the two timers: its interrupt and its registers.
struct Timer {
    name: &'static str,
    intid: u32,
    count: fn() -> u64,
    control: fn() -> u64,
    set_control: fn(u64),
    set_compare: fn(u64),
    set_value: fn(u64),
    value: fn() -> u64,
    compare: fn() -> u64,
}

const TIMERS: [Timer; 2] = [
    Timer {
        name: "virtual",
        intid: timer::VIRTUAL_INTID,
        count: sysreg::cntvct,
        control: sysreg::cntv_ctl,
        set_control: sysreg::set_cntv_ctl,
        set_compare: sysreg::set_cntv_cval,
        set_value: sysreg::set_cntv_tval,
        value: sysreg::cntv_tval,
        compare: sysreg::cntv_cval,
    },
    Timer {
        name: "physical",
        intid: timer::PHYSICAL_INTID,
        count: sysreg::cntpct,
        control: sysreg::cntp_ctl,
        set_control: sysreg::set_cntp_ctl,
        set_compare: sysreg::set_cntp_cval,
        set_value: sysreg::set_cntp_tval,
        value: sysreg::cntp_tval,
        compare: sysreg::cntp_cval,
    },
];

/// What the interrupt handler of one vCPU keeps.
struct Seen {
    due: AtomicU64,
    left: AtomicU64,
    fired: AtomicU64,
    early: AtomicU64,
    latest: AtomicU64,
}

static SEEN: [Seen; machine::MAX_CPUS] = [const {
    Seen {
        due: AtomicU64::new(0),
        left: AtomicU64::new(0),
        fired: AtomicU64::new(0),
        early: AtomicU64::new(0),
        latest: AtomicU64::new(0),
    }
}; machine::MAX_CPUS];
static KIND: AtomicUsize = AtomicUsize::new(0);
static FINISHED: AtomicUsize = AtomicUsize::new(0);

/// Runs the guest.
pub fn main() {
    gic::init();
    exception::set_irq_hook(Some(on_interrupt));
    cases!(
        frequency,
        counters_run,
        compare_and_value,
        past_fires_at_once,
        masked_does_not_fire,
        disabled_does_not_fire,
        wfi_wakes,
        what_is_left_of_a_sleep_does_not_end_the_next,
        event_stream,
        ticks_virtual,
        ticks_physical,
        both_wake_at_once,
        counters_agree,
    );
}

fn on_interrupt(_: &mut exception::Frame) {
    let intid = gic::acknowledge();
    if intid >= gic::SPURIOUS {
        return;
    }
    let kind = &TIMERS[usize::from(intid == timer::PHYSICAL_INTID)];
    let (seen, now) = (&SEEN[cpu::index()], (kind.count)());
    let due = seen.due.load(Ordering::Relaxed);
    if now < due {
        seen.early.fetch_add(1, Ordering::Relaxed);
    }
    seen.latest.fetch_max(now.saturating_sub(due), Ordering::Relaxed);
    seen.fired.fetch_add(1, Ordering::Relaxed);
    let left = seen.left.load(Ordering::Relaxed).saturating_sub(1);
    seen.left.store(left, Ordering::Relaxed);
    if left == 0 {
        (kind.set_control)(0);
    } else {
        // On the same grid, so that lateness does not add up; what is past is skipped to the next point.
        let period = timer::ticks(machine_period());
        let next = due + period * ((now.saturating_sub(due)) / period + 1);
        seen.due.store(next, Ordering::Relaxed);
        (kind.set_compare)(next);
    }
    gic::end(intid);
}

static PERIOD: AtomicU64 = AtomicU64::new(1000);

fn machine_period() -> u64 {
    PERIOD.load(Ordering::Relaxed)
}

fn expect(due: u64, ticks: u64) {
    let seen = &SEEN[cpu::index()];
    seen.due.store(due, Ordering::Relaxed);
    seen.left.store(ticks, Ordering::Relaxed);
    for cell in [&seen.fired, &seen.early, &seen.latest] {
        cell.store(0, Ordering::Relaxed);
    }
}

fn fired() -> u64 {
    SEEN[cpu::index()].fired.load(Ordering::Relaxed)
}

fn frequency() -> Outcome {
    let hertz = sysreg::cntfrq();
    check!((1_000_000..=2_000_000_000).contains(&hertz), "{hertz} Hz");
    Ok(())
}

fn counters_run() -> Outcome {
    for kind in &TIMERS {
        let mut last = (kind.count)();
        for _ in 0..10_000 {
            let now = (kind.count)();
            check!(now >= last, "the {} counter went back from {last} to {now}", kind.name);
            last = now;
        }
        check!(timer::wait_until(5000, || (kind.count)() > last), "the {} counter stands still", kind.name);
    }
    Ok(())
}

fn compare_and_value() -> Outcome {
    for kind in &TIMERS {
        (kind.set_control)(0);
        let before = (kind.count)();
        (kind.set_value)(1_000_000);
        let after = (kind.count)();
        let compare = (kind.compare)();
        check!(
            (before + 1_000_000..=after + 1_000_000).contains(&compare),
            "{}: CVAL is {compare} after TVAL=1000000 at {before}",
            kind.name
        );
        // TVAL is a signed distance in 32 bits (Arm ARM D13.8.x): in the past it reads as negative.
        (kind.set_compare)((kind.count)() - 1000);
        let distance = (kind.value)() as u32 as i32;
        check!(distance <= -1000, "{}: TVAL reads {distance} when 1000 past", kind.name);
        let before = (kind.count)();
        (kind.set_value)(0xffff_ff00);
        check!((kind.compare)() < before + 1_000_000, "{}: a negative TVAL was taken as positive", kind.name);
        (kind.set_compare)(0x1234_5678_9abc);
        check_eq!((kind.compare)(), 0x1234_5678_9abc, "{}: CVAL", kind.name);
    }
    Ok(())
}

/// Runs `f` with the interrupt of `kind` enabled and unmasked.
fn listening(kind: &Timer, f: impl FnOnce()) {
    gic::enable(kind.intid);
    sysreg::unmask_irq();
    f();
    sysreg::mask_irq();
    (kind.set_control)(0);
    gic::disable(kind.intid);
}

fn past_fires_at_once() -> Outcome {
    for kind in &TIMERS {
        let due = (kind.count)() - 1;
        expect(due, 1);
        listening(kind, || {
            (kind.set_compare)(due);
            (kind.set_control)(ENABLE);
            timer::wait_until(5000, || fired() > 0);
        });
        check_eq!(fired(), 1, "{}: interrupts", kind.name);
    }
    Ok(())
}

fn masked_does_not_fire() -> Outcome {
    for kind in &TIMERS {
        expect(0, 1);
        let mut state = 0;
        listening(kind, || {
            (kind.set_compare)(0);
            (kind.set_control)(MASKED);
            timer::spin(5000);
            state = (kind.control)();
        });
        check_eq!(fired(), 0, "{}: interrupts", kind.name);
        check_eq!(state, MASKED | STATUS, "{}: CTL", kind.name);
        // Taking the mask away lets it through.
        expect(0, 1);
        listening(kind, || {
            (kind.set_compare)(0);
            (kind.set_control)(MASKED);
            (kind.set_control)(ENABLE);
            timer::wait_until(5000, || fired() > 0);
        });
        check_eq!(fired(), 1, "{}: interrupts without the mask", kind.name);
    }
    Ok(())
}

fn disabled_does_not_fire() -> Outcome {
    for kind in &TIMERS {
        // A machine that stands still for a moment turns it off too late: then once more.
        let is_in_time = (0..1000).any(|_| {
            expect(0, 1);
            let mut is_in_time = false;
            listening(kind, || {
                (kind.set_value)(timer::ticks(2000));
                (kind.set_control)(ENABLE);
                (kind.set_control)(0);
                is_in_time = (kind.count)() < (kind.compare)();
                timer::spin(5000);
            });
            is_in_time
        });
        check!(is_in_time, "{}: it is never turned off within 2 ms", kind.name);
        check_eq!(fired(), 0, "{}: interrupts of a timer that was turned off in time", kind.name);
        // The level drops with the timer: what was pending and not taken is gone.
        gic::enable(kind.intid);
        (kind.set_compare)(0);
        (kind.set_control)(ENABLE);
        check!(timer::wait_until(5000, || gic::read_bit(gic::ISPENDR, kind.intid)), "{}: not pending", kind.name);
        (kind.set_control)(0);
        check!(timer::wait_until(5000, || !gic::read_bit(gic::ISPENDR, kind.intid)), "{}: still pending", kind.name);
        check_eq!(gic::acknowledge(), gic::SPURIOUS, "{}: acknowledged", kind.name);
        gic::disable(kind.intid);
    }
    Ok(())
}

fn wfi_wakes() -> Outcome {
    for kind in &TIMERS {
        for masked in [true, false] {
            let due = (kind.count)() + timer::ticks(3000);
            expect(due, 1);
            gic::enable(kind.intid);
            (kind.set_compare)(due);
            (kind.set_control)(ENABLE);
            if !masked {
                sysreg::unmask_irq();
            }
            let mut wakes = 0;
            while (kind.count)() < due && wakes < 100_000 {
                sysreg::wfi();
                wakes += 1;
            }
            let now = (kind.count)();
            sysreg::mask_irq();
            (kind.set_control)(0);
            gic::disable(kind.intid);
            check!(now >= due, "{}: WFI woke {wakes} times before the time", kind.name);
            check!(now - due < timer::ticks(late()), "{}: woke {} us late", kind.name, timer::microseconds(now - due));
            check_eq!(fired(), u64::from(!masked), "{}: interrupts, masked {masked}", kind.name);
        }
    }
    Ok(())
}

fn what_is_left_of_a_sleep_does_not_end_the_next() -> Outcome {
    let [own, guard] = &TIMERS;
    gic::enable(own.intid);
    gic::enable(guard.intid);
    let mut guarded = 0;
    for round in 0..20 {
        // It has fired, and is stopped before anybody takes its interrupt, as by who finds something to do at that moment.
        (own.set_compare)(0);
        (own.set_control)(ENABLE);
        timer::spin(100);
        (own.set_control)(MASKED);
        (guard.set_value)(timer::ticks(2_000_000));
        (guard.set_control)(ENABLE);
        let (length, began) = (round % 3 + 1, sysreg::cntvct());
        let is_late = || (guard.control)() & STATUS != 0;
        let acknowledge = |(): &mut ()| {
            if is_late() {
                (guard.set_control)(MASKED);
            }
        };
        timer::doze(length, &mut (), |()| is_late(), acknowledge);
        let slept = sysreg::cntvct() - began;
        guarded += u64::from(is_late());
        (guard.set_control)(0);
        check!(slept >= timer::ticks(length * 1000), "it slept {} us of {length} ms", timer::microseconds(slept));
    }
    (own.set_control)(0);
    gic::disable(own.intid);
    gic::disable(guard.intid);
    check_eq!(guarded, 0, "sleeps that only the other timer ended");
    Ok(())
}

fn event_stream() -> Outcome {
    // Each time bit 10 of the counter rises (CNTKCTL_EL1.EVNTEN, EVNTI) WFE ends, without any interrupt.
    let before = sysreg::cntkctl();
    sysreg::set_cntkctl(before & !0xfc | 1 << 2 | 10 << 4);
    let start = sysreg::cntvct();
    for _ in 0..20 {
        sysreg::wfe();
    }
    let took = sysreg::cntvct() - start;
    sysreg::set_cntkctl(before);
    check!(took < timer::ticks(late()), "20 events took {} us", timer::microseconds(took));
    Ok(())
}

fn late() -> u64 {
    machine::number("late", 200_000)
}

/// Ticks on this vCPU; returns when all ticks have come or far too much time has passed.
fn tick(ticks: u64) {
    let kind = &TIMERS[KIND.load(Ordering::Acquire)];
    if cpu::index() != 0 {
        gic::init_cpu();
    }
    let period = timer::ticks(machine_period());
    let due = (kind.count)() + period;
    expect(due, ticks);
    gic::enable(kind.intid);
    (kind.set_compare)(due);
    (kind.set_control)(ENABLE);
    let end = sysreg::cntvct() + period * ticks * 50 + timer::ticks(late()) * 10;
    while SEEN[cpu::index()].left.load(Ordering::Relaxed) > 0 && sysreg::cntvct() < end {
        // Masked around the look, so that the last tick cannot come between it and WFI.
        sysreg::wfi();
        sysreg::unmask_irq();
        sysreg::mask_irq();
    }
    (kind.set_control)(0);
    gic::disable(kind.intid);
    FINISHED.fetch_add(1, Ordering::Release);
}

fn ticks_virtual() -> Outcome {
    ticks_of(0)
}

fn ticks_physical() -> Outcome {
    ticks_of(1)
}

fn ticks_of(kind: usize) -> Outcome {
    let (ticks, count) = (machine::number("ticks", 500), machine::cpu_count());
    PERIOD.store(machine::number("period", 1000), Ordering::Relaxed);
    KIND.store(kind, Ordering::Release);
    FINISHED.store(0, Ordering::Release);
    for other in 1..count {
        check_eq!(cpu::start(other, tick, ticks), 0, "CPU_ON of vCPU {other}");
    }
    tick(ticks);
    let all = || FINISHED.load(Ordering::Acquire) == count;
    check!(timer::wait_until(machine_period() * ticks / 10 + 60_000, all), "not every vCPU finished");
    for other in 1..count {
        check!(cpu::wait_off(other, 5000), "vCPU {other} does not go off");
    }
    for (index, seen) in SEEN.iter().take(count).enumerate() {
        let fired = seen.fired.load(Ordering::Relaxed);
        check_eq!(fired, ticks, "ticks of the {} timer on vCPU {index}", TIMERS[kind].name);
        check_eq!(seen.early.load(Ordering::Relaxed), 0, "early ticks on vCPU {index}");
        let latest = timer::microseconds(seen.latest.load(Ordering::Relaxed));
        test::bench(["latest_virtual_tick_us", "latest_physical_tick_us"][kind], ticks, latest);
        check!(latest < late(), "a tick on vCPU {index} was {latest} us late");
    }
    Ok(())
}

static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// Sleeps until `due`, then waits for the other one, without another word to whoever runs it.
fn wake(due: u64) {
    if cpu::index() != 0 {
        gic::init_cpu();
    }
    gic::enable(timer::VIRTUAL_INTID);
    timer::sleep_to(due);
    AWAKE.fetch_add(1, Ordering::Release);
    timer::wait_until(2000, || AWAKE.load(Ordering::Acquire) == 2);
    gic::disable(timer::VIRTUAL_INTID);
}

fn both_wake_at_once() -> Outcome {
    if machine::cpu_count() < 2 {
        skip!("one vCPU");
    }
    for _ in 0..10 {
        AWAKE.store(0, Ordering::Release);
        let due = sysreg::cntvct() + timer::ticks(20_000);
        check_eq!(cpu::start(1, wake, due), 0, "CPU_ON of vCPU 1");
        wake(due);
        check_eq!(
            AWAKE.load(Ordering::Acquire),
            2,
            "vCPUs whose timers fired at the same time, awake two seconds later"
        );
        check!(cpu::wait_off(1, 5000), "vCPU 1 does not go off");
    }
    Ok(())
}

static STAMPS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Answers each stamp with a later one.
fn answer_stamps(rounds: u64) {
    for round in 1..=rounds {
        while STAMPS[0].load(Ordering::Acquire) < round {
            crate::rt::cpu::relax();
        }
        STAMPS[1].store(sysreg::cntvct(), Ordering::Release);
        while STAMPS[0].load(Ordering::Acquire) == round {
            crate::rt::cpu::relax();
        }
    }
}

fn counters_agree() -> Outcome {
    let count = machine::cpu_count();
    if count < 2 {
        skip!("one vCPU");
    }
    let rounds = 20;
    for other in 1..count {
        STAMPS.iter().for_each(|stamp| stamp.store(0, Ordering::Release));
        check_eq!(cpu::start(other, answer_stamps, rounds), 0, "CPU_ON of vCPU {other}");
        for round in 1..=rounds {
            let asked = sysreg::cntvct();
            STAMPS[1].store(0, Ordering::Release);
            STAMPS[0].store(round, Ordering::Release);
            check!(timer::wait_until(5000, || STAMPS[1].load(Ordering::Acquire) != 0), "vCPU {other} does not answer");
            let (answered, now) = (STAMPS[1].load(Ordering::Acquire), sysreg::cntvct());
            check!(asked <= answered && answered <= now, "vCPU {other}: {asked}, {answered}, {now} are out of order");
        }
        STAMPS[0].store(rounds + 1, Ordering::Release);
        check!(cpu::wait_off(other, 5000), "vCPU {other} does not go off");
    }
    Ok(())
}
