//! NICs of VMs: what a guest's driver does, carried out, and frames on their way from one VM to others.
//!
//! Before: [`crate::exits`]. After: [`salp_core::dev::net`] and [`salp_core::net`], which know what to do; the vGIC.
//! [`uplink`] is the way out of the machine, [`wait`] has the senders that wait for a receiver.
//!
//! A frame is copied out of its sender into a buffer of this CPU's, and from there into each receiver. Of a large frame only
//! the beginning is: the rest goes from memory to memory if one VM gets it. Only then two VMs' memory is locked at once, in the
//! order of slots, the receiver's by trying: no CPU waits long for another VM. Who is busy for longer gets the frame a little
//! later, if it goes to nobody else; who stands still misses it, and that is counted. An exit carries so much and no more; then
//! the guest's store is done again, after whatever else is due.

pub mod uplink;
pub mod view;
mod wait;

use crate::console::log;
use crate::events;
use crate::machine;
use crate::merge;
use crate::vcpu::Resident;
use crate::vm::{Vm, hold};
use salp_board::facts::MAX_CPUS;
use salp_core::addr::Ipa;
use salp_core::bootset::VmSpec;
use salp_core::calls::manage::NicOrder;
use salp_core::dev::net::{Asks, Delivery, Nic, Taken};
use salp_core::dev::virtq::{GuestMem, QueueError};
use salp_core::identity::Identity;
use salp_core::net::packet::{Addresses, Packet};
use salp_core::net::port::Port;
use salp_core::net::switch::{PORTS, Route, Switch};
use salp_core::stage2::AddressSpace;
use salp_core::vgic::{AccessSize, VcpuSet};
use salp_hvc::bootset::{MAX_NICS, VIRTIO_INTID};
use salp_hvc::events::NIC_CHANGED;
use salp_hvc::manager::NicInfo;
use salp_hvc::status;
use salp_hw::lock::Mutex;
use salp_hw::{boot, cpu};
use spin::Once;
use view::View;

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

/// Returns the packet of a CPU.
fn packet_of(cpu: usize) -> &'static Mutex<Packet> {
    PACKETS[cpu % MAX_CPUS].call_once(|| boot::get().keep(const { Mutex::new(Packet::EMPTY) }))
}

/// How much one exit carries, in units of a small frame; each 4 KiB count as one more.
const WORK: usize = 128;

/// How often a receiver's lock is tried: for about as long as a large frame takes.
const PATIENCE: u32 = 4000;

/// How often a frame to many is brought again to receivers that are busy, all taken together.
const AGAIN: u32 = 16;

/// Why nothing can be done with a NIC.
enum Absence {
    /// There is no VM, or it stands still.
    Gone,
    /// Something is done with its memory for longer than a CPU waits.
    Busy,
}

/// What a frame may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// Nothing.
    None,
    /// A receiver that is busy.
    ForBusy,
    /// That, or one that has no buffer.
    ForRoom,
}

/// What an access to a NIC's registers gave.
pub enum Access {
    /// This value, if it was a load.
    Done(u64),
    /// The store is to be done again.
    Again,
}

/// Returns the NICs that a VM has at its start.
#[inline(always)]
pub fn new_nics(spec: &VmSpec, identity: &Identity) -> Nics {
    let mut nics = [const { None }; NICS];
    for (index, (place, nic)) in nics.iter_mut().zip(spec.nics()).enumerate() {
        let port = Port::new(nic.mac.unwrap_or(identity.mac_of(index)), nic.rules);
        *place = Some(Nic::new(port.placed(nic.segment, nic.vlan).carrying(nic.vlans)));
    }
    nics
}

