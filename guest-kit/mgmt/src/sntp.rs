//! Asks a time server (SNTP, RFC 5905 section 14), and says whether its answer makes sense. Before: the guest, which sends and
//! receives. After: the clock.
//!
//! An answer counts only if it repeats the random number that was asked with, so who does not see the question cannot set the
//! clock.

/// The port of servers.
pub const PORT: u16 = 123;
/// How often it is asked, in milliseconds, and how soon again when there was no answer.
const PERIOD: u64 = 3_600_000;
const AGAIN: u64 = 16_000;
/// How long an answer is waited for, in milliseconds.
const PATIENCE: u64 = 4_000;
/// How far the clock may be off before it is set, in nanoseconds: a step that nobody would notice is not made.
const TOLERANCE: u64 = 200_000_000;
/// No clock shows a time before this was written, or after 2100, in seconds since 1970.
const EARLIEST: u64 = 1_767_225_600;
const LATEST: u64 = 4_102_444_800;
/// Seconds from 1900, from where NTP counts, to 1970.
const EPOCH: u64 = 2_208_988_800;

/// The size of a message, in bytes.
const SIZE: usize = 48;

/// A question, or what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next one is asked at this time.
    Wait(u64),
    /// It was asked then, with this number.
    Asked(u64, u64),
}

/// A client.
#[derive(Clone, Debug)]
pub struct Sntp {
    state: State,
    /// The index of the server that is asked next.
    server: usize,
}

impl Default for Sntp {
    fn default() -> Self {
        Self { state: State::Wait(0), server: 0 }
    }
}

impl Sntp {
    /// Returns which of so many servers is to be asked now, if any is; `now` in milliseconds.
    pub fn due(&mut self, now: u64, servers: usize) -> Option<usize> {
        if let State::Asked(then, _) = self.state
            && now.saturating_sub(then) > PATIENCE
        {
            // Another one is asked, and the same one again not before a while.
            self.server += 1;
            let is_round = servers == 0 || self.server.is_multiple_of(servers);
            self.state = State::Wait(if is_round { now + AGAIN } else { now });
        }
        match self.state {
            State::Wait(until) if now >= until && servers > 0 => Some(self.server % servers),
            _ => None,
        }
    }

    /// Returns the question, with a random number.
    pub fn ask(&mut self, now: u64, random: u64) -> [u8; SIZE] {
        self.state = State::Asked(now, random);
        let mut message = [0; SIZE];
        // Version 4, a client.
        message[0] = 0x23;
        message[40..].copy_from_slice(&random.to_be_bytes());
        message
    }

    /// Notes that nobody could be asked.
    pub fn skip(&mut self, now: u64) {
        self.server += 1;
        self.state = State::Wait(now + AGAIN);
    }

    /// Returns the time that the clock is to be set to, in nanoseconds since 1970, if this answers the question and the clock,
    /// which shows `clock`, is wrong.
    pub fn hear(&mut self, message: &[u8], now: u64, clock: u64) -> Option<u64> {
        let State::Asked(then, random) = self.state else { return None };
        let time = read(message, random)?;
        self.state = State::Wait(now + PERIOD);
        // It was half of the way ago that the server sent it.
        let time = time + now.saturating_sub(then) * 1_000_000 / 2;
        (time.abs_diff(clock) > TOLERANCE).then_some(time)
    }
}

/// Returns the time that an answer tells, in nanoseconds since 1970.
fn read(message: &[u8], random: u64) -> Option<u64> {
    let message = message.first_chunk::<SIZE>()?;
    let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|index| message[at + index]));
    let (leap, version, mode) = (message[0] >> 6, message[0] >> 3 & 7, message[0] & 7);
    // A server that knows the time itself.
    let is_good = leap != 3 && (3..=4).contains(&version) && mode == 4 && (1..=15).contains(&message[1]);
    let repeats = u64::from(word(24)) << 32 | u64::from(word(28)) == random;
    let (seconds, part) = (u64::from(word(40)), u64::from(word(44)));
    // The count begins anew in 2036.
    let seconds = if seconds < 1 << 31 { seconds + (1 << 32) } else { seconds };
    let seconds = seconds.checked_sub(EPOCH).filter(|seconds| (EARLIEST..LATEST).contains(seconds))?;
    (is_good && repeats).then_some(seconds * 1_000_000_000 + ((part * 1_000_000_000) >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn answer(random: u64, seconds: u64) -> [u8; SIZE] {
        let mut message = [0; SIZE];
        (message[0], message[1]) = (0x24, 2);
        message[24..32].copy_from_slice(&random.to_be_bytes());
        message[40..44].copy_from_slice(&((seconds + EPOCH) as u32).to_be_bytes());
        message[44] = 0x80;
        message
    }

    #[test]
    fn a_clock_that_is_wrong_is_set() {
        let mut sntp = Sntp::default();
        assert_eq!(sntp.due(0, 1), Some(0));
        assert_eq!(sntp.ask(0, 77)[..4], [0x23, 0, 0, 0]);
        let right = NOW * 1_000_000_000 + 500_000_000 + 50_000_000;
        assert_eq!(sntp.clone().hear(&answer(77, NOW), 100, 5), Some(right));
        assert_eq!(sntp.hear(&answer(77, NOW), 100, right + 1000), None, "it is right already");
        assert_eq!((sntp.due(1000, 1), sntp.due(PERIOD + 100, 1)), (None, Some(0)));
    }

    #[test]
    fn what_was_not_asked_for_does_not_set_the_clock() {
        let mut sntp = Sntp::default();
        assert_eq!(sntp.hear(&answer(0, NOW), 0, 5), None);
        sntp.ask(0, 77);
        let mut bad = [answer(78, NOW), answer(77, EARLIEST - 9), answer(77, NOW), answer(77, NOW), answer(77, NOW)];
        bad[2][0] = 0xe4;
        bad[3][1] = 0;
        bad[4][0] = 0x23;
        for message in bad {
            assert_eq!(sntp.hear(&message, 1, 5), None, "{message:?}");
        }
        assert_eq!(sntp.hear(&answer(77, NOW)[..47], 1, 5), None);
        assert!(sntp.hear(&answer(77, NOW), 1, 5).is_some());
    }

    #[test]
    fn silent_servers_are_asked_in_turn() {
        let mut sntp = Sntp::default();
        let mut asked = std::vec::Vec::new();
        for now in (0..60_000).step_by(100) {
            if let Some(server) = sntp.due(now, 2) {
                asked.push((now, server));
                sntp.ask(now, 1);
            }
        }
        let servers: std::vec::Vec<usize> = asked.iter().map(|(_, server)| *server).collect();
        assert!(servers.starts_with(&[0, 1, 0, 1]), "{asked:?}");
        assert!(asked[2].0 - asked[1].0 >= AGAIN);
    }

    proptest! {
        #[test]
        fn any_message_is_a_time_that_can_be_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..60), random: u64) {
            let mut sntp = Sntp::default();
            sntp.ask(0, random);
            if let Some(time) = sntp.hear(&bytes, 0, 0) {
                prop_assert!((EARLIEST..LATEST).contains(&(time / 1_000_000_000)));
            }
        }
    }
}
