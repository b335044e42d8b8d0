//! The switch: which ports are on which segment, and behind which port an address is. Before: [`super::port`], which lets a
//! frame leave; after: the ports that [`Switch::route`] names.
//!
//! A *domain* is a VLAN of a segment: frames do not leave it. Ports are numbered by who has them, so the switch knows them by
//! number alone. Its tables have a fixed size, and every step but [`Switch::leave`] looks at a few entries of them; where
//! the table of addresses has no room, the oldest entry of the few gives way, and frames to it go to every port of its
//! domain until it sends again.
//!
//! The *trunk* is the way out of the machine, for all VLANs of one segment: in each of its domains it has a port of its own,
//! which comes and goes with the domain. A NIC with a *trunk port* has a *branch* in each of its VLANs: a port of the switch's
//! own, which stands for the NIC and the tag that frames get there.

use super::Mac;
use super::packet::Addresses;
use super::vlans::Vlans;

/// How many ports there can be, but for those of the trunk, which have the numbers from here on.
pub const PORTS: usize = 4096;
/// How many domains there can be.
pub const DOMAINS: usize = 64;

/// How many branches there can be.
pub const BRANCHES: usize = 256;

/// The number of the first branch.
const FIRST_BRANCH: usize = PORTS + DOMAINS + 1;
const ALL_PORTS: usize = FIRST_BRANCH + BRANCHES;
/// No port.
const NO_PORT: u16 = u16::MAX;

/// A segment's name, padded with zeros.
pub type SegmentName = [u8; 16];

const SETS: usize = 512;
const WAYS: usize = 4;

/// No domain: the first one is 1, so that an empty switch is all zeros and takes no room in the image.
const NONE: u16 = 0;

/// For how long an address is remembered that sends nothing, in seconds.
const AGE: u32 = 300;

#[derive(Clone, Copy)]
struct Domain {
    segment: SegmentName,
    vlan: u16,
    first: u16,
    ports: u16,
}

/// A port's place in the ring of those of its domain.
#[derive(Clone, Copy)]
struct Member {
    domain: u16,
    next: u16,
    before: u16,
}

/// The port of a NIC in one of several VLANs; VLAN 0: nobody's.
#[derive(Clone, Copy)]
struct Branch {
    nic: u16,
    vlan: u16,
}

const NO_BRANCH: Branch = Branch { nic: 0, vlan: 0 };

#[derive(Clone, Copy)]
struct Entry {
    mac: Mac,
    domain: u16,
    port: u16,
    /// It is the address of the port's NIC: it does not age, and does not move.
    is_own: bool,
    /// When it was seen, in seconds.
    seen: u32,
}

const EMPTY: Entry = Entry { mac: [0; 6], domain: NONE, port: 0, is_own: false, seen: 0 };

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nowhere.
    Nowhere,
    /// To this port.
    One(u16),
    /// To every port of the domain but its own: this is the first, [`Switch::next`] has the others.
    Many(u16),
}

/// The switch.
pub struct Switch {
    /// The first is none.
    domains: [Domain; DOMAINS + 1],
    members: [Member; ALL_PORTS],
    branches: [Branch; BRANCHES],
    table: [[Entry; WAYS]; SETS],
    /// The segment of the trunk; zeros if there is none.
    trunk: SegmentName,
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    /// Returns a switch without ports.
    pub const fn new() -> Self {
        Self {
            domains: [Domain { segment: [0; 16], vlan: 0, first: 0, ports: 0 }; DOMAINS + 1],
            members: [Member { domain: NONE, next: 0, before: 0 }; ALL_PORTS],
            branches: [NO_BRANCH; BRANCHES],
            table: [[EMPTY; WAYS]; SETS],
            trunk: [0; 16],
        }
    }

    /// Gives a segment the trunk, before any port is in it.
    pub const fn set_trunk(&mut self, segment: &SegmentName) {
        self.trunk = *segment;
    }

    /// Returns true for the ports of the trunk.
    #[inline]
    pub const fn is_trunk(port: u16) -> bool {
        (port as usize).wrapping_sub(PORTS) <= DOMAINS
    }

