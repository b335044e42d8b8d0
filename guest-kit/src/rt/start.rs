//! The first instructions of every vCPU. Before: the boot protocol or PSCI CPU_ON. After: `guest_main` of the guest, or
//! the function that [`super::cpu::start`] was given.
//!
//! No memory is read or written before the MMU and caches are on, except the translation tables: what a vCPU writes
//! uncached could be hidden by cache lines that others hold.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{console, cpu, sysreg};
use crate::{machine, psci, timer};

/// Bytes of stack of each vCPU; `guest.ld` reserves eight of them.
pub const STACK_SIZE: u64 = 16384;

static COUNTERS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

unsafe extern "Rust" {
    /// The guest itself; made by `program!`.
    safe fn guest_main();
}

global_asm!(
    r#"
    .section .text.entry, "ax"
    .global _start
_start:
    // The header of an arm64 Image (Linux, Documentation/arch/arm64/booting.rst); its first two words are executed.
    mrs     x20, cntpct_el0
    b       1f
    .quad   0x80000                         // text_offset
    .quad   __image_size                       // image_size, with bss: nothing may be placed there
    .quad   0x2                             // little endian, 4 KiB pages, near the base of RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

1:  mrs     x21, cntvct_el0
    mov     x19, x0
    // The level 1 table: 512 blocks of 1 GiB, identity. The first is the devices, the others are RAM.
    adrp    x1, __level1_table
    ldr     x2, ={DEVICE}
    str     x2, [x1], #8
    ldr     x2, ={NORMAL} + (1 << 30)
    mov     x4, #(1 << 30)
    mov     x3, #511
    bl      fill
    // The first GiB of RAM: 512 blocks of 2 MiB, but for the one in which the guard of the stack is: 512 pages, without that one.
    adrp    x1, __level2_table
    orr     x2, x1, #3
    adrp    x5, __level1_table
    str     x2, [x5, #8]
    ldr     x2, ={NORMAL} + (1 << 30)
    mov     x4, #(2 << 20)
    mov     x3, #512
    bl      fill
    adrp    x1, __level3_table
    adrp    x5, __stack_guard
    orr     x2, x1, #3
    adrp    x6, __level2_table
    ubfx    x7, x5, #21, #9
    str     x2, [x6, x7, lsl #3]
    ldr     x2, ={NORMAL} + 2               // a page, not a block
    orr     x2, x2, x5
    and     x2, x2, #~(0x1ff << 12)
    mov     x4, #4096
    mov     x3, #512
    bl      fill
    adrp    x6, __level3_table
    ubfx    x7, x5, #12, #9
    str     xzr, [x6, x7, lsl #3]
    // Drop stale lines over what was just written uncached.
    dsb     sy
    adrp    x1, __level1_table
    mov     x3, #(3 * 4096)
    mrs     x4, ctr_el0
    ubfx    x4, x4, #16, #4
    mov     x5, #4
    lsl     x4, x5, x4                      // smallest data cache line, in bytes
3:  dc      ivac, x1
    add     x1, x1, x4
    subs    x3, x3, x4
    b.gt    3b
    bl      enable
    adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
4:  cmp     x1, x2
    b.hs    5f
    stp     xzr, xzr, [x1], #16
    b       4b
5:  mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    bl      guest_start
    b       .

    // Writes x3 descriptors from x2 on to x1, each for x4 bytes.
fill:
    str     x2, [x1], #8
    add     x2, x2, x4
    subs    x3, x3, #1
    b.ne    fill
    ret

    .global _secondary
_secondary:
    mov     x19, x0
    bl      enable
    mov     x0, x19
    bl      guest_secondary
    b       .

    // Turns the MMU and caches on and sets vectors and stack. Uses x0 to x4 and no memory.
enable:
    tlbi    vmalle1
    ic      iallu
    ldr     x0, =0x44ff04                   // MAIR: 0 device nGnRE, 1 normal write-back, 2 normal non-cacheable
    msr     mair_el1, x0
    ldr     x0, ={TCR}
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x1, x2, lo
    bfi     x0, x1, #32, #3                 // IPS: what the CPU has, at most 48 bits
    msr     tcr_el1, x0
    adrp    x0, __level1_table
    msr     ttbr0_el1, x0
    mov     x0, #(0x333 << 16)
    msr     cpacr_el1, x0                   // FP and SIMD are not trapped, nor SVE and SME where they exist
    msr     mdscr_el1, xzr
    msr     osdlr_el1, xzr
    msr     oslar_el1, xzr
    adrp    x0, guest_vectors
    add     x0, x0, :lo12:guest_vectors
    msr     vbar_el1, x0
    dsb     sy
    isb
    ldr     x0, ={SCTLR}
    msr     sctlr_el1, x0
    isb
    msr     spsel, #1
    mrs     x0, mpidr_el1
    and     x0, x0, #7
    add     x0, x0, #1
    adrp    x1, __stacks
    add     x0, x1, x0, lsl #14
    mov     sp, x0
    ret
    .ltorg
    "#,
    DEVICE = const super::mmu::DEVICE,
    NORMAL = const super::mmu::NORMAL,
    TCR = const super::mmu::TCR,
    SCTLR = const super::mmu::SCTLR,
);

/// Returns the physical counter at the very first instruction.
pub fn first_physical_count() -> u64 {
    COUNTERS[0].load(Ordering::Relaxed)
}

/// Returns the virtual counter a moment after [`first_physical_count`].
pub fn first_virtual_count() -> u64 {
    COUNTERS[1].load(Ordering::Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn guest_start(dtb: u64, physical: u64, virtual_: u64) -> ! {
    COUNTERS[0].store(physical, Ordering::Relaxed);
    COUNTERS[1].store(virtual_, Ordering::Relaxed);
    console::init();
    timer::init();
    machine::set_device_tree(dtb);
    guest_main();
    psci::system_off()
}

#[unsafe(no_mangle)]
extern "C" fn guest_secondary(context: u64) -> ! {
    cpu::run_started(context);
    sysreg::mask_all();
    psci::cpu_off();
    panic!("CPU_OFF returned");
}
