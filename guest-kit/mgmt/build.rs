//! Gives guest-kit's linker script to the program, as guest-kit's own build script does, and room for a deep stack: the
//! calls of a TLS handshake do not fit the 16 KiB of the test guests. And packs the document that is published: it says the same
//! over and over.

use std::path::Path;
use std::{env, fs};

/// How well it is packed: as well as can be.
const LEVEL: u8 = 10;

fn main() {
    println!("cargo:rerun-if-changed=../guest.ld");
    println!("cargo:rerun-if-changed=../../docs/openapi.json");
    let document = fs::read("../../docs/openapi.json").expect("docs/openapi.json");
    let packed = miniz_oxide::deflate::compress_to_vec(&document, LEVEL);
    let place = Path::new(&env::var_os("OUT_DIR").expect("cargo says where")).join("openapi.deflate");
    fs::write(place, packed).expect("a file");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{here}/../guest.ld");
        println!("cargo:rustc-link-arg-bins=-nmagic");
        println!("cargo:rustc-link-arg-bins=--icf=all");
        println!("cargo:rustc-link-arg-bins=--defsym=__first_stack=0x40000");
    }
}
