//! `check`: would it start, and would the sink take data?
//!
//! It runs what a start runs, and leaves nothing behind: files made on the way
//! would belong to whoever checks, often root, and shut the agent's user out.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::agent;
use crate::aws;
use crate::cli::terminal::{colours, percent};
use crate::cli::{CONFIG, Common, FAILURE, UNAVAILABLE};
use crate::clock::Clock;
use crate::config::model::Sink;
use crate::config::{Config, Loaded};
use crate::drain::{Order, Wire, line_bytes};
use crate::record::{Backlog, Recorder, Run};
use crate::sensor::Readings;
use crate::spool::{self, Claim};

/// How long the sink may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

const DAY: Duration = Duration::from_secs(86_400);

/// A seq as long as those of a run that has gone on for a while.
const MANY: u64 = 10_000_000;

/// sysinfo works a CPU share out over 200 ms at least.
const CPU_SPAN: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    part: &'static str,
    status: Status,
    text: String,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, part: &'static str, status: Status, text: impl Into<String>) {
        self.0.push(Finding { part, status, text: text.into() });
    }

    /// Whether it went well.
    fn tried(&mut self, part: &'static str, result: Result<String, String>) -> bool {
        let usable = result.is_ok();
        let status = if usable { Status::Ok } else { Status::Error };
        let (Ok(text) | Err(text)) = result;
        self.add(part, status, text);
        usable
    }
}

pub fn check(options: Common, json: bool, offline: bool) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let code = match crate::config::load(&options.request()?) {
        Ok(loaded) => {
            configuration(&loaded, &mut findings);
            line(&loaded.config, offline, &mut findings)?
        }
        Err(errors) => {
            findings.add("config", Status::Error, errors.to_string());
            CONFIG
        }
    };
    print(&findings, code == 0, json)?;
    Ok(ExitCode::from(code))
}

fn configuration(loaded: &Loaded, findings: &mut Findings) {
    if loaded.sources.is_empty() {
        findings.add("config", Status::Ok, "no file, so the defaults hold");
    }
    for source in &loaded.sources {
        findings.add("config", Status::Ok, source.display().to_string());
    }
    for warning in &loaded.warnings {
        findings.add("config", Status::Warning, warning);
    }
}

/// Tries the line part by part; returns the exit code.
fn line(config: &Config, offline: bool, findings: &mut Findings) -> anyhow::Result<u8> {
    clock(findings);
    let sample_bytes = sensors(config, findings);
    let spool = spool(&config.spool, findings);
    credentials(config, findings);
    let sink = offline || sink(config, sample_bytes, findings)?;
    Ok(match (spool, sink) {
        (false, _) => FAILURE,
        (true, false) => UNAVAILABLE,
        (true, true) => 0,
    })
}

fn clock(findings: &mut Findings) {
    let clock = Clock::new();
    let now = clock.now();
    if now.synced {
        findings.add("clock", Status::Ok, "synchronised");
    } else if clock.settled(&now) {
        let text = "not synchronised; the battery clock is believed";
        findings.add("clock", Status::Ok, text);
    } else {
        let text = "not synchronised: delivery waits for clock.wait; is a time service running?";
        findings.add("clock", Status::Warning, text);
    }
}

/// A sensor that is missing never stops an agent: nothing here is an error.
/// Returns about how many bytes the samples of one interval are on their way.
fn sensors(config: &Config, findings: &mut Findings) -> u64 {
    let mut sensor = agent::open_sensor(config);
    let now = Clock::new().now();
    let mut recorder = Recorder::new(&config.device, &*sensor, Run(1 << 52));
    let backlog = Backlog { bytes: 0, age_s: 0 };
    let mut line_bytes = |reading| {
        let sample = recorder.record(0, reading, now, backlog);
        sample.map_or(0, |sample| line_bytes(&sample.device, sample.run.0, MANY, &sample.body))
    };
    if let Some(devices) = sensor.device_ids() {
        findings.add("sensors", Status::Ok, format!("{} simulated devices", devices.len()));
        return (line_bytes(sensor.read(0, now.wall_ms)) * devices.len()) as u64;
    }
    sensor.read(0, now.wall_ms);
    sleep(CPU_SPAN);
    let reading = sensor.read(0, now.wall_ms);
    let sample_bytes = line_bytes(reading.clone()) as u64;
    let Readings { temperature, cpu, ram, hd, disks, sensors, .. } = reading.readings;
    let host = &config.sample.host;
    let disk = host.disk.display();
    let hd = ("hd", hd, format!(" of {disk}"), ": set sample.disk to a folder on a mounted disk");
    for (name, share, place, remedy) in
        [("cpu", cpu, String::new(), ""), ("ram", ram, String::new(), ""), hd]
    {
        let (status, text) = match share {
            Some(share) => (Status::Ok, format!("{name} {}{place}", percent(share))),
            None => (Status::Warning, format!("{name}{place} cannot be read{remedy}")),
        };
        findings.add("sensors", status, text);
    }
    let labels: Vec<&str> = sensors.iter().map(|sensor| sensor.label.as_str()).collect();
    let known = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    let (status, text) = match (temperature, &host.temperature_sensor) {
        (Some(celsius), _) => {
            let of = sensor.temperature_label().unwrap_or_default();
            (Status::Ok, format!("temperature {celsius:.1} °C of {of}; the sensors here: {known}"))
        }
        (None, Some(wanted)) => {
            let remedy = "set sample.temperature_sensor to one of them";
            let text = format!("temperature: no {wanted}; the sensors here: {known}; {remedy}");
            (Status::Warning, text)
        }
        (None, None) => {
            let text = format!("temperature stays empty: no CPU sensor; the sensors here: {known}");
            (Status::Ok, text)
        }
    };
    findings.add("sensors", status, text);
    let mounts: Vec<&str> = disks.iter().map(|disk| disk.mount.as_str()).collect();
    findings.add("sensors", Status::Ok, format!("file systems {}", mounts.join(", ")));
    sample_bytes
}

