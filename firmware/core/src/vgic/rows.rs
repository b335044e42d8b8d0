//! How a register access finds its row and its interrupts. Before it: a trapped access to the GICD or GICR frames; after
//! it: the rows in `dist` and `redist`, and the state in `bank`.

use super::bank::Bank;
use super::{FIRST_SPI, Frame, MAX_VCPUS, PPIS, SPIS, VcpuSet, Vgic};

/// The width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessSize {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Half = 2,
    /// 32 bits.
    Word = 4,
    /// 64 bits.
    Double = 8,
}

impl AccessSize {
    /// Returns the size that the two bits of `ESR_ELx.ISS.SAS` stand for (Arm ARM D24.2.40).
    pub const fn from_sas(sas: u64) -> Self {
        match sas & 3 {
            0 => Self::Byte,
            1 => Self::Half,
            2 => Self::Word,
            _ => Self::Double,
        }
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self as u64
    }

    const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// A register, or an array of them that covers the interrupts in order. What no row describes, at no size that its row
/// allows, is RAZ/WI.
pub(super) struct Row {
    start: u64,
    end: u64,
    /// The allowed access sizes in bytes, or'ed.
    sizes: u8,
    register: Register,
}

pub(super) enum Register {
    /// Never changes.
    Constant(u32),
    /// Anything; written as a whole or, if it has 64 bits, also by halves of which only the lower has a meaning.
    Plain { read: fn(&Vgic, Frame) -> u64, write: Option<fn(&mut Vgic, Frame, u64) -> VcpuSet> },
    /// One bit for each interrupt.
    Bits(&'static Property),
    /// Two bits for each interrupt, of which the upper says edge-triggered (`ICFGR`).
    Config,
    /// A byte for each interrupt (`IPRIORITYR`).
    Priority,
    /// 64 bits for each interrupt (`IROUTER`).
    Route,
}

/// One property of interrupts and how its register shows and changes it.
pub(super) struct Property {
    read: fn(&Bank) -> u64,
    /// Writes `value`, of which the bits `field` are in the register.
    write: fn(&mut Vgic, frame: Frame, field: u64, value: u64),
    /// List registers may know better.
    listed: bool,
}

const WORD: u8 = AccessSize::Word as u8;

impl Row {
    pub const fn word(start: u64, register: Register) -> Self {
        Self { start, end: start + 4, sizes: WORD, register }
    }

    pub const fn double(start: u64, register: Register) -> Self {
        Self { start, end: start + 8, sizes: WORD | AccessSize::Double as u8, register }
    }

    /// Describes the registers of the interrupts 0 to `intids`, excluded.
    pub const fn array(start: u64, intids: u64, register: Register) -> Self {
        let (bytes, sizes) = match register {
            Register::Config => (intids / 4, WORD),
            Register::Priority => (intids, WORD | AccessSize::Byte as u8),
            Register::Route => (intids * 8, WORD | AccessSize::Double as u8),
            _ => (intids / 8, WORD),
        };
        Self { start, end: start + bytes, sizes, register }
    }

    fn find(rows: &'static [Self], offset: u64, size: AccessSize) -> Option<&'static Self> {
        let fits = size as u8;
        let row = rows.iter().find(|row| (row.start..row.end).contains(&offset))?;
        (row.sizes & fits != 0 && offset & (size.bytes() - 1) == 0).then_some(row)
    }
}

/// The bits of a bank that an access to an array of registers is about.
#[derive(Clone, Copy)]
struct Field {
    /// The first interrupt, as a number in the bank.
    first: u32,
    /// How many there are.
    count: u32,
}

impl Field {
    fn new(frame: Frame, bit_offset: u64, count: u64, bits_each: u64) -> Option<Self> {
        let intid = bit_offset / bits_each;
        let (first, size) = match frame {
            // With affinity routing the distributor's registers of SGIs and PPIs are RAZ/WI (IHI 0069 12.9).
            Frame::Dist => (intid.checked_sub(FIRST_SPI.into())?, SPIS as u64),
            Frame::Redist(_) => (intid, FIRST_SPI.into()),
        };
        (first < size).then_some(Self { first: first as u32, count: (count / bits_each).max(1) as u32 })
    }

