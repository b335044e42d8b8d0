//! What can be started on a medium: a kernel with its initial RAM disk in an ISO 9660 file system, or the medium itself. Before:
//! [`systems::boot`](crate::systems::boot). After: [`systems::build`](crate::systems::build), which starts what was extracted.
//!
//! There is no firmware in a VM that would run the boot loader of a medium, so this looks where the loader would: the first entry
//! of GRUB's configuration says which kernel is started, how, and with which RAM disk. Media without one have kernels where
//! distributions put them.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hadris_iso::directory::DirectoryRef;
use hadris_iso::sync::read::IsoImage;
use hadris_iso::sync::{Error, ErrorKind, Read, Seek, SeekFrom};
use salp_board::kernel::{self, FlatPlace, Source};
use salp_hvc::manager::{ImageInfo, MAX_COPY};

use crate::hypervisor::Hypervisor;
use crate::images::IMAGES;
use crate::images::label::{Kind, Label};
use crate::message::Failure;
use crate::systems::Stored;
use crate::systems::definition::MAX_COMMAND_LINE;

/// The name of images that were extracted.
const EXTRACTED: &str = "extracted";

/// Where GRUB looks for its configuration.
const CONFIGURATIONS: [&str; 5] =
    ["boot/grub/grub.cfg", "EFI/BOOT/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "EFI/debian/grub.cfg"];

/// Kernels and RAM disks where distributions put them.
const PLACES: [(&str, &str); 9] = [
    ("install.a64/vmlinuz", "install.a64/initrd.gz"),
    ("casper/vmlinuz", "casper/initrd"),
    ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"),
    ("live/vmlinuz", "live/initrd.img"),
    ("boot/vmlinuz-virt", "boot/initramfs-virt"),
    ("boot/vmlinuz-lts", "boot/initramfs-lts"),
    ("boot/vmlinuz", "boot/initrd"),
    ("vmlinuz", "initrd"),
    ("vmlinuz", "initrd.gz"),
];

/// The size of a sector, in bytes.
const SECTOR: u64 = 2048;
/// The longest configuration that is looked at, in bytes.
const MAX_CONFIGURATION: u64 = 64 << 10;
/// How much of a medium is read to find something: its directories are what it says they are.
const MAX_LOOKS: u64 = 1 << 20;
/// The largest directory, in bytes: it is read whole.
const MAX_DIRECTORY: usize = 256 << 10;

/// What was found, as images of their own that go when nobody uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The kernel.
    pub kernel: u64,
    /// The initial RAM disk.
    pub initrd: Option<u64>,
    /// The boot arguments.
    pub command_line: String,
}

/// A file on a medium: where its bytes are.
type Extents = Vec<(u64, u64)>;

/// A medium, read from some position on.
struct Reader<'a> {
    bytes: Stored<'a>,
    at: u64,
    left: u64,
}

fn broken() -> Error {
    Error::new(ErrorKind::InvalidData, "the medium ends, or is of no use")
}

impl Read for Reader<'_> {
    type Error = ErrorKind;

    fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        let count = (self.bytes.size().saturating_sub(self.at)).min(to.len() as u64);
        self.left = self.left.checked_sub(count.max(1)).ok_or_else(broken)?;
        if !self.bytes.read(self.at, &mut to[..count as usize]) {
            return Err(broken());
        }
        self.at += count;
        Ok(count as usize)
    }
}

impl Seek for Reader<'_> {
    type Error = ErrorKind;

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Error> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(broken)?;
        Ok(self.at)
    }
}

/// Returns the file of this path.
fn find(iso: &IsoImage<Reader<'_>>, path: &str) -> Option<Extents> {
    let mut directory: DirectoryRef = iso.root_dir().dir_ref();
    let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        if directory.size > MAX_DIRECTORY {
            return None;
        }
        let entries = iso.open_dir(directory).read_entries().ok()?;
        let entry = entries.into_iter().find(|entry| !entry.is_special() && entry.matches_name(name))?;
        if names.peek().is_some() {
            directory = entry.as_dir_ref(iso).ok()?;
        } else if entry.is_file() {
            let extents = entry.extents();
            return Some(extents.map(|part| (part.sector.0 as u64 * SECTOR, part.length.into())).collect());
        }
    }
    None
}

