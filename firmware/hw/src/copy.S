// memcpy, memmove and memset, to which the compiler turns moves of large values. Those that come with the compiler move
// eight bytes a turn; a fork moves some ten kilobytes of records.
//
// All memory of EL2 is normal memory: unaligned accesses are allowed (SCTLR_EL2.A is 0).

    .section .text.copy, "ax"
    .balign 64

    .macro move_64
    ldp     x4, x5, [x1], #64
    ldp     x6, x7, [x1, #-48]
    ldp     x8, x9, [x1, #-32]
    ldp     x10, x11, [x1, #-16]
    stp     x4, x5, [x3], #64
    stp     x6, x7, [x3, #-48]
    stp     x8, x9, [x3, #-32]
    stp     x10, x11, [x3, #-16]
    .endm

    // x0: to, x1: from, x2: bytes; returns x0. Copies upwards, 64 bytes read before 64 are written, so that `to` may
    // overlap `from` below it.
    .global memcpy
memcpy:
    mov     x3, x0
    subs    x2, x2, #256
    b.lo    2f
1:  .rept   4
    move_64
    .endr
    subs    x2, x2, #256
    b.hs    1b
    // The low eight bits of x2 are those of what is left.
2:  tbz     x2, #7, 3f
    move_64
    move_64
3:  tbz     x2, #6, 4f
    move_64
4:  tbz     x2, #5, 5f
    ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    add     x1, x1, #32
    stp     x4, x5, [x3]
    stp     x6, x7, [x3, #16]
    add     x3, x3, #32
5:  tbz     x2, #4, 6f
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
6:  tbz     x2, #3, 7f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
7:  tbz     x2, #2, 8f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
8:  tbz     x2, #1, 9f
    ldrh    w4, [x1], #2
    strh    w4, [x3], #2
9:  tbz     x2, #0, 10f
    ldrb    w4, [x1]
    strb    w4, [x3]
10: ret

    .global memmove
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.hs    memcpy                          // `to` is below `from`, or behind its end
    add     x3, x0, x2
    add     x1, x1, x2
1:  cmp     x2, #8
    b.lo    2f
    ldr     x4, [x1, #-8]!
    str     x4, [x3, #-8]!
    sub     x2, x2, #8
    b       1b
2:  cbz     x2, 3f
    ldrb    w4, [x1, #-1]!
    strb    w4, [x3, #-1]!
    sub     x2, x2, #1
    b       2b
3:  ret

    // x0: to, w1: the byte, x2: bytes; returns x0.
    .global memset
memset:
    mov     x3, x0
    and     x1, x1, #0xff
    mov     x4, #0x0101010101010101
    mul     x1, x1, x4
    subs    x2, x2, #64
    b.lo    2f
1:  stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    stp     x1, x1, [x3, #32]
    stp     x1, x1, [x3, #48]
    add     x3, x3, #64
    subs    x2, x2, #64
    b.hs    1b
2:  tbz     x2, #5, 3f
    stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    add     x3, x3, #32
3:  tbz     x2, #4, 4f
    stp     x1, x1, [x3], #16
4:  tbz     x2, #3, 5f
    str     x1, [x3], #8
5:  tbz     x2, #2, 6f
    str     w1, [x3], #4
6:  tbz     x2, #1, 7f
    strh    w1, [x3], #2
7:  tbz     x2, #0, 8f
    strb    w1, [x3]
8:  ret
