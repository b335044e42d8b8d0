//! A frame on its way, with the header of virtio-net in front (Virtio 1.2, 5.1.6): what its sender has left to others to do.
//! Before: [`crate::dev::net`], which fills it; after: [`super::port`], which looks at it.
//!
//! The sender's header is an allegation. [`Offload::read`] accepts what agrees with the frame itself, and [`Offload::put`]
//! writes what was understood: nothing of the sender's own gets through to a receiver's network stack.
//!
//! Of a large frame only the beginning is copied at first, with all that is looked at. The rest goes from the sender's memory
//! into that of its receiver; who needs it here [completes](Packet::complete) the frame.

use super::Mac;
use crate::addr::Ipa;
use crate::dev::virtq::Piece;
use core::ops::Range;
use heapless::Vec;

/// The size of the header of virtio-net, in bytes.
pub const HEADER: usize = 12;
/// The size of an Ethernet header without tag, in bytes.
pub const ETHERNET: usize = 14;
/// The size of a tag, in bytes (IEEE 802.1Q): it stands behind the addresses.
const TAG: usize = 4;
/// Where the addresses of a frame end.
const MACS: usize = 12;
/// What a frame begins with that gets a tag: header, addresses, and the tag.
const TAGGED: usize = HEADER + MACS + TAG;
/// The greatest frame: an IP packet of the greatest length, and a tag.
pub const MAX_FRAME: usize = ETHERNET + 4 + 0xffff;
/// The greatest frame that is not to be cut into segments: 1,500 bytes, and a tag.
pub const MAX_PLAIN: usize = ETHERNET + 4 + 1500;
/// How much of a frame and its header is copied at first: whatever is not to be cut, and more than the headers of what is.
pub const BEGINNING: usize = HEADER + MAX_PLAIN;
/// How many pieces the rest of a frame may be in: as many as a chain of the longest queue has, and of an indirect table.
pub const MAX_PIECES: usize = 512;
/// The greatest headers in front of a segment: Ethernet, IP and TCP.
pub const MAX_HEADERS: usize = ETHERNET + 60 + 60;

const _: () = assert!(BEGINNING > HEADER + MAX_HEADERS);

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
/// The tag of a provider's VLAN, outside of a customer's.
const OUTER_VLAN: u16 = 0x88a8;
const TCP: u8 = 6;
pub(super) const ICMPV6: u8 = 58;

/// A checksum that the sender has left out: it is over all bytes from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where what is summed begins in the frame.
    pub start: u16,
    /// Where the sum belongs, from there.
    pub offset: u16,
}

/// A frame that is to be cut into TCP segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// The version of IP: 4 or 6. A number, so that a packet without a frame is all zeros and takes no room in the image.
    pub version: u8,
    /// How many bytes of TCP each has at most.
    pub size: u16,
    /// Where the TCP header is in the frame.
    pub tcp: u16,
    /// Where the bytes of TCP begin.
    pub payload: u16,
}

/// What the sender of a frame has left to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// A checksum to compute.
    pub checksum: Option<Checksum>,
    /// A frame to cut.
    pub segments: Option<Segments>,
}

/// Returns two bytes of a frame in network order.
pub fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..at + 2).and_then(|bytes| Some(u16::from_be_bytes(*bytes.first_chunk()?)))
}

/// Returns the protocol of what an IPv6 packet carries and where that is, behind extension headers (RFC 8200, 4). `None` if
/// the frame is too short to tell.
pub(super) fn upper_layer(frame: &[u8]) -> Option<(u8, usize)> {
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    let (mut kind, mut at) = (*frame.get(ETHERNET + 6)?, ETHERNET + 40);
    // Options for each hop, routing, options for the destination.
    while matches!(kind, 0 | 43 | 60 | FRAGMENT | AUTHENTICATION) {
        let [next, length, offset @ ..] = *frame.get(at..)?.first_chunk::<4>()?;
        at += match kind {
            FRAGMENT => 8,
            AUTHENTICATION => 4 * (usize::from(length) + 2),
            _ => 8 * (usize::from(length) + 1),
        };
        if kind == FRAGMENT && u16::from_be_bytes(offset) >> 3 != 0 {
            break;
        }
        kind = next;
    }
    Some((kind, at))
}

