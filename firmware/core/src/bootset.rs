//! Reading a boot set (`salp_hvc::bootset`), or a manager's description of one VM: untrusted bytes, checked before anything is
//! made of them. Before: the boot loader, or [`crate::calls::manage`]; after: the VMs.

use crate::addr::Ipa;
use crate::net::Mac;
use crate::net::port::Rules;
use crate::net::switch::SegmentName;
use crate::net::vlans::Vlans;
use core::fmt;
use core::ops::Range;
use salp_hvc::bootset::{
    FLAG_FROZEN, FLAG_MANAGER, FLAG_OFF, FLAG_RESTART_ON_CRASH, FLAG_SMALL_PAGES, FLAG_STAYS, Header, MAGIC, MAX_NICS,
    MAX_RAM, MAX_SEGMENTS, MAX_VCPUS, NicRecord, PAGE, RAM_BASE, SegmentRecord, VERSION, VmRecord,
};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The flags that have a meaning.
const FLAGS: u32 = FLAG_RESTART_ON_CRASH | FLAG_SMALL_PAGES | FLAG_MANAGER | FLAG_FROZEN | FLAG_STAYS | FLAG_OFF;

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

/// One VM, of a boot set or as a manager describes it: a copy of its records, all of them checked.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VmSpec {
    record: VmRecord,
    segments: [SegmentRecord; MAX_SEGMENTS as usize],
    nics: [NicRecord; MAX_NICS as usize],
    nic_count: U32,
}

/// A NIC that a VM has from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicSpec {
    /// The segment's name.
    pub segment: SegmentName,
    /// The VLAN in it.
    pub vlan: u16,
    /// The VLANs of a trunk port.
    pub vlans: Vlans,
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
    /// Where they are, from the start of the set or the image.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// The image's identifier; 0 for the boot set.
    pub image: u64,
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

    fn check(&self, record: &VmRecord) -> Result<(), &'static str> {
        check_vm(record, self.segments_of(record).ok_or("it names segments that do not exist")?, &|segment| {
            // It was not too long when its place in RAM was looked at.
            let end = segment.offset.get().checked_add(segment.length.get().next_multiple_of(PAGE));
            match segment.image.get() {
                0 if end.is_some_and(|end| end <= self.size) => Ok(()),
                0 => Err("a segment lies outside the boot set"),
                _ => Err("a segment is of an image, and not of the boot set"),
            }
        })
    }

    fn check_nic(&self, index: usize, record: &NicRecord) -> Result<(), &'static str> {
        if record.vm.get() as usize >= self.vms.len() {
            return Err("it belongs to no VM");
        }
        check_nic(record)?;
        // Each is counted once: by the last of its VM.
        let of_vm = self.nics.iter().take(index).filter(|other| other.vm == record.vm).count();
        if of_vm >= MAX_NICS as usize { Err("its VM has too many") } else { Ok(()) }
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
    pub fn vms(&self) -> impl Iterator<Item = VmSpec> + '_ {
        self.vms.iter().zip(0..).map(|(record, index)| {
            let nics = self.nics.iter().filter(move |nic| nic.vm.get() == index);
            VmSpec::new(record, self.segments_of(record).unwrap_or_default(), nics)
        })
    }

    /// Returns the bytes of a segment.
    pub fn bytes_of(&self, segment: &Segment) -> &'a [u8] {
        self.bytes.get(segment.offset as usize..(segment.offset + segment.length) as usize).unwrap_or_default()
    }
}