/// Returns what the first entry of a configuration starts: a kernel, its arguments, and its RAM disk.
fn first_entry(configuration: &str) -> Option<(&str, String, Option<&str>)> {
    let mut lines = configuration.lines().map(str::trim);
    // What a variable stands for only GRUB knows.
    let is_plain = |word: &&str| !word.contains('$') && !word.starts_with('(');
    let (path, arguments) = lines.by_ref().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|command| matches!(*command, "linux" | "linuxefi" | "linux16"))?;
        let path = words.next().filter(is_plain)?;
        Some((path, words.filter(is_plain).collect::<Vec<_>>().join(" ")))
    })?;
    let is_own = |line: &&str| !line.starts_with("menuentry") && !line.starts_with('}');
    let initrd = lines.take_while(is_own).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|command| matches!(*command, "initrd" | "initrdefi" | "initrd16"))?;
        words.next().filter(is_plain)
    });
    (arguments.len() <= MAX_COMMAND_LINE).then_some((path, arguments, initrd))
}

/// What is started on a medium.
struct Found {
    kernel: Extents,
    initrd: Option<Extents>,
    command_line: String,
}

fn look(hypervisor: &dyn Hypervisor, medium: &ImageInfo) -> Option<Found> {
    let reader = || Reader { bytes: Stored::new(hypervisor, medium), at: 0, left: MAX_LOOKS };
    let iso = IsoImage::open(reader()).ok()?;
    for path in CONFIGURATIONS {
        let Some(extents) = find(&iso, path) else { continue };
        let &(offset, length) = extents.first()?;
        let mut text = vec![0; length.min(MAX_CONFIGURATION) as usize];
        if !Stored::new(hypervisor, medium).read(offset, &mut text) {
            continue;
        }
        let text = String::from_utf8_lossy(&text);
        if let Some((kernel, command_line, initrd)) = first_entry(&text)
            && let Some(kernel) = find(&iso, kernel)
        {
            let initrd = match initrd {
                Some(path) => Some(find(&iso, path)?),
                None => None,
            };
            return Some(Found { kernel, initrd, command_line });
        }
    }
    PLACES.iter().find_map(|(kernel, initrd)| {
        let (kernel, initrd) = (find(&iso, kernel)?, find(&iso, initrd)?);
        Some(Found { kernel, initrd: Some(initrd), command_line: String::new() })
    })
}

/// Makes an image of a file.
fn copy(hypervisor: &mut dyn Hypervisor, medium: &ImageInfo, extents: &Extents, now: u64) -> Result<u64, Failure> {
    let refused = |refused| Failure::refused(refused, IMAGES);
    let truncated = || Failure::because(409, "The medium is truncated: a file on it ends behind its end.");
    let is_inside =
        |&(offset, length): &(u64, u64)| offset.checked_add(length).is_some_and(|end| end <= medium.size.get());
    if !extents.iter().all(is_inside) {
        return Err(truncated());
    }
    let size = extents.iter().fold(0u64, |sum, (_, length)| sum.saturating_add(*length));
    let mut label = Label::new(Kind::Hidden, EXTRACTED, now);
    label.owner = medium.id;
    let id = hypervisor.create_image(size, &label.bytes()).map_err(refused)?;
    let (mut buffer, mut at) = (vec![0; MAX_COPY as usize], 0);
    let mut fill = || {
        for &(offset, length) in extents {
            let mut done = 0;
            while done < length {
                let part = &mut buffer[..(length - done).min(MAX_COPY) as usize];
                if !Stored::new(hypervisor, medium).read(offset + done, part) {
                    return Err(truncated());
                }
                hypervisor.write_image(id, at, part).map_err(refused)?;
                (done, at) = (done + part.len() as u64, at + part.len() as u64);
            }
        }
        hypervisor.finish_image(id).map_err(refused)
    };
    let filled = fill();
    if filled.is_err() {
        // Nobody uses it: it can go.
        let _ = hypervisor.delete_image(id);
    }
    filled.map(|()| id)
}