/// Returns true if a sum may be put here after a port has looked at the frame: behind what it looks at.
fn may_be_summed(frame: &[u8], at: usize) -> bool {
    match word(frame, 12) {
        Some(ARP) => false,
        Some(IPV4) => at >= ETHERNET + 20,
        Some(IPV6) => upper_layer(frame).is_some_and(|(kind, start)| kind != ICMPV6 && at >= start),
        _ => true,
    }
}

fn put_word(frame: &mut [u8], at: usize, value: u16) {
    if let Some(place) = frame.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

impl Offload {
    /// Reads the header in front of a frame of this length, which begins so. `None` if it asks for what makes no sense for this
    /// frame.
    pub fn read(header: &[u8; HEADER], frame: &[u8], length: usize) -> Option<Self> {
        let [flags, gso, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high, ..] = *header;
        let mut offload = Self::default();
        if flags & NEEDS_CSUM != 0 {
            let start = u16::from_le_bytes([start_low, start_high]);
            let offset = u16::from_le_bytes([offset_low, offset_high]);
            let at = usize::from(start) + usize::from(offset);
            if usize::from(start) < ETHERNET || at + 2 > length || !may_be_summed(frame, at) {
                return None;
            }
            offload.checksum = Some(Checksum { start, offset });
        }
        if gso == GSO_NONE {
            return (length <= MAX_PLAIN).then_some(offload);
        }
        let segments = Segments::find(frame, gso, u16::from_le_bytes([size_low, size_high]))?;
        // What is cut has its checksum left out: each segment gets its own.
        let checksum = Checksum { start: segments.tcp, offset: 16 };
        (offload.checksum == Some(checksum)).then_some(Self { segments: Some(segments), ..offload })
    }

    /// Writes it as the header in front of a frame; the number of buffers is 1.
    pub fn put(&self, header: &mut [u8; HEADER]) {
        *header = [0; HEADER];
        header[10] = 1;
        if let Some(Checksum { start, offset }) = self.checksum {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        if let Some(segments) = self.segments {
            header[1] = if segments.is_v6() { GSO_TCPV6 } else { GSO_TCPV4 };
            header[2..4].copy_from_slice(&segments.payload.to_le_bytes());
            header[4..6].copy_from_slice(&segments.size.to_le_bytes());
        }
    }
}

impl Segments {
    /// Returns true if it is IPv6.
    pub const fn is_v6(&self) -> bool {
        self.version == 6
    }

    /// Finds the TCP header of a frame without tag.
    fn find(frame: &[u8], gso: u8, size: u16) -> Option<Self> {
        let (version, tcp) = match (gso, word(frame, 12)?) {
            (GSO_TCPV4, IPV4) => {
                let first = *frame.get(ETHERNET)?;
                let is_tcp =
                    first >> 4 == 4 && *frame.get(ETHERNET + 9)? == TCP && word(frame, ETHERNET + 6)? & 0x3fff == 0;
                let length = usize::from(first & 0xf) * 4;
                (4, (is_tcp && length >= 20).then_some(ETHERNET + length)?)
            }
            // Without extension headers, as senders send them.
            (GSO_TCPV6, IPV6) => (6, (*frame.get(ETHERNET + 6)? == TCP).then_some(ETHERNET + 40)?),
            _ => return None,
        };
        let header = usize::from(*frame.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + header;
        let is_sound = header >= 20 && payload < frame.len() && size >= 64;
        is_sound.then_some(Self { version, size, tcp: tcp as u16, payload: payload as u16 })
    }

    /// Returns the parts of the payload that become segments.
    pub fn parts(&self, length: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (start, size) = (usize::from(self.payload), usize::from(self.size.max(1)));
        (start..length).step_by(size).map(move |at| at..(at + size).min(length))
    }

    /// Makes the headers of one segment out of those of the whole frame: `part` is its payload, of `length` bytes in all.
    /// Returns how long they are; the checksum of TCP is in them.
    pub fn make_headers(&self, frame: &[u8], part: &Range<usize>, headers: &mut [u8; MAX_HEADERS]) -> Option<usize> {
        let (tcp, end) = (usize::from(self.tcp), usize::from(self.payload));
        let headers = headers.get_mut(..end)?;
        headers.copy_from_slice(frame.get(..end)?);
        let offset = part.start.checked_sub(end)?;
        let length = part.len();
        let is_last = part.end == frame.len();
        let sequence = u32::from_be_bytes(*headers.get(tcp + 4..)?.first_chunk()?).wrapping_add(offset as u32);
        headers.get_mut(tcp + 4..tcp + 8)?.copy_from_slice(&sequence.to_be_bytes());
        let flags = headers.get_mut(tcp + 13)?;
        if !is_last {
            *flags &= !0x09; // FIN and PSH are the last one's
        }
        if offset != 0 {
            *flags &= !0x80; // CWR is the first one's
        }
        let mut sum = Sum::default();
        if self.is_v6() {
            put_word(headers, ETHERNET + 4, (end - ETHERNET - 40 + length) as u16);
            sum.add(headers.get(ETHERNET + 8..ETHERNET + 40)?);
        } else {
            put_word(headers, ETHERNET + 2, (end - ETHERNET + length) as u16);
            let number = word(headers, ETHERNET + 4)?.wrapping_add((offset / usize::from(self.size.max(1))) as u16);
            put_word(headers, ETHERNET + 4, number);
            put_word(headers, ETHERNET + 10, 0);
            let mut of_ip = Sum::default();
            of_ip.add(headers.get(ETHERNET..tcp)?);
            put_word(headers, ETHERNET + 10, of_ip.finish());
            sum.add(headers.get(ETHERNET + 12..ETHERNET + 20)?);
        }
        sum.add(&[0, TCP]);
        sum.add(&((end - tcp + length) as u16).to_be_bytes());
        put_word(headers, tcp + 16, 0);
        sum.add(headers.get(tcp..)?);
        sum.add(frame.get(part.clone())?);
        put_word(headers, tcp + 16, sum.finish());
        Some(end)
    }
}

/// A sum as the Internet's protocols make it (RFC 1071). All but the last addition are of an even number of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        // Sums of words of any size are equal when folded; those of the host's order are turned at the end.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.0 += sum + u64::from(u32::from_le_bytes(last));
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).swap_bytes()
    }
}

