//! Every management call, and every way to be refused. With the VM `vm=`, frozen, with the role `frozen then=wait`.

use salp_hvc::agent::{AGENT, AGENT_APPLICATION, AGENT_VERSION, AGENT_WATCHES, AgentReport};
use salp_hvc::calls::{
    self, CloneRequest, FEATURE_GUEST, FEATURE_MANAGEMENT, MAX_CLONES, MAX_CONFIG, RESERVE_ALL, STATE_FROZEN,
    STATE_RUNNING, STATE_SNAPSHOT, VmInfo,
};
use salp_hvc::device;
use salp_hvc::status;
use zerocopy::{FromZeros, IntoBytes};

use super::{all, destroy, find, frozen_source, wait_acknowledged};
use crate::rt::mmio;
use crate::salp::make;
use crate::salp::{self, Answer, Name, Refused, Request, call};
use crate::test::{Outcome, Stop};
use crate::{cases, check, check_eq, machine, timer};

/// What clones of the source are told: as little work as can be.
const QUIET: &str = "then=wait\nbrief=1\n";

/// Runs all cases with the capability.
pub fn main() {
    frozen_source();
    cases!(
        features,
        every_vm_is_listed,
        memory_is_counted,
        a_clone_is_listed,
        clones_of_one_call,
        clone_of_a_clone,
        freeze_and_unfreeze,
        snapshots,
        revert,
        reserve,
        itself,
        agents,
        stale_identifiers,
        unknown_identifiers,
        bad_addresses,
        bad_requests,
        names,
        too_many,
        unknown_functions,
    );
    // The machine ends when every VM is gone.
    all().filter(|info| Ok(Name(info.name)) != salp::name()).for_each(|info| destroy(info.id.get()));
}

/// Runs all cases without the capability.
pub fn denied() {
    cases!(no_feature, no_call);
}

pub(super) fn refused<T>(answer: Answer<T>) -> Option<Refused> {
    answer.err()
}

pub(super) const fn because(status: i64) -> Option<Refused> {
    Some(Refused(status))
}

/// Ends the case as failed if a call that should do its work does not.
pub(super) fn done<T>(what: &str, answer: Answer<T>) -> Result<T, Stop> {
    answer.map_err(|refused| crate::test::fail(format_args!("{what}: {refused:?}")))
}

fn source() -> Result<VmInfo, Stop> {
    Ok(super::source())
}

pub(super) fn named(name: &str) -> Name {
    Name::new(format_args!("{name}"))
}

/// Makes one clone, and waits until it is awake.
fn clone_of(source: u64, name: &str) -> Result<u64, Stop> {
    let clones = done("VM_CLONE", salp::vm_clone(&Request::new(source, 1, named(name)).config(QUIET)))?;
    check_eq!((clones.count, clones.first), (1, clones.last), "clones");
    wait_acknowledged(clones.first);
    Ok(clones.first)
}

fn features() -> Outcome {
    check_eq!(salp::features(), FEATURE_GUEST | FEATURE_MANAGEMENT, "FEATURES");
    Ok(())
}

fn every_vm_is_listed() -> Outcome {
    let mut last = 0;
    for info in all() {
        check!(info.id.get() > last, "identifier {} after {last}", info.id);
        last = info.id.get();
        let again = done("VM_NEXT", salp::vm(last))?;
        check_eq!(again.name, info.name, "name of {last}");
    }
    check_eq!(refused(salp::vm_next(last)), because(status::NOT_FOUND), "after the last");
    check_eq!(refused(salp::vm_next(u64::MAX)), because(status::NOT_FOUND), "after all");
    let own = done("IDENTITY", salp::name())?;
    let own = find(own.text());
    check!(own.is_some_and(|own| own.state.get() == STATE_RUNNING), "this VM is not listed as running");
    let source = source()?;
    check_eq!(source.state.get(), STATE_FROZEN, "state of the source");
    check_eq!((source.source.get(), source.family), (0, source.id), "origin of the source");
    check_eq!(source.index.get(), 0, "index of the source");
    check!(source.memory.get() > 0 && source.vcpus.get() > 0, "the source has no memory or no vCPU");
    check!(source.exits.get() > 0 && source.faults.get() > 0, "the source has never come back to EL2");
    Ok(())
}

