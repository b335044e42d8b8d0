//! Any register accesses, interrupts and list registers: the GIC's state stays valid.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::vgic::{AccessSize, ListRegisters, Vgic};

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    DistWrite {
        offset: u16,
        size: u8,
        value: u64,
    },
    DistRead {
        offset: u16,
        size: u8,
    },
    RedistWrite {
        vcpu: u8,
        offset: u32,
        size: u8,
        value: u64,
    },
    RedistRead {
        vcpu: u8,
        offset: u32,
        size: u8,
    },
    Line {
        intid: u8,
        vcpu: u8,
        level: bool,
    },
    Pulse {
        intid: u32,
        vcpu: u8,
    },
    Sgi {
        vcpu: u8,
        value: u64,
        group1: bool,
    },
    Deactivate {
        vcpu: u8,
        intid: u32,
    },
    MapHw {
        intid: u8,
        pintid: u8,
    },
    /// What the guest did with its list registers while it ran: their states, and how often it ended what is in none.
    Run {
        vcpu: u8,
        vmcr: u64,
        states: u32,
        eoi_count: u8,
    },
    Reset,
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    vcpus: u8,
    list_registers: u8,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let mut gic = Vgic::new(input.vcpus.into());
    let vcpus = gic.vcpus();
    let count = usize::from(input.list_registers % 16) + 1;
    let mut lrs: Vec<_> = (0..vcpus).map(|_| ListRegisters::new(count)).collect();
    for step in input.steps {
        match step {
            Step::DistWrite { offset, size, value } => {
                let size = AccessSize::from_sas(size.into());
                let _ = gic.dist_write(u64::from(offset) & !(size.bytes() - 1), size, value);
            }
            Step::DistRead { offset, size } => {
                let size = AccessSize::from_sas(size.into());
                let offset = u64::from(offset) & !(size.bytes() - 1);
                let _ = gic.dist_needs_sync(offset);
                gic.dist_read(offset, size);
            }
            Step::RedistWrite { vcpu, offset, size, value } => {
                let size = AccessSize::from_sas(size.into());
                let offset = u64::from(offset & 0x1_ffff) & !(size.bytes() - 1);
                let _ = gic.redist_write(usize::from(vcpu) % vcpus, offset, size, value);
            }
            Step::RedistRead { vcpu, offset, size } => {
                let size = AccessSize::from_sas(size.into());
                let offset = u64::from(offset & 0x1_ffff) & !(size.bytes() - 1);
                let _ = gic.redist_needs_sync(usize::from(vcpu) % vcpus, offset);
                gic.redist_read(usize::from(vcpu) % vcpus, offset, size);
            }
            Step::Line { intid, vcpu, level } => {
                let _ = gic.set_line(intid.into(), usize::from(vcpu) % vcpus, level);
            }
            Step::Pulse { intid, vcpu } => {
                let _ = gic.pulse(intid, usize::from(vcpu) % vcpus);
            }
            Step::Sgi { vcpu, value, group1 } => {
                let _ = gic.send_sgi(usize::from(vcpu) % vcpus, value, group1);
            }
            Step::Deactivate { vcpu, intid } => {
                let _ = gic.deactivate(usize::from(vcpu) % vcpus, intid);
            }
            // As the firmware does: before the guest runs for the first time, with physical PPIs.
            Step::MapHw { intid, pintid } => {
                let mut fresh = Vgic::new(vcpus);
                fresh.map_hw(intid.into(), pintid.into());
                assert!(fresh.is_valid());
            }
            Step::Run { vcpu, vmcr, states, eoi_count } => {
                let vcpu = usize::from(vcpu) % vcpus;
                let lrs = &mut lrs[vcpu];
                lrs.vmcr = vmcr;
                gic.fill(vcpu, lrs);
                assert_eq!(u32::from(lrs.used) >> count, 0, "a list register that is not there");
                lrs.dirty = 0;
                lrs.deactivate = 0;
                for slot in (0..count).filter(|slot| lrs.used >> slot & 1 != 0) {
                    // The guest's CPU interface moves the state, bits 63:62, and nothing else.
                    lrs.lr[slot] = lrs.lr[slot] & !(3 << 62) | u64::from(states >> (2 * slot) & 3) << 62;
                }
                lrs.eoi_count = eoi_count & 0x1f;
                let _ = gic.fold(vcpu, lrs);
            }
            Step::Reset => {
                gic.reset();
                lrs.fill(ListRegisters::new(count));
            }
        }
        assert!(gic.is_valid());
    }
});
