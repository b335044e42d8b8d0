//! For tests: the hardware and the glue around the model. Guests of these tests run on CPU interfaces that only know their
//! list registers, and the glue does what the module's documentation asks of it.

use super::*;

pub const WORD: AccessSize = AccessSize::Word;
pub const SGI_BASE: u64 = 0x1_0000;
const STATE: u64 = 3 << 62;
const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;

/// A physical CPU with one vCPU resident or waiting outside.
#[derive(Clone)]
pub struct Cpu {
    pub lrs: ListRegisters,
    pub resident: bool,
    /// Group enables, priority mask; split priority drop and deactivation.
    pub groups: u64,
    pub pmr: u8,
    pub eoi_mode: bool,
    /// Priorities of the interrupts that run, the most urgent last.
    pub running: Vec<u8>,
    pub eoi_count: u8,
    /// Maintenance interrupts and DIR traps so far.
    pub exits: u32,
    /// The physical timer (PPI 27): its output, and the physical interrupt's active state.
    pub timer: bool,
    pub timer_active: bool,
}

impl Cpu {
    pub fn vmcr(&self) -> u64 {
        u64::from(self.pmr) << 24 | u64::from(self.eoi_mode) << 9 | self.groups
    }

    pub fn running(&self) -> u8 {
        self.running.last().copied().unwrap_or(0xff)
    }

    /// What reading ICC_IAR1 (or IAR0) finds: the most urgent pending LR, if it may interrupt.
    fn signalled(&self) -> Option<usize> {
        if !self.resident {
            return None;
        }
        let pending = |&slot: &usize| {
            let lr = self.lrs.lr[slot];
            lr & STATE == PENDING && self.groups >> (lr >> 60 & 1) & 1 != 0
        };
        let priority = |slot: usize| (self.lrs.lr[slot] >> 48) as u8;
        let best = (0..self.lrs.count as usize).filter(pending).min_by_key(|&slot| priority(slot))?;
        (priority(best) < self.pmr && priority(best) < self.running()).then_some(best)
    }

    /// The causes in ICH_MISR_EL2.
    fn maintenance(&self) -> bool {
        let lrs = &self.lrs.lr[..self.lrs.count as usize];
        let hcr = self.lrs.hcr;
        self.resident
            && (lrs.iter().any(|lr| lr & STATE == 0 && lr & 1 << 41 != 0 && lr & 1 << 61 == 0)
                || hcr & 1 << 1 != 0
                || hcr & 1 << 2 != 0 && self.eoi_count != 0
                || hcr & 1 << 3 != 0 && !lrs.iter().any(|lr| lr & STATE == PENDING)
                || hcr & 1 << 4 != 0 && self.groups & 1 != 0
                || hcr & 1 << 6 != 0 && self.groups & 2 != 0)
    }
}

/// A machine with a CPU for each vCPU.
#[derive(Clone)]
pub struct Machine {
    pub gic: Vgic,
    pub cpus: Vec<Cpu>,
}

impl Machine {
    pub fn new(vcpus: usize, list_registers: usize) -> Self {
        let mut gic = Vgic::new(vcpus);
        assert!(gic.map_hw(27, 27));
        let cpu = Cpu {
            lrs: ListRegisters::new(list_registers),
            resident: false,
            groups: 2,
            pmr: 0xff,
            eoi_mode: false,
            running: vec![],
            eoi_count: 0,
            exits: 0,
            timer: false,
            timer_active: false,
        };
        let mut machine = Self { gic, cpus: vec![cpu; vcpus] };
        (0..vcpus).for_each(|vcpu| machine.load(vcpu));
        machine
    }

    /// A machine whose guest has set everything to group 1, priority 0xa0 and enabled it, as kernels do.
    pub fn booted(vcpus: usize, list_registers: usize) -> Self {
        let mut machine = Self::new(vcpus, list_registers);
        for n in 1..3 {
            machine.dist_write(0x80 + 4 * n, u32::MAX);
            machine.dist_write(0x100 + 4 * n, u32::MAX);
        }
        for spi in 32..96 {
            machine.dist_priority(spi, 0xa0);
        }
        for vcpu in 0..vcpus {
            machine.redist_write(vcpu, 0x14, 0);
            machine.redist_write(vcpu, SGI_BASE + 0x80, u32::MAX);
            machine.redist_write(vcpu, SGI_BASE + 0x100, u32::MAX);
            for n in 0..8 {
                machine.redist_write(vcpu, SGI_BASE + 0x400 + 4 * n, 0xa0a0_a0a0);
            }
        }
        machine.dist_write(0, 2);
        machine
    }

