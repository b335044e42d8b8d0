//! A VM with the management capability. Boot argument `do=` says what it does, mostly to the VM that `vm=` names
//! (`source` without it), which is one of [`clone`](super::clone)'s roles:
//!
//! | `do=` | with | what it does |
//! |---|---|---|
//! | `clone_frozen` | `frozen then=off` | clones it `times=` times, one after the other |
//! | `clone_many` | `frozen then=wait brief` | makes `count=` clones by one call, and destroys them; with heartbeats due `within=` milliseconds |
//! | `chain` | `frozen` | clones it, then its clone, `times=` deep; each is destroyed when its clone is there |
//! | `clone_running` | `spin` | clones it `times=` times while it runs, and destroys each |
//! | `dirty` | `dirty` | what clones pay for shared memory, and how much of their own they have |
//! | `revert` | `dirty do=pages` | brings it back `times=` times |
//! | `storm` | any that runs for ever | see [`storm`] |
//! | `power` | | images, VMs made from them, and their power: see [`power`] |
//! | `tour` | `frozen then=wait` | every call, and every refusal: see [`tour`] |
//! | `life` | `frozen then=wait` | the calls about what outlives a manager: see [`life`] |
//! | `watched` | `spin` | fails in every way, and is brought back: see [`watched`] |
//! | `replace` | `frozen then=off`, or none | has the hypervisor replaced: see [`replace`] |
//! | `exchange` | `frozen`, or none | has it replaced by other ones: see [`exchange`] |
//! | `flash` | | updates the machine: see [`flash`] |
//! | `plug` | | what is done to NICs: see [`plug`] |
//! | `denied` | | the same without the capability |
//!
//! `CALL id=N name=NAME at=COUNTER cost=TICKS` tells of each clone when it was asked for, by the physical counter, and how
//! long the call took as its caller sees it; the rest is [`test`]'s protocol. What was made is destroyed at the end, the
//! source too.

mod exchange;
mod flash;
mod life;
mod measure;
mod memory;
mod plug;
mod power;
mod replace;
mod storm;
mod tour;
mod watched;

use core::fmt;

use salp_hvc::calls::{STATE_FROZEN, VmInfo};
use salp_hvc::status;

use crate::rt::sysreg;
use crate::salp::{self, Answer, Clones, Name, Refused, Request};
use crate::{gic, machine, println, psci, test, timer, words};

/// For how long another VM may keep this one waiting, in milliseconds.
const PATIENCE: u64 = 600_000;

/// Runs the guest.
pub fn main() {
    gic::init();
    // Interrupts stay masked, but end a WFI.
    gic::enable(timer::VIRTUAL_INTID);
    match words::get(machine::bootargs(), "do").unwrap_or("tour") {
        "clone_frozen" => measure::one_by_one(),
        "clone_many" => measure::many(),
        "chain" => measure::chain(),
        "clone_running" => measure::running(),
        "dirty" => memory::dirty(),
        "revert" => memory::revert(),
        "storm" => storm::main(),
        "power" => return power::main(),
        "tour" => return tour::main(),
        "flash" => flash::main(),
        "life" => return life::main(),
        "watched" => watched::main(),
        "replace" => replace::main(),
        "exchange" => exchange::main(),
        "plug" => return plug::main(),
        "denied" => return tour::denied(),
        other => fail(format_args!("there is nothing like do={other}")),
    }
    test::done(1, 0, 0);
}

/// Ends the guest because something is wrong.
fn fail(reason: fmt::Arguments<'_>) -> ! {
    println!("FAIL manager: {reason}");
    test::done(0, 1, 0);
    psci::system_off()
}

/// Returns what Salp answers to a call that it may not refuse.
fn must<T>(what: &str, answer: Answer<T>) -> T {
    answer.unwrap_or_else(|refused| fail(format_args!("{what}: {refused:?}")))
}

/// Returns every VM and snapshot that there is.
fn all() -> impl Iterator<Item = VmInfo> {
    let mut last = 0;
    core::iter::from_fn(move || match salp::vm_next(last) {
        Ok(info) => {
            last = info.id.get();
            Some(info)
        }
        Err(Refused(status::NOT_FOUND)) => None,
        Err(refused) => fail(format_args!("VM_NEXT: {refused:?}")),
    })
}

/// Returns the VM with this name.
fn find(name: &str) -> Option<VmInfo> {
    all().find(|info| Name(info.name).text() == name)
}

/// Returns the VM that `vm=` names.
fn source() -> VmInfo {
    let name = words::get(machine::bootargs(), "vm").unwrap_or("source");
    find(name).unwrap_or_else(|| fail(format_args!("there is no VM {name}")))
}

/// Returns the identifier of the VM that `vm=` names when it is frozen.
fn frozen_source() -> u64 {
    let id = source().id.get();
    wait_frozen(id);
    id
}

fn wait_frozen(id: u64) {
    let is_frozen = || must("VM_NEXT", salp::vm(id)).state.get() == STATE_FROZEN;
    if !timer::sleep_until(PATIENCE, is_frozen) {
        fail(format_args!("VM {id} does not freeze"));
    }
}

/// Waits until a VM has turned itself off.
fn wait_gone(id: u64) {
    if !timer::sleep_until(PATIENCE, || salp::vm(id).is_err()) {
        fail(format_args!("VM {id} does not turn itself off"));
    }
}

/// Waits until a VM's guest has acknowledged its identity: it has done the first part of its work.
fn wait_acknowledged(id: u64) {
    let is_acknowledged = || must("VM_NEXT", salp::vm(id)).acknowledged.get() == 1;
    if !timer::sleep_until(PATIENCE, is_acknowledged) {
        fail(format_args!("VM {id} does not acknowledge its identity"));
    }
}

fn destroy(id: u64) {
    must("VM_DESTROY", salp::vm_destroy(id));
}

/// A call that made clones.
struct Made {
    clones: Clones,
    at: u64,
    cost: u64,
}

/// Makes clones, and notes when.
#[inline(always)]
fn make(request: &Request) -> Made {
    let at = sysreg::cntpct();
    let answer = salp::vm_clone(request);
    let cost = sysreg::cntpct() - at;
    Made { clones: must("VM_CLONE", answer), at, cost }
}

impl Made {
    /// Tells of the call.
    fn tell(&self, name: &Name) {
        println!("CALL id={} name={name} at={} cost={}", self.clones.first, self.at, self.cost);
    }
}
