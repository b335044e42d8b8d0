//! Clone requests in a manager's memory, and names and configuration wherever they come from: what is taken makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_core::calls::manage::CloneSpec;
use salp_core::identity::{Config, Name};
use salp_hvc::calls::{MAX_CLONES, MAX_CONFIG, RESERVE_ALL};

fuzz_target!(|bytes: &[u8]| {
    if let Some((_, spec)) = CloneSpec::parse(bytes) {
        assert!((1..=MAX_CLONES).contains(&spec.count) && spec.reserve <= RESERVE_ALL);
        assert_eq!(Config::new(spec.config.as_bytes()).as_ref(), Some(&spec.config));
    }
    if let Some(name) = Name::new(bytes) {
        assert_eq!(name.as_str().as_bytes(), bytes);
        assert!(Name::new(name.numbered(u64::MAX).as_str().as_bytes()).is_some());
    }
    if let Some(config) = Config::new(bytes) {
        assert!(bytes.len() <= MAX_CONFIG && config.as_bytes() == bytes);
    }
});
