//! Power cuts under a real file system: the real binary on an ext4 over
//! dm-flakey, which at a random moment drops or refuses all that is written and
//! tells nobody, or says EIO. Then the agent is killed, the disk made sound, its
//! journal replayed, and the next agent started on what is left.
//!
//! All this happens in a virtual machine that is an ordinary process, Debian's
//! user-mode Linux. What is older than `spool.max_loss`, an interval and a commit
//! at its cut must be in the lake in the end, and nothing may be missing.
//!
//! Needs: root, user-mode-linux, .venv

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::DateTime;
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::records::{number, text, timestamp_ms};
use iot_agent_test_support::{by_tier, duckdb, repository, rng};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

const SOON: Duration = Duration::from_secs(180);

const DEVICES: usize = 20;
const INTERVAL_MS: i64 = 100;

/// `spool.max_loss`, one sample's interval, and a commit in a virtual machine on
/// a busy one.
const MAY_BE_LOST_MS: i64 = 1000 + INTERVAL_MS + 2000;

const DISK_BYTES: u64 = 64 << 20;

/// What every agent is started with, as a command line.
fn command(home: &Path, spool: &Path) -> Vec<String> {
    let home = home.display();
    let set = [
        format!("spool.path={}", spool.display()),
        format!("sink.lake.path={home}/lake"),
        format!("sample.interval={INTERVAL_MS}ms"),
        "spool.max_loss=1s".into(),
        "spool.max_bytes=8MiB".into(),
        "spool.keep_free=1MiB".into(),
        "send.interval=1s".into(),
        "clock.wait=0s".into(),
        "sink.firehose.stream=none".into(),
        "sink.firehose.region=eu-west-1".into(),
        // Nobody listens there.
        "sink.firehose.endpoint_url=http://127.0.0.1:9".into(),
    ];
    let simulated = ["--simulate", "--profile", "uniform", "--devices"].map(String::from);
    let config = ["--config".into(), format!("{home}/iot-agent.toml")];
    let set = set.into_iter().flat_map(|setting| ["--set".into(), setting]);
    simulated.into_iter().chain([DEVICES.to_string()]).chain(config).chain(set).collect()
}

/// One line of the plan that `tests/flakey/init` follows.
fn draw(random: &mut StdRng) -> String {
    // Offline, the spool alone has what is sampled; online often enough that it
    // drops nothing for being full.
    let sink = *["firehose", "lake"].choose(random).unwrap();
    let fault =
        *["drop_writes", "drop_writes", "drop_writes", "error_writes"].choose(random).unwrap();
    // ext4 commits its journal by itself seldom, always, or as it is used to.
    let options = *["commit=300", "commit=300", "commit=1", "data=writeback,commit=300", "rw"]
        .choose(random)
        .unwrap();
    let (start, life_ms) = match random.random_range(0..4) {
        0 => ("any", random.random_range(0..2000)),
        _ => ("whole", random.random_range(0..6000)),
    };
    let dying_ms = random.random_range(0..1500);
    let seconds = |ms: i32| f64::from(ms) / 1000.0;
    let (life, dying) = (seconds(life_ms), seconds(dying_ms));
    format!("{sink} {fault} {options} {start} {life} {dying}")
}

