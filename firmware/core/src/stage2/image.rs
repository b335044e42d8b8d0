//! Mapping frames of the boot set, or of an image, into a new VM, copy-on-write.
//!
//! Before: the boot set, or a manager, who fills an image. After: [`super::fault`], when the guest first writes there.
//!
//! An image is an address space that no vCPU runs in, whose RAM holds the bytes. When it is finished its frames become image
//! frames, which its own entries hold, so that to VMs they are like those of the boot set: no debt, and never a guest's own.
//! All of its leaves are pages then; a VM gets a block where they lie as one.

use super::AddressSpace;
use super::access::for_each_page;
use super::edit;
use super::entry::{self, ENTRIES, Entry, Level};
use super::fault::Fault;
use super::port::{Filled, TableMem, Tlb};
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

/// Where what is mapped comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Image frames in a row, from here on.
    Frames(Pa),
    /// A finished image, from here on.
    Image(&'a AddressSpace, Ipa),
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
        self.map(frames, mem, ipa, Source::Frames(pa), bytes)
    }

    /// Maps a finished image: `bytes` bytes from `from` in it, rounded up to whole pages, appear at `ipa`, as
    /// [`AddressSpace::map_image`] does it. What was never written there is untouched memory here.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::map_image`].
    pub fn map_from(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        ipa: Ipa,
        image: &Self,
        from: Ipa,
        bytes: u64,
    ) -> Result<(), MapError> {
        self.map(frames, mem, ipa, Source::Image(image, from), bytes)
    }

    fn map(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        ipa: Ipa,
        source: Source<'_>,
        bytes: u64,
    ) -> Result<(), MapError> {
        let (Source::Frames(Pa(start)) | Source::Image(_, Ipa(start))) = source;
        if !ipa.is_aligned(PAGE_SIZE) || !start.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned);
        }
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(MapError::OutsideRam)?;
        let end = ipa.checked_add(bytes).ok_or(MapError::OutsideRam)?;
        if ipa < self.ram_start || end > self.ram_end {
            return Err(MapError::OutsideRam);
        }
        if start.checked_add(bytes).is_none() {
            return Err(MapError::NotImage);
        }
        self.version = 0;
        let mut done = 0;
        while done < bytes {
            let at = Ipa(ipa.0 + done);
            let part = (BLOCK_SIZE - at.0 % BLOCK_SIZE).min(bytes - done);
            frames.with(|frames| match source {
                Source::Frames(pa) => self.map_part(frames, mem, at, Pa(pa.0 + done), part),
                Source::Image(image, from) => self.map_part_from(frames, mem, at, image, Ipa(from.0 + done), part),
            })?;
            done += part;
        }
        Ok(())
    }

    /// Maps what lies in one block of the address space, of an image.
    fn map_part_from(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &impl TableMem,
        ipa: Ipa,
        image: &Self,
        from: Ipa,
        bytes: u64,
    ) -> Result<(), MapError> {
        if bytes == BLOCK_SIZE
            && let Some(block) = image.block_of(mem, from)
        {
            return self.map_part(frames, mem, ipa, block, bytes);
        }
        (0..bytes).step_by(PAGE_SIZE as usize).try_for_each(|page| match image.translate(mem, Ipa(from.0 + page)) {
            Some((pa, _)) => self.map_part(frames, mem, Ipa(ipa.0 + page), pa, PAGE_SIZE),
            None => Ok(()),
        })
    }

    /// Returns the block of memory that the block at `from` of a finished image is, if it is one.
    fn block_of(&self, mem: &impl TableMem, from: Ipa) -> Option<Pa> {
        let below = |node, level: Level| match Entry::decode(mem.read(node, level.index(from)), level) {
            Entry::Table(child) => Some(child),
            _ => None,
        };
        let bottom = below(below(self.root, Level::One)?, Level::Two)?;
        let block = entry::address(mem.read(bottom, 0));
        let is_row = |(page, raw): (u64, u64)| entry::address(raw).0 == block.0 + page * PAGE_SIZE;
        let is_block = from.is_aligned(BLOCK_SIZE) && block.is_aligned(BLOCK_SIZE);
        (is_block && (0..).zip(mem.read_all(bottom).flatten()).all(is_row)).then_some(block)
    }

    /// Writes bytes of an image that is not finished, for guests to see through any mapping.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::write`].
    pub fn fill_image(
        &mut self,
        frames: &impl FrameStore,
        mem: &impl TableMem,
        tlb: &impl Tlb,
        ipa: Ipa,
        from: &[u8],
    ) -> Result<(), Fault> {
        self.write(frames, mem, tlb, ipa, from)?;
        for_each_page(ipa, from.len(), |at, _| {
            let (pa, _) = self.translate(mem, at.page()).ok_or(Fault::OutsideRam)?;
            mem.sync_for_guest(pa, PAGE_SIZE, Filled::Copy);
            Ok(())
        })
    }

    /// Finishes an image: its frames become image frames and it changes no more. Takes a frame for each block, which comes
    /// out of the promise.
    ///
    /// # Errors
    ///
    /// No frame is free; it may be tried again.
    pub fn finish_image(&mut self, frames: &impl FrameStore, mem: &impl TableMem) -> Result<(), OutOfMemory> {
        for index in self.root_entries() {
            let Entry::Table(middle) = Entry::decode(mem.read(self.root, index), Level::One) else { continue };
            for index in 0..ENTRIES {
                frames.with(|frames| self.finish_entry(frames, mem, middle, index))?;
            }
            frames.with(|frames| frames.set_sealed(middle, true));
        }
        self.set_promise(frames, 0)
    }

    /// Makes what an entry of a node of level 2 leads to image frames, mapped by pages.
    fn finish_entry(
        &mut self,
        frames: &mut Frames<'_>,
        mem: &impl TableMem,
        middle: Pa,
        index: usize,
    ) -> Result<(), OutOfMemory> {
        let bottom = match Entry::decode(mem.read(middle, index), Level::Two) {
            Entry::Absent => return Ok(()),
            Entry::Lazy(child) | Entry::Table(child) => child,
            Entry::Leaf { pa, .. } => {
                let bottom = self.account.take_node(frames)?;
                mem.write_row(bottom, entry::leaf(pa, Level::Three, self.attr, false), PAGE_SIZE);
                frames.split_block(pa);
                mem.write(middle, index, entry::table(bottom));
                bottom
            }
        };
        edit::seal(frames, mem, bottom, Level::Three);
        for raw in mem.read_all(bottom).flatten().filter(|&raw| raw != 0) {
            frames.make_image(entry::address(raw));
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
