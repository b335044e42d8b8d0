// The world switch and EL2's exception vectors.
//
// `salp_enter_guest` looks like a function call to Rust: it returns when the guest exits. EL2 runs with interrupts
// masked; an interrupt is an exit, and EL2 takes it from the run loop. What arrives at EL2 from EL2 is therefore a bug,
// and goes to the crash path on a stack of its own.

// GuestRegs (salp_core::vcpu): x0 to x30, pc, pstate.
.equ REGS_PC, 248

// The frame of salp_enter_guest: x29, x30, x19 to x28, the GuestRegs pointer.
.equ FRAME, 112
.equ FRAME_REGS, 96

.section .text.switch, "ax"

// u64 salp_enter_guest(GuestRegs *regs): what exited: 0 synchronous, 1 IRQ, 2 FIQ, 3 SError.
.balign 64
.global salp_enter_guest
salp_enter_guest:
    stp     x29, x30, [sp, #-FRAME]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #FRAME_REGS]
    ldp     x1, x2, [x0, #REGS_PC]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    dsb     nsh                         // no speculation past the return
    isb

.balign 64
guest_exit:                             // x0, x1 pushed; x1: what exited
    ldr     x0, [sp, #(16 + FRAME_REGS)]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    ldp     x2, x3, [sp], #16
    stp     x30, x4, [x0, #240]
    str     x5, [x0, #(REGS_PC + 8)]
    stp     x2, x3, [x0]
    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #FRAME
    ret

.macro from_guest what
.balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\what
    b       guest_exit
.endm

.macro from_el2 what
.balign 128
    msr     cnthp_cval_el2, x0          // what this image has set is scratch; what a guest has set may be wanted still
    mov     x0, #\what
    b       el2_exception
.endm

.balign 2048
.global salp_vectors
salp_vectors:
    from_el2 0
    from_el2 1
    from_el2 2
    from_el2 3
    from_el2 0
    from_el2 1
    from_el2 2
    from_el2 3
    from_guest 0
    from_guest 1
    from_guest 2
    from_guest 3
    from_guest 0                        // AArch32 at EL0 arrives here too
    from_guest 1
    from_guest 2
    from_guest 3

// The stack may be what is broken: save the registers on this CPU's crash stack.
el2_exception:
    msr     cntvoff_el2, x1             // made anew whenever a vCPU is loaded
    mrs     x1, tpidr_el2
    cbz     x1, .                       // before this CPU has a crash stack
    msr     tpidr_el2, x2
    mov     x2, sp
    mov     sp, x1
    sub     sp, sp, #(35 * 8 + 8)
    stp     x2, x0, [sp, #248]          // sp, what
    mrs     x0, cnthp_cval_el2
    mrs     x1, cntvoff_el2
    mrs     x2, tpidr_el2
    stp     x0, x1, [sp]
    add     x0, sp, #(35 * 8 + 8)
    msr     tpidr_el2, x0
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mrs     x0, elr_el2
    mrs     x1, spsr_el2
    stp     x0, x1, [sp, #264]
    mov     x0, sp
    mov     x29, xzr
    mov     x30, xzr
    bl      salp_el2_exception
    b       .

// void salp_save_fp(FpRegs *), void salp_load_fp(const FpRegs *): q0 to q31, FPCR, FPSR.
.arch_extension fp
.arch_extension simd
.global salp_save_fp
salp_save_fp:
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    mrs     x1, fpcr
    mrs     x2, fpsr
    add     x0, x0, #512
    stp     x1, x2, [x0]
    ret

.global salp_load_fp
salp_load_fp:
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    add     x0, x0, #512
    ldp     x1, x2, [x0]
    msr     fpcr, x1
    msr     fpsr, x2
    ret
