//! Who a VM is: what every clone has of its own before its first instruction. Before: [`crate::entropy`], where it comes
//! from; after: [`crate::dev::guest`] and [`crate::calls::guest`], which tell the guest.

use crate::entropy::Drbg;
use salp_hvc::calls::{MAX_CONFIG, NAME};
use salp_hvc::handover;

/// A VM's name: 1 to 31 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME],
    length: u8,
}

impl Name {
    /// Returns the name, if it is one.
    pub fn new(text: &[u8]) -> Option<Self> {
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if text.is_empty() || text.len() >= NAME || !text.iter().all(good) {
            return None;
        }
        let mut bytes = [0; NAME];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { bytes, length: text.len() as u8 })
    }

    /// Returns the name in a record: padded with zeros.
    pub fn from_padded(bytes: &[u8; NAME]) -> Option<Self> {
        let length = bytes.iter().position(|&byte| byte == 0)?;
        let (name, padding) = bytes.split_at(length);
        if padding.iter().all(|&byte| byte == 0) { Self::new(name) } else { None }
    }

    /// Returns this name with `-` and a number behind it; what does not fit is cut from its end.
    pub fn numbered(&self, number: u64) -> Self {
        let mut digits = [0; 21];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        at -= 1;
        digits[at] = b'-';
        let suffix = digits.get(at..).unwrap_or_default();
        let kept = usize::from(self.length).min(NAME - 1 - suffix.len());
        let mut numbered = Self { bytes: [0; NAME], length: (kept + suffix.len()) as u8 };
        for (to, from) in numbered.bytes.iter_mut().zip(self.bytes.iter().take(kept).chain(suffix)) {
            *to = *from;
        }
        numbered
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..usize::from(self.length)).unwrap_or_default()).unwrap_or_default()
    }

    /// Returns the 8 bytes from `at`, zeros behind the end, the first in bits 7:0.
    pub fn word(&self, at: usize) -> u64 {
        word(&self.bytes, at)
    }

    /// Returns the name padded with zeros.
    pub const fn padded(&self) -> &[u8; NAME] {
        &self.bytes
    }
}

/// What the operator tells a clone: `key=value` lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    bytes: [u8; MAX_CONFIG],
    length: u16,
}

impl Config {
    /// No configuration.
    pub const EMPTY: Self = Self { bytes: [0; MAX_CONFIG], length: 0 };

    /// Returns the configuration in `text`, if every line of it is `key=value` and ends with a line feed, keys are 1 to 64
    /// bytes of `[A-Za-z0-9._-]`, values are UTF-8 without control characters other than tab, and it is not too long.
    pub fn new(text: &[u8]) -> Option<Self> {
        let good = |line: &str| {
            let Some((key, value)) = line.split_once('=') else { return false };
            (1..=64).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && !value.contains(|c: char| c.is_control() && c != '\t')
        };
        let lines = core::str::from_utf8(text).ok()?;
        let is_whole = lines.is_empty() || lines.ends_with('\n');
        if !is_whole || !lines.split_terminator('\n').all(good) {
            return None;
        }
        let mut config = Self::EMPTY;
        config.bytes.get_mut(..text.len())?.copy_from_slice(text);
        config.length = text.len() as u16;
        Some(config)
    }

    /// Takes over the lines of another.
    pub fn copy_from(&mut self, other: &Self) {
        // Most are short: what lies behind the end is zero in both.
        let length = usize::from(self.length.max(other.length));
        for (to, from) in self.bytes.iter_mut().zip(&other.bytes).take(length) {
            *to = *from;
        }
        self.length = other.length;
    }

