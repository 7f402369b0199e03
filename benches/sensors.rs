//! What one reading costs.

use std::time::Duration;

use divan::{Bencher, black_box};
use iot_agent::sensor::Sensor;
use iot_agent::sensor::simulated::{Profile, Settings, Simulated};

fn main() {
    divan::main();
}

/// Monday 2026-11-23T10:00:00Z.
const START_MS: i64 = 1_795_428_000_000;

#[divan::bench(args = [Profile::Realistic, Profile::Uniform])]
fn simulated(bencher: Bencher, profile: Profile) {
    let (devices, speed, backfill) = (10_000, 1.0, Duration::ZERO);
    let settings = Settings { profile, devices, seed: 0, late: 0.01, speed, backfill };
    read(bencher, &mut Simulated::new(&settings), devices);
}

/// Device after device, second after second.
fn read(bencher: Bencher, sensor: &mut dyn Sensor, devices: usize) {
    let mut device = 0;
    let mut at_ms = START_MS;
    bencher.bench_local(|| {
        device = (device + 1) % devices;
        at_ms += 1_000;
        sensor.read(black_box(device), black_box(at_ms))
    });
}
