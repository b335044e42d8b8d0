// The first instructions after a reset, at the start of the flash: copies the first stage to RAM, builds a map and enables
// caches, then goes to Rust. The device tree is at the start of RAM, where the machine's own reset leaves it.
//
// Map: the first gigabyte as devices; the second, RAM, writable and never executable but for the 2 MiB of the stage's code,
// which are read-only; the flash once more at 4 GiB, so that its first byte is not at the null pointer.

.equ STAGE_SCTLR_OFF, 0x30c50830
.equ STAGE_SCTLR_ON,  0x30cd183d        // M, C, SA, I, WXN
.equ STAGE_MAIR,      0x04ff            // 0: normal write-back; 1: Device-nGnRE
.equ STAGE_TCR,       0x80823519        // T0SZ 25, write-back inner shareable walks, 4 KiB, 40 bits
.equ STAGE_RAM,       0x40000000
.equ STAGE_DATA,      0x40000000000701  // block, AF, inner shareable, normal, XN
.equ STAGE_CODE,      0x781             // the same, read-only, executable
.equ STAGE_DEVICE,    0x40000000000405  // block, AF, device, XN

.section .stage.head, "ax"
.global stage_reset
stage_reset:
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #0x8
    b.ne    stage_halt                  // not EL2: virtualization=on is missing
    ldr     x1, =STAGE_SCTLR_OFF
    msr     sctlr_el2, x1
    isb

    adr     x0, stage_reset             // where the flash is
    ldr     x1, =__stage_text
    ldr     x2, =__stage_text_end
    bl      stage_copy
    ldr     x1, =__stage_data
    ldr     x2, =__stage_data_end
    bl      stage_copy
    ldr     x1, =__stage_bss
    ldr     x2, =__stage_bss_end
1:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    1b

    ldr     x0, =__stage_tables         // zero: they are bss
    ldr     x1, =STAGE_DEVICE
    str     x1, [x0]
    str     x1, [x0, #(4 * 8)]
    add     x2, x0, #4096
    orr     x1, x2, #3
    str     x1, [x0, #8]
    ldr     x1, =STAGE_DATA
    mov     x3, #STAGE_RAM
    orr     x1, x1, x3
    add     x3, x2, #4096
1:  str     x1, [x2], #8
    add     x1, x1, #(2 << 20)
    cmp     x2, x3
    b.lo    1b
    ldr     x1, =__stage_text
    ubfx    x2, x1, #21, #9
    add     x3, x0, #4096
    mov     x4, #STAGE_CODE
    orr     x1, x1, x4
    str     x1, [x3, x2, lsl #3]

    mov     x1, #STAGE_MAIR
    msr     mair_el2, x1
    ldr     x1, =STAGE_TCR
    msr     tcr_el2, x1
    msr     ttbr0_el2, x0
    dsb     sy
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    ldr     x2, =stage_mapped
    ldr     x1, =STAGE_SCTLR_ON
    // The next instructions are at the same place in RAM: nothing is fetched from the flash once the map says "never".
    br      x2
stage_mapped:
    msr     sctlr_el2, x1
    isb
    ldr     x0, =__stage_stack_top
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    bl      salp_stage_boot
stage_halt:
    wfe
    b       stage_halt

// Copies 16 bytes at a time from x0, which goes on, to x1 up to x2.
stage_copy:
    cmp     x1, x2
    b.hs    1f
    ldp     x3, x4, [x0], #16
    stp     x3, x4, [x1], #16
    b       stage_copy
1:  ret

// Leaves for the image at x0 as a boot loader does: MMU and data cache off, x0 the device tree, x1 to x3 zero. What was
// written is clean.
.global stage_leave
stage_leave:
    mov     x4, x0
    ldr     x1, =STAGE_SCTLR_OFF
    msr     sctlr_el2, x1
    isb
    ic      iallu
    tlbi    alle2
    dsb     nsh
    isb
    mov     x0, #STAGE_RAM
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    br      x4
.ltorg
