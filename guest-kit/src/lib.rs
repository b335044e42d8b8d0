//! What runs inside guests, at EL1: a small runtime and the guests that are made with it.
//!
//! A guest is an ELF (or, by `objcopy -O binary`, an arm64 `Image`) linked at 0x4008_0000 for the memory map of QEMU's
//! `virt` board. The same file runs under Salp and on plain QEMU, which is how a guest is checked by itself:
//!
//! ```text
//! cargo build --release -p guest-kit --target aarch64-unknown-none-softfloat
//! llvm-objcopy -O binary target/aarch64-unknown-none-softfloat/release/psci psci.bin
//! qemu-system-aarch64 -M virt,gic-version=3 -cpu neoverse-n1 -smp 4 -net none -nographic -kernel psci.bin \
//!     -append "only=cpu_on"
//! ```
//!
//! (QEMU passes no device tree to an ELF that starts in the first MiB of RAM; the flat form gets one.)
//!
//! From the first instruction on: [`rt`] (entry, vectors, MMU, and all unsafe code) → [`machine`] (what the device tree
//! says) → [`gic`], [`timer`], [`psci`], [`salp`], [`input`] (drivers and calls) → [`test`] (the console protocol) →
//! [`guests`].
//!
//! Boot arguments are words `key` or `key=value`; every test guest understands `only=NAME,NAME…`, which selects cases.
//!
//! On a host only the portable modules are built.
#![no_std]
#![deny(unsafe_code)]

#[cfg(target_os = "none")]
pub mod gic;
#[cfg(target_os = "none")]
pub mod guests;
#[cfg(target_os = "none")]
pub mod input;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod psci;
pub mod random;
#[cfg(target_os = "none")]
pub mod rt;
#[cfg(target_os = "none")]
pub mod salp;
#[cfg(target_os = "none")]
pub mod test;
#[cfg(target_os = "none")]
pub mod timer;
pub mod words;

/// Makes the program of the guest `guests::$name`. On a host it is an empty program, so that checks of the whole
/// workspace pass.
#[macro_export]
macro_rules! program {
    ($name:ident) => {
        /// Runs the guest; called by the runtime with the machine ready.
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        fn guest_main() {
            $crate::guests::$name::main();
        }

        #[cfg(not(target_os = "none"))]
        fn main() {}
    };
}
