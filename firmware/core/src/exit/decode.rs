//! What made a guest exit, read from ESR_EL2, FAR_EL2 and HPFAR_EL2. Before: the world switch; after: [`super::sysreg`],
//! [`crate::calls`], the address space and [`crate::dev`], or [`super::inject`].
//!
//! Hot exits (HVC, system registers, data aborts) are one compare on the exception class. Their fields stay packed in the
//! syndrome and are taken out by accessors, so that a path pays for the fields it looks at and for no other.

use crate::addr::{Ipa, Va};
use crate::vgic::AccessSize;

/// What made a guest exit (Arm ARM D24.2.40, ESR_EL2.EC). Classes that need the same answer share a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// HVC from AArch64. The return address is already that of the next instruction.
    Hvc {
        /// The immediate; SMCCC calls use 0.
        imm: u16,
    },
    /// SMC from AArch64, trapped before it executed.
    Smc {
        /// The immediate; SMCCC calls use 0.
        imm: u16,
    },
    /// MRS, MSR or a SYS instruction.
    SysReg(SysRegAccess),
    /// A load or store that stage 2 refused, or an external abort on one.
    DataAbort(DataAbort),
    /// A fetch that stage 2 refused, or an external abort on one.
    InstructionAbort(InstructionAbort),
    /// WFI, WFE and their timed forms.
    Wait(Wait),
    /// An FP, SIMD, SVE or SME instruction that CPTR_EL2 traps.
    Fp(FpTrap),
    /// An AArch32 coprocessor or system register access (EL0 only: EL1 is AArch64).
    Coprocessor(Coprocessor),
    /// An instruction that traps to EL2 and that this virtual machine does not have: the answer is UNDEFINED.
    Hidden(Hidden),
    /// An exception that belongs to EL1 and came to EL2 because EL2 asked for it: the answer is to hand it on with the
    /// same syndrome ([`super::inject::Cause::Reflect`]).
    Reflect {
        /// ESR_EL2 as it was.
        esr: u64,
    },
    /// A breakpoint, watchpoint, single step, BRK, BKPT or vector catch exception that MDCR_EL2.TDE routed to EL2.
    Debug {
        /// Which.
        kind: DebugKind,
        /// ESR_EL2 as it was.
        esr: u64,
    },
    /// A physical SError that became pending while the guest ran.
    SError {
        /// The syndrome's low 25 bits; bit 24 (IDS) marks an implementation defined one.
        iss: u32,
    },
    /// EC 0, or an instruction whose reason the CPU does not tell: the answer is UNDEFINED.
    Unknown,
    /// A class that the architecture reserves, or that cannot come from EL1 and EL0.
    Unexpected {
        /// The exception class.
        class: u8,
    },
}

/// Which debug exception was routed to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DebugKind {
    Breakpoint,
    SoftwareStep,
    Watchpoint,
    Brk,
    BkptAarch32,
    VectorCatchAarch32,
}

/// An instruction group that this virtual machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Hidden {
    /// PACIA and the like while HCR_EL2.API is 0, or the registers of the keys.
    PointerAuth,
    /// LD64B, ST64B and the like (FEAT_LS64).
    Ls64,
    /// ERET, ERETAA, ERETAB (HCR_EL2.NV).
    Eret,
    /// TSTART (FEAT_TME).
    Transaction,
    /// MRRS, MSRR, SYSP (FEAT_SYSREG128, FEAT_SYSINSTR128).
    SysReg128,
    /// SVC from AArch64 or AArch32 (FEAT_FGT).
    Svc,
    /// HVC or SMC from AArch32.
    CallAarch32,
    /// Guarded control stack (FEAT_GCS).
    Gcs,
    /// Profiling (FEAT_EBEP).
    Pmu,
}

const EC_SHIFT: u32 = 26;

