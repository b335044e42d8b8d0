//! Forks and destroys at random, repeatable by its seed: `times=N` (default 50) clones of the VM `vm=`, with `chains` also
//! of its clones; at most `keep=N` (default 8) are alive. `pause=US` (default 3000) is the longest time between two calls;
//! `wait=MS` (default 500) how long the last ones go on. Some are frozen for a moment, or are clones of a snapshot.
//!
//! A VM that finds something wrong turns itself off, and is missed here. `ALIVE NAME` tells of each that goes on in the
//! end: who has lost an interrupt for good says nothing any more.

use salp_hvc::status;

use super::{destroy, fail, must, source};
use crate::machine::{self, number};
use crate::random::Random;
use crate::rt::{cpu, sysreg};
use crate::salp::{self, Name, Refused, Request};
use crate::{println, timer};

/// The greatest number of clones that are alive.
const KEEP: usize = 64;

/// Runs the scenario.
pub fn main() {
    let mut storm = Storm {
        source: source().id.get(),
        random: Random::new(number("seed", 1)),
        alive: heapless::Vec::new(),
        keep: number("keep", 8).clamp(1, KEEP as u64) as usize,
    };
    timer::sleep(100);
    let (times, pause) = (number("times", 50), timer::ticks(number("pause", 3000)));
    for round in 0..times {
        storm.linger(pause);
        match storm.random.below(8) {
            0 => storm.freeze_for_a_moment(pause),
            1 => storm.clone_of_snapshot(round),
            _ => storm.clone(round),
        }
        while storm.alive.len() >= storm.keep || storm.random.below(4) == 0 && !storm.alive.is_empty() {
            storm.linger(pause);
            storm.destroy_one();
        }
    }
    println!("{times} forks; {} clones are alive", storm.alive.len());
    for &id in storm.alive.iter().chain([&storm.source]) {
        println!("ALIVE {}", Name(must("VM_NEXT", salp::vm(id)).name));
    }
    timer::sleep(number("wait", 500));
    while !storm.alive.is_empty() {
        storm.destroy_one();
    }
    destroy(storm.source);
}

struct Storm {
    source: u64,
    random: Random,
    alive: heapless::Vec<u64, KEEP>,
    keep: usize,
}

impl Storm {
    /// Lets a random part of `most` ticks go by.
    fn linger(&mut self, most: u64) {
        let end = sysreg::cntvct() + self.random.below(most.max(1));
        while sysreg::cntvct() < end {
            cpu::relax();
        }
    }

    fn draw(&mut self) -> usize {
        self.random.below(self.alive.len() as u64) as usize
    }

    /// Returns the VM to be cloned next.
    fn parent(&mut self) -> u64 {
        if machine::has("chains") && !self.alive.is_empty() && self.random.below(2) == 0 {
            let index = self.draw();
            self.alive[index]
        } else {
            self.source
        }
    }

    fn clone(&mut self, round: u64) {
        let parent = self.parent();
        self.clone_of(parent, round);
    }

    fn clone_of(&mut self, parent: u64, round: u64) {
        let request = Request::new(parent, 1, Name::new(format_args!("storm-{round}")));
        match salp::vm_clone(&request) {
            // There is always room: clones are destroyed before there are too many.
            Ok(clones) => _ = self.alive.push(clones.first),
            Err(Refused(status::NOT_FOUND)) => fail(format_args!("VM {parent} is gone")),
            Err(refused) => fail(format_args!("VM_CLONE of {parent}: {refused:?}")),
        }
    }

    fn clone_of_snapshot(&mut self, round: u64) {
        let parent = self.parent();
        let name = Name::new(format_args!("kept-{round}"));
        let snapshot = must("VM_SNAPSHOT", salp::vm_snapshot(parent, name));
        self.clone_of(snapshot, round);
        destroy(snapshot);
    }

    fn freeze_for_a_moment(&mut self, pause: u64) {
        let id = self.parent();
        must("VM_FREEZE", salp::vm_freeze(id));
        self.linger(pause);
        must("VM_UNFREEZE", salp::vm_unfreeze(id));
    }

    fn destroy_one(&mut self) {
        let index = self.draw();
        let id = self.alive.swap_remove(index);
        if let Err(refused) = salp::vm_destroy(id) {
            fail(format_args!("VM {id} has not lived until it was destroyed: {refused:?}"));
        }
    }
}
