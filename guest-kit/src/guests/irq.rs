//! GICv3 as a guest sees it (Arm IHI 0069): software, private and shared interrupts, priorities, both EOI modes, levels,
//! state registers, routes. Cases that need other vCPUs say SKIP where there is one.
//!
//! SPI [`SPI`] and the two after it belong to no device; they are made pending through ISPENDR.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::gic::{self, GICD, SPURIOUS};
use crate::rt::{console, cpu, exception, mmio, sysreg};
use crate::test::Outcome;
use crate::{cases, check, check_eq, machine, skip, timer};

/// A shared interrupt that nothing on QEMU's `virt` board raises while no PCI device is there.
const SPI: u32 = 36;
const LOG: usize = 16;

/// What one vCPU has taken.
struct Taken {
    count: AtomicUsize,
    log: [AtomicU32; LOG],
}

static TAKEN: [Taken; machine::MAX_CPUS] =
    [const { Taken { count: AtomicUsize::new(0), log: [const { AtomicU32::new(0) }; LOG] } }; machine::MAX_CPUS];
static QUIT: AtomicU64 = AtomicU64::new(0);

/// Runs the guest.
pub fn main() {
    gic::init();
    exception::set_irq_hook(Some(on_interrupt));
    cases!(
        identification,
        sgi_to_self,
        sgi_ids,
        sgi_to_others,
        sgi_storm,
        priority_order,
        priority_mask,
        preemption,
        no_preemption_of_equals,
        binary_point,
        eoi_mode_1,
        running_priority,
        highest_pending,
        pending_registers,
        active_registers,
        enable_registers,
        priority_registers,
        configuration_registers,
        disabled_stays_pending,
        uart_level,
        spi_edge,
        spi_route,
        spi_any,
        group_disable,
    );
}

fn note(intid: u32) {
    let taken = &TAKEN[cpu::index()];
    let count = taken.count.load(Ordering::Relaxed);
    if let Some(slot) = taken.log.get(count) {
        slot.store(intid, Ordering::Relaxed);
    }
    taken.count.store(count + 1, Ordering::Release);
}

fn on_interrupt(_: &mut exception::Frame) {
    let intid = gic::acknowledge();
    if intid < SPURIOUS {
        note(intid);
        if intid == console::INTID {
            // The level stays up until the device is quiet.
            mmio::write32(console::IMSC, 0);
        }
        gic::end(intid);
    }
}

fn count_of(cpu: usize) -> usize {
    TAKEN[cpu].count.load(Ordering::Acquire)
}

fn clear() {
    TAKEN.iter().for_each(|taken| taken.count.store(0, Ordering::Release));
}

fn log_of(cpu: usize, index: usize) -> u32 {
    TAKEN[cpu].log[index].load(Ordering::Relaxed)
}

/// Lets interrupts in for a moment.
fn open() {
    sysreg::unmask_irq();
    timer::spin(200);
    sysreg::mask_irq();
}

/// Waits until this vCPU would take an interrupt; the vCPU's interrupts stay masked.
fn wait_pending(intid: u32) -> bool {
    timer::wait_until(5000, || sysreg::icc_hppir1() as u32 & 0xff_ffff == intid)
}

/// Gives the GIC the time it may take to have no interrupt for this vCPU.
fn nothing_pending() -> bool {
    timer::spin(500);
    sysreg::icc_hppir1() as u32 & 0xff_ffff == SPURIOUS
}

fn identification() -> Outcome {
    let pidr2 = mmio::read32(GICD + 0xffe8);
    check_eq!(pidr2 >> 4 & 0xf, 3, "GICD_PIDR2.ArchRev");
    let kind = mmio::read32(GICD + gic::TYPER);
    check!(kind & 0x1f >= 1, "GICD_TYPER {kind:#x} has no SPIs");
    check!(sysreg::icc_sre() & 1 == 1, "ICC_SRE_EL1.SRE is not set");
    check!(sysreg::icc_ctlr() >> 8 & 7 >= 4, "fewer than five priority bits: ICC_CTLR_EL1 {:#x}", sysreg::icc_ctlr());
    let mut last = false;
    for index in 0..machine::cpu_count() as u64 {
        check!(!last, "GICR_TYPER.Last before redistributor {index}");
        let kind = mmio::read64(gic::GICR + index * 0x2_0000 + gic::GICR_TYPER);
        check_eq!(kind >> 32, machine::mpidr(index as usize) & 0xff_ffff, "affinity of redistributor {index}");
        check_eq!(kind >> 8 & 0xffff, index, "number of redistributor {index}");
        let halves = [0, 4].map(|half| mmio::read32(gic::GICR + index * 0x2_0000 + gic::GICR_TYPER + half));
        check_eq!(u64::from(halves[0]) | u64::from(halves[1]) << 32, kind, "GICR_TYPER by halves");
        last = kind & 1 << 4 != 0;
    }
    check!(last, "no redistributor has GICR_TYPER.Last");
    Ok(())
}

