//! The layers: what the Spark job of infra/etl makes of a lake that the agent
//! wrote, read back by DuckDB, which shares no code with it.
//!
//! Needs: .venv, .venv-full, Java 17 or newer, terraform
//! Tier: full

#![cfg(test)]

#[path = "layers/planned.rs"]
mod planned;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use iot_agent_test_support::ministack::Ministack;
use iot_agent_test_support::process::{Ended, Launch, succeed};
use iot_agent_test_support::records::{number, text};
use iot_agent_test_support::{duckdb, eventually, full, python, repository, rng};
use rand::RngExt;
use serde_json::{Value, json};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(180);

const DAY_MS: i64 = 86_400_000;

/// Tables with a folder a date, and those of one file.
const DATED: [&str; 4] = ["processed/samples", "trusted/hourly", "trusted/daily", "quarantine"];
const WHOLE: [&str; 2] = ["processed/markers", "trusted/completeness"];

/// The Python that has Spark.
fn spark() -> Command {
    let java = Command::new("java").arg("-version").output();
    assert!(java.is_ok(), "java is missing: `tests/run --full` installs it");
    let mut command = Command::new(full("python"));
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Short runs gain nothing from the optimizing compiler.
        .env("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC");
    command
}

fn job(lake: &Path, options: &[&str]) -> Command {
    let mut command = spark();
    command
        .args(["-m", "layers", "--lake"])
        .arg(lake)
        .args(options)
        .env("PYTHONPATH", repository("infra/etl"));
    command
}

#[track_caller]
fn run(lake: &Path) {
    succeed(&mut job(lake, &[]));
}

/// `sql` with each `{TABLE}` as that table of the lake; `lake` is its raw rows.
#[track_caller]
fn ask(lake: &Path, sql: &str) -> Vec<Value> {
    let mut sql = sql.to_owned();
    for table in DATED.iter().chain(&WHOLE) {
        let files = format!("{}/**/*.parquet", lake.join(table).display());
        let relation = format!("read_parquet('{files}', hive_partitioning = true)");
        sql = sql.replace(&format!("{{{table}}}"), &relation);
    }
    duckdb::query(&lake.join("data"), &format!("set TimeZone = 'UTC'; {sql}"))
}

/// All rows of all tables, as text.
fn tables(lake: &Path) -> BTreeMap<&'static str, Vec<String>> {
    // A table without rows has no file.
    let there = |table: &&&'static str| !files(&lake.join(table)).is_empty();
    let rows = |table: &&'static str| {
        let mut found: Vec<_> =
            ask(lake, &format!("from {{{table}}}")).iter().map(Value::to_string).collect();
        found.sort();
        (*table, found)
    };
    DATED.iter().chain(&WHOLE).filter(there).map(rows).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// When each file of the tables was written, by its name below the lake.
fn written(lake: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let tables = DATED.iter().chain(&WHOLE);
    let all = tables.flat_map(|table| files(&lake.join(table)));
    all.map(|file| {
        let at = file.metadata().unwrap().modified().unwrap();
        (file.strip_prefix(lake).unwrap().to_owned(), at)
    })
    .collect()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn date(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).unwrap().format("%Y-%m-%d").to_string()
}

fn samples(data: &Path) -> u64 {
    let rows = duckdb::query(data, "select count(*) as rows from lake where marker is null");
    rows.first().map_or(0, |row| number(row, "rows"))
}

/// Three devices, simulated, that sample once a minute, with two days of the past
/// and some late; then runs of this host, killed at random.
fn lake(home: &Path) -> PathBuf {
    let lake = home.join("lake");
    let data = lake.join("data");
    let past = "--simulate --seed 7 --devices 3 --late 0.05 --backfill 2d";
    let fleet = Launch::new(AGENT, home).args(past.split(' ')).set("sample.interval", "60s");
    let mut agent = fleet.set("send.interval", "1s").start();
    agent.wait_for("two days", SOON, |_| samples(&data) >= 3 * 2 * 24 * 60);
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    let mut rng = rng();
    for _ in 0..4 {
        let before = samples(&data);
        let host = Launch::new(AGENT, home).set("device.id", "test-host");
        let host = host.set("sample.interval", "250ms").set("send.interval", "1s");
        let mut agent = host.set("spool.max_loss", "1s").start();
        agent.wait_for("rows", SOON, |_| samples(&data) > before);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..2000)));
        agent.kill9();
    }
    lake
}

