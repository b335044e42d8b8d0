//! What a trapped system register access answers. Before: [`super::decode`]; after: the vCPU's registers, the vGIC, or
//! [`super::inject`].
//!
//! ID registers come first and cost a mask, a compare and a load. What has no row below is UNDEFINED: that is what hidden
//! features (PMU, SPE, trace, AMU, LORegions, RAS, MPAM, MTE, SVE, SME) and the IMPLEMENTATION DEFINED space answer, as they
//! do on a CPU without them.

use super::decode::{SysReg, SysRegAccess};
use super::idregs::IdRegs;

/// What a trapped access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysRegAction {
    /// Write the value to the register that the access names and go on.
    Value(u64),
    /// Go on.
    Ignore,
    /// The guest takes an UNDEFINED exception.
    Undefined,
    /// Send a software generated interrupt, then go on ([`crate::vgic::Vgic::send_sgi`]).
    SendSgi {
        /// What was written: ICC_SGI1R_EL1 and its like have one format.
        value: u64,
        /// Group 1; otherwise group 0.
        group1: bool,
    },
    /// The guest starts to use breakpoints, watchpoints or the debug channel: give it the debug registers (MDCR_EL2.TDA
    /// off, registers switched from now on) and let it execute the instruction again.
    EnableDebug,
    /// Set MDSCR_EL1 while debug registers still trap: the value has no effect that needs them.
    WriteMdscr(u64),
    /// Write MDSCR_EL1 to the register that the access names.
    ReadMdscr,
    /// Lock or unlock the guest's OS lock. While it is locked the guest gets no breakpoint, watchpoint or step exception.
    SetOsLock(bool),
    /// Write [`oslsr`] of the guest's OS lock to the register that the access names.
    ReadOslsr,
    /// The guest cleans or invalidates its caches by set and way, which no hypervisor can do for a VM that may move between
    /// CPUs. Where guests' memory is always cached (FEAT_S2FWB, or no cache that is not coherent) this is nothing;
    /// elsewhere the VM's memory is to be cleaned and invalidated by address. Then go on.
    CleanCaches,
}

/// MDSCR_EL1 bits that make the CPU use debug registers: SS, KDE, MDE and what only the OS lock gives access to.
const MDSCR_IN_USE: u64 = 1 << 0 | 1 << 13 | 1 << 14 | 1 << 15;

/// Returns OSLSR_EL1: the OS lock is implemented (OSLM 0b10), and locked or not.
pub const fn oslsr(locked: bool) -> u64 {
    1 << 3 | (locked as u64) << 1
}

/// A rule for one register: what a read gives and what a write does.
struct Row {
    register: SysReg,
    read: Read,
    write: Write,
}

#[derive(Clone, Copy)]
enum Read {
    Undefined,
    Is(SysRegAction),
}

#[derive(Clone, Copy)]
enum Write {
    Undefined,
    Is(SysRegAction),
    With(fn(u64) -> SysRegAction),
}

const fn row(register: (u8, u8, u8, u8, u8), read: Read, write: Write) -> Row {
    let (op0, op1, crn, crm, op2) = register;
    Row { register: SysReg::new(op0, op1, crn, crm, op2), read, write }
}

const RAZ: Read = Read::Is(SysRegAction::Value(0));
const WI: Write = Write::Is(SysRegAction::Ignore);

