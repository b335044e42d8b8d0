//! Gives guest-kit's linker script to the program, as guest-kit's own build script does, and room for a deep stack: the
//! calls of a TLS handshake do not fit the 16 KiB of the test guests.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=../guest.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{here}/../guest.ld");
        println!("cargo:rustc-link-arg-bins=-nmagic");
        println!("cargo:rustc-link-arg-bins=--icf=all");
        println!("cargo:rustc-link-arg-bins=--defsym=__first_stack=0x20000");
    }
}