/// Extracts what can be started from a medium.
///
/// # Errors
///
/// If there is nothing, or no room for it.
pub fn extract(hypervisor: &mut dyn Hypervisor, medium: &ImageInfo, now: u64) -> Result<Extracted, Failure> {
    if let Some(found) = look(hypervisor, medium) {
        let kernel = copy(hypervisor, medium, &found.kernel, now)?;
        let initrd = found.initrd.map(|initrd| copy(hypervisor, medium, &initrd, now)).transpose()?;
        return Ok(Extracted { kernel, initrd, command_line: found.command_line });
    }
    // A flat binary could be anything, a file system too: there has to be a head.
    let bytes = Stored::new(hypervisor, medium);
    let mut head = [0; 64];
    let count = medium.size.get().min(64) as usize;
    let is_read = bytes.read(0, &mut head[..count]);
    let is_known = |start: &[u8]| head.starts_with(start) || head[56..].starts_with(start);
    let heads: [&[u8]; 4] = [b"\x7fELF", b"\x1f\x8b", b"MZ", b"ARM\x64"];
    if is_read && heads.into_iter().any(is_known) && kernel::packing(&bytes, FlatPlace::default()).is_ok() {
        return Ok(Extracted { kernel: medium.id.get(), initrd: None, command_line: String::new() });
    }
    let why = format!(
        "There is nothing to start on the medium: no kernel that {} names, none at {} or where other distributions have \
         theirs, and it is no kernel itself.",
        CONFIGURATIONS[0], PLACES[0].0
    );
    Err(Failure::because(409, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::hypervisor;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Returns a directory's record of a file or directory (ECMA-119 section 9.1).
    fn record(name: &[u8], sector: usize, length: usize, is_directory: bool) -> Vec<u8> {
        let both = |number: usize| [(number as u32).to_le_bytes(), (number as u32).to_be_bytes()].concat();
        let flags = [0, 0, 0, 0, 0, 0, 0, if is_directory { 2 } else { 0 }, 0, 0, 1, 0, 0, 1, name.len() as u8];
        let mut record = [&[0, 0][..], &both(sector), &both(length), &flags, name].concat();
        record.resize(record.len().next_multiple_of(2), 0);
        record[0] = record.len() as u8;
        record
    }

    /// Returns a medium with these files.
    fn iso(content: &[(&str, &[u8])]) -> Vec<u8> {
        const BYTES: usize = SECTOR as usize;
        let parent = |path: &str| -> String { path.rsplit_once('/').map_or("", |(parent, _)| parent).into() };
        let mut directories = BTreeSet::from([String::new()]);
        for (path, _) in content {
            let mut path = parent(path);
            while directories.insert(path.clone()) {
                path = parent(&path);
            }
        }
        let sector_of = |path: &str| 18 + directories.iter().position(|known| known == path).unwrap();
        let mut bytes = vec![0; BYTES * (18 + directories.len())];
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_uppercase().into_bytes();
        let mut children: Vec<(String, Vec<u8>)> = Vec::new();
        for path in directories.iter().filter(|path| !path.is_empty()) {
            children.push((parent(path), record(&name(path), sector_of(path), BYTES, true)));
        }
        for (path, contents) in content {
            let name = [&name(path)[..], b";1"].concat();
            children.push((parent(path), record(&name, bytes.len() / BYTES, contents.len(), false)));
            bytes.extend_from_slice(contents);
            bytes.resize(bytes.len().next_multiple_of(BYTES), 0);
        }
        for path in &directories {
            let (own, above) = (sector_of(path), sector_of(&parent(path)));
            let dots = [record(&[0], own, BYTES, true), record(&[1], above, BYTES, true)];
            let all = dots.iter().chain(children.iter().filter(|(at, _)| at == path).map(|(_, record)| record));
            let all = all.cloned().collect::<Vec<_>>().concat();
            bytes[own * BYTES..][..all.len()].copy_from_slice(&all);
        }
        let sectors = (bytes.len() / BYTES) as u32;
        let descriptor = &mut bytes[16 * BYTES..18 * BYTES];
        descriptor[..7].copy_from_slice(b"\x01CD001\x01");
        descriptor[80..84].copy_from_slice(&sectors.to_le_bytes());
        descriptor[84..88].copy_from_slice(&sectors.to_be_bytes());
        for at in [120, 124] {
            descriptor[at..at + 4].copy_from_slice(&[1, 0, 0, 1]);
        }
        descriptor[128..132].copy_from_slice(&[0, 8, 8, 0]);
        descriptor[156..190].copy_from_slice(&record(&[0], 18, BYTES, true));
        descriptor[881] = 1;
        descriptor[BYTES..BYTES + 7].copy_from_slice(b"\xffCD001\x01");
        bytes
    }

    fn medium(fake: &mut Fake, bytes: &[u8]) -> ImageInfo {
        let id = fake.create_image(bytes.len() as u64, &Label::new(Kind::Raw, "cd", 0).bytes()).unwrap();
        for (index, piece) in bytes.chunks(MAX_COPY as usize).enumerate() {
            fake.write_image(id, index as u64 * MAX_COPY, piece).unwrap();
        }
        fake.finish_image(id).unwrap();
        hypervisor::image(fake, id).unwrap()
    }

    fn bytes(fake: &Fake, id: u64) -> Vec<u8> {
        let info = hypervisor::image(fake, id).unwrap();
        let mut bytes = vec![0; info.size.get() as usize];
        assert!(Stored::new(fake, &info).read(0, &mut bytes));
        bytes
    }

    const GRUB: &str = "set timeout=5\nmenuentry 'Install' {\n  set gfx=1\n  linux /install.a64/vmlinuz-6.1 --- quiet root=$r x=1\n  \
        initrd /install.a64/initrd.gz\n}\nmenuentry 'Other' {\n linux /other\n}\n";

    #[test]
    fn the_first_entry_of_a_boot_loader_is_what_starts() {
        let kernel: Vec<u8> = (0..70_000).map(|at| (at / 5) as u8).collect();
        let content: [(&str, &[u8]); 3] = [
            ("boot/grub/grub.cfg", GRUB.as_bytes()),
            ("install.a64/vmlinuz-6.1", &kernel),
            ("install.a64/initrd.gz", b"initrd"),
        ];
        let mut fake = Fake::default();
        let medium = medium(&mut fake, &iso(&content));
        let found = extract(&mut fake, &medium, 0).unwrap();
        assert_eq!(found.command_line, "--- quiet x=1");
        assert_eq!(bytes(&fake, found.kernel), kernel);
        assert_eq!(bytes(&fake, found.initrd.unwrap()), b"initrd");
    }

    #[test]
    fn without_a_boot_loader_a_kernel_is_where_distributions_have_it() {
        let mut fake = Fake::default();
        let content: [(&str, &[u8]); 2] = [("casper/vmlinuz", b"kernel"), ("casper/initrd", b"initrd")];
        let medium = medium(&mut fake, &iso(&content));
        let found = extract(&mut fake, &medium, 0).unwrap();
        assert_eq!((bytes(&fake, found.kernel), found.command_line), (b"kernel".to_vec(), String::new()));
    }

    #[test]
    fn a_medium_may_be_a_kernel_itself_or_nothing() {
        let mut fake = Fake::default();
        let head = [&b"MZ"[..], &[0; 14], &0x10_0000u64.to_le_bytes(), &[0; 32], b"ARM\x64", &[0; 900]].concat();
        let kernel = medium(&mut fake, &head);
        assert_eq!(extract(&mut fake, &kernel, 0).unwrap().kernel, kernel.id.get());
        for nothing in [&[0; 40_000][..], b"x", &iso(&[("readme.txt", b"hello")])] {
            let medium = medium(&mut fake, nothing);
            assert_eq!(extract(&mut fake, &medium, 0).unwrap_err().status, 409);
        }
        assert_eq!(hypervisor::images(&fake).count(), 4, "nothing is left of it");
    }

    #[test]
    fn an_entry_is_read_as_its_boot_loader_would() {
        let entry = |text: &'static str| first_entry(text);
        assert_eq!(entry("linux /k a b\ninitrd /i"), Some(("/k", "a b".into(), Some("/i"))));
        assert_eq!(entry("linux /k\n}\nmenuentry x {\ninitrd /i"), Some(("/k", "".into(), None)));
        assert_eq!(entry("linux ($root)/k\nlinux /l"), Some(("/l", "".into(), None)));
        assert_eq!(entry("# nothing"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_medium_is_borne(changes in proptest::collection::vec((0usize..60_000, any::<u8>()), 1..20), cut in 0usize..70_000) {
            let mut bytes = iso(&[("boot/grub/grub.cfg", GRUB.as_bytes()), ("install.a64/vmlinuz-6.1", b"k")]);
            bytes.truncate(70_000);
            changes.iter().for_each(|&(at, byte)| if let Some(place) = bytes.get_mut(at) { *place = byte });
            bytes.truncate(cut.max(1));
            let mut fake = Fake::default();
            let medium = medium(&mut fake, &bytes);
            let _ = extract(&mut fake, &medium, 0);
        }
    }
}