/// Returns those of a copy of a VM that stands still.
#[inline(always)]
pub fn copy_nics(nics: &Nics, identity: &Identity, is_snapshot: bool, is_disconnected: bool) -> Nics {
    core::array::from_fn(|index| {
        let nic = nics.get(index)?.as_ref()?;
        let mut copy = if is_snapshot { nic.clone() } else { nic.of_clone(identity.mac_of(index)) };
        copy.port.is_disconnected |= is_disconnected;
        Some(copy)
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
    (0..NICS).for_each(|index| vm.ask_to_send(index));
}

/// Where the NICs of a VM are plugged in, and who they are.
pub type Ports = [Option<Port>; NICS];

/// Returns the ports of a VM.
pub fn ports(vm: &Vm) -> Ports {
    let nics = vm.nics().map(Mutex::lock);
    core::array::from_fn(|index| Some(nics.as_ref()?.get(index)?.as_ref()?.port.clone()))
}

/// Gives the NICs of a VM that is off these ports, as many as it has.
pub fn set_ports(vm: &Vm, ports: &Ports) {
    let Some(mut nics) = vm.nics().map(Mutex::lock) else { return };
    for (nic, port) in nics.iter_mut().zip(ports) {
        if let (Some(nic), Some(port)) = (nic, port) {
            nic.port.clone_from(port);
        }
    }
}

/// Plugs the NICs of a VM in: it is about to run.
pub fn plug_in(vm: &Vm) {
    if vm.is_held_by(hold::SNAPSHOT) {
        return;
    }
    let Some(nics) = vm.nics().map(Mutex::lock) else { return };
    for (index, nic) in nics.iter().enumerate() {
        if let Some(nic) = nic
            && !join(vm, index, &nic.port)
        {
            log!("{}: NIC {index} is not plugged in: there are too many segments", vm.name());
        }
    }
}

/// Plugs a NIC in where its port says. Returns false if there are too many segments.
fn join(vm: &Vm, index: usize, port: &Port) -> bool {
    if port.segment == uplink::segment() {
        uplink::expect();
    }
    let (at, mut switch) = (port_of(vm, index), switch().lock());
    if port.vlans.is_trunk() {
        switch.join_trunk(at, &port.segment, &port.vlans, port.mac)
    } else {
        switch.join(at, &port.segment, port.vlan, port.mac)
    }
}

/// Returns what there is to know of a NIC.
///
/// # Errors
///
/// There is no such NIC.
pub fn info(vm: &Vm, index: u64) -> Result<NicInfo, i64> {
    let nics = vm.nics().ok_or(status::NOT_FOUND)?.lock();
    let nic = nics.get(index as usize).and_then(Option::as_ref).ok_or(status::NOT_FOUND)?;
    Ok(nic.port.info())
}

/// Changes a NIC as the operator says.
///
/// # Errors
///
/// There is no such NIC, or it cannot be plugged in there; then it is as it was.
pub fn change(vm: &Vm, index: u64, order: &NicOrder) -> Result<(), i64> {
    {
        let mut nics = vm.nics().ok_or(status::NOT_FOUND)?.lock();
        let index = index as usize;
        let nic = nics.get_mut(index).and_then(Option::as_mut).ok_or(status::NOT_FOUND)?;
        if let Some((segment, vlan, vlans)) = order.place {
            let moved = nic.port.clone().placed(segment, vlan).carrying(vlans);
            let is_plugged_in = !vm.is_held_by(hold::SNAPSHOT | hold::OFF);
            if is_plugged_in && !join(vm, index, &moved) {
                join(vm, index, &nic.port);
                return Err(status::TOO_MANY);
            }
            nic.port = moved;
        }
        nic.port.set_rate(order.rate);
        nic.connect(order.connected);
    }
    let told = refresh_lines(vm);
    vm.notify(told);
    events::tell(vm, NIC_CHANGED, index as u32);
    Ok(())
}

/// Unplugs the NICs of a VM that is gone, or off.
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
    let (asks, told) = {
        let mut nics = vm.nics()?.lock();
        let nic = nics.get_mut(index)?.as_mut()?;
        let Some(value) = written else { return Some(Access::Done(nic.read(offset, size))) };
        let before = nic.interrupt();
        let asks = nic.write(offset, size, value);
        let after = nic.interrupt();
        (asks, if before == after { VcpuSet::EMPTY } else { set_line(vm, index, after) })
    };
    vm.notify(told);
    match asks {
        Asks::Send => return Some(transmit(this, index)),
        Asks::Receive => wait::end_for(|port| port == port_of(vm, index)),
        Asks::Nothing => {}
    }
    Some(Access::Done(0))
}

/// Goes on with the queues of a VM that its guest does not tell of again.
pub fn go_on(this: &mut Resident<'_>) {
    let senders = this.vm.take_senders();
    for index in (0..NICS).filter(|index| senders >> index & 1 != 0) {
        if matches!(transmit(this, index), Access::Again) {
            this.vm.ask_to_send(index);
            // Whatever else is due comes first.
            machine::kick(1 << this.cpu.index);
        }
    }
}

/// Returns when this CPU must have a moment for frames.
pub fn due(cpu: usize) -> Option<u64> {
    uplink::due(cpu).into_iter().chain(wait::due(cpu)).min()
}

/// Does what is due on this CPU. The caller holds no lock of a VM's parts but of a vCPU's context.
pub fn tick(cpu: usize) {
    if uplink::due(cpu).is_some() {
        uplink::receive(cpu);
    }
    wait::end_overdue(cpu, cpu::counter());
}

/// Takes what a guest sends, frame by frame, and brings each to where it goes.
fn transmit(this: &mut Resident<'_>, index: usize) -> Access {
    let vm = this.vm;
    let packet = &mut packet_of(this.cpu.index).lock();
    let (mut work, mut is_underway) = (0, false);
    let access = loop {
        match take(vm, index, Some(packet), core::mem::take(&mut is_underway)) {
            Ok(Taken::Frame(addresses, is_patient)) => {
                let patience = if is_patient { Patience::ForRoom } else { Patience::None };
                let (cost, awaited) = forward(port_of(vm, index), Some(vm), &addresses, packet, patience);
                work += cost;
                if let Some(port) = awaited {
                    begin_wait(this, index, port);
                    break Access::Done(0);
                }
                is_underway = true;
            }
            Ok(Taken::Dropped) => work += 1,
            Ok(Taken::Nothing) | Err(QueueError::Breach(_)) => break Access::Done(0),
            Err(QueueError::NoMemory(at)) => {
                want_memory(vm, at);
                break Access::Again;
            }
        }
        if work >= WORK {
            break Access::Again;
        }
    };
    match take(vm, index, None, is_underway) {
        Err(QueueError::NoMemory(at)) => {
            want_memory(vm, at);
            Access::Again
        }
        _ => access,
    }
}

/// Gets a VM memory, or lets it wait for some.
pub fn want_memory(vm: &Vm, at: Ipa) {
    if !merge::give_back() {
        vm.starve(at);
    }
}

/// Lets the queue of a NIC wait for a receiver.
fn begin_wait(this: &Resident<'_>, index: usize, port: u16) {
    let vm = this.vm;
    let until = vm.nics().and_then(|nics| nics.lock().get_mut(index)?.as_mut()?.wait(microseconds()));
    let Some(until) = until else { return };
    let due = until.saturating_mul(ticks_per_microsecond());
    if !wait::begin(vm, this.index, index, port, this.cpu.index, due) {
        wait::retry(vm, this.index, index);
    } else if has_more_room(port) {
        // What came before the wait began was told to nobody.
        wait::end_for(|other| other == port);
    }
}

fn ticks_per_microsecond() -> u64 {
    (cpu::counter_frequency() / 1_000_000).max(1)
}

fn microseconds() -> u64 {
    cpu::counter() / ticks_per_microsecond()
}

/// Does something with a NIC and its VM's memory; sets its interrupt line to what came of it. Returns whom to tell; `None` if
/// there is no such NIC. The caller holds no other VM's locks.
fn with_nic(vm: &Vm, memory: &mut Option<AddressSpace>, index: usize, act: &mut Act<'_>) -> Option<VcpuSet> {
    with_nic_beside(vm, memory, None, index, act)
}

/// Does the same while the memory of the sender is locked too, if that is another VM's.
fn with_nic_beside(
    vm: &Vm,
    memory: &mut Option<AddressSpace>,
    sender: Option<&AddressSpace>,
    index: usize,
    act: &mut Act<'_>,
) -> Option<VcpuSet> {
    let mut view = View::new(memory.as_mut()?, vm.tlb(), sender);
    let mut nics = vm.nics()?.lock();
    let nic = nics.get_mut(index)?.as_mut()?;
    let before = nic.interrupt();
    if let Err(QueueError::Breach(breach)) = act(nic, &mut view)
        && nic.give_up()
    {
        log!("{}: NIC {index} stands still: its driver broke the rules of its queues ({breach:?})", vm.name());
    }
    let after = nic.interrupt();
    Some(if before == after { VcpuSet::EMPTY } else { set_line(vm, index, after) })
}

/// What is done with a NIC and its VM's memory. One function whatever it is: there are several.
type Act<'a> = dyn FnMut(&mut Nic, &mut View<'_>) -> Result<(), QueueError> + 'a;

