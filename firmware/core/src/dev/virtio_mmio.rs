//! The registers of a modern virtio device on virtio-mmio (Virtio 1.2, 4.2), for devices of any type. Before:
//! [`super::bus`]; after: [`super::virtq`], which a driver sets up here, and the device, which does what an [`Effect`] says.
//!
//! The transport is plain data. What the guest writes in a wrong order or with a wrong value is ignored, or asks for a reset
//! (DEVICE_NEEDS_RESET): it harms no device but this.

use super::bus::part_of_word;
use super::virtq::{MAX_SIZE, Virtq};
use crate::addr::Ipa;
use crate::vgic::AccessSize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESCRIPTORS: u64 = 0x080;
const QUEUE_DESCRIPTORS_HIGH: u64 = 0x084;
const QUEUE_AVAILABLE: u64 = 0x090;
const QUEUE_AVAILABLE_HIGH: u64 = 0x094;
const QUEUE_USED: u64 = 0x0a0;
const QUEUE_USED_HIGH: u64 = 0x0a4;
/// Shared memory: its length, and where it is.
const SHARED_MEMORY: core::ops::Range<u64> = 0x0b0..0x0c0;
const GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

/// The size of a device's registers and its configuration, in bytes.
pub const SIZE: u64 = 0x200;

/// VIRTIO_F_INDIRECT_DESC.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = 1 << 32;

/// Device status: what the driver has found, and what has become of the device.
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// The interrupt tells of used buffers.
const USED: u8 = 1;
/// The interrupt tells of a configuration that has changed.
const CONFIG_CHANGED: u8 = 2;

/// What is fixed of a device.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    /// Its type, by Virtio 1.2, 5.
    pub id: u32,
    /// The features that it offers.
    pub features: u64,
    /// The greatest size of each queue.
    pub queues: &'a [u16],
    /// Its configuration, for the driver to read.
    pub config: &'a [u8],
}

/// What a write asks the device to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// To look at a queue.
    Notify(usize),
    /// To begin: the driver is ready.
    Begin,
    /// To forget everything.
    Reset,
}

/// The registers of a device with so many queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport<const QUEUES: usize> {
    /// Its queues.
    pub queues: [Virtq; QUEUES],
    features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    generation: u32,
    status: u8,
    interrupt: u8,
}

/// What a hand-over has of a device's registers beside its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Registers {
    features: u64,
    /// Device features, driver features, queue.
    selects: [u32; 3],
    generation: u32,
    status: u8,
    interrupt: u8,
    reserved: [u8; 6],
}

impl<const QUEUES: usize> Default for Transport<QUEUES> {
    fn default() -> Self {
        Self {
            queues: core::array::from_fn(|_| Virtq::default()),
            features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            generation: 0,
            status: 0,
            interrupt: 0,
        }
    }
}

impl<const QUEUES: usize> Transport<QUEUES> {
    /// Returns what a hand-over has of it beside its queues.
    pub fn registers(&self) -> Registers {
        Registers {
            features: self.features,
            selects: [self.device_features_select, self.driver_features_select, self.queue_select],
            generation: self.generation,
            status: self.status,
            interrupt: self.interrupt,
            reserved: [0; 6],
        }
    }

    /// Returns one with these queues and registers, which are [valid](Self::is_valid) or not.
    pub fn restored(queues: [Virtq; QUEUES], registers: &Registers) -> Self {
        let [device_features_select, driver_features_select, queue_select] = registers.selects;
        Self {
            queues,
            features: registers.features,
            device_features_select,
            driver_features_select,
            queue_select,
            generation: registers.generation,
            status: registers.status,
            interrupt: registers.interrupt,
        }
    }

    /// Returns the level of the interrupt line.
    #[inline]
    pub const fn interrupt(&self) -> bool {
        self.interrupt != 0
    }

    /// Returns the features that both sides have.
    pub const fn features(&self) -> u64 {
        self.features
    }

