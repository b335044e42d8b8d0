//! Where something fits in RAM before the frame table exists. Used at boot, before `frames`.

use core::ops::Range;

/// Finds the lowest `size` bytes in `banks` and `within` that overlap none of `taken`, aligned to a power of two.
pub fn find(banks: &[Range<u64>], taken: &[Range<u64>], within: Range<u64>, size: u64, align: u64) -> Option<u64> {
    let starts = banks.iter().map(|bank| bank.start).chain(taken.iter().map(|range| range.end));
    starts
        .filter_map(|start| start.max(within.start).checked_next_multiple_of(align))
        .filter(|&start| {
            let Some(end) = start.checked_add(size) else { return false };
            end <= within.end
                && banks.iter().any(|bank| bank.start <= start && end <= bank.end)
                && !taken.iter().any(|range| range.start < end && start < range.end)
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANK: Range<u64> = 0x1000..0x10000;

    #[test]
    fn finds_the_lowest_gap_that_is_large_enough() {
        let taken = [0x1000..0x2000, 0x3000..0x4000];
        assert_eq!(find(&[BANK], &taken, 0..u64::MAX, 0x1000, 0x1000), Some(0x2000));
        assert_eq!(find(&[BANK], &taken, 0..u64::MAX, 0x2000, 0x1000), Some(0x4000));
    }

    #[test]
    fn stays_within_a_bank_and_the_window() {
        assert_eq!(find(&[BANK], &[], 0..0x4000, 0x4000, 0x1000), None);
        assert_eq!(find(&[BANK, 0x20000..0x40000], &[], 0..u64::MAX, 0x10000, 0x1000), Some(0x20000));
        assert_eq!(find(&[BANK], &[], 0x5000..u64::MAX, 0x1000, 0x4000), Some(0x8000));
    }
}