/// Checks a VM's record and its segments; `has` says whether there are the bytes of one.
fn check_vm(
    record: &VmRecord,
    segments: &[SegmentRecord],
    has: &dyn Fn(&SegmentRecord) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
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
    if segments.len() > MAX_SEGMENTS as usize {
        return Err("it has too many segments");
    }
    let place = |segment: &SegmentRecord| {
        let end = segment.length.get().checked_next_multiple_of(PAGE)?.checked_add(segment.ipa.get())?;
        (segment.ipa.get() >= ram.start && end <= ram.end).then_some(segment.ipa.get()..end)
    };
    for (index, segment) in segments.iter().enumerate() {
        let (ipa, offset) = (segment.ipa.get(), segment.offset.get());
        if segment.length.get() == 0 || !ipa.is_multiple_of(PAGE) || !offset.is_multiple_of(PAGE) {
            return Err("a segment is empty or not page aligned");
        }
        let own = place(segment).ok_or("a segment lies outside the VM's memory")?;
        let meets = |other: Range<u64>| other.start < own.end && own.start < other.end;
        if segments.iter().take(index).filter_map(place).any(meets) {
            return Err("segments overlap");
        }
        has(segment)?;
    }
    Ok(())
}

/// Checks the record of a NIC.
fn check_nic(record: &NicRecord) -> Result<(), &'static str> {
    padded(&record.segment).ok_or("its segment's name is not 1 to 15 characters of A-Z a-z 0-9 . _ -")?;
    if record.vlan.get() > MAX_VLAN {
        return Err("there is no such VLAN");
    }
    Vlans::of(&record.vlans, record.vlan.get())
        .ok_or("its VLANs are not a list of some, or it is in another besides")?;
    if record.mac[0] & 1 != 0 {
        return Err("its address is one of many NICs");
    }
    if record.rate.get() > MAX_RATE {
        return Err("it has a rate that cannot be");
    }
    Ok(())
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