fn sgi_to_self() -> Outcome {
    gic::enable(3);
    clear();
    for round in 1..=50 {
        gic::send(3, cpu::index());
        sysreg::unmask_irq();
        let came = timer::wait_until(5000, || count_of(cpu::index()) >= round);
        sysreg::mask_irq();
        check!(came, "round {round}: it does not come");
    }
    check_eq!(count_of(cpu::index()), 50, "interrupts");
    check_eq!(log_of(cpu::index(), 0), 3, "INTID");
    gic::disable(3);
    Ok(())
}

fn sgi_ids() -> Outcome {
    clear();
    for intid in 0..16 {
        gic::enable(intid);
    }
    for intid in 0..16 {
        gic::send(intid, cpu::index());
    }
    open();
    check_eq!(count_of(cpu::index()), 16, "interrupts");
    // All of one priority: each comes once; which first is the implementation's choice.
    let seen = (0..16).fold(0u32, |seen, index| seen | 1 << log_of(cpu::index(), index));
    check_eq!(seen, 0xffff, "set of INTIDs");
    (0..16).for_each(gic::disable);
    Ok(())
}

/// Runs on other vCPUs: takes interrupts in WFI until told to stop.
fn listen(_: u64) {
    gic::init_cpu();
    for intid in 0..16 {
        gic::enable(intid);
    }
    note_ready();
    while QUIT.load(Ordering::Acquire) == 0 {
        sysreg::wfi();
        sysreg::unmask_irq();
        sysreg::mask_irq();
    }
}

static READY: AtomicUsize = AtomicUsize::new(0);

fn note_ready() {
    READY.fetch_add(1, Ordering::AcqRel);
}

/// Starts `listen` on every other vCPU, runs `f`, and stops them.
fn with_listeners(f: impl FnOnce(usize) -> Outcome) -> Outcome {
    let count = machine::cpu_count();
    if count < 2 {
        skip!("one vCPU");
    }
    QUIT.store(0, Ordering::Release);
    READY.store(0, Ordering::Release);
    cpu::start_all(listen);
    check!(timer::wait_until(5000, || READY.load(Ordering::Acquire) == count - 1), "not every vCPU listens");
    clear();
    let outcome = f(count);
    QUIT.store(1, Ordering::Release);
    gic::send_to_others(15);
    for other in 1..count {
        check!(cpu::wait_off(other, 5000), "vCPU {other} does not stop");
    }
    outcome
}

fn sgi_to_others() -> Outcome {
    with_listeners(|count| {
        for other in 1..count {
            gic::send(5, other);
            check!(timer::wait_until(5000, || count_of(other) == 1), "vCPU {other} took {}", count_of(other));
            check_eq!(log_of(other, 0), 5, "INTID at vCPU {other}");
        }
        clear();
        gic::send_to_others(6);
        for other in 1..count {
            check!(timer::wait_until(5000, || count_of(other) == 1), "vCPU {other} took {}", count_of(other));
            check_eq!(log_of(other, 0), 6, "INTID at vCPU {other}");
        }
        check!(nothing_pending(), "the sender of all-but-self got one too");
        // To a vCPU that does not exist: to nobody.
        clear();
        gic::send_to_affinity(7, 0x0f);
        gic::send_to_affinity(7, 0x0100);
        timer::spin(1000);
        check_eq!((0..count).map(count_of).sum::<usize>(), 0, "interrupts of an SGI to nobody");
        Ok(())
    })
}

fn sgi_storm() -> Outcome {
    with_listeners(|count| {
        for round in 1..=machine::number("count", 500) as usize {
            for other in 1..count {
                gic::send(8, other);
            }
            for other in 1..count {
                check!(timer::wait_until(5000, || count_of(other) == round), "round {round}: vCPU {other} lost one");
            }
        }
        Ok(())
    })
}

