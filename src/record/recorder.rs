//! From readings to samples.

use std::sync::Arc;

use serde::Serialize;

use crate::clock::Moment;
use crate::record::{Run, Sample, Settings};
use crate::sensor::{Reading, Readings, Sensor};

/// A body's bytes at most, compressed where it is longer than that: a frame of
/// one sample must fit 7 KiB, and this leaves room for its header.
pub const MAX_BODY_BYTES: usize = 6 * 1024;

/// The same uncompressed: hundreds of sensors and file systems.
const MAX_PLAIN_BYTES: usize = 64 * 1024;

/// The agent's own spool, as it goes into each sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes not yet delivered.
    pub bytes: u64,
    /// Age of the oldest sample not yet delivered, in seconds.
    pub age_s: u64,
}

/// Numbers readings and renders them.
#[derive(Debug)]
pub struct Recorder {
    devices: Vec<Arc<str>>,
    next_seq: Vec<u64>,
    run: Run,
    simulated: bool,
    tail: String,
    said_too_long: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    simulated: bool,
    #[serde(flatten)]
    readings: &'a Readings,
    backlog_bytes: u64,
    backlog_age_s: u64,
}

impl Recorder {
    /// A recorder for the devices `sensor` speaks for; this host is called
    /// `settings.id`.
    pub fn new(settings: &Settings, sensor: &dyn Sensor, run: Run) -> Self {
        let ids = sensor.device_ids().unwrap_or_else(|| vec![settings.id.clone()]);
        Self {
            next_seq: vec![0; ids.len()],
            devices: ids.into_iter().map(Arc::from).collect(),
            run,
            simulated: sensor.simulated(),
            tail: tail(settings),
            said_too_long: false,
        }
    }

    /// Samples carry the labels of `settings` from now on.
    pub fn label(&mut self, settings: &Settings) {
        self.tail = tail(settings);
    }

    /// The devices' ids, in the sensor's order.
    pub fn devices(&self) -> &[Arc<str>] {
        &self.devices
    }

    pub fn run(&self) -> Run {
        self.run
    }

    /// The next sample of device number `device`; `None` if there is no such
    /// device. `at` is when the reading was asked for.
    pub fn record(
        &mut self,
        device: usize,
        reading: Reading,
        at: Moment,
        backlog: Backlog,
    ) -> Option<Sample> {
        let (id, next) = (self.devices.get(device)?, self.next_seq.get_mut(device)?);
        let seq = *next;
        *next += 1;
        let (device, at) = (Arc::clone(id), at.earlier(reading.late));
        let body = self.body(reading.readings, backlog);
        Some(Sample { device, run: self.run, seq, at, body })
    }

    fn body(&mut self, mut readings: Readings, backlog: Backlog) -> Box<str> {
        loop {
            let body = Body {
                simulated: self.simulated,
                readings: &readings,
                backlog_bytes: backlog.bytes,
                backlog_age_s: backlog.age_s,
            };
            // Readings are numbers, strings and lists of them: always JSON.
            let json = serde_json::to_string(&body).unwrap_or_else(|_| "{}".into());
            let inner = json.get(1..json.len() - 1).unwrap_or_default();
            let body = format!("{inner}{}", self.tail);
            // What is left without the lists is a few hundred bytes and the
            // labels, which the config bounds.
            if fits(&body) || (readings.disks.is_empty() && readings.sensors.is_empty()) {
                return body.into_boxed_str();
            }
            if !std::mem::replace(&mut self.said_too_long, true) {
                tracing::warn!(
                    disks = readings.disks.len(),
                    sensors = readings.sensors.len(),
                    "a sample does not fit {MAX_BODY_BYTES} bytes: \
                     the end of its disks and sensors lists is left out"
                );
            }
            readings.disks.truncate(readings.disks.len() / 2);
            readings.sensors.truncate(readings.sensors.len() / 2);
        }
    }
}

/// What every body ends with.
fn tail(settings: &Settings) -> String {
    let mut tail = String::new();
    if !settings.labels.is_empty() {
        let labels = serde_json::to_string(&settings.labels).unwrap_or_else(|_| "{}".into());
        tail = format!(",\"labels\":{labels}");
    }
    tail + concat!(",\"agent_version\":\"", env!("CARGO_PKG_VERSION"), "\"")
}

fn fits(body: &str) -> bool {
    let packed = || lz4_flex::block::compress(body.as_bytes()).len();
    body.len() <= MAX_BODY_BYTES || (body.len() <= MAX_PLAIN_BYTES && packed() <= MAX_BODY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::DiskReading;

    struct OneHost;

    impl Sensor for OneHost {
        fn simulated(&self) -> bool {
            false
        }
        fn device_ids(&self) -> Option<Vec<String>> {
            None
        }
        fn read(&mut self, _: usize, _: i64) -> Reading {
            Reading::default()
        }
    }

    fn recorder() -> Recorder {
        let settings =
            Settings { id: "pi-attic".into(), labels: [("site".into(), "at\"tic".into())].into() };
        Recorder::new(&settings, &OneHost, Run(9))
    }

    const AT: Moment = Moment { wall_ms: 10, boot_ms: 10, synced: true };

    #[test]
    fn seqs_count_from_zero_and_the_body_is_json() {
        let mut recorder = recorder();
        let readings = Readings { cpu: Some(0.25), ..Readings::default() };
        let reading = Reading { readings, late: std::time::Duration::ZERO };
        let first = recorder.record(0, reading.clone(), AT, Backlog::default()).unwrap();
        let second = recorder.record(0, reading, AT, Backlog::default()).unwrap();
        assert_eq!((first.seq, second.seq), (0, 1));
        let value: serde_json::Value =
            serde_json::from_str(&format!("{{{}}}", first.body)).unwrap();
        assert_eq!(value["cpu"], 0.25);
        assert_eq!(value["labels"]["site"], "at\"tic");
        assert_eq!(value["simulated"], false);
        assert!(value.get("temperature").is_none());
    }

    #[test]
    fn a_host_of_a_thousand_mounts_still_fits_a_frame() {
        let disk = |n: usize| DiskReading {
            mount: format!("/srv/{n:04}"),
            fs: "ext4".into(),
            total_bytes: n as u64,
            used: 0.5,
            read_bytes: None,
            written_bytes: None,
        };
        let readings = Readings { disks: (0..1000).map(disk).collect(), ..Readings::default() };
        let reading = Reading { readings, late: std::time::Duration::ZERO };
        let sample = recorder().record(0, reading, AT, Backlog::default()).unwrap();
        assert!(fits(&sample.body));
        assert!(sample.body.contains("/srv/0000"));
    }
}