    /// Returns the trunk's port in a VLAN, if there is another port in it.
    pub fn trunk_port(&self, vlan: u16) -> Option<u16> {
        self.domain_of(&self.trunk, vlan).map(|domain| (PORTS + domain) as u16)
    }

    fn domain_of(&self, segment: &SegmentName, vlan: u16) -> Option<usize> {
        self.domains.iter().position(|domain| domain.ports != 0 && domain.segment == *segment && domain.vlan == vlan)
    }

    /// Plugs a port into a VLAN of a segment. Returns false if there are too many domains.
    pub fn join(&mut self, port: u16, segment: &SegmentName, vlan: u16, mac: Mac) -> bool {
        self.leave(port);
        self.plug(port, segment, vlan, mac)
    }

    /// Plugs the trunk port of a NIC into VLANs of a segment. Returns false if there are too many domains or branches; then it
    /// is in none.
    pub fn join_trunk(&mut self, port: u16, segment: &SegmentName, vlans: &Vlans, mac: Mac) -> bool {
        self.leave(port);
        let is_done = vlans.iter().all(|vlan| self.branch_off(port, segment, vlan, mac));
        if !is_done {
            self.leave(port);
        }
        is_done
    }

    fn branch_off(&mut self, port: u16, segment: &SegmentName, vlan: u16, mac: Mac) -> bool {
        let Some(at) = self.branches.iter().position(|branch| branch.vlan == 0) else { return false };
        self.branches[at % BRANCHES] = Branch { nic: port, vlan };
        self.plug((FIRST_BRANCH + at) as u16, segment, vlan, mac)
    }

    fn plug(&mut self, port: u16, segment: &SegmentName, vlan: u16, mac: Mac) -> bool {
        let is_free = |(at, domain): (usize, &Domain)| at != 0 && domain.ports == 0;
        let free = || self.domains.iter().enumerate().position(is_free);
        let found = self.domain_of(segment, vlan);
        let Some(at) = found.or_else(free) else { return false };
        if found.is_none() {
            self.domains[at % (DOMAINS + 1)] = Domain { segment: *segment, vlan, first: port, ports: 0 };
            if *segment == self.trunk {
                self.enter((PORTS + at) as u16, at);
            }
        }
        self.enter(port, at);
        self.note(at as u16, mac, port, true, 0);
        true
    }

    /// Puts a port into the ring of a domain.
    fn enter(&mut self, port: u16, at: usize) {
        let domain = &mut self.domains[at % (DOMAINS + 1)];
        if domain.ports == 0 {
            domain.first = port;
        }
        domain.ports += 1;
        let first = domain.first;
        let before = if first == port { port } else { self.members[usize::from(first) % ALL_PORTS].before };
        self.members[usize::from(port) % ALL_PORTS] = Member { domain: at as u16, next: first, before };
        self.members[usize::from(before) % ALL_PORTS].next = port;
        self.members[usize::from(first) % ALL_PORTS].before = port;
    }

    /// Unplugs a port with its branches, and forgets what is behind them.
    pub fn leave(&mut self, port: u16) {
        self.unplug(port);
        for at in 0..BRANCHES {
            let branch = &mut self.branches[at];
            if branch.vlan != 0 && branch.nic == port {
                *branch = NO_BRANCH;
                self.unplug((FIRST_BRANCH + at) as u16);
            }
        }
    }

    fn unplug(&mut self, port: u16) {
        let Some(member) = self.members.get_mut(usize::from(port)) else { return };
        let Member { domain, next, before } = *member;
        if domain == NONE {
            return;
        }
        *member = Member { domain: NONE, next: 0, before: 0 };
        let domain = &mut self.domains[usize::from(domain) % (DOMAINS + 1)];
        domain.ports -= 1;
        if domain.first == port {
            domain.first = next;
        }
        let (ports, first) = (domain.ports, domain.first);
        if ports > 0 {
            self.members[usize::from(before) % ALL_PORTS].next = next;
            self.members[usize::from(next) % ALL_PORTS].before = before;
        }
        for entry in self.table.as_flattened_mut().iter_mut().filter(|entry| entry.domain != NONE && entry.port == port)
        {
            *entry = EMPTY;
        }
        if ports == 1 && Self::is_trunk(first) {
            self.unplug(first);
        }
    }