fn memory_is_counted() -> Outcome {
    let source = source()?;
    let memory = done("VM_MEMORY", salp::vm_memory(source.id.get()))?;
    check!(memory.private.get() > 0 && memory.overhead.get() > 0, "{memory:?}");
    check!(memory.private.get() + memory.shared.get() <= source.memory.get(), "more than its RAM: {memory:?}");
    let machine = done("MACHINE", salp::machine())?;
    check!(machine.guests.get() >= memory.private.get(), "less than one VM has: {machine:?}");
    let sum = machine.free.get() + machine.guests.get() + machine.nodes.get() + machine.hypervisor.get();
    check!(sum + machine.images.get() <= machine.total.get(), "the parts are more than the whole: {machine:?}");
    check_eq!(machine.vms.get() as usize, all().count(), "VMs");
    check_eq!(machine.starved.get(), 0, "VMs without memory");
    Ok(())
}

fn a_clone_is_listed() -> Outcome {
    let source = source()?;
    let id = clone_of(source.id.get(), "single")?;
    let info = done("VM_NEXT", salp::vm(id))?;
    check_eq!(Name(info.name).text(), "single", "name");
    check_eq!((info.source, info.family), (source.id, source.id), "origin");
    check_eq!(info.index.get(), 1, "index");
    check_eq!(info.state.get(), STATE_RUNNING, "state");
    check_eq!((info.vcpus, info.memory), (source.vcpus, source.memory), "shape");
    check!(info.uuid != source.uuid, "the UUID is the source's");
    check!(info.generation != source.generation, "the generation is the source's");
    check!(info.mac != source.mac, "the MAC address is the source's");
    check!(info.copied_pages.get() > 0 && info.copied_nodes.get() > 0, "nothing was copied for it");
    let memory = done("VM_MEMORY", salp::vm_memory(id))?;
    check!(memory.shared > memory.private, "{memory:?}");
    check!(memory.saved.get() > 0, "it shares, and saves nothing: {memory:?}");
    done("VM_DESTROY", salp::vm_destroy(id))?;
    check!(find("single").is_none(), "it is still listed");
    Ok(())
}

fn clones_of_one_call() -> Outcome {
    let source = source()?.id.get();
    let before = all().count();
    let clones = done("VM_CLONE", salp::vm_clone(&Request::new(source, 5, named("many")).config(QUIET)))?;
    check_eq!((clones.count, clones.last - clones.first), (5, 4), "clones");
    for (index, id) in (clones.first..=clones.last).enumerate() {
        let info = done("VM_NEXT", salp::vm(id))?;
        check_eq!(info.index.get() as usize, index + 1, "index of {id}");
        check_eq!(Name(info.name), Name::new(format_args!("many-{}", index + 1)), "name of {id}");
    }
    check_eq!(all().count(), before + 5, "VMs");
    for id in clones.first..=clones.last {
        wait_acknowledged(id);
        done("VM_DESTROY", salp::vm_destroy(id))?;
    }
    check_eq!(all().count(), before, "VMs at the end");
    Ok(())
}

fn clone_of_a_clone() -> Outcome {
    let source = source()?.id.get();
    let parent = clone_of(source, "parent")?;
    // The parent runs: its clone goes on where the parent is, and does not wake up from a freeze.
    let clones = done("VM_CLONE", salp::vm_clone(&Request::new(parent, 1, named("child"))))?;
    let child = done("VM_NEXT", salp::vm(clones.first))?;
    check_eq!((child.source.get(), child.family.get()), (parent, source), "origin");
    check_eq!(child.acknowledged.get(), 0, "acknowledged");
    done("VM_DESTROY", salp::vm_destroy(parent))?;
    timer::sleep(5);
    let child = done("VM_NEXT after its parent's end", salp::vm(clones.first))?;
    check_eq!(child.state.get(), STATE_RUNNING, "state after its parent's end");
    done("VM_DESTROY", salp::vm_destroy(clones.first))?;
    Ok(())
}