    pub fn dist_write(&mut self, offset: u64, value: u32) {
        let set = self.gic.dist_write(offset, WORD, value.into());
        self.tell(set);
    }

    pub fn redist_write(&mut self, vcpu: usize, offset: u64, value: u32) {
        let set = self.gic.redist_write(vcpu, offset, WORD, value.into());
        self.tell(set);
    }

    pub fn dist_priority(&mut self, intid: u32, priority: u8) {
        let set = self.gic.dist_write(0x400 + u64::from(intid), AccessSize::Byte, priority.into());
        self.tell(set);
    }

    pub fn redist_priority(&mut self, vcpu: usize, intid: u32, priority: u8) {
        let set = self.gic.redist_write(vcpu, SGI_BASE + 0x400 + u64::from(intid), AccessSize::Byte, priority.into());
        self.tell(set);
    }

    pub fn route(&mut self, intid: u32, value: u64) {
        let set = self.gic.dist_write(0x6000 + 8 * u64::from(intid), AccessSize::Double, value);
        self.tell(set);
    }

    /// Reads a distributor register as the guest sees it.
    pub fn dist_read(&mut self, offset: u64) -> u32 {
        let set = self.gic.dist_needs_sync(offset);
        self.tell(set);
        self.gic.dist_read(offset, WORD) as u32
    }

    pub fn redist_read(&mut self, vcpu: usize, offset: u64) -> u32 {
        let set = self.gic.redist_needs_sync(vcpu, offset);
        self.tell(set);
        self.gic.redist_read(vcpu, offset, WORD) as u32
    }

    pub fn line(&mut self, intid: u32, vcpu: usize, level: bool) {
        let set = self.gic.set_line(intid, vcpu, level);
        self.tell(set);
    }

    pub fn pulse(&mut self, intid: u32, vcpu: usize) {
        let set = self.gic.pulse(intid, vcpu);
        self.tell(set);
    }

    /// Writes ICC_SGI1R_EL1.
    pub fn sgi(&mut self, from: usize, intid: u32, targets: u16) {
        let set = self.gic.send_sgi(from, u64::from(intid) << 24 | u64::from(targets), true);
        self.tell(set);
    }

    /// The timer's output changes. That it falls is noticed at the next exit in truth, at once here.
    pub fn timer(&mut self, vcpu: usize, output: bool) {
        self.cpus[vcpu].timer = output;
        if !output {
            self.resync(vcpu);
        }
        self.run(vcpu);
    }

    pub fn tell(&mut self, set: VcpuSet) {
        for vcpu in set.iter() {
            self.resync(vcpu);
        }
        for vcpu in set.iter() {
            self.run(vcpu);
        }
    }

    /// Makes the vCPU resident.
    pub fn load(&mut self, vcpu: usize) {
        self.cpus[vcpu].resident = true;
        self.cpus[vcpu].timer_active = self.gic.hw_in_flight(vcpu) >> 27 & 1 != 0;
        self.fill(vcpu);
        self.run(vcpu);
    }

    /// Takes the vCPU off its CPU, on which something else may run.
    pub fn unload(&mut self, vcpu: usize) {
        let others = self.fold(vcpu);
        self.cpus[vcpu].resident = false;
        self.cpus[vcpu].eoi_count = 0;
        self.run(vcpu);
        self.tell(others);
    }

    fn resync(&mut self, vcpu: usize) {
        if self.cpus[vcpu].resident {
            let others = self.fold(vcpu);
            self.fill(vcpu);
            self.tell(others);
        }
    }

    fn fold(&mut self, vcpu: usize) -> VcpuSet {
        let cpu = &mut self.cpus[vcpu];
        cpu.lrs.eoi_count = cpu.eoi_count;
        let others = self.gic.fold(vcpu, &mut cpu.lrs);
        if self.gic.hw_waiting(vcpu) >> 27 & 1 != 0 && !cpu.timer {
            // A fill follows, or the vCPU is not resident.
            let _ = self.gic.set_line(27, vcpu, false);
        }
        others
    }

