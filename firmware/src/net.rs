//! NICs of VMs: what a guest's driver does, carried out, and frames on their way from one VM to others.
//!
//! Before: [`crate::exits`]. After: [`salp_core::dev::net`] and [`salp_core::net`], which know what to do; the vGIC.
//!
//! A frame is copied out of its sender into a buffer of this CPU's, and from there into each receiver. Never are two VMs'
//! locks held at once, and nobody waits long for another VM: a receiver that is busy, or stands still, misses the frame, and
//! that is counted. An exit carries so much and no more; then the guest's store is done again, after whatever else is due.

use crate::console::log;
use crate::machine::{self, Store};
use crate::merge;
use crate::vcpu::Resident;
use crate::vm::{Vm, hold};
use salp_board::facts::MAX_CPUS;
use salp_core::addr::Ipa;
use salp_core::bootset::VmSpec;
use salp_core::dev::net::{Nic, Taken};
use salp_core::dev::virtq::{GuestMem, QueueError};
use salp_core::identity::Identity;
use salp_core::net::packet::{Addresses, Packet};
use salp_core::net::port::Port;
use salp_core::net::switch::{PORTS, Route, Switch};
use salp_core::stage2::{AddressSpace, Fault};
use salp_core::vgic::{AccessSize, VcpuSet};
use salp_hvc::bootset::{MAX_NICS, VIRTIO_INTID};
use salp_hw::lock::{Mutex, relax};
use salp_hw::memory::{Ram, VmTlb};
use salp_hw::{boot, cpu};
use spin::Once;

const NICS: usize = MAX_NICS as usize;
const _: () = assert!(PORTS >= salp_core::directory::MAX_VMS * NICS);

/// The NICs of a VM.
pub type Nics = [Option<Nic>; NICS];

static SWITCH: Once<&'static Mutex<Switch>> = Once::new();
/// One for each CPU.
static PACKETS: [Once<&'static Mutex<Packet>>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

fn switch() -> &'static Mutex<Switch> {
    SWITCH.call_once(|| boot::get().keep(const { Mutex::new(Switch::new()) }))
}

/// How much one exit carries, in units of a small frame; each 4 KiB count as one more.
const WORK: usize = 128;

/// How often a receiver's lock is tried.
const PATIENCE: u32 = 1000;

/// What an access to a NIC's registers gave.
pub enum Access {
    /// This value, if it was a load.
    Done(u64),
    /// The store is to be done again.
    Again,
}

/// A VM's memory, as its devices see it.
struct View<'a> {
    memory: &'a mut AddressSpace,
    tlb: VmTlb,
}

impl GuestMem for View<'_> {
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        if at < self.memory.ram().start { Err(Fault::OutsideRam) } else { self.memory.read(&Ram, at, to) }
    }

    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        if at < self.memory.ram().start {
            return Err(Fault::OutsideRam);
        }
        self.memory.write(&Store, &Ram, &self.tlb, at, from)
    }
}

/// Returns the NICs that a VM has at its start.
#[inline(always)]
pub fn new_nics(spec: &VmSpec<'_>, identity: &Identity) -> Nics {
    let mut nics = [const { None }; NICS];
    for (index, (place, nic)) in nics.iter_mut().zip(spec.nics()).enumerate() {
        *place = Some(Nic::new(Port::new(nic.mac.unwrap_or(identity.mac_of(index)), nic.rules)));
    }
    nics
}

/// Returns those of a copy of a VM that stands still.
#[inline(always)]
pub fn copy_nics(nics: &Nics, identity: &Identity, is_snapshot: bool) -> Nics {
    core::array::from_fn(|index| {
        let nic = nics.get(index)?.as_ref()?;
        Some(if is_snapshot { nic.clone() } else { nic.of_clone(identity.mac_of(index)) })
    })
}

