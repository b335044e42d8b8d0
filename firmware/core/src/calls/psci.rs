//! Power State Coordination Interface 1.1, as a guest sees it (DEN0022). Before: [`super::dispatch`]; after: the VM, which
//! carries the [`Action`] out.
//!
//! [`Power`] is plain data, changed under the VM's lock: that orders the races that DEN0022 describes. A vCPU that is
//! being turned on is ON_PENDING from the call until it enters the guest ([`Power::started`]).

use super::{Action, NOT_SUPPORTED};
use crate::vgic::MAX_VCPUS;
use core::ops::Range;
use salp_hvc::handover;

const INVALID_PARAMETERS: u64 = -2i64 as u64;
const DENIED: u64 = -3i64 as u64;
const ALREADY_ON: u64 = -4i64 as u64;
const ON_PENDING: u64 = -5i64 as u64;
const INVALID_ADDRESS: u64 = -9i64 as u64;
const SUCCESS: u64 = 0;

/// PSCI_VERSION: 1.1.
const VERSION: u64 = 0x1_0001;
/// MIGRATE_INFO_TYPE: there is no Trusted OS, or it does not need migration.
const MIGRATION_NOT_REQUIRED: u64 = 2;

// Function identifiers without bit 30, which says that the arguments are 64 bits wide (DEN0022 5.1).
const SMC64: u32 = 1 << 30;
const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_FEATURES: u32 = 0x8400_000a;
const SYSTEM_SUSPEND: u32 = 0x8400_000e;
const SYSTEM_RESET2: u32 = 0x8400_0012;

/// Every function, and whether it has a form with 64-bit arguments.
const FUNCTIONS: [(u32, bool); 11] = [
    (PSCI_VERSION, false),
    (CPU_SUSPEND, true),
    (CPU_OFF, false),
    (CPU_ON, true),
    (AFFINITY_INFO, true),
    (MIGRATE_INFO_TYPE, false),
    (SYSTEM_OFF, false),
    (SYSTEM_RESET, false),
    (PSCI_FEATURES, false),
    (SYSTEM_SUSPEND, true),
    (SYSTEM_RESET2, true),
];

/// Returns true for functions of this service: owner 4, numbers 0 to 0x1f.
pub const fn owns(id: u32) -> bool {
    id & !SMC64 & !0x1f == PSCI_VERSION
}

/// Returns true if the function exists, in the form that bit 30 of `id` says.
pub fn is_implemented(id: u32) -> bool {
    FUNCTIONS.iter().any(|&(function, wide)| function == id & !SMC64 && (wide || id & SMC64 == 0))
}

/// Where a vCPU that was without power starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first instruction, a guest physical address in RAM.
    pub pc: u64,
    /// Its x0.
    pub context: u64,
}

/// The power state of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PowerState {
    /// Without power.
    #[default]
    Off,
    /// Somebody has turned it on; it has not started yet.
    OnPending(Entry),
    /// It runs, or could.
    On,
    /// It waits for an interrupt. After a powerdown state it starts at the entry, after standby it returns.
    Suspended(Option<Entry>),
}

/// How a suspended vCPU goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Set x0 to 0 and go on after the call.
    Return,
    /// Reset the vCPU and start it here.
    Start(Entry),
}

/// The power states of a VM's vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    states: [PowerState; MAX_VCPUS],
    vcpus: usize,
}

impl Power {
    /// Returns the states of a VM that starts: vCPU 0 is on. More than [`MAX_VCPUS`] are cut to that.
    pub fn new(vcpus: usize) -> Self {
        let mut states = [PowerState::Off; MAX_VCPUS];
        states[0] = PowerState::On;
        Self { states, vcpus: vcpus.clamp(1, MAX_VCPUS) }
    }