/// Decodes an exit of the guest that arrived as a synchronous exception. Never panics, whatever the registers hold.
#[inline(always)]
pub fn decode(esr: u64, far: u64, hpfar: u64) -> Exit {
    let iss = iss(esr);
    match class(esr) {
        0x16 => Exit::Hvc { imm: iss as u16 },
        0x18 => Exit::SysReg(SysRegAccess(iss)),
        0x24 => Exit::DataAbort(DataAbort { iss, far, hpfar }),
        0x01 => Exit::Wait(Wait(iss)),
        0x20 => Exit::InstructionAbort(InstructionAbort { iss, far, hpfar }),
        class => decode_rare(class, esr),
    }
}

/// Returns the exception class of a syndrome register.
#[inline(always)]
pub const fn class(esr: u64) -> u8 {
    (esr >> EC_SHIFT) as u8 & 0x3f
}

/// Returns the instruction specific syndrome, ISS[24:0].
#[inline(always)]
const fn iss(esr: u64) -> u32 {
    esr as u32 & 0x01ff_ffff
}

/// Returns true if the trapped instruction is 32 bits long (ESR_EL2.IL), false for a 16-bit T32 instruction.
pub const fn is_32bit_instruction(esr: u64) -> bool {
    esr & 1 << 25 != 0
}

#[cold]
fn decode_rare(class: u8, esr: u64) -> Exit {
    let iss = iss(esr);
    let coprocessor = |form| Exit::Coprocessor(Coprocessor { form, iss });
    let debug = |kind| Exit::Debug { kind, esr };
    match class {
        0x00 => Exit::Unknown,
        0x03 => coprocessor(CoprocessorForm::Mcr15),
        0x04 => coprocessor(CoprocessorForm::Mcrr15),
        0x05 => coprocessor(CoprocessorForm::Mcr14),
        0x06 => coprocessor(CoprocessorForm::Ldc14),
        0x0c => coprocessor(CoprocessorForm::Mcrr14),
        0x08 => coprocessor(CoprocessorForm::Vmrs),
        0x07 => Exit::Fp(FpTrap::Simd),
        0x19 => Exit::Fp(FpTrap::Sve),
        0x1d => Exit::Fp(FpTrap::Sme),
        0x09 => Exit::Hidden(Hidden::PointerAuth),
        0x0a => Exit::Hidden(Hidden::Ls64),
        0x11 | 0x15 => Exit::Hidden(Hidden::Svc),
        0x12 | 0x13 => Exit::Hidden(Hidden::CallAarch32),
        0x14 => Exit::Hidden(Hidden::SysReg128),
        0x17 => Exit::Smc { imm: iss as u16 },
        0x1a => Exit::Hidden(Hidden::Eret),
        0x1b => Exit::Hidden(Hidden::Transaction),
        0x2d => Exit::Hidden(Hidden::Gcs),
        0x3d => Exit::Hidden(Hidden::Pmu),
        // Branch target, illegal state, PAC authentication, PC and SP alignment, memory copy, FP exceptions.
        0x0d | 0x0e | 0x1c | 0x22 | 0x26 | 0x27 | 0x28 | 0x2c => Exit::Reflect { esr },
        0x2f => Exit::SError { iss },
        0x30 => debug(DebugKind::Breakpoint),
        0x32 => debug(DebugKind::SoftwareStep),
        0x34 => debug(DebugKind::Watchpoint),
        0x38 => debug(DebugKind::BkptAarch32),
        0x3a => debug(DebugKind::VectorCatchAarch32),
        0x3c => debug(DebugKind::Brk),
        class => Exit::Unexpected { class },
    }
}

/// An MRS, MSR or SYS access: the ISS of exception class 0x18 (Arm ARM D24.2.40, "MSR, MRS, or System instruction").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SysRegAccess(pub u32);

impl SysRegAccess {
    /// Returns which register is accessed, in a form that compares in one instruction.
    #[inline(always)]
    pub const fn register(self) -> SysReg {
        SysReg(self.0 & SysReg::MASK)
    }

    /// Returns op0, 0 to 3.
    #[inline(always)]
    pub const fn op0(self) -> u8 {
        (self.0 >> 20) as u8 & 3
    }

    /// Returns op1, 0 to 7.
    #[inline(always)]
    pub const fn op1(self) -> u8 {
        (self.0 >> 14) as u8 & 7
    }

    /// Returns CRn, 0 to 15.
    #[inline(always)]
    pub const fn crn(self) -> u8 {
        (self.0 >> 10) as u8 & 0xf
    }

