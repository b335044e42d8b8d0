// From the boot loader's jump to the first Rust instruction, for the first CPU and for the others.
//
// Rust needs caches on (atomics on uncached memory are undefined), so an early map is built here: the gigabytes that
// hold the image and the device tree as themselves, and the image at its link address. `mmu` replaces it with the real
// one. Boot protocol: Linux Documentation/arch/arm64/booting.rst.

.equ SCTLR_OFF,  0x30c50830             // RES1 bits; MMU, caches off (Arm ARM D24.2.176)
.equ SCTLR_ON,   0x30c5183d             // M, C, SA, I
.equ MAIR,       0x04ff                 // 0: normal write-back; 1: Device-nGnRE
.equ TCR,        0x80803510             // T0SZ 16, write-back inner shareable walks, 4 KiB, RES1
.equ BLOCK,      0x701                  // valid block, AF, inner shareable, attribute 0
.equ TABLE,      0x3
.equ EL2,        0x8

.section .text.head, "ax"
.global _start
_start:
    b       first_cpu                   // arm64 Image header
    .word   0
    .quad   0                           // text_offset
    .quad   __image_size                // image_size: with what is packed, and the zeros behind it
    .quad   0xa                         // flags: little endian, 4 KiB, anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0

first_cpu:
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #EL2
    b.ne    halt                        // started at EL1: virtualization=on is missing
    mov     x20, x0                     // device tree
    ldr     x1, =SCTLR_OFF
    msr     sctlr_el2, x1
    isb

    // Clear the early tables, then drop stale cache lines over them: they are written uncached here.
    adrp    x21, early_tables
    add     x1, x21, #(4 * 4096)
    mov     x2, x21
1:  stp     xzr, xzr, [x2], #16
    cmp     x2, x1
    b.lo    1b

    adrp    x22, __image_start
    add     x3, x21, #4096              // level 1 of the identity map
    orr     x4, x3, #TABLE
    ubfx    x5, x22, #39, #9
    str     x4, [x21, x5, lsl #3]
    mov     x6, #BLOCK
    ubfx    x5, x22, #30, #9            // the image's gigabyte
    and     x4, x22, #0xffffffffc0000000
    orr     x4, x4, x6
    str     x4, [x3, x5, lsl #3]
    ubfx    x5, x20, #30, #9            // the device tree's gigabyte
    and     x4, x20, #0xffffffffc0000000
    orr     x4, x4, x6
    str     x4, [x3, x5, lsl #3]
    add     x4, x20, #(2 << 20)         // a device tree is at most 2 MiB and may cross a boundary
    ubfx    x5, x4, #30, #9
    and     x4, x4, #0xffffffffc0000000
    orr     x4, x4, x6
    str     x4, [x3, x5, lsl #3]
    add     x3, x21, #(2 * 4096)        // the image at its link address
    orr     x4, x3, #TABLE
    str     x4, [x21, #(511 * 8)]
    add     x7, x21, #(3 * 4096)
    orr     x4, x7, #TABLE
    str     x4, [x3]
    orr     x4, x22, x6                 // the image starts at a multiple of 2 MiB, and has two of them
    add     x5, x4, #(2 << 20)
    stp     x4, x5, [x7]

    dmb     sy
    mov     x2, x21
2:  dc      ivac, x2
    add     x2, x2, #16                 // smaller than any cache line
    cmp     x2, x1
    b.lo    2b
    dsb     sy

    mov     x0, x21
    ldr     x1, =first_cpu_mapped
    b       enable_mmu

.section .text.boot, "ax"
first_cpu_mapped:                       // at the link address, caches on
    adrp    x0, __bss_start
    adrp    x1, __bss_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b
    adrp    x0, boot_stack_top
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x22
    bl      salp_boot
    b       .

// What runs with the MMU off or while it is switched. It is one page, mapped as itself and executable.
.section .idmap, "ax"
.balign 4096

// Turns the MMU on with the table at x0 and goes on at x1. Keeps x20 to x28.
enable_mmu:
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #0xf
    cmp     x2, #5                      // 48 bits at most: 52 needs another table format
    mov     x3, #5
    csel    x2, x2, x3, lo
    ldr     x3, =TCR
    orr     x3, x3, x2, lsl #16
    msr     tcr_el2, x3
    mov     x3, #MAIR
    msr     mair_el2, x3
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    ldr     x3, =SCTLR_ON
    msr     sctlr_el2, x3
    isb
    br      x1

// Replaces the running table by the one at x0, from the identity map: two tables that map one address by blocks of
// different sizes must not be live at once. x1: where to go on, x2: value of x0 there, x3: its stack.
.global switch_table
switch_table:
    mov     x20, x2
    mov     sp, x3
    ldr     x4, =SCTLR_OFF
    msr     sctlr_el2, x4
    isb
    b       enable_mmu_then

// Entry of the other CPUs, from PSCI CPU_ON. x0: physical address of table, stack, argument, continuation.
.global secondary_cpu
secondary_cpu:
    msr     daifset, #0xf
    ldp     x5, x6, [x0]
    ldp     x20, x1, [x0, #16]
    ldr     x4, =SCTLR_OFF
    msr     sctlr_el2, x4
    isb
    mov     sp, x6
    mov     x0, x5
enable_mmu_then:
    mov     x21, x1
    adr     x1, 1f
    b       enable_mmu
1:  mov     x0, x20
    mov     x29, xzr
    mov     x30, xzr
    br      x21

halt:
    wfe
    b       halt
.ltorg

.section .bss.early, "aw", %nobits
.balign 4096
early_tables:
    .space  4 * 4096

// The first CPU's stack. The page below it is left unmapped by `mmu`.
.section .bss.stack, "aw", %nobits
.balign 4096
.global __boot_stack_guard
__boot_stack_guard:
    .space  4096
.space  4 * 4096
boot_stack_top:
