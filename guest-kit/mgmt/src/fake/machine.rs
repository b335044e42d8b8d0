//! What one VM of the fake hypervisor has besides its entry. Before: [`Fake`](super::Fake). After: nothing.

use alloc::vec::Vec;

use salp_hvc::agent::AgentInfo;
use salp_hvc::bootset::{MAX_NICS, MAX_RAM, MAX_SEGMENTS, MAX_VCPUS, NicRecord, PAGE, SegmentRecord, VmRecord};
use salp_hvc::calls::VmInfo;
use salp_hvc::manager::{CONSOLE_SIZE, LINK_UP, MAX_DESCRIPTION, NicInfo};
use salp_hvc::status;
use zerocopy::{FromBytes, FromZeros};

use super::images::Images;
use crate::hypervisor::{Answer, Heard, Refused, is_name, name_text};

/// A VM, or a snapshot of one.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What lists say of it.
    pub info: VmInfo,
    /// Its NICs.
    pub nics: Vec<NicInfo>,
    /// The images that it is made from.
    pub images: Vec<u64>,
    /// What is in its drive.
    pub medium: Option<u64>,
    /// What it wrote to its console; what is typed comes back.
    pub console: Console,
    /// What its agent has told.
    pub agent: AgentInfo,
}

/// A console.
#[derive(Clone, Debug, Default)]
pub struct Console {
    kept: Vec<u8>,
    first: u64,
}

impl Console {
    /// Writes to it.
    pub fn write(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let dropped = self.kept.len().saturating_sub(CONSOLE_SIZE);
        self.kept.drain(..dropped);
        self.first += dropped as u64;
    }

    /// Reads from a position on.
    pub fn read(&self, position: u64, bytes: &mut [u8]) -> Heard {
        let end = self.first + self.kept.len() as u64;
        let first = position.clamp(self.first, end);
        let from = &self.kept[(first - self.first) as usize..];
        let count = from.len().min(bytes.len());
        bytes[..count].copy_from_slice(&from[..count]);
        Heard { count, first, end }
    }
}

/// Returns a NIC as its record describes it.
pub fn nic(record: &NicRecord) -> NicInfo {
    let mut info = NicInfo::new_zeroed();
    (info.segment, info.vlan, info.mac, info.rate) = (record.segment, record.vlan, record.mac, record.rate);
    info.vlans = record.vlans;
    info.ipv4 = record.ipv4;
    info.ipv6 = record.ipv6;
    info.link = LINK_UP.into();
    info
}

/// What records describe.
pub struct Description {
    /// The VM's own record.
    pub vm: VmRecord,
    /// Its NICs.
    pub nics: Vec<NicRecord>,
    /// The images that it is made from.
    pub images: Vec<u64>,
}

/// Reads records, which have to make sense.
pub fn describe(bytes: &[u8], images: &Images) -> Answer<Description> {
    let invalid = Refused(status::INVALID);
    if bytes.len() > MAX_DESCRIPTION {
        return Err(invalid);
    }
    let (vm, rest) = VmRecord::read_from_prefix(bytes).map_err(|_| invalid)?;
    let count = vm.segment_count.get();
    let (segments, rest) = <[SegmentRecord]>::ref_from_prefix_with_elems(rest, count as usize).map_err(|_| invalid)?;
    let nics = <[NicRecord]>::ref_from_bytes(rest).map_err(|_| invalid)?;
    let fits = |segment: &SegmentRecord| {
        let (offset, length) = (segment.offset.get(), segment.length.get());
        let is_placed = offset.is_multiple_of(PAGE) && segment.ipa.get().is_multiple_of(PAGE) && length > 0;
        is_placed && offset.checked_add(length).is_some_and(|end| images.is_finished(segment.image.get(), end))
    };
    let is_sane = is_name(name_text(&vm.name))
        && (1..=MAX_VCPUS).contains(&vm.vcpus.get())
        && (1..=MAX_RAM).contains(&vm.memory.get())
        && vm.memory.get().is_multiple_of(PAGE)
        && (1..=MAX_SEGMENTS).contains(&count)
        && nics.len() <= MAX_NICS as usize
        && segments.iter().all(fits);
    if !is_sane {
        return Err(invalid);
    }
    Ok(Description { vm, nics: nics.to_vec(), images: segments.iter().map(|segment| segment.image.get()).collect() })
}
