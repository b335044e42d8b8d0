//! Keeps every vCPU busy, and measures on the first for how long it was stopped: the largest difference of two readings of
//! the physical counter in a row. With time that counts instructions, a gap holds what all CPUs have executed.
//!
//! Boot arguments: `gap=TICKS` (default 2000) which gaps are told; `touch=N` (default 0) words that are written before,
//! spread over all of RAM. Every gap is a line `GAP max=N at=COUNTER`, with the reading after it. It comes a moment later,
//! for neither the source nor its clone shall write to memory while the other one is still stopped; of gaps that follow
//! each other closely the first two are told. Clones tell nothing.
//!
//! Every turn of every loop yields, so that an emulator which runs one CPU at a time gives each a turn.

use crate::machine::number;
use crate::rt::{cpu, sysreg};
use crate::{println, salp};

/// Turns after a gap until it is told.
const SETTLED: u32 = 500;

/// Runs the role.
pub fn main() {
    super::touch(number("touch", 0));
    let limit = number("gap", 2000);
    let count = cpu::start_all(|_| {
        sysreg::mask_all();
        loop {
            cpu::relax();
        }
    });
    println!("READY {count} vCPUs");
    loop {
        let gaps = next(limit);
        // Clones keep quiet: what they print is a gap for the source.
        if salp::present().is_ok_and(|present| present.index > 0) {
            continue;
        }
        gaps.iter().filter(|(gap, _)| *gap > 0).for_each(|(gap, at)| println!("GAP max={gap} at={at}"));
    }
}

/// Returns the next two gaps above `limit` and the counter behind each, or one if there is none for some turns after it.
/// Until then it touches no memory.
#[inline(never)]
fn next(limit: u64) -> [(u64, u64); 2] {
    let (mut first, mut second) = ((0, 0), (0, 0));
    let mut last = sysreg::cntpct();
    let mut left = SETTLED;
    while left > 0 {
        cpu::relax();
        let now = sysreg::cntpct();
        let gap = now.wrapping_sub(last);
        last = now;
        if gap > limit {
            second = if first.0 == 0 { second } else { (gap, now) };
            first = if first.0 == 0 { (gap, now) } else { first };
            left = if second.0 == 0 { SETTLED } else { 1 };
        }
        left -= u32::from(first.0 > 0);
    }
    [first, second]
}
