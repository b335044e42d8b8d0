//! Keeps every vCPU busy, and measures on the first for how long it was stopped: the largest difference of two readings of
//! the physical counter in a row. With time that counts instructions, a gap holds what all CPUs have executed.
//!
//! Boot arguments: `gap=TICKS` (default 2000) which gaps are told; `touch=N` (default 0) words that are written before,
//! spread over all of RAM. Every gap is a line `GAP max=N at=COUNTER`, the reading after it, a moment later: what follows
//! one gap closely is told with it.
//!
//! Every turn of every loop yields, so that an emulator which runs one CPU at a time gives each a turn.

use crate::machine::number;
use crate::println;
use crate::rt::{cpu, sysreg};

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
    let mut gaps = heapless::Vec::<(u64, u64), 8>::new();
    loop {
        let (gap, at) = next(limit, u32::MAX);
        let _ = gaps.push((gap, at));
        loop {
            let (gap, at) = next(limit, SETTLED);
            if gap == 0 {
                break;
            }
            let _ = gaps.push((gap, at));
        }
        gaps.iter().for_each(|(gap, at)| println!("GAP max={gap} at={at}"));
        gaps.clear();
    }
}

/// Returns the next gap above `limit` and the counter behind it; a gap of 0 after so many `turns` without one. Touches no
/// memory meanwhile.
#[inline(never)]
fn next(limit: u64, turns: u32) -> (u64, u64) {
    let mut last = sysreg::cntpct();
    let mut left = turns;
    loop {
        cpu::relax();
        let now = sysreg::cntpct();
        if now - last > limit {
            return (now - last, now);
        }
        last = now;
        if turns != u32::MAX {
            left -= 1;
            if left == 0 {
                return (0, now);
            }
        }
    }
}
