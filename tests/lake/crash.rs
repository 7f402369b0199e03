//! Killed again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iot_agent_test_support::records::{number, timestamp_ms};
use iot_agent_test_support::{by_tier, duckdb, rng};
use rand::RngExt;
use serde_json::Value;

use super::{SOON, agent, files, samples, stop, waiting};

const INTERVAL_MS: i64 = 100;

/// `spool.max_loss`, one sample's interval, and a commit on a busy machine.
const MAY_BE_LOST_MS: i64 = 1000 + INTERVAL_MS + 1000;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

#[test]
fn kills_double_no_row_and_lose_none_beyond_max_loss() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut rng = rng();
    // When each run was started, and when it was killed.
    let mut lives = BTreeMap::new();
    for _ in 0..by_tier(2, 10, 100) {
        let interval = format!("{}ms", rng.random_range(1000..3000));
        let begun_ms = now_ms();
        let mut agent = agent(home.path()).set("send.interval", interval).start();
        sleep(Duration::from_millis(rng.random_range(0..4000)));
        agent.kill9();
        // One that was killed before it had a run has no samples.
        lives.extend(run_in(&agent.stderr()).map(|run| (run, (begun_ms, now_ms()))));
        // Whatever moment it was, what is there can be read.
        assert_single(&lake);
    }
    let mut last = agent(home.path()).start();
    last.wait_for("rows of its own", SOON, |agent| {
        let Some(run) = run_in(&agent.stderr()) else { return false };
        let sql = format!("select count(*) as rows from lake where run = {run}");
        duckdb::query(&lake, &sql).first().is_some_and(|row| number(row, "rows") > 0)
    });
    let run = run_in(&stop(last).stderr()).unwrap();

    assert_eq!(waiting(home.path()), 0);
    assert_single(&lake);
    assert_eq!(unfinished(&lake), Vec::<PathBuf>::new());
    let mut rows = by_run(&samples(&lake));
    let clean = rows.remove(&run).unwrap();
    assert!(clean.keys().copied().eq(0..clean.len() as u64), "a clean stop lost samples");
    let lost = lost_ms(&rows, &lives);
    println!("{} kills took at most {} ms", lives.len(), lost.iter().max().unwrap_or(&0));
    assert!(lost.iter().all(|ms| *ms <= MAY_BE_LOST_MS), "{lost:?}");
}

/// The run in the log's line about the start.
fn run_in(log: &str) -> Option<u64> {
    let (_, from) = log.split_once(" run=")?;
    from.split_whitespace().next()?.parse().ok()
}

#[track_caller]
fn assert_single(lake: &Path) {
    let sql = "select id_device, run, seq, count(*) as times from lake where marker is null \
               group by all having times > 1";
    assert_eq!(duckdb::query(lake, sql), Vec::<Value>::new());
}

fn unfinished(lake: &Path) -> Vec<PathBuf> {
    let mut files = files(lake);
    files.retain(|file| file.extension().is_none_or(|extension| extension != "parquet"));
    files
}

/// When each sample was taken (ms since the Unix epoch), by run and seq.
fn by_run(rows: &[Value]) -> BTreeMap<u64, BTreeMap<u64, i64>> {
    let mut runs: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for row in rows {
        let seqs = runs.entry(number(row, "run")).or_default();
        seqs.insert(number(row, "seq"), timestamp_ms(row));
    }
    runs
}

/// How long before its kill each run took the oldest sample that is missing.
#[track_caller]
fn lost_ms(
    runs: &BTreeMap<u64, BTreeMap<u64, i64>>,
    lives: &BTreeMap<u64, (i64, i64)>,
) -> Vec<i64> {
    let strangers: Vec<_> = runs.keys().filter(|run| !lives.contains_key(*run)).collect();
    assert!(strangers.is_empty(), "nobody started {strangers:?}");
    let lost = lives.iter().map(|(run, (begun_ms, killed_ms))| {
        let seqs = runs.get(run).into_iter().flatten();
        let unbroken = (0..).zip(seqs).take_while(|(wanted, (seq, _))| wanted == *seq);
        let after_ms = unbroken.map(|(_, (_, ms))| ms + INTERVAL_MS).last();
        killed_ms - after_ms.unwrap_or(*begun_ms)
    });
    lost.collect()
}