fn freeze_and_unfreeze() -> Outcome {
    let id = clone_of(source()?.id.get(), "cold")?;
    check_eq!(refused(salp::vm_unfreeze(id)), because(status::WRONG_STATE), "unfreezing what runs");
    for _ in 0..3 {
        done("VM_FREEZE", salp::vm_freeze(id))?;
        check_eq!(done("VM_NEXT", salp::vm(id))?.state.get(), STATE_FROZEN, "state");
        done("VM_UNFREEZE", salp::vm_unfreeze(id))?;
        check_eq!(done("VM_NEXT", salp::vm(id))?.state.get(), STATE_RUNNING, "state");
    }
    done("VM_FREEZE", salp::vm_freeze(id))?;
    done("VM_DESTROY of a frozen VM", salp::vm_destroy(id))?;
    Ok(())
}

fn snapshots() -> Outcome {
    let source = source()?.id.get();
    let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(source, named("kept")))?;
    let info = done("VM_NEXT", salp::vm(snapshot))?;
    check_eq!((info.state.get(), info.source.get()), (STATE_SNAPSHOT, source), "state and origin");
    check_eq!(refused(salp::vm_unfreeze(snapshot)), because(status::WRONG_STATE), "unfreezing a snapshot");
    check_eq!(refused(salp::vm_freeze(snapshot)), because(status::WRONG_STATE), "freezing a snapshot");
    let id = clone_of(snapshot, "of-kept")?;
    check_eq!(refused(salp::vm_revert(id, source)), because(status::WRONG_STATE), "reverting to what is no snapshot");
    check_eq!(refused(salp::vm_revert(snapshot, snapshot)), because(status::WRONG_STATE), "reverting a snapshot");
    let stranger = all().find(|info| info.family.get() != source && Ok(Name(info.name)) != salp::name());
    if let Some(stranger) = stranger {
        let answer = refused(salp::vm_revert(stranger.id.get(), snapshot));
        check_eq!(answer, because(status::WRONG_STATE), "reverting a VM of another family");
    }
    done("VM_REVERT of a clone to what it was cloned from", salp::vm_revert(id, snapshot))?;
    done("VM_DESTROY of a snapshot", salp::vm_destroy(snapshot))?;
    // It was frozen then, and so it is again.
    check_eq!(done("VM_NEXT", salp::vm(id))?.state.get(), STATE_FROZEN, "state without the snapshot");
    done("VM_DESTROY", salp::vm_destroy(id))?;
    Ok(())
}

fn revert() -> Outcome {
    let id = clone_of(source()?.id.get(), "back")?;
    let before = done("VM_NEXT", salp::vm(id))?;
    let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(id, named("kept-back")))?;
    for _ in 0..3 {
        let earlier = done("VM_NEXT", salp::vm(id))?;
        done("VM_REVERT", salp::vm_revert(id, snapshot))?;
        let now = done("VM_NEXT", salp::vm(id))?;
        check_eq!(now.uuid, before.uuid, "UUID");
        check!(now.generation != earlier.generation, "the generation is the same");
        check_eq!(now.acknowledged.get(), 0, "acknowledged");
    }
    done("VM_DESTROY", salp::vm_destroy(snapshot))?;
    check_eq!(
        refused(salp::vm_revert(id, snapshot)),
        because(status::NOT_FOUND),
        "reverting to a snapshot that is gone"
    );
    done("VM_DESTROY", salp::vm_destroy(id))?;
    Ok(())
}

