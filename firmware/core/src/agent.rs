//! What a guest's agent has told, checked ([`salp_hvc::agent`]). Before: [`crate::dev::guest`] and [`crate::calls::guest`], by
//! which it tells; after: managers, who ask.

use crate::addr::Pa;
use salp_hvc::agent::{AGENT_APPLICATION, AGENT_VERSION, AGENT_WATCHES, AgentInfo, AgentReport};
use salp_hvc::handover;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The size of a report, in bytes.
pub const SIZE: usize = size_of::<AgentReport>();

/// Which guest tells: how often its VM got an identity, and in which of its lives it is. A report of another one is void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Teller {
    /// The identity's epoch.
    pub epoch: u32,
    /// The VM's life.
    pub life: u32,
}

/// The agent of a VM.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What was written so far, for the next report.
    staged: [u8; SIZE],
    report: AgentReport,
    teller: Teller,
    heartbeats: u64,
    /// When it told last, and when it told last that the application lives; in nanoseconds.
    told: u64,
    lived: Option<u64>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            staged: [0; SIZE],
            report: AgentReport::new_zeroed(),
            teller: Teller::default(),
            heartbeats: 0,
            told: 0,
            lived: None,
        }
    }
}

impl Agent {
    /// Takes a word of the next report; what lies outside of it is ignored.
    pub fn stage(&mut self, offset: u64, value: u32) {
        let place = usize::try_from(offset).ok().filter(|place| place.is_multiple_of(4));
        let place = place.and_then(|place| self.staged.get_mut(place..)?.first_chunk_mut());
        if let Some(place) = place {
            *place = value.to_le_bytes();
        }
    }

    /// Takes what was staged as a report, if it makes sense.
    pub fn report_staged(&mut self, teller: Teller, now: u64) -> bool {
        let staged = self.staged;
        self.report(&staged, teller, now)
    }

    /// Takes a report, if it makes sense.
    pub fn report(&mut self, bytes: &[u8; SIZE], teller: Teller, now: u64) -> bool {
        let Some(report) = parse(bytes) else { return false };
        if self.teller != teller {
            (self.heartbeats, self.lived) = (0, None);
        }
        self.heartbeats += 1;
        (self.report, self.teller, self.told) = (report, teller, now);
        if report.flags.get() & AGENT_APPLICATION != 0 {
            self.lived = Some(now);
        }
        true
    }

    /// Returns what is known of the guest that the VM is now.
    pub fn info(&self, teller: Teller, now: u64) -> AgentInfo {
        let mut info = AgentInfo::new_zeroed();
        if self.teller == teller && self.heartbeats > 0 {
            info.report = self.report;
            info.heartbeats = self.heartbeats.into();
            info.age = now.saturating_sub(self.told).into();
            info.application_age = self.lived.map_or(u64::MAX, |lived| now.saturating_sub(lived)).into();
        }
        info
    }
}

impl Agent {
    /// Returns what a hand-over has of it, in this frame. What is staged is lost: the agent tells again.
    pub fn record(&self, frame: Pa) -> handover::Agent {
        handover::Agent {
            frame: frame.0,
            heartbeats: self.heartbeats,
            told: self.told,
            lived: self.lived.unwrap_or(u64::MAX),
            teller: [self.teller.epoch, self.teller.life],
            report: self.report,
            ..handover::Agent::new_zeroed()
        }
    }

    /// Returns the agent in a record. `None` if none tells that.
    pub fn restored(record: &handover::Agent) -> Option<Self> {
        let is_silent = record.heartbeats == 0;
        let report =
            if is_silent { AgentReport::new_zeroed() } else { parse(record.report.as_bytes().first_chunk()?)? };
        let [epoch, life] = record.teller;
        Some(Self {
            report,
            teller: Teller { epoch, life },
            heartbeats: record.heartbeats,
            told: record.told,
            lived: Some(record.lived).filter(|&lived| lived != u64::MAX),
            ..Self::default()
        })
    }
}

