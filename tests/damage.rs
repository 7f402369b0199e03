//! Spools that the disk has damaged, with the real binary: it starts, and what
//! is missing is declared or counted; and what a dead card still holds can be
//! read by hand.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use iot_agent_test_support::rig::{DEVICE, Ended, Rig, SOON, run_of, stop};
use iot_agent_test_support::{by_tier, rng};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

/// A spool with the samples of an agent that never reached its sink.
fn offline(rig: &Rig) -> Ended {
    let launch = rig.launch().set("sample.interval", "100ms").set("spool.max_loss", "1s");
    let mut agent = launch.set("sink.firehose.endpoint_url", NOWHERE).start();
    run_of(&mut agent);
    std::thread::sleep(Duration::from_millis(by_tier(2500, 4000, 8000)));
    stop(&mut agent)
}

fn databases(spool: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path().join("db"));
    entries.filter(|path| path.is_file()).collect()
}

/// Damages one file of the spool; says how.
fn damage(spool: &Path, random: &mut StdRng) -> String {
    let db = databases(spool).choose(random).unwrap().clone();
    let mut bytes = fs::read(&db).unwrap();
    let how = random.random_range(0..6);
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    match how {
        0 => bytes.truncate(random.random_range(0..used)),
        1 => {
            let at = random.random_range(0..used);
            bytes[at..(at + 4096).min(used)].fill(0);
        }
        2 => (0..20).for_each(|_| bytes[random.random_range(0..used)] ^= 8),
        3 => {
            fs::remove_file(&db).unwrap();
            return "lost".into();
        }
        4 => {
            fs::remove_file(spool.join("ledger")).unwrap();
            return "ledger lost".into();
        }
        _ => {
            fs::remove_dir_all(db.parent().unwrap()).unwrap();
            return "generation lost".into();
        }
    }
    fs::write(&db, bytes).unwrap();
    ["cut", "zeroed", "flipped"][how].into()
}

/// Chunks that the log says are lost without a declaration.
fn counted(log: &str) -> u64 {
    let lines = log.lines().filter(|line| line.contains("no longer has all that was written"));
    let words = lines.flat_map(str::split_whitespace);
    words.filter_map(|word| word.strip_prefix("lost=")?.parse::<u64>().ok()).sum()
}

#[test]
fn a_damaged_spool_starts_and_reports_every_loss() {
    let mut random = rng();
    for case in 0..by_tier(3, 8, 40) {
        let rig = Rig::new(AGENT);
        let old = offline(&rig);
        let how = damage(&rig.spool(), &mut random);
        let mut agent = rig.launch().start();
        let run = run_of(&mut agent);
        agent.wait_for("live samples", SOON, |_| {
            rig.stand_in.stored().runs().any(|(_, of)| *of == run)
        });
        let log = agent.stderr();
        stop(&mut agent);
        let ended = rig.drain(|| rig.launch());
        let stored = rig.stand_in.stored();
        let markers = stored.markers();
        let declared: BTreeSet<u64> = markers
            .iter()
            .map(|line| &line["marker"])
            .filter(|marker| marker["run"] == old.run && marker["kind"] == "gap")
            .flat_map(|marker| {
                assert_eq!(marker["reason"], "damaged");
                marker["first_seq"].as_u64().unwrap()..=marker["last_seq"].as_u64().unwrap()
            })
            .collect();
        let missing: Vec<u64> = (0..old.samples)
            .filter(|&seq| stored.times(DEVICE, old.run, seq) == 0 && !declared.contains(&seq))
            .collect();
        println!(
            "case {case}: {how}: of {} samples {} declared, {} counted in the log",
            old.samples,
            declared.len(),
            missing.len()
        );
        assert!(missing.is_empty() || counted(&log) > 0, "unreported: {missing:?}\n{log}");
        assert!(!ended.is_empty());
    }
}

fn salvage(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(AGENT);
    command.args(["spool", "salvage"]).arg(dir).args(more).output().unwrap()
}

fn lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every file below `folder`, and what is in it.
fn image(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(image(&path)),
            false => files.push((path.clone(), fs::read(path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn a_dead_cards_spool_is_salvaged_by_hand() {
    let rig = Rig::new(AGENT);
    let old = offline(&rig);
    let before = image(&rig.spool());
    let whole = salvage(&rig.spool(), &[]);
    let said = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert!(whole.status.success(), "{said}");
    assert!(before == image(&rig.spool()), "nothing in it changes");
    let seqs = |records: &[Value]| -> Vec<u64> {
        let samples = records.iter().filter(|record| record.get("marker").is_none());
        samples.map(|record| record["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(seqs(&lines(&whole.stdout)), (0..old.samples).collect::<Vec<_>>());
    assert!(said.starts_with(&format!("{} samples in ", old.samples)), "{said}");

    // Half of the database is gone, and the ledger with it.
    let [db] = &databases(&rig.spool())[..] else { panic!() };
    let mut bytes = fs::read(db).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[..used / 2].fill(0);
    fs::write(db, bytes).unwrap();
    fs::remove_file(rig.spool().join("ledger")).unwrap();
    let out = rig.home().join("salvaged.ndjson");
    let part = salvage(&rig.spool(), &["--to", out.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&part.stderr).into_owned();
    assert!(part.status.success() && part.stdout.is_empty(), "{said}");
    assert!(said.contains("there is no ledger that can be read"), "{said}");
    let left = seqs(&lines(&fs::read(out).unwrap()));
    assert!(!left.is_empty() && left.len() < old.samples as usize, "{left:?}");

    let none = salvage(&rig.home().join("nothing"), &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no folder"));
}