fn priority_order() -> Outcome {
    clear();
    // Sent lowest first; taken highest (smallest number) first.
    for (intid, priority) in [(1, 0xc0), (2, 0x80), (3, 0x40), (4, 0xa0)] {
        gic::enable(intid);
        gic::set_priority(intid, priority);
        gic::send(intid, cpu::index());
    }
    open();
    let order: [u32; 4] = core::array::from_fn(|index| log_of(cpu::index(), index));
    (1..5).for_each(gic::disable);
    check_eq!(count_of(cpu::index()), 4, "interrupts");
    check_eq!(order, [3, 2, 4, 1], "order");
    Ok(())
}

fn priority_mask() -> Outcome {
    clear();
    gic::enable(1);
    gic::set_priority(1, 0x80);
    sysreg::set_icc_pmr(0x80);
    gic::send(1, cpu::index());
    open();
    let at_mask = count_of(cpu::index());
    sysreg::set_icc_pmr(0x88);
    open();
    sysreg::set_icc_pmr(0xff);
    gic::disable(1);
    check_eq!(at_mask, 0, "interrupts of the mask's own priority");
    check_eq!(count_of(cpu::index()), 1, "interrupts when the mask is lower");
    Ok(())
}

/// Acknowledges the low one, and lets what may preempt it in.
fn preempt(low: (u32, u8), high: (u32, u8)) -> Result<(u32, usize), crate::test::Stop> {
    for (intid, priority) in [low, high] {
        gic::enable(intid);
        gic::set_priority(intid, priority);
    }
    clear();
    gic::send(low.0, cpu::index());
    check!(wait_pending(low.0), "the low one is not pending");
    let first = gic::acknowledge();
    gic::send(high.0, cpu::index());
    open();
    let inside = count_of(cpu::index());
    gic::end(first);
    open();
    gic::disable(low.0);
    gic::disable(high.0);
    Ok((first, inside))
}

fn preemption() -> Outcome {
    let (first, inside) = preempt((1, 0xa0), (2, 0x40))?;
    check_eq!(first, 1, "acknowledged first");
    check_eq!(inside, 1, "interrupts inside the low one");
    check_eq!(log_of(cpu::index(), 0), 2, "INTID");
    Ok(())
}

fn no_preemption_of_equals() -> Outcome {
    let (first, inside) = preempt((1, 0xa0), (2, 0xa0))?;
    check_eq!(first, 1, "acknowledged first");
    check_eq!(inside, 0, "interrupts inside one of equal priority");
    check_eq!(count_of(cpu::index()), 1, "interrupts after its end");
    Ok(())
}

fn binary_point() -> Outcome {
    // With BPR1 = 7 only the top bit is group priority (IHI 0069 table 4-8): what shares it does not preempt.
    sysreg::set_icc_bpr1(7);
    let result = preempt((1, 0xf0), (2, 0x80));
    sysreg::set_icc_bpr1(0);
    let (_, inside) = result?;
    check_eq!(inside, 0, "interrupts inside one of the same group priority");
    check_eq!(count_of(cpu::index()), 1, "interrupts after its end");
    Ok(())
}

fn eoi_mode_1() -> Outcome {
    gic::enable(1);
    sysreg::set_icc_ctlr(1 << 1);
    gic::send(1, cpu::index());
    check!(wait_pending(1), "not pending");
    let intid = gic::acknowledge();
    let active = gic::read_bit(gic::ISACTIVER, 1);
    gic::end(intid);
    let (dropped, still) = (sysreg::icc_rpr(), gic::read_bit(gic::ISACTIVER, 1));
    // Active: a new one waits until the deactivation.
    gic::send(1, cpu::index());
    let waits = nothing_pending();
    sysreg::set_icc_dir(intid.into());
    let comes = wait_pending(1);
    let second = gic::acknowledge();
    gic::end(second);
    sysreg::set_icc_dir(second.into());
    let rest = gic::read_bit(gic::ISACTIVER, 1);
    sysreg::set_icc_ctlr(0);
    gic::disable(1);
    check_eq!(intid, 1, "acknowledged");
    check!(active, "not active after the acknowledge");
    check_eq!(dropped, 0xff, "running priority after EOIR");
    check!(still, "EOIR has deactivated it");
    check!(waits, "it comes again while it is active");
    check!(comes, "it does not come after the deactivation");
    check!(!rest, "active after DIR");
    Ok(())
}

