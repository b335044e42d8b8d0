//! The hypervisor of a guest on Salp: its calls. Before: the service. After: EL2.
//!
//! This runtime maps memory as itself, so an address is a guest physical address.

use core::cell::OnceCell;

use guest_kit::salp::{self, Name, Refused};
use salp_hvc::agent::{AgentInfo, VM_AGENT};
use salp_hvc::calls::{CLONE_DISCONNECTED, CloneRequest, MachineInfo, VM_CLONE, VmInfo, VmMemory};
use salp_hvc::events::EventRecord;
use salp_hvc::handover;
use salp_hvc::host;
use salp_hvc::manager::{self, ImageInfo, NicChange, NicInfo};
use salp_hvc::status;
use salp_hvc::update::{self, UpdateInfo};
use salp_mgmt::hypervisor::{
    self, Answer, Cloning, Cpu, HandOvers, Heard, Hypervisor, Label, MachinePower, Signal, SlotChange, Usage, padded,
};
use zerocopy::{FromZeros, IntoBytes};

use super::life;

/// The SPI that tells of a new event: no device has it.
pub const EVENT_INTID: u32 = 36;

/// Salp.
#[derive(Default)]
pub struct Calls {
    /// The UUID of this VM, once it was asked for. What takes over after a failure is the same VM.
    own: OnceCell<[u8; 16]>,
}

fn answer<T>(answer: Result<T, Refused>) -> Answer<T> {
    answer.map_err(|Refused(why)| hypervisor::Refused(why))
}

fn name(text: &str) -> Name {
    Name::new(format_args!("{text}"))
}

/// Makes a call of [`manager`] with up to four arguments, and returns x1 to x3.
pub fn call<const N: usize>(function: u32, arguments: [u64; N]) -> Answer<[u64; 3]> {
    let mut all = [0; 17];
    all[..N].copy_from_slice(&arguments);
    let [x0, x1, x2, x3, ..] = smccc::hvc64(function, all);
    if x0 as i64 == status::OK { Ok([x1, x2, x3]) } else { Err(hypervisor::Refused(x0 as i64)) }
}

/// Returns the address of what EL2 reads.
fn from<T: ?Sized>(what: &T) -> u64 {
    (&raw const *what).cast::<u8>().expose_provenance() as u64
}

/// Returns the address of what EL2 writes.
fn to<T: ?Sized>(what: &mut T) -> u64 {
    (&raw mut *what).cast::<u8>().expose_provenance() as u64
}

/// Makes a call that writes a record.
fn record<T: FromZeros, const N: usize>(function: u32, arguments: impl FnOnce(u64) -> [u64; N]) -> Answer<T> {
    let mut record = T::new_zeroed();
    call(function, arguments(to(&mut record)))?;
    Ok(record)
}

/// How often a reset is asked for in one go.
const RESETS: usize = 64;

/// Resets the machine, once the records that wait for the flash are written, which each call goes on with.
fn reset() -> Answer<()> {
    for _ in 0..RESETS {
        life::beat();
        let answer = call(update::MACHINE_RESET, []).map(drop);
        if answer != Err(hypervisor::Refused(status::BUSY)) {
            return answer;
        }
    }
    Err(hypervisor::Refused(status::BUSY))
}

impl Hypervisor for Calls {
    fn own_uuid(&self) -> Option<[u8; 16]> {
        let known = self.own.get().copied();
        known.or_else(|| salp::uuid().ok().map(|own| *self.own.get_or_init(|| own)))
    }

    fn machine(&self) -> Answer<MachineInfo> {
        answer(salp::machine())
    }

    fn next(&self, after: u64) -> Answer<VmInfo> {
        // All VMs are told of in one go: that is life, too.
        life::beat();
        answer(salp::vm_next(after))
    }

    fn memory(&self, id: u64) -> Answer<VmMemory> {
        answer(salp::vm_memory(id))
    }

