//! The images that managers fill and VMs are made from: what there is, and what may be done with it.
//!
//! Before: [`crate::calls::make`]. After: [`crate::stage2`], whose trees hold the bytes. An image is used by the VMs and
//! snapshots whose description names it; their tables have its frames, so it stays as long as they do. No MMU walks the tree
//! of an image: a [`Tlb`] that is asked for here has nothing to invalidate.

use crate::addr::{Ipa, PAGE_SIZE};
use crate::bootset::{Segment, VmSpec};
use crate::dev::drive::Medium;
use crate::frames::{FrameStore, Frames};
use crate::stage2::{AddressSpace, Fault, MapError, MemAttr, Policy, TableMem, Tlb};
use salp_hvc::bootset::RAM_BASE;
use salp_hvc::handover;
use salp_hvc::manager::{ImageInfo, LABEL, MAX_COPY, MAX_IMAGE, MAX_IMAGES};
use salp_hvc::status;
use zerocopy::FromZeros;

/// The identifiers of EL2's own images, which no manager is told of: they have what a VM is started from that EL2 itself brings.
const OWN: u64 = 1 << 63;

/// How many of EL2's own images there are at most: that of the management guest, and that of the next one.
const MAX_OWN: usize = 2;

/// Returns true if this is the identifier of an image of EL2's own.
pub const fn is_own(id: u64) -> bool {
    id & OWN != 0
}

/// An image.
#[derive(Debug)]
struct Image {
    info: ImageInfo,
    memory: AddressSpace,
}

/// All images.
#[derive(Debug)]
pub struct Images {
    places: [Option<Image>; MAX_IMAGES + MAX_OWN],
    last_id: u64,
}

impl Images {
    /// Returns an empty table.
    pub const fn new() -> Self {
        Self { places: [const { None }; MAX_IMAGES + MAX_OWN], last_id: 0 }
    }

    fn find(&self, id: u64) -> Result<&Image, i64> {
        self.places.iter().flatten().find(|image| image.info.id.get() == id).ok_or(status::NOT_FOUND)
    }

    fn find_mut(&mut self, id: u64) -> Result<&mut Image, i64> {
        self.places.iter_mut().flatten().find(|image| image.info.id.get() == id).ok_or(status::NOT_FOUND)
    }

    /// Makes an empty image with the size and label in this record, and sets frames aside for all of it. Returns its
    /// identifier.
    ///
    /// # Errors
    ///
    /// A status; nothing is made then.
    pub fn create(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        wanted: &ImageInfo,
    ) -> Result<u64, i64> {
        if self.count(false) >= MAX_IMAGES {
            return Err(status::TOO_MANY);
        }
        self.make(frames, mem, tlb, wanted, 0)
    }

