//! What this CPU is and how EL2 wants it: features, traps, and the start of the other CPUs.

use crate::handover;
use crate::layout;
use crate::psci;
use crate::sysreg::{dsb, isb, read, write};
use aarch64_cpu::registers::{CNTHCTL_EL2, CPTR_EL2, HCR_EL2, Writeable};
use salp_core::addr::{Pa, Va};

/// Sets this CPU's EL2 registers up: vectors, W^X enforced, traps of what guests may not touch.
pub fn init(crash_stack: Va, is_first: bool) {
    // Set before anything can fault.
    write!(tpidr_el2, crash_stack.0);
    // The first CPU of an image that was handed over to has the vectors and the deadline of the one before.
    let is_on_trial = is_first && handover::is_on_trial();
    if !is_on_trial {
        set_vectors();
    }
    const WXN: u64 = 1 << 19;
    write!(sctlr_el2, read!(sctlr_el2) | WXN);
    HCR_EL2.set(traps());
    // SVE, SME, AMU and trace are not the guest's; FP and SIMD are.
    const TAM: u64 = 1 << 30;
    const TTA: u64 = 1 << 20;
    const TSM_TZ_AND_RES1: u64 = 0x33ff;
    CPTR_EL2.set(TAM | TTA | TSM_TZ_AND_RES1);
    // Both counters and both EL1 timers are the guest's.
    CNTHCTL_EL2.write(CNTHCTL_EL2::EL1PCTEN::SET + CNTHCTL_EL2::EL1PCEN::SET);
    write!(hstr_el2, 0u64);
    write!(mdcr_el2, mdcr(false));
    // The CPU comes out of reset with its OS lock locked, which silences debug exceptions. Guests have one of their own.
    write!(oslar_el1, 0u64);
    write!(vpidr_el2, read!(midr_el1));
    write!(cntv_ctl_el0, 0u64);
    write!(cntp_ctl_el0, 0u64);
    if !is_on_trial {
        write!(cnthp_ctl_el2, 0u64);
    }
    let mmfr1 = read!(id_aa64mmfr1_el1);
    if mmfr1 >> 40 & 0xf != 0 {
        write!(s3_4_c1_c2_2, 0u64); // HCRX_EL2: nothing of it is given to guests
    }
    isb!();
}

/// Sends this CPU's exceptions to this image's vectors.
pub fn set_vectors() {
    unsafe extern "C" {
        static salp_vectors: u8;
    }
    write!(vbar_el2, &raw const salp_vectors as u64);
    isb!();
}

/// Lets interrupts reach EL2 itself, or not.
pub fn unmask_interrupts(unmask: bool) {
    // SAFETY: an interrupt that EL2 takes from itself goes to the image before ([`handover`]), which needs nothing of this one.
    unsafe {
        if unmask {
            core::arch::asm!("msr daifclr, #2", options(nostack, preserves_flags));
        } else {
            core::arch::asm!("msr daifset, #2", options(nostack, preserves_flags));
        }
    }
}

/// HCR_EL2 of every guest (Arm ARM D24.2.48).
fn traps() -> u64 {
    const VM: u64 = 1 << 0;
    const SWIO: u64 = 1 << 1;
    const FMO: u64 = 1 << 3;
    const IMO: u64 = 1 << 4;
    const AMO: u64 = 1 << 5;
    const FB: u64 = 1 << 9;
    const BSU_INNER: u64 = 1 << 10;
    const TWI: u64 = 1 << 13;
    const TID3: u64 = 1 << 18;
    const TSC: u64 = 1 << 19;
    const TIDCP: u64 = 1 << 20;
    const TACR: u64 = 1 << 21;
    const TSW: u64 = 1 << 22;
    const RW: u64 = 1 << 31;
    const TLOR: u64 = 1 << 35;
    const TERR: u64 = 1 << 36;
    const APK: u64 = 1 << 40;
    const API: u64 = 1 << 41;
    VM | SWIO | FMO | IMO | AMO | FB | BSU_INNER | TWI | TID3 | TSC | TIDCP | TACR | TSW | RW | TLOR | TERR | APK | API
}

