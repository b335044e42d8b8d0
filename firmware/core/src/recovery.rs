//! How soon a manager that fails goes on: at once, but not if it fails again and again. Before: its VM's end; after: its next
//! life.

/// How many seconds without a failure make one a single one.
const CALM_SECONDS: u64 = 5;
/// How many failures in a row are brought back at once.
const FREE: u32 = 8;
/// Of how many parts of a second the first delay is one; each further one is twice as long, up to a second.
const FIRST_DELAY: u64 = 64;

/// The failures of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// How many there were.
    pub count: u64,
    in_a_row: u32,
    last: u64,
}

impl Failures {
    /// There were none.
    pub const NONE: Self = Self { count: 0, in_a_row: 0, last: 0 };

    /// Returns what a hand-over has of them.
    pub fn record(&self) -> [u64; 3] {
        [self.count, self.in_a_row.into(), self.last]
    }

    /// Returns those in a record.
    pub fn restored([count, in_a_row, last]: [u64; 3]) -> Self {
        Self { count, in_a_row: in_a_row.min(u32::MAX.into()) as u32, last }
    }

    /// Counts one that happens `now`, by a counter with so many ticks in a second. Returns after how many ticks the manager is
    /// to go on.
    pub fn note(&mut self, now: u64, second: u64) -> u64 {
        let is_calm = now.saturating_sub(self.last) > second.saturating_mul(CALM_SECONDS);
        self.in_a_row = if is_calm { 1 } else { self.in_a_row.saturating_add(1) };
        self.count = self.count.wrapping_add(1);
        self.last = now;
        match self.in_a_row.checked_sub(FREE + 1) {
            None => 0,
            Some(further) => (second / FIRST_DELAY).checked_shl(further.min(16)).unwrap_or(second).min(second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1 << 20;

    #[test]
    fn a_failure_now_and_then_costs_no_time() {
        let mut failures = Failures::NONE;
        for n in 1..20 {
            assert_eq!(failures.note(n * 6 * SECOND, SECOND), 0);
            assert_eq!(failures.count, n);
        }
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_longer_up_to_a_second() {
        let mut failures = Failures::NONE;
        let mut now = 6 * SECOND;
        let delays: Vec<u64> = (0..18)
            .map(|_| {
                let delay = failures.note(now, SECOND);
                now += delay + 1000;
                delay
            })
            .collect();
        assert_eq!(delays[..10], [0, 0, 0, 0, 0, 0, 0, 0, SECOND / 64, SECOND / 32]);
        assert!(delays[8..].windows(2).all(|pair| pair[1] == (2 * pair[0]).min(SECOND)));
        assert_eq!(delays[17], SECOND);
        assert_eq!(failures.note(now + 6 * SECOND, SECOND), 0, "calm again");
    }

    #[test]
    fn any_counter_will_do() {
        let mut failures = Failures::NONE;
        for (now, second) in [(u64::MAX, u64::MAX), (0, 0), (5, 1), (u64::MAX, 1)] {
            for _ in 0..200 {
                assert!(failures.note(now, second) <= second);
            }
        }
    }
}