/// What a manager may not do to itself, for it would wait for its own end.
fn itself() -> Outcome {
    let own = done("IDENTITY", salp::name())?;
    let Some(id) = find(own.text()).map(|own| own.id.get()) else {
        return Err(crate::test::fail(format_args!("this VM is not listed")));
    };
    let invalid = because(status::INVALID);
    check_eq!(refused(salp::vm_clone(&Request::new(id, 1, named("twin")))), invalid, "VM_CLONE");
    check_eq!(refused(salp::vm_freeze(id)), invalid, "VM_FREEZE");
    check_eq!(refused(salp::vm_destroy(id)), invalid, "VM_DESTROY");
    check_eq!(refused(salp::vm_snapshot(id, named("twin"))), invalid, "VM_SNAPSHOT");
    check_eq!(refused(salp::vm_revert(id, id)), invalid, "VM_REVERT");
    check_eq!(refused(salp::vm_unfreeze(id)), because(status::WRONG_STATE), "VM_UNFREEZE");
    done("VM_MEMORY", salp::vm_memory(id)).map(drop)
}

fn reserve() -> Outcome {
    let source = source()?;
    let before = done("MACHINE", salp::machine())?.promised.get();
    let request = Request::new(source.id.get(), 1, named("sure")).config(QUIET).reserve(RESERVE_ALL);
    let id = done("VM_CLONE", salp::vm_clone(&request))?.first;
    let info = done("VM_NEXT", salp::vm(id))?;
    check!(info.promised >= info.memory, "{} bytes are set aside", info.promised);
    let promised = done("MACHINE", salp::machine())?.promised.get();
    check!(promised > before, "the machine has promised {promised} bytes, before {before}");
    done("VM_DESTROY", salp::vm_destroy(id))?;
    check_eq!(done("MACHINE", salp::machine())?.promised.get(), before, "promised in the end");
    let free = done("MACHINE", salp::machine())?.free.get();
    let too_many = (free / source.memory.get() + 2).min(MAX_CLONES.into()) as u32;
    let request = Request::new(source.id.get(), too_many, named("sure")).config(QUIET).reserve(RESERVE_ALL);
    check_eq!(refused(salp::vm_clone(&request)), because(status::NO_MEMORY), "more than there is");
    check_eq!(done("MACHINE", salp::machine())?.promised.get(), before, "promised after a refusal");
    Ok(())
}

/// Asks for everything that is done to a VM; every answer must be this one.
fn nothing_is_done_to(id: u64, answer: i64) -> Outcome {
    let because = because(answer);
    check_eq!(refused(salp::vm_clone(&Request::new(id, 1, named("x")))), because, "VM_CLONE of {id}");
    check_eq!(refused(salp::vm_freeze(id)), because, "VM_FREEZE of {id}");
    check_eq!(refused(salp::vm_unfreeze(id)), because, "VM_UNFREEZE of {id}");
    check_eq!(refused(salp::vm_destroy(id)), because, "VM_DESTROY of {id}");
    check_eq!(refused(salp::vm_snapshot(id, named("x"))), because, "VM_SNAPSHOT of {id}");
    check_eq!(refused(salp::vm_revert(id, id)), because, "VM_REVERT of {id}");
    check_eq!(refused(salp::vm_memory(id)), because, "VM_MEMORY of {id}");
    Ok(())
}

fn stale_identifiers() -> Outcome {
    let source = source()?.id.get();
    let id = clone_of(source, "short")?;
    done("VM_DESTROY", salp::vm_destroy(id))?;
    nothing_is_done_to(id, status::NOT_FOUND)?;
    let next = clone_of(source, "short")?;
    check!(next > id, "identifier {next} after {id}");
    nothing_is_done_to(id, status::NOT_FOUND)?;
    done("VM_DESTROY", salp::vm_destroy(next))
}

fn unknown_identifiers() -> Outcome {
    for id in [0, 1 << 32, 1 << 63, u64::MAX] {
        nothing_is_done_to(id, status::NOT_FOUND)?;
    }
    Ok(())
}

