//! memcpy, memmove and memset, which are EL2's: those that come with the compiler move small values byte by byte, and what
//! serves a network moves little else. Before: the compiler. After: memory, with the MMU on.

core::arch::global_asm!(include_str!("../../../firmware/hw/src/copy.S"));
