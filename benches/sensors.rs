//! What one reading costs.
//!
//! A host's sensors are measured as an agent meets them, caches cold after a
//! pause, and back to back. Back to back leaves column `cpu` out, for sysinfo
//! reads `/proc/stat` every 200 ms at most. Disks are not in it: a thread of
//! their own reads those each 10 s.

use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;

use divan::Bencher;
use iot_agent::sensor::Sensor;
use iot_agent::sensor::host::{self, HostSensor};
use iot_agent::sensor::simulated::{Profile, Settings, Simulated};
use sysinfo::System;

fn main() {
    divan::main();
}

/// Monday 2026-11-23T10:00:00Z.
const START_MS: i64 = 1_795_428_000_000;

/// Longer than the 200 ms that sysinfo wants between two readings of the CPU.
const PAUSE: Duration = Duration::from_millis(250);

fn host_sensor() -> HostSensor {
    HostSensor::new(&host::Settings { disk: "/".into(), temperature_sensor: None })
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn host_after_a_pause(bencher: Bencher) {
    let mut sensor = host_sensor();
    bencher.with_inputs(|| sleep(PAUSE)).bench_local_values(|()| sensor.read(0, START_MS));
}

#[divan::bench]
fn host_back_to_back(bencher: Bencher) {
    let mut sensor = host_sensor();
    // The first one waits for the disks to be listed.
    sensor.read(0, START_MS);
    bencher.bench_local(|| sensor.read(0, START_MS));
}

/// The floor of `host_after_a_pause`: CPU, memory and load by sysinfo alone.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn sysinfo_after_a_pause(bencher: Bencher) {
    let Ok(mut system) = System::new() else { return };
    bencher.with_inputs(|| sleep(PAUSE)).bench_local_values(|()| {
        system.refresh_cpu_usage();
        system.refresh_memory();
        System::load_average()
    });
}

#[divan::bench(args = [Profile::Realistic, Profile::Uniform])]
fn simulated(bencher: Bencher, profile: Profile) {
    let (devices, speed, backfill) = (10_000, 1.0, Duration::ZERO);
    let settings = Settings { profile, devices, seed: 0, late: 0.01, speed, backfill };
    let mut sensor = Simulated::new(&settings);
    // Device after device, second after second.
    let mut device = 0;
    let mut at_ms = START_MS;
    bencher.bench_local(|| {
        device = (device + 1) % devices;
        at_ms += 1_000;
        sensor.read(black_box(device), black_box(at_ms))
    });
}
