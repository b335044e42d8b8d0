//! Any text as the fields that say what an upload brings: a part that lies in the whole, a digest, or nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_mgmt::images::upload::{content_range, digest, digest_field, hex_digest};

fuzz_target!(|text: &str| {
    if let Some((first, length, size)) = content_range(text) {
        let end = first.checked_add(length).expect("positions are small");
        assert!(length > 0 && end <= size);
        let same = format!("bytes {first}-{}/{size}", end - 1);
        assert_eq!(content_range(&same), Some((first, length, size)));
    }
    for bytes in [digest(text).ok().flatten(), hex_digest(text).ok()].into_iter().flatten() {
        assert_eq!(digest(&digest_field(&bytes)), Ok(Some(bytes)));
    }
});
