//! The boot set: all VMs of a machine in one file, equal bytes only once.
//!
//! Comes after [`place`](crate::place); [`machine`](crate::machine) hands it to EL2. Layout: [`salp_hvc::bootset`].

use crate::place::Placed;
use crate::vm::{Restart, Size, check_name};
use anyhow::{Result, ensure};
use salp_hvc::bootset::{
    FLAG_FROZEN, FLAG_MANAGER, FLAG_OFF, FLAG_RESTART_ON_CRASH, FLAG_SMALL_PAGES, FLAG_STAYS, Header, MAGIC, NicRecord,
    PAGE, SegmentRecord, VERSION, VmRecord,
};
use std::collections::HashMap;
use zerocopy::IntoBytes;

/// Segments in which such a block lies whole are laid so that EL2 can map it as one.
const BLOCK: u64 = 2 << 20;

/// Packs VMs into a boot set. Equal VMs give equal bytes.
///
/// # Errors
///
/// A sentence that names the VM whose name is taken or wrong.
pub fn pack(vms: &[Placed]) -> Result<Vec<u8>> {
    ensure!(!vms.is_empty(), "a boot set has at least one VM");
    for (index, vm) in vms.iter().enumerate() {
        check_name(&vm.name)?;
        ensure!(vms[..index].iter().all(|other| other.name != vm.name), "there are two VMs with the name {}", vm.name);
    }
    let segment_count: usize = vms.iter().map(|vm| vm.segments.len()).sum();
    let nics: Vec<NicRecord> =
        (0..).zip(vms).flat_map(|(index, vm)| vm.nics.iter().map(move |nic| nic.record(index))).collect();
    let records = size_of::<Header>()
        + vms.len() * size_of::<VmRecord>()
        + segment_count * size_of::<SegmentRecord>()
        + nics.len() * size_of::<NicRecord>();
    let mut room = Room::new(records as u64);
    let mut places: HashMap<&[u8], u64> = HashMap::new();
    let mut contents: Vec<(u64, &[u8])> = Vec::new();
    // Large segments first: the small ones fill the gaps that their alignment leaves.
    let mut largest_first: Vec<_> = vms.iter().flat_map(|vm| &vm.segments).collect();
    largest_first.sort_by_key(|segment| std::cmp::Reverse(segment.bytes.len()));
    for segment in largest_first {
        places.entry(&segment.bytes).or_insert_with(|| {
            let offset = room.take(segment.bytes.len() as u64, segment.ipa);
            contents.push((offset, &segment.bytes));
            offset
        });
    }

    let mut set = vec![0; room.end as usize];
    let mut vm_records = Vec::new();
    let mut segment_records = Vec::new();
    for vm in vms {
        let mut name = [0; 32];
        name[..vm.name.len()].copy_from_slice(vm.name.as_bytes());
        vm_records.push(VmRecord {
            name,
            vcpus: vm.cpus.into(),
            flags: flags(vm).into(),
            memory: vm.memory.into(),
            entry: vm.entry.into(),
            x0: vm.device_tree.into(),
            first_segment: (segment_records.len() as u32).into(),
            segment_count: (vm.segments.len() as u32).into(),
        });
        segment_records.extend(vm.segments.iter().map(|segment| SegmentRecord {
            ipa: segment.ipa.into(),
            offset: places[&*segment.bytes].into(),
            length: (segment.bytes.len() as u64).into(),
            image: 0.into(),
        }));
    }
    let header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        vm_count: (vms.len() as u32).into(),
        segment_count: (segment_records.len() as u32).into(),
        nic_count: (nics.len() as u32).into(),
        size: room.end.into(),
    };
    let tables = [header.as_bytes(), vm_records.as_bytes(), segment_records.as_bytes(), nics.as_bytes()].concat();
    set[..tables.len()].copy_from_slice(&tables);
    for (offset, bytes) in contents {
        set[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(set)
}

fn flags(vm: &Placed) -> u32 {
    let flags = [
        (vm.restart == Restart::OnCrash, FLAG_RESTART_ON_CRASH),
        (vm.small_pages, FLAG_SMALL_PAGES),
        (vm.manager, FLAG_MANAGER),
        (vm.frozen, FLAG_FROZEN),
        (vm.stays, FLAG_STAYS),
        (vm.off, FLAG_OFF),
    ];
    flags.into_iter().filter(|&(is_set, _)| is_set).map(|(_, flag)| flag).sum()
}

/// The space of a boot set as it fills: its end, and the gaps before it.
struct Room {
    end: u64,
    gaps: Vec<(u64, u64)>,
}

impl Room {
    fn new(tables: u64) -> Self {
        Self { end: tables.next_multiple_of(PAGE), gaps: Vec::new() }
    }

    /// Finds a place for `size` bytes that go to `ipa`, and returns its offset.
    fn take(&mut self, size: u64, ipa: u64) -> u64 {
        let size = size.next_multiple_of(PAGE);
        if ipa.next_multiple_of(BLOCK) + BLOCK <= ipa + size {
            let start = self.end + (ipa.wrapping_sub(self.end) & (BLOCK - 1));
            if start > self.end {
                self.gaps.push((self.end, start - self.end));
            }
            self.end = start + size;
            return start;
        }
        if let Some(gap) = self.gaps.iter_mut().find(|gap| gap.1 >= size) {
            let start = gap.0;
            *gap = (start + size, gap.1 - size);
            return start;
        }
        self.end += size;
        self.end - size
    }
}

/// What EL2 needs for itself: this much, and one part in 256 of RAM.
const EL2_FIXED: u64 = 8 << 20;

/// Returns how much memory a machine must have for these VMs to have all of theirs, in bytes: a multiple of 64 MiB.
pub fn memory_needed(vms: &[Placed], set: &[u8]) -> u64 {
    let guests: u64 = vms.iter().map(|vm| vm.memory).sum();
    let sum = guests + set.len() as u64 + EL2_FIXED;
    (sum + sum / 250).next_multiple_of(64 << 20)
}

/// Checks that a boot set can be handed to EL2 on a machine with `memory` bytes of RAM.
///
/// # Errors
///
/// A sentence that names the sizes and the limit.
pub fn check_fits(set: &[u8], memory: u64) -> Result<()> {
    // QEMU puts what it hands over at half of RAM, at most 128 MiB, and the device tree behind it.
    let room = memory - (memory / 2).min(128 << 20) - (4 << 20);
    ensure!(
        set.len() as u64 <= room,
        "kernels and initrds are {} together, and a machine with {} of memory takes at most {}",
        Size(set.len() as u64),
        Size(memory),
        Size(room)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Piece;
    use proptest::prelude::*;
    use salp_board::guest::RAM_BASE;
    use salp_hvc::bootset::MAX_SEGMENTS;
    use zerocopy::FromBytes;

    fn vm(name: &str, segments: Vec<Piece>) -> Placed {
        Placed {
            name: name.into(),
            cpus: 2,
            memory: 64 << 20,
            entry: RAM_BASE + 8,
            device_tree: RAM_BASE,
            restart: Restart::OnCrash,
            small_pages: true,
            frozen: name == "b",
            manager: false,
            stays: false,
            off: false,
            nics: Vec::new(),
            segments,
        }
    }

    fn read(set: &[u8]) -> (Header, Vec<VmRecord>, Vec<SegmentRecord>) {
        let (header, rest) = Header::read_from_prefix(set).expect("a header");
        let mut rest = rest;
        let mut vms = Vec::new();
        for _ in 0..header.vm_count.get() {
            let (vm, behind) = VmRecord::read_from_prefix(rest).expect("a VM");
            vms.push(vm);
            rest = behind;
        }
        let mut segments = Vec::new();
        for _ in 0..header.segment_count.get() {
            let (segment, behind) = SegmentRecord::read_from_prefix(rest).expect("a segment");
            segments.push(segment);
            rest = behind;
        }
        (header, vms, segments)
    }

    #[test]
    fn vms_with_the_same_kernel_share_its_bytes() {
        let kernel = Piece { ipa: RAM_BASE, bytes: vec![7; (3 << 20) + 5] };
        let tree = |n| Piece { ipa: RAM_BASE + (8 << 20), bytes: vec![n; 100] };
        let set = pack(&[vm("a", vec![kernel.clone(), tree(1)]), vm("b", vec![kernel, tree(2)])]).expect("a set");
        let (header, vms, segments) = read(&set);
        assert_eq!((header.magic, header.size.get()), (MAGIC, set.len() as u64));
        assert_eq!((vms[1].first_segment.get(), vms[1].segment_count.get(), vms[1].flags.get()), (2, 2, 11));
        assert_eq!(vms[0].flags.get(), 3);
        assert_eq!(&vms[1].name[..2], b"b\0");
        assert_eq!(segments[0].offset, segments[2].offset);
        assert_ne!(segments[1].offset, segments[3].offset);
        assert_eq!(segments[0].offset.get() % BLOCK, 0, "EL2 can map the kernel in blocks");
        assert!(set.len() < 6 << 20, "{}", set.len());
    }

    #[test]
    fn names_and_limits_are_checked() {
        let message = |vms: &[Placed]| format!("{:#}", pack(vms).expect_err("a refusal"));
        assert!(message(&[]).contains("at least one"));
        assert!(message(&[vm("a", vec![]), vm("a", vec![])]).contains("two VMs with the name a"));
        assert!(message(&[vm("a/b", vec![])]).contains("1 to 31"));
        assert!(check_fits(&vec![0; 125 << 20], 256 << 20).is_err());
        assert!(check_fits(&vec![0; 123 << 20], 256 << 20).is_ok());
    }

    proptest! {
        #[test]
        fn every_segment_is_found_again(
            parts in prop::collection::vec(prop::collection::vec((any::<u8>(), 1_usize..20_000, 0_u64..1000), 1..6), 1..6),
            large in prop::option::of(0_u64..1000),
        ) {
            let mut vms: Vec<Placed> = parts
                .iter()
                .enumerate()
                .map(|(index, parts)| {
                    let pieces = parts.iter().map(|&(byte, size, page)| Piece { ipa: RAM_BASE + page * PAGE, bytes: vec![byte; size] });
                    vm(&format!("vm{index}"), pieces.collect())
                })
                .collect();
            if let Some(page) = large {
                vms[0].segments.push(Piece { ipa: RAM_BASE + page * PAGE, bytes: vec![1; (2 << 20) + 1] });
            }
            let set = pack(&vms).expect("a set");
            prop_assert!((set.len() as u64).is_multiple_of(PAGE));
            let (_, records, segments) = read(&set);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (record, vm) in records.iter().zip(&vms) {
                prop_assert!(record.segment_count.get() <= MAX_SEGMENTS);
                let mine = &segments[record.first_segment.get() as usize..][..record.segment_count.get() as usize];
                for (segment, piece) in mine.iter().zip(&vm.segments) {
                    let (offset, length) = (segment.offset.get(), segment.length.get());
                    let end = offset + length.next_multiple_of(PAGE);
                    prop_assert!(offset.is_multiple_of(PAGE) && segment.ipa.get() == piece.ipa);
                    prop_assert_eq!(&set[offset as usize..(offset + length) as usize], &piece.bytes[..]);
                    prop_assert!(set[(offset + length) as usize..end as usize].iter().all(|&byte| byte == 0));
                    taken.push((offset, end));
                }
            }
            taken.sort_unstable();
            taken.dedup();
            prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", taken);
        }
    }
}