fn bad_addresses() -> Outcome {
    let source = source()?.id.get();
    let (start, end) = (machine::ram_start(), machine::ram_end());
    for address in [0, 0x0900_0000, start - 8, end - 8, end, 1 << 39, 1 << 63, u64::MAX - 7, u64::MAX] {
        let because = because(status::BAD_ADDRESS);
        let size = size_of::<CloneRequest>() as u64;
        check_eq!(refused(call(calls::VM_NEXT, [0, address, 0])), because, "VM_NEXT to {address:#x}");
        check_eq!(refused(call(calls::VM_CLONE, [address, size, 0])), because, "VM_CLONE from {address:#x}");
        check_eq!(refused(call(calls::VM_SNAPSHOT, [source, address, 0])), because, "VM_SNAPSHOT from {address:#x}");
        check_eq!(refused(call(calls::VM_MEMORY, [source, address, 0])), because, "VM_MEMORY to {address:#x}");
        check_eq!(refused(call(calls::MACHINE, [address, 0, 0])), because, "MACHINE to {address:#x}");
    }
    Ok(())
}

fn bad_requests() -> Outcome {
    let source = source()?.id.get();
    let invalid = because(status::INVALID);
    let ask = |count, name| Request::new(source, count, name);
    let name = named("odd");
    for count in [0, MAX_CLONES + 1, u32::MAX] {
        check_eq!(refused(salp::vm_clone(&ask(count, name).config(QUIET))), invalid, "{count} clones");
    }
    for percent in [RESERVE_ALL + 1, u32::MAX] {
        check_eq!(refused(salp::vm_clone(&ask(1, name).reserve(percent))), invalid, "{percent} % set aside");
    }
    for lines in ["a", "a=b", "=b\n", "a=b\nc\n", "a b=c\n", "a=\x07\n", "\n"] {
        check_eq!(refused(salp::vm_clone(&ask(1, name).config(lines))), invalid, "configuration {lines:?}");
    }
    let request = ask(1, name);
    let address = (&raw const request).expose_provenance() as u64;
    let size = size_of::<CloneRequest>();
    for size in [0, size - 1, size + MAX_CONFIG + 1, usize::MAX] {
        check_eq!(refused(call(calls::VM_CLONE, [address, size as u64, 0])), invalid, "a request of {size} bytes");
    }
    Ok(())
}

fn names() -> Outcome {
    let source = source()?;
    let id = source.id.get();
    let taken = because(status::NAME_TAKEN);
    let own = Name(source.name);
    check_eq!(refused(salp::vm_clone(&Request::new(id, 1, own))), taken, "a clone with its source's name");
    check_eq!(refused(salp::vm_snapshot(id, own)), taken, "a snapshot with its source's name");
    let second = clone_of(id, "row-2")?;
    let before = all().count();
    check_eq!(refused(salp::vm_clone(&Request::new(id, 3, named("row")))), taken, "a row with a name that is taken");
    check_eq!(all().count(), before, "VMs after the refusal");
    done("VM_DESTROY", salp::vm_destroy(second))?;
    let invalid = because(status::INVALID);
    let mut unended = named("long");
    unended.0.fill(b'n');
    let mut padded = named("a");
    padded.0[2] = b'b';
    for name in [named("a/b"), named("a b"), named("ä"), unended, padded] {
        check_eq!(refused(salp::vm_clone(&Request::new(id, 1, name))), invalid, "a clone named {:x?}", name.0);
        check_eq!(refused(salp::vm_snapshot(id, name)), invalid, "a snapshot named {:x?}", name.0);
    }
    check_eq!(refused(salp::vm_snapshot(id, named(""))), invalid, "a snapshot without a name");
    Ok(())
}

