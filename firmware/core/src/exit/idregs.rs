//! What a guest is told about its CPU: the ID registers, filtered once when the machine starts and then read by index.
//! Before: [`super::sysreg`]; the values come from the CPU, by `firmware/hw`.
//!
//! The policy: *ID registers say what is true inside the VM.* Each register is a row, each field of it that a guest may see
//! is named with the highest value that is let through; what no row names reads as zero, so a feature that is younger than
//! this table stays hidden until somebody has thought about it. A field that is shown must work for the guest without a
//! trap that EL2 does not answer; that is what "hidden" below refers to.
//!
//! On a machine whose CPUs differ, [`IdRegs::meet`] makes the registers that are true on each of them.

use super::decode::SysRegAccess;

/// The number of registers in the ID space: op0 3, op1 0, CRn 0, CRm 0 to 7, op2 0 to 7.
pub const COUNT: usize = 64;

/// Returns the index of the ID register with these CRm and op2.
pub const fn index(crm: u8, op2: u8) -> usize {
    ((crm & 7) << 3 | op2 & 7) as usize
}

/// What happens to a field of an ID register.
#[derive(Clone, Copy)]
enum Rule {
    /// An unsigned field: at most this.
    Max(u64),
    /// A signed field, where 0xf means "not there": at most this.
    Signed(i8),
    /// What the CPU says.
    Cpu,
    /// This, whatever the CPU says.
    Is(u64),
}
use Rule::{Cpu, Is, Max, Signed};

/// A register: CRm, op2, and its fields by their lowest bit. All fields are four bits wide.
struct Row {
    crm: u8,
    op2: u8,
    fields: &'static [(u8, Rule)],
}

const fn row(crm: u8, op2: u8, fields: &'static [(u8, Rule)]) -> Row {
    Row { crm, op2, fields }
}

const ALL: &[(u8, Rule)] = &[(0, Cpu), (4, Cpu), (8, Cpu), (12, Cpu), (16, Cpu), (20, Cpu), (24, Cpu), (28, Cpu)];