/// Returns the report that these bytes are, if they make sense.
fn parse(bytes: &[u8; SIZE]) -> Option<AgentReport> {
    let report = AgentReport::read_from_bytes(bytes).ok()?;
    let flags = report.flags.get();
    let length = report.host_name.iter().position(|&byte| byte == 0)?;
    let (name, padding) = report.host_name.split_at_checked(length)?;
    let is_sound = report.version.get() == AGENT_VERSION
        && flags & !(AGENT_WATCHES | AGENT_APPLICATION) == 0
        && flags != AGENT_APPLICATION
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
        && padding.iter().all(|&byte| byte == 0)
        && report.nics.iter().all(|nic| nic.reserved.get() == 0);
    is_sound.then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Teller = Teller { epoch: 1, life: 0 };

    fn report(name: &str, flags: u32) -> [u8; SIZE] {
        let mut report = AgentReport::new_zeroed();
        (report.version, report.flags) = (AGENT_VERSION.into(), flags.into());
        report.host_name[..name.len()].copy_from_slice(name.as_bytes());
        report.nics[0].ipv4 = [10, 0, 0, 5];
        report.as_bytes().try_into().unwrap()
    }

    #[test]
    fn a_manager_reads_what_an_agent_told_and_how_long_ago() {
        let mut agent = Agent::default();
        assert_eq!(agent.info(ONE, 5), AgentInfo::new_zeroed());
        assert!(agent.report(&report("web-1.lan", AGENT_WATCHES | AGENT_APPLICATION), ONE, 10));
        assert!(agent.report(&report("web-1.lan", AGENT_WATCHES), ONE, 30));
        let info = agent.info(ONE, 100);
        assert_eq!((info.heartbeats.get(), info.age.get(), info.application_age.get()), (2, 70, 90));
        assert_eq!((&info.report.host_name[..10], info.report.nics[0].ipv4), (&b"web-1.lan\0"[..], [10, 0, 0, 5]));
    }

    #[test]
    fn an_agent_outlives_a_hand_over() {
        let mut agent = Agent::default();
        assert!(agent.report(&report("web", AGENT_WATCHES | AGENT_APPLICATION), ONE, 10));
        let mut record = agent.record(Pa(0x1000));
        let restored = Agent::restored(&record).unwrap();
        assert_eq!(restored.info(ONE, 100), agent.info(ONE, 100));
        record.report.host_name[0] = b'/';
        assert!(Agent::restored(&record).is_none());
    }

    #[test]
    fn words_that_are_staged_are_a_report_when_they_are_complete() {
        let mut agent = Agent::default();
        assert!(!agent.report_staged(ONE, 1), "nothing was written");
        for (index, word) in report("web", 0).chunks_exact(4).enumerate() {
            agent.stage(4 * index as u64, u32::from_le_bytes(word.try_into().unwrap()));
        }
        for outside in [SIZE as u64, 2, u64::MAX, u64::MAX - 3] {
            agent.stage(outside, u32::MAX);
        }
        assert!(agent.report_staged(ONE, 1) && agent.report_staged(ONE, 2));
        assert_eq!(agent.info(ONE, 2).heartbeats.get(), 2);
        assert_eq!(agent.info(ONE, 2).application_age.get(), u64::MAX);
    }

    #[test]
    fn a_report_is_void_for_another_identity_and_another_life() {
        let mut agent = Agent::default();
        assert!(agent.report(&report("old", AGENT_WATCHES | AGENT_APPLICATION), ONE, 1));
        for other in [Teller { epoch: 2, ..ONE }, Teller { life: 1, ..ONE }] {
            assert_eq!(agent.info(other, 2), AgentInfo::new_zeroed());
            let mut agent = agent.clone();
            assert!(agent.report(&report("new", AGENT_WATCHES), other, 3));
            let info = agent.info(other, 4);
            assert_eq!((info.heartbeats.get(), info.application_age.get()), (1, u64::MAX));
        }
    }

    #[test]
    fn nonsense_is_ignored() {
        let mut agent = Agent::default();
        let changed = |at: usize, byte: u8| {
            let mut bytes = report("web", 0);
            bytes[at] = byte;
            bytes
        };
        // Another version, unknown flags, an application that nobody looks after, control characters, no padding, no end.
        for (at, byte) in [(0, 2), (4, 4), (4, 2), (8, 10), (12, b'x'), (78, 1)] {
            assert!(!agent.report(&changed(at, byte), ONE, 1), "{at}");
        }
        assert!(!agent.report(&report(&"x".repeat(64), 0), ONE, 1));
        assert_eq!(agent.info(ONE, 1), AgentInfo::new_zeroed());
    }

    proptest! {
        #[test]
        fn any_words_are_a_report_or_ignored(words in proptest::collection::vec((any::<u64>(), any::<u32>()), 0..100)) {
            let mut agent = Agent::default();
            for (offset, value) in words {
                agent.stage(offset % 256, value);
                let is_taken = agent.report_staged(ONE, 1);
                let name = agent.info(ONE, 1).report.host_name;
                prop_assert!(is_taken || name == [0; 64] || agent.heartbeats > 0);
                prop_assert!(name.iter().all(|&byte| byte == 0 || byte.is_ascii_graphic()));
            }
        }
    }
}