    fn mask(self) -> u64 {
        (u64::MAX >> (64 - self.count)) << self.first
    }

    fn interrupts(self) -> core::ops::Range<u32> {
        self.first..self.first + self.count
    }
}

impl Vgic {
    pub(super) fn read_row(&self, rows: &'static [Row], frame: Frame, offset: u64, size: AccessSize) -> u64 {
        let Some(row) = Row::find(rows, offset, size) else { return 0 };
        let (at, width) = ((offset - row.start) * 8, size.bytes() * 8);
        let value = match &row.register {
            Register::Constant(value) => u64::from(*value),
            Register::Plain { read, .. } => read(self, frame) >> at,
            Register::Bits(property) => Field::new(frame, at, width, 1).map_or(0, |field| {
                ((property.read)(self.bank(frame)) & field.mask()) >> field.first //
            }),
            Register::Config => Field::new(frame, at, width, 2).map_or(0, |field| {
                let edge = self.bank(frame).edge >> field.first;
                (0..field.count).fold(0, |word, n| word | (edge >> n & 1) << (2 * n + 1))
            }),
            Register::Priority => Field::new(frame, at, width, 8).map_or(0, |field| {
                let bank = self.bank(frame);
                field.interrupts().rev().fold(0, |word, n| word << 8 | u64::from(bank.priority(n)))
            }),
            Register::Route => Field::new(frame, at, width, 64).map_or(0, |field| {
                let affinity = self.affinity.get(field.first as usize).copied().unwrap_or(0);
                (u64::from(affinity) | (self.any >> field.first & 1) << 31) >> (at % 64)
            }),
        };
        value & size.mask()
    }

    pub(super) fn write_row(
        &mut self,
        rows: &'static [Row],
        frame: Frame,
        offset: u64,
        size: AccessSize,
        value: u64,
    ) -> VcpuSet {
        let Some(row) = Row::find(rows, offset, size) else { return VcpuSet::EMPTY };
        let (at, width, value) = ((offset - row.start) * 8, size.bytes() * 8, value & size.mask());
        let bits_each = match row.register {
            Register::Constant(_) => return VcpuSet::EMPTY,
            Register::Plain { write, .. } => {
                return match write {
                    Some(write) if at == 0 => write(self, frame, value),
                    _ => VcpuSet::EMPTY,
                };
            }
            Register::Bits(_) => 1,
            Register::Config => 2,
            Register::Priority => 8,
            Register::Route => 64,
        };
        let Some(field) = Field::new(frame, at, width, bits_each) else { return VcpuSet::EMPTY };
        match row.register {
            Register::Bits(property) => (property.write)(self, frame, field.mask(), value << field.first),
            Register::Config => self.write_config(frame, field, value),
            Register::Priority => {
                for (byte, n) in field.interrupts().enumerate() {
                    self.bank_mut(frame).set_priority(n, (value >> (8 * byte)) as u8);
                }
            }
            Register::Route if at % 64 == 0 => self.write_route(field.first, value),
            // The upper half is Aff3, which is RAZ/WI.
            _ => return VcpuSet::EMPTY,
        }
        self.affected(frame, field.mask())
    }

    /// Returns the vCPUs that have to fold before a read of this register shows what list registers know better.
    pub(super) fn row_needs_sync(&self, rows: &'static [Row], frame: Frame, offset: u64) -> VcpuSet {
        let Some(row) = Row::find(rows, offset, AccessSize::Word) else { return VcpuSet::EMPTY };
        let Register::Bits(Property { listed: true, .. }) = row.register else { return VcpuSet::EMPTY };
        let Some(field) = Field::new(frame, (offset - row.start) * 8, 32, 1) else { return VcpuSet::EMPTY };
        match (self.bank(frame).listed & field.mask(), frame) {
            (0, _) => VcpuSet::EMPTY,
            (_, Frame::Redist(vcpu)) => VcpuSet::one(vcpu),
            (listed, Frame::Dist) => self.homes_of(listed),
        }
    }