fn running_priority() -> Outcome {
    check_eq!(sysreg::icc_rpr(), 0xff, "idle");
    gic::enable(1);
    gic::set_priority(1, 0x60);
    gic::send(1, cpu::index());
    check!(wait_pending(1), "not pending");
    let intid = gic::acknowledge();
    let running = sysreg::icc_rpr();
    let bits = sysreg::icc_ap1r0();
    gic::end(intid);
    gic::disable(1);
    check_eq!(running, 0x60, "inside");
    check_eq!(bits.count_ones(), 1, "active priorities, ICC_AP1R0_EL1 {bits:#x}");
    check_eq!(sysreg::icc_rpr(), 0xff, "afterwards");
    check_eq!(sysreg::icc_ap1r0(), 0, "active priorities afterwards");
    Ok(())
}

fn highest_pending() -> Outcome {
    check_eq!(sysreg::icc_hppir1() as u32, SPURIOUS, "with nothing pending");
    check_eq!(gic::acknowledge(), SPURIOUS, "acknowledged with nothing pending");
    gic::enable(9);
    gic::send(9, cpu::index());
    check!(wait_pending(9), "ICC_HPPIR1_EL1 does not show it");
    check_eq!(gic::acknowledge(), 9, "acknowledged");
    gic::end(9);
    gic::disable(9);
    Ok(())
}

/// One interrupt of each kind that software can make pending by a register.
const KINDS: [u32; 3] = [4, 23, SPI];

fn pending_registers() -> Outcome {
    for intid in KINDS {
        gic::set_edge(intid, true);
        gic::enable(intid);
        gic::write_bit(gic::ISPENDR, intid);
        check!(wait_pending(intid), "{intid}: not signalled after ISPENDR");
        check!(gic::read_bit(gic::ISPENDR, intid), "{intid}: ISPENDR does not show it");
        check!(gic::read_bit(gic::ICPENDR, intid), "{intid}: ICPENDR does not show it");
        gic::write_bit(gic::ICPENDR, intid);
        check!(nothing_pending(), "{intid}: signalled after ICPENDR");
        check!(!gic::read_bit(gic::ISPENDR, intid), "{intid}: ISPENDR still shows it");
        gic::write_bit(gic::ISPENDR, intid);
        check!(wait_pending(intid), "{intid}: not signalled the second time");
        check_eq!(gic::acknowledge(), intid, "acknowledged");
        check!(!gic::read_bit(gic::ISPENDR, intid), "{intid}: pending after the acknowledge");
        check!(gic::read_bit(gic::ISACTIVER, intid), "{intid}: not active after the acknowledge");
        // Pending again while active: comes after the end.
        gic::write_bit(gic::ISPENDR, intid);
        check!(gic::read_bit(gic::ISPENDR, intid), "{intid}: cannot be active and pending");
        check!(nothing_pending(), "{intid}: signalled while active");
        gic::end(intid);
        check!(wait_pending(intid), "{intid}: lost what became pending while active");
        check_eq!(gic::acknowledge(), intid, "acknowledged");
        gic::end(intid);
        check!(nothing_pending(), "{intid}: came once too often");
        gic::disable(intid);
    }
    Ok(())
}

fn active_registers() -> Outcome {
    for intid in KINDS {
        gic::set_edge(intid, true);
        gic::enable(intid);
        gic::write_bit(gic::ISACTIVER, intid);
        check!(gic::read_bit(gic::ISACTIVER, intid), "{intid}: ISACTIVER does not show it");
        gic::write_bit(gic::ISPENDR, intid);
        check!(nothing_pending(), "{intid}: signalled while active by register");
        gic::write_bit(gic::ICACTIVER, intid);
        check!(!gic::read_bit(gic::ISACTIVER, intid), "{intid}: active after ICACTIVER");
        check!(wait_pending(intid), "{intid}: not signalled after ICACTIVER");
        check_eq!(gic::acknowledge(), intid, "acknowledged");
        gic::end(intid);
        gic::disable(intid);
    }
    Ok(())
}