/// A frame and the header in front of it.
pub struct Packet {
    bytes: [u8; HEADER + MAX_FRAME],
    /// How much of them is here.
    length: usize,
    /// Where the rest is.
    rest: Vec<Piece, MAX_PIECES>,
    /// How long that is.
    rest_length: usize,
    /// What is left to do to it.
    pub offload: Offload,
}

impl Packet {
    /// No frame.
    pub const EMPTY: Self = Self {
        bytes: [0; HEADER + MAX_FRAME],
        length: 0,
        rest: Vec::new(),
        rest_length: 0,
        offload: Offload { checksum: None, segments: None },
    };

    /// Returns the room for header and frame.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Returns the room for the beginning, and for the places of the rest.
    pub fn rooms(&mut self) -> (&mut [u8], &mut Vec<Piece, MAX_PIECES>) {
        self.rest.clear();
        (self.bytes.get_mut(..BEGINNING).unwrap_or_default(), &mut self.rest)
    }

    /// Takes over what was put into the [room](Self::room). Returns false if that is no frame with a sound header.
    pub fn fill(&mut self, length: usize) -> bool {
        self.rest.clear();
        self.begin(length, 0)
    }

    /// Takes over what was put into its [rooms](Self::rooms): so many bytes are here, and so many elsewhere. Returns false if
    /// that is no frame with a sound header.
    pub fn begin(&mut self, length: usize, rest_length: usize) -> bool {
        self.length = length.clamp(HEADER, self.bytes.len());
        self.rest_length = rest_length;
        let Some((header, frame)) = self.bytes.split_first_chunk_mut::<HEADER>() else { return false };
        let Some(frame) = frame.get(..self.length - HEADER) else { return false };
        let length = frame.len() + rest_length;
        let offload = (frame.len() >= ETHERNET).then(|| Offload::read(header, frame, length)).flatten();
        if let Some(offload) = offload {
            self.offload = offload;
            offload.put(header);
        }
        offload.is_some()
    }

