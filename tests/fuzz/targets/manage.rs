//! Clone requests and descriptions of VMs in a manager's memory, and names and configuration wherever they come from: what is
//! taken makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_core::bootset::VmSpec;
use salp_core::calls::manage::CloneSpec;
use salp_core::images::Images;
use salp_core::identity::{Config, Name};
use salp_hvc::calls::{MAX_CLONES, MAX_CONFIG, RESERVE_ALL};

fuzz_target!(|bytes: &[u8]| {
    if let Some((_, spec)) = CloneSpec::parse(bytes) {
        assert!((1..=MAX_CLONES).contains(&spec.count) && spec.reserve <= RESERVE_ALL);
        assert_eq!(Config::new(spec.config.as_bytes()).as_ref(), Some(&spec.config));
    }
    if let Some(spec) = VmSpec::parse(bytes) {
        assert!(Name::new(spec.name().as_bytes()).is_some() && (1..=8).contains(&spec.vcpus()));
        assert!(spec.stays() && spec.starts_off() && !spec.is_manager() && spec.nics().count() <= 4);
        let ram = spec.ram();
        for segment in spec.segments() {
            assert!(segment.image != 0 && segment.length != 0);
            assert!(segment.ipa >= ram.start && segment.ipa.checked_add(segment.length).unwrap() <= ram.end);
        }
        // There is no image at all.
        assert_eq!(Images::new().hold(&spec).is_ok(), spec.segments().next().is_none());
    }
    if let Some(name) = Name::new(bytes) {
        assert_eq!(name.as_str().as_bytes(), bytes);
        assert!(Name::new(name.numbered(u64::MAX).as_str().as_bytes()).is_some());
    }
    if let Some(config) = Config::new(bytes) {
        assert!(bytes.len() <= MAX_CONFIG && config.as_bytes() == bytes);
    }
});
