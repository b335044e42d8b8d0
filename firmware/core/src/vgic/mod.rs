//! The virtual GICv3 of one VM: distributor, redistributors and the state of every SGI, PPI and SPI, as plain data and
//! pure logic (Arm IHI 0069). A fork is a copy of it, a hand-over is its serialisation.
//!
//! On the data path it comes after `exit` (trapped GICD/GICR accesses and `ICC_SGI1R_EL1` writes) and the devices
//! (input lines), and before the hardware list registers (`ICH_LR<n>_EL2`), which are a *cache* of this state.
//!
//! # Who holds an interrupt
//! [`Vgic::fill`] moves what a vCPU can take into a [`ListRegisters`] image; such interrupts are *listed*, and hardware
//! changes their state without telling anyone. [`Vgic::fold`] takes the states back. In between the model can be changed
//! freely from any CPU: every change says in a [`VcpuSet`] which vCPUs must fold and fill again before the change is seen
//! by the guest. Nothing has to be folded *before* a change. What the model reports about a listed interrupt is its state
//! at the last fill; [`Vgic::dist_needs_sync`] and [`Vgic::redist_needs_sync`] name the vCPUs to fold first where the guest
//! may care (reads of the pending and active registers).
//!
//! # What the glue does
//! - Keep one [`ListRegisters`] per physical CPU; it mirrors that CPU's `ICH_LR<n>_EL2`.
//! - To fold: read the LRs in `used` into `lr`, `ICH_HCR_EL2.EOIcount` into `eoi_count`, call `fold`. Kick the set it returns.
//! - To fill: call `fill`; write the LRs in `dirty` and clear it; write `hcr` to `ICH_HCR_EL2` if the fill changed it, which
//!   also zeroes EOIcount; deactivate the physical interrupts in `deactivate` (`GICR_ICACTIVER0`) and clear it.
//!   `vmcr` should hold `ICH_VMCR_EL2` as of the exit; it only matters when interrupts outnumber list registers.
//! - For each vCPU in a returned set: if it runs elsewhere, kick that CPU, which folds and fills; if it sleeps in WFI, wake it
//!   when [`Vgic::has_pending`]; if it is the current one, fold and fill before entry. Sets are generous, never too small.
//! - Maintenance interrupt: fold, fill. Its causes: a level-sensitive interrupt ended while its line was high (LR.EOI), all
//!   listed pending interrupts were taken and more wait (`NPIE`; chosen over `UIE`, which never goes quiet with one list
//!   register), an unlisted active interrupt ended (`LRENPIE`), the guest turned a group on (`VGrp<n>EIE`).
//! - vCPU switch: fold the old one; save and restore `ICH_VMCR_EL2` and `ICH_AP0R<n>`/`ICH_AP1R<n>_EL2`, which are the CPU
//!   interface's own state and not in here; fill the new one. A vCPU that is not resident is always folded.
//! - A trapped `ICC_DIR_EL1` write (`hcr` has TDIR): fold, [`Vgic::deactivate`], fill.
//!
//! # Interrupts backed by a physical one (the timers)
//! For an INTID given to [`Vgic::map_hw`] the line means "the physical interrupt was taken and is still active". The glue
//! acknowledges it, drops its priority only (`EOImode` 1) and calls [`Vgic::set_line`] high. The LR carries HW=1, so the
//! guest's deactivation also deactivates the physical interrupt, which fires again if its source still asserts.
//! - When a vCPU becomes resident: make the physical active state of each mapped PPI equal to [`Vgic::hw_in_flight`].
//!   A timer that expires while its vCPU is not resident is `set_line` high from the host timer that stood in for it.
//! - After a fold, if [`Vgic::hw_waiting`] is not empty the guest has not taken the interrupt yet and may have stopped its
//!   timer: `set_line` low if the timer's output (ENABLE, not IMASK, ISTATUS) is low. Leaving this out costs the guest a
//!   spurious interrupt, nothing more.

