//! Accesses to guest physical addresses where nothing is: each gives the synchronous external abort of the
//! architecture (Arm ARM D8.15, D24.2.40), with the right ESR, FAR and ELR, and the guest goes on.
//!
//! Plain QEMU agrees; where an emulator lets DC ZVA to a place without RAM pass, that case says SKIP.

use crate::rt::exception::{Exception, catch, caught, class};
use crate::rt::instruction::{ACCESSES, Access, call};
use crate::rt::{cpu, mmu, sysreg};
use crate::test::Outcome;
use crate::{cases, check, check_eq, machine, skip};

/// DFSC and IFSC: synchronous external abort, not on a walk.
const EXTERNAL: u64 = 0x10;
/// The same, on the walk of a stage 1 table, at level 2.
const EXTERNAL_WALK_LEVEL_2: u64 = 0x16;
/// DFSC: translation fault, level 3.
const NO_PAGE: u64 = 0x07;
/// DFSC: alignment fault.
const ALIGNMENT: u64 = 0x21;

/// Places of QEMU's `virt` map where there is nothing, as device memory: between the devices, at the very bottom
/// (flash on QEMU only from 0 to 0x0800_0000), below RAM.
const HOLES: [u64; 3] = [0x0b00_0000, 0x0980_0040, 0x0b12_3460];

/// Runs the guest.
pub fn main() {
    cases!(
        below_the_stack,
        simple_accesses,
        other_accesses,
        cache_zero,
        unaligned_device,
        beyond_ram,
        fetch,
        table_walk,
        on_every_vcpu
    );
}

/// Checks one abort: `fault` came from `access` at `address`.
fn check_abort(fault: Option<Exception>, access: &Access, address: u64) -> Outcome {
    let name = access.name;
    let Some(fault) = fault else {
        check!(false, "{name} at {address:#x} gave no exception");
        return Ok(());
    };
    check_eq!(fault.class(), class::DATA_ABORT, "{name} at {address:#x}: EC");
    check_eq!(fault.status(), EXTERNAL, "{name} at {address:#x}: DFSC");
    check_eq!(fault.esr >> 25 & 1, 1, "{name} at {address:#x}: IL");
    // An atomic where not even a read is possible has WnR 0 (Arm ARM D24.2.40). QEMU's stage 2 puts 1 into ESR_EL2, which
    // a hypervisor that emulates nothing there hands on: it cannot tell this atomic from a store.
    if !is_atomic(access) {
        check_eq!(fault.esr >> 6 & 1 == 1, access.writes, "{name} at {address:#x}: WnR");
    }
    // FnV may say that FAR is not valid.
    check!(fault.esr & 1 << 10 != 0 || fault.far == address, "{name} at {address:#x}: FAR {:#x}", fault.far);
    check_eq!(fault.elr, access.code(), "{name} at {address:#x}: ELR");
    check_eq!(fault.spsr & 0xf, 5, "{name} at {address:#x}: SPSR mode");
    check_eq!(caught(), 1, "{name} at {address:#x}: exceptions");
    Ok(())
}

/// Returns true for the instructions that load and store in one (FEAT_LSE).
fn is_atomic(access: &Access) -> bool {
    ["ldadd", "cas "].iter().any(|name| access.name.starts_with(name))
}

fn all(select: impl Fn(&Access) -> bool, address: impl Fn(u64) -> u64) -> Outcome {
    let atomics = sysreg::id_aa64isar0() >> 20 & 0xf != 0;
    for access in ACCESSES.iter().filter(|access| select(access) && access.name != "dc zva, x0") {
        if !atomics && is_atomic(access) {
            continue;
        }
        for hole in HOLES {
            let at = address(hole);
            let target = if access.name.contains('!') { at - 8 } else { at };
            let fault = catch(|| {
                access.make(target);
            });
            check_abort(fault, access, at)?;
        }
    }
    Ok(())
}

fn below_the_stack() -> Outcome {
    let Some(access) = ACCESSES.iter().find(|access| access.writes && access.simple) else { return Ok(()) };
    let guard = mmu::stack_guard();
    for address in [guard, guard + 4088] {
        let fault = catch(|| {
            access.make(address);
        });
        check_eq!(
            fault.map(|fault| (fault.class(), fault.status())),
            Some((class::DATA_ABORT, NO_PAGE)),
            "{address:#x}"
        );
    }
    Ok(())
}

fn simple_accesses() -> Outcome {
    all(|access| access.simple, |hole| hole)
}

fn other_accesses() -> Outcome {
    all(|access| !access.simple, |hole| hole)
}