    /// Does the same for a trunk port: a tag is taken out, and out of what the header says. Returns its VLAN, 0 if there is none;
    /// `None` if that is no frame with a sound header.
    pub fn begin_tagged(&mut self, length: usize, rest_length: usize) -> Option<u16> {
        let length = length.clamp(HEADER, self.bytes.len());
        let (header, frame) = self.bytes.get_mut(..length)?.split_first_chunk_mut::<HEADER>()?;
        let vlan = take_tag(frame);
        if vlan.is_some() && header[0] & NEEDS_CSUM != 0 {
            let [start, end] = [header[6], header[7]];
            let start = u16::from_le_bytes([start, end]).saturating_sub(TAG as u16);
            header[6..8].copy_from_slice(&start.to_le_bytes());
        }
        let length = length - if vlan.is_some() { TAG } else { 0 };
        self.begin(length, rest_length).then_some(vlan.unwrap_or(0))
    }

    /// Returns where the part of the frame is that is not here.
    pub fn rest(&self) -> &[Piece] {
        &self.rest
    }

    /// Gets the rest of the frame here, by `fetch`.
    pub fn complete(&mut self, mut fetch: impl FnMut(Ipa, &mut [u8])) {
        for piece in &self.rest {
            let end = self.length + piece.bytes as usize;
            let Some(room) = self.bytes.get_mut(self.length..end) else { break };
            fetch(piece.at, room);
            self.length = end;
        }
        self.rest.clear();
        self.rest_length = 0;
    }

    /// Returns how long the frame is, with what is not here.
    pub const fn frame_length(&self) -> usize {
        self.length.saturating_sub(HEADER) + self.rest_length
    }

    /// Returns header and frame, as much as is here.
    pub fn whole(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Returns the frame, as much as is here.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(HEADER..self.length).unwrap_or_default()
    }

    /// Computes the checksum that was left out, for a receiver that does not.
    pub fn finish_checksum(&mut self) {
        let Some(Checksum { start, offset }) = self.offload.checksum.take() else { return };
        let Some((header, frame)) = self.bytes.split_first_chunk_mut::<HEADER>() else { return };
        self.offload.put(header);
        let Some(frame) = frame.get_mut(..self.length - HEADER) else { return };
        let mut sum = Sum::default();
        // The place of the sum holds that of the pseudo header.
        sum.add(frame.get(start.into()..).unwrap_or_default());
        // For UDP 0 means "none"; for the others both mean the same.
        let sum = match sum.finish() {
            0 => 0xffff,
            sum => sum,
        };
        put_word(frame, usize::from(start) + usize::from(offset), sum);
    }
}

