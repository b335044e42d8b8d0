//! Any bytes as a bundle: refused, as nobody has signed them. And with a signature, whatever is signed: refused, or a manifest
//! that makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_core::bundle::{HEAD, Host, Manifest, class_of, open};
use salp_hvc::update::FORMATS;

fuzz_target!(|bytes: &[u8]| {
    let classes = [class_of("linux,dummy-virt")];
    let host = Host { keys: &[[1; 32]], classes: &classes, formats: FORMATS, room: 1 << 20 };
    assert!(open(&bytes[..bytes.len().min(HEAD)], host.keys).is_err());
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert!(manifest.version[0] != 0 && manifest.version.last() == Some(&0));
    if manifest.check(&host, 5).is_ok() {
        assert!(manifest.counter >= 5 && (1..=host.room).contains(&manifest.size) && manifest.class == classes[0]);
    }
});