    /// Returns the segment and VLAN that a port is in.
    pub fn place(&self, port: u16) -> Option<(&SegmentName, u16)> {
        let domain = self.members.get(usize::from(port))?.domain;
        let domain = self.domains.get(usize::from(domain)).filter(|domain| domain.ports != 0)?;
        Some((&domain.segment, domain.vlan))
    }

    /// Returns the port at which a frame comes in from that of a NIC: if it had the tag of a VLAN, the NIC's branch there.
    #[inline]
    pub fn entry(&self, port: u16, vlan: u16) -> u16 {
        if vlan == 0 { port } else { self.branch_of(port, vlan) }
    }

    fn branch_of(&self, port: u16, vlan: u16) -> u16 {
        let found = self.branches.iter().position(|branch| branch.vlan == vlan && branch.nic == port);
        found.map_or(NO_PORT, |at| (FIRST_BRANCH + at) as u16)
    }

    /// Returns where a frame leaves that goes to a port: there, or at the port of a NIC whose branch that is; and the VLAN of the
    /// tag that it gets, 0 for none.
    #[inline]
    pub fn exit(&self, port: u16) -> (u16, u16) {
        if usize::from(port) < PORTS { (port, 0) } else { self.tagged_exit(port) }
    }

    fn tagged_exit(&self, port: u16) -> (u16, u16) {
        match self.branches.get(usize::from(port).wrapping_sub(FIRST_BRANCH)) {
            Some(branch) => (if branch.vlan == 0 { NO_PORT } else { branch.nic }, branch.vlan),
            None => (port, self.place(port).map_or(0, |(_, vlan)| vlan)),
        }
    }

    /// Decides where a frame goes that comes in at a port, and learns where it comes from; `now` in seconds.
    #[inline]
    pub fn route(&mut self, from: u16, addresses: &Addresses, now: u32) -> Route {
        let Some(member) = self.members.get(usize::from(from)).filter(|member| member.domain != NONE) else {
            return Route::Nowhere;
        };
        let (domain, next) = (member.domain, member.next);
        if Self::is_trunk(from) && self.is_own(domain, addresses.from) {
            return Route::Nowhere;
        }
        if addresses.from[0] & 1 == 0 {
            self.note(domain, addresses.from, from, false, now);
        }
        if !addresses.is_to_many()
            && let Some(port) = self.find(domain, addresses.to, now)
        {
            // What is for a neighbour behind the same port has arrived.
            return if port == from { Route::Nowhere } else { Route::One(port) };
        }
        if next == from { Route::Nowhere } else { Route::Many(next) }
    }

    /// Returns the port that comes after `port` when a frame from `from` goes to all.
    pub fn next(&self, from: u16, port: u16) -> Option<u16> {
        let domain_of = |port: u16| self.members.get(usize::from(port)).map(|member| member.domain);
        // Ports may be unplugged in between: a ring that was left is at its end.
        let member = self.members.get(usize::from(port)).filter(|member| member.domain != NONE)?;
        (member.next != from && domain_of(from) == Some(member.domain)).then_some(member.next)
    }

