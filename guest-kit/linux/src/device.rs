//! The guest device: its registers as functions. Comes after [`memory`](crate::memory); [`identity`](crate::identity) and
//! the commands use it. The layout is [`salp_hvc::device`].

use crate::config::Config;
use crate::identity::Identity;
use anyhow::{Result, ensure};
use salp_hvc::{calls, device as layout};

/// How many bytes of randomness a guest takes at once.
pub const SEED: usize = 64;

/// Loads and stores at offsets in the device's page, aligned to their size.
pub trait Registers {
    /// Loads 4 bytes.
    fn read32(&self, offset: u64) -> u32;
    /// Loads 8 bytes.
    fn read64(&self, offset: u64) -> u64;
    /// Stores 4 bytes.
    fn write32(&self, offset: u64, value: u32);
}

/// A guest device that this program understands.
#[derive(Debug)]
pub struct Device<R> {
    registers: R,
}

impl<R: Registers> Device<R> {
    /// Checks that these registers are a guest device's.
    ///
    /// # Errors
    ///
    /// What they are instead.
    pub fn new(registers: R) -> Result<Self> {
        let magic = registers.read32(layout::MAGIC);
        ensure!(magic == layout::MAGIC_VALUE, "the guest device does not say SALP, but {magic:#010x}");
        let version = registers.read32(layout::VERSION);
        ensure!(
            version == layout::VERSION_VALUE,
            "the guest device has version {version}, and this salp-guest knows version {} only: take the one that comes \
             with this release of Salp",
            layout::VERSION_VALUE
        );
        Ok(Self { registers })
    }

    /// Returns the registers.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    /// Returns how often this VM got a new identity.
    pub fn epoch(&self) -> u32 {
        self.registers.read32(layout::EPOCH)
    }

    /// Freezes this VM. Returns when it goes on, in the source and in every clone.
    pub fn freeze(&self) {
        self.registers.write32(layout::COMMAND, layout::COMMAND_FREEZE);
    }

    /// Tells that this VM has taken its identity on.
    pub fn acknowledge(&self) {
        self.registers.write32(layout::COMMAND, layout::COMMAND_ACKNOWLEDGE);
    }

    /// Writes a word of the agent's next report.
    pub fn stage(&self, index: usize, word: u32) {
        self.registers.write32(layout::REPORT + 4 * index as u64, word);
    }

    /// Tells what was written as the agent's report.
    pub fn report(&self) {
        self.registers.write32(layout::COMMAND, layout::COMMAND_REPORT);
    }

    /// Returns the wall-clock time, in nanoseconds since 1970.
    pub fn time(&self) -> u64 {
        self.registers.read64(layout::TIME)
    }

    /// Returns bytes that no other VM gets.
    pub fn random(&self) -> [u8; SEED] {
        let mut bytes = [0; SEED];
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&self.registers.read64(layout::RANDOM).to_le_bytes());
        }
        bytes
    }

    /// Returns who this VM is. A VM may get another identity at any instruction: what is read is of one and the same.
    pub fn identity(&self) -> Identity {
        loop {
            let identity = self.read_identity();
            if identity.epoch == self.epoch() {
                return identity;
            }
        }
    }

    fn read_identity(&self) -> Identity {
        let epoch = self.epoch();
        let name: [u8; calls::NAME] = self.bytes(layout::NAME);
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let [a, b, c, d] = self.registers.read32(layout::MAC).to_le_bytes();
        let [e, f, ..] = self.registers.read32(layout::MAC + 4).to_le_bytes();
        Identity {
            name: String::from_utf8_lossy(name).into_owned(),
            uuid: self.bytes(layout::UUID),
            generation: self.bytes(layout::GENERATION),
            mac: [a, b, c, d, e, f],
            index: self.registers.read32(layout::INDEX),
            epoch,
            acknowledged: self.registers.read32(layout::ACKNOWLEDGED) != 0,
            config: self.config(),
        }
    }

    fn config(&self) -> Config {
        let length = (self.registers.read32(layout::CONFIG_LENGTH) as usize).min(calls::MAX_CONFIG);
        let words = (0..length as u64).step_by(8).map(|at| self.registers.read64(layout::CONFIG + at).to_le_bytes());
        let mut bytes: Vec<u8> = words.flatten().collect();
        bytes.truncate(length);
        Config::read(&bytes)
    }

    /// Returns bytes that stand in the registers from `offset` on, which is aligned to 8, as is `N`.
    fn bytes<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        for (at, word) in (offset..).step_by(8).zip(bytes.chunks_exact_mut(8)) {
            word.copy_from_slice(&self.registers.read64(at).to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;

    #[test]
    fn an_identity_is_what_the_registers_say() {
        let device = Fake::clone_of("web", 3).device();
        let identity = device.identity();
        assert_eq!((&*identity.name, identity.index, identity.epoch, identity.acknowledged), ("web-3", 3, 1, false));
        assert_eq!(identity.uuid, std::array::from_fn(|at| 0x40 + at as u8));
        assert_eq!(identity.generation, std::array::from_fn(|at| 0x80 + at as u8));
        assert_eq!(identity.mac, [0x52, 0x54, 0, 0x12, 0x34, 3]);
        assert_eq!(identity.config.get("role"), Some("web"));
    }

    #[test]
    fn an_identity_that_changes_while_it_is_read_is_read_again() {
        let fake = Fake::clone_of("web", 1);
        // The second load of EPOCH is the one behind the first reading.
        fake.change_at_load_of_epoch(2, Fake::new("web-2", 2, 2, ""));
        assert_eq!(fake.device().identity().name, "web-2");
    }

    #[test]
    fn each_word_of_a_seed_is_another_load() {
        let seed = Fake::clone_of("web", 1).device().random();
        let words: std::collections::BTreeSet<&[u8]> = seed.chunks(8).collect();
        assert_eq!(words.len(), 8);
    }

    #[test]
    fn a_length_above_the_limit_reads_no_further_than_the_page() {
        let fake = Fake::clone_of("web", 1);
        fake.set32(layout::CONFIG_LENGTH, u32::MAX);
        assert_eq!(fake.device().identity().config.get("role"), Some("web"));
    }

    #[test]
    fn what_is_no_guest_device_is_refused() {
        let fake = Fake::clone_of("web", 1);
        fake.set32(layout::MAGIC, 0x1234);
        assert!(Device::new(fake).expect_err("refused").to_string().contains("0x00001234"));
        let fake = Fake::clone_of("web", 1);
        fake.set32(layout::VERSION, 2);
        assert!(Device::new(fake).expect_err("refused").to_string().contains("version 2"));
    }
}
