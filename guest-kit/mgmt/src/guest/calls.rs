//! The hypervisor of a guest on Salp: its calls. Before: the service. After: EL2.

use guest_kit::salp::{self, Name, Refused, Request};
use salp_hvc::calls::{MachineInfo, VmInfo, VmMemory};
use salp_mgmt::hypervisor::{self, Answer, Cloning, Hypervisor};

/// Salp.
pub struct Calls;

fn answer<T>(answer: Result<T, Refused>) -> Answer<T> {
    answer.map_err(|Refused(why)| hypervisor::Refused(why))
}

fn name(text: &str) -> Name {
    Name::new(format_args!("{text}"))
}

impl Hypervisor for Calls {
    fn own_uuid(&self) -> Option<[u8; 16]> {
        salp::uuid().ok()
    }

    fn machine(&self) -> Answer<MachineInfo> {
        answer(salp::machine())
    }

    fn next(&self, after: u64) -> Answer<VmInfo> {
        answer(salp::vm_next(after))
    }

    fn memory(&self, id: u64) -> Answer<VmMemory> {
        answer(salp::vm_memory(id))
    }

    fn clone_vm(&mut self, request: &Cloning<'_>) -> Answer<(u64, u64)> {
        let call = Request::new(request.source, request.count, name(request.name)).config(request.config);
        answer(salp::vm_clone(&call)).map(|clones| (clones.first, clones.last))
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
}
