//! A backlog, and live samples beside it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use iot_agent_test_support::firehose::{Fault, Faults, Options};
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::rig::{Ended, Rig, SOON, assert_complete, stop};
use iot_agent_test_support::{by_tier, eventually};
use serde_json::Value;

use crate::AGENT;

const DEVICES: u64 = 10;

fn rig() -> Rig {
    Rig::with(AGENT, Options { keep_records: false, ..Options::default() })
}

/// Simulated devices, each sampled once a second.
fn launch(rig: &Rig) -> Launch {
    rig.launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--late", "0"])
        .set("sample.interval", "1s")
        .set("spool.max_loss", "10s")
}

/// An agent that takes less than a tenth of a core for so long has nothing to
/// catch up with.
const WINDOW: Duration = Duration::from_secs(3);
const QUIET_TICKS: u64 = 30;

/// Fills the spool with about this many samples while nobody answers.
fn fill(rig: &Rig, samples: u64) -> Ended {
    let seconds = samples / DEVICES;
    let start = Instant::now();
    let mut agent = launch(rig)
        .set("sink.firehose.endpoint_url", "http://127.0.0.1:9")
        .args(["--backfill", &format!("{seconds}s")])
        .start();
    let mut last = (Instant::now(), 0);
    agent.wait_for("the end of the backfill", SOON * 20, |agent| {
        let (since, before) = last;
        if since.elapsed() < WINDOW {
            return false;
        }
        let ticks = cpu_ticks(agent.pid());
        last = (Instant::now(), ticks);
        before > 0 && ticks - before < QUIET_TICKS
    });
    let anonymous = agent.status("RssAnon");
    let ended = stop(&mut agent);
    println!(
        "{} samples spooled within {:?}: {} KiB on disk, {anonymous} KiB anonymous",
        ended.samples,
        start.elapsed(),
        rig.spool_bytes() / 1024,
    );
    assert!(ended.samples >= samples, "{ended:?}");
    assert!(anonymous < 16 << 10, "{anonymous} KiB");
    ended
}

/// User and system time, 100 ticks a second (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = after_name.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// One sample as it came.
enum Arrival {
    Old { device: u64, seq: u64 },
    Live { age: TimeDelta },
}

impl Arrival {
    /// Of the run that waits nothing is parsed that needs not be: there may be
    /// a million.
    fn new(line: &str, of_old: &str) -> Self {
        let number = |field: &str| {
            let (_, rest) = line.split_once(field).unwrap();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        if line.contains(of_old) {
            return Self::Old { device: number("\"sim-"), seq: number("\"seq\":") };
        }
        let line: Value = serde_json::from_str(line).unwrap();
        let taken: DateTime<Utc> = line["timestamp"].as_str().unwrap().parse().unwrap();
        Self::Live { age: Utc::now() - taken }
    }
}

/// Notes what comes from here on; `old` is the run that waits.
fn note(rig: &Rig, old: u64) -> Arc<Mutex<Vec<Arrival>>> {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let (noted, of_old) = (arrivals.clone(), format!("\"run\":{old},"));
    rig.stand_in.set_faults(Faults::with(move |call| {
        let records = call.records.iter().map(|record| std::str::from_utf8(record).unwrap());
        let lines = records.flat_map(str::lines);
        let samples = lines.filter(|line| !line.contains("\"marker\":"));
        let arrivals = samples.map(|line| Arrival::new(line, &of_old));
        noted.lock().unwrap().extend(arrivals);
        Fault::None
    }));
    arrivals
}

#[test]
fn a_backlog_drains_behind_live_samples_in_bounded_memory_and_gives_its_space_back() {
    let rig = rig();
    let old = fill(&rig, by_tier(10_000, 200_000, 1_000_000));
    let full = rig.spool_bytes();
    let arrivals = note(&rig, old.run);
    let start = Instant::now();
    let mut agent = launch(&rig).start();
    let (mut rss, mut anonymous) = (0, 0);
    agent.wait_for("the backlog", SOON * 20, |agent| {
        rss = rss.max(agent.status("VmRSS"));
        anonymous = anonymous.max(agent.status("RssAnon"));
        rig.stand_in.stats().stored.samples >= old.samples
    });
    let took = start.elapsed();
    // Half a generation, of 16 MiB, may stay for what comes next.
    eventually("its space comes back", SOON, || rig.spool_bytes() < 9 << 20);
    let left = rig.spool_bytes();
    let new = stop(&mut agent);
    let empty = rig.spool_bytes();

    let stored = rig.stand_in.stored();
    let rate = old.samples as f64 / took.as_secs_f64();
    println!("{} samples within {took:?}: {rate:.0} a second", old.samples);
    println!(
        "resident {rss} KiB, anonymous {anonymous} KiB; {full} bytes on disk, then {left} and {empty}"
    );
    assert!(empty < 128 << 10, "{empty} bytes in an empty spool");
    for ended in [old, new] {
        assert_complete(&stored, ended, DEVICES);
    }
    assert_eq!(stored.totals().duplicates, 0);
    // The text of a debug build aside.
    assert!(anonymous < 16 << 10, "{anonymous} KiB");

    let arrivals = arrivals.lock().unwrap();
    let last_old = arrivals.iter().rposition(|a| matches!(a, Arrival::Old { .. })).unwrap();
    let ages = arrivals[..last_old].iter().filter_map(|arrival| match arrival {
        Arrival::Live { age } => Some(*age),
        Arrival::Old { .. } => None,
    });
    let (live, oldest) = (ages.clone().count(), ages.max());
    println!("{live} live samples amid the backlog, {oldest:?} old at most");
    assert!(oldest.is_none_or(|age| age < TimeDelta::seconds(6)), "{oldest:?}");
    assert!(live > 0 || took < Duration::from_secs(4), "no live sample within {took:?}");
}

#[test]
fn oldest_first_means_that_live_samples_wait() {
    let rig = rig();
    let old = fill(&rig, by_tier(3_000, 20_000, 200_000));
    let arrivals = note(&rig, old.run);
    let mut agent = launch(&rig).set("send.order", "oldest-first").start();
    agent.wait_for("the backlog and more", SOON * 20, |_| {
        rig.stand_in.stats().stored.samples > old.samples + DEVICES
    });
    let new = stop(&mut agent);
    let stored = rig.stand_in.stored();
    for ended in [old, new] {
        assert_complete(&stored, ended, DEVICES);
    }
    let arrivals = arrivals.lock().unwrap();
    let is_old = |arrival: &Arrival| matches!(arrival, Arrival::Old { .. });
    let first_live = arrivals.iter().position(|arrival| !is_old(arrival)).unwrap();
    let late = arrivals[first_live..].iter().filter(|arrival| is_old(arrival)).count();
    println!(
        "{} samples, the first live one at {first_live}, {late} old behind it",
        arrivals.len()
    );
    assert_eq!(late, 0);
    for number in 1..=DEVICES {
        let seqs = arrivals.iter().filter_map(|arrival| match arrival {
            Arrival::Old { device, seq } if *device == number => Some(*seq),
            _ => None,
        });
        assert!(seqs.is_sorted(), "device {number} came in disorder");
    }
}
