//! What a clock that jumps leaves in the lake: every sample once, in the order
//! of its seq, and no partition but those of hours that the clock showed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use iot_agent_test_support::duckdb;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{number, text, timestamp_ms};
use serde_json::Value;

use super::jumps::synchronise;
use super::{AGENT, Kernel, SOON, clock_file, in_1970, now_ms, set_right, wait_in_1970};

const HOUR_MS: i64 = 3_600_000;

fn lake(home: &Path) -> PathBuf {
    home.join("lake")
}

/// Waits until this many more samples are in the lake.
#[track_caller]
fn wait_for_rows(agent: &mut Agent, home: &Path, more: u64) {
    let sql = "select count(*) as rows from lake where marker is null";
    let rows = || duckdb::query(&lake(home), sql).first().map_or(0, |row| number(row, "rows"));
    let enough = rows() + more;
    agent.wait_for("rows", SOON, |_| rows() >= enough);
}

/// Stops the agent; its samples in the order of their seqs, once `verify-lake`
/// has found every one of them there once.
#[track_caller]
fn stopped(mut agent: Agent, home: &Path) -> Vec<Value> {
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    let mut verify = Launch::bare(AGENT, home).arg("verify-lake").arg(lake(home)).start();
    assert!(verify.finish(SOON).success(), "{}", verify.stdout());
    let samples = duckdb::query(&lake(home), "from lake where marker is null order by run, seq");
    for (seq, sample) in (0..).zip(&samples) {
        assert_eq!(number(sample, "seq"), seq, "{sample}");
    }
    samples
}

/// How many samples are in which state.
fn states(samples: &[Value]) -> BTreeMap<&str, usize> {
    let mut states = BTreeMap::new();
    samples.iter().for_each(|sample| *states.entry(text(sample, "clock")).or_default() += 1);
    println!("{} samples: {states:?}", samples.len());
    states
}

fn partitions(home: &Path) -> BTreeSet<String> {
    let folders = fs::read_dir(lake(home).join("data")).unwrap().flatten();
    let names = folders.map(|folder| folder.file_name().into_string().unwrap());
    names.map(|name| name.strip_prefix("timestamp_sent=").unwrap().to_owned()).collect()
}

/// The hours from `begun_ms` until now, on a clock that is ahead.
fn hours(begun_ms: i64, ahead_ms: i64) -> BTreeSet<String> {
    let hour = |ms| DateTime::<Utc>::from_timestamp_millis(ms + ahead_ms).unwrap();
    let times = [begun_ms, now_ms()].map(hour);
    times.map(|time| time.format("%Y-%m-%d %H").to_string()).into()
}

#[test]
fn a_boot_in_1970_leaves_no_partition_of_1970() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let begun_ms = now_ms();
    let script = "mount -t tmpfs tmpfs /run; exec \"$@\"";
    let launch = in_1970(home, &Kernel::Silent);
    let mut agent = launch.wrapped_in(["unshare", "--mount", "sh", "-ec", script, "sh"]).start();
    wait_in_1970(&mut agent, home);
    set_right(home);
    synchronise(&agent);
    wait_for_rows(&mut agent, home, 30);
    let samples = stopped(agent, home);
    let states = states(&samples);
    assert!(states["corrected"] >= 5 && states["synced"] >= 10, "{states:?}");
    assert!(!states.contains_key("unsynced"), "{states:?}");
    assert!(partitions(home).is_subset(&hours(begun_ms, 0)), "{:?}", partitions(home));
    for pair in samples.windows(2) {
        let passed_ms = timestamp_ms(&pair[1]) - timestamp_ms(&pair[0]);
        assert!(passed_ms > 0, "{pair:?}");
    }
}

/// The kernel says all the time that the clock is right, and so it counts.
#[test]
fn a_clock_set_back_by_an_hour_holds_nothing_up_and_mixes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let begun_ms = now_ms();
    let launch = in_1970(home, &Kernel::Synchronised);
    fs::write(clock_file(home), "+3600").unwrap();
    let mut agent = launch.start();
    wait_for_rows(&mut agent, home, 30);
    set_right(home);
    wait_for_rows(&mut agent, home, 30);
    let samples = stopped(agent, home);
    assert_eq!(states(&samples), BTreeMap::from([("synced", samples.len())]));
    let mut backwards = Vec::new();
    for pair in samples.windows(2) {
        let passed_ms = timestamp_ms(&pair[1]) - timestamp_ms(&pair[0]);
        if passed_ms <= 0 {
            backwards.push(passed_ms);
        }
    }
    println!("back by (ms): {backwards:?}");
    // An hour, less the time between two samples.
    assert!(matches!(backwards[..], [ms] if (-HOUR_MS..-HOUR_MS / 2).contains(&ms)));
    let shown = &hours(begun_ms, 0) | &hours(begun_ms, HOUR_MS);
    assert!(partitions(home).is_subset(&shown), "{:?}", partitions(home));
}
