//! Reading a boot set (`salp_hvc::bootset`): untrusted bytes, checked before anything is made of them. Before: the boot
//! loader; after: the VMs.

use crate::addr::Ipa;
use crate::net::Mac;
use crate::net::port::Rules;
use crate::net::switch::SegmentName;
use core::fmt;
use core::ops::Range;
use salp_hvc::bootset::{
    FLAG_FROZEN, FLAG_MANAGER, FLAG_RESTART_ON_CRASH, FLAG_SMALL_PAGES, Header, MAGIC, MAX_NICS, MAX_RAM, MAX_SEGMENTS,
    MAX_VCPUS, NicRecord, PAGE, RAM_BASE, SegmentRecord, VERSION, VmRecord,
};
use zerocopy::FromBytes;

/// The flags that have a meaning.
const FLAGS: u32 = FLAG_RESTART_ON_CRASH | FLAG_SMALL_PAGES | FLAG_MANAGER | FLAG_FROZEN;

/// The greatest number of a VLAN.
pub(crate) const MAX_VLAN: u16 = 4094;

/// The greatest rate of a NIC, in bytes per second.
pub(crate) const MAX_RATE: u64 = 1 << 40;

/// Why a boot set is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootSetError {
    /// It does not begin with a header of this version.
    NotABootSet,
    /// It is shorter than its header says, or not made of whole pages.
    Truncated,
    /// The record of VM number n: what is wrong.
    Vm(u32, &'static str),
    /// The record of NIC number n: what is wrong.
    Nic(u32, &'static str),
}

impl fmt::Display for BootSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABootSet => f.write_str("this is not a boot set of version 2"),
            Self::Truncated => f.write_str("the boot set is truncated"),
            Self::Vm(index, what) => write!(f, "VM {index} of the boot set: {what}"),
            Self::Nic(index, what) => write!(f, "NIC {index} of the boot set: {what}"),
        }
    }
}

/// A boot set whose every record has been checked.
#[derive(Clone, Copy, Debug)]
pub struct BootSet<'a> {
    bytes: &'a [u8],
    vms: &'a [VmRecord],
    segments: &'a [SegmentRecord],
    nics: &'a [NicRecord],
    size: u64,
}

/// One VM of a boot set. Copies nothing; lives as long as the set.
#[derive(Clone, Copy, Debug)]
pub struct VmSpec<'a> {
    record: &'a VmRecord,
    segments: &'a [SegmentRecord],
    index: u32,
    nics: &'a [NicRecord],
}

/// A NIC that a VM has from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicSpec {
    /// The segment's name.
    pub segment: SegmentName,
    /// The VLAN in it.
    pub vlan: u16,
    /// The address, if it is given.
    pub mac: Option<Mac>,
    /// What it may send.
    pub rules: Rules,
}

