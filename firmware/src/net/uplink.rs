//! The uplink: the machine's NIC as the switch's trunk, in all VLANs of the segment `uplink`. Frames of VLAN 0 have no tag
//! out there, the others have one.
//!
//! Before: an interrupt, or [`super::deliver`]. After: [`super::forward`], or [`salp_hw::virtio::net`].
//!
//! What arrives is forwarded by the CPU that takes the interrupt, a batch at a time with a pause in between: a flood from
//! outside leaves time to guests. A frame for a VM that is busy stays in the device's buffer, and those behind it wait, but not
//! for long. The device is no more trusted than a guest; one that breaks the rules is given up.

use super::{Patience, forward, packet_of, switch, wait};
use crate::console::log;
use crate::machine::{self, Machine};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use salp_core::dev::net::Delivery;
use salp_core::net::packet::{Addresses, HEADER, MAX_PLAIN, Packet, tag};
use salp_core::net::switch::{SegmentName, Switch};
use salp_hvc::bootset::UPLINK as SEGMENT;
use salp_hw::cpu;
use salp_hw::own::Own;
use salp_hw::virtio::net::{Ethernet, Incoming, Outgoing};
use salp_hw::virtio::{Broken, QUEUE};
use spin::Once;

/// How many frames are forwarded at once.
const BATCH: usize = 64;
/// For how long then none is, in microseconds.
const PAUSE: u64 = 100;
/// For how long a frame waits for a busy receiver, in microseconds: one whose memory is in use by a CPU that a hypervisor below
/// this one has stopped, or an emulator.
const PATIENCE: u64 = 20_000;

static NIC: Once<Own<Ethernet>> = Once::new();
/// A frame has found no room, and somebody waits for it: an interrupt tells of room.
static IS_FULL: AtomicBool = AtomicBool::new(false);
/// When the next batch is due, by the counter; 0 if an interrupt will tell.
static DUE: AtomicU64 = AtomicU64::new(0);
/// Until when the frame that arrived last waits for its receiver, by the counter; 0 if none does.
static HELD: AtomicU64 = AtomicU64::new(0);
/// Somebody was told that there is none.
static IS_MISSED: AtomicBool = AtomicBool::new(false);

/// Returns the name of its segment.
pub fn segment() -> SegmentName {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(SEGMENT.bytes()) {
        *to = from;
    }
    name
}

/// Takes the machine's NIC, if it has one. Its interrupt comes to this CPU, the first.
pub fn init(machine: &Machine) {
    let frame = machine::take_driver_frame;
    let device = match Ethernet::probe(frame) {
        Ok(Some(device)) => device,
        Ok(None) => return,
        Err(error) => return log!("there is no uplink: the virtio NIC is unusable: {error}"),
    };
    let Some(frame) = frame() else { return log!("there is no uplink: no frame is free") };
    let nic = NIC.call_once(|| Own::new(frame, device));
    checked(nic, nic.incoming(&mut Incoming::lend_all));
    switch().lock().set_trunk(&segment());
    machine.gic.lock().enable_shared(nic.interrupt());
    // An edge before that told nobody, and none comes while what it told of is not acknowledged.
    DUE.store(1, Ordering::Relaxed);
}

/// Says that there is none, once, because a NIC is there for it.
pub fn expect() {
    if NIC.get().is_none() && !IS_MISSED.swap(true, Ordering::Relaxed) {
        log!("the segment {SEGMENT} leads nowhere: the machine has no virtio NIC");
    }
}

/// Returns true if `intid` is its interrupt.
pub fn is_interrupt(intid: u32) -> bool {
    NIC.get().is_some_and(|nic| nic.interrupt().id == intid)
}

/// Returns when this CPU must have a moment for it.
pub fn due(cpu: usize) -> Option<u64> {
    Some(DUE.load(Ordering::Relaxed)).filter(|&due| cpu == 0 && due != 0)
}

