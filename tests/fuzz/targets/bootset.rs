//! Any bytes as a boot set: an error, or VMs whose segments lie in the set and in their RAM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_core::bootset::BootSet;

fuzz_target!(|bytes: &[u8]| {
    let Ok(set) = BootSet::parse(bytes) else { return };
    assert!(set.size() <= bytes.len() as u64);
    for vm in set.vms() {
        assert!(!vm.name().is_empty() && (1..=8).contains(&vm.vcpus()));
        let ram = vm.ram();
        for segment in vm.segments() {
            assert_eq!(set.bytes_of(&segment).len() as u64, segment.length);
            assert!(segment.ipa >= ram.start && segment.ipa.checked_add(segment.length).unwrap() <= ram.end);
        }
    }
});