    /// Returns the number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.vcpus
    }

    /// Returns the state of a vCPU; one that is not there is off.
    pub fn state(&self, vcpu: usize) -> PowerState {
        self.states.get(vcpu).copied().unwrap_or_default()
    }

    /// Restores the state of a vCPU from a record. Returns false, and changes nothing, if there is no such vCPU.
    pub fn restore(&mut self, vcpu: usize, state: PowerState) -> bool {
        let known = vcpu < self.vcpus;
        if known {
            self.set(vcpu, state);
        }
        known
    }

    /// Returns what a hand-over has of them.
    pub fn record(&self) -> handover::Power {
        let state = |state: &PowerState| {
            let with = |code, entry: Entry| [code, entry.pc, entry.context];
            match *state {
                PowerState::Off => [0; 3],
                PowerState::OnPending(entry) => with(1, entry),
                PowerState::On => [2, 0, 0],
                PowerState::Suspended(None) => [3, 0, 0],
                PowerState::Suspended(Some(entry)) => with(4, entry),
            }
        };
        handover::Power::new(self.states.each_ref().map(state))
    }

    /// Returns the states of so many vCPUs in a record. `None` if there is no such state, or one that is not there is on.
    pub fn restored(vcpus: usize, record: &handover::Power) -> Option<Self> {
        let mut this = Self { states: [PowerState::Off; MAX_VCPUS], vcpus: vcpus.clamp(1, MAX_VCPUS) };
        for (vcpu, &[code, pc, context]) in record.states.iter().enumerate() {
            let entry = Entry { pc, context };
            let state = match code {
                0 => continue,
                1 => PowerState::OnPending(entry),
                2 => PowerState::On,
                3 => PowerState::Suspended(None),
                4 => PowerState::Suspended(Some(entry)),
                _ => return None,
            };
            if !this.restore(vcpu, state) {
                return None;
            }
        }
        Some(this)
    }

    /// Returns true if no vCPU is on, suspended, or about to be on.
    pub fn all_off(&self) -> bool {
        self.states.iter().all(|state| *state == PowerState::Off)
    }

    /// Tells that a vCPU enters the guest for the first time since it was turned on. Returns where, or `None` if it was
    /// not pending.
    pub fn started(&mut self, vcpu: usize) -> Option<Entry> {
        match self.state(vcpu) {
            PowerState::OnPending(entry) => {
                self.set(vcpu, PowerState::On);
                Some(entry)
            }
            _ => None,
        }
    }

    /// Tells that an interrupt is pending for a suspended vCPU. Returns how it goes on, or `None` if it was not suspended.
    pub fn wake(&mut self, vcpu: usize) -> Option<Wake> {
        match self.state(vcpu) {
            PowerState::Suspended(entry) => {
                self.set(vcpu, PowerState::On);
                Some(entry.map_or(Wake::Return, Wake::Start))
            }
            _ => None,
        }
    }

    fn set(&mut self, vcpu: usize, state: PowerState) {
        if let Some(slot) = self.states.iter_mut().take(self.vcpus).nth(vcpu) {
            *slot = state;
        }
    }

    /// Carries out a function that [`owns`] says is ours, called by vCPU `caller`. A vCPU may start only inside `ram`.
    pub fn call(&mut self, id: u32, args: [u64; 3], caller: usize, ram: &Range<u64>) -> Action {
        if !is_implemented(id) {
            return Action::Return(NOT_SUPPORTED);
        }
        // SMC32 takes its arguments from w1 to w3.
        let [a, b, c] = if id & SMC64 != 0 { args } else { args.map(|arg| arg & 0xffff_ffff) };
        match id & !SMC64 {
            PSCI_VERSION => Action::Return(VERSION),
            CPU_SUSPEND => self.cpu_suspend(a, entry(b, c, ram), caller),
            CPU_OFF => {
                self.set(caller, PowerState::Off);
                Action::TurnOff
            }
            CPU_ON => self.cpu_on(a, entry(b, c, ram)),
            AFFINITY_INFO => Action::Return(self.affinity_info(a, b as u32)),
            MIGRATE_INFO_TYPE => Action::Return(MIGRATION_NOT_REQUIRED),
            SYSTEM_OFF => Action::SystemOff,
            SYSTEM_RESET => Action::SystemReset,
            PSCI_FEATURES => Action::Return(features(a as u32)),
            SYSTEM_SUSPEND => self.system_suspend(entry(a, b, ram), caller),
            // Only the architectural SYSTEM_WARM_RESET; vendor resets have bit 31 (DEN0022 5.1.12).
            SYSTEM_RESET2 if a as u32 == 0 => Action::SystemReset,
            _ => Action::Return(INVALID_PARAMETERS),
        }
    }

    fn cpu_on(&mut self, mpidr: u64, entry: Option<Entry>) -> Action {
        let Some(vcpu) = self.vcpu_of(mpidr) else { return Action::Return(INVALID_PARAMETERS) };
        let Some(entry) = entry else { return Action::Return(INVALID_ADDRESS) };
        match self.state(vcpu) {
            PowerState::On | PowerState::Suspended(_) => Action::Return(ALREADY_ON),
            PowerState::OnPending(_) => Action::Return(ON_PENDING),
            PowerState::Off => {
                self.set(vcpu, PowerState::OnPending(entry));
                Action::TurnOn { vcpu, entry: entry.pc, context: entry.context }
            }
        }
    }

    fn affinity_info(&self, mpidr: u64, lowest_level: u32) -> u64 {
        let number = |state| match state {
            PowerState::On | PowerState::Suspended(_) => 0,
            PowerState::Off => 1,
            PowerState::OnPending(_) => 2,
        };
        match lowest_level {
            0 => self.vcpu_of(mpidr).map_or(INVALID_PARAMETERS, |vcpu| number(self.state(vcpu))),
            // All vCPUs are in cluster 0.0.0. It is on if one of them is, off if all are (DEN0022 5.7).
            level @ 1..=3 => {
                let shift = if level == 3 { 32 } else { 8 * level };
                if mpidr & !MPIDR_AFFINITY != 0 || mpidr >> shift != 0 {
                    return INVALID_PARAMETERS;
                }
                let states = || self.states.iter().take(self.vcpus);
                [0, 2].into_iter().find(|n| states().any(|state| number(*state) == *n)).unwrap_or(1)
            }
            _ => INVALID_PARAMETERS,
        }
    }

    /// The original format of power_state: StateID 15:0, StateType bit 16, PowerLevel 25:24 (DEN0022 5.4.2). Every
    /// StateID of level 0 is taken: a VM's states differ in nothing but whether the context is kept.
    fn cpu_suspend(&mut self, power_state: u64, entry: Option<Entry>, caller: usize) -> Action {
        const POWERDOWN: u32 = 1 << 16;
        if power_state as u32 & !(POWERDOWN | 0xffff) != 0 {
            return Action::Return(INVALID_PARAMETERS);
        }
        if power_state as u32 & POWERDOWN == 0 {
            self.set(caller, PowerState::Suspended(None));
            return Action::Suspend;
        }
        self.power_down(entry, caller)
    }

    fn system_suspend(&mut self, entry: Option<Entry>, caller: usize) -> Action {
        let others_off = (0..self.vcpus).all(|vcpu| vcpu == caller || self.state(vcpu) == PowerState::Off);
        if others_off { self.power_down(entry, caller) } else { Action::Return(DENIED) }
    }

    fn power_down(&mut self, entry: Option<Entry>, caller: usize) -> Action {
        match entry {
            Some(entry) => {
                self.set(caller, PowerState::Suspended(Some(entry)));
                Action::Suspend
            }
            None => Action::Return(INVALID_ADDRESS),
        }
    }

    fn vcpu_of(&self, mpidr: u64) -> Option<usize> {
        // The other bits must be zero, Aff1 to Aff3 are zero for every vCPU.
        usize::try_from(mpidr).ok().filter(|vcpu| *vcpu < self.vcpus)
    }
}

