//! Calls that every VM may make: freeze me, who am I, what was I told, this is how I am ([`salp_hvc::calls`]). Before:
//! [`super::vendor`]; after: [`crate::identity`], [`crate::agent`], and the VM, which freezes.

use super::{Action, NOT_SUPPORTED};
use crate::addr::Ipa;
use crate::identity::{Identity, half};
use salp_hvc::agent::AGENT;
use salp_hvc::calls::{
    ACKNOWLEDGE, CONFIG, FREEZE, IDENTITY, IDENTITY_GENERATION, IDENTITY_MAC, IDENTITY_NAME, IDENTITY_UUID,
};
use salp_hvc::status;

/// Returns true for the functions of this service.
pub const fn owns(id: u32) -> bool {
    matches!(id, FREEZE | IDENTITY | CONFIG | ACKNOWLEDGE | AGENT)
}

/// Answers a function of this service; `argument` is x1.
pub fn call(id: u32, argument: u64, identity: &mut Identity) -> Action {
    match id {
        FREEZE => Action::Freeze,
        AGENT => Action::Report(Ipa(argument)),
        IDENTITY => match argument {
            IDENTITY_UUID => words([half(&identity.uuid, false), half(&identity.uuid, true), 0, 0]),
            IDENTITY_GENERATION => words([half(&identity.generation, false), half(&identity.generation, true), 0, 0]),
            IDENTITY_MAC => {
                words([identity.mac_word(), identity.index.into(), identity.epoch.into(), identity.acknowledged.into()])
            }
            IDENTITY_NAME => words(core::array::from_fn(|n| identity.name.word(8 * n))),
            _ => Action::Return(status::INVALID as u64),
        },
        CONFIG => {
            let length = identity.config.as_bytes().len() as u64;
            let part = |n: usize| {
                let at = usize::try_from(argument).ok().and_then(|start| start.checked_add(8 * n));
                at.map_or(0, |at| identity.config.word(at))
            };
            Action::Return8([0, length, part(0), part(1), part(2), part(3), part(4), part(5)])
        }
        ACKNOWLEDGE => {
            identity.acknowledged = true;
            Action::Return(0)
        }
        _ => Action::Return(NOT_SUPPORTED),
    }
}

fn words([a, b, c, d]: [u64; 4]) -> Action {
    Action::Return8([0, a, b, c, d, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Config, Name};

    fn answer(id: u32, argument: u64) -> [u64; 8] {
        let config = Config::new(b"role=worker\n").unwrap();
        let mut clone = Identity::of_clone(Name::new(b"web-1").unwrap(), &[7; 32], 3, 4, &config);
        match call(id, argument, &mut clone) {
            Action::Return8(words) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_clone_learns_who_it_is() {
        assert_eq!(answer(IDENTITY, IDENTITY_MAC)[2..5], [3, 5, 0]);
        assert_eq!(answer(IDENTITY, IDENTITY_NAME)[1].to_le_bytes(), *b"web-1\0\0\0");
        assert_ne!(answer(IDENTITY, IDENTITY_UUID), answer(IDENTITY, IDENTITY_GENERATION));
    }

    #[test]
    fn configuration_is_read_in_parts() {
        let words = answer(CONFIG, 0);
        assert_eq!((words[1], words[2].to_le_bytes()), (12, *b"role=wor"));
        assert_eq!(answer(CONFIG, 8)[2].to_le_bytes(), *b"ker\n\0\0\0\0");
        for beyond in [12, 1024, u64::MAX - 3, u64::MAX] {
            assert_eq!(answer(CONFIG, beyond), [0, 12, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn acknowledging_is_remembered_and_a_report_is_read_by_the_machine() {
        let mut identity = Identity::of_clone(Name::new(b"a").unwrap(), &[0; 32], 1, 0, &Config::EMPTY);
        assert_eq!(call(ACKNOWLEDGE, 0, &mut identity), Action::Return(0));
        assert!(identity.acknowledged);
        assert_eq!(call(AGENT, 0x4000_1000, &mut identity), Action::Report(Ipa(0x4000_1000)));
        assert_eq!(call(IDENTITY, 99, &mut identity), Action::Return(status::INVALID as u64));
    }
}
