//! Where a NIC is plugged in. Before: [`super::packet`]; after: [`super::switch`], for what may leave.
//!
//! The operator says where that is, and may pull the plug: a port that is *disconnected* is as one in quarantine, until he
//! connects it.
//!
//! A guest sends with its own MAC address, and, where the operator has said which they are, its own IP addresses: in
//! Ethernet, ARP, IPv4, IPv6 and neighbour discovery. A port is in one VLAN, and tagged frames do not leave there; from a
//! *trunk port* only those do that have one tag, of one of its VLANs. What is below the tag is looked at as if there were none.
//!
//! The port of a clone is in *quarantine* until the guest has acknowledged its identity: its link is down, nothing leaves and
//! nothing arrives. What the clone still believes to be, address by address, is its source; one frame would be enough to move
//! the source's traffic.

use super::Mac;
use super::packet::{ARP, Addresses, ETHERNET, ICMPV6, IPV4, IPV6, upper_layer};
use super::switch::SegmentName;
use super::vlans::Vlans;
use crate::bootset::{MAX_RATE, MAX_VLAN, padded};
use core::mem::offset_of;
use salp_hvc::bootset::MAX_VLANS;
use salp_hvc::manager::{LINK_DISCONNECTED, LINK_QUARANTINED, LINK_UP, NicInfo};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const _: () = assert!(offset_of!(NicInfo, rate) + 80 == size_of::<NicInfo>());

/// ICMPv6: neighbour advertisement.
const ADVERTISEMENT: u8 = 136;

const fn is_link_local(ip: &[u8; 16]) -> bool {
    ip[0] == 0xfe && ip[1] & 0xc0 == 0x80
}

/// Why a frame does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The port is in quarantine, or disconnected.
    Closed,
    /// It has an address that is not the port's, or a tag, or is too short to tell.
    Spoofed,
    /// The port has sent as much as it may.
    Rate,
}

/// What went through a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Counters {
    /// Frames that left.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames that arrived.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that were not to leave in quarantine, or disconnected.
    pub quarantined: u64,
    /// Frames with addresses of others.
    pub spoofed: u64,
    /// Frames beyond the port's rate.
    pub limited: u64,
    /// Frames that made no sense.
    pub malformed: u64,
    /// Frames that found no buffer of the guest's, or no guest that runs.
    pub missed: u64,
    /// How often the driver broke the rules of its queues.
    pub breaches: u64,
}

/// How much may leave: a bucket that fills at a rate and holds a tenth of a second of it, or one large frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Bucket {
    /// Bytes per second; 0 for no limit.
    rate: u64,
    /// How much is in it, in bytes.
    level: u64,
    /// When that was so, in microseconds.
    since: u64,
}

impl Bucket {
    const LEAST: u64 = 128 << 10;

    /// Returns a full one.
    pub const fn new(rate: u64) -> Self {
        let most = if rate / 10 > Self::LEAST { rate / 10 } else { Self::LEAST };
        Self { rate, level: most, since: 0 }
    }

    /// Takes so many bytes at `now`, if there are as many.
    pub fn take(&mut self, bytes: u64, now: u64) -> bool {
        if self.rate == 0 {
            return true;
        }
        let most = (self.rate / 10).max(Self::LEAST);
        // A clock that goes back fills nothing, and a long time no more than all.
        let passed = now.saturating_sub(self.since).min(10_000_000_000);
        // In two parts, each of which 64 bits hold: rates have 40.
        let (seconds, rest) = (passed / 1_000_000, passed % 1_000_000);
        let filled = (self.rate * seconds + self.rate * rest / 1_000_000).min(most);
        // What is less than a byte goes on filling.
        if filled > 0 {
            self.level = (self.level + filled).min(most);
            self.since = now;
        }
        let is_enough = bytes <= self.level;
        self.level -= if is_enough { bytes } else { 0 };
        is_enough
    }
}

