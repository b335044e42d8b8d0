//! Management calls ([`salp_hvc::calls`]): what a manager asks for, taken out of its registers and memory and checked.
//! Before: [`super::vendor`]; after: the machine, which carries a [`Request`] out.

use super::life;
use crate::addr::Ipa;
use crate::identity::{Config, Name};
use salp_hvc::calls::{
    CloneRequest, MACHINE, MAX_CLONES, MAX_CONFIG, NAME, RESERVE_ALL, VM_CLONE, VM_DESTROY, VM_FREEZE, VM_MEMORY,
    VM_NEXT, VM_REVERT, VM_SNAPSHOT, VM_UNFREEZE,
};
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
    /// Do this for the manager's own life, or for a VM's console or power button.
    Life(life::Request),
}

/// Returns what a management call asks for, or `None` if there is no such call.
pub const fn decode(id: u32, args: [u64; 4]) -> Option<Request> {
    let [a, b, ..] = args;
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
        _ => match life::decode(id, args) {
            Some(request) => Request::Life(request),
            None => return None,
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
    /// What they are told.
    pub config: Config,
}

impl CloneSpec {
    /// Returns what to clone and how, from a record with the configuration behind it. `None` if it makes no sense.
    pub fn parse(bytes: &[u8]) -> Option<(u64, Self)> {
        let (request, config) = CloneRequest::ref_from_prefix(bytes).ok()?;
        let name = if request.name == [0; NAME] { None } else { Some(Name::from_padded(&request.name)?) };
        let spec =
            Self { count: request.count.get(), reserve: request.reserve.get(), name, config: Config::new(config)? };
        // They have a meaning for one clone, or later.
        if request.uuid != [0; 16] || request.flags.get() != 0 || request.reserved.get() != 0 {
            return None;
        }
        ((1..=MAX_CLONES).contains(&spec.count) && spec.reserve <= RESERVE_ALL).then_some((request.source.get(), spec))
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
