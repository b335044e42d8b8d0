//! Images, the VMs that are made from them, and their power: every call, and every way to be refused. It needs no other VM.

use salp_hvc::bootset::{FLAG_FROZEN, FLAG_MANAGER, RAM_BASE, SegmentRecord, VmRecord};
use salp_hvc::calls::{STATE_FROZEN, STATE_NO_MEMORY, STATE_OFF, STATE_RUNNING};
use salp_hvc::manager::{self, MAX_COPY, MAX_DESCRIPTION, MAX_IMAGE, MAX_IMAGES};
use salp_hvc::status;
use zerocopy::{FromZeros, IntoBytes};

use super::tour::{because, done, named, refused};
use super::{PATIENCE, find};
use crate::salp::make::{self, Description};
use crate::salp::{self, Name, Refused, Request, call};
use crate::test::{Outcome, Stop};
use crate::{cases, check, check_eq, machine, timer};

/// The program of VMs. It begins with one that says HELLO 0, counts in what it says, says HELLO 1, and turns itself off.
#[rustfmt::skip]
const PROGRAM: [u32; 43] = [
    0xd2a1_2001, // mov x1, #0x9000000: the console
    0x1000_01a2, // again: adr x2, text
    0x3840_1440, // next: ldrb w0, [x2], #1
    0x3400_0060, // cbz w0, end
    0xb900_0020, // str w0, [x1]
    0x17ff_fffd, // b next
    0x385f_d040, // end: ldurb w0, [x2, #-3]
    0x1100_0400, // add w0, w0, #1
    0x381f_d040, // sturb w0, [x2, #-3]
    0x7100_c81f, // cmp w0, #'2'
    0x54ff_fee3, // b.lo again
    0x5280_0100, // mov w0, #8: SYSTEM_OFF
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
    0x4c4c_4548, // text: "HELLO 0\n"
    0x0a30_204f,
    0x0000_0000,
    0xd503_207f, // wait: wfi
    0x17ff_ffff, // b wait
    0xd2a8_0801, // eat: mov x1, #0x40400000
    0xf900_003f, // more: str xzr, [x1]
    0x9140_0421, // add x1, x1, #0x1000
    0x17ff_fffe, // b more
    0x1400_0000, // spin: b spin
    0x5280_0200, // freeze: mov w0, #0x10: FREEZE
    0x72b8_c000, // movk w0, #0xc600, lsl #16
    0xd400_0002, // hvc #0
    0x17ff_fffd, // b freeze
    0x5280_0100, // off: mov w0, #8: SYSTEM_OFF
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
    0x5280_0120, // reset: mov w0, #9: SYSTEM_RESET
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
    0x5280_0060, // twins: mov w0, #3: CPU_ON
    0x72b8_8000, // movk w0, #0xc400, lsl #16
    0xd280_0021, // mov x1, #1
    0x1000_0062, // adr x2, twin
    0xd400_0002, // hvc #0
    0x17ff_fffb, // b twins
    0x5280_0040, // twin: mov w0, #2: CPU_OFF
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
];

/// Where in it a VM begins that waits for ever, one that writes to all of its memory, and one that keeps a CPU.
const WAIT: u64 = 17 * 4;
const EAT: u64 = 19 * 4;
const SPIN: u64 = 23 * 4;

/// Where one begins that does something to itself: freezes, turns itself off, resets itself, turns its second vCPU on and off.
const RESTLESS: [(&str, u64); 4] = [("freeze", 24 * 4), ("off", 28 * 4), ("reset", 31 * 4), ("twins", 34 * 4)];

/// Where the program is in the image, and the image's size. Before it is what VMs get as a block.
const PROGRAM_AT: u64 = 2 << 20;
const IMAGE: u64 = PROGRAM_AT + 5000;

/// The RAM of a VM.
const RAM: u64 = 16 << 20;

/// Runs all cases.
pub fn main() {
    cases!(
        an_image_is_filled_and_read,
        images_that_make_no_sense,
        addresses_that_are_not_ram,
        a_vm_turns_itself_off_and_stays,
        a_vm_is_stopped_and_reset_whatever_it_does,
        a_vm_without_memory_is_stopped,
        whatever_a_vm_does_to_itself_others_have_an_answer,
        clones_of_a_made_vm,
        an_image_that_is_used_stays,
        a_vm_is_described_anew,
        a_vm_that_starts_from_something_else_has_that,
        vms_that_make_no_sense,
        what_is_off_is_only_started_or_destroyed,
        what_runs_is_not_started,
        nothing_of_that_is_done_to_itself,
    );
}