/// Bytes that are in guest memory before the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the guest finds them.
    pub ipa: Ipa,
    /// Where they are, from the start of the set.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl<'a> BootSet<'a> {
    /// Checks a boot set.
    ///
    /// # Errors
    ///
    /// Says what is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BootSetError> {
        let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| BootSetError::NotABootSet)?;
        if header.magic != MAGIC || header.version.get() != VERSION {
            return Err(BootSetError::NotABootSet);
        }
        let size = header.size.get();
        if size > bytes.len() as u64 || !size.is_multiple_of(PAGE) {
            return Err(BootSetError::Truncated);
        }
        let (vms, rest) = <[VmRecord]>::ref_from_prefix_with_elems(rest, header.vm_count.get() as usize)
            .map_err(|_| BootSetError::Truncated)?;
        let (segments, rest) = <[SegmentRecord]>::ref_from_prefix_with_elems(rest, header.segment_count.get() as usize)
            .map_err(|_| BootSetError::Truncated)?;
        let (nics, _) = <[NicRecord]>::ref_from_prefix_with_elems(rest, header.nic_count.get() as usize)
            .map_err(|_| BootSetError::Truncated)?;
        let set = Self { bytes, vms, segments, nics, size };
        for (index, record) in vms.iter().enumerate() {
            set.check(record).map_err(|what| BootSetError::Vm(index as u32, what))?;
        }
        for (index, record) in nics.iter().enumerate() {
            set.check_nic(index, record).map_err(|what| BootSetError::Nic(index as u32, what))?;
        }
        Ok(set)
    }

    fn check_nic(&self, index: usize, record: &NicRecord) -> Result<(), &'static str> {
        if record.vm.get() as usize >= self.vms.len() {
            return Err("it belongs to no VM");
        }
        padded(&record.segment).ok_or("its segment's name is not 1 to 15 characters of A-Z a-z 0-9 . _ -")?;
        if record.vlan.get() > MAX_VLAN {
            return Err("there is no such VLAN");
        }
        if record.mac[0] & 1 != 0 {
            return Err("its address is one of many NICs");
        }
        if record.rate.get() > MAX_RATE || record.reserved.get() != 0 {
            return Err("it has a rate that cannot be, or is of a later kind");
        }
        // Each is counted once: by the last of its VM.
        let of_vm = self.nics.iter().take(index).filter(|other| other.vm == record.vm).count();
        if of_vm >= MAX_NICS as usize { Err("its VM has too many") } else { Ok(()) }
    }

    fn check(&self, record: &VmRecord) -> Result<(), &'static str> {
        name(record).ok_or("its name is not 1 to 31 characters of A-Z a-z 0-9 . _ -")?;
        if !(1..=MAX_VCPUS).contains(&record.vcpus.get()) {
            return Err("it has no vCPU or too many");
        }
        if record.flags.get() & !FLAGS != 0 {
            return Err("it has flags that are not known");
        }
        let memory = record.memory.get();
        if memory == 0 || memory > MAX_RAM || !memory.is_multiple_of(PAGE) {
            return Err("its memory is empty, too large, or not whole pages");
        }
        let ram = RAM_BASE..RAM_BASE + memory;
        if !ram.contains(&record.entry.get()) {
            return Err("its entry point is outside its memory");
        }
        if record.segment_count.get() > MAX_SEGMENTS {
            return Err("it has too many segments");
        }
        let segments = self.segments_of(record).ok_or("it names segments that do not exist")?;
        for segment in segments {
            let (ipa, offset, length) = (segment.ipa.get(), segment.offset.get(), segment.length.get());
            let padded = length.checked_next_multiple_of(PAGE).ok_or("a segment is too long")?;
            if segment.image.get() != 0 {
                return Err("a segment is of an image, and not of the boot set");
            }
            if length == 0 || !ipa.is_multiple_of(PAGE) || !offset.is_multiple_of(PAGE) {
                return Err("a segment is empty or not page aligned");
            }
            if offset.checked_add(padded).is_none_or(|end| end > self.size) {
                return Err("a segment lies outside the boot set");
            }
            if ipa < ram.start || ipa.checked_add(padded).is_none_or(|end| end > ram.end) {
                return Err("a segment lies outside the VM's memory");
            }
        }
        Ok(())
    }

    fn segments_of(&self, record: &VmRecord) -> Option<&'a [SegmentRecord]> {
        let first = record.first_segment.get() as usize;
        self.segments.get(first..first.checked_add(record.segment_count.get() as usize)?)
    }

    /// Returns the size of the set, in bytes: whole pages.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the VMs, in order.
    pub fn vms(&self) -> impl Iterator<Item = VmSpec<'a>> + '_ {
        self.vms.iter().zip(0..).map(|(record, index)| VmSpec {
            record,
            segments: self.segments_of(record).unwrap_or_default(),
            index,
            nics: self.nics,
        })
    }

    /// Returns the bytes of a segment.
    pub fn bytes_of(&self, segment: &Segment) -> &'a [u8] {
        self.bytes.get(segment.offset as usize..(segment.offset + segment.length) as usize).unwrap_or_default()
    }
}

fn name(record: &VmRecord) -> Option<&str> {
    padded(&record.name)
}

/// Returns a name without its padding, if it is one.
pub(crate) fn padded(bytes: &[u8]) -> Option<&str> {
    let length = bytes.iter().position(|&byte| byte == 0)?;
    let (name, padding) = bytes.split_at(length);
    let good = !name.is_empty()
        && padding.iter().all(|&byte| byte == 0)
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    core::str::from_utf8(name).ok().filter(|_| good)
}

