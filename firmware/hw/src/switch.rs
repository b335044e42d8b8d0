//! The world switch: entering a guest, and moving the rest of a vCPU's registers when another one takes the CPU.
//!
//! The order follows the architecture: stage 2 and traps are in place before the guest's EL1 registers matter, and an
//! `isb` (here, the `eret`) stands between them and the first guest instruction.

use crate::cpu;
use crate::sysreg::{isb, read, write};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use salp_board::facts::MAX_CPUS;
use salp_core::context::{Context, DebugRegs, El1Regs, FpRegs, GuestRegs, PauthKeys, VgicCpuRegs};

/// The vCPU whose registers each CPU has.
static LOADED: [AtomicPtr<Context>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

core::arch::global_asm!(include_str!("switch.S"));

unsafe extern "C" {
    fn salp_enter_guest(regs: *mut GuestRegs) -> u64;
    fn salp_save_fp(regs: *mut FpRegs);
    fn salp_load_fp(regs: *const FpRegs);
}

/// Why a guest came back to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A synchronous exception; the syndrome registers say which.
    Synchronous,
    /// A physical IRQ.
    Irq,
    /// A physical FIQ.
    Fiq,
    /// A physical SError.
    SError,
}

/// Runs the guest until it exits.
#[inline]
pub fn enter(regs: &mut GuestRegs) -> Exit {
    // SAFETY: `regs` is exclusively borrowed until the guest exits; the assembly keeps the callee-saved registers and
    // the stack. The guest runs at EL1 behind stage 2: it cannot reach EL2's memory.
    match unsafe { salp_enter_guest(regs) } {
        0 => Exit::Synchronous,
        1 => Exit::Irq,
        2 => Exit::Fiq,
        _ => Exit::SError,
    }
}

macro_rules! el1_registers {
    ($($register:ident)*) => {
        fn save_el1(to: &mut El1Regs) {
            $(to.$register = read!($register);)*
        }

        fn load_el1(from: &El1Regs) {
            $(write!($register, from.$register);)*
        }
    };
}

el1_registers! {
    sctlr_el1 cpacr_el1 ttbr0_el1 ttbr1_el1 tcr_el1 esr_el1 afsr0_el1 afsr1_el1 far_el1 mair_el1 amair_el1 vbar_el1
    contextidr_el1 tpidr_el0 tpidrro_el0 tpidr_el1 cntkctl_el1 par_el1 sp_el0 sp_el1 elr_el1 spsr_el1 csselr_el1
    mdscr_el1 cntv_cval_el0 cntp_cval_el0 cntv_ctl_el0 cntp_ctl_el0
}

/// What differs between CPUs and decides which registers are moved.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// FEAT_PAuth: there are keys.
    pub pauth: bool,
    /// How many breakpoints.
    pub breakpoints: usize,
    /// How many watchpoints.
    pub watchpoints: usize,
    /// How many ICH_AP1R registers: 1, 2 or 4.
    pub active_priority_registers: usize,
}

impl Features {
    /// Reads the features of this CPU.
    pub fn detect() -> Self {
        let isar1 = read!(id_aa64isar1_el1);
        let isar2 = read!(s3_0_c0_c6_2);
        let dfr0 = read!(id_aa64dfr0_el1);
        let priority_bits = (read!(ich_vtr_el2) >> 29 & 7) + 1;
        Self {
            // APA, API, GPA, GPI; APA3, GPA3
            pauth: isar1 & 0xff00_0ff0 != 0 || isar2 & 0xff00 != 0,
            breakpoints: (dfr0 >> 12 & 0xf) as usize + 1,
            watchpoints: (dfr0 >> 20 & 0xf) as usize + 1,
            active_priority_registers: match priority_bits {
                0..=5 => 1,
                6 => 2,
                _ => 4,
            },
        }
    }
}

/// Loads everything but the general registers and the list registers.
pub fn load(context: &Context, features: &Features) {
    load_el1(&context.el1);
    // SAFETY: the layout is `FpRegs`; EL2 is built without FP, so these registers are the guest's only.
    unsafe { salp_load_fp(&context.fp) };
    if features.pauth {
        load_pauth(&context.pauth);
    }
    if context.debug_used {
        load_debug(&context.debug, features);
    }
    load_gic(&context.gic, features);
}

/// Saves what [`load`] loads, and turns the guest's timers off: they belong to the next vCPU.
pub fn save(context: &mut Context, features: &Features) {
    save_el1(&mut context.el1);
    write!(cntv_ctl_el0, 0u64);
    write!(cntp_ctl_el0, 0u64);
    // SAFETY: as in `load`.
    unsafe { salp_save_fp(&mut context.fp) };
    if features.pauth {
        save_pauth(&mut context.pauth);
    }
    if context.debug_used {
        save_debug(&mut context.debug, features);
    }
    save_gic(&mut context.gic, features);
    isb!();
}

/// Notes whose registers CPU `index` has, as long as it has them.
pub fn note(index: usize, context: Option<&mut Context>) {
    LOADED[index % MAX_CPUS].store(context.map_or(ptr::null_mut(), ptr::from_mut), Ordering::Relaxed);
}

