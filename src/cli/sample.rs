//! `sample`: one record of this host, read anew.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};

use crate::agent;
use crate::cli::terminal::{Page, columns, percent, wants_json};
use crate::clock::{self, Clock, Moment};
use crate::config::Config;
use crate::record::{Backlog, Line, Recorder, Run, dated};
use crate::sensor::{Reading, Readings, Sensor};

/// sysinfo works a CPU share out over 200 ms at least.
const CPU_SPAN: Duration = Duration::from_millis(250);

pub fn sample(config: &Config, json: bool, watch: bool) -> anyhow::Result<ExitCode> {
    let mut sampler = Sampler::new(config);
    let json = wants_json(json);
    let mut page = Page::default();
    // The first reading has no span to work the CPU share out over.
    sampler.read();
    sleep(CPU_SPAN);
    loop {
        let (at, readings) = sampler.read();
        if json {
            io::stdout().lock().write_all(&sampler.lines(readings, at))?;
        } else {
            page.show(&sampler.table(&readings, &at))?;
        }
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(config.sample.interval);
    }
}

struct Sampler<'a> {
    config: &'a Config,
    clock: Clock,
    sensor: Box<dyn Sensor>,
    recorder: Recorder,
}

impl<'a> Sampler<'a> {
    fn new(config: &'a Config) -> Self {
        let sensor = agent::open_sensor(config);
        // No run of an agent: 0 is drawn by none.
        let recorder = Recorder::new(&config.device, sensor.as_ref(), Run(0));
        Self { config, clock: Clock::new(), sensor, recorder }
    }

    /// One reading a device.
    fn read(&mut self) -> (Moment, Vec<Reading>) {
        let at = self.clock.now();
        let devices = 0..self.recorder.devices().len();
        (at, devices.map(|device| self.sensor.read(device, at.wall_ms)).collect())
    }

    /// The records as a sink would get them.
    fn lines(&mut self, readings: Vec<Reading>, at: Moment) -> Vec<u8> {
        let timestamp_sent = clock::partition_hour(at.wall_ms);
        let mut lines = Vec::new();
        for (device, reading) in readings.into_iter().enumerate() {
            let sample = self.recorder.record(device, reading, at, Backlog::default());
            let Some(sample) = sample else {
                continue;
            };
            let (timestamp_ms, clock) = dated(&sample.at, None);
            let line = Line {
                device: &sample.device,
                run: sample.run,
                seq: sample.seq,
                timestamp_ms,
                clock,
                timestamp_sent: &timestamp_sent,
                body: &sample.body,
            };
            line.render(&mut lines);
        }
        lines
    }

    fn table(&self, readings: &[Reading], at: &Moment) -> String {
        let devices = self.recorder.devices();
        match (devices, readings) {
            ([device], [reading]) => self.card(device, &reading.readings, at),
            _ => {
                let head = ["device", "temperature", "cpu", "ram", "hd"];
                let mut rows = vec![head.map(String::from)];
                rows.extend(devices.iter().zip(readings).map(|(device, reading)| {
                    let Readings { temperature, cpu, ram, hd, .. } = reading.readings;
                    let [cpu, ram, hd] = [cpu, ram, hd].map(share);
                    [device.to_string(), celsius(temperature), cpu, ram, hd]
                }));
                columns(&rows)
            }
        }
    }

    fn card(&self, device: &str, readings: &Readings, at: &Moment) -> String {
        let simulated = if self.sensor.simulated() { ", simulated" } else { "" };
        let (_, clock) = dated(at, None);
        let disk = self.config.sample.host.disk.display();
        let (rx, tx) = (readings.rx_bytes, readings.tx_bytes);
        let network = format!("{} received, {} sent since boot", bytes(rx), bytes(tx));
        let uptime = readings.uptime_s.map(|s| HumanDuration(Duration::from_secs(s)));
        let mut rows = vec![
            ["device".into(), format!("{device}{simulated}")],
            ["time".into(), format!("{} {}", clock::rfc3339(at.wall_ms), clock.name())],
            ["temperature".into(), celsius(readings.temperature)],
            ["cpu".into(), share(readings.cpu)],
            ["ram".into(), share(readings.ram)],
            ["hd".into(), format!("{} of {disk}", share(readings.hd))],
            ["swap".into(), share(readings.swap)],
            ["load".into(), readings.load1.map_or_else(none, |load| format!("{load:.2}"))],
            ["uptime".into(), uptime.map_or_else(none, |time| time.to_string())],
            ["network".into(), network],
        ];
        if let Some(flags) = readings.throttled {
            rows.push(["throttled".into(), throttled(flags)]);
        }
        let first = |name: &str, n: usize| if n == 0 { name.to_owned() } else { String::new() };
        for (n, disk) in readings.disks.iter().enumerate() {
            let (used, total) = (percent(disk.used), HumanBytes(disk.total_bytes));
            let text = format!("{used} of {total}, {} {}", disk.fs, disk.mount);
            rows.push([first("disks", n), text]);
        }
        for (n, sensor) in readings.sensors.iter().enumerate() {
            let text = format!("{:.1} °C, {}", sensor.celsius, sensor.label);
            rows.push([first("sensors", n), text]);
        }
        for (n, (key, value)) in self.config.device.labels.iter().enumerate() {
            rows.push([first("labels", n), format!("{key} = {value}")]);
        }
        columns(&rows)
    }
}

fn none() -> String {
    "none".into()
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(none, percent)
}

fn celsius(celsius: Option<f64>) -> String {
    celsius.map_or_else(none, |celsius| format!("{celsius:.1} °C"))
}

fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(none, |bytes| HumanBytes(bytes).to_string())
}

/// The firmware's flags in words: bits 0 to 3 hold now, 16 to 19 held since
/// boot (<https://www.raspberrypi.com/documentation/computers/os.html#get_throttled>).
fn throttled(flags: u64) -> String {
    const NAMES: [&str; 4] =
        ["under-voltage", "frequency capped", "throttled", "soft temperature limit"];
    let set = |shift: usize, when: &str| {
        let bits = NAMES.iter().enumerate().filter(move |(bit, _)| flags >> (bit + shift) & 1 == 1);
        bits.map(|(_, name)| format!("{name} {when}")).collect::<Vec<_>>()
    };
    let words = [set(0, "now"), set(16, "since boot")].concat();
    if words.is_empty() { "never".into() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttled_flags_are_words() {
        assert_eq!(throttled(0), "never");
        let words = throttled(0x5_0005);
        assert!(words.starts_with("under-voltage now, throttled now, under-voltage since boot"));
    }
}