/// What the operator has said of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The only IPv4 address that it may use.
    pub ipv4: Option<[u8; 4]>,
    /// The only IPv6 address that it may use, link-local ones aside.
    pub ipv6: Option<[u8; 16]>,
    /// How many bytes may leave in a second; 0 for no limit.
    pub rate: u64,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The address of the NIC.
    pub mac: Mac,
    /// The segment that it is in.
    pub segment: SegmentName,
    /// The VLAN in that; 0 for none.
    pub vlan: u16,
    /// The VLANs of a trunk port.
    pub vlans: Vlans,
    /// What the operator has said.
    pub rules: Rules,
    /// The guest has not acknowledged who it is.
    pub is_quarantined: bool,
    /// The operator has disconnected it.
    pub is_disconnected: bool,
    /// The last IPv4 address that the guest claimed by ARP; zeros if none.
    pub ipv4: [u8; 4],
    /// The last global IPv6 address that it claimed by neighbour discovery; zeros if none.
    pub ipv6: [u8; 16],
    /// What went through.
    pub counters: Counters,
    bucket: Bucket,
}

/// What a hand-over has of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PortRecord {
    mac: Mac,
    vlan: u16,
    segment: SegmentName,
    /// Bits: quarantined, disconnected, one IPv4 address only, one IPv6 address only.
    flags: u32,
    only_ipv4: [u8; 4],
    only_ipv6: [u8; 16],
    rate: u64,
    ipv4: [u8; 4],
    reserved: u32,
    ipv6: [u8; 16],
    counters: Counters,
    bucket: Bucket,
    vlans: [U16; MAX_VLANS],
}

impl Port {
    /// Returns what a hand-over has of it.
    pub fn record(&self) -> PortRecord {
        let Rules { ipv4, ipv6, rate } = self.rules;
        let flags = [self.is_quarantined, self.is_disconnected, ipv4.is_some(), ipv6.is_some()];
        PortRecord {
            mac: self.mac,
            vlan: self.vlan,
            segment: self.segment,
            flags: flags.iter().rev().fold(0, |word, &flag| word << 1 | u32::from(flag)),
            only_ipv4: ipv4.unwrap_or_default(),
            only_ipv6: ipv6.unwrap_or_default(),
            rate,
            ipv4: self.ipv4,
            reserved: 0,
            ipv6: self.ipv6,
            counters: self.counters,
            bucket: self.bucket,
            vlans: self.vlans.record(),
        }
    }

    /// Returns the port in a record. `None` if there is no such port.
    pub fn restored(record: &PortRecord) -> Option<Self> {
        let flag = |bit: u32| record.flags >> bit & 1 != 0;
        let is_sound = record.flags >> 4 == 0
            && record.reserved == 0
            && record.mac[0] & 1 == 0
            && record.vlan <= MAX_VLAN
            && padded(&record.segment).is_some()
            && record.rate <= MAX_RATE
            && record.bucket.rate <= MAX_RATE
            && record.bucket.level <= MAX_RATE;
        let vlans = Vlans::of(&record.vlans, record.vlan).filter(|_| is_sound)?;
        Some(Self {
            mac: record.mac,
            segment: record.segment,
            vlan: record.vlan,
            vlans,
            rules: Rules {
                ipv4: flag(2).then_some(record.only_ipv4),
                ipv6: flag(3).then_some(record.only_ipv6),
                rate: record.rate,
            },
            is_quarantined: flag(0),
            is_disconnected: flag(1),
            ipv4: record.ipv4,
            ipv6: record.ipv6,
            counters: record.counters,
            bucket: record.bucket,
        })
    }

    /// Returns a port that is open, in no segment yet.
    pub fn new(mac: Mac, rules: Rules) -> Self {
        Self {
            mac,
            segment: [0; 16],
            vlan: 0,
            vlans: Vlans::default(),
            rules,
            is_quarantined: false,
            is_disconnected: false,
            ipv4: [0; 4],
            ipv6: [0; 16],
            counters: Counters::default(),
            bucket: Bucket::new(rules.rate),
        }
    }

    /// Returns it in a VLAN of a segment.
    pub fn placed(self, segment: SegmentName, vlan: u16) -> Self {
        Self { segment, vlan, ..self }
    }

    /// Returns it as a trunk port, if these are any.
    pub fn carrying(self, vlans: Vlans) -> Self {
        Self { vlans, ..self }
    }

