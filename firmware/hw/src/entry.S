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

// What a hand-over's header has where (salp_hvc::handover), and the word in x2 that says that x1 is one: "SALPHAND".
.equ HANDOVER,   0x444e4148504c4153
.equ HEAD_STARTING, 12
.equ HEAD_IMAGE, 16
.equ HEAD_TREE,  192
.equ HEAD_FAILED, 296
.equ HEAD_EXCEPTION, 304
.equ HEAD_END,   640

.section .text.head, "ax"
.global _start
_start:
    b       first_cpu                   // arm64 Image header
    .word   0
    .quad   0                           // text_offset
    .quad   __image_size                // image_size: with what is packed, and the zeros behind it
    .quad   0xa                         // flags: little endian, 4 KiB, anywhere
    .quad   HANDOVER                    // salp_hvc::handover::Offer
    .hword  {LEAST}, {GREATEST}         // salp_hvc::handover::VERSIONS
    .word   __packed_size
    .quad   0                           // the slot of the flash, which the first stage notes
    .ascii  "ARM\x64"
    .word   0

first_cpu:
    msr     daifset, #0xf
    mov     x23, x1
    mrs     x1, CurrentEL
    cmp     x1, #EL2
    b.ne    halt                        // started at EL1: virtualization=on is missing
    mov     x20, x0                     // device tree
    ldr     x3, =HANDOVER
    cmp     x2, x3
    csel    x23, x23, xzr, eq           // a hand-over's header
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
    cbz     x23, 3f
    mov     x7, x23                     // the header's gigabyte, and that of the image to which an exception goes back
    bl      early_gigabyte
    ldr     x7, [x23, #HEAD_IMAGE]
    bl      early_gigabyte
3:  add     x3, x21, #(2 * 4096)        // the image at its link address
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

early_gigabyte:
    ubfx    x5, x7, #30, #9
    and     x4, x7, #0xffffffffc0000000
    orr     x4, x4, x6
    str     x4, [x3, x5, lsl #3]
    ret

.section .text.boot, "ax"
first_cpu_mapped:                       // at the link address, caches on
    // An image that is started again finds its data as at its first start: a hand-over may come back to it.
    adrp    x0, __data_start
    adrp    x1, __packed_start
    adrp    x2, __first_data
    adrp    x4, is_first_data_kept
    mov     x5, #1
    cbz     x23, 2f
    ldr     x3, [x4]
    cbz     x3, 2f
1:  cmp     x0, x1
    b.hs    4f
    ldp     x6, x7, [x2], #16
    stp     x6, x7, [x0], #16
    b       1b
2:  cmp     x0, x1
    b.hs    3f
    ldp     x6, x7, [x0], #16
    stp     x6, x7, [x2], #16
    b       2b
3:  str     x5, [x4]
4:
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
    mov     x2, x23
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

// Leaves this image: turns the MMU off and goes to x5 with x0 to x2.
.global leave_image
leave_image:
    ldr     x4, =SCTLR_OFF
    msr     sctlr_el2, x4
    isb
    br      x5

// Leaves this image and waits at the door at x0 (salp_hvc::handover::Door) until it says where to go. Nothing but this page is
// used meanwhile.
.global wait_at_door
wait_at_door:
    ldr     x4, =SCTLR_OFF
    msr     sctlr_el2, x4
    isb
    mov     x1, #1
    str     x1, [x0, #16]
    dsb     sy
    sev
1:  ldr     x5, [x0]
    cbnz    x5, 2f
    wfe
    b       1b
2:  ldr     x6, [x0, #8]
    stp     xzr, xzr, [x0]
    str     xzr, [x0, #16]
    dsb     sy
    mov     x0, x6
    br      x5

// An exception of the next image before it runs the VMs: back to this one. x9: why. All registers are the other's.
come_back:
    msr     daifset, #0xf
    mrs     x23, tpidrro_el0
    str     w9, [x23, #HEAD_FAILED]
    str     wzr, [x23, #HEAD_STARTING]
    mrs     x3, esr_el2
    mrs     x4, elr_el2
    stp     x3, x4, [x23, #HEAD_EXCEPTION]
    mrs     x3, far_el2
    str     x3, [x23, #(HEAD_EXCEPTION + 16)]
    ldr     x0, [x23, #HEAD_TREE]
    add     x3, x23, #HEAD_END
    mov     x4, x23
1:  dc      civac, x4
    add     x4, x4, #16
    cmp     x4, x3
    b.lo    1b
    dsb     sy
    sev
    mov     x1, x23
    ldr     x2, =HANDOVER
    adrp    x5, __image_start           // as this runs at its physical address
    b       leave_image

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

// The vectors of the next image until it runs the VMs: FAILED_HANG for the timer, FAILED_EXCEPTION for all else.
.balign 2048
.irp    what, 3, 4, 3, 3, 3, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3
    mov     x9, #\what
    b       come_back
.balign 128
.endr

.section .bss.early, "aw", %nobits
.balign 4096
early_tables:
    .space  4 * 4096

// What data was at the first start.
.balign 4096

.global __first_data
__first_data:
    .space  16384
.balign 4096
is_first_data_kept:
    .quad   0

// The first CPU's stack. The page below it is left unmapped by `mmu`.
.section .bss.stack, "aw", %nobits
.balign 4096
.global __boot_stack_guard
__boot_stack_guard:
    .space  4096
.space  4 * 4096
boot_stack_top:
