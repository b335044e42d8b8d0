//! Vendor Specific Hypervisor Service Calls: who this hypervisor is (DEN0028 section 6), and its own calls
//! ([`salp_hvc::calls`]). Before: [`super::dispatch`]; after: [`super::guest`], [`super::manage`].

use super::{Action, NOT_SUPPORTED, guest, manage};
use crate::identity::Identity;
use salp_hvc::calls::{FEATURE_GUEST, FEATURE_MANAGEMENT};

const CALL_UID: u32 = 0x8600_ff01;
const REVISION: u32 = 0x8600_ff03;
const FEATURES: u32 = 0x8600_0000;

/// Salp's UUID: c9c8b3a2-6f0e-4d39-9b1c-5a17e2d0514f.
pub const UUID: [u8; 16] =
    [0xc9, 0xc8, 0xb3, 0xa2, 0x6f, 0x0e, 0x4d, 0x39, 0x9b, 0x1c, 0x5a, 0x17, 0xe2, 0xd0, 0x51, 0x4f];

/// The revision of the calls of this service: major in x0, minor in x1.
const REVISION_MAJOR_MINOR: [u64; 4] = [0, 2, 0, 0];

/// Returns true for functions of this service: owner 6, fast.
pub const fn owns(id: u32) -> bool {
    super::is_fast_call(id) && id >> 24 & 0x3f == 6
}

/// Returns true if the function exists.
pub const fn is_implemented(id: u32) -> bool {
    matches!(id, CALL_UID | REVISION | FEATURES) || guest::owns(id)
}

/// Answers a function of this service.
pub fn call(id: u32, args: [u64; 4], identity: &mut Identity, is_manager: bool) -> Action {
    match id {
        CALL_UID => Action::Return4(super::trng::uuid_registers(&UUID)),
        REVISION => Action::Return4(REVISION_MAJOR_MINOR),
        FEATURES => Action::Return(FEATURE_GUEST | if is_manager { FEATURE_MANAGEMENT } else { 0 }),
        _ if guest::owns(id) => guest::call(id, args[0], identity),
        _ if is_manager => manage::decode(id, args).map_or(Action::Return(NOT_SUPPORTED), Action::Manage),
        _ => Action::Return(NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Name;
    use manage::Request;
    use salp_hvc::calls::{FREEZE, VM_DESTROY};

    fn ask(id: u32, is_manager: bool) -> Action {
        call(id, [7, 0, 0, 0], &mut Identity::new(Name::new(b"a").unwrap(), &[0; 32]), is_manager)
    }

    #[test]
    fn the_uid_is_in_four_words_least_byte_first() {
        assert_eq!(ask(CALL_UID, false), Action::Return4([0xa2b3_c8c9, 0x394d_0e6f, 0x175a_1c9b, 0x4f51_d0e2]));
        assert_eq!(ask(0x8600_0001, false), Action::Return(NOT_SUPPORTED));
    }

    #[test]
    fn management_calls_exist_for_managers_only() {
        assert_eq!((ask(FEATURES, false), ask(FEATURES, true)), (Action::Return(1), Action::Return(3)));
        assert_eq!(ask(VM_DESTROY, false), Action::Return(NOT_SUPPORTED));
        assert_eq!(ask(VM_DESTROY, true), Action::Manage(Request::Destroy { vm: 7 }));
        assert_eq!(ask(FREEZE, false), Action::Freeze);
    }
}