/// Takes the next frame; the last one that was taken is over if `is_underway`. Without a packet for it none is taken, and the
/// guest is told of what was.
fn take(vm: &Vm, index: usize, mut packet: Option<&mut Packet>, is_underway: bool) -> Result<Taken, QueueError> {
    let now = microseconds();
    let mut taken = Ok(Taken::Nothing);
    let told = with_nic(vm, &mut vm.memory.lock(), index, &mut |nic, view| {
        if is_underway {
            nic.settle();
        }
        taken = match packet.as_deref_mut() {
            Some(packet) => nic.take(view, packet, now),
            None => nic.finish_taking(view).map(|()| Taken::Nothing),
        };
        taken.map(drop)
    });
    vm.notify(told.unwrap_or(VcpuSet::EMPTY));
    taken
}

/// Brings a frame to where it goes; what of it is not in the packet is in the memory of `sender`. Returns how much work that
/// was, and the receiver that the frame is to wait for, if it may.
fn forward(
    from: u16,
    sender: Option<&Vm>,
    addresses: &Addresses,
    packet: &mut Packet,
    patience: Patience,
) -> (usize, Option<u16>) {
    let now = (cpu::counter() / cpu::counter_frequency().max(1)) as u32;
    let (from, route, exit) = {
        let mut switch = switch().lock();
        let from = switch.entry(from, addresses.vlan);
        let route = switch.route(from, addresses, now);
        let exit = match route {
            Route::Nowhere => (from, 0),
            Route::One(port) | Route::Many(port) => switch.exit(port),
        };
        (from, route, exit)
    };
    let each = 1 + packet.frame_length() / 4096;
    let sender = sender.filter(|_| !packet.rest().is_empty());
    // To one VM bytes go from memory to memory, but not to many, nor to a wire.
    let is_completed = match route {
        Route::Nowhere => false,
        Route::One(port) => Switch::is_trunk(port),
        Route::Many(_) => true,
    };
    if is_completed && let Some(vm) = sender {
        complete(vm, packet);
    }
    match route {
        Route::Nowhere => (1, None),
        Route::One(_) => {
            let delivery = deliver(exit, sender, packet, patience == Patience::ForRoom);
            if delivery == Delivery::Busy && patience == Patience::None {
                count_miss(exit.0);
            }
            (each, (delivery != Delivery::Over && patience != Patience::None).then_some(exit.0))
        }
        Route::Many(first) => {
            let (mut next, mut work, mut again) = (Some((first, exit)), 0, AGAIN);
            // Ports come and go meanwhile: no more are served than there can be.
            for _ in 0..PORTS {
                let Some((port, exit)) = next else { break };
                while deliver(exit, None, packet, false) == Delivery::Busy {
                    if again == 0 {
                        count_miss(exit.0);
                        break;
                    }
                    again -= 1;
                }
                work += each;
                let switch = switch().lock();
                next = switch.next(from, port).map(|port| (port, switch.exit(port)));
            }
            (work, None)
        }
    }
}

