//! The GIC against a slow, obvious one that knows no list registers: one record per interrupt, and after every step each
//! vCPU must be given exactly what the slow one says.

use proptest::prelude::*;

use super::machine::{Machine, SGI_BASE};
use super::*;

/// Enough interrupts of each kind to outnumber few list registers.
const INTIDS: [u32; 12] = [0, 1, 2, 15, 20, 27, 32, 33, 34, 63, 64, 95];
const TIMER: u32 = 27;

#[derive(Clone, Default)]
struct Irq {
    enabled: bool,
    group1: bool,
    priority: u8,
    edge: bool,
    line: bool,
    latch: bool,
    /// Active, and where.
    active: Option<usize>,
    route: u64,
}

impl Irq {
    fn pending(&self) -> bool {
        self.latch || self.line && !self.edge
    }
}

/// The slow GIC.
struct Slow {
    private: Vec<Vec<Irq>>,
    spi: Vec<Irq>,
    ctlr: u8,
    awake: Vec<bool>,
}

impl Slow {
    fn new(vcpus: usize) -> Self {
        let irq = |intid: u32| Irq { edge: intid < 16, ..Irq::default() };
        Self {
            private: vec![(0..32).map(irq).collect(); vcpus],
            spi: vec![Irq::default(); SPIS],
            ctlr: 0,
            awake: vec![false; vcpus],
        }
    }

    fn irq(&mut self, vcpu: usize, intid: u32) -> &mut Irq {
        match intid {
            0..32 => &mut self.private[vcpu][intid as usize],
            _ => &mut self.spi[intid as usize - 32],
        }
    }

    /// Where an interrupt would be signalled. The choice among the vCPUs awake is the GIC's.
    fn home(&self, gic: &Vgic, vcpu: usize, intid: u32) -> Option<usize> {
        if intid < 32 {
            return Some(vcpu);
        }
        let irq = &self.spi[intid as usize - 32];
        if irq.active.is_some() {
            return irq.active;
        }
        if irq.route >> 31 & 1 == 0 {
            let affinity = irq.route as usize & 0xff_ffff;
            return (affinity < self.private.len()).then_some(affinity);
        }
        let chosen = gic.home(intid - 32).expect("1 of N is some");
        // One that ended where it is not meant to be any more goes away from there once it is pending again.
        assert!(!irq.pending() || self.awake[chosen] || self.awake.iter().all(|awake| !awake), "1 of N sleeps");
        Some(chosen)
    }

    /// The most urgent interrupts that `vcpu` may take now.
    fn signalled(&mut self, machine: &Machine, vcpu: usize) -> Vec<u32> {
        let cpu = &machine.cpus[vcpu];
        let mut best = vec![];
        let mut best_priority = cpu.pmr.min(cpu.running());
        for intid in INTIDS {
            let home = self.home(&machine.gic, vcpu, intid);
            let ctlr = self.ctlr;
            let irq = self.irq(vcpu, intid);
            let group = u8::from(irq.group1);
            if irq.enabled
                && irq.pending()
                && irq.active.is_none()
                && ctlr >> group & 1 != 0
                && cpu.groups >> group & 1 != 0
                && home == Some(vcpu)
            {
                if irq.priority < best_priority {
                    best.clear();
                    best_priority = irq.priority;
                    best.push(intid);
                } else if irq.priority == best_priority && !best.is_empty() {
                    best.push(intid);
                }
            }
        }
        best
    }
}

/// Both, and what the guest on them remembers.
struct Pair {
    machine: Machine,
    slow: Slow,
    /// Interrupts whose handlers run on each vCPU; those whose priority was dropped but which are not deactivated.
    handlers: Vec<Vec<u32>>,
    dropped: Vec<Vec<u32>>,
    /// The guest writes active states.
    writes_active: bool,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    vcpus: usize,
    list_registers: usize,
    eoi_mode: bool,
    groups: u64,
}

