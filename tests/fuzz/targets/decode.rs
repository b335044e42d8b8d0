//! Any syndrome, any state: the exit is decoded, the exception is computed, the walk ends, the instruction is skipped.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::addr::Ipa;
use salp_core::context::Context;
use salp_core::exit::decode::{Exit, decode};
use salp_core::exit::inject::{Cause, Features, Source, take};
use salp_core::exit::skip::{condition_holds, skip, skip_a64};
use salp_core::exit::walk::walk_level;

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    esr: u64,
    far: u64,
    hpfar: u64,
    pc: u64,
    pstate: u64,
    vbar_el1: u64,
    sctlr_el1: u64,
    tcr_el1: u64,
    ttbr: (u64, u64),
    features: [bool; 3],
    descriptors: Vec<u64>,
}

fuzz_target!(|input: Input| {
    let Input { esr, far, hpfar, pc, pstate, vbar_el1, sctlr_el1, tcr_el1, ttbr, .. } = input;
    let mut reads = 0;
    let mut walk = |va, ipa: Ipa| {
        let mut descriptors = input.descriptors.iter();
        let level = walk_level(tcr_el1, ttbr, va, ipa, |_| {
            reads += 1;
            descriptors.next().copied()
        });
        assert!(level <= 3);
        level
    };
    let cause = match decode(esr, far, hpfar) {
        Exit::DataAbort(abort) => {
            let _ = (abort.status(), abort.size(), abort.rt(), abort.ipa_valid(), abort.wants_write());
            Cause::of_data(&abort, || walk(abort.va(), abort.ipa()))
        }
        Exit::InstructionAbort(abort) => {
            let _ = (abort.status(), abort.ipa_valid(), abort.wants_write());
            Cause::of_instruction(&abort, || walk(abort.va(), abort.ipa()))
        }
        Exit::Reflect { esr } => Cause::Reflect { esr, far },
        Exit::Wait(wait) => {
            let _ = (wait.kind(), wait.timeout_register());
            Cause::Undefined
        }
        _ => Cause::Undefined,
    };
    assert!(reads <= 4);
    let [pan, ssbs, mte] = input.features;
    let taken = take(&Source { pc, pstate, vbar_el1, sctlr_el1 }, cause, Features { pan, ssbs, mte });
    // EL1h, AArch64, all masked: whatever the guest held, it goes nowhere else.
    assert_eq!(taken.pstate & 0x3df, 0x3c5);
    let _ = condition_holds(esr as u32 & 0x1ff_ffff, pstate);
    let mut context = Context::reset(pc, 0);
    context.regs.pstate = pstate;
    skip(&mut context.regs, esr);
    skip_a64(&mut context.regs);
});