fn too_many() -> Outcome {
    let source = source()?.id.get();
    let before = all().count();
    let ask = |name| salp::vm_clone(&Request::new(source, MAX_CLONES, named(name)).config(QUIET));
    let first = match ask("crowd") {
        Ok(clones) => Some(clones),
        // CPUs with 8-bit VMIDs.
        Err(Refused(status::TOO_MANY)) => None,
        Err(refused) => return Err(crate::test::fail(format_args!("the first {MAX_CLONES}: {refused:?}"))),
    };
    check_eq!(refused(ask("more")), because(status::TOO_MANY), "{MAX_CLONES} more");
    let made = first.map_or(0, |clones| clones.count as usize);
    check_eq!(all().count(), before + made, "VMs");
    if let Some(clones) = first {
        for id in clones.first..=clones.last {
            done("VM_DESTROY", salp::vm_destroy(id))?;
        }
    }
    check_eq!(all().count(), before, "VMs at the end");
    Ok(())
}

/// What this guest tells of itself it reads of itself; its registers take what the call takes.
fn agents() -> Outcome {
    let Some(own) = find(done("IDENTITY", salp::name())?.text()).map(|own| own.id.get()) else {
        return Err(crate::test::fail(format_args!("it is not listed")));
    };
    check_eq!(salp::vm_agent(own).map(|told| told.heartbeats.get()), Ok(0), "before the first report");
    let mut report = AgentReport::new_zeroed();
    check_eq!(refused(salp::report(&report)), because(status::INVALID), "a report of zeros");
    (report.version, report.flags) = (AGENT_VERSION.into(), (AGENT_WATCHES | AGENT_APPLICATION).into());
    report.host_name[..4].copy_from_slice(b"mgmt");
    done("AGENT", salp::report(&report))?;
    let told = done("VM_AGENT", salp::vm_agent(own))?;
    check_eq!((told.report, told.heartbeats.get()), (report, 1), "the report");
    check!(told.age.get() < 1_000_000_000 && told.application_age == told.age, "{:?} ago", told.age);
    report.flags = AGENT_WATCHES.into();
    for (index, word) in report.as_bytes().chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        mmio::write32(device::BASE + device::REPORT + 4 * index as u64, word);
    }
    mmio::write32(device::BASE + device::COMMAND, device::COMMAND_REPORT);
    let told = done("VM_AGENT", salp::vm_agent(own))?;
    check_eq!((told.report, told.heartbeats.get()), (report, 2), "the report by registers");
    check_eq!(refused(call(AGENT, [machine::ram_start() - 8, 0, 0])), because(status::BAD_ADDRESS), "a bad address");
    check_eq!(refused(salp::vm_agent(u64::MAX)), because(status::NOT_FOUND), "no VM");
    Ok(())
}

fn unknown_functions() -> Outcome {
    for number in (0x15..0x20).chain(0x29..0x30) {
        let answer = refused(call(calls::FREEZE & !0xff | number, [1, machine::ram_start(), 0]));
        check_eq!(answer, because(status::NOT_SUPPORTED), "function {number:#x}");
    }
    check_eq!(refused(call(calls::IDENTITY, [4, 0, 0])), because(status::INVALID), "identity 4");
    Ok(())
}

fn no_feature() -> Outcome {
    check_eq!(salp::features(), FEATURE_GUEST, "FEATURES");
    Ok(())
}

fn no_call() -> Outcome {
    let because = because(status::NOT_SUPPORTED);
    check_eq!(refused(salp::vm_next(0)), because, "VM_NEXT");
    check_eq!(refused(salp::machine()), because, "MACHINE");
    check_eq!(refused(salp::keep(0, b"x")), because, "KEEP");
    check_eq!(refused(salp::recall(0, &mut [0])), because, "RECALL");
    for act in [make::vm_start, make::vm_stop, make::vm_reset, make::image_finish, make::image_delete] {
        check_eq!(refused(act(1)), because, "a call about power or images");
    }
    check_eq!(refused(make::image_create(1, "")), because, "IMAGE_CREATE");
    nothing_is_done_to(1, status::NOT_SUPPORTED)
}