impl Pair {
    fn new(setup: Setup) -> Self {
        let mut machine = Machine::new(setup.vcpus, setup.list_registers);
        for vcpu in 0..setup.vcpus {
            machine.unload(vcpu);
            machine.cpus[vcpu].eoi_mode = setup.eoi_mode;
            machine.cpus[vcpu].groups = setup.groups;
            machine.load(vcpu);
        }
        let mut pair = Self {
            machine,
            slow: Slow::new(setup.vcpus),
            handlers: vec![vec![]; setup.vcpus],
            dropped: vec![vec![]; setup.vcpus],
            writes_active: setup.list_registers >= INTIDS.len(),
        };
        // Start with everything on, as an operating system would: random writes alone seldom get far.
        pair.ctlr(3);
        for intid in INTIDS {
            for vcpu in 0..setup.vcpus {
                pair.write_bit(vcpu, 0x100, intid);
                pair.slow.irq(vcpu, intid).enabled = true;
                pair.priority(vcpu, intid, 0x80 + 8 * (intid as u8 % 4));
                if intid % 5 != 0 {
                    pair.group(vcpu, intid, true);
                }
            }
        }
        pair
    }

    /// Writes one bit of the register array at `base`.
    fn write_bit(&mut self, vcpu: usize, base: u64, intid: u32) {
        let bit = 1 << (intid % 32);
        match intid {
            0..32 => self.machine.redist_write(vcpu, SGI_BASE + base, bit),
            _ => self.machine.dist_write(base + u64::from(intid / 32) * 4, bit),
        }
    }

    fn read_bit(&mut self, vcpu: usize, base: u64, intid: u32) -> bool {
        let word = match intid {
            0..32 => self.machine.redist_read(vcpu, SGI_BASE + base),
            _ => self.machine.dist_read(base + u64::from(intid / 32) * 4),
        };
        word >> (intid % 32) & 1 != 0
    }

    fn ctlr(&mut self, value: u8) {
        self.machine.dist_write(0, value.into());
        self.slow.ctlr = value & 3;
    }

    fn priority(&mut self, vcpu: usize, intid: u32, priority: u8) {
        match intid {
            0..32 => self.machine.redist_priority(vcpu, intid, priority),
            _ => self.machine.dist_priority(intid, priority),
        }
        self.slow.irq(vcpu, intid).priority = priority & 0xf8;
    }

    fn group(&mut self, vcpu: usize, intid: u32, group1: bool) {
        let (base, bit) = (0x80 + u64::from(intid / 32) * 4, 1 << (intid % 32));
        let old = match intid {
            0..32 => self.machine.redist_read(vcpu, SGI_BASE + base),
            _ => self.machine.dist_read(base),
        };
        let new = if group1 { old | bit } else { old & !bit };
        match intid {
            0..32 => self.machine.redist_write(vcpu, SGI_BASE + base, new),
            _ => self.machine.dist_write(base, new),
        }
        self.slow.irq(vcpu, intid).group1 = group1;
    }

    fn edge(&mut self, vcpu: usize, intid: u32, edge: bool) {
        // A guest may only change the trigger of a disabled interrupt; what is latched stays latched.
        let offset = 0xc00 + u64::from(intid / 16) * 4;
        let bit = 2 << (2 * (intid % 16));
        match intid {
            0..32 => {
                let old = self.machine.redist_read(vcpu, SGI_BASE + offset);
                self.machine.redist_write(vcpu, SGI_BASE + offset, if edge { old | bit } else { old & !bit });
            }
            _ => {
                let old = self.machine.dist_read(offset);
                self.machine.dist_write(offset, if edge { old | bit } else { old & !bit });
            }
        }
        if intid >= 16 && intid != TIMER {
            self.slow.irq(vcpu, intid).edge = edge;
        }
    }

    fn line(&mut self, vcpu: usize, intid: u32, level: bool) {
        if intid == TIMER {
            // Time makes it rise; only the guest, running, makes it fall.
            if !level && !self.machine.cpus[vcpu].resident {
                return;
            }
            self.machine.timer(vcpu, level);
        } else {
            self.machine.line(intid, vcpu, level);
        }
        let irq = self.slow.irq(vcpu, intid);
        if intid >= 16 {
            irq.latch |= irq.edge && level && !irq.line;
            irq.line = level;
        }
    }

