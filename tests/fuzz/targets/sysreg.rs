//! Any trapped system register access on any CPU has an answer, and a read never sends an interrupt.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::exit::decode::SysRegAccess;
use salp_core::exit::idregs::IdRegs;
use salp_core::exit::sysreg::{SysRegAction, access};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    accesses: Vec<(u32, u64)>,
    cpu: [u64; 64],
    other: [u64; 64],
}

fuzz_target!(|input: Input| {
    let ids = IdRegs::new(&input.cpu).meet(&IdRegs::new(&input.other));
    for (iss, written) in input.accesses {
        let register = SysRegAccess(iss & 0x1ff_ffff);
        let action = access(register, written, &ids);
        assert!(register.is_write() || !matches!(action, SysRegAction::SendSgi { .. } | SysRegAction::WriteMdscr(_)));
        assert!(!register.is_write() || !matches!(action, SysRegAction::Value(_) | SysRegAction::ReadMdscr));
    }
});
