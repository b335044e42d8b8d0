//! A manager that has the hypervisor replaced by the bundles in its initrd, `times=` times (default 2): by that in the first `first=`
//! bytes, by a copy of what runs then, and by the one behind it. A clone of the frozen VM `vm=` is made before each, and freezes
//! until the next one goes on. `expect=refused`: the first bundle is refused, and nothing has happened. `expect=back`: it takes over,
//! nobody confirms it, and the hypervisor before comes back.

use salp_hvc::status;

use super::{PATIENCE, destroy, fail, find, must, wait_frozen};
use crate::machine::{self, number};
use crate::rt::ram;
use crate::salp::{self, Name, Refused, Request, make};
use crate::{println, timer, words};

/// How much is uploaded by one call, in bytes.
const STEP: usize = 4096;

/// Runs the scenario.
pub fn main() {
    let Some((first, second)) = ram::initrd().split_at_checked(number("first", 0) as usize) else {
        fail(format_args!("the initrd has not so many bytes"));
    };
    let source = find(words::get(machine::bootargs(), "vm").unwrap_or("source")).map(|info| info.id.get());
    source.into_iter().for_each(wait_frozen);
    match words::get(machine::bootargs(), "expect") {
        Some("refused") => refused(upload(first)),
        Some("back") => comes_back(upload(first)),
        _ => {
            let images = [upload(first), 0, upload(second)];
            for (round, image) in (0..number("times", 2)).flat_map(|round| images.map(|image| (round, image))) {
                let clone = source.map(|source| clone(source, round));
                must("HANDOVER", salp::handover(image));
                must("CONFIRM", salp::confirm());
                clone.into_iter().for_each(|clone| {
                    wait_frozen(clone);
                    destroy(clone);
                });
                println!("EXCHANGED round={round} image={image}");
            }
            images
                .into_iter()
                .filter(|&image| image != 0)
                .for_each(|image| must("IMAGE_DELETE", make::image_delete(image)));
        }
    }
    source.into_iter().for_each(destroy);
}

fn refused(image: u64) {
    if salp::handover(image) != Err(Refused(status::REFUSED)) {
        fail(format_args!("HANDOVER to what does not fit is not refused"));
    }
    if must("HANDOVER_STATE", salp::handover_state()) != (0, false, 0) {
        fail(format_args!("there was a hand-over"));
    }
    must("IMAGE_DELETE", make::image_delete(image));
}

fn comes_back(image: u64) {
    must("HANDOVER", salp::handover(image));
    let is_over = || !must("HANDOVER_STATE", salp::handover_state()).1;
    if !timer::sleep_until(PATIENCE, is_over) {
        fail(format_args!("the hypervisor before does not come back"));
    }
    must("IMAGE_DELETE", make::image_delete(image));
}

/// Keeps a bundle as an image, and returns its identifier.
fn upload(bundle: &[u8]) -> u64 {
    let id = must("IMAGE_CREATE", make::image_create(bundle.len() as u64, "bundle"));
    for (part, offset) in bundle.chunks(STEP).zip((0..).step_by(STEP)) {
        must("IMAGE_WRITE", make::image_write(id, offset, part));
    }
    must("IMAGE_FINISH", make::image_finish(id));
    id
}

/// Makes a clone that freezes again, and returns its identifier.
fn clone(source: u64, round: u64) -> u64 {
    let name = Name::new(format_args!("clone-{round}"));
    must("VM_CLONE", salp::vm_clone(&Request::new(source, 1, name).config("then=again\n"))).first
}