/// HCR_EL2.VSE: a virtual SError is pending.
const VSE: u64 = 1 << 8;

/// Makes a virtual SError pending for the running guest, or withdraws it.
pub fn set_virtual_serror(pending: bool) {
    write!(hcr_el2, traps() | if pending { VSE } else { 0 });
}

/// Returns true until the guest has taken its virtual SError.
pub fn virtual_serror_pending() -> bool {
    read!(hcr_el2) & VSE != 0
}

/// MDCR_EL2: the PMU, SPE, trace and debug ROM trap; debug registers trap until a guest first uses them.
fn mdcr(debug_open: bool) -> u64 {
    const TPMCR: u64 = 1 << 5;
    const TPM: u64 = 1 << 6;
    const TDA: u64 = 1 << 9;
    const TDOSA: u64 = 1 << 10;
    const TDRA: u64 = 1 << 11;
    const TPMS: u64 = 1 << 14;
    const TTRF: u64 = 1 << 19;
    TPMCR | TPM | TDOSA | TDRA | TPMS | TTRF | if debug_open { 0 } else { TDA }
}

/// Lets the running guest use breakpoint and watchpoint registers, or traps the use.
pub fn open_debug(open: bool) {
    write!(mdcr_el2, mdcr(open));
}

/// Sets what differs between VMs and vCPUs outside the saved context.
pub fn set_vm(vttbr: u64, vmpidr: u64, counter_offset: u64) {
    write!(vttbr_el2, vttbr);
    write!(vmpidr_el2, vmpidr);
    write!(cntvoff_el2, counter_offset);
    isb!();
}

/// Sets stage 2 of this CPU up: 39-bit IPA, 4 KiB granule, start at level 1 (Arm ARM D8.2.4, VTCR_EL2).
pub fn init_stage2(wide_vmid: bool) {
    let physical_bits = (read!(id_aa64mmfr0_el1) & 0xf).min(5);
    const T0SZ: u64 = 64 - 39;
    const SL0_LEVEL1: u64 = 1 << 6;
    const WRITE_BACK: u64 = 1 << 8 | 1 << 10;
    const INNER_SHAREABLE: u64 = 3 << 12;
    const VS: u64 = 1 << 19;
    const RES1: u64 = 1 << 31;
    let vs = if wide_vmid { VS } else { 0 };
    write!(vtcr_el2, T0SZ | SL0_LEVEL1 | WRITE_BACK | INNER_SHAREABLE | physical_bits << 16 | vs | RES1);
    isb!();
}

/// Returns true if the CPU has 16-bit VMIDs (FEAT_VMID16).
pub fn has_wide_vmids() -> bool {
    read!(id_aa64mmfr1_el1) >> 4 & 0xf == 2
}