/// Adds an object to the partition of `hour` that holds `rows` of the lake.
#[track_caller]
fn add(lake: &Path, hour: &str, name: &str, rows: &str) -> PathBuf {
    let folder = lake.join(format!("data/timestamp_sent={hour}"));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}.parquet"));
    ask(lake, &format!("copy ({rows}) to '{}' (format parquet)", file.display()));
    file
}

/// One row of a device, changed, as raw columns.
fn one(device: &str, changes: &str) -> String {
    format!(
        "select * exclude (timestamp_sent) replace ({changes}) from lake \
         where id_device = '{device}' and run is not null and seq = 5 limit 1"
    )
}

/// The rows that a lake should be taken for: of each identity the one that was
/// sent first.
fn first_sent(records: Vec<Value>) -> BTreeMap<(String, u64, u64), Value> {
    let mut found: BTreeMap<_, Value> = BTreeMap::new();
    for record in records {
        let device = text(&record, "id_device").to_owned();
        let key = (device, number(&record, "run"), number(&record, "seq"));
        let sent = text(&record, "timestamp_sent").to_owned();
        match found.get(&key) {
            Some(known) if text(known, "timestamp_sent") <= sent.as_str() => {}
            _ => drop(found.insert(key, record)),
        }
    }
    found
}

/// Holds the processed samples to the raw ones, value by value.
#[track_caller]
fn assert_processed(lake: &Path, wanted: &BTreeMap<(String, u64, u64), Value>) {
    let rows = ask(
        lake,
        "select * replace (strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%gZ') as timestamp, \
         strftime(timestamp_sent, '%Y-%m-%d %H') as timestamp_sent) from {processed/samples} \
         where time_basis <> 'sent'",
    );
    assert_eq!(rows.len(), wanted.len());
    for row in rows {
        let key = (text(&row, "id_device").to_owned(), number(&row, "run"), number(&row, "seq"));
        let mut raw = wanted.get(&key).unwrap_or_else(|| panic!("nobody sent {key:?}")).clone();
        let fields = raw.as_object_mut().unwrap();
        fields.remove("marker");
        let set = fields["clock"] != "unsynced";
        fields.insert("time_basis".into(), json!(if set { "clock" } else { "unsynced" }));
        fields.insert("event_date".into(), json!(text(&row, "timestamp").get(..10)));
        assert_eq!(row, raw);
    }
}

/// The completeness table is what the query says of the raw rows.
#[track_caller]
fn assert_completeness(lake: &Path) {
    let query = include_str!("../infra/queries/completeness.sql");
    let known = "from lake where coalesce(run, marker.run) is not null and id_device is not null \
         and coalesce(marker.first_seq <= marker.last_seq, true)";
    let wanted = ask(lake, &format!("create view samples as {known}; {query}"));
    let found = ask(lake, "from {trusted/completeness} order by id_device, run");
    assert!(!wanted.is_empty());
    assert_eq!(found, wanted);
}

