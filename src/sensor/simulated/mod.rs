//! Simulated devices.
//!
//! Promise: what a device feels at a moment is a function of profile, seed,
//! device number and that moment, and of nothing else: neither of the start,
//! nor of what was asked before, nor of how many devices there are. How late a
//! reading comes is a function of seed, device number, share and the moment it
//! was asked for. No state is kept, so ten thousand devices take no memory.
//! Only sums, products, quotients and roundings are used, which IEEE 754 makes
//! the same on every machine.
//!
//! Limits: throttling "has occurred" (bits 16 and up of `throttled`) means
//! within the last 24 minutes rather than since boot, for a longer memory
//! would be state. Moments before 1970 and after 9999 read as the nearest
//! between.

mod device;
mod dice;
mod heat;
mod load;
mod pace;

pub use pace::{Due, Pace, Progress};

use std::time::Duration;

use crate::sensor::{Reading, Readings, Sensor};
use device::Device;
use dice::{Dice, Topic, round};

/// What the operator may choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub profile: Profile,
    /// 1..=10,000.
    pub devices: usize,
    /// The same seed gives the same readings for the same moments.
    pub seed: u64,
    /// Share of samples whose timestamp is up to 180 minutes old, 0..1.
    pub late: f64,
    /// How many times faster than the wall clock simulated time runs, 1..=3600.
    /// Without `backfill` it runs from the start into the future, for ever.
    pub speed: f64,
    /// How far in the past simulated time begins. The past comes as fast as
    /// the line takes it; where `speed` is above 1, at that speed. Once
    /// simulated time meets the wall clock it goes on beside it.
    pub backfill: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Raspberry Pis at work: load follows the hour and the weekday, heat
    /// follows load, memory leaks, disks fill, now and then one runs hot.
    Realistic,
    /// Noise: `temperature` a whole number 0..=100, `cpu`, `ram` and `hd`
    /// anywhere in 0..1, each equally likely; nothing else.
    Uniform,
}

/// Late samples are at most this old.
const LATEST_MS: u64 = 180 * 60 * 1000;

/// 9999-12-31T23:59:59.999Z.
const LAST_MS: i64 = 253_402_300_799_999;

/// The sensor of devices that do not exist.
#[derive(Debug, Clone)]
pub struct Simulated {
    profile: Profile,
    devices: usize,
    seed: u64,
    late: f64,
}

impl Simulated {
    pub fn new(settings: &Settings) -> Self {
        let Settings { profile, devices, seed, late, .. } = *settings;
        Self { profile, devices, seed, late }
    }

    /// How late the reading comes that was asked for at `at_ms`.
    fn lateness_ms(&self, dice: Dice, at_ms: i64) -> u64 {
        if dice.share(Topic::Late, at_ms) < self.late {
            1 + dice.below(Topic::Lateness, at_ms, LATEST_MS)
        } else {
            0
        }
    }
}

impl Sensor for Simulated {
    fn simulated(&self) -> bool {
        true
    }

    /// `sim-0001` and on, as wide as the last one needs.
    fn device_ids(&self) -> Option<Vec<String>> {
        let width = self.devices.to_string().len().max(4);
        Some((1..=self.devices).map(|number| format!("sim-{number:0width$}")).collect())
    }

    fn read(&mut self, device: usize, at_ms: i64) -> Reading {
        let dice = Dice::new(self.seed, device);
        let late_ms = self.lateness_ms(dice, at_ms);
        let felt_ms = at_ms.saturating_sub_unsigned(late_ms).clamp(0, LAST_MS);
        let readings = match self.profile {
            Profile::Realistic => Device::new(self.seed, device).readings(felt_ms),
            Profile::Uniform => uniform(dice, felt_ms),
        };
        Reading { readings, late: Duration::from_millis(late_ms) }
    }
}