/// Saves the registers of the vCPU that this CPU, `index`, has, if it has one's.
///
/// # Safety
///
/// This CPU does not return to what it did.
pub(crate) unsafe fn abandon(index: usize) {
    let context = LOADED[index % MAX_CPUS].swap(ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: a context that this CPU had for itself when it was noted; who borrowed it is not returned to.
    let Some(context) = (unsafe { context.as_mut() }) else { return };
    context.serror_pending = cpu::virtual_serror_pending();
    save(context, &Features::detect());
}

macro_rules! pauth_registers {
    ($($index:literal $register:ident)*) => {
        fn save_pauth(to: &mut PauthKeys) {
            $(to[$index] = read!($register);)*
        }

        fn load_pauth(from: &PauthKeys) {
            $(write!($register, from[$index]);)*
        }
    };
}

// APIAKeyLo_EL1, APIAKeyHi_EL1, then IB, DA, DB, GA.
pauth_registers! {
    0 s3_0_c2_c1_0 1 s3_0_c2_c1_1 2 s3_0_c2_c1_2 3 s3_0_c2_c1_3 4 s3_0_c2_c2_0 5 s3_0_c2_c2_1 6 s3_0_c2_c2_2
    7 s3_0_c2_c2_3 8 s3_0_c2_c3_0 9 s3_0_c2_c3_1
}

macro_rules! debug_registers {
    ($($index:literal $bvr:ident $bcr:ident $wvr:ident $wcr:ident)*) => {
        fn save_debug(to: &mut DebugRegs, features: &Features) {
            $(
                if features.breakpoints > $index {
                    to.breakpoints[$index] = [read!($bvr), read!($bcr)];
                }
                if features.watchpoints > $index {
                    to.watchpoints[$index] = [read!($wvr), read!($wcr)];
                }
            )*
        }

        fn load_debug(from: &DebugRegs, features: &Features) {
            $(
                if features.breakpoints > $index {
                    write!($bvr, from.breakpoints[$index][0]);
                    write!($bcr, from.breakpoints[$index][1]);
                }
                if features.watchpoints > $index {
                    write!($wvr, from.watchpoints[$index][0]);
                    write!($wcr, from.watchpoints[$index][1]);
                }
            )*
        }
    };
}

debug_registers! {
    0 dbgbvr0_el1 dbgbcr0_el1 dbgwvr0_el1 dbgwcr0_el1
    1 dbgbvr1_el1 dbgbcr1_el1 dbgwvr1_el1 dbgwcr1_el1
    2 dbgbvr2_el1 dbgbcr2_el1 dbgwvr2_el1 dbgwcr2_el1
    3 dbgbvr3_el1 dbgbcr3_el1 dbgwvr3_el1 dbgwcr3_el1
    4 dbgbvr4_el1 dbgbcr4_el1 dbgwvr4_el1 dbgwcr4_el1
    5 dbgbvr5_el1 dbgbcr5_el1 dbgwvr5_el1 dbgwcr5_el1
    6 dbgbvr6_el1 dbgbcr6_el1 dbgwvr6_el1 dbgwcr6_el1
    7 dbgbvr7_el1 dbgbcr7_el1 dbgwvr7_el1 dbgwcr7_el1
    8 dbgbvr8_el1 dbgbcr8_el1 dbgwvr8_el1 dbgwcr8_el1
    9 dbgbvr9_el1 dbgbcr9_el1 dbgwvr9_el1 dbgwcr9_el1
    10 dbgbvr10_el1 dbgbcr10_el1 dbgwvr10_el1 dbgwcr10_el1
    11 dbgbvr11_el1 dbgbcr11_el1 dbgwvr11_el1 dbgwcr11_el1
    12 dbgbvr12_el1 dbgbcr12_el1 dbgwvr12_el1 dbgwcr12_el1
    13 dbgbvr13_el1 dbgbcr13_el1 dbgwvr13_el1 dbgwcr13_el1
    14 dbgbvr14_el1 dbgbcr14_el1 dbgwvr14_el1 dbgwcr14_el1
    15 dbgbvr15_el1 dbgbcr15_el1 dbgwvr15_el1 dbgwcr15_el1
}

/// Loads the debug registers of a vCPU that has just begun to use them.
pub fn begin_debug(context: &mut Context, features: &Features) {
    context.debug_used = true;
    load_debug(&context.debug, features);
}

macro_rules! active_priorities {
    ($($index:literal $ap0r:ident $ap1r:ident)*) => {
        fn load_gic(from: &VgicCpuRegs, features: &Features) {
            write!(ich_vmcr_el2, from.vmcr);
            $(
                if features.active_priority_registers > $index {
                    write!($ap0r, from.ap0r[$index]);
                    write!($ap1r, from.ap1r[$index]);
                }
            )*
        }

        fn save_gic(to: &mut VgicCpuRegs, features: &Features) {
            to.vmcr = read!(ich_vmcr_el2);
            $(
                if features.active_priority_registers > $index {
                    to.ap0r[$index] = read!($ap0r);
                    to.ap1r[$index] = read!($ap1r);
                }
            )*
        }
    };
}

active_priorities! {
    0 ich_ap0r0_el2 ich_ap1r0_el2
    1 ich_ap0r1_el2 ich_ap1r1_el2
    2 ich_ap0r2_el2 ich_ap1r2_el2
    3 ich_ap0r3_el2 ich_ap1r3_el2
}