/// Returns this VM's identifier.
fn own_id() -> Result<u64, Stop> {
    let own = done("IDENTITY", salp::name())?;
    find(own.text()).map(|own| own.id.get()).ok_or_else(|| crate::test::fail(format_args!("this VM is not listed")))
}

/// Does something, after which as much memory is free as before, but for what this VM itself has taken.
fn leaves_nothing(act: impl FnOnce() -> Outcome) -> Outcome {
    let id = own_id()?;
    let count = || {
        let machine = done("MACHINE", salp::machine())?;
        let own = done("VM_MEMORY", salp::vm_memory(id))?;
        let free = machine.free.get() + own.private.get() + own.overhead.get();
        Ok([free, machine.promised.get(), machine.images.get(), machine.vms.get().into()])
    };
    let before: [u64; 4] = count()?;
    act()?;
    let after = count()?;
    check!(after == before, "free, promised, images, VMs were {before:x?} and are {after:x?}");
    check!(make::image_next(0).is_err(), "an image is left");
    Ok(())
}

/// Makes a finished image with the program in it.
fn image() -> Result<u64, Stop> {
    let id = done("IMAGE_CREATE", make::image_create(IMAGE, "program"))?;
    done("IMAGE_WRITE", make::image_write(id, 0x5000, &[7; 100]))?;
    done("IMAGE_WRITE", make::image_write(id, PROGRAM_AT, PROGRAM.as_bytes()))?;
    done("IMAGE_FINISH", make::image_finish(id))?;
    Ok(id)
}

/// Returns the records of a VM that begins there in the program.
fn records(name: &str, image: u64, entry: u64) -> (VmRecord, [SegmentRecord; 2]) {
    let vm = VmRecord {
        name: named(name).0,
        vcpus: 1.into(),
        memory: RAM.into(),
        entry: (RAM_BASE + entry).into(),
        ..VmRecord::new_zeroed()
    };
    let segment = |ipa: u64, offset: u64, length: u64| SegmentRecord {
        ipa: (RAM_BASE + ipa).into(),
        offset: offset.into(),
        length: length.into(),
        image: image.into(),
    };
    (vm, [segment(0, PROGRAM_AT, 5000), segment(2 << 20, 0, 2 << 20)])
}

fn described(vm: &VmRecord, segments: &[SegmentRecord]) -> Description {
    Description::new(vm, segments, &[]).unwrap_or_else(|| super::fail(format_args!("a description is too long")))
}

/// Makes a VM that begins there in the program.
fn made(name: &str, image: u64, entry: u64) -> Result<u64, Stop> {
    let (vm, segments) = records(name, image, entry);
    done("VM_CREATE", make::vm_create(&described(&vm, &segments)))
}

fn state(id: u64) -> Result<u32, Stop> {
    Ok(done("VM_NEXT", salp::vm(id))?.state.get())
}

fn wait_for(id: u64, wanted: u32) -> Outcome {
    let is_there = || salp::vm(id).is_ok_and(|info| info.state.get() == wanted);
    check!(timer::sleep_until(PATIENCE, is_there), "VM {id} does not come to be in state {wanted}");
    Ok(())
}

fn destroyed(id: u64) -> Outcome {
    done("VM_DESTROY", salp::vm_destroy(id))
}

fn deleted(image: u64) -> Outcome {
    done("IMAGE_DELETE", make::image_delete(image))
}

fn an_image_is_filled_and_read() -> Outcome {
    leaves_nothing(|| {
        let id = done("IMAGE_CREATE", make::image_create(IMAGE, "first"))?;
        let mut bytes = [3; 300];
        done("IMAGE_WRITE", make::image_write(id, 4000, &bytes))?;
        let mut read = [1; 302];
        for _ in 0..2 {
            done("IMAGE_READ", make::image_read(id, 3999, &mut read))?;
            check!(read[0] == 0 && read[301] == 0 && read[1..301] == bytes, "other bytes than were written");
            // The second time it is finished.
            let _ = make::image_finish(id);
        }
        done("IMAGE_READ", make::image_read(id, IMAGE - 300, &mut bytes))?;
        check_eq!(bytes, [0; 300], "what was never written");
        let info = done("IMAGE_NEXT", make::image_next(0))?;
        check_eq!((info.id.get(), info.size.get(), info.users.get()), (id, IMAGE, 0), "image");
        check_eq!((info.finished.get(), &info.label[..6]), (1, &b"first\0"[..]), "image");
        done("IMAGE_LABEL", make::image_label(id, "second"))?;
        check_eq!(&done("IMAGE_NEXT", make::image_next(id - 1))?.label[..7], b"second\0", "label");
        deleted(id)?;
        let next = done("IMAGE_CREATE", make::image_create(1, ""))?;
        check!(next > id, "identifier {next} after {id}");
        deleted(next)
    })
}