    fn clone_vm(&mut self, request: &Cloning<'_>) -> Answer<(u64, u64)> {
        let record = CloneRequest {
            source: request.source.into(),
            count: request.count.into(),
            reserve: 0.into(),
            name: padded(request.name),
            uuid: request.uuid.unwrap_or_default(),
            flags: if request.disconnected { CLONE_DISCONNECTED } else { 0 }.into(),
            reserved: 0.into(),
        };
        let whole = [record.as_bytes(), request.config.as_bytes()].concat();
        let [_, first, last] = call(VM_CLONE, [from(&*whole), whole.len() as u64])?;
        Ok((first, last))
    }

    fn freeze(&mut self, id: u64) -> Answer<()> {
        answer(salp::vm_freeze(id))
    }

    fn unfreeze(&mut self, id: u64) -> Answer<()> {
        answer(salp::vm_unfreeze(id))
    }

    fn destroy(&mut self, id: u64) -> Answer<()> {
        answer(salp::vm_destroy(id))
    }

    fn snapshot(&mut self, id: u64, text: &str) -> Answer<u64> {
        answer(salp::vm_snapshot(id, name(text)))
    }

    fn revert(&mut self, id: u64, snapshot: u64) -> Answer<()> {
        answer(salp::vm_revert(id, snapshot))
    }

    fn create(&mut self, description: &[u8]) -> Answer<u64> {
        call(manager::VM_CREATE, [from(description), description.len() as u64]).map(|[id, ..]| id)
    }

    fn change(&mut self, id: u64, description: &[u8]) -> Answer<()> {
        call(manager::VM_CHANGE, [id, from(description), description.len() as u64]).map(drop)
    }

    fn start(&mut self, id: u64) -> Answer<()> {
        call(manager::VM_START, [id]).map(drop)
    }

    fn stop(&mut self, id: u64) -> Answer<()> {
        call(manager::VM_STOP, [id]).map(drop)
    }

    fn reset(&mut self, id: u64) -> Answer<()> {
        call(manager::VM_RESET, [id]).map(drop)
    }

    fn signal(&mut self, id: u64, signal: Signal) -> Answer<()> {
        call(manager::VM_SIGNAL, [id, signal as u64]).map(drop)
    }

    fn nic(&self, id: u64, index: u64) -> Answer<NicInfo> {
        record(manager::VM_NIC, |address| [id, index, address])
    }

    fn agent(&self, id: u64) -> Answer<AgentInfo> {
        record(VM_AGENT, |address| [id, address])
    }

    fn change_nic(&mut self, id: u64, index: u64, change: &NicChange) -> Answer<()> {
        call(manager::VM_NIC_CHANGE, [id, index, from(change)]).map(drop)
    }

    fn create_image(&mut self, size: u64, label: &Label) -> Answer<u64> {
        let info = ImageInfo { id: 0.into(), size: size.into(), users: 0.into(), finished: 0.into(), label: *label };
        call(manager::IMAGE_CREATE, [from(&info)]).map(|[id, ..]| id)
    }

    fn write_image(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        // And a large image is unpacked in one go.
        life::beat();
        call(manager::IMAGE_WRITE, [id, offset, from(bytes), bytes.len() as u64]).map(drop)
    }

    fn read_image(&self, id: u64, offset: u64, bytes: &mut [u8]) -> Answer<()> {
        call(manager::IMAGE_READ, [id, offset, to(bytes), bytes.len() as u64]).map(drop)
    }

    fn finish_image(&mut self, id: u64) -> Answer<()> {
        call(manager::IMAGE_FINISH, [id]).map(drop)
    }

    fn delete_image(&mut self, id: u64) -> Answer<()> {
        call(manager::IMAGE_DELETE, [id]).map(drop)
    }

    fn next_image(&self, after: u64) -> Answer<ImageInfo> {
        record(manager::IMAGE_NEXT, |address| [after, address])
    }

    fn label_image(&mut self, id: u64, label: &Label) -> Answer<()> {
        call(manager::IMAGE_LABEL, [id, from(label)]).map(drop)
    }

    fn read_console(&self, id: u64, position: u64, bytes: &mut [u8]) -> Answer<Heard> {
        let arguments = [id, position, to(bytes), bytes.len() as u64];
        let [count, first, end] = call(manager::CONSOLE_READ, arguments)?;
        Ok(Heard { count: (count as usize).min(bytes.len()), first, end })
    }

