//! Turns a definition into what EL2 makes a VM from: records, and an image with what no uploaded image holds as it has to
//! lie in memory (the device tree, kernels whose parts do not lie at page boundaries) and the definition itself. Before:
//! [`resources`](crate::resources). After: EL2.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use salp_board::kernel::{self, Packing, Source, Unfit};
use salp_board::{guest, layout};
use salp_hvc::bootset::{FLAG_OFF, FLAG_RESTART_ON_CRASH, FLAG_SMALL_PAGES, FLAG_STAYS, PAGE, SegmentRecord, VmRecord};
use salp_hvc::manager::{ImageInfo, MAX_COPY};
use zerocopy::IntoBytes;

use super::definition::Definition;
use super::{Stored, unpack};
use crate::hypervisor::{self, Answer, Hypervisor, padded};
use crate::images;
use crate::images::label::{Kind, Label};
use crate::message::Failure;

/// The name of images that are made for one VM.
pub const MADE: &str = "made";
/// The name of images that are made for a start from something else than what the VM is made from.
const STARTED: &str = "started";

/// A VM's records, and the image that was made for it.
struct Built {
    records: Vec<u8>,
    made: u64,
}

/// Makes a VM that is off, and returns its identifier.
///
/// # Errors
///
/// If EL2 refuses, or an image is not what it has to be. Nothing is left then.
pub fn create(hypervisor: &mut dyn Hypervisor, definition: &Definition, now: u64) -> Result<u64, Failure> {
    make(hypervisor, definition, now, |hypervisor, records| hypervisor.create(records))
}

/// Describes a VM that is off anew.
///
/// # Errors
///
/// If EL2 refuses, or an image is not what it has to be. Nothing is changed then.
pub fn change(hypervisor: &mut dyn Hypervisor, id: u64, definition: &Definition, now: u64) -> Result<(), Failure> {
    make(hypervisor, definition, now, |hypervisor, records| hypervisor.change(id, records).map(|()| id)).map(drop)
}

/// Returns the records by which a VM starts from what a definition names. What is made for that goes when nobody uses it.
///
/// # Errors
///
/// If an image is not what it has to be, or there is no room.
pub fn prepare(hypervisor: &mut dyn Hypervisor, definition: &Definition, now: u64) -> Result<Vec<u8>, Failure> {
    build(hypervisor, definition, STARTED, now).map(|built| built.records)
}

fn make(
    hypervisor: &mut dyn Hypervisor,
    definition: &Definition,
    now: u64,
    make: impl FnOnce(&mut dyn Hypervisor, &[u8]) -> Answer<u64>,
) -> Result<u64, Failure> {
    let built = build(hypervisor, definition, MADE, now);
    let made = built.and_then(|built| {
        let id =
            make(hypervisor, &built.records).map_err(|refused| Failure::refused(refused, "/redfish/v1/Systems"))?;
        if let Ok(info) = hypervisor::image(hypervisor, built.made)
            && let Some(mut label) = Label::read(&info.label)
        {
            label.owner = id.into();
            // Without it the VM runs all the same; only what it was made from cannot be shown.
            let _ = hypervisor.label_image(built.made, &label.bytes());
        }
        Ok(id)
    });
    // What was made for a VM that there is not, or not any more, has no user.
    images::sweep(hypervisor, now);
    made
}

/// Where the bytes of a piece of memory are.
enum From {
    /// From an offset on in an image.
    Image(ImageInfo, u64),
    /// Here.
    Here(Vec<u8>),
}

/// A piece of memory.
struct Piece {
    range: Range<u64>,
    from: From,
}

impl Piece {
    /// Returns the image and the offset if its frames can be the VM's: from a page boundary on, and nothing of something
    /// else is in the last one.
    fn direct(&self) -> Option<(u64, u64)> {
        let From::Image(info, offset) = &self.from else { return None };
        let length = self.range.end - self.range.start;
        let ends = offset + length == info.size.get() || length.is_multiple_of(PAGE);
        let is_aligned = self.range.start.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE);
        (is_aligned && ends).then_some((info.id.get(), *offset))
    }
}

