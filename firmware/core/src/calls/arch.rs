//! Arm Architecture Calls: SMCCC version, and workarounds for CPU errata (DEN0028 section 7). Before:
//! [`super::dispatch`].

use super::{Action, NOT_SUPPORTED, psci, trng, vendor};

/// The function SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// What SMCCC_VERSION answers: 1.2. x4 to x17 are preserved by every call, and results are in x0 to x3.
pub const VERSION: u64 = 0x1_0002;

const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const SMCCC_ARCH_WORKAROUND_1: u32 = 0x8000_8000;
const SMCCC_ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
const SMCCC_ARCH_WORKAROUND_3: u32 = 0x8000_3fff;

/// What a guest is told of one workaround (DEN0028 7.5 to 7.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mitigation {
    /// The firmware below does not know: the guest is told NOT_SUPPORTED.
    #[default]
    Unknown,
    /// This CPU needs the call.
    Required,
    /// This CPU does not need it; the call can be made and does nothing.
    NotRequired,
}

/// A workaround that firmware below EL2 carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workaround {
    /// SMCCC_ARCH_WORKAROUND_1: branch predictor invalidation (CVE-2017-5715).
    BranchPredictor,
    /// SMCCC_ARCH_WORKAROUND_2: speculative store bypass (CVE-2018-3639), on or off.
    StoreBypass {
        /// The guest wants the mitigation.
        enable: bool,
    },
    /// SMCCC_ARCH_WORKAROUND_3: branch history (CVE-2022-23960) and what workaround 1 does.
    BranchHistory,
}

impl Workaround {
    /// Returns the function identifier and first argument with which the firmware below is called.
    pub const fn smc(self) -> (u32, u64) {
        match self {
            Self::BranchPredictor => (SMCCC_ARCH_WORKAROUND_1, 0),
            Self::StoreBypass { enable } => (SMCCC_ARCH_WORKAROUND_2, enable as u64),
            Self::BranchHistory => (SMCCC_ARCH_WORKAROUND_3, 0),
        }
    }
}

/// What the machine needs against its CPU's errata: asked of the firmware below once, by SMCCC_ARCH_FEATURES.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mitigations {
    /// SMCCC_ARCH_WORKAROUND_1.
    pub branch_predictor: Mitigation,
    /// SMCCC_ARCH_WORKAROUND_2.
    pub store_bypass: Mitigation,
    /// SMCCC_ARCH_WORKAROUND_3.
    pub branch_history: Mitigation,
}

impl Mitigation {
    /// Returns what SMCCC_ARCH_FEATURES of the firmware below means, its w0.
    pub const fn of_answer(w0: i32) -> Self {
        match w0 {
            0 => Self::Required,
            1 => Self::NotRequired,
            _ => Self::Unknown,
        }
    }

    const fn answer(self) -> u64 {
        match self {
            Self::Unknown => NOT_SUPPORTED,
            Self::Required => 0,
            Self::NotRequired => 1,
        }
    }

    fn run(self, workaround: Workaround) -> Action {
        match self {
            Self::Unknown => Action::Return(NOT_SUPPORTED),
            Self::Required => Action::Workaround(workaround),
            Self::NotRequired => Action::Return(0),
        }
    }
}

/// Returns true for functions of this service: owner 0, fast.
pub const fn owns(id: u32) -> bool {
    super::is_fast_call(id) && id >> 24 & 0x3f == 0
}

/// Answers a function of this service.
pub fn call(id: u32, argument: u64, mitigations: &Mitigations) -> Action {
    match id {
        SMCCC_VERSION => Action::Return(VERSION),
        SMCCC_ARCH_FEATURES => Action::Return(features(argument as u32, mitigations)),
        SMCCC_ARCH_WORKAROUND_1 => mitigations.branch_predictor.run(Workaround::BranchPredictor),
        SMCCC_ARCH_WORKAROUND_2 => {
            mitigations.store_bypass.run(Workaround::StoreBypass { enable: argument as u32 != 0 })
        }
        SMCCC_ARCH_WORKAROUND_3 => mitigations.branch_history.run(Workaround::BranchHistory),
        // SMCCC_ARCH_SOC_ID too: a VM has no SoC, and the machine's would change under it when it moves.
        _ => Action::Return(NOT_SUPPORTED),
    }
}

fn features(id: u32, mitigations: &Mitigations) -> u64 {
    match id {
        SMCCC_VERSION | SMCCC_ARCH_FEATURES => 0,
        SMCCC_ARCH_WORKAROUND_1 => mitigations.branch_predictor.answer(),
        SMCCC_ARCH_WORKAROUND_2 => mitigations.store_bypass.answer(),
        SMCCC_ARCH_WORKAROUND_3 => mitigations.branch_history.answer(),
        id if psci::is_implemented(id) || trng::is_implemented(id) || vendor::is_implemented(id) => 0,
        _ => NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDY: Mitigations = Mitigations {
        branch_predictor: Mitigation::Required,
        store_bypass: Mitigation::Unknown,
        branch_history: Mitigation::NotRequired,
    };

    #[test]
    fn a_guest_is_told_what_its_cpu_needs() {
        let features = |id: u32| call(SMCCC_ARCH_FEATURES, u64::from(id) | 0xffff << 32, &NEEDY);
        assert_eq!(features(SMCCC_ARCH_WORKAROUND_1), Action::Return(0));
        assert_eq!(features(SMCCC_ARCH_WORKAROUND_2), Action::Return(NOT_SUPPORTED));
        assert_eq!(features(SMCCC_ARCH_WORKAROUND_3), Action::Return(1));
        assert_eq!(features(SMCCC_ARCH_FEATURES), Action::Return(0));
        assert_eq!(features(0x8000_0002), Action::Return(NOT_SUPPORTED), "SOC_ID");
        assert_eq!(features(0x8400_0003), Action::Return(0), "CPU_ON");
    }

    #[test]
    fn workarounds_reach_the_firmware_only_where_needed() {
        assert_eq!(call(SMCCC_ARCH_WORKAROUND_1, 0, &NEEDY), Action::Workaround(Workaround::BranchPredictor));
        assert_eq!(call(SMCCC_ARCH_WORKAROUND_3, 0, &NEEDY), Action::Return(0));
        assert_eq!(call(SMCCC_ARCH_WORKAROUND_2, 1, &NEEDY), Action::Return(NOT_SUPPORTED));
        assert_eq!(Workaround::StoreBypass { enable: true }.smc(), (0x8000_7fff, 1));
        assert_eq!(Mitigation::of_answer(-1), Mitigation::Unknown);
        assert_eq!(Mitigation::of_answer(0), Mitigation::Required);
    }

    #[test]
    fn owner_zero_only() {
        assert!(owns(SMCCC_VERSION) && owns(0xc000_1234));
        assert!(!owns(0x0000_0000) && !owns(0x8400_0000) && !owns(0xbf00_0000));
    }
}
