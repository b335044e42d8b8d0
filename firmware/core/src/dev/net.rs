//! virtio-net (Virtio 1.2, 5.1): the NIC of a guest. Before: [`super::virtio_mmio`] and [`super::virtq`]; after:
//! [`crate::net`], which has the port that the NIC is plugged into.
//!
//! Both ways a frame is copied, between the guest's memory and a [`Packet`] of EL2's. Senders may leave checksums and the
//! cutting of TCP segments to others; a receiver that does not take such frames gets them finished. Of one that does, a large
//! frame's payload goes from memory to memory.
//!
//! A frame that finds no buffer at its only receiver goes back into the sender's queue, which *waits*, until there are more
//! buffers or the frame has waited long enough. A receiver earns its senders' patience: each buffer that it gave is worth a
//! part of a wait, so one that gives few cannot hold up for long what its senders send to others.

use super::virtio_mmio::{EVENT_IDX, Effect, INDIRECT_DESC, Kind, Registers, Transport, VERSION_1};
use super::virtq::{GuestMem, Mark, Piece, QueueError, Source, Virtq};
use crate::net::Mac;
use crate::net::packet::{Addresses, HEADER, MAX_FRAME, Packet, with_tag};
use crate::net::port::{Port, PortRecord};
use crate::vgic::AccessSize;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// The queue of frames to the guest.
pub const RECEIVE: usize = 0;
/// The queue of frames from the guest.
pub const TRANSMIT: usize = 1;

/// The sizes of both: segments of a large frame take many buffers.
const QUEUES: [u16; 2] = [1024, 256];

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const HAS_MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MERGE_BUFFERS: u64 = 1 << 15;
const HAS_STATUS: u64 = 1 << 16;

const FEATURES: u64 = VERSION_1
    | EVENT_IDX
    | INDIRECT_DESC
    | CSUM
    | GUEST_CSUM
    | HAS_MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | HOST_TSO4
    | HOST_TSO6
    | MERGE_BUFFERS
    | HAS_STATUS;

/// The most buffers that one frame is spread over.
const MAX_BUFFERS: u16 = 128;

/// For how long a frame waits for a buffer, in microseconds.
pub const PATIENCE: u64 = 10_000;

/// How many buffers a receiver gives for one wait, and for how many waits it can be in credit.
const BUFFERS_PER_WAIT: u16 = 32;
const MAX_CREDIT: u16 = 32 * BUFFERS_PER_WAIT;

/// What is with the queue of frames from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sending {
    /// Nothing.
    #[default]
    Idle,
    /// A frame was taken and is on its way: where the queue was before it, its size, and since when it has waited.
    Underway { mark: Mark, bytes: usize, since: Option<u64> },
    /// The next frame waits for a buffer since then.
    Waiting(u64),
    /// It may try again.
    Retry(u64),
}

/// A NIC and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Where it is plugged in.
    pub port: Port,
    transport: Transport<2>,
    sending: Sending,
    /// How many buffers it has given that no sender has waited for yet.
    credit: u16,
}

/// What a hand-over has of a NIC. Who waited for a receiver tries again.
#[derive(Debug, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NicRecord {
    queues: [Virtq; 2],
    registers: Registers,
    port: PortRecord,
    /// Since when the next frame has waited, in microseconds; [`NO_WAIT`] if it has not.
    since: u64,
    credit: u16,
    reserved: [u16; 3],
}

/// No frame has waited.
const NO_WAIT: u64 = u64::MAX;

/// What came of the queue of frames from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A frame that may leave, with its addresses, and whether it may wait for a buffer. [`Nic::settle`] says what became of it.
    Frame(Addresses, bool),
    /// A frame that does not leave; it is counted.
    Dropped,
    /// There is no more, and the guest tells of the next; or the queue waits, or another CPU is at it.
    Nothing,
}

/// What became of a frame at a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It has arrived, or is lost; that is counted.
    Over,
    /// There is no buffer for it now; the guest tells of more.
    Full,
    /// The receiver is busy for a moment: the frame is to be brought again.
    Busy,
}

/// What the driver's store asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// To take frames.
    Send,
    /// To look again if there are buffers.
    Receive,
}

impl Nic {
    /// Returns a NIC as it is after a reset.
    pub fn new(port: Port) -> Self {
        Self { port, transport: Transport::default(), sending: Sending::Idle, credit: MAX_CREDIT }
    }

    /// Returns that of a clone: its queues go on, its address is its own, its link is down.
    pub fn of_clone(&self, mac: Mac) -> Self {
        let mut clone = Self { transport: self.transport.clone(), ..Self::new(self.port.of_clone(mac)) };
        clone.transport.tell_config();
        clone
    }

    /// Takes over the state of a snapshot's NIC, on the port that it has.
    pub fn revert(&mut self, snapshot: &Self, is_own: bool) {
        self.transport = snapshot.transport.clone();
        self.sending = Sending::Idle;
        // What the guest believes to be is what it was then: nobody else, or it has to acknowledge who it is.
        self.port.is_quarantined = !is_own || snapshot.port.is_quarantined;
        self.port.forget_claims();
        self.transport.tell_config();
    }

