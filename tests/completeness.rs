//! Completeness: what is missing is known, whichever way it is asked.
//!
//! Needs: .venv

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iot_agent_test_support::ministack::CREDENTIALS;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{number, text, timestamp_ms};
use iot_agent_test_support::{by_tier, duckdb, rng};
use rand::RngExt;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
const SOON: Duration = Duration::from_secs(180);
const INTERVAL_MS: i64 = 100;

/// `spool.max_loss`, one sample's interval, and a commit on a busy machine.
const MAY_BE_LOST_MS: i64 = 1000 + INTERVAL_MS + 1000;

/// The exit code of `verify-lake` where not all is well.
const INCOMPLETE: i32 = 65;

/// Samples every 100 ms, commits and hands over every second.
fn agent(home: &Path) -> Launch {
    Launch::new(AGENT, home)
        .set("device.id", "test-host")
        .set("sample.interval", format!("{INTERVAL_MS}ms"))
        .set("spool.max_loss", "1s")
        .set("send.interval", "1s")
}

/// The same with a sink that nobody answers for.
fn cut_off(launch: Launch) -> Launch {
    launch.firehose("none", "http://127.0.0.1:1").envs(CREDENTIALS)
}

/// Seven devices, simulated, with hours of the past.
fn fleet(home: &Path, past: &str) -> Launch {
    let options = ["--simulate", "--devices", "7", "--late", "0", "--backfill", past];
    agent(home).set("sample.interval", "1s").args(options)
}

#[track_caller]
fn stop(mut agent: Agent) -> u64 {
    agent.wait_for("a run", SOON, |agent| run_in(&agent.stderr()).is_some());
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    run_in(&agent.stderr()).unwrap()
}

/// The run in the log's line about the start.
fn run_in(log: &str) -> Option<u64> {
    let (_, from) = log.split_once(" run=")?;
    from.split_whitespace().next()?.parse().ok()
}

/// Starts an agent and stops it, until nothing waits any more; the last run.
#[track_caller]
fn drain(home: &Path) -> u64 {
    loop {
        let mut agent = agent(home).start();
        agent.wait_for("rows of its own", SOON, |agent| {
            let run = run_in(&agent.stderr());
            run.is_some_and(|run| of_run(&home.join("lake"), run) > 0)
        });
        let run = stop(agent);
        let mut ls = Launch::new(AGENT, home).args(["spool", "ls", "--json"]).start();
        assert!(ls.finish(SOON).success(), "{}", ls.stderr());
        let waits: Value = serde_json::from_str(&ls.stdout()).unwrap();
        if number(&waits, "samples") == 0 && waits["declarations"] == json!([]) {
            return run;
        }
    }
}

/// Starts an agent and stops it when its lake holds this many samples of it.
#[track_caller]
fn fill(launch: Launch, lake: &Path, wanted: u64) {
    let mut agent = launch.start();
    agent.wait_for("the past", SOON, |agent| {
        sleep(Duration::from_secs(1));
        run_in(&agent.stderr()).is_some_and(|run| of_run(lake, run) >= wanted)
    });
    stop(agent);
}

fn of_run(lake: &Path, run: u64) -> u64 {
    let sql = format!("select count(*) as rows from lake where run = {run}");
    duckdb::query(lake, &sql).first().map_or(0, |row| number(row, "rows"))
}

fn samples(lake: &Path) -> u64 {
    let sql = "select count(*) as rows from lake where marker is null";
    duckdb::query(lake, sql).first().map_or(0, |row| number(row, "rows"))
}

/// By the seq of their first row, with which their names end.
fn files(lake: &Path) -> Vec<PathBuf> {
    let partitions = fs::read_dir(lake.join("data")).unwrap();
    let files = partitions.flat_map(|partition| fs::read_dir(partition.unwrap().path()).unwrap());
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort_by_key(|file| file.to_str().unwrap().rsplit('-').next().unwrap().to_owned());
    files
}