fn enable_registers() -> Outcome {
    for intid in KINDS {
        gic::disable(intid);
        check!(!gic::read_bit(gic::ISENABLER, intid), "{intid}: enabled");
        gic::write_bit(gic::ISENABLER, intid);
        check!(gic::read_bit(gic::ISENABLER, intid), "{intid}: ISENABLER does not show it");
        check!(gic::read_bit(gic::ICENABLER, intid), "{intid}: ICENABLER does not show it");
        // Zeros change nothing.
        mmio::write32(gic::frame(intid) + gic::ICENABLER + u64::from(intid / 32) * 4, 0);
        check!(gic::read_bit(gic::ISENABLER, intid), "{intid}: disabled by a zero");
        gic::disable(intid);
        check!(!gic::read_bit(gic::ICENABLER, intid), "{intid}: ICENABLER still shows it");
    }
    Ok(())
}

fn priority_registers() -> Outcome {
    for intid in KINDS {
        let byte = gic::frame(intid) + gic::IPRIORITYR + u64::from(intid);
        let word = byte & !3;
        mmio::write32(word, 0);
        mmio::write8(byte, 0xb8);
        check_eq!(mmio::read8(byte), 0xb8, "{intid}: by byte");
        check_eq!(mmio::read32(word), 0xb8 << (intid % 4 * 8), "{intid}: by word");
        mmio::write32(word, 0x1020_3040);
        check_eq!(mmio::read8(byte), [0x40, 0x30, 0x20, 0x10][intid as usize % 4], "{intid}: byte of a word");
        mmio::write32(word, 0xa0a0_a0a0);
    }
    Ok(())
}

fn configuration_registers() -> Outcome {
    // SGIs are edge-triggered, whatever is written.
    let sgis = redistributor_configuration(0);
    check_eq!(sgis, 0xaaaa_aaaa, "GICR_ICFGR0");
    for edge in [true, false, true] {
        gic::set_edge(SPI, edge);
        let value = mmio::read32(GICD + gic::ICFGR + u64::from(SPI / 16) * 4);
        check_eq!(value >> (SPI % 16 * 2) & 2 == 2, edge, "SPI is edge-triggered");
    }
    Ok(())
}

fn redistributor_configuration(index: u64) -> u32 {
    let register = gic::redistributor() + 0x1_0000 + gic::ICFGR + index * 4;
    mmio::write32(register, 0);
    mmio::read32(register)
}

fn disabled_stays_pending() -> Outcome {
    for intid in KINDS {
        gic::set_edge(intid, true);
        gic::enable(intid);
        gic::disable(intid);
        gic::write_bit(gic::ISPENDR, intid);
        check!(nothing_pending(), "{intid}: signalled while disabled");
        check!(gic::read_bit(gic::ISPENDR, intid), "{intid}: not pending while disabled");
        gic::write_bit(gic::ISENABLER, intid);
        check!(wait_pending(intid), "{intid}: not signalled when enabled");
        gic::disable(intid);
        check!(nothing_pending(), "{intid}: signalled when disabled again");
        gic::write_bit(gic::ISENABLER, intid);
        check!(wait_pending(intid), "{intid}: lost when disabled while pending");
        check_eq!(gic::acknowledge(), intid, "acknowledged");
        gic::end(intid);
        gic::disable(intid);
    }
    Ok(())
}

fn uart_level() -> Outcome {
    // Loopback (UARTCR.LBE) would do too, but not every emulated PL011 has it. The transmit interrupt is one that this
    // guest can raise alone: it comes when bytes have been sent.
    gic::set_edge(console::INTID, false);
    gic::enable(console::INTID);
    clear();
    mmio::write32(console::IMSC, console::INT_TX);
    console::put(b'.');
    if !wait_pending(console::INTID) {
        mmio::write32(console::IMSC, 0);
        check!(false, "no interrupt after a byte was sent; RIS {:#x}", mmio::read32(console::RIS));
    }
    check!(gic::read_bit(gic::ISPENDR, console::INTID), "ISPENDR does not show the level");
    // Clearing the pending bit does not take the level away.
    gic::write_bit(gic::ICPENDR, console::INTID);
    check!(wait_pending(console::INTID), "ICPENDR has silenced a level that is up");
    let first = gic::acknowledge();
    gic::end(first);
    check_eq!(first, console::INTID, "acknowledged");
    check!(wait_pending(console::INTID), "a level that is still up does not come again");
    // The device becomes quiet while it is active: it does not come again.
    let second = gic::acknowledge();
    mmio::write32(console::ICR, console::INT_TX);
    gic::end(second);
    check!(nothing_pending(), "it comes again after the level went down");
    // And with the level down before the acknowledge it is not there at all.
    mmio::write32(console::ICR, console::INT_TX);
    console::put(b'.');
    check!(wait_pending(console::INTID), "no interrupt for the second byte");
    mmio::write32(console::IMSC, 0);
    check!(nothing_pending(), "signalled although the device masks it");
    console::put(b'\n');
    gic::disable(console::INTID);
    Ok(())
}

