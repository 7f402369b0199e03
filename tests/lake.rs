//! The lake, filled by the whole line and read back with DuckDB.
//!
//! Needs: root, .venv

#![cfg(test)]

#[path = "lake/bounds.rs"]
mod bounds;
#[path = "lake/crash.rs"]
mod crash;
#[path = "lake/obstacles.rs"]
mod obstacles;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use iot_agent_test_support::ministack::CREDENTIALS;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{self, by_identity, by_moment, number, timestamp_ms};
use iot_agent_test_support::{duckdb, eventually};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(60);

/// An agent of the name `test-host` that samples every 100 ms, commits and hands
/// over every second.
fn agent(home: &Path) -> Launch {
    Launch::new(AGENT, home)
        .set("device.id", "test-host")
        .set("sample.interval", "100ms")
        .set("spool.max_loss", "1s")
        .set("send.interval", "1s")
}

/// The same with a sink that nobody answers for, so that all stays in the spool.
fn cut_off(launch: Launch) -> Launch {
    launch.firehose("none", "http://127.0.0.1:1").envs(CREDENTIALS)
}

#[track_caller]
fn stop(mut agent: Agent) -> Agent {
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    agent
}

/// What a command prints that ends by itself.
#[track_caller]
fn ended(launch: Launch) -> String {
    let mut agent = launch.start();
    assert_eq!(agent.finish(SOON).code(), Some(0), "{}", agent.stderr());
    agent.stdout()
}

/// The samples that wait in the spool, after `agent` has left it.
#[track_caller]
fn exported(home: &Path) -> Vec<Value> {
    let export = Launch::new(AGENT, home).args(["spool", "export"]);
    records::samples(&ended(export))
}

/// How many samples wait in the spool of an agent that is stopped.
#[track_caller]
fn waiting(home: &Path) -> u64 {
    let listing = ended(Launch::new(AGENT, home).args(["spool", "ls", "--json"]));
    number(&serde_json::from_str(&listing).unwrap(), "samples")
}

fn samples(lake: &Path) -> Vec<Value> {
    duckdb::query(lake, "from lake where marker is null")
}

fn count(lake: &Path) -> u64 {
    duckdb::query(lake, "select count(*) as rows from lake")
        .first()
        .map_or(0, |r| number(r, "rows"))
}

/// All files below `folder`, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes while this looks on is gone.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Whether there is a Parquet file in the lake.
fn begun(lake: &Path) -> bool {
    files(lake).iter().any(|file| file.extension().is_some_and(|e| e == "parquet"))
}

/// Every device and run has its seqs from 0 on, without a gap.
#[track_caller]
fn assert_complete(lake: &Path) {
    let sql = "select id_device, run, count(*) as rows, count(distinct seq) as seqs, \
               min(seq) as first, max(seq) as last from lake where marker is null group by all";
    for row in duckdb::query(lake, sql) {
        let rows = number(&row, "rows");
        assert_eq!((number(&row, "first"), number(&row, "last") + 1), (0, rows), "{row}");
        assert_eq!(number(&row, "seqs"), rows, "{row}");
    }
}

#[test]
fn host_samples_reach_the_lake_as_they_were_taken() {
    let home = tempfile::tempdir().unwrap();
    let labelled = || {
        // A CPU share takes 200 ms.
        let launch = self::agent(home.path()).set("sample.interval", "250ms");
        launch.set("device.labels.site", "attic").set("device.labels.rack", "7")
    };
    let mut agent = cut_off(labelled()).start();
    agent.wait_for("some commits", SOON, |_| files(&home.path().join("spool")).len() > 4);
    std::thread::sleep(Duration::from_secs(3));
    stop(agent);
    let taken = exported(home.path());
    assert!(taken.len() >= 10, "{} samples", taken.len());
    let reference = records::parse(&ended(self::agent(home.path()).arg("sample")));
    assert_plausible(&taken, &reference[0]);

    let lake = home.path().join("lake");
    let run = number(&taken[0], "run");
    let mut agent = labelled().start();
    agent.wait_for("rows", SOON, |_| begun(&lake));
    stop(agent);
    assert_eq!(waiting(home.path()), 0);
    let (before, after): (Vec<_>, Vec<_>) =
        samples(&lake).into_iter().partition(|row| number(row, "run") == run);
    assert_eq!(by_identity(before), by_identity(taken));
    assert_plausible(&after, &reference[0]);
    assert_complete(&lake);
}

/// Holds samples of this host to one that `iot-agent sample` took, which
/// tests/sensors.rs holds to the system's own tools.
#[track_caller]
fn assert_plausible(samples: &[Value], reference: &Value) {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime_s: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    for sample in samples {
        assert_eq!(sample["id_device"], "test-host");
        assert_eq!(sample["simulated"], false);
        assert_eq!(sample["labels"], json!({"site": "attic", "rack": "7"}));
        let near = |field: &str, slack: f64| {
            let (value, reference) = (&sample[field], &reference[field]);
            let (value, reference) = (value.as_f64().unwrap(), reference.as_f64().unwrap());
            assert!((value - reference).abs() < slack, "{field}: {value}, not {reference}");
        };
        near("ram", 0.3);
        near("hd", 0.05);
        assert!(number(sample, "uptime_s") <= uptime_s);
        let mounts = |of: &Value| {
            let disks = of["disks"].as_array().cloned().unwrap_or_default();
            disks.iter().map(|disk| (disk["mount"].clone(), disk["total_bytes"].clone())).collect()
        };
        let (found, wanted): (Vec<_>, Vec<_>) = (mounts(sample), mounts(reference));
        assert_eq!(found, wanted);
    }
    let cpu: Vec<f64> = samples.iter().filter_map(|sample| sample["cpu"].as_f64()).collect();
    assert!(cpu.len() > samples.len() / 2 && cpu.iter().all(|cpu| (0.0..=1.0).contains(cpu)));
    let mut times: Vec<i64> = samples.iter().map(timestamp_ms).collect();
    times.sort_unstable();
    let (first, last) = (times[0], times[times.len() - 1]);
    let step = (last - first) as f64 / (times.len() - 1) as f64;
    assert!((240.0..400.0).contains(&step), "a sample every {step} ms");
}