/// What `iot-agent verify-lake` says, and its exit code.
#[track_caller]
fn verified(lake: &Path) -> (Value, i32) {
    let home = tempfile::tempdir().unwrap();
    let command = Launch::bare(AGENT, home.path()).arg("verify-lake").arg(lake).arg("--json");
    let mut agent = command.start();
    let status = agent.finish(SOON);
    let report = serde_json::from_str(&agent.stdout());
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", agent.stderr()));
    (report, status.code().unwrap())
}

/// The answer by device and run, once the query and the agent give the same.
#[track_caller]
fn completeness(lake: &Path) -> BTreeMap<(String, u64), Value> {
    let query = include_str!("../infra/queries/completeness.sql");
    let rows = duckdb::query(lake, &format!("create view samples as from lake; {query}"));
    let (report, code) = verified(lake);
    let told = report["runs"].as_array().unwrap();
    assert_eq!(rows.len(), told.len(), "{rows:?}\n{told:?}");
    let mut found = BTreeMap::new();
    for (row, told) in rows.into_iter().zip(told) {
        let mut told = told.clone();
        let expired = number(&told, "expired");
        assert!(expired <= number(&row, "before_first") || report["expired_upto"] != json!(null));
        told["missing"] = json!(number(&told, "missing") + expired);
        if told["last_seq"] == json!(null) {
            told["last_seq"] = json!(-1);
        }
        for (column, value) in row.as_object().unwrap() {
            let known = column == "before_first" || told[column] == *value;
            assert!(known, "{column}: {row}\n{told}");
        }
        found.insert((text(&row, "id_device").to_owned(), number(&row, "run")), told);
    }
    let sum = |field| found.values().map(|row| number(row, field)).sum::<u64>();
    let complete = sum("missing") == sum("expired") && sum("duplicated") == 0;
    assert_eq!(report["complete"], json!(complete));
    assert_eq!(code, if complete { 0 } else { INCOMPLETE });
    found
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// How long before its kill each run took the oldest sample that is not here.
fn lost_ms(lake: &Path, lives: &BTreeMap<u64, (i64, i64)>) -> Vec<i64> {
    let sql = "select run, seq, timestamp from lake where marker is null order by run, seq";
    let mut runs: BTreeMap<u64, Vec<(u64, i64)>> = BTreeMap::new();
    for row in duckdb::query(lake, sql) {
        let seqs = runs.entry(number(&row, "run")).or_default();
        seqs.push((number(&row, "seq"), timestamp_ms(&row)));
    }
    let lost = lives.iter().map(|(run, (begun_ms, killed_ms))| {
        let seqs = runs.get(run).into_iter().flatten();
        let unbroken = (0..).zip(seqs).take_while(|(wanted, (seq, _))| wanted == seq);
        let after_ms = unbroken.map(|(_, (_, ms))| ms + INTERVAL_MS).last();
        killed_ms - after_ms.unwrap_or(*begun_ms)
    });
    lost.collect()
}

#[test]
fn after_kills_nothing_is_missing_and_little_is_lost_beyond_the_end() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut rng = rng();
    // When each run was started, and when it was killed.
    let mut lives = BTreeMap::new();
    for _ in 0..by_tier(3, 12, 200) {
        let begun_ms = now_ms();
        let launch = agent(home.path());
        let online = rng.random_bool(0.5);
        let mut agent = if online { launch } else { cut_off(launch) }.start();
        sleep(Duration::from_millis(rng.random_range(0..5000)));
        agent.kill9();
        // One that was killed before it had a run has no samples.
        lives.extend(run_in(&agent.stderr()).map(|run| (run, (begun_ms, now_ms()))));
    }
    let last = drain(home.path());

    let found = completeness(&lake);
    for ((_, run), row) in &found {
        assert_eq!((number(row, "missing"), number(row, "duplicated")), (0, 0), "{row}");
        let reason = if lives.contains_key(run) { "crash" } else { "clean" };
        assert!(row["open"] == true || row["reason"] == reason, "{row}");
    }
    let row = &found[&("test-host".to_owned(), last)];
    assert_eq!((&row["reason"], number(row, "beyond_end")), (&json!("clean"), 0), "{row}");
    assert_eq!(number(row, "last_seq") + 1, number(row, "present"), "{row}");
    let told = found.values().filter(|row| row["reason"] == "crash").count();
    let beyond: u64 = found.values().map(|row| number(row, "beyond_end")).sum();
    let lost = lost_ms(&lake, &lives);
    let most = lost.iter().max().unwrap();
    println!("{} kills, {told} ends told, {beyond} seqs beyond, {most} ms lost", lives.len());
    assert!(told > 0, "no end was known");
    assert!(lost.iter().all(|ms| *ms <= MAY_BE_LOST_MS), "{lost:?}");
}