    /// Returns the lines.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Returns the 8 bytes from `at`, zeros behind the end, the first in bits 7:0.
    pub fn word(&self, at: usize) -> u64 {
        word(&self.bytes, at)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.iter().skip(at).take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The random part of an identity: drawn ahead, so that a fork need not wait for it.
pub type Seed = [u8; 32];

const SEEDS: usize = 7;

/// Seeds drawn ahead: a draw of the generator costs as much as half a fork.
#[derive(Default)]
pub struct Seeds {
    seeds: [Seed; SEEDS],
    left: usize,
}

impl Seeds {
    /// Returns a seed that nobody gets again.
    pub fn take(&mut self, entropy: &mut Drbg) -> Seed {
        if self.left == 0 {
            self.refill(entropy);
        }
        self.left = self.left.saturating_sub(1);
        core::mem::take(&mut self.seeds[self.left % SEEDS])
    }

    /// Returns true if it is time to refill.
    pub const fn is_short(&self) -> bool {
        self.left < SEEDS
    }

    /// Draws all anew.
    pub fn refill(&mut self, entropy: &mut Drbg) {
        entropy.draw(self.seeds.as_flattened_mut());
        self.left = SEEDS;
    }
}

/// Who a VM is. No two VMs, and no two states that one VM was brought back from, have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: Name,
    /// The UUID (RFC 9562, version 4).
    pub uuid: [u8; 16],
    /// The VM generation id: another whenever the VM's past is not its own alone.
    pub generation: [u8; 16],
    /// Its index among the clones of one call, from 1; 0 if it is no clone.
    pub index: u32,
    /// How often it got a new generation id.
    pub epoch: u32,
    /// The guest has taken this identity on.
    pub acknowledged: bool,
    /// What the operator tells it.
    pub config: Config,
}

impl Identity {
    /// Returns the identity of a VM that starts from the beginning.
    #[inline(always)]
    pub fn new(name: Name, seed: &Seed) -> Self {
        let mut identity = Self {
            name,
            uuid: [0; 16],
            generation: [0; 16],
            index: 0,
            epoch: 0,
            acknowledged: true,
            config: Config::EMPTY,
        };
        identity.seed(seed);
        identity
    }

    /// Returns what a hand-over has of it.
    #[inline(always)]
    pub fn record(&self) -> handover::Identity {
        handover::Identity {
            name: *self.name.padded(),
            uuid: self.uuid,
            generation: self.generation,
            index: self.index,
            epoch: self.epoch,
            acknowledged: self.acknowledged.into(),
            config_length: self.config.length.into(),
            config: self.config.bytes,
        }
    }

    /// Returns the identity in a record. `None` if it is none.
    #[inline(always)]
    pub fn restored(record: &handover::Identity) -> Option<Self> {
        let (config, rest) = record.config.split_at_checked(record.config_length as usize)?;
        let is_sound = record.acknowledged <= 1 && rest.iter().all(|&byte| byte == 0);
        is_sound.then_some(Self {
            name: Name::from_padded(&record.name)?,
            uuid: record.uuid,
            generation: record.generation,
            index: record.index,
            epoch: record.epoch,
            acknowledged: record.acknowledged == 1,
            config: Config::new(config)?,
        })
    }

    /// Returns the identity of a clone.
    #[inline(always)]
    pub fn of_clone(name: Name, seed: &Seed, index: u32, epoch: u32, config: &Config) -> Self {
        let mut identity = Self::new(name, seed);
        identity.index = index;
        identity.epoch = epoch.wrapping_add(1);
        identity.acknowledged = false;
        identity.config.copy_from(config);
        identity
    }

    fn seed(&mut self, seed: &Seed) {
        let [uuid, generation] = seed.as_chunks::<16>().0 else { return };
        self.uuid = *uuid;
        self.uuid[6] = self.uuid[6] & 0x0f | 0x40;
        self.uuid[8] = self.uuid[8] & 0x3f | 0x80;
        self.generation = *generation;
    }

    /// Gives the VM a new generation id: it was brought back to an earlier state.
    pub fn renew(&mut self, seed: &Seed) {
        let uuid = self.uuid;
        self.seed(seed);
        self.uuid = uuid;
        self.epoch = self.epoch.wrapping_add(1);
        self.acknowledged = false;
    }

    /// Returns the first MAC address: locally administered, of the UUID's random bits.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.uuid;
        [a & 0xfc | 0x02, b, c, d, e, f]
    }

