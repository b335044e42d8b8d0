//! The redistributors' registers (IHI 0069 12.10, 12.11): `RD_base`, then `SGI_base`, one pair of frames for each vCPU.
//! Before it: a trapped access to the GICR frames; after it: `rows`.

use super::dist::{IIDR, PIDR2};
use super::rows::{self, AccessSize, Register, Row};
use super::{FIRST_SPI, Frame, VcpuSet, Vgic};

const SGI_BASE: u64 = 0x1_0000;
const INTIDS: u64 = FIRST_SPI as u64;

const CTLR_RWP: u32 = 3;

const TYPER_LAST: u32 = 4;
const TYPER_PROCESSOR_NUMBER: u32 = 8;
const TYPER_AFFINITY: u32 = 32;

const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;

static ROWS: &[Row] = &[
    Row::word(0x0000, Register::Plain { read: read_ctlr, write: None }),
    Row::word(0x0004, Register::Constant(IIDR)),
    Row::double(0x0008, Register::Plain { read: read_typer, write: None }),
    Row::word(0x0014, Register::Plain { read: read_waker, write: Some(write_waker) }),
    Row::word(0xffe8, Register::Constant(PIDR2)),
    Row::array(SGI_BASE + 0x0080, INTIDS, Register::Bits(&rows::GROUP)),
    Row::array(SGI_BASE + 0x0100, INTIDS, Register::Bits(&rows::SET_ENABLE)),
    Row::array(SGI_BASE + 0x0180, INTIDS, Register::Bits(&rows::CLEAR_ENABLE)),
    Row::array(SGI_BASE + 0x0200, INTIDS, Register::Bits(&rows::SET_PENDING)),
    Row::array(SGI_BASE + 0x0280, INTIDS, Register::Bits(&rows::CLEAR_PENDING)),
    Row::array(SGI_BASE + 0x0300, INTIDS, Register::Bits(&rows::SET_ACTIVE)),
    Row::array(SGI_BASE + 0x0380, INTIDS, Register::Bits(&rows::CLEAR_ACTIVE)),
    Row::array(SGI_BASE + 0x0400, INTIDS, Register::Priority),
    Row::array(SGI_BASE + 0x0c00, INTIDS, Register::Config),
];

fn read_ctlr(gic: &Vgic, frame: Frame) -> u64 {
    u64::from(gic.write_pending(frame)) << CTLR_RWP
}

fn read_typer(gic: &Vgic, frame: Frame) -> u64 {
    let Frame::Redist(vcpu) = frame else { return 0 };
    let last = vcpu + 1 == gic.vcpus();
    let number = vcpu as u64;
    number << TYPER_AFFINITY | number << TYPER_PROCESSOR_NUMBER | u64::from(last) << TYPER_LAST
}

fn read_waker(gic: &Vgic, frame: Frame) -> u64 {
    match frame {
        Frame::Redist(vcpu) if VcpuSet(gic.asleep).contains(vcpu) => WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
        _ => 0,
    }
}

/// Falls asleep or wakes at once. It decides where 1-of-N interrupts go and nothing else: guests that never wake their
/// redistributor get their own interrupts all the same.
fn write_waker(gic: &mut Vgic, frame: Frame, value: u64) -> VcpuSet {
    let Frame::Redist(vcpu) = frame else { return VcpuSet::EMPTY };
    let others = VcpuSet(gic.asleep).without(vcpu);
    let asleep = if value & WAKER_PROCESSOR_SLEEP != 0 { others.union(VcpuSet::one(vcpu)) } else { others };
    gic.asleep = asleep.0;
    gic.spread()
}

impl Vgic {
    /// Reads a register of the redistributor of `vcpu` at `offset` bytes into its pair of frames. What does not exist, or
    /// not at this size, is 0.
    pub fn redist_read(&self, vcpu: usize, offset: u64, size: AccessSize) -> u64 {
        if vcpu < self.vcpus() { self.read_row(ROWS, Frame::Redist(vcpu), offset, size) } else { 0 }
    }

    /// Writes a register of the redistributor of `vcpu`. What does not exist, or not at this size, is ignored.
    pub fn redist_write(&mut self, vcpu: usize, offset: u64, size: AccessSize, value: u64) -> VcpuSet {
        match vcpu < self.vcpus() {
            true => self.write_row(ROWS, Frame::Redist(vcpu), offset, size, value),
            false => VcpuSet::EMPTY,
        }
    }

    /// Returns the vCPUs that have to fold before [`redist_read`](Self::redist_read) of this register tells the present: a
    /// fold at any time after the access began will do.
    pub fn redist_needs_sync(&self, vcpu: usize, offset: u64) -> VcpuSet {
        match vcpu < self.vcpus() {
            true => self.row_needs_sync(ROWS, Frame::Redist(vcpu), offset),
            false => VcpuSet::EMPTY,
        }
    }
}