#[test]
fn a_stop_ends_its_run_at_once_or_at_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut online = agent(home.path()).start();
    online.wait_for("rows", SOON, |_| lake.join("data").exists() && samples(&lake) > 0);
    let online = stop(online);
    let row = |run| completeness(&lake)[&("test-host".to_owned(), run)].clone();
    let whole = |row: &Value| {
        assert_eq!((&row["open"], &row["reason"]), (&json!(false), &json!("clean")), "{row}");
        assert_eq!(number(row, "last_seq") + 1, number(row, "present"), "{row}");
    };
    whole(&row(online));

    let mut offline = cut_off(agent(home.path())).start();
    let spool = home.path().join("spool");
    offline.wait_for("a commit", SOON, |_| fs::read_dir(&spool).unwrap().count() > 2);
    let offline = stop(offline);
    let mut export = Launch::new(AGENT, home.path()).args(["spool", "export"]).start();
    assert!(export.finish(SOON).success());
    assert_eq!(export.stdout().matches("\"kind\":\"run_end\"").count(), 1);
    let last = drain(home.path());
    [online, offline, last].into_iter().for_each(|run| whole(&row(run)));
    let ends = duckdb::query(&lake, "from lake where marker.kind = 'run_end'");
    assert_eq!(ends.len(), completeness(&lake).len(), "one a run");
}

#[test]
fn what_a_full_spool_drops_is_declared_for_every_device() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let small = |launch: Launch| {
        let launch = launch.args("--simulate --devices 7 --profile uniform".split(' '));
        launch.set("sample.interval", "1s").set("spool.max_bytes", "8MiB")
    };
    let mut agent = cut_off(small(self::agent(home.path())))
        .set("spool.keep_free", "1MiB")
        .args(["--speed", "3600x"])
        .start();
    agent.wait_for("a full spool", SOON, |agent| agent.stderr().contains("the spool is full"));
    sleep(Duration::from_secs(2));
    let dropped = stop(agent);
    let mut agent = small(self::agent(home.path())).start();
    let mut before = 0;
    agent.wait_for("the backlog", SOON, |_| {
        sleep(Duration::from_secs(2));
        let now = if lake.join("data").exists() { samples(&lake) } else { 0 };
        std::mem::replace(&mut before, now) + 7 * 4 >= now && now > 10_000
    });
    stop(agent);
    let found = completeness(&lake);
    let rows: Vec<&Value> =
        found.iter().filter(|((_, run), _)| *run == dropped).map(|(_, row)| row).collect();
    assert_eq!(rows.len(), 7);
    for row in rows {
        assert_eq!((number(row, "missing"), &row["reason"]), (0, &json!("clean")), "{row}");
        assert!(number(row, "declared") > 0, "{row}");
    }
}

