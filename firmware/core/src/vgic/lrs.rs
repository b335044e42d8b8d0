//! Filling and folding list registers. Before it: the state in `bank`; after it: the hardware's `ICH_LR<n>_EL2`.

use super::bank::Bank;
use super::{FIRST_SPI, Frame, MAX_VCPUS, VcpuSet, Vgic, VgicCpu, bits};

/// ICH_LR<n>_EL2 (IHI 0069 12.4): state, hardware interrupt, maintenance interrupt when it ends.
const LR_PENDING: u64 = 1 << 62;
const LR_ACTIVE: u64 = 1 << 63;
const LR_HW: u64 = 1 << 61;
const LR_GROUP_SHIFT: u32 = 60;
const LR_PRIORITY_SHIFT: u32 = 48;
const LR_EOI: u64 = 1 << 41;
const LR_PINTID_SHIFT: u32 = 32;

/// ICH_HCR_EL2 (IHI 0069 12.4).
const HCR_EN: u64 = 1 << 0;
const HCR_LRENPIE: u64 = 1 << 2;
const HCR_NPIE: u64 = 1 << 3;
const HCR_VGRP0EIE: u64 = 1 << 4;
const HCR_VGRP1EIE: u64 = 1 << 6;
const HCR_TDIR: u64 = 1 << 14;
const HCR_EOICOUNT_SHIFT: u32 = 27;

const VMCR_VEOIM: u64 = 1 << 9;

/// The image of one physical CPU's list registers and of what goes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRegisters {
    /// `ICH_LR<n>_EL2`.
    pub lr: [u64; 16],
    /// The registers that hold an interrupt of the resident vCPU; to be read from hardware before a fold.
    pub used: u16,
    /// The registers that the last fills changed. The glue writes them to hardware and clears this.
    pub dirty: u16,
    /// How many list registers the CPU has (`ICH_VTR_EL2.ListRegs` + 1).
    pub count: u8,
    /// In: `ICH_HCR_EL2.EOIcount` at the fold, which takes it.
    pub eoi_count: u8,
    /// In: `ICH_VMCR_EL2` at the fill.
    pub vmcr: u64,
    /// Out: `ICH_HCR_EL2` for the guest, to be written if it differs from before the fill, with the maintenance interrupts and traps that are needed.
    pub hcr: u64,
    /// Out: physical INTIDs 0 to 31, as a mask, to deactivate on this CPU before entry. The glue clears it.
    pub deactivate: u32,
    /// Registers whose content was folded and that hardware still holds.
    folded: u16,
}

impl ListRegisters {
    /// Returns the image of `count` empty registers (at most 16).
    pub const fn new(count: usize) -> Self {
        let count = if count < 16 { count as u8 } else { 16 };
        Self { lr: [0; 16], used: 0, dirty: 0, count, eoi_count: 0, vmcr: 0, hcr: HCR_EN, deactivate: 0, folded: 0 }
    }

    fn put(&mut self, slot: u32, value: u64) {
        let lr = &mut self.lr[slot as usize % 16];
        if *lr != value {
            *lr = value;
            self.dirty |= 1 << (slot % 16);
        }
        self.used |= 1 << (slot % 16);
    }
}

/// What one vCPU could be given of one bank.
#[derive(Clone, Copy)]
struct Flight {
    pending: u64,
    active: u64,
}

impl Flight {
    const NONE: Self = Self { pending: 0, active: 0 };

    #[inline(always)]
    fn of(bank: &Bank, ctlr: u8, set: u64) -> Self {
        let set = set & !bank.listed;
        // Of most vCPUs most of the time nothing is in flight: know that soon.
        if (bank.latch | bank.line | bank.active) & set == 0 {
            return Self::NONE;
        }
        Self { pending: bank.wanted(ctlr) & set, active: bank.active & set }
    }

    fn all(self) -> u64 {
        self.pending | self.active
    }

    fn add(&mut self, n: u32, lr: u64) {
        self.pending |= (lr >> 62 & 1) << (n % 64);
        self.active |= (lr >> 63) << (n % 64);
    }

    /// Returns the part in `set`. Where pending ones wait, an interrupt that is active and pending is listed as active: as it
    /// ends it could otherwise go before a more urgent one that waits.
    fn only(self, set: u64, pending_waits: bool) -> Self {
        let held_back = if pending_waits { self.active } else { 0 };
        Self { pending: self.pending & set & !held_back, active: self.active & set }
    }
}

/// What makes the LRs of one bank differ from plain ones.
struct Marks<'a> {
    first_intid: u32,
    /// Backed by a physical interrupt, and which.
    hw: u32,
    pintid: &'a [u8; 16],
}