    /// Returns the port of a clone.
    pub fn of_clone(&self, mac: Mac) -> Self {
        // An address of the source's is not the clone's: what it may use instead, nobody has said.
        let rules = Rules { ipv4: None, ipv6: None, ..self.rules };
        let port = Self::new(mac, rules).placed(self.segment, self.vlan).carrying(self.vlans);
        Self { is_quarantined: true, is_disconnected: self.is_disconnected, ..port }
    }

    /// Returns true if frames leave and arrive.
    #[inline]
    pub const fn is_open(&self) -> bool {
        !self.is_quarantined && !self.is_disconnected
    }

    /// Sets how many bytes may leave in a second; 0 for no limit.
    pub fn set_rate(&mut self, rate: u64) {
        if rate != self.rules.rate {
            self.rules.rate = rate;
            self.bucket = Bucket::new(rate);
        }
    }

    /// Forgets which addresses the guest claimed.
    pub fn forget_claims(&mut self) {
        self.ipv4 = [0; 4];
        self.ipv6 = [0; 16];
    }

    /// Returns what there is to know of it.
    pub fn info(&self) -> NicInfo {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let link = flag(self.is_open(), LINK_UP)
            | flag(self.is_disconnected, LINK_DISCONNECTED)
            | flag(self.is_quarantined, LINK_QUARANTINED);
        let Counters { sent, sent_bytes, received, received_bytes, .. } = self.counters;
        let Counters { quarantined, spoofed, limited, malformed, missed, .. } = self.counters;
        let mut info = NicInfo {
            segment: self.segment,
            vlan: self.vlan.into(),
            vlans: self.vlans.record(),
            mac: self.mac,
            link: link.into(),
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            ..NicInfo::new_zeroed()
        };
        // The rest are ten words: from `rate` on. One by one they are a good deal of code.
        let words = [
            self.rules.rate,
            sent,
            sent_bytes,
            received,
            received_bytes,
            quarantined,
            spoofed,
            limited,
            malformed,
            missed,
        ];
        if let Some(rest) = info.as_mut_bytes().last_chunk_mut::<80>() {
            rest.copy_from_slice(words.map(u64::to_le).as_bytes());
        }
        info
    }

    /// Decides if a frame of this length, which begins so and had the tag of a VLAN (0 for none), may leave at `now`, in
    /// microseconds, and counts it.
    ///
    /// # Errors
    ///
    /// Says why it does not.
    #[inline]
    pub fn admit(&mut self, frame: &[u8], vlan: u16, length: usize, now: u64) -> Result<Addresses, Refusal> {
        let verdict = self.check(frame, vlan, length as u64, now);
        let counters = &mut self.counters;
        match verdict {
            Ok(_) => {
                counters.sent = counters.sent.wrapping_add(1);
                counters.sent_bytes = counters.sent_bytes.wrapping_add(length as u64);
            }
            Err(Refusal::Closed) => counters.quarantined = counters.quarantined.wrapping_add(1),
            Err(Refusal::Spoofed) => counters.spoofed = counters.spoofed.wrapping_add(1),
            Err(Refusal::Rate) => counters.limited = counters.limited.wrapping_add(1),
        }
        verdict
    }

    fn check(&mut self, frame: &[u8], vlan: u16, length: u64, now: u64) -> Result<Addresses, Refusal> {
        if !self.is_open() {
            return Err(Refusal::Closed);
        }
        let addresses = Addresses::of(frame).ok_or(Refusal::Spoofed)?;
        let is_own = addresses.from == self.mac && !addresses.is_tagged() && self.vlans.pass(vlan);
        if !is_own || self.is_spoofed(addresses.kind, frame) != Some(false) {
            return Err(Refusal::Spoofed);
        }
        if !self.bucket.take(length, now) {
            return Err(Refusal::Rate);
        }
        if matches!(addresses.kind, ARP | IPV6) {
            self.learn(addresses.kind, frame);
        }
        Ok(Addresses { vlan, ..addresses })
    }

