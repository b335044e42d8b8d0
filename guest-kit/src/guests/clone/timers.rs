//! Counts interrupts whose number is known, so that one that a fork loses or doubles is seen in the copy that it happens to.
//!
//! Every vCPU has a virtual timer with a period of `us=` (default 1000) microseconds. At each of the first vCPU's ticks a
//! software interrupt with the next number goes round all vCPUs, if the last one has come back. Wrong are: a tick before
//! its time, a software interrupt whose number is not the next, and a vCPU that hears nothing for `patience=` (default
//! 10000) ticks of its neighbour. A tick may be late, for a VM may be stopped; late ones that have run together count once.
//!
//! Boot arguments also: `busy` (vCPUs spin; else they sleep); `every=MS` (default 1000) and then a line
//! `TIMERS ok ticks=N ipis=M late=US`, how late the latest tick since the last line was; `lines=N` (default 0: for ever).

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::fail;
use crate::machine::{self, MAX_CPUS, number};
use crate::rt::{cpu, exception, sysreg};
use crate::timer::{self, VIRTUAL_INTID};
use crate::{gic, println};

/// The software interrupt that goes round.
const RING: u32 = 1;

/// What one vCPU has seen.
struct Station {
    ticks: AtomicU64,
    /// The number that its neighbour sent last.
    sent: AtomicU64,
    received: AtomicU64,
    /// What it knows of the next vCPU's ticks.
    neighbour: Watch,
}

/// Something that is to move: what it was, and for how many looks.
struct Watch {
    seen: AtomicU64,
    looks: AtomicU64,
}

impl Watch {
    const fn new() -> Self {
        Self { seen: AtomicU64::new(0), looks: AtomicU64::new(0) }
    }

    /// Returns true if `progress` has been the same for too long.
    fn stands_still(&self, progress: u64) -> bool {
        if self.seen.swap(progress, Ordering::Relaxed) != progress {
            self.looks.store(0, Ordering::Relaxed);
        }
        self.looks.fetch_add(1, Ordering::Relaxed) > PATIENCE.load(Ordering::Relaxed)
    }
}

static STATIONS: [Station; MAX_CPUS] = [const {
    Station { ticks: AtomicU64::new(0), sent: AtomicU64::new(0), received: AtomicU64::new(0), neighbour: Watch::new() }
}; MAX_CPUS];
static LAPS: Watch = Watch::new();
static READY: AtomicUsize = AtomicUsize::new(1);
static PERIOD: AtomicU64 = AtomicU64::new(1);
static PATIENCE: AtomicU64 = AtomicU64::new(0);
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Runs the role.
pub fn main() {
    PERIOD.store(timer::ticks(number("us", 1000)).max(1), Ordering::Relaxed);
    PATIENCE.store(number("patience", 10_000), Ordering::Relaxed);
    exception::set_irq_hook(Some(|_| on_interrupt()));
    let count = cpu::start_all(|_| {
        gic::init_cpu();
        start();
        READY.fetch_add(1, Ordering::AcqRel);
        loop {
            rest();
        }
    });
    // What is sent to a vCPU that is not ready is lost.
    while READY.load(Ordering::Acquire) < count {
        cpu::relax();
    }
    println!("READY {count} vCPUs");
    start();
    let every = timer::ticks(number("every", 1000) * 1000);
    let (mut told, mut left) = (sysreg::cntvct(), number("lines", 0));
    loop {
        rest();
        if sysreg::cntvct() - told >= every {
            told = sysreg::cntvct();
            let sum = |what: fn(&Station) -> &AtomicU64| {
                STATIONS.iter().map(|station| what(station).load(Ordering::Relaxed)).sum::<u64>()
            };
            let late = LATEST.swap(0, Ordering::Relaxed) * 1_000_000 / sysreg::cntfrq();
            let (ticks, ipis) = (sum(|station| &station.ticks), sum(|station| &station.received));
            println!("TIMERS ok ticks={ticks} ipis={ipis} late={late}");
            if left == 1 {
                return;
            }
            left = left.saturating_sub(1);
        }
    }
}

fn rest() {
    if machine::has("busy") {
        cpu::relax();
    } else {
        sysreg::wfi();
    }
}

fn start() {
    gic::enable(RING);
    gic::enable(VIRTUAL_INTID);
    sysreg::set_cntv_cval(sysreg::cntvct() + PERIOD.load(Ordering::Relaxed));
    sysreg::set_cntv_ctl(timer::ENABLE);
    sysreg::unmask_irq();
}

fn on_interrupt() {
    let intid = gic::acknowledge();
    match intid {
        VIRTUAL_INTID => tick(),
        RING => receive(),
        gic::SPURIOUS => return,
        other => fail(format_args!("interrupt {other}")),
    }
    gic::end(intid);
}

fn tick() {
    let (index, period) = (cpu::index(), PERIOD.load(Ordering::Relaxed));
    let (now, due) = (sysreg::cntvct(), sysreg::cntv_cval());
    let station = &STATIONS[index];
    let ticks = station.ticks.fetch_add(1, Ordering::AcqRel) + 1;
    if now < due {
        fail(format_args!("vCPU {index}: tick {ticks} at {now}, before its time {due}"));
    }
    LATEST.fetch_max(now - due, Ordering::Relaxed);
    sysreg::set_cntv_cval(due + ((now - due) / period + 1) * period);
    let next = (index + 1) % machine::cpu_count();
    let neighbour = STATIONS[next].ticks.load(Ordering::Acquire);
    if station.neighbour.stands_still(neighbour) {
        fail(format_args!("vCPU {next}: no tick after tick {neighbour}"));
    }
    if index == 0 {
        let lap = station.received.load(Ordering::Acquire);
        if lap == STATIONS[next].sent.load(Ordering::Acquire) {
            send(next, lap + 1);
        }
        if LAPS.stands_still(lap) {
            fail(format_args!("software interrupt {} does not come back", lap + 1));
        }
    }
}

/// Sends number `number` to vCPU `to`.
fn send(to: usize, number: u64) {
    STATIONS[to].sent.store(number, Ordering::Release);
    gic::send(RING, to);
}

fn receive() {
    let index = cpu::index();
    let station = &STATIONS[index];
    let (number, last) = (station.sent.load(Ordering::Acquire), station.received.load(Ordering::Acquire));
    if number != last + 1 {
        fail(format_args!("vCPU {index}: software interrupt {number} after {last}"));
    }
    station.received.store(number, Ordering::Release);
    if index != 0 {
        send((index + 1) % machine::cpu_count(), number);
    }
}