/// Returns ID register op0=3, op1=0, CRn=0, `crm`, `op2`, or 0 outside CRm 0 to 7.
pub fn id_register(crm: u8, op2: u8) -> u64 {
    macro_rules! table {
        ($($crm:literal: $($op2:literal $register:ident)*;)*) => {
            match (crm, op2) {
                $($(($crm, $op2) => read!($register),)*)*
                _ => 0,
            }
        };
    }
    table! {
        0: 0 s3_0_c0_c0_0 5 s3_0_c0_c0_5 6 s3_0_c0_c0_6;
        1: 0 s3_0_c0_c1_0 1 s3_0_c0_c1_1 2 s3_0_c0_c1_2 3 s3_0_c0_c1_3 4 s3_0_c0_c1_4 5 s3_0_c0_c1_5 6 s3_0_c0_c1_6 7 s3_0_c0_c1_7;
        2: 0 s3_0_c0_c2_0 1 s3_0_c0_c2_1 2 s3_0_c0_c2_2 3 s3_0_c0_c2_3 4 s3_0_c0_c2_4 5 s3_0_c0_c2_5 6 s3_0_c0_c2_6 7 s3_0_c0_c2_7;
        3: 0 s3_0_c0_c3_0 1 s3_0_c0_c3_1 2 s3_0_c0_c3_2 3 s3_0_c0_c3_3 4 s3_0_c0_c3_4 5 s3_0_c0_c3_5 6 s3_0_c0_c3_6 7 s3_0_c0_c3_7;
        4: 0 s3_0_c0_c4_0 1 s3_0_c0_c4_1 2 s3_0_c0_c4_2 3 s3_0_c0_c4_3 4 s3_0_c0_c4_4 5 s3_0_c0_c4_5 6 s3_0_c0_c4_6 7 s3_0_c0_c4_7;
        5: 0 s3_0_c0_c5_0 1 s3_0_c0_c5_1 2 s3_0_c0_c5_2 3 s3_0_c0_c5_3 4 s3_0_c0_c5_4 5 s3_0_c0_c5_5 6 s3_0_c0_c5_6 7 s3_0_c0_c5_7;
        6: 0 s3_0_c0_c6_0 1 s3_0_c0_c6_1 2 s3_0_c0_c6_2 3 s3_0_c0_c6_3 4 s3_0_c0_c6_4 5 s3_0_c0_c6_5 6 s3_0_c0_c6_6 7 s3_0_c0_c6_7;
        7: 0 s3_0_c0_c7_0 1 s3_0_c0_c7_1 2 s3_0_c0_c7_2 3 s3_0_c0_c7_3 4 s3_0_c0_c7_4 5 s3_0_c0_c7_5 6 s3_0_c0_c7_6 7 s3_0_c0_c7_7;
    }
}

/// Returns what this CPU is: MIDR_EL1.
pub fn model() -> u64 {
    read!(midr_el1)
}

/// Returns the affinity of this CPU: MPIDR_EL1 without its flags.
pub fn affinity() -> u64 {
    read!(mpidr_el1) & 0xff_00ff_ffff
}

/// Returns the syndrome of the exit just taken: ESR_EL2, FAR_EL2, HPFAR_EL2.
#[inline]
pub fn syndrome() -> (u64, u64, u64) {
    (read!(esr_el2), read!(far_el2), read!(hpfar_el2))
}

/// Returns ESR_EL2 alone: enough for the most frequent exits.
#[inline]
pub fn esr() -> u64 {
    read!(esr_el2)
}

/// Returns the physical counter, in ticks.
#[inline]
pub fn counter() -> u64 {
    isb!();
    read!(cntpct_el0)
}

/// Returns the frequency of the counter, in Hz.
pub fn counter_frequency() -> u64 {
    read!(cntfrq_el0)
}

/// Programs this CPU's EL2 timer to interrupt when the counter reaches `deadline`, or turns it off.
#[inline]
pub fn set_alarm(deadline: Option<u64>) {
    match deadline {
        Some(at) => {
            write!(cnthp_cval_el2, at);
            write!(cnthp_ctl_el2, 1u64);
        }
        None => write!(cnthp_ctl_el2, 0u64),
    }
    isb!();
}

/// Waits until an interrupt is pending. EL2 has interrupts masked: none is taken, the caller acknowledges it.
pub fn wait_for_interrupt() {
    dsb!("sy");
    // SAFETY: waits, changes nothing.
    unsafe { core::arch::asm!("wfi", options(nostack, preserves_flags)) };
}

/// Returns VBAR_EL1 and SCTLR_EL1 of the running guest.
pub fn el1_vectors() -> (u64, u64) {
    (read!(vbar_el1), read!(sctlr_el1))
}

/// Returns ELR_EL1 and ESR_EL1 of the running guest.
pub fn el1_exception() -> (u64, u64) {
    (read!(elr_el1), read!(esr_el1))
}

/// Writes the registers that describe an exception to the running guest; FAR_EL1 keeps its value without one.
pub fn set_el1_exception(elr: u64, spsr: u64, esr: u64, far: Option<u64>) {
    write!(elr_el1, elr);
    write!(spsr_el1, spsr);
    write!(esr_el1, esr);
    if let Some(far) = far {
        write!(far_el1, far);
    }
}

