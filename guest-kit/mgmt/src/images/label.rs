//! What the manager says of an image, in the image's label at EL2. Before: [`upload`](super::upload). After: EL2, which
//! keeps it and does not read it.

use salp_hvc::manager::LABEL;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hypervisor;

/// The size of a name with its padding, in bytes; the last one is zero.
pub const NAME: usize = 64;

/// The first bytes of a label; the last one is the version.
const MAGIC: [u8; 7] = *b"salpim\x01";

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing that is known.
    Raw = 0,
    /// A kernel.
    Kernel = 1,
    /// An initial RAM disk.
    Initrd = 2,
    /// What was made for a VM: its device tree, its kernel laid out. Nobody sees it, and it goes when no VM uses it.
    Hidden = 3,
    /// A medium that was fetched for a drive. It goes when it is in none any more.
    Fetched = 4,
}

impl Kind {
    /// Kinds that people see, and their names.
    pub const NAMES: [(&str, Self); 3] = [("Raw", Self::Raw), ("Kernel", Self::Kernel), ("Initrd", Self::Initrd)];

    /// Returns the kind of this name.
    pub fn new(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, kind)| kind)
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetched => "Fetched",
            _ => Self::NAMES.iter().find(|&&(_, kind)| kind == self).map_or("Hidden", |(name, _)| name),
        }
    }

    /// Returns whether people see images of it.
    pub fn is_visible(self) -> bool {
        self != Self::Hidden
    }
}

/// A label.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Label {
    magic: [u8; 7],
    kind: u8,
    /// How many bytes have come.
    pub received: U64,
    /// Of a finished image its SHA-256; of others the hash's state behind the whole blocks that have come.
    pub digest: [u8; 32],
    /// When the last byte came, in seconds since 1970.
    pub time: U64,
    /// What a hidden image belongs to: the image that it was unpacked from, or the VM.
    pub owner: U64,
    name: [u8; NAME],
}

const _: () = assert!(size_of::<Label>() == LABEL);

impl Label {
    /// Returns the label of an image of which nothing has come.
    pub fn new(kind: Kind, name: &str, now: u64) -> Self {
        Self {
            magic: MAGIC,
            kind: kind as u8,
            received: 0.into(),
            digest: super::hash::START,
            time: now.into(),
            owner: 0.into(),
            name: hypervisor::padded(name),
        }
    }

    /// Reads a label; none for one that this program did not write.
    pub fn read(bytes: &hypervisor::Label) -> Option<Self> {
        let label = Self::read_from_bytes(bytes).ok()?;
        (label.magic == MAGIC).then_some(label)
    }

    /// Returns it as EL2 keeps it.
    pub fn bytes(&self) -> hypervisor::Label {
        let mut bytes = [0; LABEL];
        bytes.copy_from_slice(self.as_bytes());
        bytes
    }

    /// Returns what the image is for.
    pub fn kind(&self) -> Kind {
        match self.kind {
            1 => Kind::Kernel,
            2 => Kind::Initrd,
            3 => Kind::Hidden,
            4 => Kind::Fetched,
            _ => Kind::Raw,
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        hypervisor::name_text(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_as_it_was_written() {
        let label = Label::new(Kind::Initrd, "initrd-6.1", 7);
        let read = Label::read(&label.bytes()).unwrap();
        assert_eq!((read.kind(), read.name(), read.time.get()), (Kind::Initrd, "initrd-6.1", 7));
        assert!(Label::read(&[0; LABEL]).is_none());
    }

    #[test]
    fn kinds_are_known_by_their_names() {
        assert_eq!(Kind::new("kernel"), Some(Kind::Kernel));
        assert_eq!(Kind::new("Hidden"), None);
        assert_eq!(Kind::Initrd.name(), "Initrd");
    }
}