/// What the limits of `[send]` mean for samples of so many bytes an interval.
fn send(config: &Config, sample_bytes: u64, wire: Wire, findings: &mut Findings) {
    let settings = &config.send;
    let a_day = |interval: Duration| DAY.div_duration_f64(interval);
    let backlog = a_day(config.sample.interval) * sample_bytes as f64;
    if let Some(rate) = settings.backlog_rate {
        let takes = Duration::from_secs((backlog / rate as f64).ceil() as u64);
        let text = format!(
            "a day's backlog, about {}, takes {} at {} a second",
            HumanBytes(backlog as u64),
            humantime::format_duration(takes),
            HumanBytes(rate),
        );
        let (status, text) = match settings.order {
            Order::OldestFirst if takes >= DAY => {
                (Status::Warning, text + ": oldest-first never catches up; raise send.backlog_rate")
            }
            _ => (Status::Ok, text),
        };
        findings.add("send", status, text);
    }
    if let Some(limit) = settings.daily_bytes {
        let lines = wire.parcel(backlog as usize) as f64;
        let needs = (lines + a_day(settings.interval) * wire.request_bytes as f64) as u64;
        let text = format!(
            "live samples need about {} of the {} that may be sent in a day",
            HumanBytes(needs),
            HumanBytes(limit)
        );
        let (status, text) = match needs > limit {
            true => (
                Status::Warning,
                text + ": delivery will stop each day until 00:00 UTC; raise send.daily_bytes or \
                        lengthen sample.interval or send.interval",
            ),
            false => (Status::Ok, text),
        };
        findings.add("send", status, text);
    }
}

/// Claims the spool as a start does; whether a start could.
fn spool(settings: &spool::Settings, findings: &mut Findings) -> bool {
    let made = Made::before(&settings.path, &["lock", "ledger"]);
    let path = settings.path.display();
    let claim = Claim::of_folder(settings);
    // Still locked, so that nobody else makes use of it.
    if !matches!(claim, Err(spool::Error::Held { .. })) {
        made.undo();
    }
    let tried = match claim {
        Ok(claim) => Ok(format!(
            "{path}: at most {}, a power cut may take {}",
            HumanBytes(settings.max_bytes),
            humantime::format_duration(claim.max_loss()),
        )),
        Err(spool::Error::Held { pid, .. }) => {
            Ok(format!("{path}: in use by the agent that runs, pid {pid}"))
        }
        // Root asks for the service.
        Err(spool::Error::Foreign { uid, .. }) => {
            Ok(format!("{path}: of user {uid}, who alone may start an agent on it"))
        }
        Err(error) => Err(error.to_string()),
    };
    findings.tried("spool", tried)
}

/// What trying a folder makes: folders, and files in the last of them.
struct Made {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Made {
    /// What is missing of `folder` and of `files` in it.
    fn before(folder: &Path, files: &[&str]) -> Self {
        let missing = |path: &PathBuf| !path.exists();
        let files = files.iter().map(|name| folder.join(name)).filter(missing).collect();
        let folders = folder.ancestors().map(Path::to_path_buf).take_while(missing).collect();
        Self { files, folders }
    }

    /// Takes it away.
    fn undo(self) {
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
        // A folder that meanwhile has something else in it stays.
        self.folders.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Warns of secrets that others may read.
fn credentials(config: &Config, findings: &mut Findings) {
    if !matches!(config.sink, Sink::Firehose(_)) {
        return;
    }
    for path in aws::secret_files() {
        let Ok(meta) = fs::metadata(&path) else { continue };
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.display();
            let text = format!("{path}: mode {mode:04o} lets others read it: chmod 600 {path}");
            findings.add("secrets", Status::Warning, text);
        }
    }
}

/// Whether the sink would take data.
fn sink(config: &Config, sample_bytes: u64, findings: &mut Findings) -> anyhow::Result<bool> {
    let made = match &config.sink {
        Sink::Lake(lake) => Some(Made::before(&lake.path.join("data"), &[])),
        Sink::Firehose(_) | Sink::Stdout => None,
    };
    let runtime = super::runtime()?;
    let mut wire = Wire::PLAIN;
    let tried = runtime.block_on(async {
        let sink = agent::open_sink(config).await.map_err(|error| error.to_string())?;
        wire = sink.limits().wire;
        match tokio::time::timeout(PROBE_LIMIT, sink.probe()).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(trouble)) => Err(trouble.text),
            Err(_) => Err(format!("{}: no answer within {PROBE_LIMIT:?}", sink.name())),
        }
    });
    runtime.shutdown_background();
    made.into_iter().for_each(Made::undo);
    send(config, sample_bytes, wire, findings);
    Ok(findings.tried("sink", tried))
}

fn print(findings: &Findings, ok: bool, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::json!({ "ok": ok, "findings": findings.0 }));
    }
    let coloured = colours(&out);
    for Finding { part, status, text } in &findings.0 {
        let (word, colour) = match status {
            Status::Ok => ("ok", 32),
            Status::Warning => ("warning", 33),
            Status::Error => ("error", 31),
        };
        let word = format!("{word:8}");
        let word = if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
        let mut lines = text.lines();
        writeln!(out, "{part:9} {word}{}", lines.next().unwrap_or_default())?;
        lines
            .filter(|line| !line.is_empty())
            .try_for_each(|line| writeln!(out, "{:18}{line}", ""))?;
    }
    Ok(())
}
