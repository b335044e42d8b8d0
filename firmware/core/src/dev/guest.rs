//! The Salp guest device ([`salp_hvc::device`]): a VM's identity for programs that cannot make calls, and what they tell. Before:
//! [`super::bus`]; after: [`crate::identity`], [`crate::agent`], and the VM, which freezes.

use crate::agent::SIZE;
use crate::identity::{Identity, half};
use crate::vgic::AccessSize;
use salp_hvc::calls::MAX_CONFIG;
use salp_hvc::device::{
    ACKNOWLEDGED, COMMAND, COMMAND_ACKNOWLEDGE, COMMAND_FREEZE, COMMAND_REPORT, CONFIG, CONFIG_LENGTH, EPOCH,
    GENERATION, INDEX, MAC, MAGIC, MAGIC_VALUE, NAME, RANDOM, REPORT, TIME, UUID, VERSION, VERSION_VALUE,
};

/// What the device reads that is not part of the identity.
pub trait World {
    /// Returns the wall-clock time, in nanoseconds since 1970.
    fn time(&mut self) -> u64;
    /// Returns random bits.
    fn random(&mut self) -> u64;
}

/// Returns what a load of `size` at `offset` gives; registers that are not there read zero.
pub fn read(identity: &Identity, world: &mut impl World, offset: u64, size: AccessSize) -> u64 {
    let register = offset & !7;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let word = match register {
        MAGIC => pair(MAGIC_VALUE, VERSION_VALUE),
        // COMMAND, which reads zero, and ACKNOWLEDGED.
        COMMAND => pair(0, identity.acknowledged.into()),
        INDEX => pair(identity.index, identity.epoch),
        CONFIG_LENGTH => identity.config.as_bytes().len() as u64,
        UUID => half(&identity.uuid, false),
        0x28 => half(&identity.uuid, true),
        GENERATION => half(&identity.generation, false),
        0x38 => half(&identity.generation, true),
        MAC => identity.mac_word(),
        TIME => world.time(),
        RANDOM => world.random(),
        NAME..0x80 => identity.name.word((register - NAME) as usize),
        CONFIG.. => identity.config.word((register - CONFIG) as usize),
        _ => 0,
    };
    let bits = 8 * size.bytes();
    let shifted = word >> (8 * (offset & 7));
    if bits == 64 { shifted } else { shifted & ((1 << bits) - 1) }
}

const _: () = assert!(VERSION == MAGIC + 4 && ACKNOWLEDGED == COMMAND + 4 && EPOCH == INDEX + 4);
const _: () = assert!(CONFIG as usize + MAX_CONFIG <= salp_hvc::device::SIZE as usize);

/// Where the registers of the report end.
const REPORT_END: u64 = REPORT + SIZE as u64;

/// What a store asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Freeze the VM when the store has completed.
    Freeze,
    /// The identity was taken on.
    Acknowledge,
    /// Take this word of the agent's next report, at this offset.
    Stage(u64, u32),
    /// Take the agent's report.
    Report,
}

/// Returns what a store at `offset` asks for. Other stores are ignored.
pub fn write(offset: u64, value: u64) -> Option<Command> {
    match (offset, value as u32) {
        (COMMAND, COMMAND_FREEZE) => Some(Command::Freeze),
        (COMMAND, COMMAND_ACKNOWLEDGE) => Some(Command::Acknowledge),
        (COMMAND, COMMAND_REPORT) => Some(Command::Report),
        (REPORT..REPORT_END, word) => Some(Command::Stage(offset - REPORT, word)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Config, Name};

    struct Still;
    impl World for Still {
        fn time(&mut self) -> u64 {
            0x1122_3344_5566_7788
        }
        fn random(&mut self) -> u64 {
            u64::MAX
        }
    }

    fn identity() -> Identity {
        let config = Config::new(b"role=worker\n").unwrap();
        Identity::of_clone(Name::new(b"web-1").unwrap(), &core::array::from_fn(|n| n as u8), 3, 0, &config)
    }

    fn bytes(start: u64, length: u64, size: AccessSize) -> Vec<u8> {
        let step = size.bytes();
        (start..start + length)
            .step_by(step as usize)
            .flat_map(|at| read(&identity(), &mut Still, at, size).to_le_bytes()[..step as usize].to_vec())
            .collect()
    }

    #[test]
    fn every_access_size_reads_the_same_bytes() {
        let all = bytes(0, salp_hvc::device::SIZE, AccessSize::Byte);
        for size in [AccessSize::Half, AccessSize::Word, AccessSize::Double] {
            assert_eq!(bytes(0, salp_hvc::device::SIZE, size), all);
        }
        let part = |start: u64, length: usize| &all[start as usize..start as usize + length];
        assert_eq!(part(MAGIC, 4), b"SALP");
        assert_eq!(part(NAME, 6), b"web-1\0");
        assert_eq!(part(CONFIG, 13), b"role=worker\n\0");
        assert_eq!(part(UUID, 16), identity().uuid);
        assert_eq!(part(GENERATION, 16), identity().generation);
        assert_eq!(part(MAC, 6), identity().mac());
        assert_eq!((part(INDEX, 1)[0], part(EPOCH, 1)[0], part(ACKNOWLEDGED, 1)[0]), (3, 1, 0));
        assert_eq!(part(CONFIG_LENGTH, 1)[0], 12);
    }

    #[test]
    fn only_known_commands_and_the_report_do_something() {
        assert_eq!(write(COMMAND, 1), Some(Command::Freeze));
        assert_eq!(write(COMMAND, 2), Some(Command::Acknowledge));
        assert_eq!(write(COMMAND, 3), Some(Command::Report));
        assert_eq!(write(REPORT + 4, 7), Some(Command::Stage(4, 7)));
        for (offset, value) in
            [(COMMAND, 0), (COMMAND, 4), (REPORT_END, 1), (REPORT - 4, 1), (MAGIC, 1), (COMMAND + 1, 1), (0xfff, 1)]
        {
            assert_eq!(write(offset, value), None);
        }
    }
}