    /// Makes an image of EL2's own out of these bytes. Returns its identifier.
    ///
    /// # Errors
    ///
    /// A status; nothing is made then.
    pub fn create_own(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        bytes: &[u8],
    ) -> Result<u64, i64> {
        if self.count(true) >= MAX_OWN {
            return Err(status::TOO_MANY);
        }
        let wanted = ImageInfo { size: (bytes.len() as u64).into(), ..ImageInfo::new_zeroed() };
        let id = self.make(frames, mem, tlb, &wanted, OWN)?;
        let mut parts = bytes.chunks(MAX_COPY as usize).zip((0..).step_by(MAX_COPY as usize));
        let written = parts.try_for_each(|(part, offset)| self.write(frames, mem, tlb, id, offset, part));
        match written.and_then(|()| self.finish(frames, mem, id)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(id)?.destroy(frames, mem, tlb);
                Err(error)
            }
        }
    }

    /// Counts EL2's own images, or the others.
    fn count(&self, own: bool) -> usize {
        self.places.iter().flatten().filter(|image| is_own(image.info.id.get()) == own).count()
    }

    fn make(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        wanted: &ImageInfo,
        mark: u64,
    ) -> Result<u64, i64> {
        let size = wanted.size.get();
        if !(1..=MAX_IMAGE).contains(&size) {
            return Err(status::INVALID);
        }
        let place = self.places.iter_mut().find(|place| place.is_none()).ok_or(status::TOO_MANY)?;
        let ram = Ipa(RAM_BASE)..Ipa(RAM_BASE + size.next_multiple_of(PAGE_SIZE));
        // No MMU ever sees its attributes.
        let memory = AddressSpace::new(frames, mem, ram, Policy::Blocks, MemAttr::default());
        let mut memory = memory.map_err(|_| status::NO_MEMORY)?;
        let all = memory.full_promise();
        if memory.set_promise(frames, all).is_err() {
            memory.destroy(frames, mem, tlb);
            return Err(status::NO_MEMORY);
        }
        self.last_id += 1;
        let id = self.last_id | mark;
        let info = ImageInfo { id: id.into(), users: 0.into(), finished: 0.into(), ..*wanted };
        *place = Some(Image { info, memory });
        Ok(id)
    }

    /// Returns what a hand-over has of the images.
    pub fn records(&self) -> impl Iterator<Item = handover::Image> {
        self.places.iter().flatten().map(|image| handover::Image { memory: image.memory.record(), info: image.info })
    }

    /// Returns the last identifier that was given.
    pub const fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Gives no identifier up to this any more.
    pub fn skip_to(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// Puts the image in a record of a hand-over into the table, without users. Returns false, and changes nothing, if that cannot
    /// be.
    pub fn restore(&mut self, frames: &Frames<'_>, record: &handover::Image) -> bool {
        let (id, size) = (record.info.id.get(), record.info.size.get());
        let is_sound =
            id != 0 && (1..=MAX_IMAGE).contains(&size) && record.info.finished.get() <= 1 && self.find(id).is_err();
        let ram = RAM_BASE..RAM_BASE + size.min(MAX_IMAGE).next_multiple_of(PAGE_SIZE);
        let memory = AddressSpace::restored(frames, &record.memory);
        let memory = memory.filter(|memory| is_sound && memory.ram() == (Ipa(ram.start)..Ipa(ram.end)));
        let place = self.places.iter_mut().find(|place| place.is_none());
        let (Some(memory), Some(place)) = (memory, place) else { return false };
        *place = Some(Image { info: ImageInfo { users: 0.into(), ..record.info }, memory });
        self.skip_to(id & !OWN);
        true
    }

    /// Checks that so many bytes at this offset can be copied into the image, or out of it.
    ///
    /// # Errors
    ///
    /// A status.
    pub fn check_copy(&self, id: u64, offset: u64, size: u64, is_write: bool) -> Result<(), i64> {
        let image = self.find(id)?;
        let is_inside = offset.checked_add(size).is_some_and(|end| end <= image.info.size.get());
        if !is_inside || !(1..=MAX_COPY).contains(&size) {
            return Err(status::INVALID);
        }
        if is_write && image.info.finished.get() != 0 { Err(status::WRONG_STATE) } else { Ok(()) }
    }

    /// Copies bytes into an image that is not finished.
    ///
    /// # Errors
    ///
    /// A status.
    pub fn write(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        id: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), i64> {
        self.check_copy(id, offset, bytes.len() as u64, true)?;
        let written = self.find_mut(id)?.memory.fill_image(frames, mem, tlb, Ipa(RAM_BASE + offset), bytes);
        written.map_err(status_of)
    }

    /// Copies bytes out of an image.
    ///
    /// # Errors
    ///
    /// A status.
    pub fn read(&self, mem: &impl TableMem, id: u64, offset: u64, bytes: &mut [u8]) -> Result<(), i64> {
        self.check_copy(id, offset, bytes.len() as u64, false)?;
        self.find(id)?.memory.read(mem, Ipa(RAM_BASE + offset), bytes).map_err(status_of)
    }

    /// Finishes an image.
    ///
    /// # Errors
    ///
    /// A status: it is finished already.
    pub fn finish(&mut self, frames: &impl FrameStore, mem: &impl TableMem, id: u64) -> Result<(), i64> {
        let image = self.find_mut(id)?;
        if image.info.finished.get() != 0 {
            return Err(status::WRONG_STATE);
        }
        image.memory.finish_image(frames, mem).map_err(|_| status::NO_MEMORY)?;
        image.info.finished = 1.into();
        Ok(())
    }

    /// Takes an image that nobody uses out of the table. Returns its memory, which the caller gives back.
    ///
    /// # Errors
    ///
    /// A status.
    pub fn remove(&mut self, id: u64) -> Result<AddressSpace, i64> {
        if self.find(id)?.info.users.get() != 0 {
            return Err(status::IN_USE);
        }
        let is_it = |image: &Image| image.info.id.get() == id;
        let place = self.places.iter_mut().find(|place| place.as_ref().is_some_and(is_it));
        place.and_then(Option::take).map(|image| image.memory).ok_or(status::NOT_FOUND)
    }

    /// Returns the image with the least identifier above this, but for EL2's own.
    pub fn after(&self, id: u64) -> Option<&ImageInfo> {
        let infos = self.places.iter().flatten().map(|image| &image.info);
        infos.filter(|info| info.id.get() > id && !is_own(info.id.get())).min_by_key(|info| info.id.get())
    }

    /// Gives an image another label.
    ///
    /// # Errors
    ///
    /// A status: there is no such image.
    pub fn label(&mut self, id: u64, label: [u8; LABEL]) -> Result<(), i64> {
        self.find_mut(id)?.info.label = label;
        Ok(())
    }

    /// Checks that the images that a description names are there and finished and hold its segments, and counts a user of each.
    ///
    /// # Errors
    ///
    /// A status; nothing is counted then.
    pub fn hold(&mut self, spec: &VmSpec) -> Result<(), i64> {
        for segment in spec.segments().filter(|segment| segment.image != 0) {
            let image = self.find(segment.image)?;
            if image.info.finished.get() == 0 {
                return Err(status::WRONG_STATE);
            }
            let end = segment.offset.checked_add(segment.length);
            if end.is_none_or(|end| end > image.info.size.get()) {
                return Err(status::INVALID);
            }
        }
        self.count_user(spec, true);
        Ok(())
    }

    /// Counts one user more, or less, of each image that a description names, once if several of its segments do.
    pub fn count_user(&mut self, spec: &VmSpec, is_more: bool) {
        for (index, segment) in spec.segments().enumerate() {
            let is_first = spec.segments().take(index).all(|earlier| earlier.image != segment.image);
            if is_first && let Ok(image) = self.find_mut(segment.image) {
                let users = image.info.users.get();
                image.info.users = if is_more { users.saturating_add(1) } else { users.saturating_sub(1) }.into();
            }
        }
    }

    /// Counts a user more of a finished image, whose medium goes into a drive, or into one more.
    ///
    /// # Errors
    ///
    /// A status; nothing is counted then.
    pub fn insert(&mut self, id: u64) -> Result<Medium, i64> {
        let info = &mut self.find_mut(id)?.info;
        if info.finished.get() == 0 {
            return Err(status::WRONG_STATE);
        }
        info.users += 1;
        Ok(Medium { image: id, size: info.size.get() })
    }

    /// Counts a user less of an image, whose medium has left a drive.
    pub fn eject(&mut self, medium: Medium) {
        if let Ok(image) = self.find_mut(medium.image) {
            image.info.users = image.info.users.get().saturating_sub(1).into();
        }
    }

    /// Maps a segment into a VM's new memory, copy-on-write.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::map_from`].
    pub fn map(
        &self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        to: &mut AddressSpace,
        segment: &Segment,
    ) -> Result<(), MapError> {
        let image = self.find(segment.image).map_err(|_| MapError::NotImage)?;
        to.map_from(frames, mem, segment.ipa, &image.memory, Ipa(RAM_BASE + segment.offset), segment.length)
    }
}

