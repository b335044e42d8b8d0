//! Verifies that a clone's memory is what it was at the fork, and what it has written since, and nobody else's.
//!
//! Boot arguments: `mib=N` (default 16) how much memory; `step=BYTES` (default 512) from one word to the next; `freeze`
//! before the first round; `rounds=N` (default 0: for ever); `every=N` (default 10) rounds between two lines; `pause=MS`
//! (default 0) asleep between rounds. Every vCPU has its part of the memory.
//!
//! A word holds a pattern of who wrote it (the VM's identity), where and in which round. A page's *tag* says which. A fork
//! copies words and tags alike, wherever it cuts; what one VM writes afterwards has an identity or a round that the other
//! one does not accept.
//!
//! `CHECK ok rounds=N index=I uuid=…` regularly; else `FAIL checker: …` with address, found and expected.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Hex, fail, must};
use crate::machine::{self, MAX_CPUS, number};
use crate::random::Random;
use crate::rt::cpu;
use crate::rt::ram::Ram;
use crate::{gic, println, salp, timer};

const PAGE: u64 = 4096;
/// Bytes of a page's tag: identity, round.
const TAG: u64 = 16;
/// How many forks of forks a part remembers.
const ANCESTORS: usize = 64;

static FILLED: AtomicUsize = AtomicUsize::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);
static ROUNDS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Runs the role.
pub fn main() {
    let count = cpu::start_all(|context| {
        gic::init_cpu();
        gic::enable(timer::VIRTUAL_INTID);
        work(context as usize);
    });
    println!("checker: {count} vCPUs");
    work(0);
}

fn work(index: usize) {
    let mut part = Part::new(index, machine::cpu_count());
    part.fill();
    FILLED.fetch_add(1, Ordering::AcqRel);
    if index == 0 {
        while FILLED.load(Ordering::Acquire) < machine::cpu_count() {
            cpu::relax();
        }
        println!("READY");
        if machine::has("freeze") {
            must("FREEZE", salp::freeze());
        }
        STARTED.store(1, Ordering::Release);
    }
    while STARTED.load(Ordering::Acquire) == 0 {
        cpu::relax();
    }
    let (rounds, pause) = (number("rounds", 0), number("pause", 0));
    let mut report = Report { every: number("every", 10).max(1), last: 0 };
    while rounds == 0 || part.round < rounds {
        part.check_and_change();
        ROUNDS[index].store(part.round, Ordering::Release);
        if index == 0 {
            report.look();
        }
        if pause > 0 {
            timer::sleep(pause);
        }
    }
    if index == 0 {
        while least_rounds() < rounds {
            cpu::relax();
        }
    }
}

fn least_rounds() -> u64 {
    ROUNDS[..machine::cpu_count()].iter().map(|rounds| rounds.load(Ordering::Acquire)).min().unwrap_or(0)
}

/// What was said last.
struct Report {
    every: u64,
    last: u64,
}

impl Report {
    /// Says how far every vCPU is, if that is far enough.
    fn look(&mut self) {
        let rounds = least_rounds();
        if rounds >= self.last + self.every {
            self.last = rounds;
            let (present, uuid) = (must("IDENTITY", salp::present()), must("IDENTITY", salp::uuid()));
            println!("CHECK ok rounds={rounds} index={} uuid={}", present.index, Hex(&uuid));
        }
    }
}

/// One vCPU's part of the memory, and what is known of its writers. All but words and tags is on the vCPU's stack.
struct Part {
    index: usize,
    words: Ram,
    tags: Ram,
    step: u64,
    round: u64,
    identity: u64,
    epoch: u64,
    /// Who this VM was before, and the last round of each.
    ancestors: heapless::Vec<(u64, u64), ANCESTORS>,
}

