//! infra/queries: what each of them answers, over a lake that the agent wrote,
//! against the same worked out here from the records; on DuckDB, and in the
//! AWS stand-in's Athena.
//!
//! Needs: .venv

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use iot_agent_test_support::duckdb;
use iot_agent_test_support::ministack::{CREDENTIALS, Ministack};
use iot_agent_test_support::process::{Launch, succeed};
use iot_agent_test_support::records::{drop_nulls, number, text, timestamp_ms};
use iot_agent_test_support::{python, repository};
use serde_json::{Value, json};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
const STREAM: &str = "iot-telemetry";
const BUCKET: &str = "lake";

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(120);

const DAY_MS: i64 = 86_400_000;

/// What Firehose rounds each record up to.
const BILLED_BYTES: u64 = 5120;

/// Three devices, simulated, that sample once a minute, with so much of the past.
fn fleet(home: &Path, past: &str) -> Launch {
    let past = format!("--simulate --seed 7 --devices 3 --late 0.05 --backfill {past}");
    Launch::new(AGENT, home)
        .args(past.split(' '))
        .set("sample.interval", "60s")
        .set("send.interval", "1s")
        .set("device.labels.site", "attic")
}

fn rows_of(days: u64) -> u64 {
    3 * days * 24 * 60
}

fn samples(lake: &Path) -> u64 {
    let rows = duckdb::query(lake, "select count(*) as rows from lake where marker is null");
    rows.first().map_or(0, |row| number(row, "rows"))
}

