//! What the load does to the chip: thermal inertia, throttling, hot spells.
//!
//! The chip follows its load as a first-order lag. The response is computed
//! from the load of the last [`WINDOW_MIN`] minutes, so that a temperature
//! depends on its moment alone: what came before weighs less than e^-5.

use super::dice::{Dice, Topic, lerp, round};
use super::load::{HOUR_MS, Load, MINUTE_MS};

/// At least five times the longest lag.
const WINDOW_MIN: i64 = 48;

/// How long throttling "has occurred"; before that the response still settles.
const MEMORY_MIN: i64 = WINDOW_MIN / 2;

/// Watts of a Raspberry Pi 4 with nothing to do, and what full load adds
/// (measured at the plug by pidramble.com: 2.7 W idle, 6.4 W with four busy
/// cores).
const IDLE_W: f64 = 2.7;
const LOAD_W: f64 = 3.7;

/// From here the firmware slows the cores down, and by here it has done so as
/// far as it goes (Raspberry Pi documentation, "Frequency management and
/// thermal control": progressively between 80 and 85 °C).
pub(super) const THROTTLE_CELSIUS: f64 = 80.0;
const THROTTLED_CELSIUS: f64 = 85.0;

/// The slowest clock of a Raspberry Pi 4 over its fastest: 600 and 1,500 MHz.
const SLOWEST: f64 = 0.4;

/// Share of days with a hot spell, and what a blocked fan adds to the thermal
/// resistance, in °C a watt.
const SPELL_SHARE: f64 = 0.05;
const SPELL_RESISTANCE: f64 = 7.5;
const DAY_MIN: i64 = 24 * 60;

/// How one device is cooled.
#[derive(Debug)]
pub(super) struct Cooling {
    pub dice: Dice,
    /// °C around the device at its coolest.
    pub room: f64,
    /// °C a watt between chip and room.
    pub resistance: f64,
    /// Minutes after which 63 % of a change is through; 5..=9, for below 5
    /// throttling would swing from minute to minute.
    pub lag_min: f64,
}

/// The chip at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chip {
    /// To a tenth.
    pub celsius: f64,
    /// Whether it was throttled within [`MEMORY_MIN`], this moment included.
    pub was_throttled: bool,
}

impl Cooling {
    pub fn chip(&self, load: &Load, at_ms: i64) -> Chip {
        let minute = at_ms.div_euclid(MINUTE_MS);
        let first = minute - WINDOW_MIN;
        let room = self.room + 4.0 * self.dice.curve(Topic::Room, at_ms, 6 * HOUR_MS);
        let mut before = room + self.rise(load, first, 1.0);
        let mut after = before;
        let mut hottest = f64::NEG_INFINITY;
        for m in first..=minute {
            before = after;
            if m > minute - MEMORY_MIN {
                hottest = hottest.max(before);
            }
            after += (room + self.rise(load, m, cap(before)) - before) / self.lag_min;
        }
        let within = at_ms.rem_euclid(MINUTE_MS) as f64 / MINUTE_MS as f64;
        let celsius = round(lerp(before, after, within), 1e1);
        Chip { celsius, was_throttled: hottest.max(celsius) >= THROTTLE_CELSIUS }
    }

    /// °C above the room at which the chip would settle if `minute` lasted for
    /// ever, with no more than `cap` of the CPU to use.
    fn rise(&self, load: &Load, minute: i64, cap: f64) -> f64 {
        let watts = IDLE_W + LOAD_W * load.at_minute(minute).min(cap);
        let spell = if self.hot_spell(minute) { SPELL_RESISTANCE } else { 0.0 };
        watts * (self.resistance + spell)
    }

    /// Whether something blocks the air at that minute: on some days, for
    /// three to nine hours.
    pub fn hot_spell(&self, minute: i64) -> bool {
        let (day, minute_of_day) = (minute.div_euclid(DAY_MIN), minute.rem_euclid(DAY_MIN));
        if self.dice.share(Topic::Heat, 3 * day) >= SPELL_SHARE {
            return false;
        }
        let length = 180 + self.dice.below(Topic::Heat, 3 * day + 1, 360).cast_signed();
        let latest = (DAY_MIN - length).cast_unsigned();
        let start = self.dice.below(Topic::Heat, 3 * day + 2, latest).cast_signed();
        (start..start + length).contains(&minute_of_day)
    }
}

