//! The simulated clock: which moments are due.
//!
//! With `speed` 1 and no backfill the moments are the real ones, unchanged,
//! one each `interval`; those that passed while the host slept are left out.
//!
//! Otherwise time is simulated. Its moments are the whole multiples of
//! `interval` since 1970 from the beginning on, so that two runs of one seed
//! give the same records where they overlap. None is left out: what could not
//! be sampled in time is due at once. It advances with the host's boot time,
//! so that a step of the wall clock does not disturb it, and is by definition
//! right: its moments are `synced`, and carry the real boot time.

use std::time::Duration;

use crate::clock::Moment;

/// What to do at a real moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Sample at this moment, and ask again.
    Sample(Moment),
    /// Nothing is due for this long, real time.
    Wait(Duration),
}

/// How far a backfill has come, in moments; each device is sampled at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    /// Grows while the past is filled, for the wall clock does not wait.
    pub total: u64,
}

/// Tells which moments are due.
#[derive(Debug, Clone)]
pub struct Pace {
    interval_ms: i64,
    start: Moment,
    /// Moments handed out or, where time is real, gone by.
    done: i64,
    /// `None` where time is real.
    simulated: Option<SimulatedTime>,
    /// Moments up to the wall clock, as long as a backfill has not met it.
    filling: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct SimulatedTime {
    /// Wall time of the first moment.
    begin_ms: i64,
    backfill_ms: i64,
    /// How fast the past goes by; infinite where it comes all at once.
    speed: f64,
}

impl Pace {
    /// A pace whose first moment is due at `start`. `speed` and `backfill` are
    /// those of [`Settings`](super::Settings); `interval` is at least 1 ms and
    /// counts in simulated time.
    pub fn new(speed: f64, backfill: Duration, interval: Duration, start: &Moment) -> Self {
        let (backfill_ms, interval_ms) = (ms(backfill), ms(interval).max(1));
        let begin_ms = start.wall_ms.saturating_sub(backfill_ms);
        let simulated = (speed > 1.0 || backfill_ms > 0).then_some(SimulatedTime {
            begin_ms: begin_ms.div_euclid(interval_ms).saturating_mul(interval_ms),
            backfill_ms,
            speed: if speed > 1.0 { speed } else { f64::INFINITY },
        });
        let mut pace = Self { interval_ms, start: *start, done: 0, simulated, filling: None };
        pace.filling = (backfill_ms > 0).then(|| pace.until(0));
        pace
    }

    /// What to do at the real moment `now`.
    pub fn next(&mut self, now: &Moment) -> Due {
        let wait = self.wait(now);
        let elapsed_ms = self.elapsed_ms(now);
        let due = match wait.is_zero() {
            true => Due::Sample(self.take(now, elapsed_ms)),
            false => Due::Wait(wait),
        };
        let until = self.until(elapsed_ms);
        self.filling = self.filling.and((self.done < until).then_some(until));
        due
    }

    /// How long after the real moment `now` the next one is due.
    pub fn wait(&self, now: &Moment) -> Duration {
        let wait_ms = self.due_after_ms().saturating_sub(self.elapsed_ms(now));
        Duration::from_millis(wait_ms.max(0).unsigned_abs())
    }

    /// Real milliseconds since the start.
    fn elapsed_ms(&self, now: &Moment) -> i64 {
        let elapsed_ms = now.boot_ms.saturating_sub(self.start.boot_ms);
        i64::try_from(elapsed_ms).unwrap_or(i64::MAX)
    }

    /// The moment that is due, and on to the one after it.
    fn take(&mut self, now: &Moment, elapsed_ms: i64) -> Moment {
        let Some(time) = self.simulated else {
            self.done = elapsed_ms / self.interval_ms + 1;
            return *now;
        };
        let wall_ms = self.simulated_ms(time);
        self.done += 1;
        Moment { wall_ms, boot_ms: now.boot_ms, synced: true }
    }

    /// How far the backfill has come; `None` without one, and from when it met
    /// the wall clock.
    pub fn backfill(&self) -> Option<Progress> {
        let total = self.filling?;
        Some(Progress { done: self.done.unsigned_abs(), total: total.unsigned_abs() })
    }