    fn ack(&mut self, vcpu: usize) -> Option<u32> {
        if !self.machine.cpus[vcpu].resident {
            return None;
        }
        let allowed = self.slow.signalled(&self.machine, vcpu);
        let taken = self.machine.ack(vcpu);
        match taken {
            None => assert!(allowed.is_empty(), "vCPU {vcpu} was not given one of {allowed:?}"),
            Some(intid) => {
                assert!(allowed.contains(&intid), "vCPU {vcpu} was given {intid}, not one of {allowed:?}");
                let irq = self.slow.irq(vcpu, intid);
                irq.latch = false;
                irq.active = Some(vcpu);
                self.handlers[vcpu].push(intid);
            }
        }
        taken
    }

    fn eoi(&mut self, vcpu: usize) {
        if !self.machine.cpus[vcpu].resident {
            return;
        }
        let Some(intid) = self.handlers[vcpu].pop() else { return };
        self.machine.eoi(vcpu, intid);
        if self.machine.cpus[vcpu].eoi_mode {
            self.dropped[vcpu].push(intid);
        } else if self.slow.irq(vcpu, intid).active == Some(vcpu) {
            self.slow.irq(vcpu, intid).active = None;
        }
    }

    /// Deactivates; an SPI from whatever vCPU.
    fn dir(&mut self, vcpu: usize, which: u8, by: usize) {
        if self.dropped[vcpu].is_empty() {
            return;
        }
        let at = which as usize % self.dropped[vcpu].len();
        let intid = self.dropped[vcpu][at];
        let by = if intid < 32 { vcpu } else { by };
        if self.machine.cpus[by].resident {
            self.dropped[vcpu].remove(at);
            self.machine.dir(by, intid);
            self.slow.irq(vcpu, intid).active = None;
        }
    }

    fn in_use(&self, vcpu: usize, intid: u32) -> bool {
        let held = |vcpu: usize| self.handlers[vcpu].contains(&intid) || self.dropped[vcpu].contains(&intid);
        if intid < 32 { held(vcpu) } else { (0..self.handlers.len()).any(held) }
    }

