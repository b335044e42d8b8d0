//! Management calls ([`salp_hvc::calls`]): what a manager asks for, taken out of its registers and memory and checked.
//! Before: [`super::vendor`]; after: the machine, which carries a [`Request`] out.

use super::{host, life, make, update};
use crate::addr::Ipa;
use crate::bootset::{MAX_RATE, MAX_VLAN, padded};
use crate::identity::{Config, Name};
use crate::net::switch::SegmentName;
use crate::net::vlans::Vlans;
use salp_hvc::agent::VM_AGENT;
use salp_hvc::calls::{
    CLONE_DISCONNECTED, CloneRequest, MACHINE, MAX_CLONES, MAX_CONFIG, NAME, RESERVE_ALL, VM_CLONE, VM_DESTROY,
    VM_FREEZE, VM_MEMORY, VM_NEXT, VM_REVERT, VM_SNAPSHOT, VM_UNFREEZE,
};
use salp_hvc::manager::{NicChange, VM_NIC, VM_NIC_CHANGE};
use zerocopy::FromBytes;

/// What a manager asks for. Addresses are in its RAM and not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// Write what is known of the first VM after this identifier.
    Next { after: u64, to: Ipa },
    /// Make the clones that the record describes.
    Clone { from: Ipa, size: u64 },
    /// Freeze the VM wherever it is.
    Freeze { vm: u64 },
    /// Let the frozen VM go on.
    Unfreeze { vm: u64 },
    /// Destroy the VM or snapshot.
    Destroy { vm: u64 },
    /// Keep the VM's state under a name.
    Snapshot { vm: u64, name: Ipa },
    /// Bring the VM back to the snapshot.
    Revert { vm: u64, snapshot: u64 },
    /// Count the VM's memory and write the result.
    Memory { vm: u64, to: Ipa },
    /// Write what is known of the machine.
    Machine { to: Ipa },
    /// Write what is known of a NIC of the VM.
    Nic { vm: u64, index: u64, to: Ipa },
    /// Write what the VM's agent has told.
    Agent { vm: u64, to: Ipa },
    /// Change a NIC of the VM as the record says.
    NicChange { vm: u64, index: u64, from: Ipa },
    /// Something about what VMs are made from, or their power.
    Make(make::Request),
    /// Something about the machine itself, or about what a VM starts from.
    Host(host::Request),
    /// Do this for the manager's own life, or for a VM's console or power button.
    Life(life::Request),
    /// Do this with the slots of the flash.
    Update(update::Request),
}

/// Returns what a management call asks for, or `None` if there is no such call.
pub const fn decode(id: u32, args: [u64; 4]) -> Option<Request> {
    let [a, b, c, _] = args;
    Some(match id {
        VM_NEXT => Request::Next { after: a, to: Ipa(b) },
        VM_CLONE => Request::Clone { from: Ipa(a), size: b },
        VM_FREEZE => Request::Freeze { vm: a },
        VM_UNFREEZE => Request::Unfreeze { vm: a },
        VM_DESTROY => Request::Destroy { vm: a },
        VM_SNAPSHOT => Request::Snapshot { vm: a, name: Ipa(b) },
        VM_REVERT => Request::Revert { vm: a, snapshot: b },
        VM_MEMORY => Request::Memory { vm: a, to: Ipa(b) },
        MACHINE => Request::Machine { to: Ipa(a) },
        VM_NIC => Request::Nic { vm: a, index: b, to: Ipa(c) },
        VM_AGENT => Request::Agent { vm: a, to: Ipa(b) },
        VM_NIC_CHANGE => Request::NicChange { vm: a, index: b, from: Ipa(c) },
        _ => match make::decode(id, args) {
            Some(request) => Request::Make(request),
            None => match life::decode(id, args) {
                Some(request) => Request::Life(request),
                None => match host::decode(id, args) {
                    Some(request) => Request::Host(request),
                    None => match update::decode(id, args) {
                        Some(request) => Request::Update(request),
                        None => return None,
                    },
                },
            },
        },
    })
}

/// The size of the longest clone request, in bytes.
pub const MAX_CLONE_REQUEST: usize = size_of::<CloneRequest>() + MAX_CONFIG;

/// What clones are to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneSpec {
    /// How many: 1 to [`MAX_CLONES`].
    pub count: u32,
    /// For how much of its RAM each has frames set aside, in percent.
    pub reserve: u32,
    /// The name of one clone, or what the names of several begin with; `None` for the source's name.
    pub name: Option<Name>,
    /// The UUID of one clone; `None` for one of EL2's choice.
    pub uuid: Option<[u8; 16]>,
    /// Their NICs are disconnected.
    pub disconnected: bool,
    /// What they are told.
    pub config: Config,
}

impl CloneSpec {
    /// Returns what to clone and how, from a record with the configuration behind it. `None` if it makes no sense.
    pub fn parse(bytes: &[u8]) -> Option<(u64, Self)> {
        let (request, config) = CloneRequest::ref_from_prefix(bytes).ok()?;
        let name = if request.name == [0; NAME] { None } else { Some(Name::from_padded(&request.name)?) };
        let flags = request.flags.get();
        let spec = Self {
            count: request.count.get(),
            reserve: request.reserve.get(),
            name,
            uuid: (request.uuid != [0; 16]).then_some(request.uuid),
            disconnected: flags & CLONE_DISCONNECTED != 0,
            config: Config::new(config)?,
        };
        let is_known = flags & !CLONE_DISCONNECTED == 0 && request.reserved.get() == 0;
        let is_sound = (1..=MAX_CLONES).contains(&spec.count)
            && spec.reserve <= RESERVE_ALL
            && (spec.uuid.is_none() || spec.count == 1);
        (is_known && is_sound).then_some((request.source.get(), spec))
    }
}

