//! `--simulate`: the whole line, with devices that do not exist.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{self, by_moment, timestamp_ms};
use parquet::file::metadata::ParquetMetaDataReader;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(60);

const INTERVAL_MS: i64 = 10_000;

/// A simulation whose spool and lake lie in `home`, handing over each second.
fn simulation(home: &Path) -> Launch {
    Launch::new(AGENT, home).arg("--simulate").set("send.interval", "1s")
}

/// What it prints until there are `samples` records, and until it is stopped.
#[track_caller]
fn printed(launch: Launch, samples: usize) -> Vec<Value> {
    let mut agent = launch.set("sink.kind", "stdout").start();
    agent.wait_for("the records", SOON, |agent| agent.stdout().lines().count() >= samples);
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    records::samples(&agent.stdout())
}

fn words(words: &str) -> impl Iterator<Item = &str> {
    words.split_whitespace()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The number behind `field=` in the log's last line with `message`.
fn logged(agent: &Agent, message: &str, field: &str) -> u64 {
    let log = agent.stderr();
    let line = log.lines().rfind(|line| line.contains(message)).unwrap_or_else(|| panic!("{log}"));
    let value = line.split(&format!("{field}=")).nth(1).unwrap_or_else(|| panic!("{line}"));
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{line}"))
}

#[test]
fn a_seed_gives_the_same_readings_for_the_same_moments() {
    let run = |seed: &str| {
        let home = tempfile::tempdir().unwrap();
        let line = format!("--seed {seed} --devices 3 --backfill 30m --late 0.1");
        let samples = printed(simulation(home.path()).args(words(&line)), 3 * 180);
        by_moment(samples, INTERVAL_MS)
    };
    let (one, same, other) = (run("7"), run("7"), run("8"));
    let both: Vec<_> = one.keys().filter(|key| same.contains_key(*key)).collect();
    assert!(both.len() >= 3 * 170, "{} in both", both.len());
    for key in both {
        assert_eq!(one[key], same[key]);
    }
    let differ = |(key, record): &(_, &Value)| other.get(*key).is_some_and(|o| o != *record);
    assert!(one.iter().filter(differ).count() >= 3 * 170);
}

#[test]
fn every_device_counts_for_itself_and_says_that_it_is_simulated() {
    let home = tempfile::tempdir().unwrap();
    // Nothing of this makes it real.
    let config = "[device]\nid = \"pi-attic\"\nlabels = { site = \"attic\" }\n";
    let launch = simulation(home.path())
        .config(config)
        .args(words("--devices 10 --backfill 10m"))
        .env("IOT_AGENT_DEVICE_ID", "pi-cellar");
    let samples = printed(launch, 10 * 61);
    let mut seqs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for sample in &samples {
        assert_eq!(sample["simulated"], true);
        assert_eq!(sample["labels"], json!({"site": "attic"}));
        seqs.entry(records::text(sample, "id_device"))
            .or_default()
            .push(records::number(sample, "seq"));
    }
    let devices: Vec<String> = (1..=10).map(|n| format!("sim-{n:04}")).collect();
    assert_eq!(seqs.keys().copied().collect::<Vec<_>>(), devices);
    for (device, seqs) in &mut seqs {
        seqs.sort_unstable();
        assert_eq!(*seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "{device}");
    }
    let runs: BTreeSet<u64> = samples.iter().map(|s| records::number(s, "run")).collect();
    assert_eq!(runs.len(), 1);
}

#[test]
fn no_key_makes_a_simulation_look_real() {
    let home = tempfile::tempdir().unwrap();
    for key in ["simulate.simulated", "device.simulated", "simulate.id", "sample.simulated"] {
        let mut agent = simulation(home.path()).set(key, "false").start();
        assert_eq!(agent.finish(SOON).code(), Some(78), "{key}: {}", agent.stderr());
    }
}

#[test]
fn the_share_of_late_data_is_what_was_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let launch = simulation(home.path()).args(words("--devices 5 --backfill 2h --late 0.1"));
    let samples = by_moment(printed(launch, 5 * 720), INTERVAL_MS);
    let late: Vec<i64> = samples
        .iter()
        .map(|((_, moment_ms), sample)| moment_ms - timestamp_ms(sample))
        .filter(|late_ms| *late_ms != 0)
        .collect();
    let share = late.len() as f64 / samples.len() as f64;
    assert!((0.08..0.12).contains(&share), "{share}");
    assert!(late.iter().all(|late_ms| (1..=180 * 60_000).contains(late_ms)), "{late:?}");
    let longest = late.iter().max().unwrap();
    assert!(*longest > 150 * 60_000, "the latest came {longest} ms late");
}

#[test]
fn the_uniform_profile_is_uniform_on_its_way_out_too() {
    let home = tempfile::tempdir().unwrap();
    let launch = simulation(home.path()).args(words("--profile uniform --backfill 15m"));
    // Ten devices, one record a second.
    let samples = printed(launch, 10 * 901);
    let mut temperatures = [0; 101];
    let mut tenths = BTreeMap::from([("cpu", [0; 10]), ("ram", [0; 10]), ("hd", [0; 10])]);
    for sample in &samples {
        let temperature = sample["temperature"].as_f64().unwrap();
        assert_eq!(temperature.fract(), 0.0);
        temperatures[temperature as usize] += 1;
        for (column, tenths) in &mut tenths {
            let share = sample[column].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{column} is {share}");
            tenths[((share * 10.0) as usize).min(9)] += 1;
        }
        assert!(sample.get("uptime_s").is_none() && sample.get("disks").is_none(), "{sample}");
    }
    assert_uniform("temperature", &temperatures);
    for (column, tenths) in &tenths {
        assert_uniform(column, tenths);
    }
    let devices: BTreeSet<&str> = samples.iter().map(|s| records::text(s, "id_device")).collect();
    assert_eq!(devices.len(), 10);
}

