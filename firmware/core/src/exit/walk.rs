//! The level at which a guest's own walk of its stage 1 tables hit a place without memory. Before: [`super::decode`],
//! whose syndrome tells the level of stage 2, not of stage 1; after: [`super::inject`].
//!
//! Cold: only a guest with a broken table gets here. Its tables are hostile input: at most four descriptors are read.

use crate::addr::{Ipa, Va};

/// The last level of every walk.
const LAST: u8 = 3;
/// Output addresses of tables, without FEAT_LPA: bits 47 and down.
const ADDRESS: u64 = (1 << 48) - 1;
/// A descriptor's low two bits: a table, at the levels before the last (Arm ARM D8.3.1).
const TABLE: u64 = 0b11;

/// The shape of one half of the guest's address space, from TCR_EL1 (Arm ARM D24.2.185).
struct Shape {
    /// log2 of the granule.
    page_bits: u64,
    /// The width of the input address.
    input_bits: u64,
}

impl Shape {
    fn of(tcr_el1: u64, va: Va) -> Self {
        let upper = is_upper(va);
        let (size, granule) = if upper { (tcr_el1 >> 16, tcr_el1 >> 30) } else { (tcr_el1, tcr_el1 >> 14) };
        // TG0 and TG1 number the granules differently.
        let page_bits = match (upper, granule & 3) {
            (false, 1) | (true, 3) => 16,
            (false, 2) | (true, 1) => 14,
            _ => 12,
        };
        // 52-bit addresses exist with the largest granule only: FEAT_LPA2 is hidden from guests.
        let smallest = if page_bits == 16 { 12 } else { 16 };
        Self { page_bits, input_bits: 64 - (size & 0x3f).clamp(smallest, 48) }
    }

    /// Returns the number of address bits that one full table resolves.
    fn index_bits(&self) -> u64 {
        self.page_bits - 3
    }

    fn start_level(&self) -> u8 {
        let levels = self.input_bits.saturating_sub(self.page_bits).div_ceil(self.index_bits());
        4u64.saturating_sub(levels.max(1)) as u8
    }

    /// Returns the lowest address bit that a table at this level resolves.
    fn shift(&self, level: u8) -> u64 {
        self.page_bits + u64::from(LAST.saturating_sub(level)) * self.index_bits()
    }
}

/// Returns true for an address that TTBR1_EL1 translates.
fn is_upper(va: Va) -> bool {
    va.0 & 1 << 55 != 0
}

/// Returns the level at which the guest's stage 1 walk for `va` starts (Arm ARM D8.2.6).
pub fn start_level(tcr_el1: u64, va: Va) -> u8 {
    Shape::of(tcr_el1, va).start_level()
}