impl Packet {
    /// Calls `put` with each frame that this is on a wire, its header in front, in two parts: checksums are computed, segments
    /// are cut. Ends when `put` returns false, and returns that. The frame is complete.
    ///
    /// # Errors
    ///
    /// Those of `put`.
    pub fn plain<E>(&mut self, mut put: impl FnMut(&[u8], &[u8]) -> Result<bool, E>) -> Result<bool, E> {
        let Some(segments) = self.offload.segments else {
            self.finish_checksum();
            return put(self.whole(), &[]);
        };
        let frame = self.frame();
        for part in segments.parts(frame.len()) {
            let mut first = [0; HEADER + MAX_HEADERS];
            first[10] = 1;
            let Some(headers) = first.last_chunk_mut() else { break };
            let Some(length) = segments.make_headers(frame, &part, headers) else { break };
            let (first, rest) = (first.get(..HEADER + length), frame.get(part));
            if !put(first.unwrap_or_default(), rest.unwrap_or_default())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns how many frames this is on a wire.
    pub fn count(&self) -> usize {
        self.offload.segments.map_or(1, |segments| segments.parts(self.frame_length()).count())
    }

    /// Takes the frame's tag out, if it has one (IEEE 802.1Q). Returns its VLAN, else 0.
    pub fn untag(&mut self) -> u16 {
        let vlan = self.bytes.get_mut(HEADER..self.length).and_then(take_tag);
        self.length -= if vlan.is_some() { TAG } else { 0 };
        vlan.unwrap_or(0)
    }
}

/// Takes a frame's tag out, if it has one: the rest moves to its place. Returns its VLAN.
fn take_tag(frame: &mut [u8]) -> Option<u16> {
    if word(frame, MACS)? != VLAN || frame.len() < ETHERNET + TAG {
        return None;
    }
    let vlan = word(frame, MACS + 2)? & 0xfff;
    frame.copy_within(MACS + TAG.., MACS);
    Some(vlan)
}

/// Returns what header and frame begin with if the frame gets the tag of a VLAN, and what follows.
pub fn with_tag(whole: &[u8], vlan: u16) -> Option<([u8; TAGGED], &[u8])> {
    let (start, rest) = whole.split_first_chunk::<{ HEADER + MACS }>()?;
    let mut tagged = [0; TAGGED];
    tagged[..HEADER + MACS].copy_from_slice(start);
    tagged[HEADER + MACS..].copy_from_slice(&tag(vlan));
    // Where the checksum is summed from, and how long the headers are of a frame that is to be cut.
    for (at, is_there) in [(6, tagged[0] & NEEDS_CSUM != 0), (2, tagged[1] != GSO_NONE)] {
        let moved = u16::from_le_bytes([tagged[at], tagged[at + 1]]).wrapping_add(TAG as u16);
        if is_there {
            tagged[at..at + 2].copy_from_slice(&moved.to_le_bytes());
        }
    }
    Some((tagged, rest))
}

/// Returns the tag of a VLAN, as it stands behind the addresses of a frame.
pub const fn tag(vlan: u16) -> [u8; 4] {
    let [[a, b], [c, d]] = [VLAN.to_be_bytes(), vlan.to_be_bytes()];
    [a, b, c, d]
}

/// Where a frame comes from and goes to, and of what kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where it goes to.
    pub to: Mac,
    /// Where it says that it comes from.
    pub from: Mac,
    /// Its type.
    pub kind: u16,
    /// The VLAN of the tag that it came with to a trunk port; 0 for none.
    pub vlan: u16,
}

impl Addresses {
    /// Reads those of a frame.
    #[inline]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *frame.first_chunk::<ETHERNET>()?;
        Some(Self { to: [a, b, c, d, e, f], from: [g, h, i, j, k, l], kind: u16::from_be_bytes([m, n]), vlan: 0 })
    }

    /// Returns true if the frame has a tag.
    pub const fn is_tagged(&self) -> bool {
        matches!(self.kind, VLAN | OUTER_VLAN)
    }