fn cache_zero() -> Outcome {
    let Some(zero) = ACCESSES.iter().find(|access| access.name == "dc zva, x0") else { return Ok(()) };
    // In device memory it is an alignment fault (Arm ARM B2.7.2), before anything else.
    let fault = catch(|| {
        zero.make(HOLES[0]);
    });
    let Some(fault) = fault else { skip!("this machine lets DC ZVA to a place without RAM pass") };
    check_eq!(fault.class(), class::DATA_ABORT, "EC");
    check!([ALIGNMENT, EXTERNAL].contains(&fault.status()), "DFSC {:#x} in device memory", fault.status());
    let address = beyond();
    let fault = catch(|| {
        zero.make(address);
    });
    match fault {
        None => skip!("this machine lets DC ZVA to a place without RAM pass"),
        Some(fault) => {
            check_eq!(fault.class(), class::DATA_ABORT, "EC beyond RAM");
            check_eq!(fault.status(), EXTERNAL, "DFSC beyond RAM");
            Ok(())
        }
    }
}

fn unaligned_device() -> Outcome {
    for access in
        ACCESSES.iter().filter(|access| access.name.starts_with("ldr w1") || access.name.starts_with("str x1"))
    {
        let fault = catch(|| {
            access.make(HOLES[0] + 1);
        });
        let Some(fault) = fault else {
            check!(false, "{} at an odd address gave no exception", access.name);
            continue;
        };
        check_eq!(fault.class(), class::DATA_ABORT, "{}: EC", access.name);
        // Emulators that do not check the alignment of device memory find nothing at the address instead.
        check!([ALIGNMENT, EXTERNAL].contains(&fault.status()), "{}: DFSC {:#x}", access.name, fault.status());
        let valid = fault.status() == ALIGNMENT;
        check!(!valid || fault.far == HOLES[0] + 1, "{}: FAR {:#x}", access.name, fault.far);
    }
    Ok(())
}

/// Returns an address after the end of RAM, in normal memory by stage 1.
fn beyond() -> u64 {
    machine::ram_end() + 0x10_0040
}

fn beyond_ram() -> Outcome {
    all(|_| true, |hole| beyond() + (hole & 0x7f_ffc0))
}

fn check_fetch(address: u64, status: u64, far: u64) -> Outcome {
    let fault = catch(|| call(address));
    let Some(fault) = fault else {
        check!(false, "a fetch from {address:#x} gave no exception");
        return Ok(());
    };
    check_eq!(fault.class(), class::INSTRUCTION_ABORT, "fetch from {address:#x}: EC");
    check_eq!(fault.status(), status, "fetch from {address:#x}: IFSC");
    check!(fault.esr & 1 << 10 != 0 || fault.far == far, "fetch from {address:#x}: FAR {:#x}", fault.far);
    check_eq!(fault.elr, address, "fetch from {address:#x}: ELR");
    Ok(())
}

fn fetch() -> Outcome {
    check_fetch(beyond(), EXTERNAL, beyond())?;
    // Stage 1 speaks first: a level 1 permission fault for device memory, a level 1 translation fault for a hole.
    check_fetch(HOLES[0], 0x0d, HOLES[0])?;
    let unmapped = mmu::clear_spare() + 0x1000;
    check_fetch(unmapped, 0x05, unmapped)
}

fn table_walk() -> Outcome {
    let address = mmu::set_spare_table(HOLES[0]) + 0x20_0040;
    for access in ACCESSES.iter().filter(|access| access.simple) {
        let fault = catch(|| {
            access.make(address);
        });
        let Some(fault) = fault else {
            check!(false, "{} through a table nowhere gave no exception", access.name);
            continue;
        };
        check_eq!(fault.class(), class::DATA_ABORT, "{}: EC", access.name);
        check_eq!(fault.status(), EXTERNAL_WALK_LEVEL_2, "{}: DFSC", access.name);
        check!(fault.esr & 1 << 10 != 0 || fault.far == address, "{}: FAR {:#x}", access.name, fault.far);
        check_eq!(fault.elr, access.code(), "{}: ELR", access.name);
    }
    check_fetch(address, EXTERNAL_WALK_LEVEL_2, address)?;
    mmu::clear_spare();
    Ok(())
}

static WRONG: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

fn abort_here(_: u64) {
    use core::sync::atomic::Ordering;
    for _ in 0..100 {
        if all(|access| access.simple, |hole| hole).is_err() {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn on_every_vcpu() -> Outcome {
    use core::sync::atomic::Ordering;
    let count = cpu::start_all(abort_here);
    abort_here(0);
    for other in 1..count {
        check!(cpu::wait_off(other, 20_000), "vCPU {other} does not finish");
    }
    check_eq!(WRONG.load(Ordering::Relaxed), 0, "rounds that failed");
    Ok(())
}