/// The registers a guest sees. Field names and values: Arm ARM D24.2 for AArch64, G8.2 for AArch32.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // MIDR_EL1, REVIDR_EL1. These do not trap and are here to be complete; MPIDR_EL1 is VMPIDR_EL2.
    row(0, 0, ALL),
    row(0, 6, ALL),

    // AArch32, for programs at EL0. ID_PFR0_EL1: State0 to State3, CSV2, DIT. Hidden: AMU, RAS.
    row(1, 0, &[(0, Cpu), (4, Cpu), (8, Cpu), (12, Cpu), (16, Max(1)), (24, Max(1))]),
    // ID_PFR1_EL1: ProgMod, GenTimer, GIC system registers. Hidden: Security, Virtualization.
    row(1, 1, &[(0, Cpu), (16, Max(1)), (28, Max(1))]),
    // ID_DFR0_EL1: CopDbg up to Armv8.0. Hidden: traces, PMU.
    row(1, 2, &[(0, Max(6))]),
    // ID_MMFR0_EL1 to ID_MMFR3_EL1.
    row(1, 4, ALL), row(1, 5, ALL), row(1, 6, ALL), row(1, 7, ALL),
    // ID_ISAR0_EL1 to ID_ISAR5_EL1. ISAR4's SMC field: no EL3.
    row(2, 0, ALL), row(2, 1, ALL), row(2, 2, ALL), row(2, 3, ALL),
    row(2, 4, &[(0, Cpu), (4, Cpu), (8, Cpu), (16, Cpu), (20, Cpu), (24, Cpu), (28, Cpu)]),
    row(2, 5, ALL),
    // ID_MMFR4_EL1: AC2, XNX, CnP, HPDS, LSM, CCIDX. Hidden: SpecSEI, EVT.
    row(2, 6, &[(4, Cpu), (8, Cpu), (12, Cpu), (16, Cpu), (20, Cpu), (24, Cpu)]),
    // ID_ISAR6_EL1: JSCVT, DP, FHM, SB, SPECRES, BF16, I8MM. Hidden: CLRBHB.
    row(2, 7, &[(0, Cpu), (4, Cpu), (8, Cpu), (12, Cpu), (16, Max(1)), (20, Cpu), (24, Cpu)]),
    // MVFR0_EL1 to MVFR2_EL1.
    row(3, 0, ALL), row(3, 1, ALL), row(3, 2, ALL),
    // ID_PFR2_EL1: CSV3, SSBS. Hidden: RAS_frac. ID_DFR1_EL1 is hidden. ID_MMFR5_EL1: ETS, nTLBPA.
    row(3, 4, &[(0, Cpu), (4, Cpu)]),
    row(3, 6, &[(0, Cpu), (4, Cpu)]),

    // ID_AA64PFR0_EL1.
    row(4, 0, &[
        (0, Max(2)),     // EL0: AArch32 too where the CPU has it
        (4, Is(1)),      // EL1: AArch64 only (HCR_EL2.RW)
        // EL2 and EL3 are not there: SMC is UNDEFINED, HVC works by hypervisor's grace
        (16, Signed(1)), // FP
        (20, Signed(1)), // AdvSIMD
        (24, Is(1)),     // GIC: CPU interface by system registers, GICv3
        // hidden: RAS, SVE, SEL2, MPAM, AMU, RME
        (48, Max(1)),    // DIT
        (56, Max(1)),    // CSV2; 2 and 3 have SCXTNUM_EL1, which is not given (HCR_EL2.EnSCXT)
        (60, Max(1)),    // CSV3
    ]),
    // ID_AA64PFR1_EL1. Hidden: MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, NMI, GCS, THE, DF2, PFAR.
    row(4, 1, &[
        (0, Max(1)),     // BT
        (4, Max(2)),     // SSBS
    ]),

    // ID_AA64DFR0_EL1. Hidden: TraceVer, PMUVer, PMSS, PMSVer, TraceFilt, TraceBuffer, MTPMU, BRBE.
    row(5, 0, &[
        (0, Is(6)),      // DebugVer: Armv8.0; the OS lock is there, the rest of later versions is not given
        (12, Cpu),       // BRPs
        (20, Cpu),       // WRPs
        (28, Cpu),       // CTX_CMPs
        (36, Is(0xf)),   // DoubleLock: not there; OSDLR_EL1 is RAZ/WI
    ]),

    // ID_AA64ISAR0_EL1: instructions of EL0 and EL1 that nothing traps. Hidden: TME.
    row(6, 0, &[
        (4, Max(2)),     // AES, PMULL
        (8, Max(1)),     // SHA1
        (12, Max(2)),    // SHA2
        (16, Max(1)),    // CRC32
        (20, Max(2)),    // Atomic: LSE; 3 is FEAT_LSE128
        (28, Max(1)),    // RDM
        (32, Max(1)),    // SHA3
        (36, Max(1)),    // SM3
        (40, Max(1)),    // SM4
        (44, Max(1)),    // DP
        (48, Max(1)),    // FHM
        (52, Max(2)),    // TS
        (56, Max(2)),    // TLB: outer shareable, range
        (60, Max(1)),    // RNDR: the CPU's own; what siblings draw differs
    ]),
    // ID_AA64ISAR1_EL1. Hidden: LS64 (HCRX_EL2).
    row(6, 1, &[
        (0, Max(2)),     // DPB
        (4, Max(5)),     // APA: HCR_EL2.API is set, keys are switched
        (8, Max(5)),     // API
        (12, Max(1)),    // JSCVT
        (16, Max(1)),    // FCMA
        (20, Max(3)),    // LRCPC
        (24, Max(1)),    // GPA
        (28, Max(1)),    // GPI
        (32, Max(1)),    // FRINTTS
        (36, Max(1)),    // SB
        (40, Max(1)),    // SPECRES
        (44, Max(2)),    // BF16
        (48, Max(1)),    // DGH
        (52, Max(1)),    // I8MM
        (56, Max(1)),    // XS
    ]),
    // ID_AA64ISAR2_EL1. Hidden: WFxT (a timed wait would be a WFI without its end), MOPS and system registers of 128 bits
    // (HCRX_EL2).
    row(6, 2, &[
        (4, Max(1)),     // RPRES
        (8, Max(1)),     // GPA3
        (12, Max(5)),    // APA3
        (20, Max(1)),    // BC
        (24, Max(1)),    // PAC_frac
        (28, Max(1)),    // CLRBHB
        (48, Max(1)),    // RPRFM
        (52, Max(1)),    // CSSC
    ]),

    // ID_AA64MMFR0_EL1. Hidden: FGT.
    row(7, 0, &[
        (0, Max(2)),     // PARange: 40 bits, the least that covers the 39 bits of a VM's IPA space
        (4, Max(2)),     // ASIDBits
        (8, Max(1)),     // BigEnd
        (12, Max(0)),    // SNSMem: there is one security state
        (16, Max(1)),    // BigEndEL0
        (20, Max(1)),    // TGran16; without FEAT_LPA2, whose wide addresses a VM does not have
        (24, Signed(0)), // TGran64
        (28, Signed(0)), // TGran4
        (32, Is(1)),     // TGran16_2, TGran64_2, TGran4_2: no stage 2
        (36, Is(1)),
        (40, Is(1)),
        (44, Max(1)),    // ExS
        (60, Max(1)),    // ECV: self-synchronised counters, without CNTPOFF_EL2
    ]),
    // ID_AA64MMFR1_EL1. Hidden: VMIDBits, VH, LO, SpecSEI, TWED, HCX, TIDCP1, CMOW (HCRX_EL2).
    row(7, 1, &[
        (0, Max(2)),     // HAFDBS
        (12, Max(2)),    // HPDS
        (20, Max(3)),    // PAN
        (28, Max(1)),    // XNX
        (36, Max(3)),    // ETS
        (44, Max(1)),    // AFP
        (48, Max(1)),    // nTLBPA
        (60, Max(1)),    // ECBHB
    ]),
    // ID_AA64MMFR2_EL1. Hidden: IESB, VARange (with LPA2), NV, FWB, EVT.
    row(7, 2, &[
        (0, Max(1)),     // CnP
        (4, Max(1)),     // UAO
        (8, Max(1)),     // LSM
        (20, Max(1)),    // CCIDX
        (28, Max(1)),    // ST
        (32, Max(1)),    // AT
        (36, Max(1)),    // IDS
        (48, Max(1)),    // TTL
        (52, Max(2)),    // BBM
        (60, Max(1)),    // E0PD
    ]),
    // ID_AA64MMFR3_EL1, ID_AA64MMFR4_EL1: TCR2_EL1, SCTLR2_EL1 and what hangs on them need HCRX_EL2. Hidden.
];