/// Runs the virtual machine until all cuts of the plan are done.
#[track_caller]
fn cut(home: &Path, plan: &[String]) {
    let write = |name: &str, text: String| fs::write(home.join(name), text).unwrap();
    write("plan", plan.join("\n") + "\n");
    write("iot-agent.toml", String::new());
    fs::create_dir(home.join("disk")).unwrap();
    let keys = "export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test";
    let arguments = command(home, &home.join("disk/spool")).join("' '");
    write("agent", format!("#!/bin/sh\n{keys}\nexec '{AGENT}' '{arguments}' \"$@\"\n"));
    fs::set_permissions(home.join("agent"), PermissionsExt::from_mode(0o755)).unwrap();
    let image = home.join("image");
    File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    assert!(made.expect("`tests/setup` installs mkfs.ext4").success());

    let init = repository("tests/flakey/init").canonicalize().unwrap();
    let mut machine = Launch::bare("linux.uml", home)
        .args(["mem=384M", "root=none", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
        .args(["con=null", "con0=null,fd:1"])
        .arg(format!("init={}", init.display()))
        .arg(format!("CUTS={}", home.display()))
        .arg(format!("ubda={}", image.display()))
        // Killed, it would leave processes of its own behind.
        .wrapped_in(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .start();
    machine.finish(SOON + Duration::from_secs(30) * plan.len() as u32);
    if !home.join("end").exists() {
        let last = fs::read_dir(home).unwrap().flatten().map(|entry| entry.path());
        let logs = last.filter(|path| path.extension().is_some_and(|end| end == "log"));
        let last = logs.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        panic!(
            "the virtual machine ended early (`tests/setup` installs it)\n{}{}\n{}\n{}",
            machine.stderr(),
            machine.stdout(),
            read(home.join("init.log")),
            last.map(read).unwrap_or_default()
        );
    }
}

/// The run of an agent that began to sample, and when it did.
fn began(log: &str) -> Option<(u64, i64)> {
    let line = log.lines().find(|line| line.contains(" sampling "))?;
    let (date, _) = line.split_once(' ')?;
    let (_, run) = line.split_once(" run=")?;
    let run = run.split_whitespace().next()?.parse().ok()?;
    Some((run, DateTime::parse_from_rfc3339(date).ok()?.timestamp_millis()))
}

/// Starts agents on what the cuts have left until nothing waits there.
#[track_caller]
fn drain(home: &Path) {
    let (lake, spool) = (home.join("lake"), home.join("spool"));
    let launch = || Launch::bare(AGENT, home).args(command(home, &spool));
    loop {
        let mut agent = launch().set("sink.kind", "lake").start();
        agent.wait_for("rows of its own", SOON, |agent| {
            let Some((run, _)) = began(&agent.stderr()) else { return false };
            !duckdb::query(&lake, &format!("from lake where run = {run} limit 1")).is_empty()
        });
        assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
        let mut ls = launch().args(["spool", "ls", "--json"]).start();
        assert!(ls.finish(SOON).success(), "{}", ls.stderr());
        let waits: Value = serde_json::from_str(&ls.stdout()).unwrap();
        if number(&waits, "samples") == 0 && waits["declarations"] == json!([]) {
            return;
        }
    }
}

/// By run and device: when the last sample was taken before which none lacks.
fn unbroken(lake: &Path) -> BTreeMap<u64, BTreeMap<String, i64>> {
    let sql = "select run, id_device, max(timestamp) as timestamp from (
            select *, row_number() over (partition by run, id_device order by seq) - 1 as n
            from lake where marker is null
        ) where seq = n group by all";
    let mut runs: BTreeMap<u64, BTreeMap<String, i64>> = BTreeMap::new();
    for row in duckdb::query(lake, sql) {
        let devices = runs.entry(number(&row, "run")).or_default();
        devices.insert(text(&row, "id_device").to_owned(), timestamp_ms(&row));
    }
    runs
}

/// A cut of an agent that had begun to sample.
struct Cut {
    number: usize,
    /// How long before it the oldest sample was taken that is not in the lake.
    lost_ms: i64,
}

fn look(home: &Path) -> Vec<Cut> {
    let runs = unbroken(&home.join("lake"));
    let times = fs::read_to_string(home.join("cuts")).unwrap();
    let mut cuts = Vec::new();
    for (number, cut) in (1..).zip(times.lines()) {
        assert!(cut.contains(" flakey "), "{cut}");
        let at_ms: i64 = cut.split_once(' ').unwrap().0.parse().unwrap();
        let log = log(home, number);
        assert!(!log.contains("panicked at src"), "{log}");
        let Some((run, began_ms)) = began(&log) else { continue };
        let devices = runs.get(&run).filter(|devices| devices.len() == DEVICES);
        let after_ms = devices.and_then(|devices| Some(devices.values().min()? + INTERVAL_MS));
        cuts.push(Cut { number, lost_ms: at_ms - after_ms.unwrap_or(began_ms) });
    }
    cuts
}

/// What the agent said that was cut off as the `number`th.
fn log(home: &Path, number: usize) -> String {
    fs::read_to_string(home.join(format!("agent-{number}.log"))).unwrap_or_default()
}

#[test]
fn after_power_cuts_under_ext4_nothing_is_lost_that_was_durable() {
    let mut random = rng();
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let plan: Vec<String> = (0..by_tier(3, 5, 200)).map(|_| draw(&mut random)).collect();
    let start = Instant::now();
    cut(home, &plan);
    println!("{} cuts within {:?}", plan.len(), start.elapsed());
    drain(home);

    let verify = Launch::bare(AGENT, home).arg("verify-lake").arg(home.join("lake"));
    let mut verify = verify.arg("--json").start();
    let complete = verify.finish(SOON);
    let report: Value = serde_json::from_str(&verify.stdout()).unwrap();
    let runs = report["runs"].as_array().unwrap();
    let sum = |field| runs.iter().map(|row| number(row, field)).sum::<u64>();
    let cuts = look(home);
    let mut lost_ms: Vec<i64> = cuts.iter().map(|cut| cut.lost_ms).collect();
    lost_ms.sort_unstable();
    println!(
        "{} samples of {} starts, {} missing, {} twice, {} declared; lost (ms): {lost_ms:?}",
        sum("present"),
        cuts.len(),
        sum("missing"),
        sum("duplicated"),
        sum("declared")
    );
    for Cut { number, lost_ms } in cuts.iter().filter(|cut| cut.lost_ms > MAY_BE_LOST_MS) {
        let logs = [*number, number + 1].map(|number| log(home, number)).join("and then\n");
        println!("cut {number}, {}: {lost_ms} ms lost\n{logs}", plan[number - 1]);
    }
    let gaps = "select distinct run, marker from lake where marker.kind = 'gap'";
    let gaps = duckdb::query(&home.join("lake"), gaps);
    assert!(complete.success(), "{report}");
    // What was durable is there and need not be declared.
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(*lost_ms.last().unwrap() <= MAY_BE_LOST_MS);
}