    /// Real milliseconds from the start to when the next moment is due.
    fn due_after_ms(&self) -> i64 {
        let Some(time) = self.simulated else {
            return self.done.saturating_mul(self.interval_ms);
        };
        let beside_wall_ms = self.simulated_ms(time).saturating_sub(self.start.wall_ms);
        let at_speed_ms = beside_wall_ms.saturating_add(time.backfill_ms) as f64 / time.speed;
        let at_speed_ms = at_speed_ms.ceil() as i64;
        if time.backfill_ms > 0 { at_speed_ms.max(beside_wall_ms) } else { at_speed_ms }
    }

    /// Wall time of the next moment.
    fn simulated_ms(&self, time: SimulatedTime) -> i64 {
        time.begin_ms.saturating_add(self.done.saturating_mul(self.interval_ms))
    }

    /// Moments from the beginning to `elapsed_ms` after the start.
    fn until(&self, elapsed_ms: i64) -> i64 {
        let begin_ms = self.simulated.map_or(self.start.wall_ms, |time| time.begin_ms);
        let now_ms = self.start.wall_ms.saturating_add(elapsed_ms);
        now_ms.saturating_sub(begin_ms) / self.interval_ms + 1
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Moment = Moment { wall_ms: 1_795_392_000_123, boot_ms: 5_000, synced: false };
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn after(ms: u64) -> Moment {
        Moment { wall_ms: START.wall_ms + ms as i64, boot_ms: START.boot_ms + ms, ..START }
    }

    /// Follows the pace for `real_ms`, each sample costing `cost_ms`; returns
    /// (real ms since the start, simulated wall ms) of each.
    fn follow(pace: &mut Pace, real_ms: u64, cost_ms: u64) -> Vec<(u64, i64)> {
        let (mut now_ms, mut samples) = (0, Vec::new());
        while now_ms <= real_ms {
            match pace.next(&after(now_ms)) {
                Due::Sample(moment) => {
                    samples.push((now_ms, moment.wall_ms));
                    now_ms += cost_ms;
                }
                Due::Wait(wait) => now_ms += wait.as_millis() as u64,
            }
        }
        samples
    }

    #[test]
    fn real_moments_pass_unchanged_once_an_interval() {
        let mut pace = Pace::new(1.0, Duration::ZERO, SECOND, &START);
        assert_eq!(pace.next(&START), Due::Sample(START));
        assert_eq!(pace.next(&after(400)), Due::Wait(Duration::from_millis(600)));
        let stepped = Moment { wall_ms: 77, ..after(1_003) };
        assert_eq!(pace.next(&stepped), Due::Sample(stepped));
        assert_eq!(pace.next(&after(1_004)), Due::Wait(Duration::from_millis(996)));
        assert_eq!(pace.backfill(), None);
    }

    #[test]
    fn real_moments_missed_in_a_sleep_are_left_out() {
        let mut pace = Pace::new(1.0, Duration::ZERO, SECOND, &START);
        assert_eq!(pace.next(&START), Due::Sample(START));
        assert_eq!(pace.next(&after(10_300)), Due::Sample(after(10_300)));
        assert_eq!(pace.next(&after(10_301)), Due::Wait(Duration::from_millis(699)));
    }

    #[test]
    fn a_backfill_comes_at_once_and_then_goes_on_beside_the_wall_clock() {
        let mut pace = Pace::new(1.0, HOUR, SECOND, &START);
        assert_eq!(pace.backfill(), Some(Progress { done: 0, total: 3_601 }));
        let samples = follow(&mut pace, 3_000, 0);
        assert_eq!(samples.iter().filter(|(now_ms, _)| *now_ms == 0).count(), 3_601);
        assert_eq!(samples[0].1, 1_795_392_000_000 - 3_600_000);
        assert_eq!(samples[3_600], (0, 1_795_392_000_000));
        assert_eq!(samples[3_601], (877, 1_795_392_001_000));
        assert_eq!(samples[3_602], (1_877, 1_795_392_002_000));
        assert_eq!(pace.backfill(), None);
    }

    #[test]
    fn a_slow_line_catches_up_with_the_time_that_passes_meanwhile() {
        let mut pace = Pace::new(1.0, HOUR, SECOND, &START);
        follow(&mut pace, 400_000, 500);
        let half = pace.backfill().unwrap();
        assert_eq!(half, Progress { done: 801, total: 4_001 });
        let mut pace = Pace::new(1.0, HOUR, SECOND, &START);
        let samples = follow(&mut pace, 3_700_000, 500);
        // Two a second come in and one a second passes: met after an hour.
        assert_eq!(pace.backfill(), None);
        assert_eq!(samples.len(), 3_600 + 3_701);
    }

    #[test]
    fn speed_alone_runs_into_the_future() {
        let mut pace = Pace::new(60.0, Duration::ZERO, SECOND, &START);
        let samples = follow(&mut pace, 60_000, 0);
        assert_eq!(samples.len(), 3_601);
        let (now_ms, last_ms) = samples[3_600];
        assert_eq!(last_ms, 1_795_392_000_000 + 3_600_000);
        // The grid lies 123 ms before the start, which is 2 ms at this speed.
        assert_eq!(now_ms, 60_000 - 2);
    }

    #[test]
    fn a_backfill_with_a_speed_meets_the_wall_clock_and_stays_beside_it() {
        let mut pace = Pace::new(61.0, HOUR, SECOND, &START);
        // An hour behind, gaining 60 s a second: met after a minute.
        let samples = follow(&mut pace, 59_000, 0);
        assert!(pace.backfill().is_some());
        let (now_ms, wall_ms) = samples[samples.len() / 2];
        let at_speed_ms = START.wall_ms - 3_600_000 + now_ms as i64 * 61;
        assert!((at_speed_ms - wall_ms) / 61 == 0, "{wall_ms} {at_speed_ms}");
        let mut pace = Pace::new(61.0, HOUR, SECOND, &START);
        let samples = follow(&mut pace, 90_000, 0);
        assert_eq!(pace.backfill(), None);
        let ahead = samples.iter().map(|(now_ms, wall_ms)| wall_ms - after(*now_ms).wall_ms);
        assert!(ahead.clone().all(|ahead_ms| ahead_ms <= 0));
        assert_eq!(ahead.max(), Some(0));
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_disturb_simulated_time() {
        let mut pace = Pace::new(2.0, Duration::ZERO, SECOND, &START);
        pace.next(&START);
        let stepped = Moment { wall_ms: 0, ..after(600) };
        let Due::Sample(moment) = pace.next(&stepped) else { panic!("a moment is due") };
        assert_eq!(moment.wall_ms, 1_795_392_001_000);
        assert_eq!((moment.boot_ms, moment.synced), (stepped.boot_ms, true));
    }

    proptest! {
        #[test]
        fn simulated_moments_are_all_there_in_order_and_never_early(
            speed in prop_oneof![Just(1.0), 1.0..3600.0],
            backfill_s in 1..5_000_u64,
            interval_ms in 100..20_000_u64,
            cost_ms in 0..50_u64,
        ) {
            let (backfill, interval) =
                (Duration::from_secs(backfill_s), Duration::from_millis(interval_ms));
            let mut pace = Pace::new(speed, backfill, interval, &START);
            let samples = follow(&mut pace, 20_000, cost_ms.max(1));
            let begin_ms = START.wall_ms - backfill.as_millis() as i64;
            let interval_ms = interval_ms as i64;
            prop_assert_eq!(samples[0].1, begin_ms.div_euclid(interval_ms) * interval_ms);
            for pair in samples.windows(2) {
                prop_assert_eq!(pair[1].1 - pair[0].1, interval_ms);
            }
            for (now_ms, wall_ms) in samples {
                prop_assert!(wall_ms <= after(now_ms).wall_ms);
                if speed > 1.0 {
                    prop_assert!(((wall_ms - begin_ms) as f64) <= now_ms as f64 * speed + 1e-3);
                }
            }
        }
    }
}