    fn fill(&mut self, vcpu: usize) {
        let cpu = &mut self.cpus[vcpu];
        cpu.lrs.vmcr = cpu.vmcr();
        let before = cpu.lrs.clone();
        self.gic.fill(vcpu, &mut cpu.lrs);
        if cpu.lrs.hcr != before.hcr {
            cpu.eoi_count = 0;
        }
        for slot in 0..16 {
            // Hardware has what was written to it.
            assert!(cpu.lrs.dirty >> slot & 1 != 0 || cpu.lrs.lr[slot] == before.lr[slot]);
        }
        let mut listed: Vec<u32> = bits(cpu.lrs.used.into()).map(|slot| cpu.lrs.lr[slot as usize] as u32).collect();
        listed.sort_unstable();
        assert!(listed.windows(2).all(|pair| pair[0] != pair[1]), "listed twice: {listed:?}");
        cpu.lrs.dirty = 0;
        if cpu.lrs.deactivate >> 27 & 1 != 0 {
            cpu.timer_active = false;
        }
        cpu.lrs.deactivate = 0;
    }

    /// Lets the exits happen that hardware would take before the guest's next instruction.
    fn run(&mut self, vcpu: usize) {
        for _ in 0..200 {
            let cpu = &mut self.cpus[vcpu];
            if cpu.timer && (!cpu.timer_active || !cpu.resident) {
                // The physical interrupt, or the host timer that stands in for it.
                cpu.timer_active = cpu.resident;
                let set = self.gic.set_line(27, vcpu, true);
                if set.contains(vcpu) {
                    self.resync(vcpu);
                }
                if !self.cpus[vcpu].resident {
                    return;
                }
            } else if cpu.maintenance() {
                cpu.exits += 1;
                self.resync(vcpu);
            } else {
                return;
            }
        }
        panic!("vCPU {vcpu} exits for ever: {:x?}", self.cpus[vcpu].lrs);
    }

    /// Acknowledges an interrupt, if there is one.
    pub fn ack(&mut self, vcpu: usize) -> Option<u32> {
        self.run(vcpu);
        let cpu = &mut self.cpus[vcpu];
        let slot = cpu.signalled()?;
        let lr = &mut cpu.lrs.lr[slot];
        *lr = *lr & !STATE | ACTIVE;
        let (intid, priority) = (*lr as u32, (*lr >> 48) as u8);
        cpu.running.push(priority);
        self.run(vcpu);
        Some(intid)
    }

    /// Drops the priority and, unless that is split, deactivates.
    pub fn eoi(&mut self, vcpu: usize, intid: u32) {
        let cpu = &mut self.cpus[vcpu];
        cpu.running.pop().expect("EOI without an interrupt running");
        if !cpu.eoi_mode {
            self.end(vcpu, intid);
        }
        self.run(vcpu);
    }

    /// Deactivates where that is split from the priority drop.
    pub fn dir(&mut self, vcpu: usize, intid: u32) {
        assert!(self.cpus[vcpu].eoi_mode);
        if self.cpus[vcpu].lrs.hcr & 1 << 14 != 0 {
            self.cpus[vcpu].exits += 1;
            let others = self.fold(vcpu);
            let set = self.gic.deactivate(vcpu, intid);
            self.fill(vcpu);
            self.tell(set.union(others));
        } else {
            self.end(vcpu, intid);
        }
        self.run(vcpu);
    }

    fn end(&mut self, vcpu: usize, intid: u32) {
        let cpu = &mut self.cpus[vcpu];
        let held = |lr: &&mut u64| **lr & ACTIVE != 0 && **lr as u32 == intid;
        match cpu.lrs.lr[..cpu.lrs.count as usize].iter_mut().find(held) {
            Some(lr) => {
                *lr &= !ACTIVE;
                if *lr & 1 << 61 != 0 {
                    assert_eq!(*lr >> 32 & 0x1fff, 27);
                    cpu.timer_active = false;
                }
            }
            None => cpu.eoi_count += 1,
        }
    }

    /// Takes and ends everything that the vCPU is given, in order.
    pub fn take_all(&mut self, vcpu: usize) -> Vec<u32> {
        let mut taken = vec![];
        while let Some(intid) = self.ack(vcpu) {
            assert!(taken.len() < 500, "interrupts without end");
            taken.push(intid);
            self.eoi(vcpu, intid);
            if self.cpus[vcpu].eoi_mode {
                self.dir(vcpu, intid);
            }
        }
        taken
    }
}