    /// Returns CRm, 0 to 15.
    #[inline(always)]
    pub const fn crm(self) -> u8 {
        (self.0 >> 1) as u8 & 0xf
    }

    /// Returns op2, 0 to 7.
    #[inline(always)]
    pub const fn op2(self) -> u8 {
        (self.0 >> 17) as u8 & 7
    }

    /// Returns the general register, 0 to 31; 31 is the zero register.
    #[inline(always)]
    pub const fn rt(self) -> u8 {
        (self.0 >> 5) as u8 & 0x1f
    }

    /// Returns true for MSR and SYS, false for MRS.
    #[inline(always)]
    pub const fn is_write(self) -> bool {
        self.0 & 1 == 0
    }
}

impl core::fmt::Debug for SysRegAccess {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = if self.is_write() { "msr" } else { "mrs" };
        write!(f, "{name} {:?}, x{}", self.register(), self.rt())
    }
}

/// The encoding of a system register or instruction, held as the syndrome holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SysReg(u32);

impl SysReg {
    const MASK: u32 = 3 << 20 | 7 << 17 | 7 << 14 | 0xf << 10 | 0xf << 1;

    /// Names a register by its encoding. Fields wider than the architecture's are cut.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (op0 as u32) << 20 & 3 << 20
                | (op2 as u32) << 17 & 7 << 17
                | (op1 as u32) << 14 & 7 << 14
                | (crn as u32) << 10 & 0xf << 10
                | (crm as u32) << 1 & 0xf << 1,
        )
    }
}

impl core::fmt::Debug for SysReg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let a = SysRegAccess(self.0);
        write!(f, "s{}_{}_c{}_c{}_{}", a.op0(), a.op1(), a.crn(), a.crm(), a.op2())
    }
}

/// What went wrong in an abort: DFSC or IFSC (Arm ARM D24.2.40). Levels are -1 to 3, of the stage that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStatus {
    /// The output address is wider than allowed.
    AddressSize(i8),
    /// Nothing is mapped.
    Translation(i8),
    /// The access flag is clear.
    AccessFlag(i8),
    /// Mapped, but not for this access.
    Permission(i8),
    /// An external abort on the access itself, or a memory error on it.
    External,
    /// An external abort, or a memory error, on a table walk at this level.
    ExternalOnWalk(i8),
    /// The address is not aligned for this kind of access.
    Alignment,
    /// The TLB holds two entries for the address.
    TlbConflict,
    /// An exclusive or atomic access to memory that has none.
    Unsupported,
    /// A tag check fault, granule protection fault, or a reserved code.
    Other(u8),
}

impl FaultStatus {
    const fn of(iss: u32) -> Self {
        let code = iss as u8 & 0x3f;
        let level = (code & 3) as i8;
        match code {
            0x00..=0x03 => Self::AddressSize(level),
            0x04..=0x07 => Self::Translation(level),
            0x08..=0x0b => Self::AccessFlag(level),
            0x0c..=0x0f => Self::Permission(level),
            0x10 | 0x18 => Self::External,
            0x13 | 0x1b => Self::ExternalOnWalk(-1),
            0x14..=0x17 | 0x1c..=0x1f => Self::ExternalOnWalk(level),
            0x21 => Self::Alignment,
            0x29 => Self::AddressSize(-1),
            0x2b => Self::Translation(-1),
            0x30 => Self::TlbConflict,
            0x31 | 0x35 => Self::Unsupported,
            _ => Self::Other(code),
        }
    }
}

const S1PTW: u32 = 1 << 7;

/// The faulting IPA from HPFAR_EL2: FIPA is bits 43:4 and holds IPA bits 51:12. Bit 63 (NS) is not of the address.
#[inline(always)]
const fn fault_page(hpfar: u64) -> u64 {
    (hpfar & 0x0fff_ffff_fff0) << 8
}