fn images_that_make_no_sense() -> Outcome {
    let invalid = because(status::INVALID);
    leaves_nothing(|| {
        for size in [0, MAX_IMAGE + 1, u64::MAX] {
            check_eq!(refused(make::image_create(size, "")), invalid, "an image of {size} bytes");
        }
        check_eq!(refused(make::image_create(MAX_IMAGE, "")), because(status::NO_MEMORY), "more than there is");
        let id = done("IMAGE_CREATE", make::image_create(10000, ""))?;
        let mut bytes = [0; 8];
        for offset in [9993, 10000, u64::MAX - 3, u64::MAX] {
            check_eq!(refused(make::image_write(id, offset, &bytes)), invalid, "IMAGE_WRITE at {offset}");
            check_eq!(refused(make::image_read(id, offset, &mut bytes)), invalid, "IMAGE_READ at {offset}");
        }
        for size in [0, MAX_COPY + 1, u64::MAX] {
            let arguments = [id, 0, machine::ram_start(), size];
            check_eq!(refused(call(manager::IMAGE_WRITE, arguments)), invalid, "IMAGE_WRITE of {size} bytes");
            check_eq!(refused(call(manager::IMAGE_READ, arguments)), invalid, "IMAGE_READ of {size} bytes");
        }
        done("IMAGE_FINISH", make::image_finish(id))?;
        let wrong = because(status::WRONG_STATE);
        check_eq!(refused(make::image_finish(id)), wrong, "IMAGE_FINISH for the second time");
        check_eq!(refused(make::image_write(id, 0, &bytes)), wrong, "IMAGE_WRITE of a finished image");
        deleted(id)?;
        let absent = because(status::NOT_FOUND);
        for id in [0, id, id + 1, u64::MAX] {
            check_eq!(refused(make::image_write(id, 0, &bytes)), absent, "IMAGE_WRITE of {id}");
            check_eq!(refused(make::image_read(id, 0, &mut bytes)), absent, "IMAGE_READ of {id}");
            check_eq!(refused(make::image_finish(id)), absent, "IMAGE_FINISH of {id}");
            check_eq!(refused(make::image_delete(id)), absent, "IMAGE_DELETE of {id}");
            check_eq!(refused(make::image_label(id, "")), absent, "IMAGE_LABEL of {id}");
            check_eq!(refused(make::image_next(id)), absent, "IMAGE_NEXT after {id}");
        }
        let first = done("IMAGE_CREATE", make::image_create(1, ""))?;
        for _ in 1..MAX_IMAGES {
            done("IMAGE_CREATE", make::image_create(1, ""))?;
        }
        check_eq!(refused(make::image_create(1, "")), because(status::TOO_MANY), "one more");
        (first..).take(MAX_IMAGES).try_for_each(deleted)
    })
}

fn addresses_that_are_not_ram() -> Outcome {
    leaves_nothing(|| {
        let id = done("IMAGE_CREATE", make::image_create(0x10000, ""))?;
        let (start, end) = (machine::ram_start(), machine::ram_end());
        let bad = because(status::BAD_ADDRESS);
        for address in [0, 0x0900_0000, start - 8, end - 8, end, 1 << 39, u64::MAX - 7] {
            check_eq!(refused(call(manager::IMAGE_WRITE, [id, 0, address, 9])), bad, "IMAGE_WRITE from {address:#x}");
            check_eq!(refused(call(manager::IMAGE_READ, [id, 0, address, 9])), bad, "IMAGE_READ to {address:#x}");
            check_eq!(refused(call(manager::IMAGE_LABEL, [id, address])), bad, "IMAGE_LABEL from {address:#x}");
            check_eq!(refused(call(manager::IMAGE_CREATE, [address])), bad, "IMAGE_CREATE from {address:#x}");
            check_eq!(refused(call(manager::IMAGE_NEXT, [0, address])), bad, "IMAGE_NEXT to {address:#x}");
            check_eq!(refused(call(manager::VM_CREATE, [address, 200])), bad, "VM_CREATE from {address:#x}");
            check_eq!(refused(call(manager::VM_CHANGE, [1, address, 200])), bad, "VM_CHANGE from {address:#x}");
        }
        deleted(id)
    })
}