fn finished(hypervisor: &dyn Hypervisor, id: u64, what: &str) -> Result<ImageInfo, Failure> {
    let info = hypervisor::image(hypervisor, id).ok().filter(|info| info.finished.get() == 1);
    info.ok_or_else(|| Failure::because(400, &format!("The image of the {what} is not there, or not whole yet.")))
}

/// Returns the image with the kernel as it is without compression.
fn plain(hypervisor: &mut dyn Hypervisor, definition: &Definition, now: u64) -> Result<ImageInfo, Failure> {
    let mut kernel = finished(hypervisor, definition.kernel, "kernel")?;
    // Gzip, and an EFI zboot program inside it.
    for _ in 0..2 {
        match kernel::packing(&Stored::new(hypervisor, &kernel), definition.flat).map_err(unfit)? {
            Packing::Plain => break,
            Packing::Gzip { offset, length } => {
                kernel = unpack::unpack(hypervisor, &kernel, (offset, length), definition.memory, now)?;
            }
        }
    }
    Ok(kernel)
}

fn unfit(Unfit(why): Unfit) -> Failure {
    Failure::because(400, &format!("The kernel cannot be used: {why}."))
}

/// Places everything, makes the image, and writes the records.
fn build(hypervisor: &mut dyn Hypervisor, definition: &Definition, what: &str, now: u64) -> Result<Built, Failure> {
    let file = plain(hypervisor, definition, now)?;
    let kernel = kernel::read(&Stored::new(hypervisor, &file), definition.flat, definition.memory).map_err(unfit)?;
    let initrd = definition.initrd.map(|id| finished(hypervisor, id, "initial RAM disk")).transpose()?;
    let tree = |initrd| {
        let guest = guest::Guest {
            vcpus: definition.vcpus,
            memory: definition.memory,
            bootargs: &definition.command_line,
            initrd,
            virtio: definition.nics.len() as u32,
        };
        guest::device_tree(&guest).map_err(|why| Failure::because(400, &format!("{why}")))
    };
    let tree_size = tree(initrd.as_ref().map(|_| 0..0))?.len() as u64;
    let initrd_size = initrd.as_ref().map(|info| info.size.get());
    let places = layout::place(&kernel, definition.memory, tree_size, initrd_size).map_err(unfit)?;
    let bytes = tree(places.initrd.clone())?;
    let mut pieces: Vec<Piece> = kernel
        .parts
        .iter()
        .map(|part| Piece { range: part.ipa..part.end(), from: From::Image(file, part.offset) })
        .collect();
    pieces.push(Piece { range: places.tree..places.tree + bytes.len() as u64, from: From::Here(bytes) });
    pieces.extend(initrd.zip(places.initrd).map(|(info, range)| Piece { range, from: From::Image(info, 0) }));
    let ranges: Vec<Range<u64>> = pieces.iter().map(|piece| piece.range.clone()).collect();
    let runs = layout::runs(&ranges).map_err(unfit)?;

    let mut segments = Vec::new();
    let mut copies: Vec<(u64, &Piece)> = Vec::new();
    let mut size = 0;
    for run in &runs {
        let direct = match run.pieces[..] {
            [only] => pieces[only].direct(),
            _ => None,
        };
        let (image, offset) = direct.unwrap_or((0, size));
        let length = run.end - run.ipa;
        if direct.is_none() {
            copies.extend(run.pieces.iter().map(|&index| (size + (ranges[index].start - run.ipa), &pieces[index])));
            size += length.next_multiple_of(PAGE);
        }
        segments.push(SegmentRecord {
            ipa: run.ipa.into(),
            offset: offset.into(),
            length: length.into(),
            image: image.into(),
        });
    }
    let made = image(hypervisor, &copies, size, &definition.bytes(), &mut Label::new(Kind::Hidden, what, now))?;
    for segment in segments.iter_mut().filter(|segment| segment.image.get() == 0) {
        segment.image = made.into();
    }
    let mut flags = FLAG_STAYS | FLAG_OFF;
    flags |= if definition.restarts { FLAG_RESTART_ON_CRASH } else { 0 };
    flags |= if definition.small_pages { FLAG_SMALL_PAGES } else { 0 };
    let vm = VmRecord {
        name: padded(&definition.name),
        vcpus: definition.vcpus.into(),
        flags: flags.into(),
        memory: definition.memory.into(),
        entry: kernel.entry.into(),
        x0: places.tree.into(),
        first_segment: 0.into(),
        segment_count: (segments.len() as u32).into(),
    };
    let records = [vm.as_bytes(), segments.as_bytes(), definition.nics.as_bytes()].concat();
    Ok(Built { records, made })
}