/// A lake of three days, with what the agent would not write on demand: samples
/// delivered twice, devices that fell silent, one that never knew the time.
fn lake() -> (TempDir, Vec<Value>) {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut agent = fleet(home.path(), "3d").start();
    agent.wait_for("three days", SOON, |_| samples(&lake) >= rows_of(3));
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());

    let yesterday = rfc3339(now_ms() - DAY_MS);
    let hour = hour(&yesterday);
    let folder = lake.join(format!("data/timestamp_sent={hour}"));
    fs::create_dir_all(&folder).unwrap();
    let past = format!("id_device = 'sim-0001' and timestamp < '{yesterday}' and seq is not null");
    let known = "'1970-01-01T00:' || substr(timestamp, 15)";
    let made = [
        ("twice", format!("select * from lake where {past}")),
        ("left", format!("select * replace ('left' as id_device) from lake where {past}")),
        (
            "torn-away",
            format!(
                "select * replace ('torn-away' as id_device, run + 1 as run) from lake where {past}"
            ),
        ),
        (
            "no-clock",
            format!(
                "select * replace ('no-clock' as id_device, {known} as timestamp, \
                 'unsynced' as clock) from lake where {past}"
            ),
        ),
    ];
    for (name, rows) in made {
        let file = folder.join(format!("{name}.parquet"));
        let rows = rows.replacen('*', "* exclude (timestamp_sent)", 1);
        let sql = format!("copy ({rows}) to '{}' (format parquet)", file.display());
        duckdb::query(&lake, &sql);
    }
    let records = duckdb::query(&lake, "from lake");
    (home, records)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn rfc3339(at_ms: i64) -> String {
    let at = DateTime::from_timestamp_millis(at_ms).unwrap();
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The hour of a timestamp, as `timestamp_sent` has it.
fn hour(timestamp: &str) -> String {
    timestamp.get(..13).unwrap().replace('T', " ")
}

fn sql(name: &str) -> String {
    fs::read_to_string(repository(&format!("infra/queries/{name}.sql"))).unwrap()
}

#[track_caller]
fn asked(home: &TempDir, name: &str) -> Vec<Value> {
    let view = "create view samples as from lake;";
    duckdb::query(&home.path().join("lake"), &format!("{view}{}", sql(name)))
}

/// Whether its time may be the true one.
fn dated(sample: &Value) -> bool {
    let (at, sent) = (text(sample, "timestamp"), text(sample, "timestamp_sent"));
    sample["clock"] != "unsynced" || (at >= "2020" && hour(at).as_str() <= sent)
}

/// Each sample that is dated, once; by device.
fn by_device(records: &[Value]) -> BTreeMap<&str, Vec<&Value>> {
    let mut seen = BTreeSet::new();
    let mut found: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for sample in records.iter().filter(|record| record["marker"].is_null()) {
        let device = text(sample, "id_device");
        if dated(sample) && seen.insert((device, number(sample, "run"), number(sample, "seq"))) {
            found.entry(device).or_default().push(sample);
        }
    }
    found
}

#[track_caller]
fn assert_near(row: &Value, field: &str, wanted: f64) {
    let found = row[field].as_f64().unwrap_or_else(|| panic!("no number {field}: {row}"));
    let slack = 1e-6 * wanted.abs().max(1e-3);
    assert!((found - wanted).abs() <= slack, "{field}: {found}, not {wanted}: {row}");
}

#[test]
fn latest_is_the_newest_sample_of_each_device() {
    let (home, records) = lake();
    let mut newest: BTreeMap<&str, &Value> = BTreeMap::new();
    let rank = |sample: &Value| {
        let place = |field: &str| text(sample, field).to_owned();
        let set = sample["clock"] != "unsynced";
        let seq = (number(sample, "run"), number(sample, "seq"));
        (place("timestamp_sent"), set, place("timestamp"), seq)
    };
    for sample in records.iter().filter(|record| record["marker"].is_null()) {
        let known = newest.entry(text(sample, "id_device")).or_insert(sample);
        if rank(sample) > rank(known) {
            *known = sample;
        }
    }
    let rows = asked(&home, "latest");
    assert_eq!(rows.len(), 6);
    for (row, (device, sample)) in rows.iter().zip(newest) {
        assert_eq!(row["id_device"], device);
        for (field, value) in row.as_object().unwrap() {
            assert_eq!(*value, sample[field], "{field} of {device}");
        }
    }
}

#[test]
fn hottest_counts_each_sample_of_the_last_day_once() {
    let (home, records) = lake();
    let devices = by_device(&records);
    let newest = devices.values().flatten().map(|sample| timestamp_ms(sample)).max().unwrap();
    let mut wanted = BTreeMap::new();
    for (device, samples) in devices {
        let samples = samples.iter().filter(|sample| timestamp_ms(sample) > newest - DAY_MS);
        let celsius: Vec<(f64, bool)> = samples
            .map(|sample| {
                let celsius = sample["temperature"].as_f64().unwrap();
                (celsius, number(sample, "throttled") >> 2 & 1 == 1)
            })
            .collect();
        if !celsius.is_empty() {
            wanted.insert(device, celsius);
        }
    }
    let rows = asked(&home, "hottest");
    assert!(wanted.len() >= 3 && rows.len() == wanted.len(), "{rows:?}");
    for row in &rows {
        let celsius = &wanted[text(row, "id_device")];
        let count = celsius.len() as f64;
        assert_eq!(number(row, "samples"), celsius.len() as u64);
        let share = |is: &dyn Fn(&(f64, bool)) -> bool| {
            celsius.iter().filter(|sample| is(sample)).count() as f64 / count
        };
        assert_near(row, "mean_celsius", celsius.iter().map(|(c, _)| c).sum::<f64>() / count);
        assert_near(row, "max_celsius", celsius.iter().map(|(c, _)| *c).fold(f64::MIN, f64::max));
        assert_near(row, "hot_share", share(&|(celsius, _)| *celsius >= 80.0));
        assert_near(row, "throttled_share", share(&|(_, throttled)| *throttled));
    }
    let heat: Vec<f64> = rows.iter().map(|row| row["max_celsius"].as_f64().unwrap()).collect();
    assert!(heat.is_sorted_by(|hot, cool| hot >= cool), "{heat:?}");
}

#[test]
fn disk_full_follows_the_line_that_fits_best() {
    let (home, records) = lake();
    let devices = by_device(&records);
    let rows = asked(&home, "disk_full");
    assert!(rows.len() >= 5 && rows.len() == devices.len(), "{rows:?}");
    let mut filling = 0;
    for row in &rows {
        let samples = &devices[text(row, "id_device")];
        let newest = samples.iter().max_by_key(|s| (timestamp_ms(s), number(s, "seq"))).unwrap();
        let days =
            |sample: &&Value| (timestamp_ms(sample) - timestamp_ms(newest)) as f64 / DAY_MS as f64;
        let points: Vec<(f64, f64)> =
            samples.iter().map(|s| (days(s), s["hd"].as_f64().unwrap())).collect();
        let count = points.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(&|(x, _)| *x), mean(&|(_, y)| *y));
        let slope = mean(&|(at, hd)| (at - x) * (hd - y)) / mean(&|(at, _)| (at - x).powi(2));
        assert_eq!(number(row, "samples"), points.len() as u64);
        assert_eq!(row["hd"], newest["hd"]);
        assert_near(row, "growth_a_day", slope);
        if slope > 0.0 {
            filling += 1;
            assert_near(row, "days_left", ((1.0 - (y - slope * x)) / slope).max(0.0));
        } else {
            assert_eq!(row["days_left"], Value::Null);
        }
    }
    assert!(filling > 0, "no disk fills: {rows:?}");
}