const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

fn entry(pc: u64, context: u64, ram: &Range<u64>) -> Option<Entry> {
    // Bit 0 would ask for a T32 entry: EL1 is AArch64.
    (ram.contains(&pc) && pc.is_multiple_of(4)).then_some(Entry { pc, context })
}

fn features(id: u32) -> u64 {
    // CPU_SUSPEND: original format of power_state, platform coordinated. SYSTEM_RESET2: no flags.
    if is_implemented(id) || id == super::arch::SMCCC_VERSION { SUCCESS } else { NOT_SUPPORTED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::tests::{Random, rounds};

    const RAM: Range<u64> = 0x4000_0000..0x8000_0000;
    const ENTRY: u64 = 0x4008_0000;

    fn call(power: &mut Power, caller: usize, id: u32, args: [u64; 3]) -> Action {
        power.call(id, args, caller, &RAM)
    }

    #[test]
    fn linux_asks_who_we_are() {
        let power = &mut Power::new(2);
        assert_eq!(call(power, 0, 0x8400_0000, [0; 3]), Action::Return(0x10001));
        assert_eq!(call(power, 0, 0x8400_0006, [0; 3]), Action::Return(2));
        for there in [0x8400_0001, 0xc400_0001, 0xc400_0003, 0xc400_0004, 0x8400_000e, 0x8400_0012, 0x8000_0000] {
            assert_eq!(call(power, 0, PSCI_FEATURES, [there, 0, 0]), Action::Return(0), "{there:#x}");
        }
        for absent in [0xc400_0002, 0xc400_0005, 0x8400_0007, 0x8400_000b, 0x8400_000f, 0x8400_0013, 0x8400_0015, 7] {
            assert_eq!(call(power, 0, PSCI_FEATURES, [absent, 0, 0]), Action::Return(NOT_SUPPORTED), "{absent:#x}");
        }
        assert_eq!(call(power, 0, 0xc400_0002, [0; 3]), Action::Return(NOT_SUPPORTED), "CPU_OFF has no 64-bit form");
    }

    #[test]
    fn a_vcpu_is_turned_on_once() {
        let power = &mut Power::new(2);
        let on = |power: &mut Power| call(power, 0, 0xc400_0003, [1, ENTRY, 42]);
        let info = |power: &mut Power| call(power, 0, 0xc400_0004, [1, 0, 0]);
        assert_eq!(info(power), Action::Return(1));
        assert_eq!(on(power), Action::TurnOn { vcpu: 1, entry: ENTRY, context: 42 });
        assert_eq!((info(power), on(power)), (Action::Return(2), Action::Return(ON_PENDING)));
        assert_eq!(power.started(1), Some(Entry { pc: ENTRY, context: 42 }));
        assert_eq!(power.started(1), None);
        assert_eq!((info(power), on(power)), (Action::Return(0), Action::Return(ALREADY_ON)));
        assert_eq!(call(power, 1, 0x8400_0002, [0; 3]), Action::TurnOff);
        assert_eq!(info(power), Action::Return(1));
        assert!(matches!(on(power), Action::TurnOn { .. }));
        assert!(!power.all_off());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let power = &mut Power::new(2);
        for mpidr in [2, 7, 8, 0x100, 0x1_0000_0001, 0x8000_0001, u64::MAX] {
            assert_eq!(
                call(power, 0, 0xc400_0003, [mpidr, ENTRY, 0]),
                Action::Return(INVALID_PARAMETERS),
                "{mpidr:#x}"
            );
            assert_eq!(call(power, 0, 0xc400_0004, [mpidr, 0, 0]), Action::Return(INVALID_PARAMETERS));
        }
        for pc in [0, 0x3fff_fffc, 0x8000_0000, u64::MAX, ENTRY + 1, ENTRY + 2] {
            assert_eq!(call(power, 0, 0xc400_0003, [1, pc, 0]), Action::Return(INVALID_ADDRESS), "{pc:#x}");
        }
        assert_eq!(call(power, 0, 0xc400_0004, [0, 4, 0]), Action::Return(INVALID_PARAMETERS));
        assert_eq!(call(power, 0, 0x8400_0012, [1, 0, 0]), Action::Return(INVALID_PARAMETERS));
        assert_eq!(call(power, 0, 0x8400_0012, [0x8000_0000, 0, 0]), Action::Return(INVALID_PARAMETERS));
    }

    #[test]
    fn the_32_bit_forms_see_32_bits() {
        let power = &mut Power::new(2);
        let junk = 0xdead_beef << 32;
        let on = call(power, 0, 0x8400_0003, [1 | junk, ENTRY | junk, 5 | junk]);
        assert_eq!(on, Action::TurnOn { vcpu: 1, entry: ENTRY, context: 5 });
        assert_eq!(call(power, 0, 0x8400_0004, [1 | junk, junk, 0]), Action::Return(2));
    }

    #[test]
    fn a_cluster_is_on_while_one_of_its_vcpus_is() {
        let power = &mut Power::new(2);
        let cluster = |power: &mut Power, level| call(power, 0, 0xc400_0004, [0xff, level, 0]);
        assert_eq!(cluster(power, 1), Action::Return(0));
        assert_eq!(call(power, 0, 0xc400_0004, [0x100, 1, 0]), Action::Return(INVALID_PARAMETERS));
        assert_eq!(call(power, 0, 0xc400_0004, [0x100, 2, 0]), Action::Return(0));
        assert_eq!(call(power, 0, 0xc400_0004, [0x1_0000_0000, 3, 0]), Action::Return(INVALID_PARAMETERS));
        call(power, 0, 0xc400_0003, [1, ENTRY, 0]);
        power.restore(0, PowerState::Off);
        assert_eq!(cluster(power, 3), Action::Return(2));
        power.restore(1, PowerState::Off);
        assert_eq!(cluster(power, 3), Action::Return(1));
    }

    #[test]
    fn suspend_to_standby_returns_and_powerdown_starts_anew() {
        let power = &mut Power::new(2);
        assert_eq!(call(power, 0, 0x8400_0001, [0x1234, 0, 0]), Action::Suspend);
        assert_eq!(call(power, 0, 0xc400_0004, [0, 0, 0]), Action::Return(0), "suspended is on");
        assert_eq!((power.wake(0), power.wake(0)), (Some(Wake::Return), None));
        assert_eq!(call(power, 0, 0xc400_0001, [0x1_0000, ENTRY, 9]), Action::Suspend);
        assert_eq!(power.wake(0), Some(Wake::Start(Entry { pc: ENTRY, context: 9 })));
        assert_eq!(call(power, 0, 0xc400_0001, [0x1_0000, 0, 9]), Action::Return(INVALID_ADDRESS));
        assert_eq!(call(power, 0, 0xc400_0001, [0x4000_0000, ENTRY, 9]), Action::Return(INVALID_PARAMETERS));
        assert_eq!(call(power, 0, 0xc400_0001, [0x0100_0000, ENTRY, 9]), Action::Return(INVALID_PARAMETERS));
        assert_eq!(power.state(0), PowerState::On);
    }

    #[test]
    fn the_system_suspends_when_the_others_are_off() {
        let power = &mut Power::new(2);
        call(power, 0, 0xc400_0003, [1, ENTRY, 0]);
        assert_eq!(call(power, 0, 0xc400_000e, [ENTRY, 3, 0]), Action::Return(DENIED));
        power.started(1);
        call(power, 1, CPU_OFF, [0; 3]);
        assert_eq!(call(power, 0, 0xc400_000e, [ENTRY, 3, 0]), Action::Suspend);
        assert_eq!(power.wake(0), Some(Wake::Start(Entry { pc: ENTRY, context: 3 })));
    }

    /// The slow model: each vCPU is a word, and what DEN0022 says is written down case by case.
    #[test]
    fn races_of_four_vcpus_follow_the_model() {
        let mut random = Random(3);
        let mut power = Power::new(4);
        let mut model = ["on", "off", "off", "off"];
        for _ in 0..rounds(100_000) {
            let (me, other) = (random.below(4) as usize, random.below(4) as usize);
            match random.below(5) {
                0 if model[me] == "on" => {
                    let expected = match model[other] {
                        "off" => Action::TurnOn { vcpu: other, entry: ENTRY, context: 1 },
                        "pending" => Action::Return(ON_PENDING),
                        _ => Action::Return(ALREADY_ON),
                    };
                    assert_eq!(call(&mut power, me, 0xc400_0003, [other as u64, ENTRY, 1]), expected);
                    if model[other] == "off" {
                        model[other] = "pending";
                    }
                }
                1 if model[me] == "on" => {
                    assert_eq!(call(&mut power, me, CPU_OFF, [0; 3]), Action::TurnOff);
                    model[me] = "off";
                }
                2 => {
                    assert_eq!(power.started(me).is_some(), model[me] == "pending");
                    if model[me] == "pending" {
                        model[me] = "on";
                    }
                }
                3 if model[me] == "on" => {
                    assert_eq!(call(&mut power, me, CPU_SUSPEND, [0; 3]), Action::Suspend);
                    model[me] = "suspended";
                }
                _ => {
                    assert_eq!(power.wake(me).is_some(), model[me] == "suspended");
                    if model[me] == "suspended" {
                        model[me] = "on";
                    }
                }
            }
            let info = match model[other] {
                "off" => 1,
                "pending" => 2,
                _ => 0,
            };
            assert_eq!(call(&mut power, 0, AFFINITY_INFO, [other as u64, 0, 0]), Action::Return(info));
            assert_eq!(power.all_off(), model == ["off"; 4]);
            if power.all_off() {
                power.restore(0, PowerState::On);
                model[0] = "on";
            }
        }
    }
}
