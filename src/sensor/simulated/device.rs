//! One realistic device: a Raspberry Pi with a character of its own.

use super::dice::{Dice, Topic, round};
use super::heat::{self, Cooling, THROTTLE_CELSIUS};
use super::load::{DAY_MS, HOUR_MS, Load, MINUTE_MS, QUIETEST};
use crate::sensor::{DiskReading, Readings, ThermalReading};

/// Bits of `vcgencmd get_throttled` (Raspberry Pi documentation): frequency
/// capped and throttled at this moment, and both of them before it.
const THROTTLED: u64 = 1 << 1 | 1 << 2;
const HAS_THROTTLED: u64 = THROTTLED << 16;

const CORES: f64 = 4.0;
const BOOT_PARTITION_BYTES: u64 = 512 * 1024 * 1024;
const MB: f64 = 1e6;

/// What makes a device differ from the others of its seed.
#[derive(Debug)]
pub(super) struct Device {
    dice: Dice,
    load: Load,
    cooling: Cooling,
    /// It starts anew each such period, this long before multiples of it.
    boot_every_ms: i64,
    boot_phase_ms: i64,
    /// A service leaks memory until it is restarted, by itself or by a boot.
    leak_every_ms: i64,
    ram: f64,
    leak: f64,
    /// Files gather until they are cleaned up.
    clean_every_ms: i64,
    hd: f64,
    fill: f64,
    card_bytes: u64,
    boot_used: f64,
    /// Bytes in an hour of the greatest demand.
    received: f64,
    sent: f64,
    read: f64,
    written: f64,
    /// The Raspberry Pi 5 has a second thermal sensor.
    second_sensor: bool,
}

impl Device {
    pub fn new(seed: u64, device: usize) -> Self {
        let dice = Dice::new(seed, device);
        let mut index = 0;
        let mut between = |low: f64, high: f64| {
            index += 1;
            low + (high - low) * dice.share(Topic::Character, index)
        };
        let load = Load {
            dice,
            zone_ms: between(-120.0, 120.0) as i64 * MINUTE_MS,
            idle: between(0.02, 0.08),
            busy: between(0.25, 0.6),
            job_every_min: 30 * between(1.0, 9.0) as i64,
            job_min: between(3.0, 13.0) as i64,
            job: between(0.15, 0.4),
        };
        let cooling = Cooling {
            dice,
            room: between(17.0, 23.0),
            resistance: between(4.0, 6.5),
            lag_min: between(5.0, 9.0),
        };
        let boot_every_ms = between(8.0, 45.0) as i64 * DAY_MS;
        let clean_every_ms = between(48.0, 300.0) as i64 * HOUR_MS;
        Self {
            dice,
            load,
            cooling,
            boot_every_ms,
            boot_phase_ms: (between(0.0, 1.0) * boot_every_ms as f64) as i64,
            leak_every_ms: between(8.0, 100.0) as i64 * HOUR_MS,
            ram: between(0.22, 0.42),
            leak: between(0.08, 0.4),
            clean_every_ms,
            hd: between(0.2, 0.45),
            fill: between(0.15, 0.45),
            card_bytes: (15_000 * MB as u64) << between(0.0, 4.0) as u32,
            boot_used: round(between(0.1, 0.2), 1e4),
            received: between(20.0, 200.0) * MB,
            sent: between(5.0, 80.0) * MB,
            read: between(1.0, 20.0) * MB,
            written: between(10.0, 60.0) * MB,
            second_sensor: between(0.0, 1.0) < 0.4,
        }
    }

    /// How it feels at `at_ms`.
    pub fn readings(&self, at_ms: i64) -> Readings {
        let dice = self.dice;
        let uptime_ms = (at_ms + self.boot_phase_ms).rem_euclid(self.boot_every_ms);
        let chip = self.cooling.chip(&self.load, at_ms);
        let throttled = if chip.celsius >= THROTTLE_CELSIUS { THROTTLED } else { 0 };
        let has_throttled = if chip.was_throttled { HAS_THROTTLED } else { 0 };
        let demand = self.load.at(at_ms);
        let cpu = demand.min(heat::cap(chip.celsius)) - 0.03 * dice.share(Topic::Cpu, at_ms);
        let leaked = (uptime_ms % self.leak_every_ms) as f64 / self.leak_every_ms as f64;
        let noise = 0.01 * dice.curve(Topic::Ram, at_ms, MINUTE_MS);
        let ram = self.ram + self.leak * leaked + 0.06 * demand + noise;
        let hd = round(self.used(at_ms), 1e4);
        let work = self.load.work_hours(at_ms) - self.load.work_hours(at_ms - uptime_ms);
        Readings {
            temperature: Some(chip.celsius),
            cpu: Some(round(cpu.max(0.0), 1e4)),
            ram: Some(round(ram, 1e4)),
            hd: Some(hd),
            uptime_s: Some(uptime_ms.unsigned_abs() / 1000),
            load1: Some(round(CORES * self.load.at(at_ms - MINUTE_MS / 2), 1e2)),
            swap: Some(round((ram - 0.55).max(0.0), 1e4)),
            rx_bytes: Some(self.bytes(self.received, Topic::Received, at_ms, work)),
            tx_bytes: Some(self.bytes(self.sent, Topic::Sent, at_ms, work)),
            throttled: Some(throttled | has_throttled),
            disks: vec![
                DiskReading {
                    mount: "/".into(),
                    fs: "ext4".into(),
                    total_bytes: self.card_bytes,
                    used: hd,
                    read_bytes: Some(self.bytes(self.read, Topic::Read, at_ms, work)),
                    written_bytes: Some(self.bytes(self.written, Topic::Written, at_ms, work)),
                },
                DiskReading {
                    mount: "/boot/firmware".into(),
                    fs: "vfat".into(),
                    total_bytes: BOOT_PARTITION_BYTES,
                    used: self.boot_used,
                    read_bytes: Some(4_500_992),
                    written_bytes: Some(1_024),
                },
            ],
            sensors: self.sensors(chip.celsius),
        }
    }

    fn sensors(&self, celsius: f64) -> Vec<ThermalReading> {
        let mut sensors = vec![ThermalReading { label: "cpu_thermal temp1".into(), celsius }];
        if self.second_sensor {
            let celsius = round(0.8 * celsius + 6.0, 1e1);
            sensors.push(ThermalReading { label: "rp1_adc temp1".into(), celsius });
        }
        sensors
    }

    /// 0..1 of the card: each period fills it to a height of its own.
    fn used(&self, at_ms: i64) -> f64 {
        let period = at_ms.div_euclid(self.clean_every_ms);
        let within = at_ms.rem_euclid(self.clean_every_ms) as f64 / self.clean_every_ms as f64;
        self.hd + self.fill * (0.5 + 0.5 * self.dice.share(Topic::Disk, period)) * within
    }

    /// A counter since boot that grows with the daily curve, at `per_hour`
    /// when demand is greatest, and unevenly from minute to minute.
    fn bytes(&self, per_hour: f64, topic: Topic, at_ms: i64, work_hours: f64) -> u64 {
        // Within a minute it takes back less than the quietest minute gives.
        let unevenness = 0.9 * QUIETEST / 60.0 * self.dice.curve(topic, at_ms, MINUTE_MS);
        (per_hour * (work_hours + unevenness)) as u64
    }
}
