//! System registers by name. Only such registers can be written here that cannot change what Rust code means.

use core::arch::asm;

macro_rules! readable {
    ($($get:ident $register:literal)*) => {$(
        #[doc = concat!("Returns ", $register, ".")]
        #[inline(always)]
        pub fn $get() -> u64 {
            let value: u64;
            // SAFETY: reading the register changes nothing that Rust knows of; where it is UNDEFINED the vectors take it.
            unsafe { asm!(concat!("mrs {0}, ", $register), out(reg) value, options(nostack)) };
            value
        }
    )*};
}

macro_rules! writable {
    ($($set:ident $register:literal)*) => {$(
        #[doc = concat!("Writes ", $register, " and waits until it has its effect.")]
        #[inline(always)]
        pub fn $set(value: u64) {
            // SAFETY: the register has no say in memory, control flow or the registers that compiled code uses.
            unsafe { asm!(concat!("msr ", $register, ", {0}"), "isb", in(reg) value, options(nostack)) };
        }
    )*};
}

readable! {
    mpidr "mpidr_el1"
    midr "midr_el1"
    current_el "currentel"
    daif "daif"
    cntfrq "cntfrq_el0"
    cntp_ctl "cntp_ctl_el0"
    cntp_cval "cntp_cval_el0"
    cntp_tval "cntp_tval_el0"
    cntv_ctl "cntv_ctl_el0"
    cntv_cval "cntv_cval_el0"
    cntv_tval "cntv_tval_el0"
    cntkctl "cntkctl_el1"
    mdscr "mdscr_el1"
    oslsr "oslsr_el1"
    id_aa64pfr0 "id_aa64pfr0_el1"
    id_aa64pfr1 "id_aa64pfr1_el1"
    id_aa64dfr0 "id_aa64dfr0_el1"
    id_aa64isar0 "id_aa64isar0_el1"
    id_aa64isar1 "id_aa64isar1_el1"
    id_aa64mmfr0 "id_aa64mmfr0_el1"
    id_aa64zfr0 "s3_0_c0_c4_4"
    icc_iar1 "s3_0_c12_c12_0"
    icc_hppir1 "s3_0_c12_c12_2"
    icc_bpr1 "s3_0_c12_c12_3"
    icc_ctlr "s3_0_c12_c12_4"
    icc_sre "s3_0_c12_c12_5"
    icc_igrpen1 "s3_0_c12_c12_7"
    icc_pmr "s3_0_c4_c6_0"
    icc_rpr "s3_0_c12_c11_3"
    icc_ap1r0 "s3_0_c12_c9_0"
}

writable! {
    set_cntp_ctl "cntp_ctl_el0"
    set_cntp_cval "cntp_cval_el0"
    set_cntp_tval "cntp_tval_el0"
    set_cntv_ctl "cntv_ctl_el0"
    set_cntv_cval "cntv_cval_el0"
    set_cntv_tval "cntv_tval_el0"
    set_cntkctl "cntkctl_el1"
    set_mdscr "mdscr_el1"
    set_icc_eoir1 "s3_0_c12_c12_1"
    set_icc_dir "s3_0_c12_c11_1"
    set_icc_bpr1 "s3_0_c12_c12_3"
    set_icc_ctlr "s3_0_c12_c12_4"
    set_icc_sre "s3_0_c12_c12_5"
    set_icc_igrpen1 "s3_0_c12_c12_7"
    set_icc_pmr "s3_0_c4_c6_0"
    set_icc_sgi1r "s3_0_c12_c11_5"
}

/// Returns the virtual counter, read in program order.
#[inline(always)]
pub fn cntvct() -> u64 {
    let value: u64;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {0}, cntvct_el0", out(reg) value, options(nostack)) };
    value
}

/// Returns the physical counter, read in program order.
#[inline(always)]
pub fn cntpct() -> u64 {
    let value: u64;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {0}, cntpct_el0", out(reg) value, options(nostack)) };
    value
}

/// Lets interrupts in.
#[inline(always)]
pub fn unmask_irq() {
    // SAFETY: the vectors preserve every register, and handlers touch shared data only through atomics and locks.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// Keeps interrupts out.
#[inline(always)]
pub fn mask_irq() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Keeps every asynchronous exception and debug exception out.
#[inline(always)]
pub fn mask_all() {
    // SAFETY: only delays exceptions.
    unsafe { asm!("msr daifset, #15", options(nostack)) };
}

/// Lets debug exceptions of EL1's own code in.
#[inline(always)]
pub fn unmask_debug() {
    // SAFETY: the vectors preserve every register.
    unsafe { asm!("msr daifclr, #8", options(nostack)) };
}

/// Keeps debug exceptions out.
#[inline(always)]
pub fn mask_debug() {
    // SAFETY: only delays exceptions.
    unsafe { asm!("msr daifset, #8", options(nostack)) };
}

/// Runs `f` with interrupts masked.
#[inline(always)]
pub fn with_irq_masked<R>(f: impl FnOnce() -> R) -> R {
    let before = daif();
    mask_irq();
    let result = f();
    if before & (1 << 7) == 0 {
        unmask_irq();
    }
    result
}

/// Waits for an interrupt, masked or not.
#[inline(always)]
pub fn wfi() {
    // SAFETY: a hint.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

/// Waits for an event.
#[inline(always)]
pub fn wfe() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nostack)) };
}

/// Sends an event to all vCPUs, this one included.
#[inline(always)]
pub fn sev() {
    // SAFETY: a hint.
    unsafe { asm!("sev", options(nostack)) };
}

/// Waits until everything before has been completed: memory accesses, then the effects on instructions.
#[inline(always)]
pub fn barrier() {
    // SAFETY: only orders what others do.
    unsafe { asm!("dsb sy", "isb", options(nostack)) };
}
