//! Whether the line lives: samples are taken, and what was asked of the sink
//! and of the disk is answered.
//!
//! An outage is no hang: a sink that fails or times out has answered. A sensor
//! that hangs is none either, for sampling goes on without it. A disk that
//! hangs is borne for [`PATIENCE_MS`]: what is in RAM still goes out meanwhile,
//! and a new start could do no better before the disk answers.

/// How long an answer is waited for before the line counts as stuck.
pub const PATIENCE_MS: u64 = 5 * 60 * 1000;

/// Sampling counts as stuck after so many intervals,
const INTERVALS: u64 = 5;

/// but not before this: a busy machine is no reason to start anew.
const LATE_MS: u64 = 30_000;

/// What was asked of another part of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errand {
    /// Whether an answer is waited for.
    pub waiting: bool,
    /// Answers so far.
    pub answers: u64,
}

/// The line at one moment; times are boot times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    pub now_ms: u64,
    pub interval_ms: u64,
    /// When the last sample was taken, or rightly not taken.
    pub sampled_ms: u64,
    pub delivery: Errand,
    pub disk: Errand,
}

/// What does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    #[error("no sample was taken for several intervals")]
    Sampling,
    #[error("the sink has neither answered nor timed out for 5 minutes")]
    Delivery,
    #[error("the spool's disk has not answered for 5 minutes")]
    Disk,
}

/// Judges moment after moment.
#[derive(Debug, Default)]
pub struct Watchdog {
    delivery: Wait,
    disk: Wait,
}

impl Watchdog {
    /// What is stuck, the first of it. A suspend may make it seem so once, until
    /// the next moment.
    pub fn judge(&mut self, vitals: &Vitals) -> Option<Stuck> {
        let Vitals { now_ms, interval_ms, sampled_ms, delivery, disk } = *vitals;
        let late_ms = interval_ms.saturating_mul(INTERVALS).max(LATE_MS);
        let parts = [
            (Stuck::Sampling, now_ms.saturating_sub(sampled_ms), late_ms),
            (Stuck::Delivery, self.delivery.lasts_ms(delivery, now_ms), PATIENCE_MS),
            (Stuck::Disk, self.disk.lasts_ms(disk, now_ms), PATIENCE_MS),
        ];
        parts.into_iter().find(|(_, lasts, most)| lasts >= most).map(|(stuck, ..)| stuck)
    }
}

/// Since when one and the same answer is waited for.
#[derive(Debug, Default)]
struct Wait {
    answers: u64,
    since_ms: Option<u64>,
}

impl Wait {
    fn lasts_ms(&mut self, errand: Errand, now_ms: u64) -> u64 {
        let answered = std::mem::replace(&mut self.answers, errand.answers) != errand.answers;
        if answered || !errand.waiting {
            self.since_ms = None;
        }
        if errand.waiting {
            self.since_ms.get_or_insert(now_ms);
        }
        self.since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Errand = Errand { waiting: false, answers: 0 };

    fn at(now_ms: u64, delivery: Errand, disk: Errand) -> Vitals {
        Vitals { now_ms, interval_ms: 10_000, sampled_ms: now_ms, delivery, disk }
    }

    #[test]
    fn an_answer_begins_the_patience_anew() {
        let mut dog = Watchdog::default();
        let asked = |answers| Errand { waiting: true, answers };
        for n in 0..100 {
            let now_ms = n * (PATIENCE_MS - 1);
            assert_eq!(dog.judge(&at(now_ms, asked(n), asked(2 * n))), None);
        }
        let last_ms = 99 * (PATIENCE_MS - 1);
        let late = |ms| at(last_ms + ms, asked(99), asked(198));
        assert_eq!(dog.judge(&late(PATIENCE_MS - 1)), None);
        assert_eq!(dog.judge(&late(PATIENCE_MS)), Some(Stuck::Delivery));
        let disk_only = Vitals { delivery: IDLE, ..late(PATIENCE_MS) };
        assert_eq!(dog.judge(&disk_only), Some(Stuck::Disk));
        assert_eq!(dog.judge(&at(last_ms + PATIENCE_MS, IDLE, asked(199))), None);
    }

    #[test]
    fn sampling_may_be_late_by_some_intervals() {
        let mut dog = Watchdog::default();
        let late = |interval_ms, late_ms| Vitals {
            interval_ms,
            sampled_ms: 1000,
            ..at(1000 + late_ms, IDLE, IDLE)
        };
        assert_eq!(dog.judge(&late(100, LATE_MS - 1)), None);
        assert_eq!(dog.judge(&late(100, LATE_MS)), Some(Stuck::Sampling));
        assert_eq!(dog.judge(&late(60_000, 299_999)), None);
        assert_eq!(dog.judge(&late(60_000, 300_000)), Some(Stuck::Sampling));
    }
}
