//! Any trapped system register access on any CPU has an answer, and a read never sends an interrupt.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::exit::decode::SysRegAccess;
use salp_core::exit::idregs::{COUNT, IdRegs};
use salp_core::exit::sysreg::{SysRegAction, access};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    accesses: Vec<(u32, u64)>,
    // Not arrays: the fuzzer throws away inputs that are too short to fill them, and it starts with short ones.
    cpu: Vec<u64>,
    other: Vec<u64>,
}

/// The ID registers of a CPU; those that are not given are zero.
fn registers(given: &[u64]) -> IdRegs {
    let mut all = [0; COUNT];
    all.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
    IdRegs::new(&all)
}

fuzz_target!(|input: Input| {
    let ids = registers(&input.cpu).meet(&registers(&input.other));
    for (iss, written) in input.accesses {
        let register = SysRegAccess(iss & 0x1ff_ffff);
        let action = access(register, written, &ids);
        assert!(register.is_write() || !matches!(action, SysRegAction::SendSgi { .. } | SysRegAction::WriteMdscr(_)));
        assert!(!register.is_write() || !matches!(action, SysRegAction::Value(_) | SysRegAction::ReadMdscr));
    }
});
