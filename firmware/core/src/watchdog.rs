//! The board's watchdog: it resets the machine unless it is told in time not to.
//!
//! Before: [`crate::pci`], which finds it. After: the first stage and EL2, which arm it over every step.
//!
//! [`Watchdog`] is what those know of it. The SBSA generic watchdog (Arm DEN 0029) has the same: WOR and WCS.EN, WRR, WCS; but no
//! note of its reset. The only driver is that of Intel's 6300ESB (document 300641-004, chapter 20), which QEMU has for every board
//! with PCI. It counts two stages, one after the other: the first could interrupt, and does not; the second resets.

use crate::pci::{Space, Width};
use tock_registers::register_bitfields;

/// A watchdog.
pub trait Watchdog {
    /// Resets the machine in so many milliseconds from now, and from each [`pet`](Self::pet) on.
    fn arm(&mut self, milliseconds: u32);

    /// Begins to count anew.
    fn pet(&mut self);

    /// Ends that.
    fn disarm(&mut self);

    /// Returns true, once, if it has reset the machine.
    fn take_expired(&mut self) -> bool;
}

/// How long a machine may give no sign of life, in milliseconds: the first stage until an image runs, the image until all its CPUs
/// run, and each of those from then on. Generous: hosts of emulated machines are busy.
pub const PATIENCE_MS: u32 = 30_000;

/// Device and vendor of the 6300ESB's watchdog.
pub const I6300ESB: u32 = 0x25ab_8086;

/// The size of its registers, in bytes.
pub const REGISTERS: u64 = 0x10;

register_bitfields! {u32,
    /// In configuration space: what expiry does.
    CONFIG [
        INTERRUPT OFFSET(0) NUMBITS(2) [NONE = 3],
        /// 0: by the bus's clock divided by 2^15, about 1 kHz.
        FAST OFFSET(2) NUMBITS(1) [],
        NO_REBOOT OFFSET(5) NUMBITS(1) []
    ],
    /// In configuration space: whether it counts.
    LOCK [ENABLE OFFSET(1) NUMBITS(1) []],
    /// How long a stage is.
    TIMER [PRELOAD OFFSET(0) NUMBITS(20) []],
    RELOAD [RELOAD OFFSET(8) NUMBITS(1) [], TIMEOUT OFFSET(9) NUMBITS(1) []]
}

const CONFIG: u64 = 0x60;
const LOCK: u64 = 0x68;
const TIMERS: [u64; 2] = [0x00, 0x04];
const RELOAD: u64 = 0x0c;
/// What is written to [`RELOAD`] before each write to another register, or to that.
const UNLOCK: [u32; 2] = [0x80, 0x86];

/// The watchdog of the 6300ESB, by its configuration space and its registers.
pub struct I6300Esb<S> {
    config: S,
    registers: S,
}

impl<S: Space> I6300Esb<S> {
    /// Takes it. Whether it counts stays as it is.
    pub const fn new(config: S, registers: S) -> Self {
        Self { config, registers }
    }

    fn write(&mut self, at: u64, width: Width, value: u32) {
        for word in UNLOCK {
            self.registers.write(RELOAD, Width::Half, word);
        }
        self.registers.write(at, width, value);
    }
}

impl<S: Space> Watchdog for I6300Esb<S> {
    fn arm(&mut self, milliseconds: u32) {
        // A tick is 0.993 ms.
        let stage = (milliseconds / 2).clamp(1, TIMER::PRELOAD::SET.value);
        self.config.write(CONFIG, Width::Half, CONFIG::INTERRUPT::NONE.value);
        for timer in TIMERS {
            self.write(timer, Width::Word, stage);
        }
        self.pet();
        self.config.write(LOCK, Width::Byte, LOCK::ENABLE::SET.value);
    }

    fn pet(&mut self) {
        self.write(RELOAD, Width::Half, RELOAD::RELOAD::SET.value);
    }

    fn disarm(&mut self) {
        self.config.write(LOCK, Width::Byte, 0);
    }