    /// Notes the address that a frame claims: the sender's of ARP, the target of a neighbour advertisement.
    fn learn(&mut self, kind: u16, frame: &[u8]) -> Option<()> {
        if kind == ARP {
            let ip: [u8; 4] = *frame.get(ETHERNET + 14..)?.first_chunk()?;
            self.ipv4 = if ip == [0; 4] { self.ipv4 } else { ip };
        } else if *frame.get(ETHERNET + 6)? == ICMPV6 && *frame.get(ETHERNET + 40)? == ADVERTISEMENT {
            let ip: [u8; 16] = *frame.get(ETHERNET + 48..)?.first_chunk()?;
            self.ipv6 = if is_link_local(&ip) || ip == [0; 16] { self.ipv6 } else { ip };
        }
        Some(())
    }

    /// Returns true if the frame claims an address of others above Ethernet; `None` if it is too short to tell.
    fn is_spoofed(&self, kind: u16, frame: &[u8]) -> Option<bool> {
        match kind {
            ARP => {
                // Sender: hardware address, then protocol address; 0.0.0.0 asks if an address is free.
                let mac: &Mac = frame.get(ETHERNET + 8..)?.first_chunk()?;
                let ip: &[u8; 4] = frame.get(ETHERNET + 14..)?.first_chunk()?;
                Some(*mac != self.mac || !self.may_use_v4(ip))
            }
            IPV4 => Some(!self.may_use_v4(frame.get(ETHERNET + 12..)?.first_chunk()?)),
            IPV6 => {
                let ip: &[u8; 16] = frame.get(ETHERNET + 8..)?.first_chunk()?;
                if !self.may_use_v6(ip) {
                    return Some(true);
                }
                match upper_layer(frame)? {
                    (ICMPV6, at) => self.is_spoofed_discovery(frame.get(at..)?),
                    _ => Some(false),
                }
            }
            _ => Some(false),
        }
    }

    /// Looks at a message of ICMPv6: those of neighbour discovery (RFC 4861, 4) say which link-layer address an IP address
    /// has.
    fn is_spoofed_discovery(&self, message: &[u8]) -> Option<bool> {
        const SOURCE_LINK: u8 = 1;
        const TARGET_LINK: u8 = 2;
        let (options, own) = match *message.first()? {
            // Router solicitation and advertisement.
            133 => (8, SOURCE_LINK),
            134 => (16, SOURCE_LINK),
            // Neighbour solicitation and advertisement: the target of the latter is the sender's own.
            135 => (24, SOURCE_LINK),
            ADVERTISEMENT => (24, TARGET_LINK),
            _ => return Some(false),
        };
        if own == TARGET_LINK && !self.may_use_v6(message.get(8..)?.first_chunk()?) {
            return Some(true);
        }
        let mut rest = message.get(options..)?;
        while let Some(&[kind, units]) = rest.first_chunk() {
            let option = rest.get(..8 * usize::from(units)).filter(|option| !option.is_empty())?;
            if kind == own && option.get(2..8)? != self.mac {
                return Some(true);
            }
            rest = rest.get(option.len()..)?;
        }
        Some(false)
    }

    fn may_use_v4(&self, ip: &[u8; 4]) -> bool {
        *ip == [0; 4] || self.rules.ipv4.is_none_or(|own| own == *ip)
    }

    fn may_use_v6(&self, ip: &[u8; 16]) -> bool {
        *ip == [0; 16] || is_link_local(ip) || self.rules.ipv6.is_none_or(|own| own == *ip)
    }

    /// Takes back that a frame was admitted: it has not left, and is looked at again.
    pub fn take_back(&mut self, bytes: usize) {
        self.counters.sent = self.counters.sent.wrapping_sub(1);
        self.counters.sent_bytes = self.counters.sent_bytes.wrapping_sub(bytes as u64);
        self.bucket.level = self.bucket.level.saturating_add(bytes as u64);
    }