fn a_vm_turns_itself_off_and_stays() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let free = done("MACHINE", salp::machine())?.free.get();
        let id = made("hello", image, 0)?;
        let info = done("VM_NEXT", salp::vm(id))?;
        check_eq!((info.source.get(), info.family.get(), info.index.get()), (0, id, 0), "origin");
        check_eq!((info.state.get(), info.memory.get(), info.vcpus.get()), (STATE_OFF, RAM, 1), "VM");
        check_eq!(Name(info.name), named("hello"), "name");
        for _ in 0..3 {
            done("VM_START", make::vm_start(id))?;
            wait_for(id, STATE_OFF)?;
            let again = done("VM_NEXT", salp::vm(id))?;
            check_eq!((again.uuid, again.mac), (info.uuid, info.mac), "UUID and MAC address");
            let memory = done("VM_MEMORY", salp::vm_memory(id))?;
            check_eq!((memory.private.get(), memory.shared.get()), (0, 0), "memory of a VM that is off");
            let records = free - done("MACHINE", salp::machine())?.free.get();
            check_eq!(memory.overhead.get(), records, "records of a VM that is off");
        }
        destroyed(id)?;
        deleted(image)
    })
}

fn a_vm_is_stopped_and_reset_whatever_it_does() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let id = made("waiting", image, WAIT)?;
        for _ in 0..2 {
            done("VM_START", make::vm_start(id))?;
            check_eq!(state(id)?, STATE_RUNNING, "state of a started VM");
            done("VM_RESET of a running VM", make::vm_reset(id))?;
            check_eq!(state(id)?, STATE_RUNNING, "state after a reset");
            done("VM_FREEZE", salp::vm_freeze(id))?;
            done("VM_RESET of a frozen VM", make::vm_reset(id))?;
            check_eq!(state(id)?, STATE_RUNNING, "state of a frozen VM after a reset");
            done("VM_FREEZE", salp::vm_freeze(id))?;
            done("VM_STOP of a frozen VM", make::vm_stop(id))?;
            check_eq!(state(id)?, STATE_OFF, "state of a stopped VM");
            done("VM_START", make::vm_start(id))?;
            check_eq!(state(id)?, STATE_RUNNING, "state of a VM that was frozen when it was stopped");
            done("VM_STOP of a running VM", make::vm_stop(id))?;
        }
        let (vm, segments) = records("template", image, WAIT);
        let frozen = VmRecord { flags: FLAG_FROZEN.into(), ..vm };
        let template = done("VM_CREATE", make::vm_create(&described(&frozen, &segments)))?;
        for start in [make::vm_start, make::vm_reset] {
            done("VM_START", start(template))?;
            check_eq!(state(template)?, STATE_FROZEN, "state of a VM that is frozen at first");
            done("VM_UNFREEZE", salp::vm_unfreeze(template))?;
        }
        destroyed(template)?;
        destroyed(id)?;
        deleted(image)
    })
}

fn a_vm_without_memory_is_stopped() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let (vm, segments) = records("hungry", image, EAT);
        let vm = VmRecord { memory: (64 << 30).into(), ..vm };
        let id = done("VM_CREATE", make::vm_create(&described(&vm, &segments)))?;
        for act in [make::vm_reset, make::vm_stop] {
            if state(id)? == STATE_OFF {
                done("VM_START", make::vm_start(id))?;
            }
            wait_for(id, STATE_NO_MEMORY)?;
            check_eq!(refused(make::image_create(1 << 20, "")), because(status::NO_MEMORY), "an image now");
            done("VM_RESET or VM_STOP", act(id))?;
        }
        check_eq!(state(id)?, STATE_OFF, "state of a stopped VM");
        destroyed(id)?;
        deleted(image)
    })
}

