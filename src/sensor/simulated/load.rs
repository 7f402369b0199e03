//! What a device is asked to do: a daily curve, drift, and regular jobs.

use super::dice::{Dice, Topic, lerp};

pub(super) const MINUTE_MS: i64 = 60_000;
pub(super) const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;

/// Share of the day's greatest demand at each full hour, local time: quiet
/// nights, a dip at noon, a long afternoon.
const WORKDAY: [f64; 24] = [
    0.16, 0.12, 0.10, 0.10, 0.12, 0.18, 0.32, 0.55, 0.78, 0.92, 0.98, 0.94, //
    0.82, 0.86, 0.96, 1.00, 0.97, 0.88, 0.74, 0.62, 0.52, 0.42, 0.32, 0.22,
];
const WEEKEND: [f64; 24] = [
    0.18, 0.14, 0.11, 0.10, 0.10, 0.11, 0.14, 0.19, 0.26, 0.34, 0.40, 0.43, //
    0.44, 0.43, 0.42, 0.41, 0.42, 0.45, 0.48, 0.48, 0.44, 0.36, 0.28, 0.22,
];
/// The least of both curves.
pub(super) const QUIETEST: f64 = 0.10;

/// 1970-01-01 was a Thursday: what to add to a day since then to count from a
/// Monday.
const MONDAY: i64 = 3;

/// How long until the drift of the load has forgotten its last value.
const DRIFT_MS: i64 = 25 * MINUTE_MS;

/// One device's demand.
#[derive(Debug)]
pub(super) struct Load {
    pub dice: Dice,
    /// Local time minus UTC.
    pub zone_ms: i64,
    /// Share of the CPU that is busy with nothing to do.
    pub idle: f64,
    /// Share that the busiest hour adds.
    pub busy: f64,
    /// A job runs for the first minutes of each such period.
    pub job_every_min: i64,
    pub job_min: i64,
    /// Share that a job adds.
    pub job: f64,
}

impl Load {
    /// 0..1 of the CPU at a full minute since the epoch.
    pub fn at_minute(&self, minute: i64) -> f64 {
        let at_ms = minute * MINUTE_MS;
        let hour = (at_ms + self.zone_ms).div_euclid(HOUR_MS);
        let within = (at_ms + self.zone_ms).rem_euclid(HOUR_MS) as f64 / HOUR_MS as f64;
        let demand = lerp(demand(hour), demand(hour + 1), within);
        let drift = 0.6 + 0.8 * self.dice.curve(Topic::LoadDrift, at_ms, DRIFT_MS);
        let flutter = 0.06 * self.dice.share(Topic::Load, minute);
        let job = if minute.rem_euclid(self.job_every_min) < self.job_min { self.job } else { 0.0 };
        (self.idle + self.busy * demand * drift + flutter + job).clamp(0.0, 1.0)
    }

    /// 0..1 of the CPU: a straight line from minute to minute.
    pub fn at(&self, at_ms: i64) -> f64 {
        let minute = at_ms.div_euclid(MINUTE_MS);
        let within = at_ms.rem_euclid(MINUTE_MS) as f64 / MINUTE_MS as f64;
        lerp(self.at_minute(minute), self.at_minute(minute + 1), within)
    }

    /// How many hours of the greatest demand the time since 1970 is worth;
    /// grows by at least [`QUIETEST`] an hour.
    pub fn work_hours(&self, at_ms: i64) -> f64 {
        let local_ms = at_ms + self.zone_ms;
        let hour = local_ms.div_euclid(HOUR_MS);
        let within = local_ms.rem_euclid(HOUR_MS) as f64 / HOUR_MS as f64;
        let (day, hour_of_day) = (hour.div_euclid(24), hour.rem_euclid(24));
        let (weeks, weekday) = ((day + MONDAY).div_euclid(7), (day + MONDAY).rem_euclid(7));
        let workdays = 5 * weeks + weekday.min(5);
        let weekends = 2 * weeks + (weekday - 5).max(0);
        let days = workdays as f64 * WORKDAY.iter().sum::<f64>()
            + weekends as f64 * WEEKEND.iter().sum::<f64>();
        let hours: f64 = shape(day).iter().take(hour_of_day as usize).sum();
        days + hours + within * demand(hour)
    }
}

/// Share of the day's greatest demand at a full hour since 1970, local time.
fn demand(hour: i64) -> f64 {
    let hour_of_day = hour.rem_euclid(24) as usize;
    shape(hour.div_euclid(24)).get(hour_of_day).copied().unwrap_or(QUIETEST)
}

/// The curve of a day since 1970.
fn shape(day: i64) -> &'static [f64; 24] {
    if (day + MONDAY).rem_euclid(7) < 5 { &WORKDAY } else { &WEEKEND }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday 2026-11-23T00:00:00Z.
    const MONDAY_MS: i64 = 1_795_392_000_000;

    fn load() -> Load {
        Load {
            dice: Dice::new(0, 0),
            zone_ms: 0,
            idle: 0.05,
            busy: 0.5,
            job_every_min: 60,
            job_min: 5,
            job: 0.3,
        }
    }

    /// Mean load of `hours` beginning at `from_ms`.
    fn mean(load: &Load, from_ms: i64, hours: i64) -> f64 {
        let from = from_ms / MINUTE_MS;
        let minutes = from..from + hours * 60;
        minutes.map(|minute| load.at_minute(minute)).sum::<f64>() / (hours * 60) as f64
    }

    #[test]
    fn nights_and_weekends_are_quieter() {
        let load = load();
        let night = mean(&load, MONDAY_MS + HOUR_MS, 4);
        let afternoon = mean(&load, MONDAY_MS + 14 * HOUR_MS, 3);
        let sunday = mean(&load, MONDAY_MS + 6 * DAY_MS + 14 * HOUR_MS, 3);
        assert!(night + 0.1 < sunday && sunday + 0.1 < afternoon, "{night} {sunday} {afternoon}");
    }

    #[test]
    fn a_job_adds_its_share_while_it_runs() {
        let load = load();
        let without = Load { job: 0.0, ..self::load() };
        for minute in 0..180 {
            let added = load.at_minute(minute) - without.at_minute(minute);
            let expected = if minute % 60 < 5 { 0.3 } else { 0.0 };
            assert!((added - expected).abs() < 1e-9, "{minute}: {added}");
        }
    }

    #[test]
    fn work_is_the_sum_of_the_curve() {
        let load = load();
        let week = load.work_hours(MONDAY_MS + 7 * DAY_MS) - load.work_hours(MONDAY_MS);
        let expected = 5.0 * WORKDAY.iter().sum::<f64>() + 2.0 * WEEKEND.iter().sum::<f64>();
        assert!((week - expected).abs() < 1e-6, "{week} {expected}");
        let mut last = load.work_hours(MONDAY_MS - HOUR_MS);
        for step in -3..10 * 24 * 4 {
            let at_ms = MONDAY_MS + step * HOUR_MS / 4;
            let work = load.work_hours(at_ms);
            assert!(work - last >= 0.999 * QUIETEST / 4.0, "{step}: {last} {work}");
            last = work;
        }
    }
}