    fn take_expired(&mut self) -> bool {
        let has_expired = self.registers.read(RELOAD, Width::Half) & RELOAD::TIMEOUT::SET.value != 0;
        if has_expired {
            self.write(RELOAD, Width::Half, RELOAD::TIMEOUT::SET.value);
        }
        has_expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// The device, by its document: in ticks.
    #[derive(Default)]
    struct Chip {
        config: u32,
        preload: [u64; 2],
        unlocked: usize,
        is_enabled: bool,
        stage: usize,
        left: u64,
        has_expired: bool,
        resets: u32,
    }

    impl Chip {
        fn restart(&mut self) {
            (self.stage, self.left) = (0, self.preload[0]);
        }

        fn write(&mut self, at: u64, width: Width, value: u32) {
            if at == RELOAD && UNLOCK.get(self.unlocked) == Some(&value) {
                self.unlocked += 1;
                return;
            }
            assert_eq!(core::mem::take(&mut self.unlocked), 2, "{at:#x} is locked");
            match (at, width) {
                (0x00 | 0x04, Width::Word) => self.preload[at as usize / 4] = u64::from(value) & 0xf_ffff,
                (0x0c, Width::Half) => {
                    if value & 1 << 8 != 0 {
                        self.restart();
                    }
                    self.has_expired &= value & 1 << 9 == 0;
                }
                _ => panic!("there is no register at {at:#x} of {width:?}"),
            }
        }

        fn write_config(&mut self, at: u64, width: Width, value: u32) {
            match (at, width) {
                (0x60, Width::Half) => self.config = value,
                (0x68, Width::Byte) => {
                    let was_enabled = core::mem::replace(&mut self.is_enabled, value & 2 != 0);
                    if self.is_enabled && !was_enabled {
                        self.restart();
                    }
                }
                _ => panic!("there is no register at {at:#x} of {width:?}"),
            }
        }

        /// Lets time go by.
        fn tick(&mut self) {
            if !self.is_enabled {
                return;
            }
            self.left -= 1;
            if self.left > 0 {
                return;
            }
            assert_eq!(self.config, 3, "the first stage interrupts, or the second does not reset");
            if self.stage == 0 {
                (self.stage, self.left) = (1, self.preload[1]);
            } else {
                (self.is_enabled, self.has_expired) = (false, true);
                self.resets += 1;
            }
        }
    }

    /// One of the two places of its registers.
    struct Part {
        chip: Rc<RefCell<Chip>>,
        is_config: bool,
    }

    impl Space for Part {
        fn read(&self, at: u64, width: Width) -> u32 {
            assert_eq!((self.is_config, at, width), (false, 0x0c, Width::Half));
            u32::from(self.chip.borrow().has_expired) << 9
        }

        fn write(&mut self, at: u64, width: Width, value: u32) {
            let mut chip = self.chip.borrow_mut();
            if self.is_config { chip.write_config(at, width, value) } else { chip.write(at, width, value) }
        }
    }

    fn watchdog() -> (Rc<RefCell<Chip>>, I6300Esb<Part>) {
        let chip = Rc::default();
        let part = |is_config| Part { chip: Rc::clone(&chip), is_config };
        let watchdog = I6300Esb::new(part(true), part(false));
        (chip, watchdog)
    }

    fn wait(chip: &RefCell<Chip>, ticks: u32) {
        (0..ticks).for_each(|_| chip.borrow_mut().tick());
    }

    #[test]
    fn a_machine_that_does_not_pet_it_is_reset_when_the_time_is_up() {
        let (chip, mut watchdog) = watchdog();
        watchdog.arm(30_000);
        wait(&chip, 29_999);
        assert_eq!(chip.borrow().resets, 0);
        wait(&chip, 1);
        assert_eq!(chip.borrow().resets, 1);
    }

    #[test]
    fn a_time_that_is_too_long_is_the_longest_one() {
        let (chip, mut watchdog) = watchdog();
        watchdog.arm(u32::MAX);
        assert_eq!(chip.borrow().preload, [0xf_ffff; 2]);
    }

    #[test]
    fn a_reset_is_told_once() {
        let (chip, mut watchdog) = watchdog();
        assert!(!watchdog.take_expired());
        watchdog.arm(2);
        wait(&chip, 2);
        assert!(watchdog.take_expired());
        assert!(!watchdog.take_expired());
    }

    proptest! {
        #[test]
        fn it_resets_the_machine_if_and_only_if_nobody_pets_it_in_time(
            steps in proptest::collection::vec((0..4u8, 1..300u32), 1..60),
        ) {
            let (chip, mut watchdog) = watchdog();
            let (mut limit, mut left, mut resets) = (0, None::<u32>, 0);
            for (what, time) in steps {
                match what {
                    0 => {
                        watchdog.arm(time * 2);
                        (limit, left) = (time * 2, Some(time * 2));
                    }
                    1 => {
                        watchdog.pet();
                        left = left.map(|_| limit);
                    }
                    2 => {
                        watchdog.disarm();
                        left = None;
                    }
                    _ => {
                        wait(&chip, time);
                        let before = left;
                        left = before.and_then(|left| left.checked_sub(time)).filter(|&left| left > 0);
                        resets += u32::from(before.is_some() && left.is_none());
                    }
                }
                prop_assert_eq!(chip.borrow().resets, resets);
            }
        }
    }
}