    /// Returns true if it goes to many.
    #[inline]
    pub const fn is_to_many(&self) -> bool {
        self.to[0] & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&byte| byte.into());
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// A frame of TCP over IPv4 or IPv6 with so many bytes, as a sender that leaves the rest to others makes it.
    fn tcp(is_v6: bool, payload: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        let length = (20 + payload) as u16;
        let addresses: Vec<u8> = (1..=if is_v6 { 32 } else { 8 }).collect();
        if is_v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([TCP, 64]);
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 7, 0x40, 0, 64, TCP, 0, 0]);
        }
        frame.extend(&addresses);
        let pseudo = [&addresses[..], &[0, TCP], &length.to_be_bytes()].concat();
        let mut header = [0, 80, 0, 81, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0];
        header[16..18].copy_from_slice(&(!slow_sum(&pseudo)).to_be_bytes());
        frame.extend(header);
        frame.extend((0..payload).map(|at| at as u8));
        frame
    }

    fn filled(header: [u8; HEADER], frame: &[u8]) -> Option<Box<Packet>> {
        let mut packet = Box::new(Packet::EMPTY);
        packet.room()[..HEADER].copy_from_slice(&header);
        packet.room()[HEADER..][..frame.len()].copy_from_slice(frame);
        packet.fill(HEADER + frame.len()).then_some(packet)
    }

    fn header_for(frame: &[u8], is_v6: bool, size: u16) -> [u8; HEADER] {
        let tcp = if is_v6 { 54 } else { 34 };
        let segments = Segments { version: if is_v6 { 6 } else { 4 }, size, tcp, payload: tcp + 20 };
        let checksum = Some(Checksum { start: tcp, offset: 16 });
        let mut header = [0; HEADER];
        let segments = (frame.len() > MAX_PLAIN).then_some(segments);
        Offload { checksum, segments }.put(&mut header);
        header
    }

    fn is_tcp_sum_right(frame: &[u8], is_v6: bool) -> bool {
        let (addresses, tcp) = if is_v6 { (22..54, 54) } else { (26..34, 34) };
        let length = (frame.len() - tcp) as u16;
        slow_sum(&[&frame[addresses], &[0, TCP], &length.to_be_bytes(), &frame[tcp..]].concat()) == 0
    }

    #[test]
    fn a_checksum_that_was_left_out_is_computed() {
        for is_v6 in [false, true] {
            let frame = tcp(is_v6, 101);
            let mut packet = filled(header_for(&frame, is_v6, 0), &frame).unwrap();
            assert!(packet.offload.checksum.is_some());
            packet.finish_checksum();
            assert!(is_tcp_sum_right(packet.frame(), is_v6));
            assert_eq!(packet.whole()[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        }
    }

    #[test]
    fn what_a_header_says_must_be_true_of_the_frame() {
        let frame = tcp(false, 3000);
        let good = header_for(&frame, false, 1460);
        assert!(filled(good, &frame).is_some());
        let change = |at: usize, value: u8| {
            let mut header = good;
            header[at] = value;
            filled(header, &frame).is_none()
        };
        assert!(change(0, 0), "segments without a checksum");
        assert!(change(1, GSO_TCPV6) && change(1, 3) && change(1, GSO_NONE), "not what the frame is");
        assert!(filled(header_for(&frame, false, 63), &frame).is_none(), "too small segments");
        assert!(change(6, 33) && change(7, 255), "not where TCP is");
        assert!(filled([0; HEADER], &frame[..13]).is_none(), "no frame");
        let mut udp = frame.clone();
        udp[ETHERNET + 9] = 17;
        assert!(filled(good, &udp).is_none());
    }

    #[test]
    fn a_sum_does_not_change_what_a_port_has_looked_at() {
        let sum = |frame: &[u8], start: u16, offset: u16| {
            let mut header = [0; HEADER];
            Offload { checksum: Some(Checksum { start, offset }), segments: None }.put(&mut header);
            filled(header, frame).is_some()
        };
        let (v4, v6) = (tcp(false, 100), tcp(true, 100));
        assert!(sum(&v4, 34, 16) && sum(&v4, 34, 6) && sum(&v6, 54, 16));
        assert!(!sum(&v4, 14, 12) && !sum(&v4, 14, 18) && sum(&v4, 14, 20), "the source of IPv4");
        assert!(!sum(&v6, 14, 8) && !sum(&v6, 14, 39) && sum(&v6, 14, 40), "the source of IPv6");
        let mut arp = v4;
        arp[12..14].copy_from_slice(&ARP.to_be_bytes());
        assert!(!sum(&arp, 14, 8) && !sum(&arp, 14, 40));
        let mut discovery = v6;
        discovery[ETHERNET + 6] = ICMPV6;
        assert!(!sum(&discovery, 54, 2));
        discovery[ETHERNET + 6] = 60;
        discovery[ETHERNET + 40..ETHERNET + 42].copy_from_slice(&[ICMPV6, 0]);
        assert!(!sum(&discovery, 62, 2));
        discovery[ETHERNET + 40] = 17;
        assert!(!sum(&discovery, 14, 40) && sum(&discovery, 62, 6), "behind the options");
    }

    #[test]
    fn nothing_of_the_senders_own_is_in_the_header() {
        let frame = tcp(false, 10);
        let mut header = [0xff; HEADER];
        header[..10].copy_from_slice(&[0xfe, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
        let packet = filled(header, &frame).unwrap();
        assert_eq!(packet.whole()[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_tag_is_taken_out() {
        let plain = tcp(false, 100);
        let tagged = [&plain[..12], &tag(7), &plain[12..]].concat();
        for (frame, vlan) in [(&tagged, 7), (&plain, 0)] {
            let mut packet = filled([0; HEADER], frame).unwrap();
            assert_eq!((packet.untag(), packet.frame()), (vlan, &plain[..]));
        }
        let mut short = filled([0; HEADER], &tagged[..16]).unwrap();
        assert_eq!(short.untag(), 0);
    }

    proptest! {
        #[test]
        fn segments_are_whole_frames_and_together_the_first_one(is_v6: bool, payload in 1500usize..65_000, size in 500u16..2000) {
            let frame = tcp(is_v6, payload);
            let packet = filled(header_for(&frame, is_v6, size), &frame).unwrap();
            let segments = packet.offload.segments.unwrap();
            let mut together = Vec::new();
            for part in segments.parts(frame.len()) {
                let mut headers = [0; MAX_HEADERS];
                let length = segments.make_headers(&frame, &part, &mut headers).unwrap();
                let one = [&headers[..length], &frame[part.clone()]].concat();
                prop_assert!(is_tcp_sum_right(&one, is_v6));
                prop_assert!(is_v6 || slow_sum(&one[14..34]) == 0);
                let tcp = usize::from(segments.tcp);
                let sequence = u32::from_be_bytes(one[tcp + 4..tcp + 8].try_into().unwrap());
                prop_assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(together.len() as u32));
                prop_assert_eq!(one[tcp + 13], if part.end == frame.len() { 0x19 } else { 0x10 });
                together.extend_from_slice(&one[length..]);
            }
            prop_assert_eq!(&together[..], &frame[usize::from(segments.payload)..]);
        }

        #[test]
        fn any_bytes_are_a_packet_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), gso in 0u8..5, kind in 0u8..3) {
            let mut bytes = bytes;
            if bytes.len() > 40 {
                bytes[1] = gso;
                bytes[HEADER + 12..HEADER + 15].copy_from_slice(&[[8, 0, 0x45], [0x86, 0xdd, 0x60], [0x81, 0, 0]][usize::from(kind)]);
            }
            let mut packet = Box::new(Packet::EMPTY);
            packet.room()[..bytes.len()].copy_from_slice(&bytes);
            if packet.fill(bytes.len()) {
                if let Some(segments) = packet.offload.segments {
                    for part in segments.parts(packet.frame().len()) {
                        prop_assert!(segments.make_headers(packet.frame(), &part, &mut [0; MAX_HEADERS]).is_some());
                    }
                }
                packet.finish_checksum();
                prop_assert_eq!(packet.whole().len(), bytes.len());
            }
        }
    }
}