/// Tells whether HPFAR_EL2 was written for this fault (Arm ARM D24.2.58): it is for stage 2 translation, access flag and
/// address size faults and for every stage 2 fault on a stage 1 walk. After another permission fault it is UNKNOWN.
#[inline(always)]
const fn hpfar_valid(iss: u32) -> bool {
    let kind = iss >> 2 & 0xf;
    matches!(kind, 0..=2) || matches!(iss & 0x3f, 0x29 | 0x2b) || (iss & S1PTW != 0 && kind == 3)
}

/// A data abort from EL1 or EL0: exception class 0x24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// The instruction specific syndrome.
    pub iss: u32,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
}

impl DataAbort {
    /// Returns the address that was accessed, to the byte; only the page is right if [`Self::on_table_walk`]. Wrong if
    /// not [`Self::ipa_valid`].
    #[inline(always)]
    pub const fn ipa(&self) -> Ipa {
        Ipa(fault_page(self.hpfar) | self.far & 0xfff)
    }

    /// Returns false if HPFAR_EL2 is UNKNOWN: the caller translates [`Self::va`] by the guest's stage 1 (AT S1E1R).
    #[inline(always)]
    pub const fn ipa_valid(&self) -> bool {
        hpfar_valid(self.iss)
    }

    /// Returns the virtual address that the guest used. UNKNOWN after an external abort with FnV.
    #[inline(always)]
    pub const fn va(&self) -> Va {
        Va(self.far)
    }

    /// Returns true if the fields of the instruction are valid (ISV): one load or store of one general register without
    /// writeback. Without it an access to a device cannot be emulated.
    #[inline(always)]
    pub const fn has_syndrome(&self) -> bool {
        self.iss & 1 << 24 != 0
    }

    /// Returns true for a store, and for a cache maintenance instruction or AT (WnR).
    #[inline(always)]
    pub const fn is_write(&self) -> bool {
        self.iss & 1 << 6 != 0
    }

    /// Returns true if memory must be writable for the access to go on. On a table walk that is a permission fault: the
    /// walker reads what may always be read, and writes only to set an access flag or a dirty state (FEAT_HAFDBS).
    #[inline(always)]
    pub const fn wants_write(&self) -> bool {
        if self.on_table_walk() { is_permission_fault(self.iss) } else { self.is_write() }
    }

    /// Returns the width of the access. Needs [`Self::has_syndrome`].
    #[inline(always)]
    pub const fn size(&self) -> AccessSize {
        AccessSize::from_sas(self.iss as u64 >> 22)
    }

    /// Returns true if a loaded value is sign-extended. Needs [`Self::has_syndrome`].
    #[inline(always)]
    pub const fn sign_extend(&self) -> bool {
        self.iss & 1 << 21 != 0
    }

    /// Returns the general register, 0 to 31; 31 is the zero register. Needs [`Self::has_syndrome`].
    #[inline(always)]
    pub const fn rt(&self) -> u8 {
        (self.iss >> 16) as u8 & 0x1f
    }

    /// Returns true if the register is 64 bits wide (SF). Needs [`Self::has_syndrome`].
    #[inline(always)]
    pub const fn is_64bit(&self) -> bool {
        self.iss & 1 << 15 != 0
    }

    /// Returns true for cache maintenance by address and address translation instructions (CM).
    #[inline(always)]
    pub const fn is_cache_maintenance(&self) -> bool {
        self.iss & 1 << 8 != 0
    }

    /// Returns true if the guest's own table walk faulted at stage 2 (S1PTW).
    #[inline(always)]
    pub const fn on_table_walk(&self) -> bool {
        self.iss & S1PTW != 0
    }

    /// Returns what went wrong.
    #[inline(always)]
    pub const fn status(&self) -> FaultStatus {
        FaultStatus::of(self.iss)
    }

    /// Returns true for stage 2 faults that a change of the table can cure: translation, access flag, permission.
    #[inline(always)]
    pub const fn is_stage2_fault(&self) -> bool {
        is_stage2_fault(self.iss)
    }
}

#[inline(always)]
const fn is_permission_fault(iss: u32) -> bool {
    iss >> 2 & 0xf == 3
}

#[inline(always)]
const fn is_stage2_fault(iss: u32) -> bool {
    matches!(iss >> 2 & 0xf, 1..=3) || iss & 0x3f == 0x2b
}