    /// Counts a frame that arrived, or one that could not.
    #[inline]
    pub fn count_arrival(&mut self, bytes: usize, has_arrived: bool) {
        let counters = &mut self.counters;
        if has_arrived {
            counters.received = counters.received.wrapping_add(1);
            counters.received_bytes = counters.received_bytes.wrapping_add(bytes as u64);
        } else {
            counters.missed = counters.missed.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const IP: [u8; 4] = [10, 0, 0, 1];
    const IP6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn port() -> Port {
        Port::new(MAC, Rules { ipv4: Some(IP), ipv6: Some(IP6), rate: 0 })
    }

    fn ethernet(from: Mac, kind: u16, rest: &[&[u8]]) -> Vec<u8> {
        [&OTHER[..], &from, &kind.to_be_bytes(), &rest.concat()].concat()
    }

    fn arp(mac: Mac, ip: [u8; 4]) -> Vec<u8> {
        ethernet(MAC, ARP, &[&[0, 1, 8, 0, 6, 4, 0, 1], &mac, &ip, &[0; 10]])
    }

    fn v4(ip: [u8; 4]) -> Vec<u8> {
        ethernet(MAC, IPV4, &[&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0], &ip, &[10, 0, 0, 9]])
    }

    fn v6(ip: [u8; 16], next: u8, message: &[u8]) -> Vec<u8> {
        ethernet(MAC, IPV6, &[&[0x60, 0, 0, 0, 0, 8, next, 255], &ip, &[1; 16], message])
    }

    fn advertisement(target: [u8; 16], mac: Mac) -> Vec<u8> {
        v6(IP6, ICMPV6, &[&[136, 0, 0, 0, 0x20, 0, 0, 0], &target[..], &[2, 1], &mac].concat())
    }

    fn admit(port: &mut Port, frame: &[u8]) -> Result<Addresses, Refusal> {
        port.admit(frame, 0, frame.len(), 0)
    }

    fn leaves(frame: &[u8]) -> bool {
        let mut port = port();
        let admitted = admit(&mut port, frame);
        assert_eq!(port.counters.sent + port.counters.spoofed, 1);
        admitted.is_ok()
    }

    #[test]
    fn a_guest_sends_with_its_own_addresses() {
        assert!(leaves(&arp(MAC, IP)) && leaves(&v4(IP)) && leaves(&v6(IP6, 17, &[])));
        assert!(leaves(&advertisement(IP6, MAC)));
        assert!(leaves(&ethernet(MAC, 0x88b5, &[])), "what is neither IP nor ARP has only a MAC address");
    }

    #[test]
    fn a_guest_that_looks_for_an_address_has_none_yet() {
        assert!(leaves(&arp(MAC, [0; 4])) && leaves(&v4([0; 4])) && leaves(&v6([0; 16], ICMPV6, &[135; 24])));
    }

    #[test]
    fn a_guest_does_not_send_with_addresses_of_others() {
        assert!(!leaves(&ethernet(OTHER, 0x88b5, &[])));
        assert!(!leaves(&arp(OTHER, IP)) && !leaves(&arp(MAC, [10, 0, 0, 2])));
        assert!(!leaves(&v4([10, 0, 0, 2])));
        let mut other = IP6;
        other[15] = 2;
        assert!(!leaves(&v6(other, 17, &[])));
        assert!(!leaves(&advertisement(other, MAC)) && !leaves(&advertisement(IP6, OTHER)));
    }

    #[test]
    fn tags_and_frames_that_are_too_short_do_not_leave() {
        assert!(!leaves(&ethernet(MAC, 0x8100, &[&[0, 1, 8, 0]])) && !leaves(&ethernet(MAC, 0x88a8, &[&[0, 1, 8, 0]])));
        assert!(!leaves(&arp(MAC, IP)[..25]) && !leaves(&v4(IP)[..29]) && !leaves(&MAC));
        assert!(!leaves(&advertisement(IP6, MAC)[..70]), "an option that is cut off");
    }

    #[test]
    fn extension_headers_hide_no_address() {
        let mut other = IP6;
        other[15] = 2;
        // Options for each hop; routing; authentication and options; a fragment that is the whole.
        let headers: [&[u8]; 4] = [
            &[ICMPV6, 0, 1, 4, 0, 0, 0, 0],
            &[ICMPV6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ICMPV6, 0, 1, 4, 0, 0, 0, 0],
            &[ICMPV6, 0, 0, 1, 0, 0, 0, 0],
        ];
        for (first, header) in [0, 43, 51, 44].into_iter().zip(headers) {
            let behind = |frame: &[u8]| leaves(&v6(IP6, first, &[header, &frame[ETHERNET + 40..]].concat()));
            assert!(behind(&advertisement(IP6, MAC)), "{first}");
            assert!(!behind(&advertisement(IP6, OTHER)) && !behind(&advertisement(other, MAC)), "{first}");
            assert!(!leaves(&v6(IP6, first, &header[..3])), "{first}: too short to tell");
        }
        assert!(leaves(&v6(IP6, 44, &[ICMPV6, 0, 1, 0, 0, 0, 0, 0, 136])), "the rest of a message");
    }

    #[test]
    fn nothing_leaves_in_quarantine() {
        let mut clone = port().of_clone(OTHER);
        for frame in [arp(MAC, IP), v4(IP), ethernet(OTHER, 0x88b5, &[])] {
            assert_eq!(admit(&mut clone, &frame), Err(Refusal::Closed));
        }
        assert_eq!((clone.counters.quarantined, clone.counters.sent), (3, 0));
        clone.is_quarantined = false;
        assert!(admit(&mut clone, &ethernet(OTHER, 0x88b5, &[])).is_ok());
        assert_eq!(admit(&mut clone, &v4(IP)), Err(Refusal::Spoofed), "with the source's MAC address");
    }

    #[test]
    fn nothing_leaves_while_it_is_disconnected_and_a_clone_stays_so() {
        let mut port = port().placed(*b"lan\0\0\0\0\0\0\0\0\0\0\0\0\0", 7);
        port.is_disconnected = true;
        assert_eq!(admit(&mut port, &v4(IP)), Err(Refusal::Closed));
        let mut clone = port.of_clone(OTHER);
        clone.is_quarantined = false;
        assert_eq!((admit(&mut clone, &ethernet(OTHER, 0x88b5, &[])), clone.vlan), (Err(Refusal::Closed), 7));
        assert_eq!(clone.info().link.get(), LINK_DISCONNECTED);
    }

    #[test]
    fn the_addresses_that_a_guest_claims_are_remembered() {
        let mut port = Port::new(MAC, Rules::default());
        let mut claimed = |frame: &[u8]| {
            let _ = admit(&mut port, frame);
            (port.ipv4, port.ipv6[15])
        };
        assert_eq!(claimed(&arp(MAC, [0; 4])), ([0; 4], 0), "it only asks");
        assert_eq!(claimed(&v4([10, 0, 0, 3])), ([0; 4], 0), "it may forward for others");
        assert_eq!(claimed(&arp(MAC, IP)), (IP, 0));
        assert_eq!(claimed(&advertisement(IP6, MAC)), (IP, 1));
        assert_eq!(claimed(&arp(MAC, [0; 4])), (IP, 1));
        let mut link_local = IP6;
        [link_local[0], link_local[1]] = [0xfe, 0x80];
        assert_eq!(claimed(&advertisement(link_local, MAC)), (IP, 1));
        assert_eq!(claimed(&arp(OTHER, [10, 0, 0, 2])), (IP, 1), "it does not leave");
        assert_eq!(port.of_clone(OTHER).ipv4, [0; 4]);
        let info = port.info();
        assert_eq!((info.ipv4, info.sent[0].get(), info.refused[1].get(), info.missed.get()), (IP, 6, 1, 0));
    }

    proptest! {
        #[test]
        fn a_rate_is_kept(rate in 1_000_000u64..1_000_000_000, steps in proptest::collection::vec((0u64..2000, 60u64..65_000), 1..300)) {
            let mut bucket = Bucket::new(rate);
            let (mut now, mut sent) = (0, 0);
            for (pause, bytes) in steps {
                now += pause;
                if bucket.take(bytes, now) {
                    sent += bytes;
                }
                let most = (rate / 10).max(Bucket::LEAST);
                prop_assert!(sent <= most + rate * now / 1_000_000 + 1);
            }
        }

        #[test]
        fn any_frame_is_admitted_or_counted(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0usize..4, icmp in 130u8..140) {
            let mut frame = bytes;
            if frame.len() > 56 {
                frame[6..12].copy_from_slice(&MAC);
                frame[12..14].copy_from_slice(&[ARP, IPV4, IPV6, 0x8100][kind].to_be_bytes());
                if kind == 2 {
                    frame[20] = ICMPV6;
                    frame[22..38].copy_from_slice(&IP6);
                    frame[54] = icmp;
                }
            }
            leaves(&frame);
        }
    }
}
