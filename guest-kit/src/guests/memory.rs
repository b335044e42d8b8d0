//! Fills RAM with a pattern of its own, changes parts of it, and verifies all of it again and again. For tests of what
//! shares, copies and takes back memory: a page that was lost, mixed up or leaked is a wrong word.
//!
//! Boot arguments: `seed=N` (default 1) the pattern; `rounds=N` (default 3, 0: for ever); `for=MS` (default 0) more rounds
//! than that until this much time has passed; `size=MIB` how much (default all that is free); `step=BYTES` from one word to
//! the next (default 512; 8 is every word); `pause=MS` asleep between rounds (default 0); `exit=no` stay asleep at the end.
//! Each round rewrites about a quarter of the pages.
//!
//! `SUM round=N words=N wrong=N sum=0x…`: the sum is a function of seed, round, size and step, and of nothing else.

use crate::random::Random;
use crate::rt::ram::Ram;
use crate::rt::sysreg;
use crate::{gic, machine, println, test, timer, words};

const PAGE: u64 = 4096;

/// Runs the guest.
pub fn main() {
    gic::init();
    gic::enable(timer::VIRTUAL_INTID);
    let (seed, rounds) = (machine::number("seed", 1), machine::number("rounds", 3));
    let step = machine::number("step", 512).clamp(8, PAGE) & !7;
    let all = Ram::largest();
    let bytes = (machine::number("size", u64::MAX >> 20) << 20).min(all.end() - all.start());
    let Some(ram) = all.from(all.start(), bytes) else { return };
    println!("memory: seed {seed}, {} pages", bytes / PAGE);
    let pages = || (0..bytes / PAGE).map(|page| ram.start() + page * PAGE);
    let mut failed = 0;
    let mut round = 0;
    let end = sysreg::cntvct() + timer::ticks(machine::number("for", 0) * 1000);
    while rounds == 0 || round < rounds || sysreg::cntvct() < end {
        for page in pages().filter(|&page| round == 0 || changes(seed, page, round)) {
            for offset in (0..PAGE).step_by(step as usize) {
                ram.write(page + offset, word(seed, page + offset, round));
            }
        }
        let (mut count, mut wrong, mut sum) = (0u64, 0u64, 0u64);
        for page in pages() {
            let since = (1..=round).rev().find(|&earlier| changes(seed, page, earlier)).unwrap_or(0);
            for offset in (0..PAGE).step_by(step as usize) {
                let (value, expected) = (ram.read(page + offset), word(seed, page + offset, since));
                if value != expected {
                    wrong += 1;
                    if wrong <= 8 {
                        println!("WRONG {:#x}: {value:#x}, expected {expected:#x}", page + offset);
                    }
                }
                count += 1;
                sum = sum.rotate_left(1) ^ value;
            }
        }
        println!("SUM round={round} words={count} wrong={wrong} sum={sum:#018x}");
        failed += u32::from(wrong > 0);
        round += 1;
        let pause = machine::number("pause", 0);
        if pause > 0 {
            timer::sleep(pause);
        }
    }
    test::done(u32::from(failed == 0), failed, 0);
    while words::get(machine::bootargs(), "exit") == Some("no") {
        timer::sleep(1000);
    }
}

fn changes(seed: u64, page: u64, round: u64) -> bool {
    Random::new(seed ^ page.rotate_left(20) ^ round.rotate_left(50)).below(4) == 0
}

fn word(seed: u64, address: u64, round: u64) -> u64 {
    Random::new(seed.rotate_left(40) ^ address ^ round.rotate_left(52)).draw()
}
