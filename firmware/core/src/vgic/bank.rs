//! The state of up to 64 interrupts, one bit each per property. Before it: the register rows and input lines that change
//! it; after it: `lrs`, which takes from it what a vCPU can be given.

use super::PRIORITY_MASK;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One bit per interrupt in each word.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Bank {
    /// In group 1.
    pub group: u64,
    pub enabled: u64,
    /// Edge-triggered, else level-sensitive.
    pub edge: u64,
    /// The level of the input.
    pub line: u64,
    /// Pending by an edge, an SGI or `ISPENDR`, until acknowledged or `ICPENDR`.
    pub latch: u64,
    /// Active; of a listed interrupt: when it was listed.
    pub active: u64,
    /// Held by a vCPU's list registers: hardware may have changed its pending and active states since.
    pub listed: u64,
    /// Of the listed ones, those that took their `latch` along. If the LR comes back pending, so does the latch.
    pub listed_latch: u64,
    /// Of the listed ones, those whose `active` was written since, so that what the LR says does not count.
    pub forced: u64,
    priority: [u8; 64],
}

impl Bank {
    pub const fn new(edge: u64) -> Self {
        Self {
            group: 0,
            enabled: 0,
            edge,
            line: 0,
            latch: 0,
            active: 0,
            listed: 0,
            listed_latch: 0,
            forced: 0,
            priority: [0; 64],
        }
    }

    /// Returns the interrupts that are pending, as a read of `ISPENDR` shows them.
    pub fn pending(&self) -> u64 {
        self.latch | self.listed_latch | self.line & !self.edge
    }

    /// Returns the interrupts whose group is on in `ctlr` and that are enabled.
    pub fn forwarded(&self, ctlr: u8) -> u64 {
        let on = |bit: u8| 0u64.wrapping_sub(u64::from(ctlr >> bit & 1));
        self.enabled & (self.group & on(1) | !self.group & on(0))
    }

    /// Returns the interrupts that are to be given to a CPU interface as pending. An active level-sensitive one is not: its
    /// line is looked at again when it ends. An active edge-triggered one is, as active and pending.
    #[inline]
    pub fn wanted(&self, ctlr: u8) -> u64 {
        (self.latch | self.line & !self.edge) & !(self.active & !self.edge) & self.forwarded(ctlr)
    }

    /// Returns the interrupts that were listed as pending and may not be signalled any more: writes that disabled them are
    /// still in progress (`RWP`).
    pub fn stale(&self, ctlr: u8) -> u64 {
        self.listed & (!self.active | self.listed_latch) & !self.forwarded(ctlr)
    }

    /// Makes interrupts inactive; returns those that were active and are not listed. Of a listed one the fold finds out.
    pub fn clear_active(&mut self, ended: u64) -> u64 {
        let gone = self.active & ended & !self.listed;
        self.active &= !ended;
        self.forced |= ended & self.listed;
        gone
    }

    /// Makes interrupts active.
    pub fn set_active(&mut self, active: u64) {
        self.active |= active;
        self.forced |= active & self.listed;
    }

    /// Takes over the states that the list registers of `listed` came back with.
    pub fn take_back(&mut self, listed: u64, pending: u64, active: u64) {
        let told = listed & !self.forced;
        self.active = self.active & !told | active & told;
        self.latch |= pending & listed & self.listed_latch;
        self.listed &= !listed;
        self.listed_latch &= !listed;
        self.forced &= !listed;
    }

    pub fn priority(&self, n: u32) -> u8 {
        self.priority[n as usize % 64]
    }

    pub fn set_priority(&mut self, n: u32, priority: u8) {
        self.priority[n as usize % 64] = priority & PRIORITY_MASK;
    }

    /// Returns true if only interrupts in `mask` have state and the words agree with each other.
    pub fn is_valid(&self, mask: u64) -> bool {
        let all = self.group | self.enabled | self.edge | self.line | self.latch | self.active | self.listed;
        all & !mask == 0
            && (self.listed_latch | self.forced) & !self.listed == 0
            && self.priority.iter().enumerate().all(|(n, p)| p & !PRIORITY_MASK == 0 && (mask >> n & 1 != 0 || *p == 0))
    }
}