impl Vgic {
    /// Lists what `vcpu` has in flight, the most urgent first where there are more interrupts than registers. The vCPU must
    /// be folded. See the module's documentation for what the glue does with the outcome.
    pub fn fill(&mut self, vcpu: usize, lrs: &mut ListRegisters) {
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
        debug_assert!(lrs.used == 0, "fill without fold");
        let mut private = Flight::of(&cpu.bank, self.ctlr, u64::MAX);
        let mut shared = Flight::of(&self.spi, self.ctlr, cpu.spis);
        // What is on its way to another vCPU is only kept here until it ends.
        shared.pending &= !self.moving;
        lrs.hcr = HCR_EN;
        if !fits(private.all(), shared.all(), lrs.count) {
            [private, shared] = choose([&cpu.bank, &self.spi], [private, shared], lrs);
        }
        if lrs.vmcr & VMCR_VEOIM != 0 && self.vcpus > 1 {
            // Deactivation is a write of its own, and of an SPI it may come from a vCPU that never had it listed.
            lrs.hcr |= HCR_TDIR;
        }
        if cpu.deactivate != 0 {
            lrs.deactivate |= physical(core::mem::take(&mut cpu.deactivate), &self.pintid);
        }
        let mut slot = 0;
        if private.all() != 0 {
            slot =
                list(&mut cpu.bank, private, &Marks { first_intid: 0, hw: self.hw, pintid: &self.pintid }, slot, lrs);
        }
        if shared.all() != 0 {
            list(&mut self.spi, shared, &Marks { first_intid: FIRST_SPI, hw: 0, pintid: &self.pintid }, slot, lrs);
        }
        let mut empty = lrs.folded & !lrs.used;
        lrs.folded = 0;
        while empty != 0 {
            let slot = empty.trailing_zeros();
            empty &= empty - 1;
            // An invalid register may stay as it is unless it would raise a maintenance interrupt.
            let lr = &mut lrs.lr[slot as usize % 16];
            if *lr & (LR_PENDING | LR_ACTIVE | LR_EOI) != 0 {
                *lr = 0;
                lrs.dirty |= 1 << slot;
            }
        }
    }

    /// Takes back the states of what was listed for `vcpu`. Returns *other* vCPUs that must fold and fill: an SPI went to them.
    pub fn fold(&mut self, vcpu: usize, lrs: &mut ListRegisters) -> VcpuSet {
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return VcpuSet::EMPTY };
        let (mut private, mut shared) = (Flight::NONE, Flight::NONE);
        for slot in bits(lrs.used.into()) {
            let lr = lrs.lr[slot as usize % 16];
            let intid = lr as u32;
            match intid.checked_sub(FIRST_SPI) {
                _ if lr & (LR_PENDING | LR_ACTIVE) == 0 => {}
                None => private.add(intid, lr),
                Some(n) => shared.add(n, lr),
            }
        }
        lrs.folded |= lrs.used;
        lrs.used = 0;

        let mut others = VcpuSet::EMPTY;
        let listed = cpu.bank.listed;
        let listed_spis = self.spi.listed & cpu.spis;
        if listed & u64::from(self.hw) != 0 {
            cpu.take_back_hw(listed & u64::from(self.hw), private, lrs);
        }
        cpu.bank.take_back(listed, private.pending, private.active);
        if listed_spis != 0 {
            self.spi.take_back(listed_spis, shared.pending, shared.active);
            let moved = self.moving & listed_spis & !self.spi.active;
            if moved != 0 {
                self.place(moved);
                others = self.affected(Frame::Dist, moved);
            }
        }
        // Hardware also counts ends of interrupts that were not active at all: they end nothing.
        let ends = core::mem::take(&mut lrs.eoi_count);
        // `hcr` is what hardware holds: that the next fill's differs tells the glue to write it, and so to zero the count.
        lrs.hcr |= u64::from(ends) << HCR_EOICOUNT_SHIFT;
        if lrs.hcr & HCR_LRENPIE != 0 {
            for _ in 0..ends {
                others = others.union(self.end_most_urgent(vcpu, !listed, !listed_spis));
            }
        }
        others.without(vcpu)
    }

    /// Ends the most urgent interrupt of those that were active but not listed: the only one that the guest may end next
    /// where it drops priority and deactivates in one write (IHI 0069 4.8.3, `ICH_HCR_EL2.EOIcount`).
    #[cold]
    fn end_most_urgent(&mut self, vcpu: usize, private: u64, shared: u64) -> VcpuSet {
        let cpu = &self.cpus[vcpu % MAX_VCPUS];
        let private = bits(private & cpu.bank.active).map(|n| (cpu.bank.priority(n), n));
        let shared = bits(shared & self.spi.active & cpu.spis).map(|n| (self.spi.priority(n), FIRST_SPI + n));
        match private.chain(shared).min() {
            Some((_, intid)) => self.deactivate(vcpu, intid),
            None => VcpuSet::EMPTY,
        }
    }
}

/// Returns true if no more than `room` bits are set. Few are, so they are counted one by one.
fn fits(mut a: u64, mut b: u64, room: u8) -> bool {
    if a & a.wrapping_sub(1) | b == 0 && room != 0 {
        return true;
    }
    for _ in 0..room.min(16) {
        if a != 0 {
            a &= a - 1;
        } else if b != 0 {
            b &= b - 1;
        } else {
            return true;
        }
    }
    a | b == 0
}

