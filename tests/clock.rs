//! A clock in 1970, as a Raspberry Pi without a network wakes up with: what is
//! sampled waits until the time is known, and is then dated right.
//!
//! libfaketime turns the agent's wall clock back, but not its boot time; strace
//! answers in the kernel's place whether the clock is synchronised.
//!
//! Needs: root, faketime, strace, .venv

#![cfg(test)]

#[path = "clock/jumps.rs"]
mod jumps;
#[path = "clock/lake.rs"]
mod lake;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use iot_agent_test_support::firehose::{FirehoseStandIn, Options};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{self, number, text, timestamp_ms};
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(60);

/// Said once patience is at an end.
const NOT_SET: &str = "the clock is not set: samples are kept and dated once it is";

/// What adjtimex(2) answers.
enum Kernel {
    /// TIME_OK.
    Synchronised,
    /// TIME_ERROR: nobody has synchronised the clock.
    Unsynchronised,
    /// EPERM, as under systemd's ProtectClock; timesyncd's mark tells.
    Silent,
}

/// The agent of a host whose clock begins in 1970, until `clock_file` says otherwise.
fn in_1970(home: &Path, kernel: &Kernel) -> Launch {
    let result = match kernel {
        Kernel::Synchronised => "retval=0",
        Kernel::Unsynchronised => "retval=5",
        Kernel::Silent => "error=EPERM",
    };
    let calls = "adjtimex,clock_adjtime";
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{result}"));
    let clock = clock_file(home);
    fs::write(&clock, "@1970-01-01 00:00:25").unwrap();
    let preload = format!("LD_PRELOAD={}", libfaketime().display());
    let clock = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    // With -D the agent is the child, and strace ends after it.
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"];
    let environment = [
        preload.as_str(),
        &clock,
        "TZ=UTC",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ];
    let options = environment.iter().flat_map(|variable| ["-E", *variable]);
    let wrapper = strace.into_iter().chain(["-e", &trace, "-e", &inject]).chain(options);
    Launch::new(AGENT, home)
        .wrapped_in(wrapper)
        .set("device.id", "pi-attic")
        .set("sample.interval", "100ms")
        .set("spool.max_loss", "1s")
        .set("send.interval", "1s")
        .set("clock.wait", "1s")
}

fn clock_file(home: &Path) -> PathBuf {
    home.join("clock")
}

/// Sets the agent's clock, as `date -s` would.
fn set_right(home: &Path) {
    fs::write(clock_file(home), "+0").unwrap();
}

fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    paths.find(|path| path.exists()).expect("libfaketime is there: `tests/run` installs it")
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// UTC `yyyy-MM-dd HH`.
fn hour() -> String {
    DateTime::<Utc>::from(SystemTime::now()).format("%Y-%m-%d %H").to_string()
}

/// Waits until the agent has given the time up, and has samples from before.
#[track_caller]
fn wait_in_1970(agent: &mut Agent, home: &Path) {
    agent.wait_for("a word about it", SOON, |agent| agent.stderr().contains(NOT_SET));
    let durable = || fs::read_dir(home.join("spool")).map_or(0, Iterator::count) > 2;
    agent.wait_for("a commit", SOON, |_| durable());
    assert_eq!(agent.stdout(), "");
}

/// Lets the agent print for a while more, and stops it.
#[track_caller]
fn printed(mut agent: Agent) -> Vec<Value> {
    agent.wait_for("records", SOON, |agent| !agent.stdout().is_empty());
    let lines = agent.stdout().lines().count();
    agent.wait_for("more records", SOON, |agent| agent.stdout().lines().count() > lines);
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    assert_eq!(agent.stderr().matches(NOT_SET).count(), 1, "{}", agent.stderr());
    records::samples(&agent.stdout())
}

/// All samples are there, and dated between `start_ms` and now.
#[track_caller]
fn assert_dated(samples: &[Value], start_ms: i64) {
    let mut seqs: Vec<u64> = samples.iter().map(|sample| number(sample, "seq")).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..samples.len() as u64).collect::<Vec<_>>());
    for sample in samples {
        // The kernel's clock for timestamps of files and this one's differ by a tick.
        let range = start_ms - 10..=now_ms();
        assert!(range.contains(&timestamp_ms(sample)), "{start_ms}: {sample}");
    }
    let corrected = samples.iter().filter(|sample| sample["clock"] == "corrected").count();
    assert!(corrected >= 10, "{corrected} were dated afterwards");
}

#[test]
fn samples_of_1970_are_dated_once_timesyncd_has_the_time() {
    let home = tempfile::tempdir().unwrap();
    let start_ms = now_ms();
    let script = "mount -t tmpfs tmpfs /run; exec \"$@\"";
    let mut agent = in_1970(home.path(), &Kernel::Silent)
        .set("sink.kind", "stdout")
        .wrapped_in(["unshare", "--mount", "sh", "-ec", script, "sh"])
        .start();
    wait_in_1970(&mut agent, home.path());
    set_right(home.path());
    let mark = format!("/proc/{}/root/run/systemd/timesync", agent.pid());
    fs::create_dir_all(&mark).unwrap();
    fs::write(Path::new(&mark).join("synchronized"), "").unwrap();
    let samples = printed(agent);
    assert_dated(&samples, start_ms);
    assert!(samples.iter().any(|sample| sample["clock"] == "synced"));
    assert!(samples.iter().all(|sample| text(sample, "timestamp_sent") >= "2026"));
}

#[test]
fn samples_of_1970_are_dated_once_the_clock_is_set_by_hand() {
    let home = tempfile::tempdir().unwrap();
    let start_ms = now_ms();
    let launch = in_1970(home.path(), &Kernel::Unsynchronised).set("sink.kind", "stdout");
    let mut agent = launch.start();
    wait_in_1970(&mut agent, home.path());
    set_right(home.path());
    assert_dated(&printed(agent), start_ms);
}

#[test]
fn nothing_is_dated_1970_in_the_lake() {
    let home = tempfile::tempdir().unwrap();
    let mut agent = in_1970(home.path(), &Kernel::Unsynchronised).start();
    wait_in_1970(&mut agent, home.path());
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    assert!(!home.path().join("lake").exists());
}

#[test]
fn a_service_that_tells_the_time_gets_the_samples_under_its_hour() {
    let stand_in = FirehoseStandIn::start(Options::default());
    let home = tempfile::tempdir().unwrap();
    let launch =
        in_1970(home.path(), &Kernel::Unsynchronised).firehose("iot-telemetry", &stand_in.url());
    let keys = stand_in.key().environment();
    let launch = keys.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let begun = hour();
    let mut agent = launch.start();
    agent.wait_for("samples", SOON, |_| stand_in.stored().distinct() >= 20);
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    for line in stand_in.stored().samples() {
        let sent = text(&line, "timestamp_sent");
        assert!(sent == begun || sent == hour(), "{line}");
        // Nobody on the host knew the time.
        assert_eq!(line["clock"], "unsynced");
    }
}

#[test]
fn check_warns_of_a_clock_in_1970() {
    let home = tempfile::tempdir().unwrap();
    let launch = in_1970(home.path(), &Kernel::Unsynchronised).args(["check", "--json"]);
    let mut check = launch.start();
    assert_eq!(check.finish(SOON).code(), Some(0), "{}", check.stdout());
    let report: Value = serde_json::from_str(&check.stdout()).unwrap();
    let clock = report["findings"].as_array().unwrap().iter().find(|f| f["part"] == "clock");
    let clock = clock.unwrap();
    assert_eq!(clock["status"], "warning", "{clock}");
    assert!(text(clock, "text").contains("time service"), "{clock}");
}