/// 0..1 of the CPU that the firmware leaves at that temperature.
pub(super) fn cap(celsius: f64) -> f64 {
    let over = (celsius - THROTTLE_CELSIUS) / (THROTTLED_CELSIUS - THROTTLE_CELSIUS);
    lerp(1.0, SLOWEST, over.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday 2026-11-23T00:00:00Z.
    const MONDAY_MIN: i64 = 1_795_392_000_000 / MINUTE_MS;

    fn load(seed: u64) -> Load {
        Load {
            dice: Dice::new(seed, 0),
            zone_ms: 0,
            idle: 0.05,
            busy: 0.5,
            job_every_min: 60,
            job_min: 10,
            job: 0.3,
        }
    }

    fn cooling(seed: u64) -> Cooling {
        Cooling { dice: Dice::new(seed, 0), room: 20.0, resistance: 6.0, lag_min: 6.0 }
    }

    /// The first day from Monday on with (or without) a hot spell at its noon.
    fn noon(cooling: &Cooling, hot: bool) -> i64 {
        let noons = (0..).map(|day| MONDAY_MIN + day * DAY_MIN + DAY_MIN / 2);
        noons.into_iter().find(|noon| cooling.hot_spell(*noon) == hot).unwrap()
    }

    /// Of two series, with the second taken `lag` later.
    fn correlation(a: &[f64], b: &[f64], lag: usize) -> f64 {
        let (a, b) = (&a[..a.len() - lag], &b[lag..]);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (mean_a, mean_b) = (mean(a), mean(b));
        let with = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
            x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
        };
        with(a, mean_a, b, mean_b)
            / (with(a, mean_a, a, mean_a) * with(b, mean_b, b, mean_b)).sqrt()
    }

    #[test]
    fn temperature_follows_load_minutes_later() {
        for seed in 0..20 {
            let (load, cooling) = (load(seed), cooling(seed));
            let from = noon(&cooling, false) - 60;
            let minutes = from..from + 240;
            let loads: Vec<f64> = minutes.clone().map(|minute| load.at_minute(minute)).collect();
            let chip = |minute| cooling.chip(&load, minute * MINUTE_MS).celsius;
            let temperatures: Vec<f64> = minutes.map(chip).collect();
            let by_lag = (0..30).map(|lag| correlation(&loads, &temperatures, lag));
            let best = by_lag.clone().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            let at_once = by_lag.clone().next().unwrap();
            assert!((2..=8).contains(&best.0), "seed {seed}: best at {best:?}");
            assert!(best.1 > 0.8 && best.1 > at_once + 0.1, "seed {seed}: {best:?}, {at_once}");
        }
    }

    #[test]
    fn a_step_of_load_is_63_percent_through_after_the_lag() {
        let step = Load { busy: 0.0, job_every_min: 600, job_min: 300, job: 0.5, ..load(1) };
        let cooling = Cooling { lag_min: 6.0, ..cooling(1) };
        let begin = (MONDAY_MIN / 600..)
            .map(|period| period * 600)
            .find(|begin| (-60..120).all(|minute| !cooling.hot_spell(begin + minute)))
            .unwrap();
        let at = |minute: i64| cooling.chip(&step, (begin + minute) * MINUTE_MS).celsius;
        let share = (at(6) - at(0)) / (at(60) - at(0));
        // The flutter of the load and the drift of the room move it a little.
        assert!((share - 0.632).abs() < 0.08, "{share}");
    }

    #[test]
    fn a_hot_spell_at_work_throttles_and_holds_the_heat_down() {
        for seed in 0..20 {
            let (load, cooling) = (Load { busy: 0.9, ..load(seed) }, cooling(seed));
            let noon = noon(&cooling, true);
            let begin = (noon - DAY_MIN..noon).rfind(|minute| !cooling.hot_spell(*minute)).unwrap();
            let chips: Vec<Chip> = (begin..begin + 180)
                .map(|minute| cooling.chip(&load, minute * MINUTE_MS))
                .collect();
            let hottest = chips.iter().map(|chip| chip.celsius).fold(0.0, f64::max);
            assert!((80.0..90.0).contains(&hottest), "seed {seed}: {hottest}");
            let idle = chips.first().unwrap();
            assert!(idle.celsius < 75.0 && !idle.was_throttled, "seed {seed}: {idle:?}");
        }
    }

    #[test]
    fn temperature_has_no_jumps() {
        for seed in 0..10 {
            let (load, cooling) = (load(seed), cooling(seed));
            let mut last = cooling.chip(&load, MONDAY_MIN * MINUTE_MS).celsius;
            for step in 1..2 * 24 * 360 {
                let celsius = cooling.chip(&load, MONDAY_MIN * MINUTE_MS + step * 10_000).celsius;
                // The heaviest change, a spell that begins at work, is 6.8 °C a minute.
                assert!((celsius - last).abs() <= 1.2, "seed {seed}: {last} {celsius}");
                last = celsius;
            }
        }
    }

    #[test]
    fn about_one_day_in_twenty_has_a_hot_spell() {
        let hot_day = |seed| {
            let cooling = cooling(seed);
            (0..DAY_MIN).any(|minute| cooling.hot_spell(MONDAY_MIN + minute))
        };
        let days = (0..2_000).filter(|seed| hot_day(*seed)).count();
        // Within five standard deviations of 100.
        assert!((51..=149).contains(&days), "{days}");
    }
}