/// Makes the image of a VM: pieces at these offsets, and the definition from `size` on.
fn image(
    hypervisor: &mut dyn Hypervisor,
    copies: &[(u64, &Piece)],
    size: u64,
    definition: &[u8],
    label: &mut Label,
) -> Result<u64, Failure> {
    label.received = size.into();
    let refused = |refused| Failure::refused(refused, images::IMAGES);
    let id = hypervisor.create_image(size + definition.len() as u64, &label.bytes()).map_err(refused)?;
    let mut fill = || -> Answer<()> {
        for (offset, piece) in copies {
            match &piece.from {
                From::Here(bytes) => write(hypervisor, id, *offset, bytes)?,
                From::Image(info, start) => {
                    let length = piece.range.end - piece.range.start;
                    let (mut buffer, mut done) = (vec![0; length.min(MAX_COPY) as usize], 0);
                    while done < length {
                        let count = (length - done).min(MAX_COPY) as usize;
                        if !Stored::new(hypervisor, info).read(start + done, &mut buffer[..count]) {
                            return Err(hypervisor::Refused(salp_hvc::status::NOT_FOUND));
                        }
                        hypervisor.write_image(id, offset + done, &buffer[..count])?;
                        done += count as u64;
                    }
                }
            }
        }
        write(hypervisor, id, size, definition)?;
        hypervisor.finish_image(id)
    };
    let filled = fill();
    if filled.is_err() {
        // Nobody uses it: it can go.
        let _ = hypervisor.delete_image(id);
    }
    filled.map(|()| id).map_err(refused)
}