/// An instruction abort from EL1 or EL0: exception class 0x20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionAbort {
    /// The instruction specific syndrome.
    pub iss: u32,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
}

impl InstructionAbort {
    /// Returns the address that was fetched; only the page is right if [`Self::on_table_walk`]. Wrong if not
    /// [`Self::ipa_valid`].
    pub const fn ipa(&self) -> Ipa {
        Ipa(fault_page(self.hpfar) | self.far & 0xfff)
    }

    /// Returns false if HPFAR_EL2 is UNKNOWN: the caller translates [`Self::va`] by the guest's stage 1.
    pub const fn ipa_valid(&self) -> bool {
        hpfar_valid(self.iss)
    }

    /// Returns the virtual address that the guest used.
    pub const fn va(&self) -> Va {
        Va(self.far)
    }

    /// Returns true if the guest's own table walk faulted at stage 2 (S1PTW).
    pub const fn on_table_walk(&self) -> bool {
        self.iss & S1PTW != 0
    }

    /// Returns true if memory must be writable for the fetch to go on: after a permission fault on a table walk. The
    /// walker reads what may always be read, and writes only to set an access flag or a dirty state (FEAT_HAFDBS).
    #[inline(always)]
    pub const fn wants_write(&self) -> bool {
        self.on_table_walk() && is_permission_fault(self.iss)
    }

    /// Returns what went wrong.
    pub const fn status(&self) -> FaultStatus {
        FaultStatus::of(self.iss)
    }

    /// Returns true for stage 2 faults that a change of the table can cure: translation, access flag, permission.
    pub const fn is_stage2_fault(&self) -> bool {
        is_stage2_fault(self.iss)
    }
}

/// WFI, WFE, WFIT or WFET: exception class 0x01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub u32);

/// Which wait instruction was trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum WaitKind {
    Wfi,
    Wfe,
    Wfit,
    Wfet,
}

impl Wait {
    /// Returns which instruction it is (ISS.TI).
    #[inline(always)]
    pub const fn kind(self) -> WaitKind {
        match self.0 & 3 {
            0 => WaitKind::Wfi,
            1 => WaitKind::Wfe,
            2 => WaitKind::Wfit,
            _ => WaitKind::Wfet,
        }
    }

    /// Returns the register that holds the time limit of WFIT and WFET, if the syndrome tells (RV).
    pub const fn timeout_register(self) -> Option<u8> {
        if self.0 & 1 << 2 != 0 { Some((self.0 >> 5) as u8 & 0x1f) } else { None }
    }
}

/// What FP trap was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpTrap {
    /// FP or SIMD (exception class 0x07). SVE and SME instructions report here too when CPTR_EL2.TFP is what traps.
    Simd,
    /// SVE (0x19).
    Sve,
    /// SME (0x1d).
    Sme,
}

/// The form of an AArch32 coprocessor access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoprocessorForm {
    /// MCR or MRC to coprocessor 15.
    Mcr15,
    /// MCRR or MRRC to coprocessor 15.
    Mcrr15,
    /// MCR or MRC to coprocessor 14.
    Mcr14,
    /// MCRR or MRRC to coprocessor 14.
    Mcrr14,
    /// LDC or STC to coprocessor 14.
    Ldc14,
    /// VMRS of an ID register.
    Vmrs,
}