/// At each moment from its start on: its vCPUs are about to leave for one reason when the other one comes.
fn whatever_a_vm_does_to_itself_others_have_an_answer() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        for (name, entry) in RESTLESS {
            let (vm, segments) = records(name, image, entry);
            let id = done("VM_CREATE", make::vm_create(&described(&VmRecord { vcpus: 2.into(), ..vm }, &segments)))?;
            for round in 0..machine::number("rounds", 200) {
                done("VM_START", make::vm_start(id))?;
                timer::spin(round / 4);
                // It may be off by now, or be ending.
                let mut clone = None;
                let _ = match round % 4 {
                    0 => make::vm_stop(id),
                    1 => make::vm_reset(id),
                    2 => salp::vm_freeze(id),
                    _ => salp::vm_clone(&Request::new(id, 1, named("twin"))).map(|made| clone = Some(made.first)),
                };
                if let Some(clone) = clone {
                    let is_gone = || salp::vm_destroy(clone) != Err(Refused(status::BUSY));
                    check!(
                        timer::sleep_until(PATIENCE, is_gone),
                        "{name}: the clone of round {round} is not destroyed"
                    );
                }
                let is_off = || make::vm_stop(id).is_ok() || state(id).is_ok_and(|state| state == STATE_OFF);
                check!(timer::sleep_until(PATIENCE, is_off), "{name}: it is not off after round {round}");
            }
            destroyed(id)?;
        }
        deleted(image)
    })
}

fn clones_of_a_made_vm() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let id = made("parent", image, WAIT)?;
        done("VM_START", make::vm_start(id))?;
        let clone = done("VM_CLONE", salp::vm_clone(&Request::new(id, 1, named("child"))))?.first;
        let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(id, named("kept")))?;
        check_eq!(done("IMAGE_NEXT", make::image_next(0))?.users.get(), 3, "users of the image");
        let memory = done("VM_MEMORY", salp::vm_memory(clone))?;
        check!(memory.shared.get() >= 2 << 20, "the clone does not share the image: {memory:?}");
        destroyed(id)?;
        for _ in 0..2 {
            done("VM_STOP of a clone", make::vm_stop(clone))?;
            check_eq!(state(clone)?, STATE_OFF, "state of a stopped clone");
            done("VM_START of a clone", make::vm_start(clone))?;
        }
        done("VM_REVERT of a clone", salp::vm_revert(clone, snapshot))?;
        check_eq!(state(clone)?, STATE_RUNNING, "state of a reverted clone");
        check_eq!(refused(make::image_delete(image)), because(status::IN_USE), "IMAGE_DELETE");
        destroyed(clone)?;
        check_eq!(refused(make::image_delete(image)), because(status::IN_USE), "IMAGE_DELETE with a snapshot left");
        destroyed(snapshot)?;
        deleted(image)
    })
}

fn an_image_that_is_used_stays() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let [first, second] = [made("first", image, 0)?, made("second", image, 0)?];
        check_eq!(done("IMAGE_NEXT", make::image_next(0))?.users.get(), 2, "users of the image");
        for id in [first, second] {
            check_eq!(refused(make::image_delete(image)), because(status::IN_USE), "IMAGE_DELETE");
            destroyed(id)?;
        }
        check_eq!(done("IMAGE_NEXT", make::image_next(0))?.users.get(), 0, "users of the image");
        deleted(image)
    })
}

fn a_vm_is_described_anew() -> Outcome {
    leaves_nothing(|| {
        let [old, new] = [image()?, image()?];
        let id = made("before", old, WAIT)?;
        done("VM_START", make::vm_start(id))?;
        let before = done("VM_NEXT", salp::vm(id))?;
        let (vm, segments) = records("after", new, WAIT);
        let vm = VmRecord { vcpus: 2.into(), memory: (2 * RAM).into(), ..vm };
        let anew = described(&vm, &segments);
        let wrong = because(status::WRONG_STATE);
        check_eq!(refused(make::vm_change(id, &anew)), wrong, "VM_CHANGE of a running VM");
        let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(id, named("kept")))?;
        done("VM_STOP", make::vm_stop(id))?;
        let other = made("taken", new, 0)?;
        let same_name = described(&records("taken", new, WAIT).0, &segments);
        check_eq!(refused(make::vm_change(id, &same_name)), because(status::NAME_TAKEN), "VM_CHANGE to a name in use");
        check_eq!(refused(make::vm_change(snapshot, &anew)), wrong, "VM_CHANGE of a snapshot");
        check_eq!(done("VM_NEXT", salp::vm(id))?.name, before.name, "name after refusals");
        destroyed(other)?;
        done("VM_CHANGE", make::vm_change(id, &anew))?;
        let after = done("VM_NEXT", salp::vm(id))?;
        check_eq!((after.uuid, after.mac, after.family), (before.uuid, before.mac, before.family), "identity");
        check_eq!((after.memory.get(), after.vcpus.get(), after.state.get()), (2 * RAM, 2, STATE_OFF), "shape");
        check!(find("before").is_none() && find("after").is_some(), "the name is the old one");
        done("VM_START", make::vm_start(id))?;
        check_eq!(refused(salp::vm_revert(id, snapshot)), wrong, "VM_REVERT to what it was before");
        destroyed(snapshot)?;
        deleted(old)?;
        done("VM_STOP", make::vm_stop(id))?;
        destroyed(id)?;
        deleted(new)
    })
}