/// Gets all of a frame out of its sender's memory.
fn complete(vm: &Vm, packet: &mut Packet) {
    if let Some(memory) = vm.memory.lock().as_mut() {
        let mut view = View::new(memory, vm.tlb(), None);
        packet.complete(|from, to| view.fetch(from, to));
    }
}

/// Does something with the NIC behind a port and its VM's memory, beside that of a sender if there is one. What is done to a
/// VM is done to its memory and its devices alike.
///
/// # Errors
///
/// There is no such VM, or it stands still, or is busy.
fn with_port(port: u16, sender: Option<&Vm>, act: &mut Act<'_>) -> Result<(), Absence> {
    let (slot, index) = (usize::from(port) / NICS, usize::from(port) % NICS);
    let guard = machine::slot(slot).read();
    let vm = guard.as_deref().ok_or(Absence::Gone)?;
    // In the order of slots: two VMs that send to each other do not each wait for the other.
    let sender = sender.filter(|sender| sender.id != vm.id);
    let first = sender.filter(|sender| sender.slot < vm.slot).map(|sender| sender.memory.lock());
    let memory = vm.memory.lock_within(PATIENCE);
    if vm.control() != 0 {
        return Err(Absence::Gone);
    }
    let mut memory = memory.ok_or(Absence::Busy)?;
    let second = sender.filter(|sender| sender.slot > vm.slot).map(|sender| sender.memory.lock());
    let sender = first.or(second);
    if matches!(sender.as_deref(), Some(None)) {
        return Err(Absence::Gone);
    }
    // The line is set before the memory is let go: a fork sees both or neither.
    let beside = sender.as_deref().and_then(Option::as_ref);
    let told = with_nic_beside(vm, &mut memory, beside, index, act);
    drop((memory, sender));
    vm.notify(told.unwrap_or(VcpuSet::EMPTY));
    told.map(drop).ok_or(Absence::Gone)
}

