//! What may be sent in one day.

const DAY_MS: i64 = 86_400_000;

/// About what a chunk of 48 KiB of samples takes on the wire, which goes as a
/// whole.
const CHUNK_BYTES: u64 = 96 * 1024;

/// Bytes for each UTC day. Live data may take what is left of them. The
/// backlog may take no more than what keeps all that was sent today below the
/// share of the day that has passed: so the rest of the day always has its
/// share of bytes for live data.
#[derive(Debug, Clone)]
pub struct Budget {
    limit_bytes: u64,
    /// Days since the Unix epoch.
    day: i64,
    spent_bytes: u64,
    said: bool,
}

impl Budget {
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, day: i64::MIN, spent_bytes: 0, said: false }
    }

    /// Another limit for a day of which some bytes are spent.
    pub fn limited_to(self, limit_bytes: u64) -> Self {
        Self { limit_bytes, said: false, ..self }
    }

    /// Bytes left at wall time `wall_ms`. A clock that is set back over one
    /// midnight goes on with what was counted; one that was wrong by more must
    /// not cost a day.
    pub fn left(&mut self, wall_ms: i64) -> u64 {
        let day = wall_ms.div_euclid(DAY_MS);
        if day != self.day {
            if day.checked_add(1) != Some(self.day) {
                (self.spent_bytes, self.said) = (0, false);
            }
            self.day = day;
        }
        self.limit_bytes.saturating_sub(self.spent_bytes)
    }

    /// Whether a chunk of the backlog may go at wall time `wall_ms`, where so
    /// many bytes are about to be spent.
    pub fn spares(&mut self, wall_ms: i64, bytes: u64) -> bool {
        self.left(wall_ms);
        let passed_ms = wall_ms.rem_euclid(DAY_MS).unsigned_abs();
        let share = u128::from(self.limit_bytes) * u128::from(passed_ms) / DAY_MS as u128;
        let needed = self.spent_bytes.saturating_add(bytes).saturating_add(CHUNK_BYTES);
        u128::from(needed) <= share
    }

    pub fn spend(&mut self, bytes: u64) {
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
    }

    /// Of what was to be sent, nothing left this host.
    pub fn give_back(&mut self, bytes: u64) {
        self.spent_bytes = self.spent_bytes.saturating_sub(bytes);
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Whether it is yet to be said that today's bytes are spent.
    pub fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.said, true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIDNIGHT: i64 = 20_000 * DAY_MS;

    #[test]
    fn a_day_has_its_bytes_and_the_next_has_them_again() {
        let mut budget = Budget::new(1000);
        assert_eq!(budget.left(MIDNIGHT), 1000);
        budget.spend(1200);
        assert_eq!(budget.left(MIDNIGHT + DAY_MS - 1), 0);
        assert_eq!((budget.is_news(), budget.is_news()), (true, false));
        assert_eq!(budget.left(MIDNIGHT + DAY_MS), 1000);
        assert!(budget.is_news());
        budget.spend(300);
        budget.give_back(100);
        assert_eq!(budget.left(MIDNIGHT + DAY_MS), 800);
    }

    #[test]
    fn another_limit_counts_what_is_spent_already() {
        let mut budget = Budget::new(1000);
        budget.left(MIDNIGHT);
        budget.spend(700);
        assert_eq!(budget.limited_to(900).left(MIDNIGHT + 1), 200);
    }

    #[test]
    fn a_clock_set_back_over_midnight_brings_nothing_and_a_wrong_one_costs_no_day() {
        let mut budget = Budget::new(1000);
        budget.left(MIDNIGHT + 5);
        budget.spend(1000);
        assert_eq!(budget.left(MIDNIGHT - 5), 0);
        assert_eq!(budget.left(MIDNIGHT + 5), 1000);
        budget.left(MIDNIGHT + 365 * DAY_MS);
        budget.spend(1000);
        assert_eq!(budget.left(MIDNIGHT + 5), 1000, "it was a year ahead");
    }

    #[test]
    fn the_backlog_takes_what_the_day_so_far_has_left() {
        let mut budget = Budget::new(4 * CHUNK_BYTES);
        assert!(!budget.spares(MIDNIGHT + DAY_MS / 4 - 1, 0));
        assert!(budget.spares(MIDNIGHT + DAY_MS / 4, 0));
        assert!(!budget.spares(MIDNIGHT + DAY_MS / 4, 1));
        budget.spend(CHUNK_BYTES);
        assert!(!budget.spares(MIDNIGHT + DAY_MS / 2 - 1, 0));
        assert!(budget.spares(MIDNIGHT + DAY_MS / 2, 0));
    }

    proptest! {
        /// Whatever the backlog took, live data that needs its share of the day
        /// and no more finds it.
        #[test]
        fn the_backlog_leaves_live_data_its_share(
            limit in 1u64 << 20..32 << 20,
            steps in prop::collection::vec((1i64..7_200_000, CHUNK_BYTES / 50..CHUNK_BYTES), 1..200),
        ) {
            let mut budget = Budget::new(limit);
            let mut at_ms = MIDNIGHT;
            for (wait_ms, chunk) in steps {
                at_ms += wait_ms;
                while budget.spares(at_ms, 0) {
                    budget.spend(chunk);
                }
                let passed_ms = at_ms.rem_euclid(DAY_MS).unsigned_abs();
                let share = u128::from(limit) * u128::from(passed_ms) / DAY_MS as u128;
                let left = u128::from(budget.left(at_ms));
                prop_assert!(left >= u128::from(limit) - share, "{left} left of {limit}");
            }
        }
    }
}