/// Over and over, and at once when it is off: what ends the life before has nothing to do with the next.
fn a_vm_that_starts_from_something_else_has_that() -> Outcome {
    leaves_nothing(|| {
        let [own, other] = [image()?, image()?];
        let id = made("chameleon", own, SPIN)?;
        let (vm, segments) = records("chameleon", other, SPIN);
        let from = described(&vm, &segments);
        let users = || Ok::<_, Stop>(done("IMAGE_NEXT", make::image_next(own))?.users.get());
        for round in 0..machine::number("rounds", 200) {
            let lasts = round % 2 == 0;
            done("VM_START_FROM", make::vm_start_from(id, &from, lasts))?;
            check_eq!(refused(make::vm_start_from(id, &from, lasts)), because(status::WRONG_STATE), "a second time");
            timer::spin(100);
            check_eq!((state(id)?, users()?), (STATE_RUNNING, 1), "state, and users of the image, in round {round}");
            if round % 3 == 0 {
                done("VM_RESET", make::vm_reset(id))?;
                timer::spin(100);
                check_eq!((state(id)?, users()?), (STATE_RUNNING, lasts.into()), "after a reset in round {round}");
            }
            done("VM_STOP", make::vm_stop(id))?;
        }
        check_eq!(users()?, 0, "users of the image at the end");
        destroyed(id)?;
        deleted(other)?;
        deleted(own)
    })
}

fn vms_that_make_no_sense() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let open = done("IMAGE_CREATE", make::image_create(IMAGE, ""))?;
        let (vm, [program, block]) = records("odd", image, 0);
        let id = made("even", image, 0)?;
        let ask = |what: &str, vm: &VmRecord, segments: &[SegmentRecord], status: i64| {
            let description = described(vm, segments);
            check_eq!(refused(make::vm_create(&description)), because(status), "VM_CREATE with {what}");
            check_eq!(refused(make::vm_change(id, &description)), because(status), "VM_CHANGE with {what}");
            Ok(())
        };
        let both = [program, block];
        let invalid = status::INVALID;
        ask("no vCPU", &VmRecord { vcpus: 0.into(), ..vm }, &both, invalid)?;
        ask("nine vCPUs", &VmRecord { vcpus: 9.into(), ..vm }, &both, invalid)?;
        ask("no memory", &VmRecord { memory: 0.into(), ..vm }, &both, invalid)?;
        ask("an odd amount of memory", &VmRecord { memory: (RAM + 1).into(), ..vm }, &both, invalid)?;
        ask("an entry outside", &VmRecord { entry: 0.into(), ..vm }, &both, invalid)?;
        ask("unknown flags", &VmRecord { flags: (1 << 31).into(), ..vm }, &both, invalid)?;
        ask("the capability", &VmRecord { flags: FLAG_MANAGER.into(), ..vm }, &both, invalid)?;
        ask("no name", &VmRecord { name: [0; 32], ..vm }, &both, invalid)?;
        ask("an unaligned address", &vm, &[SegmentRecord { ipa: (RAM_BASE + 8).into(), ..program }], invalid)?;
        ask("an unaligned offset", &vm, &[SegmentRecord { offset: 8.into(), ..program }], invalid)?;
        ask("an empty segment", &vm, &[SegmentRecord { length: 0.into(), ..program }], invalid)?;
        ask("a segment that is too long", &vm, &[SegmentRecord { length: 5001.into(), ..program }], invalid)?;
        ask("a segment behind the image", &vm, &[SegmentRecord { offset: (4 << 20).into(), ..program }], invalid)?;
        ask("a segment outside RAM", &vm, &[SegmentRecord { ipa: (RAM_BASE + RAM).into(), ..program }], invalid)?;
        ask("overlapping segments", &vm, &[program, program], invalid)?;
        ask("no image", &vm, &[SegmentRecord { image: 0.into(), ..program }], invalid)?;
        ask("an unknown image", &vm, &[SegmentRecord { image: (open + 1).into(), ..program }], status::NOT_FOUND)?;
        ask("an unfinished image", &vm, &[SegmentRecord { image: open.into(), ..program }], status::WRONG_STATE)?;
        let taken = VmRecord { name: named("even").0, ..vm };
        check_eq!(refused(make::vm_create(&described(&taken, &both))), because(status::NAME_TAKEN), "a name in use");
        let start = machine::ram_start();
        for size in [0, 71, 73, MAX_DESCRIPTION as u64 + 1, u64::MAX] {
            check_eq!(refused(call(manager::VM_CREATE, [start, size])), because(invalid), "a size of {size}");
        }
        check_eq!(done("IMAGE_NEXT", make::image_next(0))?.users.get(), 1, "users of the image after refusals");
        destroyed(id)?;
        deleted(open)?;
        deleted(image)
    })
}