impl Part {
    fn new(index: usize, parts: usize) -> Self {
        let all = Ram::largest();
        let share = ((number("mib", 16) << 20).min(all.end() - all.start()) / parts as u64) & !(PAGE - 1);
        let start = all.start() + index as u64 * share;
        // One page less: the tags take whole ones.
        let pages = (share / (PAGE + TAG)).saturating_sub(1);
        let words = start + (pages * TAG).next_multiple_of(PAGE);
        let (Some(tags), Some(words)) = (all.from(start, pages * TAG), all.from(words, pages * PAGE)) else {
            fail(format_args!("there is no memory for {parts} parts"));
        };
        let step = number("step", 512).clamp(8, PAGE) & !7;
        let epoch = must("IDENTITY", salp::present()).epoch;
        Self { index, words, tags, step, round: 0, identity: identity(), epoch, ancestors: heapless::Vec::new() }
    }

    fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.words.start()..self.words.end()).step_by(PAGE as usize)
    }

    fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        (0..PAGE).step_by(self.step as usize)
    }

    fn tag(&self, page: u64) -> u64 {
        self.tags.start() + (page - self.words.start()) / PAGE * TAG
    }

    fn fill(&self) {
        self.pages().for_each(|page| self.write(page));
    }

    /// Goes over all pages: verifies each, or writes it anew.
    fn check_and_change(&mut self) {
        self.round += 1;
        let mut random = Random::new(self.identity ^ self.round ^ (self.index as u64) << 32);
        for page in self.pages() {
            self.look();
            self.verify(page);
            if random.below(8) == 0 {
                self.write(page);
            }
        }
    }

    /// Takes on the identity that this VM has now. A page that was being written at the fork is finished with the old one,
    /// by both.
    fn look(&mut self) {
        let epoch = must("IDENTITY", salp::present()).epoch;
        if epoch != self.epoch {
            self.epoch = epoch;
            if self.ancestors.push((self.identity, self.round)).is_err() {
                fail(format_args!("more than {ANCESTORS} forks of forks"));
            }
            self.identity = identity();
        }
    }

    fn write(&self, page: u64) {
        self.tags.write(self.tag(page), self.identity);
        self.tags.write(self.tag(page) + 8, self.round);
        for offset in self.offsets() {
            self.words.write(page + offset, word(self.identity, page + offset, self.round));
        }
    }

    fn verify(&self, page: u64) {
        let (writer, round) = (self.tags.read(self.tag(page)), self.tags.read(self.tag(page) + 8));
        let is_own = writer == self.identity && round <= self.round;
        if !is_own && !self.ancestors.iter().any(|&(ancestor, last)| writer == ancestor && round <= last) {
            self.foreign(page, writer, round);
        }
        for offset in self.offsets() {
            let (address, found) = (page + offset, self.words.read(page + offset));
            let expected = word(writer, address, round);
            if found != expected {
                self.wrong(address, found, expected, writer, round);
            }
        }
    }

    #[cold]
    fn foreign(&self, page: u64, writer: u64, round: u64) -> ! {
        let (own, now) = (self.identity, self.round);
        fail(format_args!("{page:#x} was written by {writer:#x} in round {round}; this is {own:#x} in round {now}"))
    }

    #[cold]
    fn wrong(&self, address: u64, found: u64, expected: u64, writer: u64, round: u64) -> ! {
        let again = self.words.read(address);
        println!("  read again: {again:#x}; written by {writer:#x} in round {round}; now {}", self.round);
        fail(format_args!("{address:#x} found {found:#x} expected {expected:#x}"))
    }
}

/// Returns a word for who this VM is now: other clones, and this one after a revert, have another.
fn identity() -> u64 {
    let uuid = u128::from_le_bytes(must("IDENTITY", salp::uuid()));
    let generation = u128::from_le_bytes(must("IDENTITY", salp::generation()));
    let both = uuid.rotate_left(1) ^ generation;
    both as u64 ^ (both >> 64) as u64
}

fn word(identity: u64, address: u64, round: u64) -> u64 {
    Random::new(identity ^ address.rotate_left(20) ^ round.rotate_left(50)).draw()
}