/// The ID registers of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdRegs([u64; COUNT]);

impl IdRegs {
    /// Makes a guest's ID registers from the CPU's, in the order of [`index`].
    pub fn new(cpu: &[u64; COUNT]) -> Self {
        let mut guest = [0; COUNT];
        for row in ROWS {
            let at = index(row.crm, row.op2);
            if let (Some(guest), Some(cpu)) = (guest.get_mut(at), cpu.get(at)) {
                *guest = row.fields.iter().map(|&(shift, rule)| filter(cpu >> shift & 0xf, rule) << shift).sum();
            }
        }
        Self(guest)
    }

    /// Returns the ID registers that are true on both CPUs: field by field the lesser one. MIDR_EL1 and REVIDR_EL1 stay
    /// those of `self`.
    pub fn meet(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for row in ROWS.iter().filter(|row| row.crm > 0) {
            let at = index(row.crm, row.op2);
            if let (Some(both), Some(other)) = (both.0.get_mut(at), other.0.get(at)) {
                *both = row
                    .fields
                    .iter()
                    .map(|&(shift, rule)| {
                        let (mine, theirs) = (*both >> shift & 0xf, other >> shift & 0xf);
                        let least = match rule {
                            Signed(_) if signed(theirs) < signed(mine) => theirs,
                            Signed(_) => mine,
                            _ => mine.min(theirs),
                        };
                        least << shift
                    })
                    .sum();
            }
        }
        both
    }

    /// Returns the value if `access` reads the ID space, and `None` for everything else.
    #[inline(always)]
    pub fn read(&self, access: SysRegAccess) -> Option<u64> {
        // op0 3, op1 0, CRn 0, CRm below 8, MRS.
        const FIELDS: u32 = 3 << 20 | 7 << 14 | 0xf << 10 | 8 << 1 | 1;
        if access.0 & FIELDS == (3 << 20 | 1) { Some(self.get(access.crm(), access.op2())) } else { None }
    }