impl Default for Images {
    fn default() -> Self {
        Self::new()
    }
}

fn status_of(fault: Fault) -> i64 {
    match fault {
        Fault::OutsideRam => status::INVALID,
        Fault::OutOfMemory => status::NO_MEMORY,
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::addr::Pa;
    use crate::frames::Kind;
    use crate::stage2::Level;
    use crate::testing::Machine;
    use salp_hvc::bootset::{NicRecord, SegmentRecord, VmRecord};
    use zerocopy::IntoBytes;

    const MIB: u64 = 1 << 20;

    fn wanted(size: u64) -> ImageInfo {
        ImageInfo { size: size.into(), label: [7; LABEL], ..ImageInfo::new_zeroed() }
    }

    /// Describes a VM with these segments of images: image, offset, length.
    fn spec(segments: &[(u64, u64, u64)]) -> VmSpec {
        let mut name = [0; 32];
        name[..2].copy_from_slice(b"vm");
        let vm = VmRecord {
            name,
            vcpus: 1.into(),
            memory: MIB.into(),
            entry: RAM_BASE.into(),
            segment_count: (segments.len() as u32).into(),
            ..VmRecord::new_zeroed()
        };
        let segments: Vec<_> = (0..)
            .zip(segments)
            .map(|(place, &(image, offset, length))| SegmentRecord {
                ipa: (RAM_BASE + place * 0x10000).into(),
                offset: offset.into(),
                length: length.into(),
                image: image.into(),
            })
            .collect();
        let nics: [NicRecord; 0] = [];
        VmSpec::parse(&[vm.as_bytes(), segments.as_bytes(), nics.as_bytes()].concat()).unwrap()
    }

    /// That of no VM.
    struct NoTlb;

    impl Tlb for NoTlb {
        fn invalidate_leaf(&self, _: Ipa, _: Level) {}
        fn invalidate_leaf_local(&self, _: Ipa) {}
        fn invalidate_range(&self, _: Ipa, _: u64) {}
        fn invalidate_vm(&self) {}
    }

    /// Runs a story on a machine of its own with 8 MiB, and checks that all memory is back at the end.
    fn on_machine(story: impl FnOnce(&mut Images, &Machine<'_>)) {
        let banks = [Pa(0x4000_0000)..Pa(0x4080_0000)];
        let mut storage = Machine::storage(&banks);
        let machine = Machine::new(&banks, &mut storage, |_| 0);
        let free = || {
            let stats = machine.frames.borrow().stats();
            (stats.frames(Kind::Free) + stats.frames(Kind::Zero), stats.promised)
        };
        let before = free();
        let mut images = Images::new();
        story(&mut images, &machine);
        while let Some(id) = images.after(0).map(|info| info.id.get()) {
            images.remove(id).unwrap().destroy(&machine.frames, &machine, &NoTlb);
        }
        assert_eq!(free(), before);
    }

    #[test]
    fn an_image_is_filled_finished_and_read() {
        on_machine(|images, machine| {
            let id = images.create(&machine.frames, machine, &NoTlb, &wanted(5000)).unwrap();
            images.write(&machine.frames, machine, &NoTlb, id, 4090, b"across pages").unwrap();
            let mut bytes = [1; 14];
            images.finish(&machine.frames, machine, id).unwrap();
            images.read(machine, id, 4089, &mut bytes).unwrap();
            assert_eq!(&bytes, b"\0across pages\0");
            let info = images.after(0).unwrap();
            assert_eq!((info.id.get(), info.size.get(), info.finished.get(), info.label), (id, 5000, 1, [7; LABEL]));
            assert!(images.after(id).is_none());
            images.label(id, [8; LABEL]).unwrap();
            assert_eq!(images.after(0).unwrap().label, [8; LABEL]);
        });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        on_machine(|images, machine| {
            let create = |images: &mut Images, size| images.create(&machine.frames, machine, &NoTlb, &wanted(size));
            assert_eq!(create(images, 0), Err(status::INVALID));
            assert_eq!(create(images, MAX_IMAGE + 1), Err(status::INVALID));
            assert_eq!(create(images, 8 * MIB), Err(status::NO_MEMORY));
            let id = create(images, 2 * MIB).unwrap();
            for (offset, size) in [(0, 0), (0, MAX_COPY + 1), (2 * MIB, 1), (2 * MIB - 1, 2), (u64::MAX, 1)] {
                assert_eq!(images.check_copy(id, offset, size, false), Err(status::INVALID), "{size} at {offset}");
            }
            assert_eq!(images.check_copy(id, 2 * MIB - MAX_COPY, MAX_COPY, true), Ok(()));
            assert_eq!(images.write(&machine.frames, machine, &NoTlb, id + 1, 0, &[0]), Err(status::NOT_FOUND));
            images.finish(&machine.frames, machine, id).unwrap();
            assert_eq!(images.finish(&machine.frames, machine, id), Err(status::WRONG_STATE));
            assert_eq!(images.write(&machine.frames, machine, &NoTlb, id, 0, &[0]), Err(status::WRONG_STATE));
            assert_eq!(images.remove(0).err(), Some(status::NOT_FOUND));
        });
    }

    #[test]
    fn as_many_images_fit_as_there_are_places_and_no_identifier_comes_twice() {
        on_machine(|images, machine| {
            let mut create = || images.create(&machine.frames, machine, &NoTlb, &wanted(1));
            for id in 1..=MAX_IMAGES as u64 {
                assert_eq!(create(), Ok(id));
            }
            assert_eq!(create(), Err(status::TOO_MANY));
            images.remove(9).unwrap().destroy(&machine.frames, machine, &NoTlb);
            let again = images.create(&machine.frames, machine, &NoTlb, &wanted(1));
            assert_eq!((again, images.after(8).unwrap().id.get()), (Ok(MAX_IMAGES as u64 + 1), 10));
        });
    }

    #[test]
    fn what_hypervisors_keep_for_themselves_is_no_image_of_a_managers() {
        on_machine(|images, machine| {
            let bytes: Vec<u8> = (0..MAX_COPY + 5).map(|at| at as u8).collect();
            let own = images.create_own(&machine.frames, machine, &NoTlb, &bytes).unwrap();
            assert!(is_own(own) && images.after(0).is_none());
            let mut read = [0; 5];
            images.read(machine, own, MAX_COPY, &mut read).unwrap();
            assert_eq!(read, bytes[MAX_COPY as usize..]);
            images.hold(&spec(&[(own, 0, MAX_COPY + 5)])).unwrap();
            assert_eq!(images.remove(own).err(), Some(status::IN_USE));
            images.count_user(&spec(&[(own, 0, MAX_COPY + 5)]), false);

            let create = |images: &mut Images| images.create(&machine.frames, machine, &NoTlb, &wanted(1));
            for id in 2..=MAX_IMAGES as u64 + 1 {
                assert_eq!(create(images), Ok(id), "managers have as many as before");
            }
            assert_eq!(create(images), Err(status::TOO_MANY));
            let next = images.create_own(&machine.frames, machine, &NoTlb, &[1]).unwrap();
            assert_eq!(images.create_own(&machine.frames, machine, &NoTlb, &[1]), Err(status::TOO_MANY));
            for id in [own, next] {
                images.remove(id).unwrap().destroy(&machine.frames, machine, &NoTlb);
            }
            assert_eq!(images.create_own(&machine.frames, machine, &NoTlb, &[0; 8 << 20]), Err(status::NO_MEMORY));
        });
    }

    #[test]
    fn images_of_hypervisors_come_back_from_records_and_numbers_go_on() {
        on_machine(|images, machine| {
            let own = images.create_own(&machine.frames, machine, &NoTlb, &[7; 100]).unwrap();
            let record = images.records().next().unwrap();
            let mut later = Images::new();
            assert!(later.restore(&machine.frames.borrow(), &record));
            assert_eq!(later.last_id(), own & !OWN);
            // Both have the same memory: it is given back once.
            images.remove(own).unwrap().destroy(&machine.frames, machine, &NoTlb);
        });
    }

    #[test]
    fn an_image_stays_as_long_as_somebody_is_made_from_it() {
        on_machine(|images, machine| {
            let [a, b] =
                [0x4000, 0x2000].map(|size| images.create(&machine.frames, machine, &NoTlb, &wanted(size)).unwrap());
            let both = spec(&[(a, 0, 0x1000), (b, 0x1000, 0x1000), (a, 0x3000, 5)]);
            assert_eq!(images.hold(&both), Err(status::WRONG_STATE), "not finished");
            for id in [a, b] {
                images.finish(&machine.frames, machine, id).unwrap();
            }
            let users = |images: &Images| [images.after(0), images.after(a)].map(|info| info.unwrap().users.get());
            assert_eq!(images.hold(&spec(&[(a, 0, 0x1000), (9, 0, 1)])), Err(status::NOT_FOUND));
            assert_eq!(images.hold(&spec(&[(a, 0, 0x1000), (b, 0x1000, 0x1001)])), Err(status::INVALID));
            assert_eq!(users(images), [0, 0]);
            images.hold(&both).unwrap();
            images.hold(&both).unwrap();
            assert_eq!(users(images), [2, 2], "once for each VM");
            images.count_user(&both, false);
            assert_eq!(images.remove(a).err(), Some(status::IN_USE));
            images.count_user(&both, false);
            assert_eq!(users(images), [0, 0]);
        });
    }
}
