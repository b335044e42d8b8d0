//! Any calls in any order of the vCPUs of a VM: power states stay those of vCPUs that are there, and nobody starts outside
//! RAM.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::calls::arch::Mitigations;
use salp_core::calls::psci::{Power, PowerState, Wake};
use salp_core::calls::{Action, Callee, dispatch};
use salp_core::entropy::Drbg;
use salp_core::identity::{Config, Identity, Name};

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    /// A call of one of the services: the low bits choose the function.
    Service {
        caller: u8,
        owner: u8,
        function: u8,
        wide: bool,
        args: [u64; 3],
    },
    /// A start in RAM, which random addresses do not find.
    CpuOn {
        caller: u8,
        target: u8,
        offset: u32,
    },
    Any {
        imm: u16,
        caller: u8,
        x: [u64; 18],
    },
    Wake(u8),
    Started(u8),
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    vcpus: u8,
    answers: [i32; 3],
    is_manager: bool,
    steps: Vec<Step>,
}

const RAM: core::ops::Range<u64> = 0x4000_0000..0x8000_0000;

fuzz_target!(|input: Input| {
    use salp_core::calls::arch::Mitigation;
    let mut power = Power::new(input.vcpus.into());
    let mut entropy = Drbg::new(b"fuzz");
    let name = Name::new(b"fuzz").expect("a name");
    let config = Config::new(b"key=value\n").expect("a line");
    let mut identity = Identity::of_clone(name, &[7; 32], 1, 0, &config);
    let [branch_predictor, store_bypass, branch_history] = input.answers.map(Mitigation::of_answer);
    let mitigations = Mitigations { branch_predictor, store_bypass, branch_history };
    for step in input.steps {
        let mut call = |imm, caller: u8, x: &[u64; 18]| {
            let callee = Callee {
                power: &mut power,
                entropy: &mut entropy,
                identity: &mut identity,
                is_manager: input.is_manager,
                mitigations: &mitigations,
                ram: RAM,
            };
            // As in the machine: the caller is a vCPU that is there.
            let caller = usize::from(caller) % usize::from(input.vcpus.clamp(1, 8));
            if let Action::TurnOn { vcpu, .. } = dispatch(imm, x, caller, callee) {
                assert!(vcpu < power.vcpus() && matches!(power.state(vcpu), PowerState::OnPending(_)));
            }
        };
        match step {
            Step::Service { caller, owner, function, wide, args } => {
                let id = 1 << 31 | u64::from(wide) << 30 | u64::from(owner & 7) << 24 | u64::from(function);
                let mut x = [0; 18];
                x[0] = id;
                x[1..4].copy_from_slice(&args);
                call(0, caller, &x);
            }
            Step::CpuOn { caller, target, offset } => {
                let mut x = [0; 18];
                x[..3].copy_from_slice(&[0xc400_0003, u64::from(target), RAM.start + u64::from(offset)]);
                call(0, caller, &x);
            }
            Step::Any { imm, caller, x } => call(imm, caller, &x),
            Step::Wake(vcpu) => {
                if let Some(Wake::Start(entry)) = power.wake(vcpu.into()) {
                    assert!(RAM.contains(&entry.pc));
                }
            }
            Step::Started(vcpu) => {
                if let Some(entry) = power.started(vcpu.into()) {
                    assert!(RAM.contains(&entry.pc));
                }
            }
        }
        assert!((power.vcpus()..16).all(|vcpu| power.state(vcpu) == PowerState::Off));
    }
});
