//! A vCPU's registers as plain data: what the world switch loads and saves. Used by `vcpu`; loaded by `firmware/hw`. A hand-over
//! has them as they are: what changes their layout changes the version of that record.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// The registers that every entry loads and every exit saves. The layout is known to the assembly of the world switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GuestRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The address of the next instruction (ELR_EL2).
    pub pc: u64,
    /// PSTATE (SPSR_EL2).
    pub pstate: u64,
}

const _: () = assert!(core::mem::offset_of!(GuestRegs, pc) == 248);

impl GuestRegs {
    /// Returns general register `index`; 31 is the zero register.
    #[inline]
    pub fn get(&self, index: u8) -> u64 {
        self.x.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Writes general register `index`; 31 is the zero register.
    #[inline]
    pub fn set(&mut self, index: u8, value: u64) {
        if let Some(register) = self.x.get_mut(usize::from(index)) {
            *register = value;
        }
    }
}

/// PSTATE of a CPU that starts: EL1h, all exceptions masked (PSCI 6.4, Linux boot protocol).
pub const PSTATE_RESET: u64 = 0x3c5;

/// EL1 and EL0 system registers, saved when another vCPU takes the CPU. Names are those of the Arm ARM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)]
pub struct El1Regs {
    pub sctlr_el1: u64,
    pub cpacr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub tcr_el1: u64,
    pub esr_el1: u64,
    pub afsr0_el1: u64,
    pub afsr1_el1: u64,
    pub far_el1: u64,
    pub mair_el1: u64,
    pub amair_el1: u64,
    pub vbar_el1: u64,
    pub contextidr_el1: u64,
    pub tpidr_el0: u64,
    pub tpidrro_el0: u64,
    pub tpidr_el1: u64,
    pub cntkctl_el1: u64,
    pub par_el1: u64,
    pub sp_el0: u64,
    pub sp_el1: u64,
    pub elr_el1: u64,
    pub spsr_el1: u64,
    pub csselr_el1: u64,
    pub mdscr_el1: u64,
    pub cntv_ctl_el0: u64,
    pub cntv_cval_el0: u64,
    pub cntp_ctl_el0: u64,
    pub cntp_cval_el0: u64,
}

/// SCTLR_EL1 of a CPU that starts: RES1 bits, MMU and caches off (Arm ARM D24.2.175).
pub const SCTLR_EL1_RESET: u64 = 0x30d0_0800;

impl El1Regs {
    /// Returns the registers of a CPU that starts.
    pub fn reset() -> Self {
        Self { sctlr_el1: SCTLR_EL1_RESET, ..Self::default() }
    }
}

/// Pointer authentication keys (FEAT_PAuth): IA, IB, DA, DB, GA, each low then high.
pub type PauthKeys = [u64; 10];

/// FP and SIMD registers. The layout is known to assembly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(16))]
pub struct FpRegs {
    /// q0 to q31.
    pub q: [u128; 32],
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
}

/// Breakpoints and watchpoints, switched only for a vCPU that has touched them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DebugRegs {
    /// `DBGBVR<n>_EL1`, `DBGBCR<n>_EL1`.
    pub breakpoints: [[u64; 2]; 16],
    /// `DBGWVR<n>_EL1`, `DBGWCR<n>_EL1`.
    pub watchpoints: [[u64; 2]; 16],
}

/// The virtual CPU interface of the GIC that is not in list registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VgicCpuRegs {
    /// ICH_VMCR_EL2: the guest's priority mask, binary points, group enables, EOI mode.
    pub vmcr: u64,
    /// ICH_AP0R_EL2: active priorities of group 0.
    pub ap0r: [u64; 4],
    /// ICH_AP1R_EL2: active priorities of group 1.
    pub ap1r: [u64; 4],
}

/// All of a vCPU's state that lives in CPU registers while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Context {
    /// Loaded at every entry.
    pub regs: GuestRegs,
    /// EL1 and EL0 system registers.
    pub el1: El1Regs,
    /// Zero.
    reserved: u64,
    /// FP and SIMD.
    pub fp: FpRegs,
    /// Pointer authentication keys.
    pub pauth: PauthKeys,
    /// The GIC CPU interface.
    pub gic: VgicCpuRegs,
    /// Debug registers.
    pub debug: DebugRegs,
    /// The guest has touched debug registers: they are switched from now on.
    pub debug_used: bool,
    /// The OS lock is locked (OSLAR_EL1): out of reset it is.
    pub os_locked: bool,
    /// A virtual SError is pending (HCR_EL2.VSE).
    pub serror_pending: bool,
    /// Zero.
    end: [u8; 5],
}

const _: () = assert!(size_of::<Context>() == 1696);

impl Context {
    /// Returns the context of a CPU that starts at `entry` with `argument` in x0.
    pub fn reset(entry: u64, argument: u64) -> Self {
        let mut context = Self { el1: El1Regs::reset(), os_locked: true, ..Self::default() };
        context.regs.pc = entry;
        context.regs.pstate = PSTATE_RESET;
        context.regs.x[0] = argument;
        context
    }
}