/// What a NIC is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicOrder {
    /// The segment and VLAN, or VLANs of a trunk port, to move to; `None` to stay.
    pub place: Option<(SegmentName, u16, Vlans)>,
    /// Whether it is connected.
    pub connected: bool,
    /// How many bytes it may send in a second; 0 for no limit.
    pub rate: u64,
}

impl NicOrder {
    /// Returns what a record asks for. `None` if it makes no sense.
    pub fn of(change: &NicChange) -> Option<Self> {
        let place = if change.segment == [0; 16] {
            None
        } else {
            padded(&change.segment)?;
            Some((change.segment, change.vlan.get(), Vlans::of(&change.vlans, change.vlan.get())?))
        };
        let is_sound = place.is_none_or(|(_, vlan, _)| vlan <= MAX_VLAN)
            && change.connected.get() <= 1
            && change.reserved.get() == 0
            && change.rate.get() <= MAX_RATE;
        is_sound.then_some(Self { place, connected: change.connected.get() == 1, rate: change.rate.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    fn request(count: u32, reserve: u32, name: &str, config: &str) -> Vec<u8> {
        let mut padded = [0; NAME];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        let (source, count, reserve) = (5.into(), count.into(), reserve.into());
        let request = CloneRequest { source, count, reserve, name: padded, ..CloneRequest::new_zeroed() };
        [request.as_bytes(), config.as_bytes()].concat()
    }

    #[test]
    fn a_clone_request_is_read_back() {
        let (source, spec) = CloneSpec::parse(&request(10, 50, "w", "a=b\n")).unwrap();
        assert_eq!((source, spec.count, spec.reserve, spec.name.unwrap().as_str()), (5, 10, 50, "w"));
        assert_eq!(spec.config.as_bytes(), b"a=b\n");
        assert_eq!(CloneSpec::parse(&request(1, 0, "", "")).unwrap().1.name, None);
    }

    /// Returns a request for clones with this UUID and these flags.
    fn special(count: u32, uuid: u8, flags: u32, reserved: u32) -> Option<CloneSpec> {
        let mut bytes = request(count, 0, "w", "");
        let (request, _) = CloneRequest::mut_from_prefix(&mut bytes).unwrap();
        request.uuid[15] = uuid;
        request.flags = flags.into();
        request.reserved = reserved.into();
        CloneSpec::parse(&bytes).map(|(_, spec)| spec)
    }

    #[test]
    fn one_clone_may_get_a_uuid_and_any_may_be_disconnected() {
        let spec = special(1, 9, CLONE_DISCONNECTED, 0).unwrap();
        assert_eq!((spec.uuid.map(|uuid| uuid[15]), spec.disconnected), (Some(9), true));
        let spec = special(2, 0, CLONE_DISCONNECTED, 0).unwrap();
        assert_eq!((spec.uuid, spec.disconnected), (None, true));
        assert_eq!((special(2, 9, 0, 0), special(1, 0, 2, 0), special(1, 0, 0, 1)), (None, None, None));
    }

    #[test]
    fn a_change_of_a_nic_is_read_back_or_refused() {
        let change = |segment: &[u8], vlan: u16, connected: u16, rate: u64| {
            let mut name = [0; 16];
            name[..segment.len()].copy_from_slice(segment);
            let (vlan, connected, rate) = (vlan.into(), connected.into(), rate.into());
            NicOrder::of(&NicChange {
                segment: name,
                vlan,
                connected,
                reserved: 0.into(),
                rate,
                vlans: Default::default(),
            })
        };
        let moved = change(b"lan", 7, 1, 1000).unwrap();
        let place = moved.place.map(|(segment, vlan, _)| (padded(&segment).map(str::to_owned), vlan));
        assert_eq!((place, moved.connected, moved.rate), (Some((Some("lan".into()), 7)), true, 1000));
        assert_eq!(change(b"", 9999, 0, 0), Some(NicOrder { place: None, connected: false, rate: 0 }));
        for bad in
            [change(b"a b", 0, 1, 0), change(b"lan", 4095, 1, 0), change(b"", 0, 2, 0), change(b"", 0, 1, 1 << 41)]
        {
            assert_eq!(bad, None);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            request(0, 0, "w", ""),
            request(1001, 0, "w", ""),
            request(1, 101, "w", ""),
            request(1, 0, "a/b", ""),
            request(1, 0, "w", "a"),
            request(1, 0, "w", "")[..size_of::<CloneRequest>() - 1].to_vec(),
        ] {
            assert_eq!(CloneSpec::parse(&bad), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some((_, spec)) = CloneSpec::parse(&bytes) {
                prop_assert!((1..=MAX_CLONES).contains(&spec.count) && spec.reserve <= RESERVE_ALL);
            }
        }
    }
}