fn write(hypervisor: &mut dyn Hypervisor, id: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
    let mut at = offset;
    bytes.chunks(MAX_COPY as usize).try_for_each(|piece| {
        hypervisor.write_image(id, at, piece)?;
        at += piece.len() as u64;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::systems;
    use miniz_oxide::deflate::compress_to_vec;
    use salp_board::guest::RAM_BASE;
    use salp_board::kernel::FlatPlace;

    fn upload(fake: &mut Fake, bytes: &[u8]) -> u64 {
        let id = fake.create_image(bytes.len() as u64, &Label::new(Kind::Raw, "k", 0).bytes()).unwrap();
        write(fake, id, 0, bytes).unwrap();
        fake.finish_image(id).unwrap();
        id
    }

    /// A kernel as Linux has it, of this many bytes.
    fn linux(length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|at| (at / 3) as u8).collect();
        bytes[..64].fill(0);
        bytes[16..24].copy_from_slice(&0x30_0000_u64.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let crc = !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        });
        let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        let trailer = [crc.to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
        [&head[..], &compress_to_vec(bytes, 6), &trailer].concat()
    }

    fn definition(kernel: u64) -> Definition {
        Definition {
            name: "new".into(),
            vcpus: 2,
            memory: 64 << 20,
            kernel,
            initrd: None,
            command_line: "quiet".into(),
            flat: FlatPlace::default(),
            restarts: true,
            small_pages: false,
            nics: Vec::new(),
        }
    }

    fn count(fake: &Fake) -> usize {
        hypervisor::images(fake).count()
    }

    #[test]
    fn a_plain_kernel_and_its_initrd_are_used_as_they_are() {
        let mut fake = Fake::default();
        let kernel = upload(&mut fake, &linux(10_000));
        let initrd = upload(&mut fake, &[7; 5000]);
        let id = create(&mut fake, &Definition { initrd: Some(initrd), ..definition(kernel) }, 0).unwrap();
        for image in [kernel, initrd] {
            assert_eq!(hypervisor::image(&fake, image).unwrap().users.get(), 1);
        }
        let vm = fake.find(id).unwrap();
        let kept = systems::definition(&fake, &crate::images::Library::default(), &vm).unwrap();
        assert_eq!((kept.kernel, kept.initrd, &*kept.command_line), (kernel, Some(initrd), "quiet"));
        assert_eq!((kept.vcpus, kept.memory, kept.restarts), (2, 64 << 20, true));
    }

    #[test]
    fn a_packed_kernel_is_unpacked_once_and_goes_with_the_last_vm() {
        let mut fake = Fake::default();
        let kernel = upload(&mut fake, &gzip(&linux(300_000)));
        let first = create(&mut fake, &definition(kernel), 0).unwrap();
        assert_eq!(count(&fake), 3);
        let second = create(&mut fake, &Definition { name: "other".into(), ..definition(kernel) }, 0).unwrap();
        assert_eq!(count(&fake), 4);
        fake.destroy(first).unwrap();
        images::sweep(&mut fake, 0);
        assert_eq!(count(&fake), 3);
        fake.destroy(second).unwrap();
        images::sweep(&mut fake, 0);
        assert_eq!(count(&fake), 1);
    }

    #[test]
    fn a_packed_kernel_comes_out_byte_for_byte() {
        let mut fake = Fake::default();
        let bytes = linux(100_000);
        let kernel = upload(&mut fake, &gzip(&bytes));
        let plain = plain(&mut fake, &definition(kernel), 0).unwrap();
        let mut read = vec![0; bytes.len()];
        assert!(Stored::new(&fake, &plain).read(0, &mut read));
        assert_eq!((plain.size.get(), read == bytes), (100_000, true));
    }

    #[test]
    fn a_damaged_kernel_leaves_nothing() {
        let mut fake = Fake::default();
        let good = gzip(&linux(100_000));
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 0xff;
        let mut wrong = good.clone();
        wrong[good.len() - 6] ^= 1;
        let mut longer = good.clone();
        longer[good.len() - 4] -= 1;
        for bytes in [&bad[..], &wrong, &longer, &good[..good.len() / 2], &good[..17], b"text"] {
            let kernel = upload(&mut fake, bytes);
            let failure = create(&mut fake, &definition(kernel), 0).unwrap_err();
            assert_eq!(failure.status, 400);
            fake.delete_image(kernel).unwrap();
            assert_eq!(count(&fake), 0);
        }
    }

    #[test]
    fn a_binary_that_lies_between_pages_is_laid_out_anew() {
        let mut fake = Fake::default();
        let kernel = upload(&mut fake, &[0x80; 5000]);
        let flat = FlatPlace { load: Some(RAM_BASE + 0x8_0010), entry: None };
        create(&mut fake, &Definition { flat, ..definition(kernel) }, 0).unwrap();
        assert_eq!(hypervisor::image(&fake, kernel).unwrap().users.get(), 0);
        let made = hypervisor::images(&fake).last().unwrap();
        let mut page = [0; 4096];
        let offset = (0..3).map(|page| page * 4096).find(|&offset| {
            fake.read_image(made.id.get(), offset, &mut page).is_ok() && page[0x10] == 0x80 && page[..0x10] == [0; 16]
        });
        assert!(offset.is_some());
    }

    #[test]
    fn what_the_hypervisor_refuses_leaves_nothing() {
        let mut fake = Fake::default();
        let kernel = upload(&mut fake, &linux(1000));
        let failure = create(&mut fake, &Definition { name: "web".into(), ..definition(kernel) }, 0).unwrap_err();
        assert_eq!((failure.status, count(&fake)), (409, 1));
        assert_eq!(create(&mut fake, &definition(99), 0).unwrap_err().status, 400);
    }
}
