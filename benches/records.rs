//! What one sample costs from its reading to the line that a sink gets.

mod line;

use divan::{Bencher, black_box};
use iot_agent::clock;
use iot_agent::record::{Backlog, ClockState, Line};
use iot_agent::sensor::Sensor;
use iot_agent::sensor::simulated::Profile;
use line::{Head, START_MS};

fn main() {
    divan::main();
}

const PROFILES: [Profile; 2] = [Profile::Realistic, Profile::Uniform];

/// From readings to a sample with its body rendered.
#[divan::bench(args = PROFILES)]
fn body(bencher: Bencher, profile: Profile) {
    let mut head = Head::new(profile);
    let Some(sample) = head.sample(0) else { return };
    let reading = head.sensor.read(0, START_MS);
    bencher
        .counter(divan::counter::BytesCount::new(sample.body.len()))
        .with_inputs(|| reading.clone())
        .bench_local_values(|reading| {
            head.recorder.record(0, reading, sample.at, Backlog::default())
        });
}

/// From a sample to its line.
#[divan::bench(args = PROFILES)]
fn line_render(bencher: Bencher, profile: Profile) {
    let Some(sample) = Head::new(profile).sample(0) else { return };
    let timestamp_sent = clock::partition_hour(START_MS);
    let line = Line {
        device: &sample.device,
        run: sample.run,
        seq: sample.seq,
        timestamp_ms: sample.at.wall_ms,
        clock: ClockState::Synced,
        timestamp_sent: &timestamp_sent,
        body: &sample.body,
    };
    let mut out = Vec::new();
    line.render(&mut out);
    bencher.counter(divan::counter::BytesCount::new(out.len())).bench_local(|| {
        out.clear();
        black_box(&line).render(&mut out);
    });
}