    /// Returns the register with these CRm (0 to 7) and op2 (0 to 7).
    #[inline(always)]
    pub const fn get(&self, crm: u8, op2: u8) -> u64 {
        self.0[index(crm, op2)]
    }

    /// Returns the number of breakpoints.
    pub const fn breakpoints(&self) -> u8 {
        (self.get(5, 0) >> 12) as u8 % 16 + 1
    }

    /// Returns the number of watchpoints.
    pub const fn watchpoints(&self) -> u8 {
        (self.get(5, 0) >> 20) as u8 % 16 + 1
    }

    /// Returns all registers, in the order of [`index`], for a record.
    pub const fn values(&self) -> &[u64; COUNT] {
        &self.0
    }
}

const fn signed(field: u64) -> i8 {
    (field as i8) << 4 >> 4
}

fn filter(field: u64, rule: Rule) -> u64 {
    match rule {
        Max(most) => field.min(most),
        Signed(most) if signed(field) > most => most as u64 & 0xf,
        Signed(_) | Cpu => field,
        Is(value) => value,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::exit::tests::{Random, rounds};

    /// The ID registers of a Neoverse N1 (its technical reference manual; what QEMU shows).
    pub(crate) fn neoverse_n1() -> [u64; COUNT] {
        let mut cpu = [0; COUNT];
        cpu[index(0, 0)] = 0x414f_d0c1;
        cpu[index(1, 0)] = 0x1001_0131;
        cpu[index(1, 1)] = 0x1001_1011;
        cpu[index(1, 2)] = 0x0401_0088;
        cpu[index(4, 0)] = 0x1100_0000_1111_1112;
        cpu[index(4, 1)] = 0x20;
        cpu[index(5, 0)] = 0x1_1030_5408;
        cpu[index(6, 0)] = 0x0000_1000_1021_1120;
        cpu[index(6, 1)] = 0x0010_0001;
        cpu[index(7, 0)] = 0x0000_0000_0010_1125;
        cpu[index(7, 1)] = 0x1021_2122;
        cpu[index(7, 2)] = 0x1011;
        cpu
    }

    #[test]
    fn a_neoverse_n1_in_a_vm() {
        let ids = IdRegs::new(&neoverse_n1());
        assert_eq!(ids.get(4, 0), 0x1100_0000_0111_0012, "no EL3, EL2, RAS; AArch32 at EL0 only");
        assert_eq!(ids.get(4, 1), 0x20);
        assert_eq!(ids.get(6, 0), 0x0000_1000_1021_1120, "LSE, CRC, crypto, dot product");
        assert_eq!(ids.get(7, 0), 0x0000_0111_0010_0122, "40 bits, 16-bit ASIDs, all granules");
        assert_eq!(ids.get(7, 1), 0x1020_2002, "no VHE, VMIDs, LORegions");
        assert_eq!(ids.get(7, 2), 0x0011);
        assert_eq!(ids.get(5, 0) & 0xfff, 6, "no trace, no PMU");
        assert_eq!((ids.breakpoints(), ids.watchpoints()), (6, 4));
        assert_eq!(ids.get(1, 1), 0x1001_0001, "AArch32: no security, no virtualization");
        assert_eq!(ids.get(1, 2), 6);
        assert_eq!(ids.get(0, 0), 0x414f_d0c1);
    }

    #[test]
    fn a_small_cpu_gets_nothing_it_does_not_have() {
        // Cortex-A53: 40 bits, no 16 KiB granule, Armv8.0.
        let mut cpu = [0; COUNT];
        cpu[index(4, 0)] = 0x2222;
        cpu[index(7, 0)] = 0x1122;
        cpu[index(5, 0)] = 0x1030_5106;
        let ids = IdRegs::new(&cpu);
        assert_eq!(ids.get(4, 0), 0x0100_0012);
        assert_eq!(ids.get(7, 0) & 0xffff_ffff, 0x0122);
        assert_eq!((ids.get(6, 0), ids.get(7, 1), ids.get(7, 2)), (0, 0, 0));
    }

    #[test]
    fn a_cpu_without_floating_point_says_so() {
        let mut cpu = [0; COUNT];
        cpu[index(4, 0)] = 0xff_1111;
        assert_eq!(IdRegs::new(&cpu).get(4, 0) >> 16 & 0xff, 0xff);
        // TGran4 and TGran64 are signed too, TGran16 is not.
        cpu[index(7, 0)] = 0xff0f_ffff;
        assert_eq!(IdRegs::new(&cpu).get(7, 0) & 0xfff0_0000, 0xff00_0000);
        cpu[index(7, 0)] = 0x1120_0006;
        assert_eq!(IdRegs::new(&cpu).get(7, 0) & 0xffff_ffff, 0x0010_0002, "no 52-bit addresses");
    }

    #[test]
    fn the_newest_cpu_shows_only_what_is_listed() {
        let ids = IdRegs::new(&[0x7777_7777_7777_7777; COUNT]);
        for (name, crm, op2, shift) in [
            ("EL2", 4, 0, 8),
            ("EL3", 4, 0, 12),
            ("RAS", 4, 0, 28),
            ("SVE", 4, 0, 32),
            ("SEL2", 4, 0, 36),
            ("MPAM", 4, 0, 40),
            ("AMU", 4, 0, 44),
            ("RME", 4, 0, 52),
            ("MTE", 4, 1, 8),
            ("SME", 4, 1, 24),
            ("NMI", 4, 1, 36),
            ("TraceVer", 5, 0, 4),
            ("PMUVer", 5, 0, 8),
            ("PMSVer", 5, 0, 32),
            ("TraceFilt", 5, 0, 40),
            ("TraceBuffer", 5, 0, 44),
            ("TME", 6, 0, 24),
            ("LS64", 6, 1, 60),
            ("WFxT", 6, 2, 0),
            ("MOPS", 6, 2, 16),
            ("FGT", 7, 0, 56),
            ("VH", 7, 1, 8),
            ("LO", 7, 1, 16),
            ("NV", 7, 2, 24),
            ("FWB", 7, 2, 40),
        ] {
            assert_eq!(ids.get(crm, op2) >> shift & 0xf, 0, "{name}");
        }
        for (crm, op2) in
            [(4, 2), (4, 4), (4, 5), (5, 1), (5, 4), (5, 5), (6, 3), (7, 3), (7, 4), (7, 7), (3, 5), (3, 3)]
        {
            assert_eq!(ids.get(crm, op2), 0, "ID register {crm} {op2}");
        }
    }

    #[test]
    fn fields_are_named_once() {
        for (n, row) in ROWS.iter().enumerate() {
            assert!(ROWS.iter().skip(n + 1).all(|other| (other.crm, other.op2) != (row.crm, row.op2)));
            assert!(row.fields.is_sorted_by(|a, b| a.0 < b.0) && row.fields.iter().all(|field| field.0 % 4 == 0));
        }
    }

    #[test]
    fn what_two_cpus_share() {
        let mut other = neoverse_n1();
        other[index(6, 0)] = 0x10;
        other[index(4, 0)] = 0x1100_0000_11ff_1112;
        let (big, small) = (IdRegs::new(&neoverse_n1()), IdRegs::new(&other));
        for both in [big.meet(&small), small.meet(&big)] {
            assert_eq!(both.get(6, 0), 0x10);
            assert_eq!(both.get(4, 0) >> 16 & 0xff, 0xff, "not there is less than there");
        }
        assert_eq!(big.meet(&big), big);
    }

    #[test]
    fn no_cpu_makes_a_guest_see_more_than_the_cpu_has() {
        let mut random = Random(9);
        for _ in 0..rounds(2_000) {
            let cpu: [u64; COUNT] = core::array::from_fn(|_| random.next() & random.next());
            let ids = IdRegs::new(&cpu);
            for row in ROWS {
                let at = index(row.crm, row.op2);
                for &(shift, rule) in row.fields {
                    let (has, seen) = (cpu[at] >> shift & 0xf, ids.values()[at] >> shift & 0xf);
                    match rule {
                        Max(most) => assert!(seen <= has && seen <= most),
                        Signed(most) => assert!(signed(seen) <= signed(has) && signed(seen) <= most),
                        Cpu => assert_eq!(seen, has),
                        Is(value) => assert_eq!(seen, value),
                    }
                }
            }
        }
    }
}
