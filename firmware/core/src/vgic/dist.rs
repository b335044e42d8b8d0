//! The distributor's registers (IHI 0069 12.9). Before it: a trapped access to the GICD frame; after it: `rows`.

use super::rows::{self, AccessSize, Register, Row};
use super::{Frame, LAST_SPI, VcpuSet, Vgic};

/// `GICD_IIDR` and `GICR_IIDR`: Arm's JEP106 code, as every other virtual GIC has it, and the product number of Salp's,
/// which no physical GIC and no list of errata uses.
pub(super) const IIDR: u32 = 0x53 << 24 | 0x43b;

/// `PIDR2`: architecture revision 3, GICv3.
pub(super) const PIDR2: u32 = 0x3b;

/// The INTIDs that rows of arrays cover. Those past the last one that exists are RAZ/WI without a row.
const INTIDS: u64 = LAST_SPI as u64 + 1;

/// ITLinesNumber; IDbits: ten. No second security state, LPIs, message-based or extended SPIs, Aff3 or range selector.
const TYPER: u32 = (INTIDS as u32 / 32 - 1) | 9 << 19;

/// Disable Security and Affinity Routing Enable are fixed at 1.
const CTLR_DS_ARE: u64 = 1 << 6 | 1 << 4;
const CTLR_GROUPS: u64 = 0b11;
const CTLR_RWP: u32 = 31;

static ROWS: &[Row] = &[
    Row::word(0x0000, Register::Plain { read: read_ctlr, write: Some(write_ctlr) }),
    Row::word(0x0004, Register::Constant(TYPER)),
    Row::word(0x0008, Register::Constant(IIDR)),
    Row::array(0x0080, INTIDS, Register::Bits(&rows::GROUP)),
    Row::array(0x0100, INTIDS, Register::Bits(&rows::SET_ENABLE)),
    Row::array(0x0180, INTIDS, Register::Bits(&rows::CLEAR_ENABLE)),
    Row::array(0x0200, INTIDS, Register::Bits(&rows::SET_PENDING)),
    Row::array(0x0280, INTIDS, Register::Bits(&rows::CLEAR_PENDING)),
    Row::array(0x0300, INTIDS, Register::Bits(&rows::SET_ACTIVE)),
    Row::array(0x0380, INTIDS, Register::Bits(&rows::CLEAR_ACTIVE)),
    Row::array(0x0400, INTIDS, Register::Priority),
    Row::array(0x0c00, INTIDS, Register::Config),
    Row::array(0x6000, INTIDS, Register::Route),
    Row::word(0xffe8, Register::Constant(PIDR2)),
];

fn read_ctlr(gic: &Vgic, frame: Frame) -> u64 {
    CTLR_DS_ARE | u64::from(gic.ctlr) | u64::from(gic.write_pending(frame)) << CTLR_RWP
}

fn write_ctlr(gic: &mut Vgic, _: Frame, value: u64) -> VcpuSet {
    let groups = (value & CTLR_GROUPS) as u8;
    if gic.ctlr == groups {
        return VcpuSet::EMPTY;
    }
    gic.ctlr = groups;
    gic.all_affected()
}

impl Vgic {
    /// Reads a register of the distributor at `offset` bytes into its frame. What does not exist, or not at this size, is 0.
    pub fn dist_read(&self, offset: u64, size: AccessSize) -> u64 {
        self.read_row(ROWS, Frame::Dist, offset, size)
    }

    /// Writes a register of the distributor. What does not exist, or not at this size, is ignored.
    pub fn dist_write(&mut self, offset: u64, size: AccessSize, value: u64) -> VcpuSet {
        self.write_row(ROWS, Frame::Dist, offset, size, value)
    }

    /// Returns the vCPUs that have to fold before [`dist_read`](Self::dist_read) of this register tells the present: a fold
    /// at any time after the access began will do.
    pub fn dist_needs_sync(&self, offset: u64) -> VcpuSet {
        self.row_needs_sync(ROWS, Frame::Dist, offset)
    }
}
