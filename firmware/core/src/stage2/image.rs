//! Mapping the boot set's own frames into a new VM, copy-on-write.
//!
//! Before: the boot set. After: [`super::fault`], when the guest first writes there.

use super::AddressSpace;
use super::entry::{self, Entry, Level};
use super::port::TableMem;
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};
use crate::frames::{FrameStore, Frames, Kind, NotImage, OutOfMemory};

/// Why an image cannot be mapped. What was mapped before stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// An address is not that of a page.
    Unaligned,
    /// Part of the range is no RAM of the VM.
    OutsideRam,
    /// Part of the memory was not adopted as an image.
    NotImage,
    /// Something is mapped there already, or the address space was forked.
    Occupied,
    /// No frame is free.
    OutOfMemory,
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<NotImage> for MapError {
    fn from(_: NotImage) -> Self {
        Self::NotImage
    }
}

impl AddressSpace {
    /// Maps image frames: `bytes` bytes from `pa`, rounded up to whole pages, appear at `ipa`, in blocks where both lie so.
    /// For an address space that no vCPU has run in and that was not forked.
    ///
    /// # Errors
    ///
    /// Says what is wrong; part of the range may be mapped then, and the address space is only good to be destroyed.
    pub fn map_image(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        ipa: Ipa,
        pa: Pa,
        bytes: u64,
    ) -> Result<(), MapError> {
        if !ipa.is_aligned(PAGE_SIZE) || !pa.is_aligned(PAGE_SIZE) {
            return Err(MapError::Unaligned);
        }
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(MapError::OutsideRam)?;
        let end = ipa.checked_add(bytes).ok_or(MapError::OutsideRam)?;
        if ipa < self.ram_start || end > self.ram_end {
            return Err(MapError::OutsideRam);
        }
        if pa.checked_add(bytes).is_none() {
            return Err(MapError::NotImage);
        }
        self.version = 0;
        let mut done = 0;
        while done < bytes {
            let at = Ipa(ipa.0 + done);
            let part = (BLOCK_SIZE - at.0 % BLOCK_SIZE).min(bytes - done);
            frames.with(|frames| self.map_part(frames, mem, at, Pa(pa.0 + done), part))?;
            done += part;
        }
        Ok(())
    }

    /// Maps what lies in one block of the address space.
    fn map_part(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &impl TableMem,
        ipa: Ipa,
        pa: Pa,
        bytes: u64,
    ) -> Result<(), MapError> {
        let middle = self.child(frames, mem, self.root, Level::One, ipa)?;
        let index = Level::Two.index(ipa);
        if bytes == BLOCK_SIZE && pa.is_aligned(BLOCK_SIZE) && mem.read(middle, index) == 0 && frames.is_image_block(pa)
        {
            frames.get_block(pa);
            mem.publish(middle, index, entry::leaf(pa, Level::Two, self.attr, false));
            return Ok(());
        }
        let bottom = self.child(frames, mem, middle, Level::Two, ipa)?;
        for offset in (0..bytes).step_by(PAGE_SIZE as usize) {
            let pa = Pa(pa.0 + offset);
            let index = Level::Three.index(Ipa(ipa.0 + offset));
            if mem.read(bottom, index) != 0 {
                return Err(MapError::Occupied);
            }
            frames.get_image(pa)?;
            mem.publish(bottom, index, entry::leaf(pa, Level::Three, self.attr, false));
        }
        Ok(())
    }

    /// Returns the node below, made if there is none.
    fn child(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &impl TableMem,
        node: Pa,
        level: Level,
        ipa: Ipa,
    ) -> Result<Pa, MapError> {
        let index = level.index(ipa);
        match Entry::decode(mem.read(node, index), level) {
            Entry::Absent => {
                let fresh = frames.alloc(Kind::Node)?;
                mem.zero_page(fresh);
                self.account.own(1);
                // It will hold read-only leaves only.
                frames.set_sealed(fresh, true);
                mem.publish(node, index, entry::table(fresh));
                Ok(fresh)
            }
            Entry::Table(child) if frames.count(child) == 1 => Ok(child),
            _ => Err(MapError::Occupied),
        }
    }
}