    /// Returns the first MAC address as a word, its first byte in bits 7:0.
    pub fn mac_word(&self) -> u64 {
        let [a, b, c, d, e, f] = self.mac();
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Returns the MAC address of NIC `index`; the first one's is [`Self::mac`].
    pub fn mac_of(&self, index: usize) -> [u8; 6] {
        let mut mac = self.mac();
        // Bits of the first byte that say nothing of the address: the VM's are different from each other.
        mac[0] ^= (index as u8 & 3) << 2;
        mac
    }
}

/// Returns 8 of 16 bytes as a word, the first byte in bits 7:0.
pub fn half(bytes: &[u8; 16], high: bool) -> u64 {
    let [low_half, high_half] = bytes.as_chunks::<8>().0 else { return 0 };
    u64::from_le_bytes(if high { *high_half } else { *low_half })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn clones_are_numbered_and_long_names_give_way() {
        assert_eq!(name("web").numbered(12).as_str(), "web-12");
        let long = "a".repeat(31);
        assert_eq!(name(&long).numbered(1000).as_str(), format!("{}-1000", "a".repeat(26)));
        assert_eq!(name("x").numbered(u64::MAX).as_str(), format!("x-{}", u64::MAX));
    }

    #[test]
    fn a_name_has_1_to_31_harmless_characters() {
        assert!(Name::new(b"").is_none() && Name::new(&[b'a'; 32]).is_none() && Name::new(b"a b").is_none());
        let mut padded = [0; NAME];
        assert_eq!(Name::from_padded(&padded), None);
        padded[..3].copy_from_slice(b"web");
        assert_eq!(Name::from_padded(&padded), Some(name("web")));
        padded[5] = b'x';
        assert_eq!(Name::from_padded(&padded), None);
        assert_eq!(Name::from_padded(&[b'a'; NAME]), None);
    }

    #[test]
    fn configuration_is_lines_of_key_and_value() {
        for good in ["", "a=b\n", "a=\nb.c-d=x y = z\t\n", "name=Zoë\n"] {
            assert_eq!(Config::new(good.as_bytes()).unwrap().as_bytes(), good.as_bytes());
        }
        let long = format!("k={}\n", "v".repeat(MAX_CONFIG));
        for bad in ["a=b", "a\n", "=b\n", "a=b\n\n", "a b=c\n", "a=\x1b[2J\n", &*long] {
            assert_eq!(Config::new(bad.as_bytes()), None, "{bad:?}");
        }
        let config = Config::new(b"ab=cdefghij\n").unwrap();
        assert_eq!(config.word(8).to_le_bytes(), *b"hij\n\0\0\0\0");
        assert_eq!(config.word(MAX_CONFIG - 1), 0);
    }

    #[test]
    fn a_clone_has_nothing_of_its_source_but_what_it_is_given() {
        let source = Identity::new(name("a"), &[1; 32]);
        let config = Config::new(b"role=worker\n").unwrap();
        let clone = Identity::of_clone(name("b"), &[2; 32], 7, source.epoch, &config);
        assert_ne!((source.uuid, source.generation, source.mac()), (clone.uuid, clone.generation, clone.mac()));
        assert_eq!((clone.index, clone.epoch, clone.acknowledged), (7, 1, false));
        assert_eq!(clone.config, config);
        assert_eq!(clone.mac()[0] & 3, 2, "unicast, locally administered");
        let macs: std::collections::BTreeSet<_> = (0..4).map(|nic| clone.mac_of(nic)).collect();
        assert!(macs.len() == 4 && macs.iter().all(|mac| mac[0] & 3 == 2) && clone.mac_of(0) == clone.mac());
        assert_eq!((clone.uuid[6] >> 4, clone.uuid[8] >> 6), (4, 2), "a random UUID");
        let mut back = clone.clone();
        back.renew(&[3; 32]);
        assert_eq!((back.uuid, back.epoch), (clone.uuid, 2));
        assert_ne!(back.generation, clone.generation);
    }

    #[test]
    fn no_seed_is_given_twice() {
        let mut entropy = Drbg::new(b"test");
        let mut seeds = Seeds::default();
        let mut given = std::collections::BTreeSet::new();
        for n in 0..50 {
            assert!(given.insert(seeds.take(&mut entropy)));
            if n % 5 == 0 {
                seeds.refill(&mut entropy);
            }
        }
        assert!(!given.contains(&[0; 32]));
    }

    proptest! {
        #[test]
        fn a_configuration_that_replaces_another_leaves_nothing_of_it(a in "([a-z]{1,9}=[a-z]{0,30}\n){0,9}", b in "([a-z]{1,9}=[a-z]{0,30}\n){0,9}") {
            let (mut one, two) = (Config::new(a.as_bytes()).unwrap(), Config::new(b.as_bytes()).unwrap());
            one.copy_from(&two);
            prop_assert_eq!(one, two);
        }

        #[test]
        fn any_bytes_are_a_name_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40), number: u64) {
            if let Some(name) = Name::new(&bytes) {
                prop_assert_eq!(name.as_str().as_bytes(), &bytes[..]);
                prop_assert!(Name::new(name.numbered(number).as_str().as_bytes()).is_some());
            }
            let _ = Config::new(&bytes);
        }
    }
}