#[test]
fn a_seed_gives_the_same_on_paper_and_in_the_lake() {
    let (paper, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let line = "--simulate --seed 7 --devices 3 --backfill 1h --late 0.05";
    let simulation = |home: &Path| {
        let launch = Launch::new(AGENT, home).args(line.split(' ')).set("send.interval", "1s");
        launch.set("device.labels.site", "attic")
    };
    let wanted = 3 * 360;
    let mut agent = simulation(paper.path()).set("sink.kind", "stdout").start();
    agent.wait_for("an hour", SOON, |agent| agent.stdout().lines().count() >= wanted);
    let printed = by_moment(records::samples(&stop(agent).stdout()), 10_000);

    let lake = home.path().join("lake");
    let mut agent = simulation(home.path()).start();
    agent.wait_for("an hour", SOON, |_| count(&lake) >= wanted as u64);
    stop(agent);
    let kept = by_moment(samples(&lake), 10_000);
    let both: Vec<_> = printed.keys().filter(|key| kept.contains_key(*key)).collect();
    assert!(both.len() >= 3 * 350, "{} in both", both.len());
    for key in both {
        assert_eq!(printed[key], kept[key]);
    }
    assert_complete(&lake);
}

#[test]
fn the_columns_are_the_schemas_and_the_seeds_query_runs() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut agent = agent(home.path()).args(["--simulate", "--devices", "3"]).start();
    agent.wait_for("rows", SOON, |_| begun(&lake));
    stop(agent);

    let schema: Value = serde_json::from_str(include_str!("../infra/schema/sample.json")).unwrap();
    let columns = schema["columns"].as_array().unwrap();
    let (partitions, columns): (Vec<_>, Vec<_>) =
        columns.iter().partition(|column| column["partition"] == true);
    let wanted = columns.into_iter().chain(partitions).map(|column| {
        (records::text(column, "name").to_owned(), duckdb_type(records::text(column, "type")))
    });
    let described = duckdb::query(&lake, "select column_name, column_type from (describe lake)");
    let found = described.iter().map(|row| {
        let text = |field| records::text(row, field).to_owned();
        (text("column_name"), text("column_type").replace('"', ""))
    });
    assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());

    let sql = "select id_device, timestamp_sent, avg(temperature) as temperature, \
               avg(cpu) as cpu, avg(ram) as ram, avg(hd) as hd from lake \
               group by id_device, timestamp_sent order by id_device, timestamp_sent";
    let rows = duckdb::query(&lake, sql);
    let devices: Vec<_> = rows.iter().map(|row| row["id_device"].clone()).collect();
    assert!(devices.starts_with(&[json!("sim-0001")]) && devices.len() >= 3, "{devices:?}");
    for row in rows {
        let celsius = row["temperature"].as_f64().unwrap();
        assert!((0.0..100.0).contains(&celsius), "{row}");
    }
}

/// DuckDB's name of one of Hive's types.
fn duckdb_type(hive: &str) -> String {
    let inside = |name: &str| hive.strip_prefix(name)?.strip_prefix('<')?.strip_suffix('>');
    if let Some(element) = inside("array") {
        return format!("{}[]", duckdb_type(element));
    }
    if let Some(fields) = inside("struct") {
        let field = |field: &str| {
            let (name, of) = field.split_once(':').unwrap();
            format!("{name} {}", duckdb_type(of))
        };
        return format!("STRUCT({})", fields.split(',').map(field).collect::<Vec<_>>().join(", "));
    }
    match hive {
        "string" => "VARCHAR".into(),
        "map<string,string>" => "MAP(VARCHAR, VARCHAR)".into(),
        plain => plain.to_uppercase(),
    }
}

#[test]
fn the_query_that_a_terminal_shows_can_be_pasted() {
    let home = tempfile::tempdir().unwrap();
    // A name that SQL and globs would rather not have.
    let odd = home.path().join("the [lake]'s");
    let line = format!(
        "stty cols 100; exec {AGENT} --config {}/iot-agent.toml --set spool.path={}/spool \
         --set sink.lake.path='{}' --set device.id=test-host",
        home.path().display(),
        home.path().display(),
        odd.display().to_string().replace('\'', "'\\''"),
    );
    fs::write(home.path().join("iot-agent.toml"), "").unwrap();
    let mut session = Launch::bare("script", home.path())
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .start();
    session.wait_for("a query", SOON, |session| query_in(&session.stdout()).is_some());
    let query = query_in(&session.stdout()).unwrap();
    let rows = duckdb::query(&odd, &query);
    assert_eq!(rows.len(), 1, "{query}");
    assert_eq!(rows[0]["id_device"], "test-host");
    assert!(number(&rows[0], "samples") >= 1, "{}", rows[0]);
}

fn query_in(screen: &str) -> Option<String> {
    let (_, from) = screen.split_once("select ")?;
    let (query, _) = from.split_once(';')?;
    Some(format!("select {query}"))
}

#[test]
fn a_newcomer_sees_rows_within_a_minute() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let start = Instant::now();
    let _agent = Launch::new(AGENT, home.path()).start();
    eventually("the first row", Duration::from_secs(60), || begun(&lake));
    println!("the first row after {:?}", start.elapsed());
    assert!(count(&lake) >= 1);
}