    /// Returns what a hand-over has of it. No frame of its is underway.
    pub fn record(&self) -> NicRecord {
        let since = match self.sending {
            Sending::Waiting(since) | Sending::Retry(since) => since,
            Sending::Underway { since, .. } => since.unwrap_or(NO_WAIT),
            Sending::Idle => NO_WAIT,
        };
        NicRecord {
            queues: self.transport.queues.clone(),
            registers: self.transport.registers(),
            port: self.port.record(),
            since,
            credit: self.credit,
            reserved: [0; 3],
        }
    }

    /// Returns the NIC in a record. `None` if there is no such NIC.
    pub fn restored(record: &NicRecord) -> Option<Self> {
        let nic = Self {
            port: Port::restored(&record.port)?,
            transport: Transport::restored(record.queues.clone(), &record.registers),
            sending: if record.since == NO_WAIT { Sending::Idle } else { Sending::Retry(record.since) },
            credit: record.credit,
        };
        (nic.is_valid() && nic.credit <= MAX_CREDIT).then_some(nic)
    }

    /// Opens the port: the guest has acknowledged who it is. Returns true if it was in quarantine.
    pub fn acknowledge(&mut self) -> bool {
        let was_quarantined = core::mem::take(&mut self.port.is_quarantined);
        if was_quarantined {
            self.transport.tell_config();
        }
        was_quarantined
    }

    /// Connects the port, or disconnects it.
    pub const fn connect(&mut self, connected: bool) {
        if self.port.is_disconnected == connected {
            self.port.is_disconnected = !connected;
            self.transport.tell_config();
        }
    }

    /// Returns the level of the interrupt line.
    #[inline]
    pub const fn interrupt(&self) -> bool {
        self.transport.interrupt()
    }

    /// Returns true if the link is up.
    pub const fn is_link_up(&self) -> bool {
        self.port.is_open()
    }

    /// Returns true if the guest's driver works with it.
    pub const fn is_live(&self) -> bool {
        self.transport.is_live()
    }

    /// Returns true if the driver broke the rules, and has not reset the device since.
    pub const fn is_broken(&self) -> bool {
        self.transport.needs_reset()
    }

    /// Stops the device: its driver broke the rules. Returns true the first time.
    pub const fn give_up(&mut self) -> bool {
        self.transport.give_up();
        self.port.counters.breaches = self.port.counters.breaches.wrapping_add(1);
        self.port.counters.breaches == 1
    }

    /// Forgets what the guest has set up: it starts again.
    pub fn restart(&mut self) {
        self.transport = Transport::default();
        self.sending = Sending::Idle;
        self.port.is_quarantined = false;
        self.port.forget_claims();
    }

    /// The configuration: address, and the state of the link.
    fn config(&self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.port.mac;
        [a, b, c, d, e, f, u8::from(self.is_link_up()), 0]
    }