/// Every register that traps and has an answer of its own, outside the ID space and the debug registers by number.
const ROWS: &[Row] = &[
    // ICC_ASGI1R_EL1, ICC_SGI0R_EL1. With one security state ASGI1R makes interrupts of group 0 (IHI 0069, 12.2).
    row((3, 0, 12, 11, 6), Read::Undefined, Write::With(|value| SysRegAction::SendSgi { value, group1: false })),
    row((3, 0, 12, 11, 7), Read::Undefined, Write::With(|value| SysRegAction::SendSgi { value, group1: false })),
    // ICC_SRE_EL1: system registers only, no bypass.
    row((3, 0, 12, 12, 5), Read::Is(SysRegAction::Value(7)), WI),
    // ACTLR_EL1: IMPLEMENTATION DEFINED contents, of which there are none.
    row((3, 0, 1, 0, 1), RAZ, WI),
    // DC ISW, DC CSW, DC CISW.
    row((1, 0, 7, 6, 2), Read::Undefined, Write::Is(SysRegAction::CleanCaches)),
    row((1, 0, 7, 10, 2), Read::Undefined, Write::Is(SysRegAction::CleanCaches)),
    row((1, 0, 7, 14, 2), Read::Undefined, Write::Is(SysRegAction::CleanCaches)),
    // MDSCR_EL1: Linux writes it on each CPU start.
    row((2, 0, 0, 2, 2), Read::Is(SysRegAction::ReadMdscr), Write::With(write_mdscr)),
    // OSLAR_EL1, OSLSR_EL1, OSDLR_EL1, DBGPRCR_EL1.
    row((2, 0, 1, 0, 4), Read::Undefined, Write::With(|value| SysRegAction::SetOsLock(value & 1 != 0))),
    row((2, 0, 1, 1, 4), Read::Is(SysRegAction::ReadOslsr), Write::Undefined),
    row((2, 0, 1, 3, 4), RAZ, WI),
    row((2, 0, 1, 4, 4), RAZ, WI),
    // MDRAR_EL1: no debug ROM. DBGAUTHSTATUS_EL1: nothing is implemented for an external debugger.
    row((2, 0, 1, 0, 0), RAZ, Write::Undefined),
    row((2, 0, 7, 14, 6), RAZ, Write::Undefined),
    // MDCCINT_EL1, MDCCSR_EL0, DBGDTR_EL0, DBGDTRRX_EL0 and DBGDTRTX_EL0, OSDTRRX_EL1, OSDTRTX_EL1, OSECCR_EL1: nobody is at
    // the other end of the debug channel. A32 names some of them by other means, which are UNDEFINED.
    row((2, 0, 0, 2, 0), RAZ, WI),
    row((2, 3, 0, 1, 0), RAZ, Write::Undefined),
    row((2, 3, 0, 4, 0), RAZ, WI),
    row((2, 3, 0, 5, 0), RAZ, WI),
    row((2, 0, 0, 0, 2), RAZ, WI),
    row((2, 0, 0, 3, 2), RAZ, WI),
    row((2, 0, 0, 6, 2), RAZ, WI),
    // DBGVCR32_EL2 is not here: EL1 cannot name it. DBGCLAIMSET_EL1 and DBGCLAIMCLR_EL1 keep eight bits of the CPU's.
    row((2, 0, 7, 8, 6), Read::Is(SysRegAction::EnableDebug), Write::Is(SysRegAction::EnableDebug)),
    row((2, 0, 7, 9, 6), Read::Is(SysRegAction::EnableDebug), Write::Is(SysRegAction::EnableDebug)),
];

const ICC_SGI1R_EL1: SysReg = SysReg::new(3, 0, 12, 11, 5);

/// Decides about an access. `written` is the value of the register that a write names.
#[inline(always)]
pub fn access(access: SysRegAccess, written: u64, ids: &IdRegs) -> SysRegAction {
    if let Some(value) = ids.read(access) {
        return SysRegAction::Value(value);
    }
    if access.register() == ICC_SGI1R_EL1 && access.is_write() {
        return SysRegAction::SendSgi { value: written, group1: true };
    }
    access_rare(access, written, ids)
}

#[cold]
fn access_rare(access: SysRegAccess, written: u64, ids: &IdRegs) -> SysRegAction {
    if let Some(row) = ROWS.iter().find(|row| row.register == access.register()) {
        return match (access.is_write(), row.read, row.write) {
            (false, Read::Is(action), _) | (true, _, Write::Is(action)) => action,
            (true, _, Write::With(action)) => action(written),
            (false, Read::Undefined, _) | (true, _, Write::Undefined) => SysRegAction::Undefined,
        };
    }
    debug_register(access, written, ids).unwrap_or(SysRegAction::Undefined)
}