/// Returns the level, 0 to 3, at which the guest's stage 1 walk for `va` reads from the page of `fault_ipa`.
///
/// `ttbr` is TTBR0_EL1 and TTBR1_EL1; `read` returns the descriptor at an address, `None` where the guest has no memory.
/// A walk that does not come to that page (the guest's tables changed meanwhile) gives the start level.
pub fn walk_level(
    tcr_el1: u64,
    ttbr: (u64, u64),
    va: Va,
    fault_ipa: Ipa,
    mut read: impl FnMut(Ipa) -> Option<u64>,
) -> u8 {
    let shape = Shape::of(tcr_el1, va);
    let start = shape.start_level();
    let input = va.0 & ((1 << shape.input_bits) - 1);
    // The first table is aligned to its size, 64 bytes at least; bits below are not of the address (D24.2.194).
    let first_bytes = 8u64 << shape.input_bits.saturating_sub(shape.shift(start));
    let mut table = if is_upper(va) { ttbr.1 } else { ttbr.0 } & ADDRESS & !(first_bytes.max(64) - 1);
    let mut index_mask = u64::MAX;
    for level in start..=LAST {
        let index = input >> shape.shift(level) & index_mask;
        let at = Ipa(table | index << 3);
        if at.page() == fault_ipa.page() {
            return level;
        }
        let Some(descriptor) = read(at).filter(|descriptor| descriptor & TABLE == TABLE) else { break };
        table = descriptor & ADDRESS & !((1 << shape.page_bits) - 1);
        index_mask = (1 << shape.index_bits()) - 1;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const LINUX_48: u64 = 16 | 16 << 16 | 2 << 30;
    const LINUX_39: u64 = 25 | 25 << 16 | 2 << 30;
    const LINUX_47_16K: u64 = 17 | 17 << 16 | 2 << 14 | 1 << 30;
    const LINUX_48_16K: u64 = 16 | 16 << 16 | 2 << 14 | 1 << 30;
    const LINUX_42_64K: u64 = 22 | 22 << 16 | 1 << 14 | 3 << 30;
    const LINUX_48_64K: u64 = 16 | 16 << 16 | 1 << 14 | 3 << 30;
    const KERNEL: u64 = 0xffff_0000_0000_0000;

    #[test]
    fn the_walk_starts_where_tcr_says() {
        for (tcr, level) in [(LINUX_48, 0), (LINUX_39, 1), (LINUX_47_16K, 1), (LINUX_48_16K, 0), (LINUX_42_64K, 2)] {
            assert_eq!((start_level(tcr, Va(0)), start_level(tcr, Va(KERNEL))), (level, level), "{tcr:#x}");
        }
    }

    /// Table `n` of a guest.
    fn table(n: u64) -> u64 {
        0x8000_0000 + n * 0x1_0000
    }

    /// Checks a guest whose tables are good down to each level in turn: `indices` are those of `va`, from the start level.
    fn check(tcr: u64, va: u64, indices: &[u64]) {
        let start = 4 - indices.len() as u8;
        let entry = |n: usize| table(n as u64) + indices[n] * 8;
        // The ASID and CnP are not of the address. The other half has another table.
        let root = table(0) | 0x12 << 48 | 1;
        let ttbr = if va >> 55 & 1 == 0 { (root, 0x7000_0001) } else { (0x7000_0001, root) };
        for bad in 0..indices.len() {
            let mut reads = Vec::new();
            let level = walk_level(tcr, ttbr, Va(va), Ipa(entry(bad) & !0xfff | 0x123), |at| {
                reads.push(at.0);
                let n = (0..bad).find(|&n| entry(n) == at.0)?;
                // Attributes of a table descriptor (PXNTable and the like) are not of the address.
                Some(table(n as u64 + 1) | 0xf8 << 56 | 3)
            });
            assert_eq!(level, start + bad as u8, "{tcr:#x} {va:#x}: table {bad} is nowhere");
            assert_eq!(reads, (0..bad).map(entry).collect::<Vec<_>>(), "what is read before");
        }
    }

    #[test]
    fn each_granule_has_its_levels() {
        // A tag in the top byte is not of the address (TBI).
        check(LINUX_48, 0x0000_8080_8060_5678, &[0x101, 0x2, 0x3, 0x5]);
        check(LINUX_48, 0xab00_8080_8060_5678 & !(1 << 55), &[0x101, 0x2, 0x3, 0x5]);
        check(LINUX_48, KERNEL | 0x8080_8060_5678, &[0x101, 0x2, 0x3, 0x5]);
        check(LINUX_39, 0x0000_0040_4060_1000, &[0x101, 0x3, 0x1]);
        check(LINUX_39, 0xffff_ff80_0020_0000 | 511 << 30, &[0x1ff, 0x1, 0x0]);
        check(LINUX_47_16K, 0x0000_7ff0_0200_4000, &[0x7ff, 0x1, 0x1]);
        check(LINUX_48_16K, KERNEL | 0x8010_0200_c000, &[0x1, 0x1, 0x1, 0x3]);
        check(LINUX_42_64K, 0x0000_0200_2001_0000, &[0x1001, 0x1]);
        check(LINUX_48_64K, KERNEL | 0xfc00_2001_0000, &[0x3f, 0x1, 0x1]);
    }

    #[test]
    fn a_walk_that_does_not_reach_the_page_tells_the_start() {
        let walk = |descriptor| walk_level(LINUX_48, (table(0), 0), Va(0), Ipa(0x900_0000), |_| descriptor);
        for descriptor in [None, Some(0), Some(2), Some(1), Some(table(1) | 3), Some(table(0) | 3)] {
            assert_eq!(walk(descriptor), 0, "{descriptor:x?}");
        }
        // The last table is reached, and says where the page is; the page itself is not a table.
        assert_eq!(walk_level(LINUX_39, (table(0), 0), Va(0), Ipa(0x900_0000), |_| Some(0x900_0003)), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 5 } else { 2000 }, ..ProptestConfig::default() })]

        #[test]
        fn any_tables_end_within_four_levels(
            tcr: u64, ttbr: (u64, u64), va: u64, fault: u64,
            descriptors in proptest::collection::vec(prop_oneof![any::<u64>(), any::<u64>().prop_map(|d| d | 3)], 0..4),
        ) {
            let mut reads = Vec::new();
            let mut next = descriptors.iter().copied();
            let level = walk_level(tcr, ttbr, Va(va), Ipa(fault), |at| {
                reads.push(at);
                next.next()
            });
            let start = start_level(tcr, Va(va));
            prop_assert!((start..=3).contains(&level));
            prop_assert!(reads.len() <= 4 - usize::from(start));
            prop_assert!(reads.iter().all(|at| at.is_aligned(8) && at.0 < 1 << 48 && at.page() != Ipa(fault).page()));
            prop_assert!(level == start || usize::from(level - start) == reads.len());
        }

        #[test]
        fn the_walk_is_found_again_at_the_level_where_it_ended(
            tcr: u64, va: u64, root in 1u64 << 20..1 << 28, hole in 0u64..4,
        ) {
            // Tables that are all different: the walk that reads `n` descriptors stops at its next one.
            let descriptor = |n: u64| (0x1000_0000_0000 + (n << 30)) | 3;
            let ttbr = (root << 20, root << 20);
            let start = u64::from(start_level(tcr, Va(va)));
            let mut path = HashMap::new();
            let mut order = Vec::new();
            walk_level(tcr, ttbr, Va(va), Ipa(!0), |at| {
                path.insert(at, order.len() as u64);
                order.push(at);
                Some(descriptor(order.len() as u64))
            });
            prop_assert_eq!(order.len() as u64, 4 - start);
            let hole = (hole as usize).min(order.len() - 1);
            let level = walk_level(tcr, ttbr, Va(va), order[hole], |at| path.get(&at).map(|&n| descriptor(n + 1)));
            prop_assert_eq!(u64::from(level), start + hole as u64);
        }
    }
}
