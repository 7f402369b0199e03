//! The head of the line, for benchmarks of what comes after it.

use std::collections::BTreeMap;
use std::time::Duration;

use iot_agent::clock::Moment;
use iot_agent::record::{Backlog, Recorder, Run, Sample, Settings};
use iot_agent::sensor::Sensor;
use iot_agent::sensor::simulated::{self, Profile, Simulated};

/// Monday 2026-11-23T10:00:00Z.
pub const START_MS: i64 = 1_795_428_000_000;

/// One simulated device and the recorder of its readings.
pub struct Head {
    pub sensor: Simulated,
    pub recorder: Recorder,
}

impl Head {
    pub fn new(profile: Profile) -> Self {
        let (speed, backfill) = (1.0, Duration::ZERO);
        let settings =
            simulated::Settings { profile, devices: 1, seed: 0, late: 0.0, speed, backfill };
        let sensor = Simulated::new(&settings);
        let device = Settings { id: String::new(), labels: BTreeMap::new() };
        // A run as long as those that are drawn: most of 2^53.
        let recorder = Recorder::new(&device, &sensor, Run(4_503_599_627_370_497));
        Self { sensor, recorder }
    }

    /// The sample `after_s` seconds after the start.
    pub fn sample(&mut self, after_s: i64) -> Option<Sample> {
        let wall_ms = START_MS + after_s * 1_000;
        let at = Moment { wall_ms, boot_ms: (after_s * 1_000).unsigned_abs(), synced: true };
        let backlog = Backlog { bytes: 4_096, age_s: 30 };
        self.recorder.record(0, self.sensor.read(0, wall_ms), at, backlog)
    }
}