#[test]
fn silent_are_those_of_whom_nothing_was_heard() {
    let (home, records) = lake();
    let rows = asked(&home, "silent");
    let named: BTreeMap<&str, &Value> =
        rows.iter().map(|row| (text(row, "id_device"), row)).collect();
    assert_eq!(named.keys().copied().collect::<Vec<_>>(), ["left", "no-clock", "torn-away"]);
    let devices = by_device(&records);
    for (device, row) in named {
        let last_ms = match devices.get(device) {
            Some(samples) => samples.iter().map(|sample| timestamp_ms(sample)).max().unwrap(),
            // Its hour of sending.
            None => (now_ms() - DAY_MS) / 3_600_000 * 3_600_000,
        };
        let wanted = rfc3339(last_ms).replace('T', " ");
        let seconds = wanted.split('.').next().unwrap();
        assert!(text(row, "last_seen").starts_with(seconds), "{row}, not {wanted}");
        let minutes = (now_ms() - last_ms) as f64 / 60_000.0;
        let told = row["silent_minutes"].as_f64().unwrap();
        assert!((minutes - 5.0..=minutes).contains(&told), "{told}, not {minutes}");
        // The run that it was given is one that nobody ended.
        assert_eq!(row["stopped"], json!(device != "torn-away"), "{row}");
    }
}

#[test]
fn billed_is_near_the_bytes_of_the_lines() {
    let (home, records) = lake();
    let mut hours: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    let mut lines: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &records {
        let sent = text(record, "timestamp_sent");
        let run = record["run"].as_u64().unwrap_or_else(|| number(&record["marker"], "run"));
        let mut line = record.clone();
        drop_nulls(&mut line);
        *hours.entry((sent, run)).or_default() += line.to_string().len() as u64 + 1;
        *lines.entry(sent.get(..10).unwrap()).or_default() += 1;
    }
    let rows = asked(&home, "billed");
    assert_eq!(rows.len(), lines.len());
    for (row, (day, lines)) in rows.iter().zip(lines) {
        assert_eq!((text(row, "day"), number(row, "lines")), (day, lines));
        assert_eq!(number(row, "billed_singly"), BILLED_BYTES * lines);
        let of_day = hours.iter().filter(|((sent, _), _)| sent.starts_with(day));
        let (bytes, billed) = of_day.fold((0, 0), |(bytes, billed), (_, more)| {
            (bytes + more, billed + more.div_ceil(BILLED_BYTES) * BILLED_BYTES)
        });
        for (field, wanted) in [("bytes", bytes), ("billed", billed)] {
            let off = number(row, field) as f64 / wanted as f64 - 1.0;
            println!("{day}: {field} {wanted}, off by {:.2} %", off * 100.0);
            assert!(off.abs() < 0.02, "{field} of {day}: {row}, not {wanted}");
        }
    }
}