    fn step(&mut self, (op, vcpu, which, value): (u8, u8, u8, u8)) {
        let vcpu = vcpu as usize % self.handlers.len();
        let intid = INTIDS[which as usize % INTIDS.len()];
        match op % 32 {
            0..4 => _ = self.ack(vcpu),
            4..7 => self.eoi(vcpu),
            7 => self.dir(vcpu, which, value as usize % self.handlers.len()),
            8..11 => self.line(vcpu, intid, value & 1 != 0),
            11 => {
                if intid != TIMER {
                    self.line(vcpu, intid, false);
                    self.machine.pulse(intid, vcpu);
                    let irq = self.slow.irq(vcpu, intid);
                    irq.latch |= irq.edge && intid >= 16;
                }
            }
            12..15 => {
                let sgi = INTIDS[which as usize % 4];
                self.machine.sgi(vcpu, sgi, value.into());
                for target in 0..self.handlers.len() {
                    self.slow.irq(target, sgi).latch |= value >> target & 1 != 0;
                }
            }
            15 => {
                self.write_bit(vcpu, 0x100, intid);
                self.slow.irq(vcpu, intid).enabled = true;
            }
            16 => {
                self.write_bit(vcpu, 0x180, intid);
                self.slow.irq(vcpu, intid).enabled = false;
            }
            17 => {
                self.write_bit(vcpu, 0x200, intid);
                self.slow.irq(vcpu, intid).latch = true;
            }
            18 => {
                self.write_bit(vcpu, 0x280, intid);
                self.slow.irq(vcpu, intid).latch = false;
            }
            19 if self.writes_active => {
                let home = self.slow.home(&self.machine.gic, vcpu, intid);
                // Active at no vCPU is a state that nobody could leave by ending it.
                if let Some(home) = home {
                    self.write_bit(vcpu, 0x300, intid);
                    self.slow.irq(vcpu, intid).active.get_or_insert(home);
                }
            }
            20 if self.writes_active && !self.machine.cpus[vcpu].eoi_mode => {
                self.write_bit(vcpu, 0x380, intid);
                self.slow.irq(vcpu, intid).active = None;
            }
            21 => {
                // Which of several unlisted interrupts ends first is told by their priorities, as it is in hardware.
                if !self.in_use(vcpu, intid) {
                    self.priority(vcpu, intid, value);
                }
            }
            22 => self.group(vcpu, intid, value & 1 != 0),
            23 => {
                let route = match value % 8 {
                    0 => 1 << 31,
                    1 => 0x10000,
                    2 => 7,
                    n => n as u64 % self.handlers.len() as u64,
                };
                if intid >= 32 {
                    self.machine.route(intid, route);
                    self.slow.irq(vcpu, intid).route = route;
                }
            }
            24 => self.ctlr(if value < 128 { 3 } else { value }),
            25 => {
                self.machine.redist_write(vcpu, 0x14, u32::from(value) & 2);
                self.slow.awake[vcpu] = value & 2 == 0;
            }
            26 => self.edge(vcpu, intid, value & 1 != 0),
            27 => {
                if self.machine.cpus[vcpu].resident {
                    self.machine.unload(vcpu);
                }
            }
            28 | 29 => {
                if !self.machine.cpus[vcpu].resident {
                    self.machine.load(vcpu);
                }
            }
            30 => self.machine.cpus[vcpu].pmr = if value < 128 { 0xff } else { value },
            _ => self.check(),
        }
    }

    /// Everything that can be asked.
    fn check(&mut self) {
        for vcpu in 0..self.handlers.len() {
            for intid in INTIDS {
                let irq = self.slow.irq(vcpu, intid).clone();
                let context = format!("{intid} of {vcpu}");
                let active = irq.active.is_some();
                assert_eq!(self.read_bit(vcpu, 0x300, intid), active, "active {context}");
                // The line of a mapped interrupt is only looked at again when it ends.
                if intid != TIMER || !active {
                    assert_eq!(self.read_bit(vcpu, 0x200, intid), irq.pending(), "pending {context}");
                }
                assert_eq!(self.read_bit(vcpu, 0x180, intid), irq.enabled, "enabled {context}");
                assert_eq!(self.read_bit(vcpu, 0x80, intid), irq.group1, "group {context}");
            }
            let cpu = &self.machine.cpus[vcpu];
            if !cpu.resident {
                let pending = self.machine.gic.has_pending(vcpu, cpu.vmcr(), cpu.running());
                assert_eq!(pending, !self.slow.signalled(&self.machine, vcpu).is_empty(), "WFI of {vcpu}");
            }
        }
    }

    /// Lets the guest take all that is left, and looks for what was lost.
    fn drain(&mut self) {
        for vcpu in 0..self.handlers.len() {
            if !self.machine.cpus[vcpu].resident {
                self.machine.load(vcpu);
            }
            self.machine.cpus[vcpu].pmr = 0xff;
            for intid in INTIDS {
                self.line(vcpu, intid, false);
            }
        }
        for vcpu in 0..self.handlers.len() {
            for _ in 0..200 {
                if self.ack(vcpu).is_none() {
                    if self.handlers[vcpu].is_empty() && self.dropped[vcpu].is_empty() {
                        break;
                    }
                    self.eoi(vcpu);
                    self.dir(vcpu, 0, vcpu);
                }
            }
            assert_eq!(self.ack(vcpu), None);
        }
        self.check();
        for vcpu in 0..self.handlers.len() {
            self.machine.unload(vcpu);
        }
        assert!(self.machine.gic.is_valid());
    }
}