/// Hours and days are what DuckDB makes of the processed samples.
#[track_caller]
fn assert_aggregates(lake: &Path) {
    for (table, hour) in
        [("trusted/hourly", "date_trunc('hour', timestamp)"), ("trusted/daily", "null")]
    {
        let figures = ["temperature", "cpu", "ram", "hd"].map(|reading| {
            format!(
                "round(min({reading}), 9) as {reading}_min, round(avg({reading}), 9) as {reading}_mean, \
                 round(max({reading}), 9) as {reading}_max, \
                 round(quantile_cont({reading}, 0.95), 9) as {reading}_p95"
            )
        });
        let names = ["temperature", "cpu", "ram", "hd"].map(|reading| {
            ["min", "mean", "max", "p95"].map(|of| format!("round({reading}_{of}, 9)")).join(", ")
        });
        let wanted = format!(
            "select id_device, simulated, event_date, {hour} as hour, count(*) as samples, {} \
             from {{processed/samples}} where time_basis <> 'sent' group by 1, 2, 3, 4",
            figures.join(", ")
        );
        let hour = if table.ends_with("hourly") { "hour" } else { "null" };
        let found = format!(
            "select id_device, simulated, event_date, {hour}, samples, {} from {{{table}}} where samples > 0",
            names.join(", ")
        );
        let count = ask(lake, &format!("select count(*) as rows from ({wanted})"));
        assert!(number(&count[0], "rows") >= 2);
        for (one, other) in [(&wanted, &found), (&found, &wanted)] {
            let differ = ask(lake, &format!("({one}) except all ({other})"));
            assert_eq!(differ, Vec::<Value>::new(), "{table}");
        }
    }
    let hours = ask(lake, "from {trusted/hourly} where availability not between 0.01 and 1");
    assert_eq!(hours, Vec::<Value>::new());
    // A device that sampled every minute of an hour was there all of it.
    let whole = "select min(availability) as least, count(*) as hours from {trusted/hourly} \
         where simulated and samples between 59 and 61";
    let whole = &ask(lake, whole)[0];
    assert!(number(whole, "hours") >= 2 && whole["least"].as_f64().unwrap() > 0.9, "{whole}");
}

#[test]
fn raw_rows_become_typed_once_and_the_bad_ones_say_why() {
    let home = tempfile::tempdir().unwrap();
    let lake = lake(home.path());
    let raw = ask(&lake, "from lake where marker is null");
    let sent = text(&raw[0], "timestamp_sent").to_owned();
    let yesterday = format!("{} 05", date(now_ms() - DAY_MS));

    // Delivered again in other hours, before and after.
    let largest = |file: &PathBuf| file.metadata().unwrap().len();
    let file = files(&lake.join("data")).into_iter().max_by_key(largest).unwrap();
    let again = lake.join("data/timestamp_sent=2030-01-01 00/again.parquet");
    fs::create_dir_all(again.parent().unwrap()).unwrap();
    fs::copy(&file, &again).unwrap();
    let whole = format!(
        "select * exclude (timestamp_sent) from lake where id_device = 'sim-0002' \
         and marker is null and timestamp < '{}'",
        yesterday.replace(' ', "T")
    );
    add(&lake, &yesterday, "before", &whole);
    let doubled = ask(&lake, "from lake where marker is null");
    assert!(doubled.len() > raw.len() + 1000, "{} of {}", doubled.len(), raw.len());
    let good = first_sent(doubled);
    assert!(good.len() == raw.len() && raw.len() > 8000, "{} of {}", good.len(), raw.len());

    let mut wanted = BTreeMap::new();
    for (name, rows, reason) in bad() {
        add(&lake, &sent, name, &rows);
        wanted.insert(format!("data/timestamp_sent={sent}/{name}.parquet"), reason.to_owned());
    }
    // What never knew the time is kept, on the day of its sending.
    let unset =
        "'no-clock' as id_device, '1970-01-01T00:00:05.000Z' as timestamp, 'unsynced' as clock";
    add(&lake, &yesterday, "no-clock", &one("sim-0001", unset));
    assert_quarantine_and_rest(&lake, &sent, &wanted, &good);
}