/// Writes the LRs of `flight`, from slot `slot` on; returns the next free slot.
#[inline(always)]
fn list(bank: &mut Bank, flight: Flight, marks: &Marks, mut slot: u32, lrs: &mut ListRegisters) -> u32 {
    // What is pending again already, but not listed so, has to be looked at when it ends.
    let again = bank.latch & bank.active & !flight.pending;
    // There is no maintenance interrupt for the end of an LR with HW=1. Without it the fold deactivates for the guest.
    let hw = u64::from(marks.hw) & !again;
    let eoi = (bank.line & !bank.edge | again) & !hw;
    let mut left = flight.all();
    while left != 0 {
        let n = left.trailing_zeros();
        left &= left - 1;
        let mut lr = u64::from(marks.first_intid + n)
            | u64::from(bank.priority(n)) << LR_PRIORITY_SHIFT
            | (bank.group >> n & 1) << LR_GROUP_SHIFT
            | (flight.pending >> n & 1) << 62
            | (flight.active >> n & 1) << 63;
        if eoi >> n & 1 != 0 {
            lr |= LR_EOI;
        }
        if hw >> n & 1 != 0 {
            lr |= LR_HW | u64::from(marks.pintid[n as usize % 16]) << LR_PINTID_SHIFT;
        }
        lrs.put(slot, lr);
        slot += 1;
    }
    bank.listed |= flight.all();
    bank.listed_latch |= bank.latch & flight.pending;
    bank.latch &= !flight.pending;
    slot
}

/// Returns the physical INTIDs of mapped PPIs, both as masks.
#[cold]
fn physical(ppis: u32, pintid: &[u8; 16]) -> u32 {
    bits(ppis.into()).fold(0, |mask, n| mask | 1 << (pintid[n as usize % 16] % 32))
}

impl VgicCpu {
    /// Finds out which of the listed mapped PPIs `hw` have ended. `back` is what is left of them.
    #[inline(never)]
    fn take_back_hw(&mut self, hw: u64, back: Flight, lrs: &ListRegisters) {
        let mut ended = hw & !back.all();
        // Those that were ended in the model only, or in an LR without HW=1: the physical interrupt has to follow.
        let mut behind = hw & back.active & self.bank.forced & !self.bank.active;
        ended |= behind;
        for slot in bits(lrs.folded.into()) {
            let lr = lrs.lr[slot as usize % 16];
            if lr & LR_HW == 0 {
                behind |= ended & 1u64.checked_shl(lr as u32).unwrap_or(0);
            }
        }
        self.bank.line &= !ended | u64::from(self.refired);
        self.deactivate |= behind as u32 & !self.refired;
        self.refired = 0;
    }
}

/// Returns what to list where not everything fits. The most urgent pending interrupt always is, then active ones, so that the
/// guest can end them without an exit, then more pending ones. Among pending ones those whose group the guest has on come
/// first.
#[cold]
#[inline(never)]
fn choose(banks: [&Bank; 2], flights: [Flight; 2], lrs: &mut ListRegisters) -> [Flight; 2] {
    let mut active = Ranked::default();
    let mut pending = Ranked::default();
    for (which, (bank, flight)) in banks.into_iter().zip(flights).enumerate() {
        for n in bits(flight.all()) {
            let id = which as u32 * 64 + n;
            let key = u32::from(bank.priority(n)) << 8 | id;
            if flight.active >> n & 1 != 0 {
                active.insert(key);
            } else {
                let masked = (lrs.vmcr >> (bank.group >> n & 1) & 1) as u32 ^ 1;
                pending.insert(masked << 16 | key);
            }
        }
    }
    let slots = usize::from(lrs.count.min(16));
    let active_slots = active.total.min(slots.saturating_sub(usize::from(pending.total != 0)));
    let pending_slots = pending.total.min(slots - active_slots);
    let pending_waits = pending.total > pending_slots;
    if pending_waits {
        lrs.hcr |= HCR_NPIE;
        // A group that is off now may hold back one that the guest turns on.
        lrs.hcr |= if lrs.vmcr & 1 == 0 { HCR_VGRP0EIE } else { 0 };
        lrs.hcr |= if lrs.vmcr & 2 == 0 { HCR_VGRP1EIE } else { 0 };
    }
    if active.total > active_slots {
        lrs.hcr |= HCR_LRENPIE | HCR_TDIR;
    }
    let mut keep = [0u64; 2];
    for key in active.keys.iter().take(active_slots).chain(pending.keys.iter().take(pending_slots)) {
        keep[(key >> 6 & 1) as usize] |= 1 << (key & 63);
    }
    [0, 1].map(|which| flights[which].only(keep[which], pending_waits))
}

/// The lowest keys of many, in order.
#[derive(Default)]
struct Ranked {
    keys: [u32; 16],
    total: usize,
}

impl Ranked {
    fn insert(&mut self, key: u32) {
        let len = self.total.min(16);
        self.total += 1;
        let at = self.keys[..len].partition_point(|&kept| kept < key);
        if at < 16 {
            let end = (len + 1).min(16);
            self.keys[at..end].rotate_right(1);
            self.keys[at] = key;
        }
    }
}