/// Returns TCR_EL1 of the running guest.
pub fn tcr_el1() -> u64 {
    read!(tcr_el1)
}

/// Returns TTBR0_EL1 and TTBR1_EL1 of the running guest.
pub fn ttbr_el1() -> (u64, u64) {
    (read!(ttbr0_el1), read!(ttbr1_el1))
}

/// Returns MDSCR_EL1 of the running guest.
pub fn mdscr() -> u64 {
    read!(mdscr_el1)
}

/// Writes MDSCR_EL1 of the running guest.
pub fn set_mdscr(value: u64) {
    write!(mdscr_el1, value);
}

/// Walks the running guest's own tables: the guest physical address of `va`, `None` if they do not map it.
pub fn translate_stage1(va: u64, is_write: bool) -> Option<u64> {
    let saved = read!(par_el1);
    // SAFETY: an address translation writes PAR_EL1 only, which is put back.
    unsafe {
        if is_write {
            core::arch::asm!("at s1e1w, {}", in(reg) va, options(nostack, preserves_flags));
        } else {
            core::arch::asm!("at s1e1r, {}", in(reg) va, options(nostack, preserves_flags));
        }
    }
    isb!();
    let par = read!(par_el1);
    write!(par_el1, saved);
    (par & 1 == 0).then_some(par & 0x000f_ffff_ffff_f000 | va & 0xfff)
}

/// Stirs what differs between two starts of one machine into a seed: counters, and RNDR where there is one.
pub fn stir(seed: &mut [u8; 32]) {
    let has_rndr = id_register(6, 0) >> 60 != 0;
    for chunk in seed.chunks_exact_mut(8) {
        let mut word = counter();
        if has_rndr {
            word ^= read!(s3_3_c2_c4_0);
        }
        chunk.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to ^= from);
    }
}

/// Waits until another CPU sends an event.
pub fn wait_for_event() {
    // SAFETY: waits, changes nothing.
    unsafe { core::arch::asm!("wfe", options(nostack, preserves_flags)) };
}

/// Ends [`wait_for_event`] on every CPU. What was written before is seen by them.
pub fn send_event() {
    dsb!("ish");
    // SAFETY: signals, changes nothing.
    unsafe { core::arch::asm!("sev", options(nostack, preserves_flags)) };
}

/// What a CPU needs to start, laid out for `secondary_cpu` in entry.S, read with caches off.
#[repr(C, align(64))]
struct StartRecord {
    table: u64,
    stack: u64,
    argument: u64,
    continuation: u64,
}

/// Returns the physical address at which other CPUs start.
fn entry(image: Pa) -> Pa {
    unsafe extern "C" {
        static secondary_cpu: u8;
    }
    layout::to_physical(image, Va(&raw const secondary_cpu as u64))
}

/// Starts the CPU with affinity `mpidr` in `continuation(argument)`, the one that waits at a door if there is a door. `scratch` is
/// a page that only this call uses.
///
/// # Errors
///
/// What the firmware below answered.
///
/// # Safety
///
/// `root` is EL2's finished map and maps `stack`; `scratch` is a free page of RAM, mapped as itself.
#[allow(clippy::too_many_arguments)] // Each is a thing that a CPU needs.
pub unsafe fn start(
    mpidr: u64,
    image: Pa,
    root: Pa,
    stack: Va,
    scratch: Pa,
    argument: u64,
    door: Option<(handover::Head, usize)>,
    continuation: extern "C" fn(u64) -> !,
) -> Result<(), smccc::psci::Error> {
    let record =
        StartRecord { table: root.0, stack: stack.0, argument, continuation: continuation as *const () as u64 };
    // SAFETY: the caller gives the page away.
    unsafe { core::ptr::write_volatile(scratch.0 as *mut StartRecord, record) };
    // The CPU reads it with caches off.
    crate::memory::clean_to_coherency(scratch, size_of::<StartRecord>() as u64);
    match door {
        Some((head, index)) => {
            head.open(index, entry(image), scratch);
            Ok(())
        }
        None => psci::cpu_on(mpidr, entry(image), scratch),
    }
}
