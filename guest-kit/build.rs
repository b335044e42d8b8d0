//! Gives the linker script to the guests. Builds for the host, which only check the portable parts, do without it.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=guest.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{here}/guest.ld");
        // One segment without padding to large pages: `objcopy -O binary` gives the flat form of the same guest.
        println!("cargo:rustc-link-arg-bins=-nmagic");
        // Functions that compile to the same instructions are kept once.
        println!("cargo:rustc-link-arg-bins=--icf=all");
    }
}