    fn kind(config: &[u8; 8]) -> Kind<'_> {
        Kind { id: 1, features: FEATURES, queues: &QUEUES, config }
    }

    /// Returns true if no record could make it invalid.
    pub fn is_valid(&self) -> bool {
        self.transport.is_valid(&Self::kind(&[0; 8]))
    }

    /// Returns what a load of `size` at `offset` gives.
    pub fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.transport.read(&Self::kind(&self.config()), offset, size)
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, size: AccessSize, value: u64) -> Asks {
        match self.transport.write(&Self::kind(&[0; 8]), offset, size, value) {
            Effect::Notify(TRANSMIT) => Asks::Send,
            Effect::Notify(RECEIVE) => Asks::Receive,
            Effect::Reset => {
                self.sending = Sending::Idle;
                Asks::Nothing
            }
            _ => Asks::Nothing,
        }
    }

    /// Takes the next frame from the guest; `now` in microseconds.
    ///
    /// # Errors
    ///
    /// The driver broke the rules, or there is no memory: then nothing was taken.
    pub fn take(&mut self, mem: &mut impl GuestMem, packet: &mut Packet, now: u64) -> Result<Taken, QueueError> {
        let since = match self.sending {
            Sending::Idle => None,
            Sending::Retry(since) => Some(since),
            Sending::Underway { .. } | Sending::Waiting(_) => return Ok(Taken::Nothing),
        };
        if !self.transport.is_live() {
            return Ok(Taken::Nothing);
        }
        let queue = &mut self.transport.queues[TRANSMIT];
        let mark = queue.mark();
        let Some(mut chain) = queue.pop(mem)? else {
            return Ok(if queue.arm(mem)? { Taken::Dropped } else { Taken::Nothing });
        };
        let (beginning, rest) = packet.rooms();
        let most = HEADER + MAX_FRAME - beginning.len();
        let begun = chain.read(mem, beginning)?;
        let rest = if begun == beginning.len() { chain.list(mem, most, rest)? } else { Some(0) };
        if let Err(error) = queue.push(mem, chain.head, 0) {
            queue.rewind(mark);
            return Err(error);
        }
        let vlan = match rest {
            None => None,
            Some(rest) if self.port.vlans.is_trunk() => packet.begin_tagged(begun, rest),
            Some(rest) => packet.begin(begun, rest).then_some(0),
        };
        self.sending = Sending::Underway { mark, bytes: packet.frame_length(), since };
        let admitted = if let Some(vlan) = vlan {
            self.port.admit(packet.frame(), vlan, packet.frame_length(), now).ok()
        } else {
            self.port.counters.malformed = self.port.counters.malformed.wrapping_add(1);
            None
        };
        let is_patient = since.is_none_or(|since| now.saturating_sub(since) < PATIENCE);
        Ok(match admitted {
            Some(addresses) => Taken::Frame(addresses, is_patient),
            None => {
                self.settle();
                Taken::Dropped
            }
        })
    }

    /// Notes that the frame that was taken last is over.
    pub const fn settle(&mut self) {
        if let Sending::Underway { .. } = self.sending {
            self.sending = Sending::Idle;
        }
    }

    /// Puts the frame that was taken last back: the queue waits. `now` in microseconds. Returns until when, if there is one.
    pub fn wait(&mut self, now: u64) -> Option<u64> {
        let Sending::Underway { mark, bytes, since } = self.sending else { return None };
        let since = since.unwrap_or(now);
        self.transport.queues[TRANSMIT].rewind(mark);
        self.port.take_back(bytes);
        self.sending = Sending::Waiting(since);
        Some(since + PATIENCE)
    }

    /// Ends the wait: the frame is taken again.
    pub const fn retry(&mut self) {
        if let Sending::Waiting(since) = self.sending {
            self.sending = Sending::Retry(since);
        }
    }

    /// Gives the guest the buffers of frames back that are over, and tells it of them if it wants to know.
    ///
    /// # Errors
    ///
    /// The driver broke the rules, or there is no memory: they are given back later.
    pub fn finish_taking(&mut self, mem: &mut impl GuestMem) -> Result<(), QueueError> {
        let is_over = !matches!(self.sending, Sending::Underway { .. });
        let queue = &mut self.transport.queues[TRANSMIT];
        if is_over && queue.is_behind() {
            queue.publish(mem)?;
        }
        if queue.should_interrupt(mem)? {
            self.transport.tell_used();
        }
        Ok(())
    }

    /// Returns true if the guest has given buffers since the last frame found none. It tells of the next else.
    ///
    /// # Errors
    ///
    /// The driver broke the rules, or there is no memory to ask it.
    pub fn has_more_room(&mut self, mem: &mut impl GuestMem) -> Result<bool, QueueError> {
        self.transport.queues[RECEIVE].arm_for_more(mem)
    }

    /// Gives the guest a frame, with the tag of a VLAN or (0) without, which is counted when it is over.
    ///
    /// # Errors
    ///
    /// The driver broke the rules, or there is no memory: then nothing has arrived.
    pub fn deliver(
        &mut self,
        mem: &mut impl GuestMem,
        packet: &mut Packet,
        vlan: u16,
        may_wait: bool,
    ) -> Result<Delivery, QueueError> {
        let bytes = packet.frame_length();
        let is_there = self.transport.is_live() && self.is_link_up();
        let result = if is_there { self.hand_over(mem, packet, vlan) } else { Ok(0) };
        if is_there && result == Ok(0) {
            // Who has kept a frame waiting for nothing has no credit left.
            let credit = self.credit.checked_sub(BUFFERS_PER_WAIT).filter(|_| may_wait);
            self.credit = credit.unwrap_or(0);
            if credit.is_some() {
                return Ok(Delivery::Full);
            }
        }
        let buffers = result.unwrap_or(0);
        self.credit = self.credit.saturating_add(buffers).min(MAX_CREDIT);
        self.port.count_arrival(bytes, buffers != 0);
        result.map(|_| Delivery::Over)
    }

    /// Returns how many buffers the frame took; 0 if there were not enough. Of a frame that is cut for this guest a part may
    /// arrive, which TCP can do with.
    fn hand_over(&mut self, mem: &mut impl GuestMem, packet: &mut Packet, vlan: u16) -> Result<u16, QueueError> {
        let features = self.transport.features();
        let takes_it = match packet.offload.segments {
            None => GUEST_CSUM,
            Some(segments) if segments.is_v6() => GUEST_TSO6,
            Some(_) => GUEST_TSO4,
        };
        let mut buffers = 0;
        if features & takes_it != 0 {
            buffers = self.put(mem, vlan, packet.whole(), &[], packet.rest())?;
        } else {
            packet.complete(|from, to| mem.fetch(from, to));
            packet.plain(|first, rest| {
                let more = self.put(mem, vlan, first, rest, &[])?;
                buffers += more;
                Ok::<_, QueueError>(more != 0)
            })?;
        }
        if self.transport.queues[RECEIVE].should_interrupt(mem)? {
            self.transport.tell_used();
        }
        Ok(buffers)
    }

    /// Puts header and frame, in two parts and pieces, with the tag of a VLAN, into as many of the guest's buffers as they take. Returns how many, or 0
    /// if they do not fit: then they are available as before.
    fn put(
        &mut self,
        mem: &mut impl GuestMem,
        vlan: u16,
        first: &[u8],
        second: &[u8],
        pieces: &[Piece],
    ) -> Result<u16, QueueError> {
        let can_merge = self.transport.features() & MERGE_BUFFERS != 0;
        let queue = &mut self.transport.queues[RECEIVE];
        let mark = queue.mark();
        let mut start = None;
        let mut buffers = 0u16;
        let tagged = if vlan == 0 { None } else { with_tag(first, vlan) };
        let parts = tagged.as_ref().map_or([first, second, &[]], |(start, rest)| [start, rest, second]);
        let mut left = Source::new(parts, pieces);
        let result = loop {
            let mut chain = match queue.pop(mem) {
                Ok(Some(chain)) => chain,
                Ok(None) => break Ok(false),
                Err(error) => break Err(error),
            };
            start.get_or_insert_with(|| chain.clone());
            buffers += 1;
            let written = chain.fill(mem, &mut left);
            if let Err(error) = written.and_then(|written| queue.push(mem, chain.head, written as u32)) {
                break Err(error);
            }
            if left.is_empty() {
                break Ok(true);
            }
            if !can_merge || buffers == MAX_BUFFERS {
                break Ok(false);
            }
        };
        let result = match (result, start) {
            (Ok(true), Some(mut start)) if buffers > 1 => parts[0]
                .first_chunk::<HEADER>()
                .map_or(Ok(0), |header| {
                    let mut header = *header;
                    header[10..].copy_from_slice(&buffers.to_le_bytes());
                    start.write(mem, &header)
                })
                .map(|_| true),
            (result, _) => result,
        };
        match result.and_then(|fits| if fits { queue.publish(mem).map(|()| buffers) } else { Ok(0) }) {
            Ok(0) => {
                queue.rewind(mark);
                Ok(0)
            }
            Err(error) => {
                queue.rewind(mark);
                Err(error)
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::virtq::Breach;
    use super::super::virtq::tests::{Driver, Mem, RAM};
    use super::*;
    use crate::net::packet::{BEGINNING, Checksum, ETHERNET, Offload, Segments};
    use crate::net::port::Rules;
    use crate::net::vlans::Vlans;
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const WRITE: u16 = 2;
    const RX: u64 = RAM + 0x1000;
    const TX: u64 = RAM + 0x3000;
    const DATA: u64 = RAM + 0x1_0000;

    struct World {
        nic: Nic,
        mem: Mem,
        receive: Driver,
        transmit: Driver,
        packet: Box<Packet>,
    }

    fn world(features: u64) -> World {
        let mut nic = Nic::new(Port::new(MAC, Rules::default()));
        let mut write = |offset: u64, value: u64| nic.write(offset, AccessSize::Word, value);
        write(0x70, 3);
        write(0x20, features & 0xffff_ffff);
        write(0x24, 1);
        write(0x20, VERSION_1 >> 32);
        write(0x70, 11);
        let drivers = [(0, Driver::new(RX, 64)), (1, Driver::new(TX, 16))];
        for (queue, driver) in &drivers {
            let registers =
                [(0x38, driver.size.into()), (0x80, driver.at), (0x90, driver.available()), (0xa0, driver.used())];
            for (register, value) in [(0x30, *queue)].into_iter().chain(registers).chain([(0x44, 1)]) {
                write(register, value);
            }
        }
        write(0x70, 15);
        assert!(nic.is_live());
        let [(_, receive), (_, transmit)] = drivers;
        World { nic, mem: Mem::new(), receive, transmit, packet: Box::new(Packet::EMPTY) }
    }

    fn frame(length: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..length).map(|at| (at * 13) as u8).collect();
        frame[..ETHERNET].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        frame
    }

    impl World {
        fn send(&mut self, header: [u8; HEADER], frame: &[u8]) -> Result<Taken, QueueError> {
            self.mem.put(DATA, &header);
            self.mem.put(DATA + 12, frame);
            self.transmit.chain(&mut self.mem, 0, &[(DATA, 12 + frame.len() as u32, 0)]);
            self.transmit.offer(&mut self.mem, 0);
            let taken = self.nic.take(&mut self.mem, &mut self.packet, 0);
            self.nic.settle();
            self.nic.finish_taking(&mut self.mem).and(taken)
        }

        fn offer(&mut self, buffers: u16, size: u32) {
            for n in 0..buffers {
                let at = DATA + 0x1_0000 + u64::from(n) * u64::from(size);
                self.receive.chain(&mut self.mem, n, &[(at, size, WRITE)]);
                self.receive.offer(&mut self.mem, n);
            }
        }

        fn put_packet(&mut self, offload: Offload, frame: &[u8]) {
            let mut header = [0; HEADER];
            offload.put(&mut header);
            self.packet.room()[..HEADER].copy_from_slice(&header);
            self.packet.room()[HEADER..][..frame.len()].copy_from_slice(frame);
            assert!(self.packet.fill(HEADER + frame.len()));
        }

        fn deliver(&mut self) -> Result<Delivery, QueueError> {
            self.nic.deliver(&mut self.mem, &mut self.packet, 0, false)
        }

        /// Takes all that has arrived: the frames without headers, and the numbers of their buffers.
        fn arrived(&mut self, size: u32) -> Vec<(Vec<u8>, u16)> {
            let mut frames = Vec::new();
            while let Some((head, written)) = self.receive.take(&self.mem) {
                let start = 0x2_0000 + (head * size) as usize;
                let mut bytes = self.mem.bytes[start..start + written as usize].to_vec();
                let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
                for _ in 1..buffers {
                    let (head, written) = self.receive.take(&self.mem).unwrap();
                    let start = 0x2_0000 + (head * size) as usize;
                    bytes.extend_from_slice(&self.mem.bytes[start..start + written as usize]);
                }
                frames.push((bytes[HEADER..].to_vec(), buffers));
            }
            frames
        }
    }

    #[test]
    fn a_frame_that_was_sent_comes_out_as_it_was() {
        let mut world = world(0);
        let sent = frame(900);
        assert!(matches!(world.send([0; HEADER], &sent), Ok(Taken::Frame(..))));
        assert_eq!(world.packet.frame(), sent);
        assert_eq!(world.transmit.take(&world.mem), Some((0, 0)));
        assert_eq!(world.nic.take(&mut world.mem, &mut world.packet, 0), Ok(Taken::Nothing));
        assert!(world.nic.interrupt());
        assert_eq!(world.nic.port.counters.sent_bytes, 900);
    }

    #[test]
    fn a_frame_arrives_in_one_buffer_or_in_several() {
        for (features, size, buffers) in [(0, 1600, 1), (MERGE_BUFFERS, 1600, 1), (MERGE_BUFFERS, 100, 10)] {
            let mut world = world(features);
            world.offer(20, size);
            let sent = frame(940);
            world.put_packet(Offload::default(), &sent);
            world.deliver().unwrap();
            assert_eq!(world.arrived(size), [(sent, buffers)]);
            assert!(world.nic.interrupt());
            assert_eq!(world.nic.port.counters.received, 1);
        }
    }

    #[test]
    fn a_frame_that_finds_no_room_leaves_no_trace_but_a_count() {
        for (features, buffers) in [(0, 0), (0, 5), (MERGE_BUFFERS, 5)] {
            let mut world = world(features);
            world.offer(buffers, 100);
            world.put_packet(Offload::default(), &frame(940));
            world.deliver().unwrap();
            assert_eq!(world.nic.port.counters.missed, 1);
            world.put_packet(Offload::default(), &frame(60));
            world.deliver().unwrap();
            assert_eq!(world.arrived(100).len(), usize::from(buffers > 0));
        }
    }

    /// Returns a world whose NIC has a trunk port of VLANs 10 and 20.
    fn trunk_world(features: u64) -> World {
        let mut world = world(features);
        let vlans = Vlans::of(&[10, 20, 0, 0].map(Into::into), 0).unwrap();
        world.nic.port = world.nic.port.carrying(vlans);
        world
    }

    /// Returns a frame with these words behind its addresses.
    fn with_words(frame: &[u8], words: &[u16]) -> Vec<u8> {
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        [&frame[..12], &words, &frame[12..]].concat()
    }

    #[test]
    fn a_frame_leaves_a_trunk_port_with_the_tag_of_one_of_its_vlans_only() {
        let plain = frame(200);
        let shapes: [(&str, Vec<u8>, Option<u16>); 9] = [
            ("one of its VLANs", with_words(&plain, &[0x8100, 10]), Some(10)),
            ("with a priority", with_words(&plain, &[0x8100, 0xe014]), Some(20)),
            ("another VLAN", with_words(&plain, &[0x8100, 30]), None),
            ("no tag", plain.clone(), None),
            ("a priority tag", with_words(&plain, &[0x8100, 0xe000]), None),
            ("two tags", with_words(&plain, &[0x8100, 10, 0x8100, 20]), None),
            ("a provider's tag", with_words(&plain, &[0x88a8, 10]), None),
            ("a provider's tag below its own", with_words(&plain, &[0x8100, 10, 0x88a8, 20]), None),
            ("VLAN 4095", with_words(&plain, &[0x8100, 4095]), None),
        ];
        for (shape, sent, vlan) in shapes {
            let mut world = trunk_world(0);
            let taken = world.send([0; HEADER], &sent);
            let left = match taken {
                Ok(Taken::Frame(addresses, _)) => Some(addresses.vlan),
                _ => None,
            };
            assert_eq!(left, vlan, "{shape}");
            assert!(vlan.is_none() || world.packet.frame() == plain, "{shape}: the tag is off");
            assert_eq!(world.nic.port.counters.spoofed, u64::from(vlan.is_none()), "{shape}");
        }
    }

    #[test]
    fn tags_do_not_leave_a_port_that_is_in_one_vlan() {
        for words in [&[0x8100, 10][..], &[0x8100, 0], &[0x8100, 10, 0x8100, 20], &[0x88a8, 10]] {
            let mut world = world(0);
            assert_eq!(world.send([0; HEADER], &with_words(&frame(200), words)), Ok(Taken::Dropped), "{words:x?}");
        }
    }

    #[test]
    fn a_tag_hides_no_address_and_no_sum_overwrites_one() {
        let mut spoofed = frame(200);
        spoofed[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        let mut world = trunk_world(0);
        assert_eq!(world.send([0; HEADER], &with_words(&spoofed, &[0x8100, 10])), Ok(Taken::Dropped));
        // ARP, with the sender's addresses of another; then a sum in their place.
        let mut arp = frame(60);
        arp[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        assert_eq!(world.send([0; HEADER], &with_words(&arp, &[0x8100, 10])), Ok(Taken::Dropped));
        arp[22..28].copy_from_slice(&MAC);
        assert!(matches!(world.send([0; HEADER], &with_words(&arp, &[0x8100, 10])), Ok(Taken::Frame(..))));
        let mut header = [0; HEADER];
        Offload { checksum: Some(Checksum { start: 18, offset: 8 }), segments: None }.put(&mut header);
        assert_eq!(world.send(header, &with_words(&arp, &[0x8100, 10])), Ok(Taken::Dropped));
    }

    #[test]
    fn nothing_leaves_a_trunk_port_in_quarantine_and_a_clone_has_its_vlans() {
        let mut world = trunk_world(0);
        world.nic = world.nic.of_clone(MAC);
        let sent = with_words(&frame(200), &[0x8100, 10]);
        assert_eq!(world.send([0; HEADER], &sent), Ok(Taken::Dropped));
        assert_eq!(world.nic.port.counters.quarantined, 1);
        assert!(world.nic.acknowledge());
        assert!(matches!(world.send([0; HEADER], &sent), Ok(Taken::Frame(..))));
    }

    #[test]
    fn a_frame_arrives_with_the_tag_of_its_vlan() {
        for (features, size) in [(0, 1600), (MERGE_BUFFERS, 100)] {
            let mut world = trunk_world(features);
            world.offer(20, size);
            let sent = frame(940);
            world.put_packet(Offload::default(), &sent);
            world.nic.deliver(&mut world.mem, &mut world.packet, 20, false).unwrap();
            let arrived = world.arrived(size);
            assert_eq!(arrived[0].0, with_words(&sent, &[0x8100, 20]));
        }
    }

    #[test]
    fn a_large_frame_goes_from_one_trunk_port_to_another_whole_or_cut() {
        let (frame, offload) = large(5000);
        let tagged = with_words(&frame, &[0x8100, 10]);
        let mut sender = trunk_world(HOST_TSO4 | CSUM);
        let Offload { checksum: Some(checksum), segments: Some(segments) } = offload else { panic!("it is large") };
        let moved = Offload {
            checksum: Some(Checksum { start: checksum.start + 4, ..checksum }),
            segments: Some(Segments { tcp: segments.tcp + 4, payload: segments.payload + 4, ..segments }),
        };
        let mut header = [0; HEADER];
        moved.put(&mut header);
        assert!(matches!(sender.send(header, &tagged), Ok(Taken::Frame(..))));
        assert_eq!(sender.packet.offload, offload, "as if it had no tag");
        for (features, parts) in [(GUEST_TSO4 | GUEST_CSUM | MERGE_BUFFERS, 1), (GUEST_CSUM | MERGE_BUFFERS, 4)] {
            let mut world = trunk_world(features);
            world.offer(20, 1600);
            world.put_packet(offload, &frame);
            world.nic.deliver(&mut world.mem, &mut world.packet, 10, false).unwrap();
            let arrived = world.arrived(1600);
            assert_eq!(arrived.len(), parts);
            assert!(arrived.iter().all(|(frame, _)| frame[12..16] == [0x81, 0, 0, 10]));
            if parts == 1 {
                assert_eq!(arrived[0].0, tagged);
                assert_eq!(world.mem.bytes[0x2_0000..][..10], header[..10], "what is left to do is moved, too");
            }
        }
    }

    #[test]
    fn a_frame_that_waits_is_taken_again_and_counted_once() {
        let mut world = world(0);
        world.mem.put(DATA + 12, &frame(900));
        world.transmit.chain(&mut world.mem, 0, &[(DATA, 912, 0)]);
        world.transmit.offer(&mut world.mem, 0);
        let mut take = |nic: &mut Nic, now| nic.take(&mut world.mem, &mut world.packet, now).unwrap();
        assert!(matches!(take(&mut world.nic, 0), Taken::Frame(_, true)));
        assert_eq!(take(&mut world.nic, 0), Taken::Nothing, "another CPU is at it");
        assert_eq!(world.nic.wait(5), Some(5 + PATIENCE));
        assert_eq!(take(&mut world.nic, 6), Taken::Nothing, "it waits");
        world.nic.retry();
        assert!(matches!(take(&mut world.nic, 6), Taken::Frame(_, true)));
        assert_eq!(world.nic.wait(7), Some(5 + PATIENCE), "since it first found no room");
        world.nic.retry();
        assert!(matches!(take(&mut world.nic, 5 + PATIENCE), Taken::Frame(_, false)));
        assert_eq!(world.transmit.take(&world.mem), None, "its buffers are the device's");
        world.nic.settle();
        world.nic.finish_taking(&mut world.mem).unwrap();
        assert_eq!(world.transmit.take(&world.mem), Some((0, 0)));
        assert_eq!((world.nic.port.counters.sent, world.nic.port.counters.sent_bytes), (1, 900));
    }

    #[test]
    fn a_receiver_is_waited_for_as_long_as_it_gives_buffers() {
        let mut world = world(0);
        let deliver = |world: &mut World, may_wait| {
            world.put_packet(Offload::default(), &frame(60));
            world.nic.deliver(&mut world.mem, &mut world.packet, 0, may_wait).unwrap()
        };
        world.offer(1, 1600);
        assert_eq!(deliver(&mut world, true), Delivery::Over);
        assert_eq!(deliver(&mut world, true), Delivery::Full);
        assert_eq!(world.nic.has_more_room(&mut world.mem), Ok(false));
        world.offer(1, 1600);
        assert_eq!(world.nic.has_more_room(&mut world.mem), Ok(true));
        assert_eq!(deliver(&mut world, true), Delivery::Over);
        assert_eq!((deliver(&mut world, false), deliver(&mut world, true)), (Delivery::Over, Delivery::Over));
        assert_eq!((world.nic.port.counters.received, world.nic.port.counters.missed), (2, 2), "it lost its credit");
        for _ in 0..BUFFERS_PER_WAIT {
            world.offer(1, 1600);
            deliver(&mut world, true);
        }
        assert_eq!((deliver(&mut world, true), deliver(&mut world, true)), (Delivery::Full, Delivery::Over));
    }

    /// Returns a frame of TCP with so many bytes, to be cut, and what its sender has left to others.
    fn large(bytes: usize) -> (Vec<u8>, Offload) {
        let mut frame = frame(ETHERNET);
        frame.truncate(12);
        frame.extend([8, 0, 0x45, 0, 0x10, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        frame.extend((0..bytes).map(|at| (at * 31 / 8) as u8));
        let segments = Segments { version: 4, size: 1460, tcp: 34, payload: 54 };
        (frame, Offload { checksum: Some(Checksum { start: 34, offset: 16 }), segments: Some(segments) })
    }

    const TAKES_SEGMENTS: u64 = GUEST_CSUM | GUEST_TSO4 | MERGE_BUFFERS;

    #[test]
    fn a_receiver_without_segments_gets_them_cut() {
        let (frame, offload) = large(4000);
        for (features, expected) in [(0, vec![1514, 1514, 1134]), (TAKES_SEGMENTS, vec![4054])] {
            let mut world = world(features);
            world.offer(8, 1600);
            world.put_packet(offload, &frame);
            world.deliver().unwrap();
            assert_eq!(world.arrived(1600).iter().map(|(frame, _)| frame.len()).collect::<Vec<_>>(), expected);
        }
    }

    impl World {
        /// Sends a large frame, of which the most part stays where it is.
        fn send_large(&mut self, frame: &[u8], offload: Offload) {
            let mut header = [0; HEADER];
            offload.put(&mut header);
            assert!(matches!(self.send(header, frame), Ok(Taken::Frame(..))));
            assert_eq!(self.packet.frame(), &frame[..BEGINNING - HEADER]);
            assert_eq!(self.nic.port.counters.sent_bytes, frame.len() as u64);
        }
    }

    #[test]
    fn a_large_frame_goes_from_memory_to_memory() {
        let (frame, offload) = large(30_000);
        let mut world = world(TAKES_SEGMENTS);
        world.send_large(&frame, offload);
        world.offer(20, 1600);
        world.deliver().unwrap();
        assert_eq!(world.arrived(1600), [(frame.clone(), 19)]);
        assert_eq!(world.nic.port.counters.received_bytes, frame.len() as u64);
    }

    proptest! {
        #[test]
        fn a_large_frame_arrives_as_it_was_whatever_buffers_it_is_in(
            bytes in 1500usize..30_000, cuts in proptest::collection::vec(1u32..9000, 0..12), size in 600u32..4096,
        ) {
            let (frame, offload) = large(bytes);
            let mut world = world(TAKES_SEGMENTS);
            let mut header = [0; HEADER];
            offload.put(&mut header);
            world.mem.put(DATA, &[&header, &frame[..]].concat());
            let (mut at, mut left) = (DATA, (HEADER + frame.len()) as u32);
            let mut buffers = Vec::new();
            for cut in cuts.into_iter().chain([u32::MAX]) {
                let cut = cut.min(left);
                if cut != 0 {
                    buffers.push((at, cut, 0));
                }
                (at, left) = (at + u64::from(cut), left - cut);
            }
            world.transmit.chain(&mut world.mem, 0, &buffers);
            world.transmit.offer(&mut world.mem, 0);
            let taken = world.nic.take(&mut world.mem, &mut world.packet, 0);
            prop_assert!(matches!(taken, Ok(Taken::Frame(..))));
            world.offer((0x2_0000 / size).min(64) as u16, size);
            prop_assert_eq!(world.deliver(), Ok(Delivery::Over));
            let arrived = world.arrived(size);
            prop_assert_eq!(&arrived[0].0, &frame);
        }
    }

    #[test]
    fn a_large_frame_is_cut_for_a_receiver_without_segments() {
        let (frame, offload) = large(14_600);
        let mut world = world(0);
        world.send_large(&frame, offload);
        world.offer(10, 1600);
        world.deliver().unwrap();
        let payload: Vec<u8> = world.arrived(1600).iter().flat_map(|(frame, _)| frame[54..].to_vec()).collect();
        assert_eq!(payload, frame[54..]);
    }

    #[test]
    fn a_sender_that_rewrites_a_frame_on_its_way_changes_nothing_that_was_looked_at() {
        let (frame, offload) = large(20_000);
        let mut world = world(TAKES_SEGMENTS);
        world.send_large(&frame, offload);
        world.mem.put(DATA, &[0xff; 20_066]);
        world.offer(20, 1600);
        world.deliver().unwrap();
        let [(arrived, _)] = &world.arrived(1600)[..] else { panic!("one frame") };
        assert_eq!(arrived[..BEGINNING - HEADER], frame[..BEGINNING - HEADER]);
        assert!(arrived[BEGINNING - HEADER..].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn frames_that_make_no_sense_are_counted_and_dropped() {
        let mut world = world(0);
        for length in [0, 13, 1600, 60_000] {
            let frame = vec![2; length];
            assert_eq!(world.send([0; HEADER], &frame), Ok(Taken::Dropped));
        }
        assert_eq!(world.nic.port.counters.malformed, 4);
        world.transmit.chain(&mut world.mem, 0, &[(DATA, 0x2_0000, 0)]);
        world.transmit.offer(&mut world.mem, 0);
        assert_eq!(world.nic.take(&mut world.mem, &mut world.packet, 0), Ok(Taken::Dropped));
    }

    #[test]
    fn a_driver_that_breaks_the_rules_stops_its_own_device_until_it_resets_it() {
        let mut world = world(0);
        world.transmit.chain(&mut world.mem, 0, &[(0, 60, 0)]);
        world.transmit.offer(&mut world.mem, 0);
        let taken = world.nic.take(&mut world.mem, &mut world.packet, 0);
        assert_eq!(taken, Err(QueueError::Breach(Breach::Outside)));
        assert!(world.nic.give_up());
        assert!(world.nic.is_broken() && world.nic.interrupt());
        assert_eq!(world.nic.take(&mut world.mem, &mut world.packet, 0), Ok(Taken::Nothing));
        world.deliver().unwrap();
        assert_eq!(world.nic.port.counters.missed, 1);
        world.nic.write(0x70, AccessSize::Word, 0);
        assert!(!world.nic.is_broken() && !world.nic.interrupt());
    }

    #[test]
    fn without_memory_a_frame_is_taken_later() {
        let mut world = world(0);
        world.mem.has_memory = false;
        let sent = frame(100);
        // The driver's own writes are not EL2's.
        world.mem.has_memory = false;
        assert!(matches!(world.send([0; HEADER], &sent), Err(QueueError::NoMemory(_))));
        world.mem.has_memory = true;
        let taken = world.nic.take(&mut world.mem, &mut world.packet, 0);
        assert!(matches!(taken, Ok(Taken::Frame(..))));
        assert_eq!(world.packet.frame(), sent);
    }

    #[test]
    fn a_clone_has_an_address_of_its_own_and_waits_for_its_acknowledgement() {
        let mut world = world(0);
        let other = [2, 9, 9, 9, 9, 9];
        let mut clone = world.nic.of_clone(other);
        let config = |nic: &Nic| nic.read(0x100, AccessSize::Double).to_le_bytes();
        assert_eq!(config(&clone), [2, 9, 9, 9, 9, 9, 0, 0]);
        assert!(clone.interrupt(), "its configuration has changed");
        std::mem::swap(&mut world.nic, &mut clone);
        assert_eq!(world.send([0; HEADER], &frame(60)), Ok(Taken::Dropped));
        world.offer(1, 1600);
        world.put_packet(Offload::default(), &frame(60));
        world.deliver().unwrap();
        assert!(world.arrived(1600).is_empty());
        assert!(world.nic.acknowledge() && !world.nic.acknowledge());
        assert_eq!(config(&world.nic)[6], 1);
    }
}
