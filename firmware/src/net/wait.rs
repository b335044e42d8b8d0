//! Senders whose next frame waits for a buffer at its receiver.
//!
//! Before: [`super::transmit`], which finds none. After: one of the sender's own vCPUs, which goes on with the queue before it
//! enters the guest: what a VM sends is done on its own time, also after a wait, and not while it is held.
//!
//! A wait ends when the receiver tells of buffers, or has none for too long; the CPU on which it began has an alarm for that.

use crate::machine;
use crate::vm::Vm;
use core::sync::atomic::{AtomicUsize, Ordering};
use heapless::Vec;
use salp_core::vgic::VcpuSet;
use salp_hw::lock::Mutex;

/// How many can wait at once. The frames of others are lost if they find no buffer.
const MOST: usize = 32;

#[derive(Clone, Copy)]
struct Waiter {
    slot: usize,
    vm: u64,
    vcpu: usize,
    nic: usize,
    /// The receiver.
    port: u16,
    /// The CPU with the alarm, and when it is due, by the counter.
    cpu: usize,
    due: u64,
}

static WAITERS: Mutex<Vec<Waiter, MOST>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Notes that a NIC of `vm` waits for the port, on this CPU, until `due` by the counter. Returns false if too many do.
pub fn begin(vm: &Vm, vcpu: usize, nic: usize, port: u16, cpu: usize, due: u64) -> bool {
    let mut waiters = WAITERS.lock();
    let has_room = waiters.push(Waiter { slot: vm.slot, vm: vm.id, vcpu, nic, port, cpu, due }).is_ok();
    COUNT.store(waiters.len(), Ordering::Release);
    has_room
}

/// Returns when the first wait that began on this CPU has lasted long enough.
pub fn due(cpu: usize) -> Option<u64> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return None;
    }
    WAITERS.lock().iter().filter(|waiter| waiter.cpu == cpu).map(|waiter| waiter.due).min()
}

/// Ends the waits for ports.
pub fn end_for(is_it: impl Fn(u16) -> bool) {
    end(|waiter| is_it(waiter.port));
}

/// Ends the waits on this CPU that have lasted long enough.
pub fn end_overdue(cpu: usize, now: u64) {
    end(|waiter| waiter.cpu == cpu && waiter.due <= now);
}

/// Ends waits. The caller holds no lock of a VM's parts but of a vCPU's context.
fn end(is_over: impl Fn(&Waiter) -> bool) {
    // In the order of locks the list is behind those of VMs: the waiters come out one by one.
    while COUNT.load(Ordering::Acquire) != 0 {
        let waiter = {
            let mut waiters = WAITERS.lock();
            let Some(at) = waiters.iter().position(&is_over) else { return };
            let waiter = waiters.swap_remove(at);
            COUNT.store(waiters.len(), Ordering::Release);
            waiter
        };
        let guard = machine::slot(waiter.slot).read();
        if let Some(vm) = guard.as_deref().filter(|vm| vm.id == waiter.vm) {
            retry(vm, waiter.vcpu, waiter.nic);
        }
    }
}

/// Lets a queue that waits go on.
pub fn retry(vm: &Vm, vcpu: usize, nic: usize) {
    if let Some(mut nics) = vm.nics().map(Mutex::lock)
        && let Some(nic) = nics.get_mut(nic).and_then(Option::as_mut)
    {
        nic.retry();
    }
    vm.ask_to_send(nic);
    vm.notify(VcpuSet::one(vcpu));
}