fn write_mdscr(value: u64) -> SysRegAction {
    if value & MDSCR_IN_USE != 0 { SysRegAction::EnableDebug } else { SysRegAction::WriteMdscr(value) }
}

/// DBGBVR<n>, DBGBCR<n>, DBGWVR<n> and DBGWCR<n>: op0 2, op1 0, CRn 0, CRm n, op2 4 to 7. Linux clears them all on each CPU
/// start; a vCPU that does no more than that does not use them.
fn debug_register(access: SysRegAccess, written: u64, ids: &IdRegs) -> Option<SysRegAction> {
    if (access.op0(), access.op1(), access.crn()) != (2, 0, 0) {
        return None;
    }
    let count = match access.op2() {
        4 | 5 => ids.breakpoints(),
        6 | 7 => ids.watchpoints(),
        _ => return None,
    };
    if access.crm() >= count {
        return None;
    }
    Some(match access.is_write() {
        false => SysRegAction::Value(0),
        true if written == 0 => SysRegAction::Ignore,
        true => SysRegAction::EnableDebug,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::idregs::tests::neoverse_n1;
    use crate::exit::tests::Random;

    fn read(register: (u8, u8, u8, u8, u8)) -> SysRegAction {
        decide(register, 1, 0)
    }

    fn write(register: (u8, u8, u8, u8, u8), value: u64) -> SysRegAction {
        decide(register, 0, value)
    }

    fn decide((op0, op1, crn, crm, op2): (u8, u8, u8, u8, u8), direction: u32, value: u64) -> SysRegAction {
        let [op0, op1, crn, crm, op2] = [op0, op1, crn, crm, op2].map(u32::from);
        let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 3 << 5 | crm << 1 | direction;
        access(SysRegAccess(iss), value, &IdRegs::new(&neoverse_n1()))
    }

    #[test]
    fn interrupts_are_sent_by_writing_and_only_so() {
        let value = 0x0500_0001;
        assert_eq!(write((3, 0, 12, 11, 5), value), SysRegAction::SendSgi { value, group1: true });
        assert_eq!(write((3, 0, 12, 11, 7), value), SysRegAction::SendSgi { value, group1: false });
        assert_eq!(read((3, 0, 12, 11, 5)), SysRegAction::Undefined);
        assert_eq!(read((3, 0, 12, 11, 6)), SysRegAction::Undefined);
    }

    #[test]
    fn what_the_vm_does_not_have_is_undefined() {
        for (name, register) in [
            ("PMCR_EL0", (3, 3, 9, 12, 0)),
            ("PMCCNTR_EL0", (3, 3, 9, 13, 0)),
            ("PMUSERENR_EL0", (3, 3, 9, 14, 0)),
            ("PMINTENSET_EL1", (3, 0, 9, 14, 1)),
            ("PMEVCNTR3_EL0", (3, 3, 14, 8, 3)),
            ("PMCCFILTR_EL0", (3, 3, 14, 15, 7)),
            ("PMSCR_EL1", (3, 0, 9, 9, 0)),
            ("LORSA_EL1", (3, 0, 10, 4, 0)),
            ("LORID_EL1", (3, 0, 10, 4, 7)),
            ("ERRIDR_EL1", (3, 0, 5, 3, 0)),
            ("ERXSTATUS_EL1", (3, 0, 5, 4, 2)),
            ("AMCR_EL0", (3, 3, 13, 2, 0)),
            ("TRFCR_EL1", (3, 0, 1, 2, 1)),
            ("ZCR_EL1", (3, 0, 1, 2, 0)),
            ("TRCOSLSR", (2, 1, 1, 1, 4)),
            ("CPUECTLR_EL1 of a Cortex-A57", (3, 1, 15, 2, 1)),
            ("S1_0_C11_C0_0", (1, 0, 11, 0, 0)),
        ] {
            assert_eq!(
                (read(register), write(register, 1)),
                (SysRegAction::Undefined, SysRegAction::Undefined),
                "{name}"
            );
        }
    }

    #[test]
    fn id_registers_can_be_read_and_not_written() {
        assert_eq!(read((3, 0, 0, 7, 0)), SysRegAction::Value(IdRegs::new(&neoverse_n1()).get(7, 0)));
        assert_eq!(read((3, 0, 0, 7, 7)), SysRegAction::Value(0), "the reserved space reads as zero");
        assert_eq!(write((3, 0, 0, 7, 0), 1), SysRegAction::Undefined);
        assert_eq!(read((3, 1, 0, 0, 7)), SysRegAction::Undefined, "AIDR_EL1 does not trap");
    }

    #[test]
    fn linux_starting_a_cpu_does_not_use_debug_registers() {
        assert_eq!(write((2, 0, 0, 2, 2), 1 << 12), SysRegAction::WriteMdscr(1 << 12));
        assert_eq!(write((2, 0, 1, 0, 4), 0), SysRegAction::SetOsLock(false));
        for n in 0..6 {
            for op2 in 4..if n < 4 { 8 } else { 6 } {
                assert_eq!(write((2, 0, 0, n, op2), 0), SysRegAction::Ignore);
                assert_eq!(read((2, 0, 0, n, op2)), SysRegAction::Value(0));
            }
        }
    }

    #[test]
    fn a_guest_that_debugs_gets_the_registers() {
        assert_eq!(write((2, 0, 0, 0, 4), 0xffff_8000), SysRegAction::EnableDebug);
        assert_eq!(write((2, 0, 0, 0, 5), 0x1e5), SysRegAction::EnableDebug);
        assert_eq!(write((2, 0, 0, 3, 7), 1), SysRegAction::EnableDebug);
        assert_eq!(write((2, 0, 0, 2, 2), 1), SysRegAction::EnableDebug);
        // This CPU has six breakpoints and four watchpoints.
        assert_eq!(write((2, 0, 0, 6, 5), 0x1e5), SysRegAction::Undefined);
        assert_eq!(read((2, 0, 0, 4, 6)), SysRegAction::Undefined);
    }

    #[test]
    fn the_os_lock_can_be_seen() {
        assert_eq!(write((2, 0, 1, 0, 4), 1), SysRegAction::SetOsLock(true));
        assert_eq!(read((2, 0, 1, 1, 4)), SysRegAction::ReadOslsr);
        assert_eq!((oslsr(false), oslsr(true)), (0x8, 0xa));
        assert_eq!(read((2, 0, 1, 0, 4)), SysRegAction::Undefined);
    }

    #[test]
    fn registers_are_named_once() {
        for (n, row) in ROWS.iter().enumerate() {
            assert!(ROWS.iter().skip(n + 1).all(|other| other.register != row.register), "{:?}", row.register);
        }
    }

    #[test]
    fn every_encoding_has_an_answer() {
        let ids = IdRegs::new(&neoverse_n1());
        let mut random = Random(5);
        for bits in (0..1u32 << 17).step_by(if cfg!(miri) { 97 } else { 1 }) {
            // op0, op1, CRn, CRm, op2 and the direction, spread over the syndrome.
            let iss = (bits & 0x1f) | (bits >> 5 & 0xfff) << 10;
            let iss = iss | (random.below(32) as u32) << 5;
            let answer = access(SysRegAccess(iss), random.spread(), &ids);
            let is_id = iss & 0x30_0000 == 0x30_0000 && iss >> 14 & 7 == 0 && iss >> 10 & 0xf == 0;
            if is_id && iss & 1 == 1 && iss >> 1 & 0xf < 8 {
                assert!(matches!(answer, SysRegAction::Value(_)));
            }
        }
    }
}