/// Brings the NICs of a VM that stands still back to those of a snapshot.
pub fn revert(vm: &Vm, snapshot: &Vm) {
    let (Some(nics), Some(kept)) = (vm.nics(), snapshot.nics()) else { return };
    let (mut nics, kept) = (nics.lock(), kept.lock());
    for (nic, kept) in nics.iter_mut().zip(kept.iter()) {
        if let (Some(nic), Some(kept)) = (nic, kept) {
            nic.revert(kept, snapshot.source == vm.id);
        }
    }
}

/// Plugs the NICs of a VM in: it is about to run.
pub fn plug_in(vm: &Vm) {
    if vm.is_held_by(hold::SNAPSHOT) {
        return;
    }
    let Some(nics) = vm.nics().map(Mutex::lock) else { return };
    for (index, (nic, spec)) in nics.iter().zip(vm.spec.nics()).enumerate() {
        let Some(nic) = nic else { continue };
        if !switch().lock().join(port_of(vm, index), &spec.segment, spec.vlan, nic.port.mac) {
            log!("{}: NIC {index} is not plugged in: there are too many segments", vm.name());
        }
    }
}

/// Unplugs the NICs of a VM that is gone.
pub fn unplug(vm: &Vm) {
    let Some(nics) = vm.nics().map(Mutex::lock) else { return };
    for (index, _) in nics.iter().enumerate().filter(|(_, nic)| nic.is_some()) {
        switch().lock().leave(port_of(vm, index));
    }
}

fn port_of(vm: &Vm, index: usize) -> u16 {
    (vm.slot * NICS + index) as u16
}

fn set_line(vm: &Vm, index: usize, level: bool) -> VcpuSet {
    vm.vgic.lock().set_line(VIRTIO_INTID + index as u32, 0, level)
}

/// Makes the interrupt lines of all NICs what they are to be.
pub fn refresh_lines(vm: &Vm) -> VcpuSet {
    let Some(nics) = vm.nics().map(Mutex::lock) else { return VcpuSet::EMPTY };
    let lines = nics.iter().enumerate().filter_map(|(index, nic)| Some((index, nic.as_ref()?.interrupt())));
    lines.fold(VcpuSet::EMPTY, |told, (index, level)| told.union(set_line(vm, index, level)))
}

/// Opens the ports of a VM: its guest has acknowledged who it is.
pub fn acknowledge(vm: &Vm) {
    let mut is_any_opened = false;
    if let Some(mut nics) = vm.nics().map(Mutex::lock) {
        nics.iter_mut().flatten().for_each(|nic| is_any_opened |= nic.acknowledge());
    }
    if is_any_opened {
        let told = refresh_lines(vm);
        vm.notify(told);
    }
}

/// Carries out an access to the registers of a NIC. `None` if there is no such NIC.
pub fn access(
    this: &mut Resident<'_>,
    index: usize,
    offset: u64,
    size: AccessSize,
    written: Option<u64>,
) -> Option<Access> {
    let vm = this.vm;
    let (sends, told) = {
        let mut nics = vm.nics()?.lock();
        let nic = nics.get_mut(index)?.as_mut()?;
        let Some(value) = written else { return Some(Access::Done(nic.read(offset, size))) };
        let before = nic.interrupt();
        let sends = nic.write(offset, size, value);
        let after = nic.interrupt();
        (sends, if before == after { VcpuSet::EMPTY } else { set_line(vm, index, after) })
    };
    vm.notify(told);
    Some(if sends { transmit(this, index) } else { Access::Done(0) })
}

/// Takes what a guest sends, frame by frame, and brings each to where it goes.
fn transmit(this: &mut Resident<'_>, index: usize) -> Access {
    let vm = this.vm;
    let Some(packet) = PACKETS.get(this.cpu.index) else { return Access::Done(0) };
    let packet = packet.call_once(|| boot::get().keep(const { Mutex::new(Packet::EMPTY) }));
    let packet = &mut packet.lock();
    let mut work = 0;
    let access = loop {
        match take(vm, index, packet) {
            Ok(Taken::Frame(addresses)) => work += forward(port_of(vm, index), &addresses, packet),
            Ok(Taken::Dropped) => work += 1,
            Ok(Taken::Nothing) | Err(QueueError::Breach(_)) => break Access::Done(0),
            Err(QueueError::NoMemory(at)) => {
                if !merge::give_back() {
                    vm.starve(at);
                }
                break Access::Again;
            }
        }
        if work >= WORK {
            break Access::Again;
        }
    };
    finish(vm, index);
    access
}

