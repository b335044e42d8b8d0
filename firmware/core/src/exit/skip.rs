//! Going on after an instruction that EL2 did for the guest. Before: [`super::decode`]; after: the world switch.

use crate::context::GuestRegs;

/// PSTATE.SS: the instruction has not been stepped yet.
pub(super) const SS: u64 = 1 << 21;
/// PSTATE.BTYPE, bits 11:10 of AArch64.
pub(super) const BTYPE: u64 = 3 << 10;
/// PSTATE.nRW: the guest is in AArch32 state.
pub const AARCH32: u64 = 1 << 4;
const T32: u64 = 1 << 5;
const IT_LOW: u64 = 3 << 25;
const IT_HIGH: u64 = 0x3f << 10;

/// Moves past an A64 instruction: what hot exits use, whose guest is known to be in AArch64 (its exception class says).
///
/// PSTATE.SS goes to 0, so that a guest that single-steps itself gets its step exception after this instruction
/// (Arm ARM D2.12), and PSTATE.BTYPE to 0, as any instruction does.
#[inline(always)]
pub fn skip_a64(regs: &mut GuestRegs) {
    regs.pc = regs.pc.wrapping_add(4);
    regs.pstate &= !(SS | BTYPE);
}

/// Moves past an instruction of either state; `esr` tells its length.
pub fn skip(regs: &mut GuestRegs, esr: u64) {
    if regs.pstate & AARCH32 == 0 {
        return skip_a64(regs);
    }
    let length = if super::decode::is_32bit_instruction(esr) { 4 } else { 2 };
    // AArch32 addresses are 32 bits wide and wrap.
    regs.pc = u64::from((regs.pc as u32).wrapping_add(length));
    regs.pstate = advance_it(regs.pstate & !SS);
}

/// Advances the IT block of T32 by one instruction (Arm ARM F2, ITAdvance). SPSR_EL2 holds IT[1:0] in bits 26:25 and
/// IT[7:2] in bits 15:10.
fn advance_it(pstate: u64) -> u64 {
    let it = it_state(pstate);
    let next = if it & 7 == 0 { 0 } else { it & 0xe0 | it << 1 & 0x1f };
    pstate & !(IT_LOW | IT_HIGH) | (next & 3) << 25 | (next >> 2) << 10
}

const fn it_state(pstate: u64) -> u64 {
    (pstate >> 25 & 3) | (pstate >> 10 & 0x3f) << 2
}

/// Returns true if the trapped instruction would execute: A64 instructions always do, a conditional one of AArch32 may
/// have been trapped although its condition fails (Arm ARM G1, "conditional instructions that are trapped"). One that
/// fails is only skipped.
pub fn condition_holds(iss: u32, pstate: u64) -> bool {
    if pstate & AARCH32 == 0 {
        return true;
    }
    let condition = if iss & 1 << 24 != 0 {
        u64::from(iss >> 20 & 0xf)
    } else if pstate & T32 != 0 && it_state(pstate) & 0xf != 0 {
        it_state(pstate) >> 4
    } else {
        return true;
    };
    let [n, z, c, v] = [31, 30, 29, 28].map(|bit| pstate >> bit & 1 != 0);
    let holds = match condition >> 1 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    holds != (condition & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_a64_instruction_counts_as_stepped() {
        let mut regs = GuestRegs { pc: u64::MAX - 3, pstate: 0x3c5 | SS | BTYPE, ..Default::default() };
        skip(&mut regs, 0);
        assert_eq!((regs.pc, regs.pstate), (0, 0x3c5));
    }

    #[test]
    fn t32_moves_by_its_length_and_through_its_it_block() {
        // ITTT EQ: condition 0000, mask 1110 is followed by three instructions: 1111 0, see F5 IT.
        let it = |state: u64| (state & 3) << 25 | (state >> 2) << 10;
        let mut regs = GuestRegs { pc: 0xffff_fffe, pstate: 0x30 | it(0b0000_0010), ..Default::default() };
        skip(&mut regs, 0);
        assert_eq!((regs.pc, it_state(regs.pstate)), (0, 0b0000_0100));
        skip(&mut regs, 1 << 25);
        assert_eq!((regs.pc, it_state(regs.pstate)), (4, 0b0000_1000));
        skip(&mut regs, 0);
        assert_eq!((regs.pc, it_state(regs.pstate)), (6, 0));
        assert_eq!(regs.pstate, 0x30);
    }

    #[test]
    fn conditions_follow_the_flags() {
        const Z: u64 = 1 << 30;
        const C: u64 = 1 << 29;
        let iss = |condition: u32| 1 << 24 | condition << 20;
        assert!(condition_holds(iss(0), AARCH32 | Z));
        assert!(!condition_holds(iss(0), AARCH32));
        assert!(condition_holds(iss(1), AARCH32));
        assert!(condition_holds(iss(8), AARCH32 | C) && !condition_holds(iss(8), AARCH32 | C | Z));
        assert!(condition_holds(iss(14), AARCH32) && condition_holds(iss(15), AARCH32));
        assert!(condition_holds(0, 0x3c5), "A64 is not conditional");
        // T32 in an IT block, CV = 0: the condition comes from ITSTATE.
        let eq_block = AARCH32 | T32 | 2 << 10;
        assert!(condition_holds(0, eq_block | Z) && !condition_holds(0, eq_block));
        for pstate in 0..16u64 {
            for condition in 0..7 {
                let pstate = AARCH32 | pstate << 28;
                assert_ne!(
                    condition_holds(iss(condition * 2), pstate),
                    condition_holds(iss(condition * 2 + 1), pstate)
                );
            }
        }
    }
}