/// Few list registers, or so many that everything fits and the guest may also write active states, as to which of the
/// active interrupts without list register ends first there is then no doubt.
fn setup() -> impl Strategy<Value = Setup> {
    (1usize..=4, prop_oneof![1usize..=5, Just(16)], any::<bool>(), prop_oneof![Just(3u64), Just(2), Just(1)])
        .prop_map(|(vcpus, list_registers, eoi_mode, groups)| Setup { vcpus, list_registers, eoi_mode, groups })
}

/// The number of cases: `PROPTEST_CASES`, or enough for every run of the tests (a few under Miri, which is slow).
fn cases(default: u32) -> ProptestConfig {
    let default = if cfg!(miri) { 5 } else { default };
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 100_000, ..ProptestConfig::default() }
}

/// An access or an event that makes no sense more often than not.
fn garbage() -> impl Strategy<Value = (u8, usize, u64, u64)> {
    let offset = prop_oneof![0u64..0x1000, 0x6000u64..0x6400, 0xff00u64..0x1_0040, 0x1_0000u64..0x1_0d00, any::<u64>()];
    let value = prop_oneof![any::<u64>(), any::<u32>().prop_map(u64::from), Just(u64::MAX), 0u64..16];
    (any::<u8>(), prop_oneof![0usize..9, any::<usize>()], offset, value)
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn guests_are_given_what_the_slow_gic_says(
        setup in setup(),
        steps in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 0..200),
    ) {
        let mut pair = Pair::new(setup);
        for step in steps {
            pair.step(step);
        }
        pair.drain();
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn garbage_is_answered_and_leaves_a_sound_state(
        vcpus in 0usize..10,
        count in 0usize..20,
        steps in prop::collection::vec(garbage(), 0..100),
    ) {
        let mut gic = Vgic::new(vcpus);
        gic.map_hw(27, 27);
        let mut lrs: Vec<_> = (0..MAX_VCPUS).map(|_| ListRegisters::new(count)).collect();
        for (op, vcpu, offset, value) in steps {
            let size = AccessSize::from_sas(op.into());
            let set = match op >> 2 & 15 {
                0..4 => gic.dist_write(offset, size, value),
                4..8 => gic.redist_write(vcpu, offset, size, value),
                8 => {
                    prop_assert!(gic.dist_read(offset, size) <= u64::MAX >> (64 - 8 * size.bytes()));
                    gic.dist_needs_sync(offset)
                }
                9 => {
                    prop_assert!(gic.redist_read(vcpu, offset, size) <= u64::MAX >> (64 - 8 * size.bytes()));
                    gic.redist_needs_sync(vcpu, offset)
                }
                10 => gic.send_sgi(vcpu, value, op & 1 != 0),
                11 => gic.set_line(value as u32 % 128, vcpu, op & 1 != 0),
                12 => gic.deactivate(vcpu, value as u32),
                13 => {
                    let image = &mut lrs[vcpu % MAX_VCPUS];
                    // The guest changes states at will; a count of ends is anything.
                    image.lr.iter_mut().for_each(|lr| *lr = *lr & !(3 << 62) | value.rotate_left(*lr as u32) & 3 << 62);
                    image.eoi_count = value as u8 % 32;
                    let set = gic.fold(vcpu % MAX_VCPUS, image);
                    image.vmcr = offset;
                    gic.fill(vcpu % MAX_VCPUS, image);
                    prop_assert!(image.used.count_ones() <= u32::from(image.count));
                    set
                }
                14 => gic.pulse(value as u32, vcpu),
                _ => {
                    gic.has_pending(vcpu, value, op);
                    gic.is_active_or_pending(vcpu, value as u32);
                    gic.owner_of(value as u32);
                    gic.hw_in_flight(vcpu);
                    VcpuSet::EMPTY
                }
            };
            prop_assert!(set.iter().all(|vcpu| vcpu < gic.vcpus()));
        }
        for (vcpu, lrs) in lrs.iter_mut().enumerate() {
            let _ = gic.fold(vcpu, lrs);
        }
        prop_assert!(gic.is_valid());
    }
}
