//! The head of the line: sensors are read when it is time, and numbered.

use std::time::Duration;

use crate::agent::millis;
use crate::clock::Moment;
use crate::config::Config;
use crate::record::{Backlog, Recorder, Run};
use crate::sensor::Sensor;
use crate::sensor::simulated::{Due, Pace, Progress};
use crate::spool::Spool;

/// Devices sampled before the rest of the line gets its turn.
const DEVICES_A_STEP: usize = 256;

pub struct Sampler {
    sensor: Box<dyn Sensor>,
    recorder: Recorder,
    pace: Pace,
    /// The moment being sampled, and the next device to ask.
    current: Option<(Moment, usize)>,
    temperature: Option<f64>,
    interval_ms: u64,
    /// When it last sampled.
    last: Option<Moment>,
    /// Boot time (ms) of when it last sampled, or waited for room.
    last_turn_ms: u64,
    said_wait: bool,
}

impl Sampler {
    pub fn new(config: &Config, sensor: Box<dyn Sensor>, run: Run, start: &Moment) -> Self {
        let interval = config.sample.interval;
        let pace = match &config.simulate {
            Some(settings) => Pace::new(settings.speed, settings.backfill, interval, start),
            None => Pace::new(1.0, Duration::ZERO, interval, start),
        };
        let recorder = Recorder::new(&config.device, &*sensor, run);
        Self {
            sensor,
            recorder,
            pace,
            current: None,
            temperature: None,
            interval_ms: millis(interval),
            last: None,
            last_turn_ms: start.boot_ms,
            said_wait: false,
        }
    }

    /// Goes on as `config` says, with `sensor` if there is a new one, and where
    /// the interval has changed with a sample at `now`.
    pub fn change(
        &mut self,
        config: &Config,
        sensor: Option<Box<dyn Sensor>>,
        now: Option<&Moment>,
    ) {
        self.recorder.label(&config.device);
        if let Some(sensor) = sensor {
            self.sensor = sensor;
        }
        if let Some(now) = now {
            self.interval_ms = millis(config.sample.interval);
            self.pace = Pace::new(1.0, Duration::ZERO, config.sample.interval, now);
        }
    }

    pub fn run(&self) -> Run {
        self.recorder.run()
    }

    /// Takes the samples that are due, as far as the spool has room for
    /// simulated ones; returns the boot time (ms) of the next, which is `now`
    /// where there is more to do at once.
    pub fn step(&mut self, now: &Moment, spool: &mut Spool) -> u64 {
        if self.waits(spool) {
            self.last_turn_ms = now.boot_ms;
            // The spool's thread or a delivery makes room and wakes the line;
            // this is only how long one that does neither is waited for.
            return now.boot_ms + 100;
        }
        let (moment, device) = match self.current.take() {
            Some(current) => current,
            None => match self.pace.next(now) {
                Due::Sample(moment) => (moment, 0),
                Due::Wait(wait) => return after(now, wait),
            },
        };
        (self.last, self.last_turn_ms) = (Some(*now), now.boot_ms);
        let devices = self.recorder.devices().len();
        let end = (device + DEVICES_A_STEP).min(devices);
        let backlog = backlog(spool, now);
        for device in device..end {
            let reading = self.sensor.read(device, moment.wall_ms);
            if device == 0 {
                self.temperature = reading.readings.temperature;
            }
            if let Some(sample) = self.recorder.record(device, reading, moment, backlog) {
                let seq = sample.seq;
                spool.push(sample, self.sensor.simulated(), now.boot_ms);
                if device + 1 == devices {
                    spool.all_have(seq);
                }
            }
        }
        self.current = (end < devices).then_some((moment, end));
        if self.current.is_some() { now.boot_ms } else { after(now, self.pace.wait(now)) }
    }

    /// Whether simulated samples wait for room: of the past none is to evict
    /// another.
    pub fn waits(&mut self, spool: &Spool) -> bool {
        let past = self.pace.backfill().is_some() && !spool.space();
        if past && !std::mem::replace(&mut self.said_wait, true) {
            tracing::info!("the spool is nearly full: the simulated past waits for deliveries");
        }
        past || (self.sensor.simulated() && !spool.room())
    }

    pub fn temperature(&self) -> Option<f64> {
        self.temperature
    }

    pub fn interval_ms(&self) -> u64 {
        self.interval_ms
    }

    /// Boot time (ms) of when it last sampled, or had to wait for room.
    pub fn last_turn_ms(&self) -> u64 {
        self.last_turn_ms
    }

    /// Wall time (ms) of when it last sampled.
    pub fn last_ms(&self) -> Option<i64> {
        self.last.map(|last| last.wall_ms)
    }

    /// Samples of the past made so far, and how many there will be.
    pub fn backfill(&self) -> Option<(u64, u64)> {
        let devices = self.recorder.devices().len() as u64;
        let Progress { done, total } = self.pace.backfill()?;
        Some((done * devices, total * devices))
    }
}

/// The boot time (ms) that comes `wait` after `now`.
fn after(now: &Moment, wait: Duration) -> u64 {
    now.boot_ms + millis(wait)
}

/// The spool's backlog as it goes into a sample.
pub fn backlog(spool: &Spool, now: &Moment) -> Backlog {
    let (bytes, oldest_wall_ms) = spool.backlog();
    let age_ms = oldest_wall_ms.map_or(0, |oldest| now.wall_ms.saturating_sub(oldest).max(0));
    Backlog { bytes, age_s: age_ms.unsigned_abs() / 1000 }
}