mod bank;
mod dist;
mod lrs;
mod redist;
mod rows;

#[cfg(test)]
mod machine;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use bank::Bank;
pub use lrs::ListRegisters;
pub use rows::AccessSize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of SPIs of a VM: INTIDs 32 to 95.
pub const SPIS: usize = 64;

/// The most vCPUs that a VM can have. vCPU `n` has the affinity 0.0.0.n.
pub const MAX_VCPUS: usize = 8;

/// The size of the distributor's frame (`GICD_*`), in bytes.
pub const DIST_SIZE: u64 = 0x1_0000;

/// The size of one redistributor, `RD_base` and `SGI_base` frame, in bytes.
pub const REDIST_SIZE: u64 = 0x2_0000;

/// The priority bits that are kept: five, as many as the least list register has (IHI 0069 4.8).
const PRIORITY_MASK: u8 = 0xf8;

const FIRST_PPI: u32 = 16;
const FIRST_SPI: u32 = 32;
const LAST_SPI: u32 = FIRST_SPI + SPIS as u32 - 1;
const SGIS: u64 = 0xffff;
const PPIS: u64 = 0xffff_0000;

const _: () = assert!(size_of::<Vgic>() <= 4096 && size_of::<VgicCpu>() <= 256);

/// A set of vCPUs of one VM, those that must fold and fill again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[must_use = "these vCPUs have to be told"]
pub struct VcpuSet(u8);

impl VcpuSet {
    /// No vCPU.
    pub const EMPTY: Self = Self(0);

    /// Returns the set of one vCPU; empty if `vcpu` is out of range.
    pub const fn one(vcpu: usize) -> Self {
        if vcpu < MAX_VCPUS { Self(1 << vcpu) } else { Self(0) }
    }

    /// Returns true if there is no vCPU in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns true if `vcpu` is in the set.
    pub const fn contains(self, vcpu: usize) -> bool {
        self.0 & Self::one(vcpu).0 != 0
    }

    /// Returns the set without `vcpu`.
    pub const fn without(self, vcpu: usize) -> Self {
        Self(self.0 & !Self::one(vcpu).0)
    }

    /// Returns the vCPUs that are in either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the vCPUs in the set, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        bits(self.0.into()).map(|bit| bit as usize)
    }
}

/// Returns the numbers of the bits that are set, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros();
            word &= word - 1;
            bit
        })
    })
}

/// Which interrupts something is about: the SPIs, or the SGIs and PPIs of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Dist,
    Redist(usize),
}

/// The redistributor of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct VgicCpu {
    /// SGIs and PPIs, by INTID.
    bank: Bank,
    /// The SPIs that this vCPU takes. No SPI is in two vCPUs' sets; one that is routed nowhere is in none.
    spis: u64,
    /// Mapped PPIs whose physical interrupt fired since they were listed.
    refired: u32,
    /// Mapped PPIs that left the flight by another way than the guest's deactivation: to be deactivated physically.
    deactivate: u32,
}

/// The GICv3 of one VM. See the module's documentation for how it is used. A hand-over has it as it is.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Vgic {
    /// SPIs, by INTID - 32.
    spi: Bank,
    cpus: [VgicCpu; MAX_VCPUS],
    /// `GICD_IROUTER<n>`, Aff2 to Aff0. Aff3 is RAZ/WI (`GICD_TYPER.A3V` is 0).
    affinity: [u32; SPIS],
    /// `GICD_IROUTER<n>.Interrupt_Routing_Mode`: 1 of N.
    any: u64,
    /// SPIs that are active or listed at a vCPU which is not the one they are routed to any more.
    moving: u64,
    /// The PPIs that are backed by a physical interrupt, of every vCPU.
    hw: u32,
    /// The physical INTID of each PPI in `hw`, by INTID - 16.
    pintid: [u8; 16],
    vcpus: u8,
    /// `GICD_CTLR.EnableGrp1` and `EnableGrp0`.
    ctlr: u8,
    /// vCPUs with `GICR_WAKER.ProcessorSleep` set.
    asleep: u8,
    reserved: u8,
}

