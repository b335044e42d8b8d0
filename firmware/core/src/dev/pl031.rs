//! PrimeCell real time clock PL031 (DDI 0224). Before: [`super::bus`]; after: [`crate::vgic`] for [`Pl031::interrupt`].
//!
//! The clock is an offset to the machine's wall clock, in seconds, which every call is given. So a fork copies it and both
//! clocks are right, and so are those of a VM that slept in a record.

use super::bus::part_of_word;
use super::primecell_id;
use crate::vgic::AccessSize;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

const DR: u64 = 0x00;
const MR: u64 = 0x04;
const LR: u64 = 0x08;
const CR: u64 = 0x0c;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const MIS: u64 = 0x18;
const ICR: u64 = 0x1c;

/// A real time clock. A hand-over has it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pl031 {
    /// What the guest's clock is ahead of the machine's, in seconds, modulo 2^32.
    offset: u32,
    /// The last value written to LR.
    load: u32,
    /// The alarm.
    matched: u32,
    /// The clock at which [`Self::tick`] last looked: the alarm is due when `matched` is passed after it.
    seen: u32,
    mask: bool,
    raised: bool,
    reserved: u16,
}

impl Pl031 {
    /// Returns a clock that shows the machine's time, `now` in seconds since 1970.
    pub const fn new(now: u64) -> Self {
        Self { offset: 0, load: 0, matched: 0, seen: now as u32, mask: false, raised: false, reserved: 0 }
    }

    /// Returns the level of the interrupt line.
    #[inline]
    pub const fn interrupt(&self) -> bool {
        self.raised && self.mask
    }

    /// Returns the guest's time in seconds.
    const fn time(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.offset)
    }

    /// Looks at the clock and raises the alarm if it is due. To be called when [`Self::alarm_in`] has passed.
    pub const fn tick(&mut self, now: u64) {
        let time = self.time(now);
        let elapsed = time.wrapping_sub(self.seen);
        let due = self.matched.wrapping_sub(self.seen);
        // A clock that went back (elapsed in the upper half) passes nothing.
        if due != 0 && due <= elapsed && elapsed < 1 << 31 {
            self.raised = true;
        }
        self.seen = time;
    }

    /// Returns in how many seconds the interrupt line will rise, or `None` if it will not.
    pub const fn alarm_in(&self, now: u64) -> Option<u32> {
        if self.raised || !self.mask {
            return None;
        }
        let left = self.matched.wrapping_sub(self.time(now));
        // The alarm of this second has been, or is next in 136 years; either way nobody waits for it.
        if left == 0 { None } else { Some(left) }
    }

    /// Reads the register at `offset`. What is not a register reads as zero.
    pub fn read(&mut self, offset: u64, size: AccessSize, now: u64) -> u64 {
        self.tick(now);
        let value = match offset & !3 {
            DR => self.time(now),
            MR => self.matched,
            LR => self.load,
            CR => 1,
            IMSC => u32::from(self.mask),
            RIS => u32::from(self.raised),
            MIS => u32::from(self.interrupt()),
            register => primecell_id(0x031, 0, register).unwrap_or(0),
        };
        part_of_word(value, offset, size)
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, _size: AccessSize, value: u64, now: u64) {
        self.tick(now);
        let value = value as u32;
        match offset {
            MR => {
                self.matched = value;
                // A match with the present second is a match.
                self.raised |= value == self.time(now);
            }
            LR => {
                self.load = value;
                self.offset = value.wrapping_sub(now as u32);
                self.seen = value;
                self.raised |= value == self.matched;
            }
            IMSC => self.mask = value & 1 != 0,
            ICR if value & 1 != 0 => self.raised = false,
            // CR starts the clock, which runs.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AccessSize::{Byte, Double, Half, Word};
    use super::*;
    use crate::exit::tests::{Random, rounds};

    /// 2026-11-24, in the morning.
    const NOW: u64 = 1_795_500_000;

    fn read(rtc: &mut Pl031, offset: u64, now: u64) -> u32 {
        rtc.read(offset, Word, now) as u32
    }

    fn write(rtc: &mut Pl031, offset: u64, value: u64, now: u64) {
        rtc.write(offset, Word, value, now);
    }

    #[test]
    fn linux_recognises_it_and_reads_the_time() {
        let mut rtc = Pl031::new(NOW);
        let id: Vec<u32> = (0..8).map(|n| read(&mut rtc, 0xfe0 + 4 * n, NOW)).collect();
        assert_eq!(id, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
        assert_eq!(read(&mut rtc, DR, NOW), NOW as u32);
        assert_eq!(read(&mut rtc, DR, NOW + 3600), NOW as u32 + 3600);
        assert_eq!(read(&mut rtc, CR, NOW), 1);
    }

    #[test]
    fn a_clock_that_is_set_goes_on_from_there() {
        let mut rtc = Pl031::new(NOW);
        write(&mut rtc, LR, 1000, NOW);
        assert_eq!(read(&mut rtc, LR, NOW), 1000);
        assert_eq!(read(&mut rtc, DR, NOW + 5), 1005);
        let mut clone = rtc.clone();
        assert_eq!(read(&mut clone, DR, NOW + 5), 1005);
    }

    #[test]
    fn the_alarm_rings_once() {
        let mut rtc = Pl031::new(NOW);
        write(&mut rtc, MR, NOW + 10, NOW);
        assert_eq!(rtc.alarm_in(NOW), None, "masked");
        write(&mut rtc, IMSC, 1, NOW);
        assert_eq!((rtc.alarm_in(NOW + 3), rtc.interrupt()), (Some(7), false));
        rtc.tick(NOW + 9);
        assert!(!rtc.interrupt());
        rtc.tick(NOW + 12);
        assert!(rtc.interrupt(), "late is not too late");
        assert_eq!((read(&mut rtc, RIS, NOW + 12), read(&mut rtc, MIS, NOW + 12)), (1, 1));
        assert_eq!(rtc.alarm_in(NOW + 12), None);
        write(&mut rtc, ICR, 1, NOW + 12);
        rtc.tick(NOW + 100);
        assert!(!rtc.interrupt());
    }

    #[test]
    fn an_alarm_for_now_rings_now_and_one_in_the_past_does_not() {
        let mut rtc = Pl031::new(NOW);
        write(&mut rtc, IMSC, 1, NOW);
        write(&mut rtc, MR, NOW - 1, NOW);
        rtc.tick(NOW + 1);
        assert!(!rtc.interrupt());
        write(&mut rtc, MR, NOW + 1, NOW + 1);
        assert!(rtc.interrupt());
        // A machine whose clock is set back rings nothing.
        write(&mut rtc, ICR, 1, NOW + 1);
        rtc.tick(NOW - 1000);
        assert!(!rtc.interrupt());
    }

    #[test]
    fn random_accesses() {
        let mut random = Random(19);
        let mut rtc = Pl031::new(0);
        for _ in 0..rounds(200_000) {
            let size = [Byte, Half, Word, Double][random.below(4) as usize];
            let (offset, now) =
                (if random.below(2) == 0 { random.below(0x24) } else { random.spread() }, random.spread());
            if random.below(2) == 0 {
                rtc.read(offset, size, now);
            } else {
                rtc.write(offset, size, random.spread(), now);
            }
            rtc.alarm_in(now);
            assert!(rtc.mask || !rtc.interrupt());
        }
    }
}
