//! The exception that a guest takes at EL1, computed as the CPU does it (Arm ARM D1.3, AArch64.TakeException). Before:
//! [`super::decode`]; after: the world switch, which loads the result.
//!
//! A virtual SError needs nothing of this: the CPU takes it by itself when HCR_EL2.VSE is set, with the syndrome in
//! VSESR_EL2 where FEAT_RAS is there ([`VSESR`]).

use super::decode::{DataAbort, InstructionAbort};
use super::skip::AARCH32;

/// VSESR_EL2 of a virtual SError: no information (IDS 0, DFSC 0, "uncategorized").
pub const VSESR: u64 = 0;

/// What the CPU has that changes PSTATE when an exception is taken, hidden from the guest or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// FEAT_PAN: ID_AA64MMFR1_EL1.PAN is not 0.
    pub pan: bool,
    /// FEAT_SSBS: ID_AA64PFR1_EL1.SSBS is not 0.
    pub ssbs: bool,
    /// FEAT_MTE2: ID_AA64PFR1_EL1.MTE is above 1.
    pub mte: bool,
}

/// The guest's state when it exited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// ELR_EL2: the preferred return address of the exception.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// VBAR_EL1.
    pub vbar_el1: u64,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
}

/// Why the guest takes an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The instruction is UNDEFINED: exception class 0.
    Undefined,
    /// Nothing answers at the address of a load or store: a synchronous external abort.
    DataAbort {
        /// The virtual address, for FAR_EL1.
        va: u64,
        /// The access was a store.
        write: bool,
        /// The access was cache maintenance or address translation.
        cache_maintenance: bool,
        /// The guest's table walk at this level hit the address, not the access itself.
        walk: Option<u8>,
    },
    /// Nothing answers at the address of a fetch: a synchronous external abort.
    InstructionAbort {
        /// The virtual address, for FAR_EL1.
        va: u64,
        /// As above.
        walk: Option<u8>,
    },
    /// An exception that EL2 took in the guest's place, with its syndrome and, for those that have one, its address.
    Reflect {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
    },
}

impl Cause {
    /// Returns the cause with which a data abort goes back to the guest. `level` is asked only after one on the
    /// guest's table walk, for the level of stage 1 ([`super::walk`]).
    pub fn of_data(abort: &DataAbort, level: impl FnOnce() -> u8) -> Self {
        Self::DataAbort {
            va: abort.far,
            write: abort.is_write() && !abort.on_table_walk(),
            cache_maintenance: abort.is_cache_maintenance(),
            walk: abort.on_table_walk().then(level),
        }
    }

    /// Returns the cause with which an instruction abort goes back to the guest; `level` as above.
    pub fn of_instruction(abort: &InstructionAbort, level: impl FnOnce() -> u8) -> Self {
        Self::InstructionAbort { va: abort.far, walk: abort.on_table_walk().then(level) }
    }
}

/// The guest's state at its exception vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address of the vector.
    pub pc: u64,
    /// PSTATE at the vector.
    pub pstate: u64,
    /// ELR_EL1: where the exception came from.
    pub elr_el1: u64,
    /// SPSR_EL1: PSTATE before.
    pub spsr_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// FAR_EL1, or `None` where it keeps its value.
    pub far_el1: Option<u64>,
}

const EL_MASK: u64 = 0xf;
const EL1H: u64 = 0x5;
const DAIF: u64 = 0xf << 6;
const SSBS_A64: u64 = 1 << 12;
const PAN: u64 = 1 << 22;
const DIT: u64 = 1 << 24;
const TCO: u64 = 1 << 25;
const NZCV: u64 = 0xf << 28;

const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;

const EXTERNAL: u64 = 0x10;
const EXTERNAL_ON_WALK: u64 = 0x14;

/// Computes the state in which the guest takes the exception at EL1. Never panics, whatever the guest's registers hold.
pub fn take(source: &Source, cause: Cause, features: Features) -> Target {
    let (esr_el1, far_el1) = syndrome(source.pstate, cause);
    Target {
        pc: vector(source),
        pstate: entry_pstate(source, features),
        elr_el1: source.pc,
        spsr_el1: source.pstate,
        esr_el1,
        far_el1,
    }
}

/// The address of the synchronous exception vector (Arm ARM D1.3.1, table of vector offsets).
fn vector(source: &Source) -> u64 {
    let offset = match source.pstate & (AARCH32 | EL_MASK) {
        0x4 => 0x000,
        0x5 => 0x200,
        from if from & AARCH32 == 0 => 0x400,
        _ => 0x600,
    };
    (source.vbar_el1 & !0x7ff).wrapping_add(offset)
}