/// Names of objects, the row in each, and why it is bad.
fn bad() -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("no-id", one("sim-0001", "null::varchar as id_device"), "identity missing"),
        ("no-run", one("sim-0001", "null::bigint as run"), "identity missing"),
        ("odd-id", one("sim-0001", "'a b' as id_device"), "identity invalid"),
        (
            "no-date",
            one("sim-0001", "'yesterday' as timestamp, 1000001::bigint as seq"),
            "timestamp unparsable",
        ),
        (
            "day-30",
            one("sim-0001", "'2026-02-30T00:00:00.000Z' as timestamp, 1000002::bigint as seq"),
            "timestamp unparsable",
        ),
        (
            "old",
            one(
                "sim-0001",
                "'1970-01-01T00:00:05.000Z' as timestamp, 'synced' as clock, 1000003::bigint as seq",
            ),
            "timestamp out of range",
        ),
        (
            "cpu",
            one("sim-0001", "1.5::double as cpu, 'nan'::double as ram, 1000004::bigint as seq"),
            "cpu out of range, ram out of range",
        ),
        (
            "heat",
            one("sim-0001", "-273.1::double as temperature, 1000005::bigint as seq"),
            "temperature out of range",
        ),
        (
            "gap",
            marker(
                "{'kind': 'gap', 'run': 1, 'first_seq': 9, 'last_seq': 3, 'kept': 0, 'reason': 'damaged'}",
            ),
            "marker malformed",
        ),
        (
            "kind",
            marker(
                "{'kind': 'nonsense', 'run': 1, 'first_seq': 1, 'last_seq': 3, 'kept': 0, 'reason': 'x'}",
            ),
            "marker malformed",
        ),
    ]
}

const MARKER: &str = "struct(kind varchar, run bigint, first_seq bigint, last_seq bigint, \
     kept bigint, reason varchar)";

fn marker(fields: &str) -> String {
    format!(
        "select * exclude (timestamp_sent) replace ({fields}::{MARKER} as marker) from lake \
         where marker is not null limit 1"
    )
}

#[track_caller]
fn assert_quarantine_and_rest(
    lake: &Path,
    sent: &str,
    wanted: &BTreeMap<String, String>,
    good: &BTreeMap<(String, u64, u64), Value>,
) {
    // Files that DuckDB would read no lake with: it is asked before and after them.
    let torn = lake.join(format!("data/timestamp_sent={sent}/torn.parquet"));
    let foreign = lake.join(format!("data/timestamp_sent={sent}/foreign.parquet"));
    let sql = "copy (select 'hot' as cpu, 'a' as id_device) to";
    ask(lake, &format!("{sql} '{}' (format parquet)", foreign.display()));
    fs::write(&torn, b"PAR1 and no more").unwrap();
    run(lake);
    fs::remove_file(&torn).unwrap();
    fs::remove_file(&foreign).unwrap();

    let mut unreadable = 0;
    let mut found = BTreeMap::new();
    for row in ask(lake, "select raw_object, reason from {quarantine}") {
        let (object, reason) =
            (text(&row, "raw_object").to_owned(), text(&row, "reason").to_owned());
        if reason.starts_with("object unreadable: ") {
            assert!(
                object.ends_with("/torn.parquet") || object.ends_with("/foreign.parquet"),
                "{row}"
            );
            unreadable += 1;
        } else {
            found.insert(object, reason);
        }
    }
    assert_eq!(unreadable, 2);
    assert_eq!(found, *wanted);

    let undated = ask(lake, "from {processed/samples} where id_device = 'no-clock'");
    assert_eq!((undated.len(), &undated[0]["time_basis"]), (1, &json!("sent")));
    assert_eq!(undated[0]["event_date"], date(now_ms() - DAY_MS));
    let day = ask(lake, "from {trusted/daily} where id_device = 'no-clock'");
    assert_eq!((number(&day[0], "undated"), number(&day[0], "samples")), (1, 0));
    assert_eq!(
        ask(lake, "from {trusted/hourly} where id_device = 'no-clock'"),
        Vec::<Value>::new()
    );

    assert_processed(lake, good);
    assert_completeness(lake);
    assert_aggregates(lake);
    let markers = "select count(*) as rows, count(distinct (id_device, kind, run, first_seq, last_seq)) as said \
         from {processed/markers}";
    let distinct = "select count(distinct (id_device, marker)) as said from lake \
         where marker.kind in ('gap', 'run_end') and coalesce(marker.first_seq <= marker.last_seq, true)";
    let (markers, distinct) = (&ask(lake, markers)[0], &ask(lake, distinct)[0]);
    assert_eq!((&markers["rows"], &markers["said"]), (&distinct["said"], &distinct["said"]));
    let apart = "select count(*) as rows from {trusted/daily} where simulated <> (id_device like 'sim-%') and id_device <> 'no-clock'";
    assert_eq!(number(&ask(lake, apart)[0], "rows"), 0);
}