#[test]
fn athena_gives_the_same_from_what_firehose_wrote() {
    let home = tempfile::tempdir().unwrap();
    let ministack = Ministack::start();
    ministack.create_stream(STREAM, BUCKET);
    let launch = fleet(home.path(), "1d").firehose(STREAM, &ministack.endpoint()).envs(CREDENTIALS);
    let mut agent = launch.start();
    agent.wait_for("a day", SOON, |_| {
        let data = ministack.fetch(BUCKET).join("data");
        data.exists() && samples(&data) >= rows_of(1)
    });
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    let data = ministack.fetch(BUCKET).join("data");
    for name in ["latest", "hottest", "disk_full", "silent", "billed", "completeness"] {
        let query = sql(name);
        let wanted = duckdb::query(&data, &format!("create view samples as from lake;{query}"));
        let found = ministack.athena(BUCKET, &query.replace("from samples", "from raw"));
        assert_eq!(found.len(), wanted.len(), "{name}: {found:?}");
        for (found, wanted) in found.iter().zip(&wanted) {
            for (column, value) in wanted.as_object().unwrap() {
                assert!(agree(&found[column], value), "{name}, {column}: {found}, not {value}");
            }
        }
        assert_eq!(wanted.is_empty(), name == "silent", "{name}");
    }
}

/// Athena's answers are text, and sums of fractions depend on their order.
fn agree(athena: &Value, duckdb: &Value) -> bool {
    match duckdb {
        Value::Null | Value::String(_) => athena == duckdb,
        Value::Number(wanted) => {
            let (found, wanted) =
                (athena.as_str().map(str::parse::<f64>), wanted.as_f64().unwrap());
            matches!(found, Some(Ok(found)) if (found - wanted).abs() <= 1e-9 * wanted.abs())
        }
        other => *athena == json!(other.to_string()),
    }
}

/// The view of infra/README.md, as it stands there.
fn view_of_the_readme() -> String {
    let readme = fs::read_to_string(repository("infra/README.md")).unwrap();
    let from = readme.lines().skip_while(|line| !line.starts_with("    create view"));
    let lines: Vec<_> = from.map_while(|line| line.strip_prefix("    ")).collect();
    lines.join("\n")
}

#[test]
fn the_view_of_the_readme_unites_an_older_table_with_the_samples() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut agent = fleet(home.path(), "1h").start();
    agent.wait_for("an hour", SOON, |_| samples(&lake) >= 3 * 60);
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    let records = duckdb::query(&lake, "from lake");
    let columns = "id_device, timestamp, timestamp_sent, temperature, cpu, ram, hd";
    let sql = format!(
        "create schema old_database; create view raw as from lake; \
         create table old_database.old_table as \
         select {columns} from lake where id_device = 'sim-0001' and seq is not null; \
         {}; from all_samples",
        view_of_the_readme()
    );
    let mut found = duckdb::query(&lake, &sql);
    let pick = |record: &Value| {
        columns.split(", ").map(|column| (column, record[column].clone())).collect::<Value>()
    };
    let samples = records.iter().filter(|record| record["marker"].is_null());
    let old = samples.clone().filter(|record| record["id_device"] == "sim-0001");
    let mut wanted: Vec<Value> = old.chain(samples).map(pick).collect();
    found.sort_by_cached_key(Value::to_string);
    wanted.sort_by_cached_key(Value::to_string);
    assert!(wanted.len() > records.len(), "no sample is in both");
    assert_eq!(found, wanted);
}

#[test]
fn every_query_is_one_that_trino_and_duckdb_can_parse() {
    let check = "import sqlglot, sys\n\
        for sql in sys.argv[1:]:\n    \
            for dialect in ('athena', 'trino', 'duckdb'):\n        \
                assert len(sqlglot.parse(sql, dialect=dialect)) == 1\n";
    let files = fs::read_dir(repository("infra/queries")).unwrap();
    let queries = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let queries: Vec<_> = queries.chain([view_of_the_readme()]).collect();
    assert!(queries.len() >= 7, "{queries:?}");
    // Athena takes one statement, and may not see that a semicolon is in a comment.
    assert!(!queries.iter().any(|sql| sql.contains(';')), "{queries:?}");
    succeed(Command::new(python()).args(["-c", check]).args(&queries));
}