    fn set(domain: u16, mac: Mac) -> usize {
        let [a, b, c, d, e, f] = mac;
        let word = u64::from_le_bytes([a, b, c, d, e, f, domain as u8, (domain >> 8) as u8]);
        // The top bits are made of all others.
        (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize % SETS
    }

    /// Returns true for the address of a NIC in the domain: nobody else has it, out there neither.
    fn is_own(&self, domain: u16, mac: Mac) -> bool {
        let is_it = |entry: &Entry| entry.is_own && entry.mac == mac && entry.domain == domain;
        self.table[Self::set(domain, mac)].iter().any(is_it)
    }

    #[inline]
    fn find(&self, domain: u16, mac: Mac, now: u32) -> Option<u16> {
        let is_it = |entry: &&Entry| {
            entry.mac == mac && entry.domain == domain && (entry.is_own || now.saturating_sub(entry.seen) < AGE)
        };
        self.table[Self::set(domain, mac)].iter().find(is_it).map(|entry| entry.port)
    }

    #[inline]
    fn note(&mut self, domain: u16, mac: Mac, port: u16, is_own: bool, now: u32) {
        let set = &mut self.table[Self::set(domain, mac)];
        let known = set.iter_mut().find(|entry| entry.mac == mac && entry.domain == domain);
        if let Some(entry) = known {
            if is_own || !entry.is_own {
                *entry = Entry { mac, domain, port, is_own, seen: now };
            }
            return;
        }
        // An empty one, else the oldest that is learnt, else the first.
        let age = |entry: &&mut Entry| (entry.domain != NONE, entry.is_own, entry.seen);
        if let Some(entry) = set.iter_mut().min_by_key(age) {
            *entry = Entry { mac, domain, port, is_own, seen: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const LAN: SegmentName = *b"lan\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const DMZ: SegmentName = *b"dmz\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const ALL: Mac = [0xff; 6];

    fn mac(number: u8) -> Mac {
        [2, 0, 0, 0, 0, number]
    }

    fn addresses(from: Mac, to: Mac) -> Addresses {
        Addresses { to, from, kind: 0x800, vlan: 0 }
    }

    fn reached(switch: &mut Switch, from: u16, addresses: &Addresses, now: u32) -> BTreeSet<u16> {
        let mut ports = BTreeSet::new();
        match switch.route(from, addresses, now) {
            Route::Nowhere => {}
            Route::One(port) => drop(ports.insert(port)),
            Route::Many(first) => {
                let mut at = Some(first);
                while let Some(port) = at {
                    assert!(ports.insert(port), "twice to {port}");
                    at = switch.next(from, port);
                }
            }
        }
        ports
    }

    fn switch_of(ports: &[(u16, SegmentName, u16)]) -> Box<Switch> {
        let mut switch = Box::new(Switch::new());
        for &(port, segment, vlan) in ports {
            assert!(switch.join(port, &segment, vlan, mac(port as u8)));
        }
        switch
    }

    #[test]
    fn neighbours_reach_each_other_and_nobody_else() {
        let mut switch = switch_of(&[(1, LAN, 0), (2, LAN, 0), (3, DMZ, 0), (4, LAN, 7), (5, LAN, 0)]);
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), mac(2)), 0), [2].into());
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), ALL), 0), [2, 5].into());
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), mac(3)), 0), [2, 5].into(), "not known here");
        assert!(reached(&mut switch, 3, &addresses(mac(3), ALL), 0).is_empty());
        assert_eq!(switch.place(4), Some((&LAN, 7)));
    }

    #[test]
    fn an_address_is_learnt_and_forgotten() {
        let mut switch = switch_of(&[(1, LAN, 0), (2, LAN, 0), (3, LAN, 0)]);
        let (there, back) = (addresses(mac(9), mac(1)), addresses(mac(1), mac(9)));
        assert_eq!(reached(&mut switch, 1, &back, 0), [2, 3].into());
        reached(&mut switch, 2, &there, 10);
        assert_eq!(reached(&mut switch, 1, &back, 10 + AGE - 1), [2].into());
        assert_eq!(reached(&mut switch, 1, &back, 10 + AGE), [2, 3].into());
        reached(&mut switch, 2, &there, 400);
        reached(&mut switch, 3, &there, 401);
        assert_eq!(reached(&mut switch, 1, &back, 402), [3].into(), "it has moved");
        assert!(reached(&mut switch, 3, &addresses(mac(8), mac(9)), 402).is_empty(), "behind the same port");
    }

    #[test]
    fn the_address_of_a_nic_is_not_taken_away() {
        let mut switch = switch_of(&[(1, LAN, 0), (2, LAN, 0), (3, LAN, 0)]);
        reached(&mut switch, 3, &addresses(mac(2), ALL), 1);
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), mac(2)), 1_000_000), [2].into());
    }

    #[test]
    fn what_is_behind_a_port_that_left_is_forgotten() {
        let mut switch = switch_of(&[(1, LAN, 0), (2, LAN, 0), (3, LAN, 0)]);
        switch.leave(2);
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), mac(2)), 0), [3].into());
        assert!(reached(&mut switch, 2, &addresses(mac(2), mac(1)), 0).is_empty());
        switch.leave(3);
        assert!(reached(&mut switch, 1, &addresses(mac(1), ALL), 0).is_empty());
    }

    #[test]
    fn domains_are_used_again_when_they_are_empty() {
        let mut switch = Box::new(Switch::new());
        for port in 0..DOMAINS as u16 {
            assert!(switch.join(port, &LAN, port, mac(1)));
        }
        assert!(!switch.join(100, &DMZ, 0, mac(2)));
        switch.leave(5);
        assert!(switch.join(100, &DMZ, 0, mac(2)));
    }

    #[test]
    fn the_trunk_is_in_every_vlan_of_its_segment_as_long_as_a_port_is() {
        let mut switch = Box::new(Switch::new());
        switch.set_trunk(&LAN);
        for (port, segment, vlan) in [(1, LAN, 0), (2, LAN, 0), (3, LAN, 7), (4, DMZ, 0)] {
            assert!(switch.join(port, &segment, vlan, mac(port as u8)));
        }
        let (plain, tagged) = (switch.trunk_port(0).unwrap(), switch.trunk_port(7).unwrap());
        assert_eq!((switch.place(tagged), switch.trunk_port(1)), (Some((&LAN, 7)), None));
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), mac(9)), 0), [2, plain].into());
        assert_eq!(reached(&mut switch, 3, &addresses(mac(3), ALL), 0), [tagged].into());
        assert!(reached(&mut switch, 4, &addresses(mac(4), ALL), 0).is_empty());
        reached(&mut switch, plain, &addresses(mac(9), ALL), 0);
        assert_eq!(reached(&mut switch, 1, &addresses(mac(1), mac(9)), 0), [plain].into(), "it is out there");
        assert_eq!(reached(&mut switch, tagged, &addresses(mac(9), mac(3)), 0), [3].into());
        switch.leave(3);
        assert_eq!(switch.trunk_port(7), None);
        assert!(reached(&mut switch, tagged, &addresses(mac(9), ALL), 0).is_empty());
    }

    #[test]
    fn nobody_out_there_has_the_address_of_a_nic() {
        let mut switch = Box::new(Switch::new());
        switch.set_trunk(&LAN);
        assert!(switch.join(1, &LAN, 0, mac(1)) && switch.join(2, &LAN, 0, mac(2)));
        let out = switch.trunk_port(0).unwrap();
        assert!(reached(&mut switch, out, &addresses(mac(1), mac(2)), 0).is_empty());
    }

    fn trunk(list: &[u16]) -> Vlans {
        let mut record = Vlans::default().record();
        for (to, &from) in record.iter_mut().zip(list) {
            *to = from.into();
        }
        Vlans::of(&record, 0).unwrap()
    }

    /// Returns which NICs a frame from a NIC, with the tag of a VLAN, reaches, and with which tags.
    fn reached_tagged(switch: &mut Switch, nic: u16, vlan: u16, addresses: &Addresses) -> BTreeSet<(u16, u16)> {
        let from = switch.entry(nic, vlan);
        reached(switch, from, addresses, 0).into_iter().map(|port| switch.exit(port)).collect()
    }

    #[test]
    fn a_trunk_port_is_in_each_of_its_vlans_and_keeps_them_apart() {
        let mut switch = switch_of(&[(1, LAN, 10), (2, LAN, 20), (3, LAN, 0), (4, LAN, 30)]);
        assert!(switch.join_trunk(5, &LAN, &trunk(&[10, 20]), mac(5)));
        let all = addresses(mac(5), ALL);
        assert_eq!(reached_tagged(&mut switch, 5, 10, &all), [(1, 0)].into());
        assert_eq!(reached_tagged(&mut switch, 5, 20, &all), [(2, 0)].into());
        for vlan in [0, 30, 4094] {
            assert!(reached_tagged(&mut switch, 5, vlan, &all).is_empty(), "{vlan}");
        }
        assert_eq!(reached_tagged(&mut switch, 1, 0, &addresses(mac(1), mac(5))), [(5, 10)].into());
        assert_eq!(reached_tagged(&mut switch, 2, 0, &addresses(mac(2), mac(1))), [(5, 20)].into(), "not known there");
        assert!(reached_tagged(&mut switch, 3, 0, &addresses(mac(3), mac(5))).is_empty());
        switch.leave(5);
        assert!(reached_tagged(&mut switch, 1, 0, &addresses(mac(1), mac(5))).is_empty());
        assert!(reached_tagged(&mut switch, 5, 10, &all).is_empty());
    }

    #[test]
    fn an_address_is_learnt_in_the_vlan_where_it_was_seen() {
        let mut switch = switch_of(&[(1, LAN, 10), (2, LAN, 20), (3, LAN, 10), (4, LAN, 20)]);
        assert!(switch.join_trunk(5, &LAN, &trunk(&[10, 20]), mac(5)));
        reached_tagged(&mut switch, 1, 0, &addresses(mac(9), ALL));
        assert_eq!(reached_tagged(&mut switch, 5, 10, &addresses(mac(5), mac(9))), [(1, 0)].into());
        assert_eq!(reached_tagged(&mut switch, 5, 20, &addresses(mac(5), mac(9))), [(2, 0), (4, 0)].into());
    }

    #[test]
    fn a_trunk_port_leads_out_with_its_tags() {
        let mut switch = Box::new(Switch::new());
        switch.set_trunk(&LAN);
        assert!(switch.join_trunk(1, &LAN, &trunk(&[10, 20]), mac(1)));
        let out = switch.trunk_port(20).unwrap();
        assert_eq!(reached_tagged(&mut switch, 1, 20, &addresses(mac(1), ALL)), [(out, 20)].into());
        assert_eq!(reached(&mut switch, out, &addresses(mac(9), mac(1)), 0).len(), 1);
        switch.leave(1);
        assert_eq!((switch.trunk_port(10), switch.trunk_port(20)), (None, None));
    }

    #[test]
    fn a_trunk_port_is_plugged_into_all_of_its_vlans_or_none() {
        let mut switch = Box::new(Switch::new());
        for port in 0..DOMAINS as u16 - 1 {
            assert!(switch.join(port, &LAN, port, mac(1)));
        }
        assert!(!switch.join_trunk(100, &DMZ, &trunk(&[10, 20]), mac(2)));
        assert!(switch.join_trunk(101, &DMZ, &trunk(&[10]), mac(3)));
        assert!(reached_tagged(&mut switch, 100, 10, &addresses(mac(2), ALL)).is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u16, u16),
        Leave(u16),
        Send { from: u16, source: u8, to: u8, pause: u32 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0u16..12, 0u16..3).prop_map(|(port, vlan)| Step::Join(port, vlan)),
            1 => (0u16..12).prop_map(Step::Leave),
            6 => (0u16..12, 0u8..24, 0u8..25, 0u32..200)
                .prop_map(|(from, source, to, pause)| Step::Send { from, source, to, pause }),
        ]
    }

    #[derive(Clone, Debug)]
    enum Change {
        Join(u16, u16),
        JoinTrunk(u16, BTreeSet<u16>),
        Leave(u16),
        Send { nic: u16, vlan: u16, source: u8, to: u8 },
    }

    fn change() -> impl Strategy<Value = Change> {
        let nic = || 0u16..8;
        prop_oneof![
            1 => (nic(), 0u16..4).prop_map(|(nic, vlan)| Change::Join(nic, vlan)),
            1 => (nic(), proptest::collection::btree_set(1u16..5, 1..4)).prop_map(|(nic, vlans)| Change::JoinTrunk(nic, vlans)),
            1 => nic().prop_map(Change::Leave),
            5 => (nic(), 0u16..6, 0u8..12, 0u8..13)
                .prop_map(|(nic, vlan, source, to)| Change::Send { nic, vlan, source, to }),
        ]
    }

    proptest! {
        /// The model knows who is where: per NIC its VLANs, and whether frames have tags there.
        #[test]
        fn no_frame_leaves_its_vlan(changes in proptest::collection::vec(change(), 1..100)) {
            let mut switch = Box::new(Switch::new());
            let mut nics: BTreeMap<u16, (bool, BTreeSet<u16>)> = BTreeMap::new();
            for change in changes {
                match change {
                    Change::Join(nic, vlan) => {
                        prop_assert!(switch.join(nic, &LAN, vlan, mac(nic as u8)));
                        nics.insert(nic, (false, [vlan].into()));
                    }
                    Change::JoinTrunk(nic, vlans) => {
                        let list: Vec<u16> = vlans.iter().copied().collect();
                        prop_assert!(switch.join_trunk(nic, &LAN, &trunk(&list), mac(nic as u8)));
                        nics.insert(nic, (true, vlans));
                    }
                    Change::Leave(nic) => {
                        switch.leave(nic);
                        nics.remove(&nic);
                    }
                    Change::Send { nic, vlan, source, to } => {
                        let to_mac = if to == 12 { ALL } else { mac(to) };
                        let got = reached_tagged(&mut switch, nic, vlan, &addresses(mac(source), to_mac));
                        let inside = match nics.get(&nic) {
                            Some((true, vlans)) => vlans.get(&vlan).copied(),
                            Some((false, vlans)) if vlan == 0 => vlans.first().copied(),
                            _ => None,
                        };
                        let is_other = |&(&other, (_, vlans)): &(&u16, &(bool, BTreeSet<u16>))| {
                            other != nic && inside.is_some_and(|vlan| vlans.contains(&vlan))
                        };
                        let tag = |is_trunk: bool| if is_trunk { inside.unwrap_or(0) } else { 0 };
                        let others: BTreeSet<(u16, u16)> =
                            nics.iter().filter(is_other).map(|(&other, &(is_trunk, _))| (other, tag(is_trunk))).collect();
                        prop_assert!(got.is_subset(&others), "{got:?} {others:?}");
                        // What is to all reaches all, and what is to a NIC there that NIC.
                        prop_assert!(to != 12 || got == others);
                        let own = others.iter().find(|(other, _)| u8::try_from(*other) == Ok(to));
                        prop_assert!(own.is_none_or(|own| got == [*own].into()), "{got:?} {own:?}");
                    }
                }
            }
        }

        /// The model remembers everything: own addresses, and learnt ones with their age.
        #[test]
        fn frames_go_where_the_model_says(steps in proptest::collection::vec(step(), 1..120)) {
            let mut switch = Box::new(Switch::new());
            let mut joined: BTreeMap<u16, u16> = BTreeMap::new();
            let mut learnt: BTreeMap<(u16, u8), (u16, u32)> = BTreeMap::new();
            let mut now = 1000;
            for step in steps {
                match step {
                    Step::Join(port, vlan) => {
                        prop_assert!(switch.join(port, &LAN, vlan, mac(port as u8)));
                        learnt.retain(|_, (at, _)| *at != port);
                        learnt.remove(&(vlan, port as u8));
                        joined.insert(port, vlan);
                    }
                    Step::Leave(port) => {
                        switch.leave(port);
                        learnt.retain(|_, (at, _)| *at != port);
                        joined.remove(&port);
                    }
                    Step::Send { from, source, to, pause } => {
                        now += pause;
                        let to_mac = if to == 24 { ALL } else { mac(to) };
                        let ports = reached(&mut switch, from, &addresses(mac(source), to_mac), now);
                        let Some(&vlan) = joined.get(&from) else {
                            prop_assert!(ports.is_empty());
                            continue;
                        };
                        let is_own = |number: u8| joined.get(&number.into()) == Some(&vlan);
                        if !is_own(source) {
                            learnt.insert((vlan, source), (from, now));
                        }
                        let known = if is_own(to) {
                            Some(u16::from(to))
                        } else {
                            learnt.get(&(vlan, to)).filter(|(_, seen)| now - seen < AGE).map(|(port, _)| *port)
                        };
                        let others: BTreeSet<u16> =
                            joined.iter().filter(|&(&port, &of)| of == vlan && port != from).map(|(&port, _)| port).collect();
                        let expected = match known {
                            Some(port) if port == from => BTreeSet::new(),
                            Some(port) => [port].into(),
                            None => others.clone(),
                        };
                        // A set of the table may have been full: then to all.
                        prop_assert!(ports == expected || ports == others && learnt.len() > WAYS, "{ports:?} {expected:?}");
                    }
                }
            }
        }
    }
}
