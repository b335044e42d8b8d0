//! Images of the fake hypervisor: bytes in this program's own memory. Before: [`Fake`](super::Fake). After: nothing.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use salp_hvc::manager::{ImageInfo, MAX_COPY, MAX_IMAGE, MAX_IMAGES};
use salp_hvc::status;

use crate::hypervisor::{Answer, Label, Refused};

#[derive(Debug)]
struct Image {
    bytes: Vec<u8>,
    label: Label,
    finished: bool,
}

/// Images, and how much room is left for them.
#[derive(Debug)]
pub struct Images {
    entries: BTreeMap<u64, Image>,
    last: u64,
    room: usize,
}

fn range(image: &Image, offset: u64, length: usize) -> Answer<core::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| Refused(status::INVALID))?;
    let end = start.checked_add(length).filter(|&end| end <= image.bytes.len() && length as u64 <= MAX_COPY);
    Ok(start..end.ok_or(Refused(status::INVALID))?)
}

impl Images {
    /// Returns room for so many bytes of images.
    pub fn new(room: usize) -> Self {
        Self { entries: BTreeMap::new(), last: 0, room }
    }

    fn get(&mut self, id: u64) -> Answer<&mut Image> {
        self.entries.get_mut(&id).ok_or(Refused(status::NOT_FOUND))
    }

    /// Returns whether VMs may use the image, and it has so many bytes.
    pub fn is_finished(&self, id: u64, bytes: u64) -> bool {
        self.entries.get(&id).is_some_and(|image| image.finished && image.bytes.len() as u64 >= bytes)
    }

    /// Makes an image.
    pub fn create(&mut self, size: u64, label: &Label) -> Answer<u64> {
        if !(1..=MAX_IMAGE).contains(&size) {
            return Err(Refused(status::INVALID));
        }
        if self.entries.len() >= MAX_IMAGES {
            return Err(Refused(status::TOO_MANY));
        }
        let size = size as usize;
        let mut bytes = Vec::new();
        if size > self.room || bytes.try_reserve_exact(size).is_err() {
            return Err(Refused(status::NO_MEMORY));
        }
        bytes.resize(size, 0);
        self.room -= size;
        self.last += 1;
        self.entries.insert(self.last, Image { bytes, label: *label, finished: false });
        Ok(self.last)
    }

    /// Writes into an image.
    pub fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        let image = self.get(id)?;
        if image.finished {
            return Err(Refused(status::WRONG_STATE));
        }
        let range = range(image, offset, bytes.len())?;
        image.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    /// Reads out of an image.
    pub fn read(&self, id: u64, offset: u64, bytes: &mut [u8]) -> Answer<()> {
        let image = self.entries.get(&id).ok_or(Refused(status::NOT_FOUND))?;
        bytes.copy_from_slice(&image.bytes[range(image, offset, bytes.len())?]);
        Ok(())
    }

    /// Finishes an image.
    pub fn finish(&mut self, id: u64) -> Answer<()> {
        self.get(id)?.finished = true;
        Ok(())
    }

    /// Deletes an image that nobody uses.
    pub fn delete(&mut self, id: u64) -> Answer<()> {
        let image = self.entries.remove(&id).ok_or(Refused(status::NOT_FOUND))?;
        self.room += image.bytes.len();
        Ok(())
    }

    /// Returns the next image, as nobody uses it.
    pub fn next(&self, after: u64) -> Answer<ImageInfo> {
        let from = after.checked_add(1).ok_or(Refused(status::NOT_FOUND))?;
        let (&id, image) = self.entries.range(from..).next().ok_or(Refused(status::NOT_FOUND))?;
        Ok(ImageInfo {
            id: id.into(),
            size: (image.bytes.len() as u64).into(),
            users: 0.into(),
            finished: u32::from(image.finished).into(),
            label: image.label,
        })
    }

    /// Gives an image another label.
    pub fn label(&mut self, id: u64, label: &Label) -> Answer<()> {
        self.get(id)?.label = *label;
        Ok(())
    }
}
