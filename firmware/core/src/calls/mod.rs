//! Calls from a guest by HVC #0, under the SMC calling convention (DEN0028). Before: [`crate::exit::decode`]; after: the
//! VM, which carries an [`Action`] out.
//!
//! - [`psci`]: power of vCPUs and of the VM.
//! - [`trng`]: random bytes.
//! - [`arch`]: SMCCC version and the CPU's workarounds.
//! - [`vendor`]: who this hypervisor is, and its own calls: [`guest`] for every VM, [`manage`], [`make`], [`life`] and
//!   [`host`] for managers.
//!
//! SMC is not a way in: the guest's ID registers say that EL3 is not there, so SMC is UNDEFINED, as it is on a CPU without
//! EL3, and the device tree names HVC. HVC with another immediate than 0 is reserved by SMCCC 2.9: NOT_SUPPORTED.

pub mod arch;
pub mod guest;
pub mod host;
pub mod life;
pub mod make;
pub mod manage;
pub mod psci;
pub mod trng;
pub mod update;
pub mod vendor;

use crate::addr::Ipa;
use crate::identity::Identity;
use arch::Mitigations;
use psci::Power;
use trng::Entropy;

/// The status "not supported", sign-extended so that it reads as -1 in w0 and in x0 (SMCCC 5.2, 7.1).
pub const NOT_SUPPORTED: u64 = -1i64 as u64;

/// What the caller has to do for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set x0 and go on.
    Return(u64),
    /// Set x0 to x3 and go on.
    Return4([u64; 4]),
    /// Set x0 to x7 and go on.
    Return8([u64; 8]),
    /// Set x0 and x1 to 0 and freeze the VM: when it goes on, this vCPU does so after the call.
    Freeze,
    /// Take the agent's report at this address of the VM's RAM, set x0 and go on.
    Report(Ipa),
    /// Do this for a manager, then set the registers of its answer and go on.
    Manage(manage::Request),
    /// Start a vCPU at `entry` with `context` in x0; then set the caller's x0 to 0 and go on.
    TurnOn {
        /// The vCPU to start.
        vcpu: usize,
        /// Its first instruction, a guest physical address.
        entry: u64,
        /// Its x0.
        context: u64,
    },
    /// This vCPU is off. It does not return from the call.
    TurnOff,
    /// This vCPU waits until an interrupt is pending for it; then [`Power::wake`] tells how it goes on.
    Suspend,
    /// The guest has turned itself off.
    SystemOff,
    /// The guest wants to start from the beginning.
    SystemReset,
    /// Make the firmware below do this workaround on this CPU; then set x0 to 0 and go on.
    Workaround(arch::Workaround),
}

/// What a call can reach of its VM.
pub struct Callee<'a> {
    /// The power states of the VM's vCPUs.
    pub power: &'a mut Power,
    /// The VM's random bytes.
    pub entropy: &'a mut dyn Entropy,
    /// Who the VM is.
    pub identity: &'a mut Identity,
    /// The VM may manage others.
    pub is_manager: bool,
    /// What this machine needs against its CPU's errata.
    pub mitigations: &'a Mitigations,
    /// The guest physical range in which a vCPU may start: the VM's RAM.
    pub ram: core::ops::Range<u64>,
}

/// Answers the call whose answer needs nothing of the VM, so that the run loop can return without a lock: SMCCC_VERSION.
#[inline(always)]
pub const fn quick(x0: u64) -> Option<u64> {
    if x0 as u32 == arch::SMCCC_VERSION { Some(arch::VERSION) } else { None }
}