impl Vgic {
    /// Returns a GIC out of reset for `vcpus` vCPUs, at least one and at most [`MAX_VCPUS`].
    pub fn new(vcpus: usize) -> Self {
        let vcpus = vcpus.clamp(1, MAX_VCPUS) as u8;
        let bank = Bank::new(SGIS);
        let cpu = VgicCpu { bank, spis: 0, refired: 0, deactivate: 0 };
        let mut gic = Self {
            spi: Bank::new(0),
            cpus: core::array::from_fn(|_| cpu.clone()),
            affinity: [0; SPIS],
            any: 0,
            moving: 0,
            hw: 0,
            pintid: [0; 16],
            vcpus,
            ctlr: 0,
            asleep: u8::MAX >> (MAX_VCPUS as u8 - vcpus),
            reserved: 0,
        };
        gic.cpus[0].spis = u64::MAX;
        gic
    }

    /// Brings everything back to its reset state except the number of vCPUs and the mapping to physical interrupts. Lines
    /// are low after it: devices drive theirs again. No vCPU may be resident; list registers not yet folded are ignored.
    pub fn reset(&mut self) {
        let mut new = Self { hw: self.hw, pintid: self.pintid, ..Self::new(self.vcpus()) };
        for (old, cpu) in self.cpus.iter().zip(&mut new.cpus) {
            cpu.deactivate = old.deactivate | old.hw_in_flight(self.hw);
        }
        *self = new;
    }