impl VmSpec {
    fn new<'a>(record: &VmRecord, segments: &[SegmentRecord], nics: impl Iterator<Item = &'a NicRecord>) -> Self {
        // What is left over is zero, so that equal ones are equal byte by byte.
        let mut spec = Self { record: *record, ..Self::new_zeroed() };
        spec.record.first_segment = 0.into();
        for (to, from) in spec.segments.iter_mut().zip(segments) {
            *to = *from;
        }
        for (to, from) in spec.nics.iter_mut().zip(nics) {
            *to = *from;
            spec.nic_count += 1;
        }
        spec
    }

    /// Returns the VM that a manager describes: a record with its segments, which are of images, and NICs behind it. It stays
    /// when it is off, and is off at first. `None` if that makes no sense, or is a manager too.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (record, rest) = VmRecord::ref_from_prefix(bytes).ok()?;
        let count = record.segment_count.get() as usize;
        let (segments, rest) = <[SegmentRecord]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let nics = <[NicRecord]>::ref_from_bytes(rest).ok()?;
        let of_image = |segment: &SegmentRecord| match segment.image.get() {
            0 => Err("a segment is of no image"),
            _ => Ok(()),
        };
        check_vm(record, segments, &of_image).ok()?;
        let is_nic = |nic: &NicRecord| nic.vm.get() == 0 && check_nic(nic).is_ok();
        let is_good = record.flags.get() & FLAG_MANAGER == 0
            && record.first_segment.get() == 0
            && nics.len() <= MAX_NICS as usize
            && nics.iter().all(is_nic);
        is_good.then(|| Self::new(record, segments, nics.iter()).starting_off())
    }

    /// Returns the description in a record of a hand-over, which [`IntoBytes::as_bytes`] makes. `None` if it is none.
    pub fn restored(bytes: &[u8]) -> Option<&Self> {
        let spec = Self::ref_from_bytes(bytes).ok()?;
        let segments = spec.segments.get(..spec.record.segment_count.get() as usize)?;
        let nics = spec.nics.get(..spec.nic_count.get() as usize)?;
        check_vm(&spec.record, segments, &|_| Ok(())).ok()?;
        nics.iter().all(|nic| check_nic(nic).is_ok()).then_some(spec)
    }

    /// Returns this VM as it is if it starts as another description says. `None` if that is of another machine: of other RAM, or
    /// with another number of vCPUs or NICs than the device tree says.
    pub fn starting_as(&self, other: &Self) -> Option<Self> {
        let (own, its) = (&self.record, &other.record);
        let is_same = own.memory == its.memory && own.vcpus == its.vcpus && self.nic_count == other.nic_count;
        let record = VmRecord { entry: its.entry, x0: its.x0, segment_count: its.segment_count, ..*own };
        is_same.then_some(Self { record, segments: other.segments, ..*self })
    }

    /// Returns this VM as it is if its bytes are in an image, at the offsets that they have in its set.
    pub fn of_image(&self, image: u64) -> Self {
        let mut spec = *self;
        let count = spec.record.segment_count.get() as usize;
        spec.segments.iter_mut().take(count).for_each(|segment| segment.image = image.into());
        spec
    }

    /// Returns this VM as it is if it stays when it is off, and is off at first.
    pub fn starting_off(&self) -> Self {
        let mut spec = *self;
        spec.record.flags |= FLAG_STAYS | FLAG_OFF;
        spec
    }

    /// Returns true if both describe the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        name(&self.record).unwrap_or_default()
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

    /// Returns true if it stays when it is off.
    pub fn stays(&self) -> bool {
        self.record.flags.get() & FLAG_STAYS != 0
    }

    /// Returns true if it is off at first.
    pub fn starts_off(&self) -> bool {
        self.record.flags.get() & FLAG_OFF != 0
    }

    /// Returns its NICs, in order.
    pub fn nics(&self) -> impl Iterator<Item = NicSpec> + '_ {
        self.nics.iter().take(self.nic_count.get() as usize).map(|record| {
            let given = |is_zero: bool| (!is_zero).then_some(());
            NicSpec {
                segment: record.segment,
                vlan: record.vlan.get(),
                // They were checked.
                vlans: Vlans::of(&record.vlans, record.vlan.get()).unwrap_or_default(),
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
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().take(self.record.segment_count.get() as usize).map(|record| Segment {
            ipa: Ipa(record.ipa.get()),
            offset: record.offset.get(),
            length: record.length.get(),
            image: record.image.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(vm.segments().next(), Some(Segment { ipa: Ipa(RAM_BASE), offset: 0x1000, length: 5, image: 0 }));
    }

    #[test]
    fn a_vm_of_a_set_starts_from_an_image_that_has_the_set() {
        let bytes = set(vm(), segment());
        let own = BootSet::parse(&bytes).unwrap().vms().next().unwrap();
        let other = own.of_image(7).starting_off();
        assert_eq!(other.segments().next(), own.segments().next().map(|segment| Segment { image: 7, ..segment }));
        assert!(other.starts_off() && other.stays() && !own.starts_off() && !own.stays());
        assert!(VmSpec::restored(other.as_bytes()).is_some_and(|restored| restored.is_same(&other)));
    }

    #[test]
    fn a_flag_says_one_thing_of_a_vm() {
        let said = |flags: u32| {
            let bytes = set(VmRecord { flags: flags.into(), ..vm() }, segment());
            let set = BootSet::parse(&bytes).unwrap();
            let vm = set.vms().next().unwrap();
            [
                vm.restarts_on_crash(),
                vm.has_small_pages(),
                vm.is_manager(),
                vm.starts_frozen(),
                vm.stays(),
                vm.starts_off(),
            ]
        };
        assert_eq!(said(0), [false; 6]);
        let flags = [FLAG_RESTART_ON_CRASH, FLAG_SMALL_PAGES, FLAG_MANAGER, FLAG_FROZEN, FLAG_STAYS, FLAG_OFF];
        for (index, flag) in flags.into_iter().enumerate() {
            assert_eq!(said(flag), core::array::from_fn(|at| at == index));
        }
    }

    #[test]
    fn what_would_reach_outside_is_refused() {
        let outside_set = SegmentRecord { offset: 0x2000.into(), ..segment() };
        let outside_ram = SegmentRecord { ipa: (RAM_BASE + 0x10_0000).into(), ..segment() };
        let wraps = SegmentRecord { length: u64::MAX.into(), ..segment() };
        let of_image = SegmentRecord { image: 1.into(), ..segment() };
        for bad in [outside_set, outside_ram, wraps, of_image] {
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

    fn nic() -> NicRecord {
        let mut segment = [0; 16];
        segment[..3].copy_from_slice(b"lan");
        NicRecord { segment, ..NicRecord::new_zeroed() }
    }

    fn described(vm: VmRecord, segments: &[SegmentRecord], nics: &[NicRecord]) -> Vec<u8> {
        let vm = VmRecord { segment_count: (segments.len() as u32).into(), ..vm };
        [vm.as_bytes(), segments.as_bytes(), nics.as_bytes()].concat()
    }

    fn of_image(ipa: u64) -> SegmentRecord {
        SegmentRecord { ipa: ipa.into(), image: 7.into(), ..segment() }
    }

    #[test]
    fn a_manager_describes_a_vm_that_is_off_and_stays() {
        let segments = [of_image(RAM_BASE), of_image(RAM_BASE + 0x1000)];
        let bytes = described(vm(), &segments, &[nic(), nic()]);
        let spec = VmSpec::parse(&bytes).unwrap();
        assert_eq!((spec.name(), spec.stays(), spec.starts_off(), spec.starts_frozen()), ("good", true, true, false));
        let second = Segment { ipa: Ipa(RAM_BASE + 0x1000), offset: 0x1000, length: 5, image: 7 };
        assert_eq!((spec.segments().count(), spec.segments().nth(1)), (2, Some(second)));
        assert_eq!((spec.nics().count(), spec.nics().next().unwrap().segment), (2, nic().segment));
        assert!(spec.is_same(&VmSpec::parse(&bytes).unwrap()));
        let other = VmSpec::parse(&described(vm(), &segments, &[nic()])).unwrap();
        assert!(!spec.is_same(&other));
        assert!(VmSpec::parse(&described(vm(), &[], &[])).is_some(), "memory may be all zeros");
    }

    #[test]
    fn a_description_that_makes_no_sense_is_refused() {
        let one = [of_image(RAM_BASE)];
        let elsewhere = NicRecord { vm: 1.into(), ..nic() };
        let bad_nic = NicRecord { vlan: 4095.into(), ..nic() };
        let bad_trunk = NicRecord { vlans: [20, 10, 0, 0].map(Into::into), ..nic() };
        let unaligned = SegmentRecord { offset: 0x1001.into(), ..one[0] };
        let overlapping = [of_image(RAM_BASE), SegmentRecord { length: 0x1001.into(), ..of_image(RAM_BASE) }];
        for (what, bytes) in [
            ("a part of a record", described(vm(), &one, &[])[..100].to_vec()),
            ("a part of a NIC", described(vm(), &one, &[nic()])[..150].to_vec()),
            ("no image", described(vm(), &[segment()], &[])),
            ("unaligned", described(vm(), &[unaligned], &[])),
            ("overlapping", described(vm(), &overlapping, &[])),
            ("a manager", described(VmRecord { flags: FLAG_MANAGER.into(), ..vm() }, &one, &[])),
            ("later segments", described(VmRecord { first_segment: 1.into(), ..vm() }, &one, &[])),
            ("another VM's NIC", described(vm(), &one, &[elsewhere])),
            ("no VLAN", described(vm(), &one, &[bad_nic])),
            ("no trunk port", described(vm(), &one, &[bad_trunk])),
            ("five NICs", described(vm(), &one, &[nic(); 5])),
            (
                "17 segments",
                described(vm(), &core::array::from_fn::<_, 17, _>(|n| of_image(RAM_BASE + n as u64 * 0x1000)), &[]),
            ),
            ("no vCPU", described(VmRecord { vcpus: 0.into(), ..vm() }, &one, &[])),
            ("nothing", vec![]),
        ] {
            assert!(VmSpec::parse(&bytes).is_none(), "{what}");
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
            let mut bytes = described(vm(), &[of_image(RAM_BASE)], &[nic()]);
            for (byte, noise) in bytes.iter_mut().zip(&noise).filter(|(_, noise)| **noise < 8) {
                *byte = *noise;
            }
            for bytes in [&noise, &bytes] {
                if let Some(spec) = VmSpec::parse(bytes) {
                    prop_assert!(spec.segments().all(|segment| spec.ram().contains(&segment.ipa) && segment.image != 0));
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
