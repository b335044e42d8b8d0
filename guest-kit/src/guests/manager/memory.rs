//! What clones pay for memory that they share, how much of their own they have, and what it takes to throw it away.

use super::{destroy, frozen_source, make, must, wait_acknowledged, wait_frozen, wait_gone};
use crate::machine::number;
use crate::rt::sysreg;
use crate::salp::{self, Name, Request};
use crate::test;

/// Returns the ticks that `f` takes.
fn timed(f: impl FnOnce()) -> u64 {
    let start = sysreg::cntpct();
    f();
    sysreg::cntpct() - start
}

/// Prints how much memory the clone `id` has for itself, in bytes, with at most `pages` pages of guest memory.
fn tell_memory(name: &str, id: u64, pages: u64) {
    let memory = must("VM_MEMORY", salp::vm_memory(id));
    test::bench(name, 1, memory.private.get().min(pages * 4096) + memory.overhead.get());
}

fn clone(source: u64, name: &str, config: &str) -> u64 {
    make(&Request::new(source, 1, Name::new(format_args!("{name}"))).config(config)).clones.first
}

/// One clone that only sleeps; one that dirties pages; one that dirties pages and, when its source is gone, writes more.
pub fn dirty() {
    let source = frozen_source();
    let idle = clone(source, "idle", "do=idle\n");
    wait_acknowledged(idle);
    tell_memory("memory_idle_clone", idle, u64::MAX >> 12);
    test::bench("destroy_idle_clone", 1, timed(|| destroy(idle)));

    let dirty = clone(source, "dirty", "do=measure\n");
    wait_frozen(dirty);
    // Its stack and its data come on top of the pages that it is told to write: they are not counted.
    tell_memory("memory_dirty_clone", dirty, 1000);
    test::bench("destroy_dirty_1000", 1, timed(|| destroy(dirty)));

    let last = clone(source, "last", "do=measure\n");
    wait_frozen(last);
    destroy(source);
    must("VM_UNFREEZE", salp::vm_unfreeze(last));
    wait_gone(last);
}

/// Keeps the state of a VM, and brings the VM back to it each time that it has dirtied its pages.
pub fn revert() {
    let (id, times) = (frozen_source(), number("times", 10).max(1));
    let snapshot = must("VM_SNAPSHOT", salp::vm_snapshot(id, Name::new(format_args!("kept"))));
    let mut sum = 0;
    for _ in 0..times {
        must("VM_UNFREEZE", salp::vm_unfreeze(id));
        wait_frozen(id);
        sum += timed(|| must("VM_REVERT", salp::vm_revert(id, snapshot)));
    }
    test::bench("revert_50", times, sum / times);
    destroy(id);
    destroy(snapshot);
}