/// Chi-square, six standard deviations wide: once in a hundred million.
#[track_caller]
fn assert_uniform(what: &str, counts: &[u32]) {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    let off = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
    let (chi_square, freedom) = (counts.iter().map(off).sum::<f64>(), (counts.len() - 1) as f64);
    let limit = freedom + 6.0 * (2.0 * freedom).sqrt();
    assert!(chi_square < limit, "{what}: {chi_square} of {limit}: {counts:?}");
}

#[test]
fn at_sixty_times_the_speed_a_minute_takes_a_second() {
    let home = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let launch = simulation(home.path()).args(words("--speed 60x --late 0"));
    let samples = printed(launch.set("sample.interval", "1s"), 180);
    let took = start.elapsed();
    let times: Vec<i64> = samples.iter().map(timestamp_ms).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1000), "{times:?}");
    let simulated_ms = times[times.len() - 1] - times[0];
    let most_ms = took.as_millis() as i64 * 60;
    assert!(simulated_ms <= most_ms, "{simulated_ms} ms in {took:?}");
    // What is missing to the whole is the start, the wait for a hand-over and
    // the stop.
    assert!(took < Duration::from_secs(3) + SOON / 4, "{took:?}");
}

#[test]
fn a_backfill_fills_the_lake_at_once_and_exactly() {
    const DAY_MS: i64 = 86_400_000;
    let devices: u64 = by_tier(1, 6, 60);
    let home = tempfile::tempdir().unwrap();
    let (start, before_ms) = (Instant::now(), now_ms());
    let line = format!("--devices {devices} --backfill 1d --late 0");
    let mut agent = simulation(home.path()).args(words(&line)).start();
    let wanted = devices * (DAY_MS / INTERVAL_MS) as u64;
    let mut lake = Lake::new(home.path().join("lake"));
    agent.wait_for("a day of rows", SOON * by_tier(1, 5, 60), |_| lake.rows() >= wanted);
    let (took, peak_kib) = (start.elapsed(), agent.status("VmHWM"));
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());

    // One says that the run has ended.
    let rows = lake.rows() - 1;
    let rate = rows as f64 / took.as_secs_f64();
    println!("{rows} rows in {took:?}, {rate:.0} a second, {} MiB at most", peak_kib / 1024);
    let samples = logged(&agent, "stopped", "samples");
    assert_eq!((rows, rows % devices), (samples, 0));
    assert_eq!(logged(&agent, "stopped", "delivered"), samples);
    // Each whole interval from a day before the start on to the end; start and
    // end themselves may lie on either side of one.
    let first_ms = (before_ms - DAY_MS).div_euclid(INTERVAL_MS) * INTERVAL_MS;
    let most = ((now_ms() - first_ms) / INTERVAL_MS + 1) as u64;
    let found = rows / devices;
    assert!((most - 2..=most).contains(&found), "{found} moments, not {most}");
}

#[test]
fn a_simulation_beside_the_real_agent_touches_nothing_of_it() {
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "[device]\nid = \"test-host\"\n[sample]\ninterval = \"100ms\"\n\
         [spool]\npath = {:?}\n[send]\ninterval = \"1s\"\n[sink.lake]\npath = {:?}\n",
        home.path().join("spool"),
        home.path().join("lake"),
    );
    let file = home.path().join("agent.toml");
    fs::write(&file, config).unwrap();
    let start = |words: &[&str]| {
        let launch = Launch::bare(AGENT, home.path()).arg("--config").arg(&file);
        launch.args(words.iter().copied()).start()
    };
    let mut agents = [start(&["run"]), start(&["run", "--simulate"])];
    let folders = [home.path().to_owned(), home.path().join("simulated")];
    for (agent, folder) in agents.iter_mut().zip(&folders) {
        let mut lake = Lake::new(folder.join("lake"));
        agent.wait_for("rows", SOON, |_| lake.rows() > 0);
        assert!(folder.join("spool/ledger").exists());
    }
    for agent in &mut agents {
        assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    }
    for (folder, device) in folders.iter().zip(["test-host-", "sim-0001-"]) {
        for file in Lake::new(folder.join("lake")).files() {
            let name = file.file_name().unwrap().to_string_lossy();
            assert!(name.starts_with(device), "{}", file.display());
        }
    }
}

/// Counts a lake's rows as they become more.
struct Lake {
    folder: PathBuf,
    /// Rows by name and length of the file.
    known: BTreeMap<(PathBuf, u64), u64>,
}

impl Lake {
    fn new(folder: PathBuf) -> Self {
        Self { folder, known: BTreeMap::new() }
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let partitions = entries(&self.folder.join("data"));
        let files = partitions.flat_map(|partition| entries(&partition.path()));
        let paths = files.map(|file| file.path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect()
    }

    fn rows(&mut self) -> u64 {
        let files = self.files();
        files.into_iter().map(|path| self.rows_of(path)).sum()
    }

    fn rows_of(&mut self, path: PathBuf) -> u64 {
        let file = File::open(&path).unwrap();
        let key = (path, file.metadata().unwrap().len());
        let read = || {
            let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
            metadata.file_metadata().num_rows() as u64
        };
        *self.known.entry(key).or_insert_with(read)
    }
}