/// What a run changed: the dates whose files were written anew, by table.
fn rewritten(before: &BTreeMap<PathBuf, SystemTime>, lake: &Path) -> BTreeSet<String> {
    let after = written(lake);
    assert!(before.keys().all(|file| after.contains_key(file)), "a file went");
    let anew = after.iter().filter(|(file, at)| before.get(*file) != Some(at));
    anew.map(|(file, _)| file.parent().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn late_data_rewrites_its_dates_alone_and_a_crash_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let lake = lake(home.path());
    run(&lake);
    let (first, told) = (written(&lake), tables(&lake));
    run(&lake);
    assert_eq!(written(&lake), first, "there was nothing new");
    succeed(&mut job(&lake, &["--rebuild", "--batch", "2"]));
    assert_eq!(tables(&lake), told, "all of it once more is the same");

    let (day, today) = (date(now_ms() - DAY_MS), date(now_ms()));
    let late = |device: &str| {
        format!(
            "select * exclude (timestamp_sent) replace ('{device}' as id_device) from lake \
             where id_device = 'sim-0003' and marker is null and timestamp like '{day}%'"
        )
    };
    let before = written(&lake);
    add(&lake, &format!("{today} 23"), "late", &late("sim-late"));
    run(&lake);
    let dates = ["processed/samples", "trusted/hourly", "trusted/daily"];
    let touched = dates.iter().map(|table| format!("{table}/event_date={day}"));
    let whole = WHOLE.iter().map(|table| (*table).to_owned());
    assert_eq!(rewritten(&before, &lake), touched.chain(whole).collect());
    assert_completeness(&lake);

    add(&lake, &format!("{today} 22"), "later", &late("sim-later"));
    let whole = home.path().join("whole");
    succeed(Command::new("cp").arg("-a").arg(lake.join("data/..")).arg(&whole));
    run(&whole);
    let wanted = tables(&whole);
    assert_ne!(wanted, tables(&lake));
    let staging = || lake.join("etl/staging").exists();
    let moments: [(&str, &dyn Fn() -> bool); 3] = [
        ("samples are staged", &|| !files(&lake.join("etl/staging")).is_empty()),
        ("hours are staged", &|| {
            files(&lake.join("etl/staging"))
                .iter()
                .any(|file| file.to_string_lossy().contains("trusted/hourly/event_date"))
        }),
        ("a commit", &|| files(&lake.join("etl/state/commits")).len() > 1),
    ];
    for (what, moment) in moments {
        let mut process = job(&lake, &[]);
        process.stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            std::os::unix::process::CommandExt::process_group(&mut process, 0).spawn().unwrap();
        let group = format!("-{}", child.id());
        let mut process = Ended::new(child);
        eventually(what, SOON, || moment() || process.ended().is_some());
        // Java is a process of its own.
        let _ = Command::new("kill").args(["-9", "--", &group]).status();
        drop(process);
        println!("killed when: {what}; staging left: {}", staging());
    }
    run(&lake);
    assert!(!staging());
    assert_eq!(tables(&lake), wanted);

    fs::rename(lake.join("data"), home.path().join("data")).unwrap();
    fs::remove_dir_all(&lake).unwrap();
    fs::create_dir(&lake).unwrap();
    fs::rename(home.path().join("data"), lake.join("data")).unwrap();
    run(&lake);
    assert_eq!(tables(&lake), wanted, "at once or bit by bit");
}

#[test]
fn a_commit_torn_at_any_step_is_finished_or_undone_by_the_next_start() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let ministack = Ministack::start();
    let (folder, endpoint) = (folder.path().to_string_lossy(), ministack.endpoint());
    for place in [&[&*folder][..], &[&*endpoint, "lake"]] {
        let script = repository("tests/support/py/torn_commit.py");
        let mut command = Command::new(python());
        command.arg(script).args(place).env("PYTHONPATH", repository("infra/etl"));
        let said = succeed(&mut command);
        println!("{place:?}: {said}");
        assert!(said.contains("whole after each of"), "{said}");
    }
}