    fn write_config(&mut self, frame: Frame, field: Field, value: u64) {
        let edge = (0..field.count).fold(0, |word, n| word | (value >> (2 * n + 1) & 1) << (field.first + n));
        let writable = match frame {
            Frame::Dist => u64::MAX,
            // SGIs are edge-triggered, and the trigger of what a physical PPI backs is not the guest's to choose.
            Frame::Redist(_) => PPIS & !u64::from(self.hw),
        } & field.mask();
        let bank = self.bank_mut(frame);
        bank.edge = bank.edge & !writable | edge & writable;
    }

    fn write_route(&mut self, spi: u32, value: u64) {
        let Some(affinity) = self.affinity.get_mut(spi as usize) else { return };
        *affinity = value as u32 & 0x00ff_ffff;
        self.any = self.any & !(1 << spi) | (value >> 31 & 1) << spi;
        self.place(1 << spi);
    }
}

/// Returns `word` with the bits `field` replaced.
const fn replace(word: u64, field: u64, value: u64) -> u64 {
    word & !field | value & field
}

/// `IGROUPR`: group 1.
pub(super) static GROUP: Property = Property {
    read: |bank| bank.group,
    write: |gic, frame, field, value| {
        let bank = gic.bank_mut(frame);
        bank.group = replace(bank.group, field, value);
    },
    listed: false,
};

/// `ISENABLER`.
pub(super) static SET_ENABLE: Property = Property {
    read: |bank| bank.enabled,
    write: |gic, frame, field, value| gic.bank_mut(frame).enabled |= value & field,
    listed: false,
};

/// `ICENABLER`.
pub(super) static CLEAR_ENABLE: Property = Property {
    read: |bank| bank.enabled,
    write: |gic, frame, field, value| gic.bank_mut(frame).enabled &= !(value & field),
    listed: false,
};

/// `ISPENDR`.
pub(super) static SET_PENDING: Property = Property {
    read: Bank::pending,
    write: |gic, frame, field, value| gic.bank_mut(frame).latch |= value & field,
    listed: true,
};

/// `ICPENDR`. A level-sensitive interrupt stays pending while its line is high.
pub(super) static CLEAR_PENDING: Property = Property {
    read: Bank::pending,
    write: |gic, frame, field, value| {
        let bank = gic.bank_mut(frame);
        bank.latch &= !(value & field);
        bank.listed_latch &= !(value & field);
    },
    listed: true,
};

/// `ISACTIVER`.
pub(super) static SET_ACTIVE: Property = Property {
    read: |bank| bank.active,
    write: |gic, frame, field, value| gic.bank_mut(frame).set_active(value & field),
    listed: true,
};

/// `ICACTIVER`.
pub(super) static CLEAR_ACTIVE: Property = Property {
    read: |bank| bank.active,
    write: |gic, frame, field, value| {
        let gone = gic.bank_mut(frame).clear_active(value & field);
        gic.retire(frame, gone);
    },
    listed: true,
};

impl Vgic {
    /// Returns true while a write that turned interrupts or groups off has not reached every list register.
    pub(super) fn write_pending(&self, frame: Frame) -> bool {
        let stale = |vcpu: usize| self.cpus[vcpu % MAX_VCPUS].bank.stale(self.ctlr) != 0;
        match frame {
            Frame::Dist => self.spi.stale(self.ctlr) != 0 || (0..self.vcpus()).any(stale),
            Frame::Redist(vcpu) => stale(vcpu),
        }
    }

    /// Returns the vCPUs that a change to everything matters to.
    pub(super) fn all_affected(&self) -> VcpuSet {
        (0..self.vcpus()).fold(self.affected(Frame::Dist, u64::MAX), |set, vcpu| {
            set.union(self.affected(Frame::Redist(vcpu), u64::MAX)) //
        })
    }

    /// Routes the 1-of-N interrupts anew.
    pub(super) fn spread(&mut self) -> VcpuSet {
        self.place(self.any);
        self.affected(Frame::Dist, self.any)
    }
}