    /// Returns true if the device may work: the driver is ready, and nobody broke anything.
    #[inline]
    pub const fn is_live(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// Returns true if the device waits for its driver to reset it.
    pub const fn needs_reset(&self) -> bool {
        self.status & status::NEEDS_RESET != 0
    }

    /// Stops the device: its driver broke the rules, and learns of it.
    pub const fn give_up(&mut self) {
        if self.status & status::DRIVER_OK != 0 {
            self.interrupt |= CONFIG_CHANGED;
        }
        self.status |= status::NEEDS_RESET;
    }

    /// Tells the driver of used buffers.
    pub const fn tell_used(&mut self) {
        self.interrupt |= USED;
    }

    /// Tells the driver that the configuration has changed.
    pub const fn tell_config(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.is_live() {
            self.interrupt |= CONFIG_CHANGED;
        }
    }

    /// Returns true if no record could make it invalid.
    pub fn is_valid(&self, kind: &Kind<'_>) -> bool {
        // Before they are agreed upon a driver may have written any.
        let is_agreed = self.status & status::FEATURES_OK != 0;
        (!is_agreed || self.features & !kind.features == 0)
            && self.interrupt & !(USED | CONFIG_CHANGED) == 0
            && self.queues.iter().zip(kind.queues).all(|(queue, &most)| queue.is_valid() && queue.size <= most)
    }

    fn queue(&self) -> Option<&Virtq> {
        self.queues.get(self.queue_select as usize)
    }

    /// Returns what a load of `size` at `offset` gives. What is not a register reads as zero.
    pub fn read(&self, kind: &Kind<'_>, offset: u64, size: AccessSize) -> u64 {
        if offset >= CONFIG {
            let at = (offset - CONFIG) as usize;
            let bytes = kind.config.iter().skip(at).take(size.bytes() as usize);
            return bytes.rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        }
        let half = |select: u32, word: u64| match select {
            0 => word as u32,
            1 => (word >> 32) as u32,
            _ => 0,
        };
        let value = match offset & !3 {
            MAGIC => u32::from_le_bytes(*b"virt"),
            VERSION => 2,
            DEVICE_ID => kind.id,
            VENDOR_ID => u32::from_le_bytes(*b"SALP"),
            DEVICE_FEATURES => half(self.device_features_select, kind.features),
            QUEUE_MAX => kind.queues.get(self.queue_select as usize).copied().unwrap_or(0).into(),
            QUEUE_READY => self.queue().is_some_and(|queue| queue.is_ready).into(),
            INTERRUPT_STATUS => self.interrupt.into(),
            STATUS => self.status.into(),
            // There is none: its length is -1.
            register if SHARED_MEMORY.contains(&register) => u32::MAX,
            GENERATION => self.generation,
            _ => 0,
        };
        part_of_word(value, offset, size)
    }

    /// Writes the register at `offset`. Registers are words: other sizes are ignored.
    pub fn write(&mut self, kind: &Kind<'_>, offset: u64, size: AccessSize, value: u64) -> Effect {
        if size != AccessSize::Word {
            return Effect::None;
        }
        let value = value as u32;
        match offset {
            DEVICE_FEATURES_SELECT => self.device_features_select = value,
            DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            DRIVER_FEATURES if self.status & status::FEATURES_OK == 0 => match self.driver_features_select {
                0 => self.features = self.features >> 32 << 32 | u64::from(value),
                1 => self.features = self.features & u64::from(u32::MAX) | u64::from(value) << 32,
                _ => {}
            },
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_NOTIFY if self.is_live() => {
                if let Some(queue) = self.queues.get(value as usize)
                    && queue.is_ready
                {
                    return Effect::Notify(value as usize);
                }
            }
            INTERRUPT_ACK => self.interrupt &= !(value as u8),
            STATUS => return self.set_status(kind, value as u8),
            _ => self.set_up_queue(kind, offset, value),
        }
        Effect::None
    }

    fn set_status(&mut self, kind: &Kind<'_>, value: u8) -> Effect {
        if value == 0 {
            let generation = self.generation;
            *self = Self { generation, ..Self::default() };
            return Effect::Reset;
        }
        let mut new = value & !status::NEEDS_RESET & !self.status;
        if new & status::FEATURES_OK != 0 && (self.features & !kind.features != 0 || self.features & VERSION_1 == 0) {
            new &= !status::FEATURES_OK;
        }
        if new & status::FEATURES_OK != 0 {
            for queue in &mut self.queues {
                queue.has_events = self.features & EVENT_IDX != 0;
                queue.has_indirect = self.features & INDIRECT_DESC != 0;
            }
        }
        // Without agreement on features there is no beginning.
        if (self.status | new) & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        self.status |= new;
        if new & status::DRIVER_OK != 0 { Effect::Begin } else { Effect::None }
    }

    fn set_up_queue(&mut self, kind: &Kind<'_>, offset: u64, value: u32) {
        let at = self.queue_select as usize;
        let (Some(queue), Some(&most)) = (self.queues.get_mut(at), kind.queues.get(at)) else { return };
        let low = |address: Ipa| Ipa(address.0 >> 32 << 32 | u64::from(value));
        let high = |address: Ipa| Ipa(address.0 & u64::from(u32::MAX) | u64::from(value) << 32);
        match offset {
            QUEUE_READY if value & 1 == 0 => {
                // Taken away: what the driver set up stays, the positions do not.
                queue.stop();
            }
            // What is in use stays as it is.
            _ if queue.is_ready => {}
            QUEUE_READY if queue.is_well_placed() && self.status & status::FEATURES_OK != 0 => queue.is_ready = true,
            QUEUE_READY => self.give_up(),
            QUEUE_SIZE => queue.size = if value <= u32::from(most.min(MAX_SIZE)) { value as u16 } else { 0 },
            QUEUE_DESCRIPTORS => queue.descriptors = low(queue.descriptors),
            QUEUE_DESCRIPTORS_HIGH => queue.descriptors = high(queue.descriptors),
            QUEUE_AVAILABLE => queue.available = low(queue.available),
            QUEUE_AVAILABLE_HIGH => queue.available = high(queue.available),
            QUEUE_USED => queue.used = low(queue.used),
            QUEUE_USED_HIGH => queue.used = high(queue.used),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AccessSize::{Byte, Double, Half, Word};
    use super::*;
    use crate::exit::tests::{Random, rounds};

    const KIND: Kind<'static> =
        Kind { id: 1, features: VERSION_1 | EVENT_IDX | 1, queues: &[256, 64], config: &[1, 2, 3, 4, 5, 6, 7, 8] };

    struct Driver(Transport<2>);

    impl Driver {
        fn read(&self, offset: u64) -> u32 {
            self.0.read(&KIND, offset, Word) as u32
        }

        fn write(&mut self, offset: u64, value: u32) -> Effect {
            self.0.write(&KIND, offset, Word, value.into())
        }

        /// Does what a driver does up to its queues.
        fn agree(features: u64) -> Self {
            let mut driver = Self(Transport::default());
            driver.write(STATUS, 1);
            driver.write(STATUS, 3);
            for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
                driver.write(DRIVER_FEATURES_SELECT, select);
                driver.write(DRIVER_FEATURES, half);
            }
            driver.write(STATUS, 11);
            driver
        }

        fn set_up(&mut self, queue: u32, size: u32, at: u32) {
            self.write(QUEUE_SELECT, queue);
            self.write(QUEUE_SIZE, size);
            self.write(QUEUE_DESCRIPTORS, at);
            self.write(QUEUE_AVAILABLE, at + 0x1000);
            self.write(QUEUE_USED, at + 0x2000);
            self.write(QUEUE_USED_HIGH, 1);
            self.write(QUEUE_READY, 1);
        }
    }

    #[test]
    fn a_driver_finds_the_device_and_starts_it() {
        let mut driver = Driver::agree(VERSION_1 | EVENT_IDX);
        assert_eq!([MAGIC, VERSION, DEVICE_ID].map(|at| driver.read(at)), [0x7472_6976, 2, 1]);
        driver.write(DEVICE_FEATURES_SELECT, 1);
        assert_eq!(driver.read(DEVICE_FEATURES), 1);
        assert_eq!(driver.read(STATUS), 11, "features are agreed upon");
        driver.set_up(1, 64, 0x4000_0000);
        assert_eq!((driver.read(QUEUE_MAX), driver.read(QUEUE_READY)), (64, 1));
        assert_eq!(driver.0.queues[1].used, Ipa(0x1_4000_2000));
        assert_eq!(driver.write(QUEUE_NOTIFY, 1), Effect::None, "not before DRIVER_OK");
        assert_eq!(driver.write(STATUS, 15), Effect::Begin);
        assert_eq!(driver.write(QUEUE_NOTIFY, 1), Effect::Notify(1));
        assert_eq!(driver.write(QUEUE_NOTIFY, 0), Effect::None, "it is not ready");
        assert_eq!(driver.write(QUEUE_NOTIFY, 7), Effect::None, "there is none");
        assert_eq!(driver.write(STATUS, 0), Effect::Reset);
        assert_eq!(driver.0, Transport::default());
    }

    #[test]
    fn features_that_are_not_offered_are_not_agreed_upon() {
        for features in [VERSION_1 | 2, EVENT_IDX, 0] {
            let mut driver = Driver::agree(features);
            assert_eq!(driver.read(STATUS) & 8, 0);
            assert!(driver.0.is_valid(&KIND));
            driver.write(STATUS, 15);
            assert!(!driver.0.is_live());
        }
        let mut driver = Driver::agree(VERSION_1);
        driver.write(DRIVER_FEATURES, 0);
        assert_eq!(driver.0.features(), VERSION_1, "what is agreed upon stays");
    }

    #[test]
    fn queues_that_cannot_be_ask_for_a_reset() {
        for (size, at) in [(0, 0x4000_0000), (3, 0x4000_0000), (65, 0x4000_0000), (64, 0x4000_0008)] {
            let mut driver = Driver::agree(VERSION_1);
            driver.write(STATUS, 15);
            driver.set_up(1, size, at);
            assert!(driver.0.needs_reset() && driver.0.interrupt(), "{size} at {at:#x}");
            assert_eq!(driver.write(QUEUE_NOTIFY, 1), Effect::None);
        }
    }

    #[test]
    fn a_queue_in_use_stays_where_it_is() {
        let mut driver = Driver::agree(VERSION_1);
        driver.set_up(0, 128, 0x4000_0000);
        let before = driver.0.clone();
        driver.set_up(0, 64, 0x5000_0000);
        assert_eq!(driver.0, before);
        driver.write(QUEUE_READY, 0);
        driver.set_up(0, 64, 0x5000_0000);
        assert_eq!((driver.0.queues[0].size, driver.0.queues[0].descriptors), (64, Ipa(0x5000_0000)));
    }

    #[test]
    fn interrupts_stay_until_they_are_acknowledged() {
        let mut driver = Driver::agree(VERSION_1);
        driver.0.tell_config();
        assert!(!driver.0.interrupt(), "nobody listens yet");
        driver.write(STATUS, 15);
        driver.0.tell_used();
        driver.0.tell_config();
        assert_eq!((driver.read(INTERRUPT_STATUS), driver.read(GENERATION)), (3, 2));
        driver.write(INTERRUPT_ACK, 1);
        assert_eq!((driver.read(INTERRUPT_STATUS), driver.0.interrupt()), (2, true));
        driver.write(INTERRUPT_ACK, 2);
        assert!(!driver.0.interrupt());
    }

    #[test]
    fn the_configuration_is_read_in_any_size() {
        let transport = Transport::<2>::default();
        assert_eq!(transport.read(&KIND, CONFIG, Byte), 1);
        assert_eq!(transport.read(&KIND, CONFIG + 2, Half), 0x0403);
        assert_eq!(transport.read(&KIND, CONFIG + 4, Word), 0x0807_0605);
        assert_eq!(transport.read(&KIND, CONFIG, Double), 0x0807_0605_0403_0201);
        assert_eq!(transport.read(&KIND, CONFIG + 8, Word), 0);
    }

    #[test]
    fn random_accesses() {
        let mut random = Random(23);
        let mut transport = Transport::<2>::default();
        for _ in 0..rounds(200_000) {
            let size = [Byte, Half, Word, Double][random.below(4) as usize];
            let offset = random.below(SIZE / size.bytes()) * size.bytes();
            if random.below(2) == 0 {
                let value = transport.read(&KIND, offset, size);
                assert!(size == Double || value >> (8 * size.bytes()) == 0);
            } else {
                let value = if random.below(2) == 0 { random.below(16) } else { random.spread() };
                transport.write(&KIND, offset, size, value);
            }
            assert!(transport.queues.iter().all(Virtq::is_valid));
        }
    }
}