/// Does something with a NIC and its VM's memory; sets its interrupt line to what came of it. The caller holds no other VM's
/// locks.
fn with_nic<R>(
    vm: &Vm,
    memory: &mut Option<AddressSpace>,
    index: usize,
    act: impl FnOnce(&mut Nic, &mut View<'_>) -> Result<R, QueueError>,
) -> Option<(Result<R, QueueError>, VcpuSet)> {
    let mut view = View { memory: memory.as_mut()?, tlb: vm.tlb() };
    let mut nics = vm.nics()?.lock();
    let nic = nics.get_mut(index)?.as_mut()?;
    let before = nic.interrupt();
    let result = act(nic, &mut view);
    if let Err(QueueError::Breach(breach)) = result
        && nic.give_up()
    {
        log!("{}: NIC {index} stands still: its driver broke the rules of its queues ({breach:?})", vm.name());
    }
    let after = nic.interrupt();
    Some((result, if before == after { VcpuSet::EMPTY } else { set_line(vm, index, after) }))
}

fn take(vm: &Vm, index: usize, packet: &mut Packet) -> Result<Taken, QueueError> {
    let now = cpu::counter() / (cpu::counter_frequency() / 1_000_000).max(1);
    let done = with_nic(vm, &mut vm.memory.lock(), index, |nic, view| nic.take(view, packet, now));
    let Some((result, told)) = done else { return Ok(Taken::Nothing) };
    vm.notify(told);
    result
}

fn finish(vm: &Vm, index: usize) {
    let done = with_nic(vm, &mut vm.memory.lock(), index, |nic, view| nic.finish_taking(view));
    if let Some((_, told)) = done {
        vm.notify(told);
    }
}

/// Brings a frame to where it goes. Returns how much work that was.
fn forward(from: u16, addresses: &Addresses, packet: &mut Packet) -> usize {
    let now = (cpu::counter() / cpu::counter_frequency().max(1)) as u32;
    let route = switch().lock().route(from, addresses, now);
    let each = 1 + packet.frame().len() / 4096;
    match route {
        Route::Nowhere => 1,
        Route::One(port) => {
            deliver(port, packet);
            each
        }
        Route::Many(first) => {
            let (mut next, mut work) = (Some(first), 0);
            // Ports come and go meanwhile: no more are served than there can be.
            for _ in 0..PORTS {
                let Some(port) = next else { break };
                deliver(port, packet);
                work += each;
                next = switch().lock().next(from, port);
            }
            work
        }
    }
}

/// Gives a frame to the VM behind a port. One that stands still is not touched: what is done to it is done to its memory and
/// its devices alike.
fn deliver(port: u16, packet: &mut Packet) {
    let (slot, index) = (usize::from(port) / NICS, usize::from(port) % NICS);
    let guard = machine::slot(slot).read();
    let Some(vm) = guard.as_deref() else { return };
    let memory = (0..PATIENCE).find_map(|_| {
        let memory = vm.memory.try_lock();
        if memory.is_none() {
            relax();
        }
        memory
    });
    let done = memory.filter(|_| vm.control() == 0).and_then(|mut memory| {
        // The line is set before the memory is let go: a fork sees both or neither.
        with_nic(vm, &mut memory, index, |nic, view| nic.deliver(view, packet))
    });
    match done {
        Some((_, told)) => vm.notify(told),
        None => {
            if let Some(mut nics) = vm.nics().map(Mutex::lock)
                && let Some(nic) = nics.get_mut(index).and_then(Option::as_mut)
            {
                nic.port.count_arrival(0, false);
            }
        }
    }
}