impl<'a> VmSpec<'a> {
    /// Returns the name.
    pub fn name(&self) -> &'a str {
        name(self.record).unwrap_or_default()
    }

    /// Returns how many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.record.vcpus.get() as usize
    }

    /// Returns where its RAM is.
    pub fn ram(&self) -> Range<Ipa> {
        Ipa(RAM_BASE)..Ipa(RAM_BASE + self.record.memory.get())
    }

    /// Returns the address of the first instruction, and x0 there.
    pub fn entry(&self) -> (u64, u64) {
        (self.record.entry.get(), self.record.x0.get())
    }

    /// Returns true if it is started again when it crashes.
    pub fn restarts_on_crash(&self) -> bool {
        self.record.flags.get() & FLAG_RESTART_ON_CRASH != 0
    }

    /// Returns true if memory is given to it in pages of 4 KiB only.
    pub fn has_small_pages(&self) -> bool {
        self.record.flags.get() & FLAG_SMALL_PAGES != 0
    }

    /// Returns true if it may make management calls.
    pub fn is_manager(&self) -> bool {
        self.record.flags.get() & FLAG_MANAGER != 0
    }

    /// Returns true if it is frozen before its first instruction.
    pub fn starts_frozen(&self) -> bool {
        self.record.flags.get() & FLAG_FROZEN != 0
    }

    /// Returns its NICs, in order.
    pub fn nics(&self) -> impl Iterator<Item = NicSpec> + 'a {
        let index = self.index;
        self.nics.iter().filter(move |record| record.vm.get() == index).map(|record| {
            let given = |is_zero: bool| (!is_zero).then_some(());
            NicSpec {
                segment: record.segment,
                vlan: record.vlan.get(),
                mac: given(record.mac == [0; 6]).map(|()| record.mac),
                rules: Rules {
                    ipv4: given(record.ipv4 == [0; 4]).map(|()| record.ipv4),
                    ipv6: given(record.ipv6 == [0; 16]).map(|()| record.ipv6),
                    rate: record.rate.get(),
                },
            }
        })
    }

    /// Returns what is in its memory before the first instruction.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + 'a {
        self.segments.iter().map(|record| Segment {
            ipa: Ipa(record.ipa.get()),
            offset: record.offset.get(),
            length: record.length.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn set(vm: VmRecord, segment: SegmentRecord) -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            vm_count: 1.into(),
            segment_count: 1.into(),
            nic_count: 0.into(),
            size: 0x2000.into(),
        };
        let mut bytes = [header.as_bytes(), vm.as_bytes(), segment.as_bytes()].concat();
        bytes.resize(0x2000, 0);
        bytes
    }

    fn vm() -> VmRecord {
        let mut name = [0; 32];
        name[..4].copy_from_slice(b"good");
        VmRecord {
            name,
            vcpus: 1.into(),
            flags: 0.into(),
            memory: 0x10_0000.into(),
            entry: RAM_BASE.into(),
            x0: 0.into(),
            first_segment: 0.into(),
            segment_count: 1.into(),
        }
    }

    fn segment() -> SegmentRecord {
        SegmentRecord { ipa: RAM_BASE.into(), offset: 0x1000.into(), length: 5.into(), image: 0.into() }
    }

    #[test]
    fn a_good_set_is_read_back() {
        let bytes = set(vm(), segment());
        let set = BootSet::parse(&bytes).unwrap();
        let vm = set.vms().next().unwrap();
        assert_eq!((vm.name(), vm.vcpus(), vm.ram().end), ("good", 1, Ipa(RAM_BASE + 0x10_0000)));
        assert_eq!(vm.segments().next(), Some(Segment { ipa: Ipa(RAM_BASE), offset: 0x1000, length: 5 }));
    }

    #[test]
    fn a_flag_says_one_thing_of_a_vm() {
        let said = |flags: u32| {
            let bytes = set(VmRecord { flags: flags.into(), ..vm() }, segment());
            let set = BootSet::parse(&bytes).unwrap();
            let vm = set.vms().next().unwrap();
            [vm.restarts_on_crash(), vm.has_small_pages(), vm.is_manager(), vm.starts_frozen()]
        };
        assert_eq!(said(0), [false; 4]);
        for (index, flag) in
            [FLAG_RESTART_ON_CRASH, FLAG_SMALL_PAGES, FLAG_MANAGER, FLAG_FROZEN].into_iter().enumerate()
        {
            assert_eq!(said(flag), core::array::from_fn(|at| at == index));
        }
    }

    #[test]
    fn what_would_reach_outside_is_refused() {
        let outside_set = SegmentRecord { offset: 0x2000.into(), ..segment() };
        let outside_ram = SegmentRecord { ipa: (RAM_BASE + 0x10_0000).into(), ..segment() };
        let wraps = SegmentRecord { length: u64::MAX.into(), ..segment() };
        for bad in [outside_set, outside_ram, wraps] {
            assert!(matches!(BootSet::parse(&set(vm(), bad)), Err(BootSetError::Vm(0, _))));
        }
        for bad in [
            VmRecord { vcpus: 9.into(), ..vm() },
            VmRecord { memory: u64::MAX.into(), ..vm() },
            VmRecord { entry: 0.into(), ..vm() },
            VmRecord { segment_count: 2.into(), ..vm() },
            VmRecord { flags: (FLAGS + 1).into(), ..vm() },
            VmRecord { name: [b'a'; 32], ..vm() },
        ] {
            assert!(matches!(BootSet::parse(&set(bad, segment())), Err(BootSetError::Vm(0, _))));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut noise in proptest::collection::vec(any::<u8>(), 0..300), keep in any::<bool>()) {
            if keep {
                let good = set(vm(), segment());
                for (at, byte) in noise.iter_mut().enumerate() {
                    if *byte > 8 {
                        *byte = good[at];
                    }
                }
            }
            if let Ok(set) = BootSet::parse(&noise) {
                for vm in set.vms() {
                    vm.segments().for_each(|segment| { set.bytes_of(&segment); });
                }
            }
        }
    }
}
