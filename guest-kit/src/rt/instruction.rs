//! Single instructions that a test wants to execute just so, each a function that Rust cannot rearrange. Before: tests.
//! After: whatever the instruction reaches.

use core::arch::global_asm;

/// One way to access memory: a function of an address that makes exactly one access, with its first instruction.
pub struct Access {
    /// The instruction.
    pub name: &'static str,
    /// Whether it only writes (ESR_ELx.WnR): an atomic faults as the read that it also is.
    pub writes: bool,
    /// Whether it is one of those whose syndrome describes the access (ESR_ELx.ISV), the only ones that a hypervisor
    /// can emulate without reading the instruction.
    pub simple: bool,
    code: unsafe extern "C" fn(u64) -> u64,
}

impl Access {
    /// Makes the access. Only to addresses where nothing of the guest lies.
    ///
    /// # Panics
    ///
    /// If `address` is in RAM that is mapped.
    pub fn make(&self, address: u64) -> u64 {
        let (ram, end) = (crate::machine::ram_start(), crate::machine::ram_end());
        let is_guarded = address.wrapping_sub(super::mmu::stack_guard()) < 4096;
        assert!(address < ram || address >= end || is_guarded, "{address:#x} is RAM");
        // SAFETY: the function touches only registers that calls may change and `address`, where nothing of Rust is.
        unsafe { (self.code)(address) }
    }

    /// Returns the address of the instruction.
    pub fn code(&self) -> u64 {
        self.code as *const () as u64
    }
}

macro_rules! accesses {
    ($($name:ident $writes:literal $simple:literal $text:literal;)*) => {
        unsafe extern "C" { $(fn $name(address: u64) -> u64;)* }

        /// Every way to access memory that a test of aborts looks at.
        pub const ACCESSES: &[Access] = &[
            $(Access { name: $text, writes: $writes, simple: $simple, code: $name }),*
        ];

        global_asm!(
            ".arch armv8.1-a+fp+simd+lse",
            $(
                concat!(".section .text.", stringify!($name), ", \"ax\""),
                concat!(".global ", stringify!($name)),
                concat!(stringify!($name), ":"),
                $text,
                "mov x0, x1",
                "ret",
            )*
        );
    };
}

accesses! {
    access_ldrb false true "ldrb w1, [x0]";
    access_ldrh false true "ldrh w1, [x0]";
    access_ldrw false true "ldr w1, [x0]";
    access_ldrx false true "ldr x1, [x0]";
    access_ldrsb false true "ldrsb x1, [x0]";
    access_ldrsw false true "ldrsw x1, [x0]";
    access_strb true true "strb w1, [x0]";
    access_strh true true "strh w1, [x0]";
    access_strw true true "str w1, [x0]";
    access_strx true true "str x1, [x0]";
    access_ldp false false "ldp x1, x2, [x0]";
    access_stp true false "stp x1, x2, [x0]";
    access_ldr_post false false "ldr x1, [x0], #8";
    access_str_post true false "str x1, [x0], #8";
    access_ldr_pre false false "ldr x1, [x0, #8]!";
    access_ldxr false false "ldxr x1, [x0]";
    access_ldar false true "ldar x1, [x0]";
    access_stlr true true "stlr x1, [x0]";
    access_ldadd false false "ldadd x1, x1, [x0]";
    access_cas false false "cas x1, x2, [x0]";
    access_ldrq false false "ldr q0, [x0]";
    access_strq true false "str q0, [x0]";
    access_ld1 false false "ld1 {{v0.16b, v1.16b}}, [x0]";
    access_st1 true false "st1 {{v0.b}}[0], [x0]";
    access_zva true false "dc zva, x0";
}

unsafe extern "C" {
    fn instruction_call(address: u64);
}

/// Calls `address` as a function without arguments. For addresses where no instruction can be fetched, with `catch`.
///
/// # Panics
///
/// If `address` is in RAM.
pub fn call(address: u64) {
    let (ram, end) = (crate::machine::ram_start(), crate::machine::ram_end());
    assert!(address < ram || address >= end, "{address:#x} is RAM");
    // SAFETY: nothing can be fetched there; the vectors go on at the return address, which the call has put in x30.
    unsafe { instruction_call(address) }
}

global_asm!(
    r#"
    .section .text.instruction_call, "ax"
    .global instruction_call
instruction_call:
    stp     x29, x30, [sp, #-16]!
    blr     x0
    ldp     x29, x30, [sp], #16
    ret
    "#
);