/// Gives a frame to the VM behind a port, with the tag of a VLAN or (0) without; what of it is not in the packet is in the memory
/// of `sender`.
fn deliver((port, vlan): (u16, u16), sender: Option<&Vm>, packet: &mut Packet, may_wait: bool) -> Delivery {
    if Switch::is_trunk(port) {
        return uplink::send(vlan, packet, may_wait);
    }
    let mut delivery = Delivery::Over;
    let absence = with_port(port, sender, &mut |nic, view| {
        delivery = nic.deliver(view, packet, vlan, may_wait)?;
        Ok(())
    });
    match absence {
        Ok(()) => delivery,
        Err(Absence::Busy) => Delivery::Busy,
        Err(Absence::Gone) => {
            count_miss(port);
            Delivery::Over
        }
    }
}

/// Returns true if there is room at a port that was not there when a frame found none; it tells of the next else.
fn has_more_room(port: u16) -> bool {
    if Switch::is_trunk(port) {
        return uplink::has_all_room();
    }
    let mut has_more = true;
    let found = with_port(port, None, &mut |nic, view| {
        has_more = nic.has_more_room(view)?;
        Ok(())
    });
    has_more || found.is_err()
}

/// Counts a frame that a VM has missed because it stands still, or is busy.
fn count_miss(port: u16) {
    let (slot, index) = (usize::from(port) / NICS, usize::from(port) % NICS);
    let guard = machine::slot(slot).read();
    if let Some(mut nics) = guard.as_deref().and_then(Vm::nics).map(Mutex::lock)
        && let Some(nic) = nics.get_mut(index).and_then(Option::as_mut)
    {
        nic.port.count_arrival(0, false);
    }
}
