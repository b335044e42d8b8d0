// SHA-256 of whole blocks by FEAT_SHA256 (Arm ARM C7.2, SHA256H and its neighbours).
// x0: the state, eight words; x1: blocks; x2: how many. Uses x3 and all v but v10 to v15; the constants stay in v0 to v3, v8, v9 and
// v22 to v31.

.arch_extension sha2

// Four rounds with the message words in \w and the constants in \k.
.macro rounds w, k
    add     v20.4s, \k\().4s, \w\().4s
    mov     v21.16b, v16.16b
    sha256h q16, q17, v20.4s
    sha256h2 q17, q21, v20.4s
.endm

// Four rounds, and the message words that take the place of \a, sixteen on.
.macro schedule a, b, c, d, k
    rounds  \a, \k
    sha256su0 \a\().4s, \b\().4s
    sha256su1 \a\().4s, \c\().4s, \d\().4s
.endm

// Sixteen of those.
.macro schedule_all k0, k1, k2, k3
    schedule v4, v5, v6, v7, \k0
    schedule v5, v6, v7, v4, \k1
    schedule v6, v7, v4, v5, \k2
    schedule v7, v4, v5, v6, \k3
.endm

.section .text.salp_sha256_blocks, "ax"
.global salp_sha256_blocks
salp_sha256_blocks:
    ldp     q18, q19, [x0]
    cbz     x2, 2f
    adr     x3, sha256_constants
    ld1     {{v22.4s-v25.4s}}, [x3], #64
    ld1     {{v26.4s-v29.4s}}, [x3], #64
    ld1     {{v0.4s-v3.4s}}, [x3], #64
    ldp     q30, q31, [x3], #32
    ldp     q8, q9, [x3]
1:  mov     v16.16b, v18.16b
    mov     v17.16b, v19.16b
    ld1     {{v4.16b-v7.16b}}, [x1], #64
    rev32   v4.16b, v4.16b              // the message is big endian
    rev32   v5.16b, v5.16b
    rev32   v6.16b, v6.16b
    rev32   v7.16b, v7.16b
    schedule_all v22, v23, v24, v25
    schedule_all v26, v27, v28, v29
    schedule_all v0, v1, v2, v3
    rounds  v4, v30
    rounds  v5, v31
    rounds  v6, v8
    rounds  v7, v9
    add     v18.4s, v18.4s, v16.4s
    add     v19.4s, v19.4s, v17.4s
    subs    x2, x2, #1
    b.ne    1b
2:  stp     q18, q19, [x0]
    ret

.balign 16
sha256_constants:                       // FIPS 180-4, 4.2.2
    .word   0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5
    .word   0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174
    .word   0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da
    .word   0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967
    .word   0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85
    .word   0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070
    .word   0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3
    .word   0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