#[test]
fn files_that_were_removed_doubled_or_damaged_by_hand_are_found_out() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    fill(fleet(home.path(), "90m"), &lake, 7 * 5400);
    let sum = |field| completeness(&lake).values().map(|row| number(row, field)).sum::<u64>();
    let present = sum("present");
    let mut all = files(&lake);
    assert!(all.len() >= 3, "{all:?}");
    // What lies beyond the end that is known is not missing: another file has it.
    let tells_an_end = |file: &PathBuf| {
        let file = file.display();
        let sql = format!("select 1 as one from '{file}' where marker.kind = 'run_end'");
        !duckdb::query(&lake, &sql).is_empty()
    };
    let at = all.iter().skip(1).position(|file| !tells_an_end(file)).expect("a file without one");
    all.swap(1, 1 + at);
    assert_eq!((sum("missing"), sum("duplicated"), verified(&lake).1), (0, 0, 0));

    println!("{} files", all.len());
    let gone = fs::read(&all[1]).unwrap();
    fs::remove_file(&all[1]).unwrap();
    let missing = sum("missing");
    assert!(missing > 1000 && missing == present - sum("present"), "{missing}");
    let twice = all[0].with_file_name("copy.parquet");
    fs::copy(&all[0], &twice).unwrap();
    assert!(sum("duplicated") > 1000);
    println!("{present} samples, {missing} missing, {} duplicated", sum("duplicated"));

    // DuckDB reads no lake with a damaged file: to it these are not there.
    let foreign = all[0].with_file_name("foreign.parquet");
    let sql = format!("copy (select 1 as one) to '{}' (format parquet)", foreign.display());
    duckdb::query(&lake, &sql);
    fs::write(&twice, &gone[..gone.len() / 2]).unwrap();
    fs::write(&all[1], gone).unwrap();
    let (report, code) = verified(&lake);
    assert_eq!((code, &report["complete"]), (INCOMPLETE, &json!(false)));
    let passed_over = report["passed_over"].as_array().unwrap();
    let names: Vec<_> = passed_over.iter().map(|file| file[0].clone()).collect();
    assert_eq!(names, [json!(twice), json!(foreign)]);
    assert!(passed_over[1][1].as_str().unwrap().contains("no column id_device"), "{report}");
    let missing = report["runs"].as_array().unwrap().iter().map(|row| number(row, "missing"));
    assert_eq!(missing.sum::<u64>(), 0);
}

#[test]
fn what_the_lake_deleted_for_its_bound_is_expired_and_not_missing() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    fill(fleet(home.path(), "1h"), &lake, 7 * 3600);
    // What goes first: a file of the run, and what fills the lake.
    let first = files(&lake).remove(0);
    let rows = verified(&lake).0["rows"].as_u64().unwrap();
    fs::rename(&first, first.with_file_name("a-first.parquet")).unwrap();
    let padding = first.with_file_name("b-padding.parquet");
    let sql = format!("copy (select uuid() as pad from range(1 << 20)) to '{}'", padding.display());
    duckdb::query(&lake, &sql);
    assert!(fs::metadata(&padding).unwrap().len() >= 16 << 20);
    assert!(!lake.join("expired").exists());
    fill(fleet(home.path(), "10m").set("sink.lake.max_bytes", "16MiB"), &lake, 7 * 600);
    assert!(!padding.exists());

    let (report, code) = verified(&lake);
    assert_eq!((code, &report["passed_over"]), (0, &json!([])), "{report}");
    let sum = |field| completeness(&lake).values().map(|row| number(row, field)).sum::<u64>();
    let expired = sum("expired");
    println!("{expired} of {rows} expired, up to {}", report["expired_upto"]);
    assert!(expired > 1000 && expired < rows && expired == sum("missing"));
    // Nothing that was dated after the hour of which files went is excused.
    fs::write(lake.join("expired"), "2026-01-01 00").unwrap();
    fs::create_dir(lake.join("data/timestamp_sent=2026-01-01 01")).unwrap();
    assert_eq!(verified(&lake).0["complete"], json!(false));
    assert_eq!((sum("expired"), sum("missing")), (0, expired));
}

#[test]
fn a_folder_that_is_no_lake_is_named() {
    let home = tempfile::tempdir().unwrap();
    let mut agent = Launch::bare(AGENT, home.path()).arg("verify-lake").arg(home.path()).start();
    assert_eq!(agent.finish(SOON).code(), Some(1));
    let said = agent.stderr();
    assert!(said.contains("there is no lake at"), "{said}");
}