fn what_is_off_is_only_started_or_destroyed() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let id = made("off", image, WAIT)?;
        let wrong = because(status::WRONG_STATE);
        check_eq!(refused(make::vm_stop(id)), wrong, "VM_STOP");
        check_eq!(refused(make::vm_reset(id)), wrong, "VM_RESET");
        check_eq!(refused(salp::vm_freeze(id)), wrong, "VM_FREEZE");
        check_eq!(refused(salp::vm_unfreeze(id)), wrong, "VM_UNFREEZE");
        check_eq!(refused(salp::vm_clone(&Request::new(id, 1, named("x")))), wrong, "VM_CLONE");
        check_eq!(refused(salp::vm_snapshot(id, named("x"))), wrong, "VM_SNAPSHOT");
        check_eq!(refused(salp::vm_revert(id, id)), wrong, "VM_REVERT");
        destroyed(id)?;
        let absent = because(status::NOT_FOUND);
        let (vm, segments) = records("x", image, 0);
        for id in [0, id, u64::MAX] {
            check_eq!(refused(make::vm_start(id)), absent, "VM_START of {id}");
            check_eq!(refused(make::vm_stop(id)), absent, "VM_STOP of {id}");
            check_eq!(refused(make::vm_reset(id)), absent, "VM_RESET of {id}");
            check_eq!(refused(make::vm_change(id, &described(&vm, &segments))), absent, "VM_CHANGE of {id}");
        }
        deleted(image)
    })
}

fn what_runs_is_not_started() -> Outcome {
    leaves_nothing(|| {
        let image = image()?;
        let id = made("on", image, WAIT)?;
        done("VM_START", make::vm_start(id))?;
        let snapshot = done("VM_SNAPSHOT", salp::vm_snapshot(id, named("kept")))?;
        let wrong = because(status::WRONG_STATE);
        check_eq!(refused(make::vm_start(id)), wrong, "VM_START");
        check_eq!(refused(make::vm_start(snapshot)), wrong, "VM_START of a snapshot");
        check_eq!(refused(make::vm_stop(snapshot)), wrong, "VM_STOP of a snapshot");
        check_eq!(refused(make::vm_reset(snapshot)), wrong, "VM_RESET of a snapshot");
        destroyed(snapshot)?;
        destroyed(id)?;
        deleted(image)
    })
}

fn nothing_of_that_is_done_to_itself() -> Outcome {
    let id = own_id()?;
    check_eq!(refused(make::vm_stop(id)), because(status::INVALID), "VM_STOP");
    check_eq!(refused(make::vm_reset(id)), because(status::INVALID), "VM_RESET");
    check_eq!(refused(make::vm_start(id)), because(status::WRONG_STATE), "VM_START");
    let (vm, _) = records("x", 1, 0);
    check_eq!(refused(make::vm_change(id, &described(&vm, &[]))), because(status::WRONG_STATE), "VM_CHANGE");
    Ok(())
}