/// Forwards what has arrived, unless that is not due yet. The caller holds no lock of a VM's parts but of a vCPU's context.
pub fn receive(cpu: usize) {
    let now = cpu::counter();
    if now < DUE.load(Ordering::Relaxed) {
        return;
    }
    let Some(nic) = nic() else { return DUE.store(0, Ordering::Relaxed) };
    let packet = &mut packet_of(cpu).lock();
    // Taken before the first look: what comes later interrupts anew.
    checked(nic, nic.acknowledge());
    if IS_FULL.swap(false, Ordering::Relaxed) {
        leave(&mut |outgoing| {
            outgoing.tell_of_room(false);
            Ok(())
        });
        wait::end_for(Switch::is_trunk);
    }
    let mut held = HELD.swap(0, Ordering::Relaxed);
    let mut count = 0;
    while count < BATCH {
        let mut is_there = false;
        let looked = nic.incoming(&mut |incoming| {
            is_there = next(incoming, packet, held != 0)?;
            Ok(())
        });
        checked(nic, looked);
        if !is_there {
            break;
        }
        let is_over = held != 0 && now >= held;
        if accept(packet, if is_over { Patience::None } else { Patience::ForBusy }) {
            // No buffer is lent before its turn comes again.
            HELD.store(if held == 0 { now + ticks(PATIENCE) } else { held }, Ordering::Relaxed);
            return DUE.store(cpu::counter() + ticks(PAUSE), Ordering::Relaxed);
        }
        held = 0;
        count += 1;
    }
    checked(nic, nic.incoming(&mut Incoming::lend_all));
    let due = if count == BATCH { cpu::counter() + ticks(PAUSE) } else { 0 };
    DUE.store(due, Ordering::Relaxed);
}

/// Returns how much the counter goes on in so many microseconds.
fn ticks(microseconds: u64) -> u64 {
    cpu::counter_frequency() * microseconds / 1_000_000
}

/// Copies the next frame that has arrived, or the last one again; one that makes no sense is empty. Returns false if there is
/// none.
fn next(incoming: &mut Incoming, packet: &mut Packet, is_last: bool) -> Result<bool, Broken> {
    let Some((header, room)) = packet.room().split_first_chunk_mut::<HEADER>() else { return Ok(false) };
    header.fill(0);
    let room = room.get_mut(..=MAX_PLAIN).unwrap_or_default();
    let length = if is_last { incoming.repeat(room) } else { incoming.receive(room)? };
    let Some(length) = length else { return Ok(false) };
    let _ = packet.fill(HEADER + length) || packet.fill(0);
    Ok(true)
}

/// Brings a frame from outside to where it goes. Returns true if it is to wait for its receiver.
fn accept(packet: &mut Packet, patience: Patience) -> bool {
    let vlan = packet.untag();
    let addresses = Addresses::of(packet.frame()).filter(|addresses| !addresses.is_tagged());
    let Some((addresses, port)) = addresses.zip(switch().lock().trunk_port(vlan)) else { return false };
    forward(port, None, &addresses, packet, patience).1.is_some()
}

/// Sends a frame out. One for which there is no room is lost, unless it may wait.
pub fn send(vlan: u16, packet: &mut Packet, may_wait: bool) -> Delivery {
    let tag = tag(vlan);
    let tag = if vlan == 0 { &[] } else { &tag[..] };
    let mut delivery = Delivery::Over;
    leave(&mut |outgoing| {
        if outgoing.room()? < packet.count().min(QUEUE) {
            if may_wait {
                outgoing.tell_of_room(true);
                IS_FULL.store(true, Ordering::Relaxed);
                delivery = Delivery::Full;
            }
            return Ok(());
        }
        packet.plain(|first, rest| {
            let frame = first.get(HEADER..).and_then(|frame| frame.split_at_checked(12));
            let (addresses, body) = frame.unwrap_or_default();
            outgoing.send(&[addresses, tag, body, rest])
        })?;
        Ok(())
    });
    delivery
}

/// Returns true if no frame is on its way out any more: none will tell of room.
pub fn has_all_room() -> bool {
    let mut room = QUEUE;
    leave(&mut |outgoing| {
        room = outgoing.room()?;
        Ok(())
    });
    room == QUEUE
}

/// Does something with what leaves, if the device is there.
#[inline(never)] // Not once for each thing that is done.
fn leave(act: &mut dyn FnMut(&mut Outgoing) -> Result<(), Broken>) {
    if let Some(nic) = nic() {
        checked(nic, nic.outgoing(act));
    }
}

/// Returns the device, if there is one that was not given up.
fn nic() -> Option<&'static Ethernet> {
    NIC.get().map(|nic| &**nic).filter(|nic| !nic.is_given_up())
}

/// Gives the device up if it breaks the rules.
fn checked(nic: &Ethernet, result: Result<(), Broken>) {
    if let Err(error) = result
        && nic.give_up()
    {
        log!("the uplink is given up: {error}");
    }
}