/// Carries out the call in `x`, the first registers of vCPU `caller`, made by HVC with the immediate `imm`.
/// Never panics, whatever the registers hold.
pub fn dispatch(imm: u16, x: &[u64; 18], caller: usize, callee: Callee<'_>) -> Action {
    if imm != 0 {
        return Action::Return(NOT_SUPPORTED);
    }
    // The function identifier is w0 (SMCCC 2.5). Bit 16 is a hint about SVE that says nothing here (2.6).
    let id = x[0] as u32 & !(1 << 16);
    let [_, args @ ..] = x;
    let args = [args[0], args[1], args[2], args[3]];
    if psci::owns(id) {
        callee.power.call(id, [args[0], args[1], args[2]], caller, &callee.ram)
    } else if arch::owns(id) {
        arch::call(id, args[0], callee.mitigations)
    } else if trng::owns(id) {
        trng::call(id, args[0], callee.entropy)
    } else if vendor::owns(id) {
        vendor::call(id, args, callee.identity, callee.is_manager)
    } else {
        Action::Return(NOT_SUPPORTED)
    }
}

/// True for functions that one of the services has: what PSCI_FEATURES and SMCCC_ARCH_FEATURES are asked for.
const fn is_fast_call(id: u32) -> bool {
    id & 1 << 31 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::tests::{Random, rounds};
    use crate::identity::Name;
    use psci::PowerState;

    struct Zeros;
    impl Entropy for Zeros {
        fn fill(&mut self, words: &mut [u64; 3]) -> bool {
            *words = [0; 3];
            true
        }
    }

    fn call(power: &mut Power, caller: usize, imm: u16, x: &[u64; 18]) -> Action {
        let callee = Callee {
            power,
            entropy: &mut Zeros,
            identity: &mut Identity::new(Name::new(b"a").unwrap(), &[0; 32]),
            is_manager: caller.is_multiple_of(2),
            mitigations: &Mitigations::default(),
            ram: 0x4000_0000..0x8000_0000,
        };
        dispatch(imm, x, caller, callee)
    }

    fn registers(start: &[u64]) -> [u64; 18] {
        core::array::from_fn(|n| start.get(n).copied().unwrap_or(0))
    }

    #[test]
    fn unknown_functions_and_immediates_are_not_supported() {
        let mut power = Power::new(1);
        for id in [0u64, 0x8000_7fff, 0x8200_0000, 0x8400_0030, 0xc600_1234, 0xffff_ffff, 0x8300_0000] {
            assert_eq!(call(&mut power, 0, 0, &registers(&[id])), Action::Return(NOT_SUPPORTED), "{id:#x}");
        }
        assert_eq!(call(&mut power, 0, 1, &registers(&[0x8400_0000])), Action::Return(NOT_SUPPORTED));
    }

    #[test]
    fn the_upper_half_of_x0_and_the_sve_hint_are_not_part_of_the_function() {
        let mut power = Power::new(1);
        let version = Action::Return(arch::VERSION);
        assert_eq!(call(&mut power, 0, 0, &registers(&[0xdead_beef_8000_0000])), version);
        assert_eq!(call(&mut power, 0, 0, &registers(&[0x8001_0000])), version);
        assert_eq!(quick(0xdead_beef_8000_0000), Some(arch::VERSION));
        assert_eq!(quick(0x8400_0000), None);
    }

    #[test]
    fn random_functions_with_random_arguments() {
        let mut random = Random(7);
        let mut power = Power::new(3);
        for _ in 0..rounds(200_000) {
            let mut x: [u64; 18] = core::array::from_fn(|_| random.spread());
            if random.below(4) != 0 {
                x[0] = [0x8000_0000, 0xc000_0000, 0x8400_0000, 0xc400_0000, 0x8600_0000, 0xc600_0000]
                    [random.below(6) as usize]
                    | random.below(0x60)
                    | if random.below(8) == 0 { 0xff00 } else { 0 };
            }
            let caller = random.below(10) as usize;
            let imm = u16::from(random.below(16) == 0);
            match call(&mut power, caller, imm, &x) {
                Action::TurnOn { vcpu, entry, .. } => {
                    assert!(vcpu < 3 && (0x4000_0000..0x8000_0000).contains(&entry) && entry % 4 == 0);
                    if random.below(2) == 0 {
                        power.started(vcpu);
                    }
                }
                Action::Suspend => {
                    power.wake(caller);
                }
                _ => {}
            }
            assert_eq!(power.state(3), PowerState::Off, "a vCPU that is not there");
        }
    }
}