    /// Returns the number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.vcpus.into()
    }

    /// Backs the PPI `intid` of every vCPU with the physical interrupt `pintid` of the CPU it runs on. Such a PPI is always
    /// level-sensitive. Returns false, and changes nothing, unless both are PPIs.
    pub fn map_hw(&mut self, intid: u32, pintid: u32) -> bool {
        let Some(slot) = intid.checked_sub(FIRST_PPI).and_then(|n| self.pintid.get_mut(n as usize)) else {
            return false;
        };
        if !(FIRST_PPI..FIRST_SPI).contains(&pintid) {
            return false;
        }
        *slot = pintid as u8;
        self.hw |= 1 << intid;
        for cpu in &mut self.cpus {
            cpu.bank.edge &= !(1 << intid);
        }
        true
    }

    /// Drives the input line of a PPI of `vcpu`, or of an SPI (`vcpu` is then ignored). An edge-triggered interrupt becomes
    /// pending when its line rises, a level-sensitive one is pending while it is high. For mapped PPIs see the module's
    /// documentation. Other INTIDs have no line.
    pub fn set_line(&mut self, intid: u32, vcpu: usize, level: bool) -> VcpuSet {
        let Some((frame, bit)) = self.locate(intid, vcpu) else { return VcpuSet::EMPTY };
        if intid < FIRST_PPI {
            return VcpuSet::EMPTY;
        }
        if let Frame::Redist(vcpu) = frame
            && bit & u64::from(self.hw) != 0
        {
            return self.set_hw_line(vcpu, bit, level);
        }
        let bank = self.bank_mut(frame);
        if (bank.line & bit != 0) == level {
            return VcpuSet::EMPTY;
        }
        bank.line ^= bit;
        if level {
            bank.latch |= bit & bank.edge;
        } else if bank.edge & bit != 0 {
            return VcpuSet::EMPTY;
        }
        self.affected(frame, bit)
    }

    /// Raises and lowers an input line: makes an edge-triggered interrupt pending, and does nothing lasting to a level one.
    pub fn pulse(&mut self, intid: u32, vcpu: usize) -> VcpuSet {
        self.set_line(intid, vcpu, true).union(self.set_line(intid, vcpu, false))
    }

    fn set_hw_line(&mut self, vcpu: usize, bit: u64, level: bool) -> VcpuSet {
        let cpu = &mut self.cpus[vcpu % MAX_VCPUS];
        let listed = cpu.bank.listed & bit != 0;
        if level {
            // If the guest has deactivated what is listed, this is the next one; the fold will find out.
            if listed {
                cpu.refired |= bit as u32;
            }
            cpu.bank.line |= bit;
            cpu.deactivate &= !(bit as u32);
        } else if !listed {
            let gone = cpu.bank.line & !cpu.bank.active & bit;
            cpu.bank.line &= !gone;
            cpu.deactivate |= gone as u32;
        }
        self.affected(Frame::Redist(vcpu), bit)
    }

    /// Makes SGIs pending as a write of `value` to `ICC_SGI1R_EL1` (`group1`) or `ICC_SGI0R_EL1` by vCPU `from` does. Without
    /// a second security state the former sends SGIs of either group, the latter (and `ICC_ASGI1R_EL1`) those of group 0.
    pub fn send_sgi(&mut self, from: usize, value: u64, group1: bool) -> VcpuSet {
        let all = (1u32 << self.vcpus) - 1;
        let targets = if value & (1 << 40) != 0 {
            all & !u32::from(VcpuSet::one(from).0) // IRM: everyone but the sender
        } else if value & 0x00ff_f0ff_00ff_0000 != 0 {
            0 // Aff3, RS, Aff2 or Aff1 of no vCPU
        } else {
            value as u32 & all
        };
        let intid = (value >> 24) as u32 & 0xf;
        let mut set = VcpuSet::EMPTY;
        for vcpu in bits(targets.into()) {
            let bank = &mut self.cpus[vcpu as usize % MAX_VCPUS].bank;
            if group1 || bank.group >> intid & 1 == 0 {
                bank.latch |= 1 << intid;
                if (bank.listed | bank.wanted(self.ctlr)) >> intid & 1 != 0 {
                    set.0 |= 1 << vcpu;
                }
            }
        }
        set
    }

    /// Ends the active state of `intid` as a write to `ICC_DIR_EL1` by `vcpu` does. SPIs may be active at another vCPU.
    pub fn deactivate(&mut self, vcpu: usize, intid: u32) -> VcpuSet {
        let Some((frame, bit)) = self.locate(intid, vcpu) else { return VcpuSet::EMPTY };
        let bank = self.bank_mut(frame);
        if (bank.active | bank.listed) & bit == 0 {
            return VcpuSet::EMPTY;
        }
        let gone = bank.clear_active(bit);
        self.retire(frame, gone);
        self.affected(frame, bit)
    }

    /// Returns true if `vcpu` has an interrupt that its CPU interface would signal, so that WFI completes: pending, enabled,
    /// its group on in the distributor and in `vmcr` (`ICH_VMCR_EL2`), of higher priority than the priority mask and
    /// than `running` ([`running_priority`]). The vCPU must be folded.
    pub fn has_pending(&self, vcpu: usize, vmcr: u64, running: u8) -> bool {
        let Some(cpu) = self.cpus.get(vcpu) else { return false };
        let pmr = (vmcr >> 24) as u8;
        let signals = |bank: &Bank, set: u64| {
            bits(bank.wanted(self.ctlr) & !bank.active & set).any(|n| {
                let group = bank.group >> n & 1;
                let priority = bank.priority(n);
                // `running` is a group priority, so to compare with it is to compare group priorities (IHI 0069 4.8.2).
                vmcr >> group & 1 != 0 && priority < pmr && priority < running
            })
        };
        signals(&cpu.bank, u64::MAX) || signals(&self.spi, cpu.spis & !self.moving)
    }

    /// Returns true if `intid` is active or pending at `vcpu` (or, an SPI, anywhere), enabled or not.
    pub fn is_active_or_pending(&self, vcpu: usize, intid: u32) -> bool {
        self.locate(intid, vcpu).is_some_and(|(frame, bit)| {
            let bank = self.bank(frame);
            (bank.active | bank.pending()) & bit != 0
        })
    }

    /// Returns the vCPU whose list registers hold the SPI `intid`.
    pub fn owner_of(&self, intid: u32) -> Option<usize> {
        let (Frame::Dist, bit) = self.locate(intid, 0)? else { return None };
        self.cpus.iter().position(|cpu| self.spi.listed & cpu.spis & bit != 0)
    }

    /// Returns, as a mask of INTIDs, the mapped PPIs of `vcpu` whose physical interrupt has to be active while it is resident.
    pub fn hw_in_flight(&self, vcpu: usize) -> u32 {
        self.cpus.get(vcpu).map_or(0, |cpu| cpu.hw_in_flight(self.hw))
    }

    /// Returns, as a mask of INTIDs, the mapped PPIs that `vcpu` has not taken yet. The vCPU must be folded.
    pub fn hw_waiting(&self, vcpu: usize) -> u32 {
        self.cpus.get(vcpu).map_or(0, |cpu| self.hw & (cpu.bank.line & !cpu.bank.active) as u32)
    }

    /// Returns true if no record could make it invalid: what a record read from outside must satisfy before it is used.
    /// The vCPUs of a saved GIC are folded.
    pub fn is_valid(&self) -> bool {
        let vcpus = self.vcpus();
        let sane = |bank: &Bank, mask: u64| bank.is_valid(mask) && bank.listed == 0;
        let homes = self.cpus.iter().try_fold(0u64, |seen, cpu| (seen & cpu.spis == 0).then_some(seen | cpu.spis));
        (1..=MAX_VCPUS).contains(&vcpus)
            && self.ctlr <= 3
            && u32::from(self.asleep) < 1 << vcpus
            && self.hw & !(PPIS as u32) == 0
            && (0..16).all(|n| self.hw >> (n + 16) & 1 == 0 || PPIS >> (self.pintid[n] & 63) & 1 != 0)
            && self.affinity.iter().all(|affinity| affinity >> 24 == 0)
            && self.moving & !self.spi.active == 0
            && sane(&self.spi, u64::MAX)
            && homes.is_some()
            && (0..SPIS as u32).all(|n| self.moving >> n & 1 != 0 || self.home(n) == self.target(n))
            && self.cpus.iter().enumerate().all(|(n, cpu)| {
                sane(&cpu.bank, PPIS | SGIS)
                    && cpu.bank.edge & SGIS == SGIS
                    && cpu.bank.edge & u64::from(self.hw) == 0
                    && cpu.refired == 0
                    && cpu.deactivate & !self.hw == 0
                    && (n < vcpus || cpu.spis == 0)
            })
    }

    /// Returns where the state of `intid` is kept, if it exists.
    fn locate(&self, intid: u32, vcpu: usize) -> Option<(Frame, u64)> {
        match intid {
            0..FIRST_SPI => (vcpu < self.vcpus()).then_some((Frame::Redist(vcpu), 1 << intid)),
            FIRST_SPI..=LAST_SPI => Some((Frame::Dist, 1 << (intid - FIRST_SPI))),
            _ => None,
        }
    }

    fn bank(&self, frame: Frame) -> &Bank {
        match frame {
            Frame::Dist => &self.spi,
            Frame::Redist(vcpu) => &self.cpus[vcpu % MAX_VCPUS].bank,
        }
    }

    fn bank_mut(&mut self, frame: Frame) -> &mut Bank {
        match frame {
            Frame::Dist => &mut self.spi,
            Frame::Redist(vcpu) => &mut self.cpus[vcpu % MAX_VCPUS].bank,
        }
    }

    /// Returns the vCPUs that a change to the interrupts `changed` matters to: they hold one, or could take one, or have to
    /// let go of a physical one.
    fn affected(&self, frame: Frame, changed: u64) -> VcpuSet {
        let bank = self.bank(frame);
        let concerned = changed & (bank.listed | bank.active | bank.wanted(self.ctlr));
        match frame {
            Frame::Redist(vcpu) if concerned != 0 || self.cpus[vcpu % MAX_VCPUS].deactivate != 0 => VcpuSet::one(vcpu),
            Frame::Dist if concerned != 0 => self.homes_of(concerned),
            _ => VcpuSet::EMPTY,
        }
    }

    /// Returns the vCPUs at which one of `spis` is.
    fn homes_of(&self, spis: u64) -> VcpuSet {
        let at = |(n, cpu): (usize, &VgicCpu)| u8::from(cpu.spis & spis != 0) << n;
        VcpuSet(self.cpus.iter().enumerate().map(at).fold(0, |set, bit| set | bit))
    }

    /// Follows up on interrupts, none of them listed, whose active state was taken away by other means than a list register.
    fn retire(&mut self, frame: Frame, gone: u64) {
        match frame {
            Frame::Dist => self.place(gone & self.moving),
            Frame::Redist(vcpu) => {
                let cpu = &mut self.cpus[vcpu % MAX_VCPUS];
                let hw = gone & u64::from(self.hw);
                cpu.bank.line &= !hw;
                cpu.deactivate |= hw as u32;
            }
        }
    }

    /// Gives each of `spis` to the vCPU that it is routed to, except those that are still held where they are.
    fn place(&mut self, spis: u64) {
        for n in bits(spis) {
            let (bit, target) = (1 << n, self.target(n));
            if target == self.home(n) {
                self.moving &= !bit;
            } else if (self.spi.active | self.spi.listed) & bit != 0 {
                self.moving |= bit;
            } else {
                self.moving &= !bit;
                for (vcpu, cpu) in self.cpus.iter_mut().enumerate() {
                    cpu.spis = cpu.spis & !bit | if target == Some(vcpu) { bit } else { 0 };
                }
            }
        }
    }

    fn home(&self, spi: u32) -> Option<usize> {
        self.cpus.iter().position(|cpu| cpu.spis >> spi & 1 != 0)
    }

    /// Returns the vCPU that an SPI is routed to. 1-of-N interrupts are spread over the vCPUs that are awake, a fixed one
    /// for each until one falls asleep or wakes (the choice is IMPLEMENTATION DEFINED, IHI 0069 4.7.1).
    fn target(&self, spi: u32) -> Option<usize> {
        if self.any >> spi & 1 == 0 {
            let affinity = self.affinity.get(spi as usize).copied().unwrap_or(u32::MAX) as usize;
            return (affinity < self.vcpus()).then_some(affinity);
        }
        let awake = ((1u64 << self.vcpus) - 1) & !u64::from(self.asleep);
        match awake.count_ones() {
            0 => Some(0),
            count => bits(awake).nth((spi % count) as usize).map(|vcpu| vcpu as usize),
        }
    }
}

impl VgicCpu {
    fn hw_in_flight(&self, hw: u32) -> u32 {
        hw & (self.bank.line | self.bank.active) as u32
    }
}

/// Returns the priority of the most urgent active interrupt of a CPU interface, 0xff if there is none, from the values of
/// `ICH_AP0R<n>_EL2` or'ed with those of `ICH_AP1R<n>_EL2`: one, two or four registers (IHI 0069 12.4).
pub fn running_priority(active_priorities: &[u32]) -> u8 {
    let shift = 3u32.saturating_sub(active_priorities.len().max(1).ilog2());
    let mut base = 0;
    for word in active_priorities {
        if *word != 0 {
            return ((base + word.trailing_zeros()) << shift).min(0xff) as u8;
        }
        base += 32;
    }
    0xff
}
