//! The agent before the Firehose stand-in, and what must hold of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tempfile::TempDir;

use crate::firehose::{FirehoseStandIn, Options, Stored};
use crate::process::{Agent, Launch};

/// Long enough for a busy machine; no test waits for it unless it fails.
pub const SOON: Duration = Duration::from_secs(60);

/// How long an agent may take to leave.
pub const STOP: Duration = Duration::from_secs(5);

/// What the agent of a rig is called unless it simulates.
pub const DEVICE: &str = "test-host";

/// A home for agents, and the stand-in that they deliver to.
pub struct Rig {
    pub stand_in: FirehoseStandIn,
    binary: String,
    home: TempDir,
}

/// One start of an agent that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub run: u64,
    /// Samples of all its devices.
    pub samples: u64,
}

impl Rig {
    pub fn new(binary: &str) -> Self {
        Self::with(binary, Options::default())
    }

    pub fn with(binary: &str, options: Options) -> Self {
        Self::at(binary, options, TempDir::new().expect("a temporary folder"))
    }

    /// With this folder as the agent's home.
    pub fn at(binary: &str, options: Options, home: TempDir) -> Self {
        Self { stand_in: FirehoseStandIn::start(options), binary: binary.into(), home }
    }

    /// An agent that samples ten times a second, delivers each second, and can
    /// lose one.
    pub fn launch(&self) -> Launch {
        let key = self.stand_in.key().environment();
        let launch =
            key.iter().fold(self.command(), |launch, (name, value)| launch.env(name, value));
        launch.set("sink.firehose.endpoint_url", self.stand_in.url())
    }

    /// The same without credentials and endpoint.
    pub fn command(&self) -> Launch {
        Launch::new(&self.binary, self.home.path())
            .set("device.id", DEVICE)
            .set("sample.interval", "100ms")
            .set("spool.max_loss", "1s")
            .set("send.interval", "1s")
            .set("clock.wait", "0s")
            .set("sink.kind", "firehose")
            .set("sink.firehose.stream", "iot-telemetry")
            .set("sink.firehose.region", "eu-west-1")
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn spool(&self) -> PathBuf {
        self.home.path().join("spool")
    }

    /// Bytes that the spool takes on disk.
    pub fn spool_bytes(&self) -> u64 {
        folder_bytes(&self.spool())
    }

    /// Where the stand-in listens.
    pub fn address(&self) -> SocketAddr {
        let url = self.stand_in.url();
        let (_, address) = url.split_once("://").expect("a url");
        address.parse().expect("an address")
    }

    /// What a command that ends by itself prints as JSON, line by line.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Vec<Value> {
        let mut command = self.command().args(words).start();
        let status = command.finish(SOON);
        assert!(status.success(), "{words:?}: {status}\n{}", command.stderr());
        let line = |line: &str| serde_json::from_str(line).expect("a line of JSON");
        command.stdout().lines().map(line).collect()
    }

    /// Samples that wait in the spool of an agent that is stopped.
    #[track_caller]
    pub fn waiting(&self) -> u64 {
        let listing = self.json(&["spool", "ls", "--json"]);
        listing[0]["samples"].as_u64().expect("a number of samples")
    }

    /// Starts agents until nothing waits in the spool; returns them.
    #[track_caller]
    pub fn drain(&self, launch: impl Fn() -> Launch) -> Vec<Ended> {
        let mut ended = Vec::new();
        while ended.is_empty() || self.waiting() > 0 {
            assert!(ended.len() < 20, "the spool does not run empty");
            let mut agent = launch().start();
            let mut before = None;
            crate::eventually("the backlog arrives", SOON * 10, || {
                let now = self.stand_in.stats().stored.records;
                std::thread::sleep(Duration::from_millis(1500));
                before.replace(now).is_some_and(|before| before > 0 && now <= before + 2)
            });
            ended.push(stop(&mut agent));
        }
        ended
    }
}

/// The run of an agent that has begun to sample.
#[track_caller]
pub fn run_of(agent: &mut Agent) -> u64 {
    agent.wait_for("the first sample", SOON, |agent| logged(agent, "sampling", "run").is_some());
    logged(agent, "sampling", "run").expect("it was there")
}

/// Ends an agent as a service manager would.
#[track_caller]
pub fn stop(agent: &mut Agent) -> Ended {
    let run = run_of(agent);
    let status = agent.terminate(STOP);
    assert!(status.success(), "{status}\n{}", agent.stderr());
    let samples = logged(agent, "stopped", "samples");
    Ended { run, samples: samples.unwrap_or_else(|| panic!("no count in:\n{}", agent.stderr())) }
}

/// The number `field` of the log line that says `what`.
fn logged(agent: &Agent, what: &str, field: &str) -> Option<u64> {
    let log = agent.stderr();
    let line = log.lines().find(|line| line.contains(&format!(" {what} ")))?;
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(field)?.strip_prefix('='))?
        .parse()
        .ok()
}

/// Asserts that every sample of the run of `devices` devices was stored.
#[track_caller]
pub fn assert_complete(stored: &Stored, ended: Ended, devices: u64) {
    let Ended { run, samples } = ended;
    assert_eq!(samples % devices, 0, "{samples} samples of {devices} devices");
    let of_run: Vec<&str> = ids(stored, run).collect();
    assert_eq!(of_run.len() as u64, devices, "{of_run:?}");
    for device in of_run {
        let missing = stored.missing(device, run, samples / devices);
        assert!(missing.is_empty(), "run {run} of {device} lacks {missing:?} of {samples}");
        assert_eq!(stored.times(device, run, samples / devices), 0, "more than it took");
    }
}

/// The devices of which samples of this run were stored.
pub fn ids(stored: &Stored, run: u64) -> impl Iterator<Item = &str> {
    stored.runs().filter(move |(_, of)| *of == run).map(|(device, _)| device.as_str())
}

/// When each stored sample of a device and run was taken, by seq.
pub fn dates(stored: &Stored, device: &str, run: u64) -> BTreeMap<u64, DateTime<Utc>> {
    let lines = stored.lines().filter(|line| line["run"] == run && line["id_device"] == device);
    let dated = |line: Value| {
        let date = line["timestamp"].as_str().expect("a date").parse().expect("RFC 3339");
        (line["seq"].as_u64().expect("a sample"), date)
    };
    lines.map(dated).collect()
}

/// Bytes that `folder` takes on disk with all below it; what vanishes meanwhile
/// counts nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    // stat(2): in blocks of 512 bytes, whatever those of the file system are.
    let own = fs::symlink_metadata(folder).map_or(0, |meta| meta.blocks() * 512);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    own + entries.map(|entry| folder_bytes(&entry.path())).sum::<u64>()
}