fn spi_edge() -> Outcome {
    clear();
    for intid in SPI..SPI + 3 {
        gic::set_edge(intid, true);
        gic::enable(intid);
        gic::write_bit(gic::ISPENDR, intid);
        // Two edges before the acknowledge are one interrupt.
        gic::write_bit(gic::ISPENDR, intid);
    }
    open();
    check_eq!(count_of(cpu::index()), 3, "interrupts");
    (SPI..SPI + 3).for_each(gic::disable);
    Ok(())
}

fn spi_route() -> Outcome {
    with_listeners(|count| {
        gic::set_edge(SPI, true);
        gic::enable(SPI);
        for round in 1..=20 {
            for other in 1..count {
                gic::route(SPI, machine::mpidr(other));
                check_eq!(mmio::read64(GICD + gic::IROUTER + u64::from(SPI) * 8), machine::mpidr(other), "IROUTER");
                gic::write_bit(gic::ISPENDR, SPI);
                check!(timer::wait_until(5000, || count_of(other) == round), "round {round}: not at vCPU {other}");
            }
        }
        check_eq!(log_of(1, 0), SPI, "INTID");
        // Pending for one that then loses the route: the other one gets it.
        clear();
        gic::route(SPI, machine::mpidr(0));
        gic::write_bit(gic::ISPENDR, SPI);
        check!(wait_pending(SPI), "not at this vCPU");
        gic::route(SPI, machine::mpidr(1));
        check!(timer::wait_until(5000, || count_of(1) == 1), "a pending SPI does not follow its route");
        check!(nothing_pending(), "it is here too");
        gic::disable(SPI);
        Ok(())
    })
}

fn spi_any() -> Outcome {
    with_listeners(|count| {
        gic::set_edge(SPI, true);
        gic::enable(SPI);
        gic::route(SPI, gic::ANY);
        if mmio::read64(GICD + gic::IROUTER + u64::from(SPI) * 8) & gic::ANY == 0 {
            gic::disable(SPI);
            skip!("the distributor has no 1-of-N routing");
        }
        sysreg::unmask_irq();
        let mut complete = true;
        for round in 1..=50 {
            gic::write_bit(gic::ISPENDR, SPI);
            complete &= timer::wait_until(5000, || (0..count).map(count_of).sum::<usize>() >= round);
        }
        timer::spin(1000);
        sysreg::mask_irq();
        gic::disable(SPI);
        check!(complete, "one did not come to anybody");
        check_eq!((0..count).map(count_of).sum::<usize>(), 50, "interrupts on all vCPUs together");
        Ok(())
    })
}

fn group_disable() -> Outcome {
    gic::enable(2);
    sysreg::set_icc_igrpen1(0);
    gic::send(2, cpu::index());
    timer::spin(500);
    clear();
    open();
    let closed = count_of(cpu::index());
    sysreg::set_icc_igrpen1(1);
    open();
    gic::disable(2);
    check_eq!(closed, 0, "interrupts with ICC_IGRPEN1_EL1 zero");
    check_eq!(count_of(cpu::index()), 1, "interrupts with it one");
    // And the distributor's own switch.
    gic::set_edge(SPI, true);
    gic::enable(SPI);
    let control = mmio::read32(GICD + gic::CTLR);
    mmio::write32(GICD + gic::CTLR, control & !3);
    gic::wait_writes();
    gic::write_bit(gic::ISPENDR, SPI);
    let silent = nothing_pending();
    mmio::write32(GICD + gic::CTLR, control);
    gic::wait_writes();
    check!(silent, "signalled with the distributor off");
    check!(wait_pending(SPI), "not signalled with the distributor on");
    check_eq!(gic::acknowledge(), SPI, "acknowledged");
    gic::end(SPI);
    gic::disable(SPI);
    Ok(())
}