fn uniform(dice: Dice, at_ms: i64) -> Readings {
    let share = |topic| Some(round(dice.share(topic, at_ms), 1e4));
    Readings {
        temperature: Some(dice.below(Topic::Temperature, at_ms, 101) as f64),
        cpu: share(Topic::Cpu),
        ram: share(Topic::Ram),
        hd: share(Topic::Disk),
        ..Readings::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::heat::{THROTTLE_CELSIUS, cap};
    use super::load::{DAY_MS, HOUR_MS, MINUTE_MS};
    use super::*;

    /// Monday 2026-11-23T00:00:00Z.
    const MONDAY_MS: i64 = 1_795_392_000_000;

    fn simulated(profile: Profile, devices: usize, seed: u64, late: f64) -> Simulated {
        let backfill = Duration::ZERO;
        Simulated::new(&Settings { profile, devices, seed, late, speed: 1.0, backfill })
    }

    fn profiles() -> impl Strategy<Value = Profile> {
        prop_oneof![Just(Profile::Realistic), Just(Profile::Uniform)]
    }

    #[test]
    fn ids_are_valid_and_unique() {
        let counts = [(1, "sim-0001"), (10, "sim-0010"), (10_000, "sim-10000")];
        for (devices, last) in counts {
            let ids = simulated(Profile::Uniform, devices, 0, 0.0).device_ids().unwrap();
            assert_eq!((ids.len(), ids.last().unwrap().as_str()), (devices, last));
            let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            assert!(ids.iter().all(|id| id.starts_with("sim-") && id.len() == last.len()));
            assert!(ids.iter().all(|id| id.len() <= 64 && id.chars().all(valid)));
            assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), devices);
        }
    }

    #[test]
    fn a_seed_gives_this_data_and_no_other() {
        // Known readings: who keeps a seed keeps its data set.
        let json = |profile, device, at_ms| {
            let reading = simulated(profile, 10, 7, 0.0).read(device, at_ms);
            serde_json::to_string(&reading.readings).unwrap()
        };
        let known = r#"{"temperature":49.0,"cpu":0.862,"ram":0.1828,"hd":0.7809}"#;
        assert_eq!(json(Profile::Uniform, 3, MONDAY_MS + 1_000), known);
        let known = concat!(
            r#"{"temperature":41.0,"cpu":0.3603,"ram":0.4591,"hd":0.5436,"uptime_s":576277,"#,
            r#""load1":1.46,"swap":0.0,"rx_bytes":13061746096,"tx_bytes":1224184223,"#,
            r#""throttled":0,"disks":[{"mount":"/","fs":"ext4","total_bytes":120000000000,"#,
            r#""used":0.5436,"read_bytes":971933258,"written_bytes":1567659593},"#,
            r#"{"mount":"/boot/firmware","fs":"vfat","total_bytes":536870912,"used":0.1814,"#,
            r#""read_bytes":4500992,"written_bytes":1024}],"#,
            r#""sensors":[{"label":"cpu_thermal temp1","celsius":41.0},"#,
            r#"{"label":"rp1_adc temp1","celsius":38.8}]}"#,
        );
        assert_eq!(json(Profile::Realistic, 3, MONDAY_MS + 10 * HOUR_MS), known);
    }

    proptest! {
        #[test]
        fn a_reading_depends_on_nothing_but_seed_device_and_moment(
            profile in profiles(), seed: u64, late in 0.0..=1.0, device in 0..10_000_usize,
            moments in prop::collection::vec(0..LAST_MS, 1..8),
        ) {
            let mut few = simulated(profile, 1, seed, late);
            let mut many = simulated(profile, 10_000, seed, late);
            let forth: Vec<_> = moments.iter().map(|at| few.read(device, *at)).collect();
            let mut back: Vec<_> = moments.iter().rev().map(|at| many.read(device, *at)).collect();
            back.reverse();
            prop_assert_eq!(forth, back);
        }

        #[test]
        fn a_late_reading_is_the_one_of_its_moment(
            profile in profiles(), seed: u64, at_ms in LATEST_MS as i64..LAST_MS,
        ) {
            let late = simulated(profile, 1, seed, 1.0).read(0, at_ms);
            prop_assert!(late.late > Duration::ZERO && late.late <= Duration::from_secs(180 * 60));
            let felt_ms = at_ms - late.late.as_millis() as i64;
            let readings = simulated(profile, 1, seed, 0.0).read(0, felt_ms).readings;
            prop_assert_eq!(late.readings, readings);
        }

        #[test]
        fn other_seeds_and_devices_differ(
            profile in profiles(), seed: u64, other: u64, device in 0..9_999_usize,
        ) {
            prop_assume!(seed != other);
            let hour = |seed, device| -> Vec<_> {
                let mut sensor = simulated(profile, 10_000, seed, 0.0);
                (0..60).map(|minute| sensor.read(device, MONDAY_MS + minute * MINUTE_MS)).collect()
            };
            prop_assert_ne!(hour(seed, device), hour(other, device));
            prop_assert_ne!(hour(seed, device), hour(seed, device + 1));
        }

        #[test]
        fn readings_are_within_their_ranges(seed: u64, device in 0..10_000_usize, at_ms: i64) {
            let readings = simulated(Profile::Realistic, 1, seed, 0.5).read(device, at_ms).readings;
            let celsius = readings.temperature.unwrap();
            prop_assert!((15.0..100.0).contains(&celsius), "{}", celsius);
            let shares = [readings.cpu, readings.ram, readings.hd, readings.swap];
            for share in shares.into_iter().flatten().chain(readings.disks.iter().map(|d| d.used)) {
                prop_assert!((0.0..=1.0).contains(&share), "{}", share);
                prop_assert!(share.to_string().len() <= 6, "{}", share);
            }
            prop_assert!((0.0..=4.0).contains(&readings.load1.unwrap()));
            prop_assert_eq!(readings.disks[0].used, readings.hd.unwrap());
            prop_assert_eq!(readings.sensors[0].celsius, celsius);
            let throttled = readings.throttled.unwrap();
            prop_assert_eq!(throttled & 0b110 != 0, celsius >= THROTTLE_CELSIUS);
            prop_assert!(throttled & 0b110 == 0 || throttled >> 16 == 0b110);
            prop_assert!(readings.cpu.unwrap() <= cap(celsius) + 1e-4);
        }

        #[test]
        fn counters_grow_with_uptime_and_start_anew_with_it(
            seed: u64, device in 0..10_000_usize, step_ms in 100..HOUR_MS,
        ) {
            let mut sensor = simulated(Profile::Realistic, 1, seed, 0.0);
            let mut last = sensor.read(device, MONDAY_MS).readings;
            for step in 1..200 {
                let next = sensor.read(device, MONDAY_MS + step * step_ms).readings;
                let counters = |r: &Readings| {
                    [r.rx_bytes, r.tx_bytes, r.disks[0].read_bytes, r.disks[0].written_bytes]
                        .map(Option::unwrap)
                };
                let booted = next.uptime_s.unwrap() < last.uptime_s.unwrap();
                for (before, after) in counters(&last).into_iter().zip(counters(&next)) {
                    prop_assert_eq!(after < before, booted, "{} {}", before, after);
                }
                last = next;
            }
        }
    }

    #[test]
    fn memory_leaks_until_a_restart_and_disks_fill_until_they_are_cleaned() {
        for device in 0..50 {
            let mut sensor = simulated(Profile::Realistic, 50, 0, 0.0);
            let hours = (0..24 * 30).map(|hour| sensor.read(device, MONDAY_MS + hour * HOUR_MS));
            let hours: Vec<Readings> = hours.map(|reading| reading.readings).collect();
            let falls = |of: fn(&Readings) -> Option<f64>, by: f64| {
                hours.windows(2).filter(|h| of(&h[0]).unwrap() - of(&h[1]).unwrap() > by).count()
            };
            // A hour's work moves memory by less than 6 %; the smallest leak is 8 %.
            let (resets, cleanings) = (falls(|r| r.ram, 0.06), falls(|r| r.hd, 0.0));
            assert!((7..=90).contains(&resets), "{device}: {resets} resets");
            assert!((2..=15).contains(&cleanings), "{device}: {cleanings} cleanings");
        }
    }

    #[test]
    fn now_and_then_a_device_is_hot_and_throttled() {
        let mut sensor = simulated(Profile::Realistic, 1_000, 0, 0.0);
        let mut hot = BTreeSet::new();
        for device in 0..1_000 {
            for quarter in 0..DAY_MS / (15 * MINUTE_MS) {
                let at_ms = MONDAY_MS + quarter * 15 * MINUTE_MS;
                let readings = sensor.read(device, at_ms).readings;
                if readings.throttled.unwrap() & 0b110 != 0 {
                    // The queue is as long as ever: work waits.
                    assert!(readings.load1.unwrap() > 4.0 * 0.2);
                    hot.insert(device);
                }
            }
        }
        assert!((10..=50).contains(&hot.len()), "{} devices", hot.len());
    }

    #[test]
    fn the_given_share_is_late_by_any_time_up_to_180_minutes() {
        const READINGS: i64 = 20_000;
        for late in [0.0, 0.1, 1.0] {
            let mut sensor = simulated(Profile::Uniform, 1, 3, late);
            let lates: Vec<f64> = (0..READINGS)
                .map(|second| sensor.read(0, MONDAY_MS + second * 1_000).late.as_secs_f64())
                .filter(|late_s| *late_s > 0.0)
                .collect();
            let deviation = (READINGS as f64 * late * (1.0 - late)).sqrt();
            let expected = READINGS as f64 * late;
            assert!((lates.len() as f64 - expected).abs() <= 5.0 * deviation, "{}", lates.len());
            if late > 0.0 {
                let minutes: Vec<usize> = lates.iter().map(|s| (s / 60.0) as usize / 10).collect();
                assert_uniform(&minutes, 18);
            }
        }
    }

    #[test]
    fn uniform_is_uniform() {
        let mut sensor = simulated(Profile::Uniform, 10, 11, 0.0);
        let readings: Vec<Readings> = (0..40_000)
            .map(|n| sensor.read(n % 10, MONDAY_MS + n as i64 / 10 * 1_000).readings)
            .collect();
        let of = |column: fn(&Readings) -> Option<f64>| -> Vec<f64> {
            readings.iter().map(|r| column(r).unwrap()).collect()
        };
        let temperatures = of(|r| r.temperature);
        assert!(temperatures.iter().all(|celsius| celsius.fract() == 0.0));
        assert_uniform(&temperatures.iter().map(|t| *t as usize).collect::<Vec<_>>(), 101);
        let shares = [of(|r| r.cpu), of(|r| r.ram), of(|r| r.hd)];
        for share in &shares {
            assert!(share.iter().all(|share| (0.0..=1.0).contains(share)));
            let cells: Vec<usize> = share.iter().map(|s| ((s * 20.0) as usize).min(19)).collect();
            assert_uniform(&cells, 20);
        }
        // Neither columns nor successive readings of one go together.
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            assert_uncorrelated(shares[a].iter().zip(&shares[b]));
            assert_uncorrelated(shares[a].iter().zip(shares[a].iter().skip(10)));
        }
    }

    /// Pearson's chi-square within six standard deviations of its mean.
    fn assert_uniform(values: &[usize], cells: usize) {
        let mut counts = vec![0_u32; cells];
        values.iter().for_each(|value| counts[*value] += 1);
        let expected = values.len() as f64 / cells as f64;
        let off = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
        let chi_square: f64 = counts.iter().map(off).sum();
        let freedom = (cells - 1) as f64;
        assert!((chi_square - freedom).abs() <= 6.0 * (2.0 * freedom).sqrt(), "{chi_square}");
    }

    /// Of values uniform in 0..1, whose variance is 1/12.
    fn assert_uncorrelated<'a>(pairs: impl Iterator<Item = (&'a f64, &'a f64)>) {
        let products: Vec<f64> = pairs.map(|(a, b)| 12.0 * (a - 0.5) * (b - 0.5)).collect();
        let correlation = products.iter().sum::<f64>() / products.len() as f64;
        let limit = 5.0 / (products.len() as f64).sqrt();
        assert!(correlation.abs() <= limit, "{correlation}");
    }
}