    fn write_console(&mut self, id: u64, bytes: &[u8]) -> Answer<usize> {
        let [taken, ..] = call(manager::CONSOLE_WRITE, [id, from(bytes), bytes.len() as u64])?;
        Ok((taken as usize).min(bytes.len()))
    }

    fn keep(&mut self, record: u64, bytes: &[u8]) -> Answer<()> {
        call(manager::KEEP, [record, from(bytes), bytes.len() as u64]).map(drop)
    }

    fn usage(&self, id: u64) -> Answer<Usage> {
        answer(salp::vm_usage(id)).map(|(ran, waited)| Usage { ran, waited })
    }

    fn events(&self, from: u64, room: &mut [EventRecord]) -> Answer<(usize, u64)> {
        answer(salp::events(from, room, EVENT_INTID))
    }

    fn recall(&self, record: u64, bytes: &mut [u8]) -> Answer<usize> {
        let [size, ..] = call(manager::RECALL, [record, to(bytes), bytes.len() as u64])?;
        Ok((size as usize).min(bytes.len()))
    }

    fn medium(&self, id: u64) -> Answer<Option<u64>> {
        let [image, ..] = call(host::VM_MEDIUM, [id, host::SAME_MEDIUM])?;
        Ok(Some(image).filter(|&image| image != host::NO_MEDIUM))
    }

    fn change_medium(&mut self, id: u64, image: Option<u64>) -> Answer<()> {
        call(host::VM_MEDIUM, [id, image.unwrap_or(host::NO_MEDIUM)]).map(drop)
    }

    fn start_from(&mut self, id: u64, description: &[u8], lasts: bool) -> Answer<()> {
        call(host::VM_START_FROM, [id, from(description), description.len() as u64, lasts.into()]).map(drop)
    }

    fn clock(&mut self, time: Option<u64>) -> Answer<u64> {
        call(host::CLOCK, [time.unwrap_or(0)]).map(|[time, ..]| time)
    }

    fn read_log(&self, position: u64, bytes: &mut [u8]) -> Answer<Heard> {
        let [count, first, end] = call(host::LOG_READ, [position, to(bytes), bytes.len() as u64])?;
        Ok(Heard { count: (count as usize).min(bytes.len()), first, end })
    }

    fn power(&mut self, how: MachinePower) -> Answer<()> {
        match how {
            MachinePower::Reset => reset(),
            MachinePower::Off => call(host::MACHINE_POWER, [how as u64]).map(drop),
        }
    }

    fn slots(&self) -> Answer<UpdateInfo> {
        record(update::UPDATE_STATUS, |address| [address])
    }

    fn begin_update(&mut self, size: u64) -> Answer<()> {
        call(update::UPDATE_BEGIN, [size]).map(drop)
    }

    fn write_update(&mut self, bytes: &[u8]) -> Answer<usize> {
        // What is written is hashed and read back: many of these in one go take their time.
        life::beat();
        let [taken, ..] = call(update::UPDATE_WRITE, [from(bytes), bytes.len() as u64])?;
        Ok((taken as usize).min(bytes.len()))
    }

    fn change_slots(&mut self, change: SlotChange) -> Answer<()> {
        call(change as u32, []).map(drop)
    }

    fn hand_over(&mut self) -> Answer<()> {
        call(handover::HANDOVER, [handover::STANDBY]).map(drop)
    }

    fn hand_overs(&self) -> Answer<HandOvers> {
        let [count, _, failed] = call(handover::HANDOVER_STATE, [])?;
        Ok(HandOvers { count, failed: failed as u32 })
    }

    fn confirm_hand_over(&mut self) -> Answer<()> {
        call(handover::CONFIRM, []).map(drop)
    }

    fn cpu(&self, index: u64) -> Answer<Cpu> {
        call(host::MACHINE_CPU, [index]).map(|[model, affinity, _]| Cpu { model, affinity })
    }
}