fn from_el1(pstate: u64) -> bool {
    matches!(pstate & (AARCH32 | EL_MASK), 0x4 | 0x5)
}

fn entry_pstate(source: &Source, features: Features) -> u64 {
    // Flags stay, and so do PAN and DIT, which SPSR_EL2 holds at the same place for both states (C5.2.20). SS, IL,
    // UAO, BTYPE and the AArch32 bits become 0.
    let mut pstate = source.pstate & (NZCV | DIT) | DAIF | EL1H;
    if features.pan {
        pstate |= source.pstate & PAN;
        if source.sctlr_el1 & SCTLR_SPAN == 0 {
            pstate |= PAN;
        }
    }
    if features.ssbs && source.sctlr_el1 & SCTLR_DSSBS != 0 {
        pstate |= SSBS_A64;
    }
    if features.mte {
        pstate |= TCO;
    }
    pstate
}

fn syndrome(pstate: u64, cause: Cause) -> (u64, Option<u64>) {
    let status = |walk: Option<u8>| match walk {
        None => EXTERNAL,
        Some(level) => EXTERNAL_ON_WALK + u64::from(level.min(3)),
    };
    // Exception classes come in pairs: from EL0, and one more from EL1. ESR.IL is 1 for all that are made here.
    let esr = |class: u64, iss: u64| class << 26 | 1 << 25 | iss;
    let same_level = u64::from(from_el1(pstate));
    match cause {
        Cause::Undefined => (esr(0, 0), None),
        Cause::InstructionAbort { va, walk } => (esr(0x20 + same_level, status(walk)), Some(va)),
        Cause::DataAbort { va, write, cache_maintenance, walk } => {
            let iss = status(walk) | u64::from(write) << 6 | u64::from(cache_maintenance) << 8;
            (esr(0x24 + same_level, iss), Some(va))
        }
        Cause::Reflect { esr, far } => {
            let class = esr >> 26 & 0x3f;
            // Aborts and debug exceptions are told apart by level.
            let paired = matches!(class, 0x20 | 0x24 | 0x30 | 0x32 | 0x34);
            let has_address = matches!(class, 0x20 | 0x22 | 0x24 | 0x34);
            let class = if paired { class + same_level } else { class };
            (class << 26 | esr & 0x03ff_ffff, has_address.then_some(far))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::decode::{Exit, decode};
    use crate::exit::skip::{BTYPE, SS};
    use crate::exit::tests::{Random, rounds};

    const IL: u64 = 1 << 20;
    const ALLINT: u64 = 1 << 13;
    const UAO: u64 = 1 << 23;
    const LINUX: Features = Features { pan: true, ssbs: true, mte: false };

    fn source(pstate: u64) -> Source {
        Source { pc: 0x1234, pstate, vbar_el1: 0xffff_8000_1000_0800, sctlr_el1: 0x30d0_0800 }
    }

    #[test]
    fn each_source_has_its_vector_and_its_class() {
        // Source, vector, data and instruction abort classes.
        for (pstate, offset, lower) in
            [(0x3c4, 0x000, false), (0x3c5, 0x200, false), (0x3c0, 0x400, true), (0x1d0, 0x600, true)]
        {
            let data = Cause::DataAbort { va: 0x99, write: true, cache_maintenance: false, walk: None };
            let taken = take(&source(pstate), data, LINUX);
            assert_eq!(taken.pc, 0xffff_8000_1000_0800 + offset);
            assert_eq!(taken.pstate & 0x3df, 0x3c5);
            assert_eq!((taken.elr_el1, taken.spsr_el1, taken.far_el1), (0x1234, pstate, Some(0x99)));
            assert_eq!(taken.esr_el1, if lower { 0x9200_0050 } else { 0x9600_0050 });
            let fetch = take(&source(pstate), Cause::InstructionAbort { va: 7, walk: Some(2) }, LINUX);
            assert_eq!(fetch.esr_el1, if lower { 0x8200_0016 } else { 0x8600_0016 });
            let undefined = take(&source(pstate), Cause::Undefined, LINUX);
            assert_eq!((undefined.esr_el1, undefined.far_el1), (0x0200_0000, None));
        }
    }

    #[test]
    fn pstate_at_the_vector() {
        let mut from = source(NZCV | DIT | UAO | TCO | SS | IL | SSBS_A64 | BTYPE | ALLINT);
        // SPAN 1: PAN keeps its value. DSSBS 0: SSBS becomes 0.
        from.sctlr_el1 = SCTLR_SPAN;
        assert_eq!(take(&from, Cause::Undefined, LINUX).pstate, NZCV | DIT | DAIF | EL1H);
        from.pstate |= PAN;
        assert_eq!(take(&from, Cause::Undefined, LINUX).pstate, NZCV | DIT | DAIF | EL1H | PAN);
        from.pstate &= !PAN;
        from.sctlr_el1 = SCTLR_DSSBS;
        let pstate = take(&from, Cause::Undefined, LINUX).pstate;
        assert_eq!(pstate, NZCV | DIT | DAIF | EL1H | PAN | SSBS_A64);
        // An Armv8.0 CPU has none of these bits; one with memory tags sets TCO.
        assert_eq!(take(&from, Cause::Undefined, Features::default()).pstate & (PAN | SSBS_A64 | TCO), 0);
        let tags = Features { mte: true, ..Features::default() };
        assert_eq!(take(&from, Cause::Undefined, tags).pstate & TCO, TCO);
    }

    #[test]
    fn an_aarch32_program_leaves_no_bits_of_its_state() {
        // Q, IT, GE, E, T, IL, SS and the mode go away; the flags stay.
        let taken = take(&source(0xfe2f_fe30 | SS), Cause::Undefined, Features::default());
        assert_eq!(taken.pstate, NZCV | DAIF | EL1H);
        assert_eq!(taken.pc & 0x7ff, 0x600);
    }

    #[test]
    fn aborts_keep_what_the_guest_needs_to_know() {
        let Exit::DataAbort(store) = decode(0x9301_0046, 0xabc, 0) else { panic!() };
        let cause = Cause::of_data(&store, || unreachable!());
        assert_eq!(cause, Cause::DataAbort { va: 0xabc, write: true, cache_maintenance: false, walk: None });
        let Exit::DataAbort(walk) = decode(0x9200_00c6, 0xabc, 0) else { panic!() };
        assert_eq!(take(&source(0x3c5), Cause::of_data(&walk, || 1), LINUX).esr_el1, 0x9600_0015);
        let Exit::DataAbort(cache) = decode(0x9200_0146, 0xabc, 0) else { panic!() };
        assert_eq!(take(&source(0x3c5), Cause::of_data(&cache, || 1), LINUX).esr_el1, 0x9600_0150);
        let Exit::InstructionAbort(fetch) = decode(0x8200_0086, 0xabc, 0) else { panic!() };
        assert_eq!(Cause::of_instruction(&fetch, || 3), Cause::InstructionAbort { va: 0xabc, walk: Some(3) });
    }

    #[test]
    fn exceptions_of_the_guest_go_on_to_it() {
        let reflect = |esr, pstate| {
            let taken = take(&source(pstate), Cause::Reflect { esr, far: 5 }, LINUX);
            (taken.esr_el1, taken.far_el1)
        };
        assert_eq!(reflect(0xf200_03e8, 0x3c0), (0xf200_03e8, None), "BRK");
        assert_eq!(reflect(0xca00_0022, 0x3c5), (0xce00_0022, None), "single step at EL1");
        assert_eq!(reflect(0xd200_0022, 0x3c0), (0xd200_0022, Some(5)), "watchpoint at EL0");
        assert_eq!(reflect(0x8a00_0000, 0x3c0), (0x8a00_0000, Some(5)), "PC alignment");
    }

    #[test]
    fn random_state_never_panics() {
        let mut random = Random(11);
        for _ in 0..rounds(100_000) {
            let from = Source {
                pc: random.spread(),
                pstate: random.spread(),
                vbar_el1: random.spread(),
                sctlr_el1: random.spread(),
            };
            let cause = match random.below(4) {
                0 => Cause::Undefined,
                1 => Cause::InstructionAbort { va: random.next(), walk: Some(random.next() as u8) },
                2 => Cause::Reflect { esr: random.spread(), far: random.next() },
                _ => Cause::DataAbort { va: 0, write: false, cache_maintenance: true, walk: None },
            };
            let taken = take(&from, cause, Features { pan: true, ssbs: true, mte: true });
            assert_eq!(taken.pstate & 0x3df, 0x3c5);
            assert_eq!(taken.pstate & (SS | BTYPE | UAO | IL | ALLINT | AARCH32), 0);
        }
    }
}