/// A trapped AArch32 access to a coprocessor. From EL0 none of them is given to guests: the answer is UNDEFINED, if the
/// instruction's condition holds ([`super::skip::condition_holds`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coprocessor {
    /// The form of the instruction.
    pub form: CoprocessorForm,
    /// The instruction specific syndrome: condition in bits 24:20.
    pub iss: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_abort(esr: u64, far: u64, hpfar: u64) -> DataAbort {
        match decode(esr, far, hpfar) {
            Exit::DataAbort(abort) => abort,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hvc_0_from_linux() {
        assert_eq!(decode(0x5a00_0000, 0, 0), Exit::Hvc { imm: 0 });
        assert_eq!(decode(0x5a00_4a48, 0, 0), Exit::Hvc { imm: 0x4a48 });
        assert_eq!(decode(0x5e00_0001, 0, 0), Exit::Smc { imm: 1 });
    }

    #[test]
    fn mrs_of_an_id_register() {
        // mrs x3, id_aa64mmfr0_el1: op0 3, op1 0, CRn 0, CRm 7, op2 0.
        let esr = 0x6200_0000 | 3 << 20 | 3 << 5 | 7 << 1 | 1;
        let Exit::SysReg(access) = decode(esr, 0, 0) else { panic!() };
        assert_eq!(access.register(), SysReg::new(3, 0, 0, 7, 0));
        assert_eq!((access.op0(), access.op1(), access.crn(), access.crm(), access.op2()), (3, 0, 0, 7, 0));
        assert_eq!((access.rt(), access.is_write()), (3, false));
        assert_eq!(format!("{access:?}"), "mrs s3_0_c0_c7_0, x3");
    }

    #[test]
    fn msr_of_icc_sgi1r() {
        // As Linux sends an IPI: msr ICC_SGI1R_EL1, x0.
        let Exit::SysReg(access) = decode(0x623a_3016, 0, 0) else { panic!() };
        assert_eq!(access.register(), SysReg::new(3, 0, 12, 11, 5));
        assert_eq!((access.rt(), access.is_write()), (0, true));
    }

    #[test]
    fn store_to_the_uart() {
        // strb w1, [x0] at 0x0900_0000, MMU off.
        let abort = data_abort(0x9301_0046, 0x0900_0000, 0x0009_0000);
        assert_eq!(abort.ipa(), Ipa(0x0900_0000));
        assert!(abort.ipa_valid() && abort.has_syndrome() && abort.is_write() && abort.is_stage2_fault());
        assert_eq!(
            (abort.size(), abort.rt(), abort.is_64bit(), abort.sign_extend()),
            (AccessSize::Byte, 1, false, false)
        );
        assert_eq!(abort.status(), FaultStatus::Translation(2));
    }

    #[test]
    fn load_from_the_distributor() {
        // ldr w2, [x1] at GICD_TYPER through a kernel mapping.
        let abort = data_abort(0x9382_0007, 0xffff_8000_0800_0004, 0x0008_0000);
        assert_eq!(abort.ipa(), Ipa(0x0800_0004));
        assert_eq!(abort.va(), Va(0xffff_8000_0800_0004));
        assert_eq!((abort.size(), abort.rt(), abort.is_write()), (AccessSize::Word, 2, false));
        // ldrsw x5, [x1].
        let abort = data_abort(0x9000_0000 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 21 | 5 << 16 | 1 << 15 | 6, 0, 0);
        assert!(abort.sign_extend() && abort.is_64bit());
    }

    #[test]
    fn a_pair_store_has_no_syndrome() {
        assert!(!data_abort(0x9200_0046, 0x0900_0000, 0x0009_0000).has_syndrome());
    }

    #[test]
    fn hpfar_counts_only_where_the_architecture_says() {
        let esr = |status: u64, walk: bool| 0x9200_0000 | u64::from(walk) << 7 | status;
        assert!(data_abort(esr(0x05, false), 0, 0).ipa_valid());
        assert!(data_abort(esr(0x0b, false), 0, 0).ipa_valid());
        assert!(data_abort(esr(0x01, false), 0, 0).ipa_valid());
        assert!(data_abort(esr(0x2b, false), 0, 0).ipa_valid());
        assert!(!data_abort(esr(0x0f, false), 0, 0).ipa_valid());
        assert!(data_abort(esr(0x0f, true), 0, 0).ipa_valid());
        assert!(!data_abort(esr(0x10, false), 0, 0).ipa_valid());
        assert!(!data_abort(esr(0x30, true), 0, 0).ipa_valid());
    }

    #[test]
    fn a_walk_that_sets_an_access_flag_writes() {
        assert!(data_abort(0x9200_004f, 0, 0).wants_write(), "a store to a read-only page");
        assert!(!data_abort(0x9200_000f, 0, 0).wants_write(), "a load");
        assert!(data_abort(0x9200_008f, 0, 0).wants_write(), "a load whose walk must update a descriptor");
        assert!(!data_abort(0x9200_00c7, 0, 0).wants_write(), "a store whose walk finds no table");
        let Exit::InstructionAbort(fetch) = decode(0x8200_008f, 0, 0) else { panic!() };
        assert!(fetch.wants_write());
        let Exit::InstructionAbort(fetch) = decode(0x8200_000f, 0, 0) else { panic!() };
        assert!(!fetch.wants_write());
    }

    #[test]
    fn the_security_bit_of_hpfar_is_not_address() {
        assert_eq!(data_abort(0x9200_0005, 0x123, 1 << 63 | 0x40_0000).ipa(), Ipa(0x4000_0123));
        assert_eq!(data_abort(0x9200_0005, 0, u64::MAX).ipa(), Ipa(0x000f_ffff_ffff_f000));
    }

    #[test]
    fn instruction_abort() {
        let Exit::InstructionAbort(abort) = decode(0x8200_0006, 0xdead_b000, 0x00de_adb0) else { panic!() };
        assert_eq!(abort.ipa(), Ipa(0xdead_b000));
        assert_eq!(abort.status(), FaultStatus::Translation(2));
        assert!(abort.is_stage2_fault());
    }

    #[test]
    fn waits() {
        let kind = |esr| match decode(esr, 0, 0) {
            Exit::Wait(wait) => wait.kind(),
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(0x07e0_0000), WaitKind::Wfi);
        assert_eq!(kind(0x07e0_0001), WaitKind::Wfe);
        assert_eq!(kind(0x07e0_0002), WaitKind::Wfit);
        assert_eq!(Wait(2 | 1 << 2 | 9 << 5).timeout_register(), Some(9));
        assert_eq!(Wait(2).timeout_register(), None);
    }

    #[test]
    fn every_fault_status_has_a_meaning_and_a_level() {
        for code in 0..64u32 {
            match FaultStatus::of(code) {
                FaultStatus::AddressSize(level)
                | FaultStatus::Translation(level)
                | FaultStatus::AccessFlag(level)
                | FaultStatus::Permission(level)
                | FaultStatus::ExternalOnWalk(level) => assert!((-1..=3).contains(&level)),
                FaultStatus::Other(other) => assert_eq!(u32::from(other), code),
                _ => {}
            }
        }
        assert_eq!(FaultStatus::of(0x0f), FaultStatus::Permission(3));
        assert_eq!(FaultStatus::of(0x15), FaultStatus::ExternalOnWalk(1));
        assert_eq!(FaultStatus::of(0x35), FaultStatus::Unsupported);
    }

    #[test]
    fn all_classes_with_all_kinds_of_syndromes() {
        // One bit, all bits, no bit: and every accessor.
        for class in 0..64u64 {
            for bits in (0..64).map(|n| 1u64 << n).chain([0, u64::MAX]) {
                let esr = class << 26 | bits & !(0x3f << 26);
                let exit = decode(esr, bits, bits);
                let text = format!("{exit:?}");
                match exit {
                    Exit::DataAbort(a) => {
                        assert_eq!(class, 0x24);
                        assert!(a.size().bytes() <= 8 && a.rt() < 32);
                        assert_eq!(a.ipa().0 >> 52, 0);
                        a.status();
                    }
                    Exit::InstructionAbort(a) => {
                        assert_eq!(class, 0x20);
                        a.status();
                    }
                    Exit::SysReg(a) => {
                        assert_eq!(a.register(), SysReg::new(a.op0(), a.op1(), a.crn(), a.crm(), a.op2()));
                    }
                    Exit::Unexpected { class: given } => {
                        assert_eq!(u64::from(given), class);
                        // Same-level classes and reserved ones only.
                        assert!(
                            matches!(class, 0x02 | 0x0b | 0x0f | 0x10 | 0x1e | 0x1f | 0x21 | 0x23 | 0x25)
                                || matches!(class, 0x29..=0x2b | 0x2e | 0x31 | 0x33 | 0x35..=0x37 | 0x39 | 0x3b | 0x3e..),
                            "{text}"
                        );
                    }
                    _ => {}
                }
            }
        }
    }
}
