//! `sink.lake.max_bytes`, and files in the lake that are none of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use iot_agent_test_support::{by_tier, duckdb};

use super::{SOON, agent, begun, count, files, stop};

const MIB: u64 = 1024 * 1024;
const MAX_BYTES: u64 = 16 * MIB;

fn bytes(lake: &Path) -> u64 {
    files(lake).iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
}

fn partition(lake: &Path, hour: &str) -> PathBuf {
    let folder = lake.join(format!("data/timestamp_sent={hour}"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn partitions(lake: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(lake.join("data")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_beyond_max_bytes_goes_the_oldest_first() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let launch = || {
        let line = "--simulate --devices 20 --backfill 3h --late 0";
        agent(home.path()).set("sample.interval", "10s").args(line.split(' '))
    };
    let mut first = launch().start();
    first.wait_for("a file", SOON, |_| count(&lake) >= 20 * 3 * 360);
    stop(first);
    let length = |file: &PathBuf| fs::metadata(file).unwrap().len();
    let file = files(&lake).into_iter().max_by_key(length).unwrap();
    let own = length(&file);

    // 24 hours of 2026, which together are more than the lake may take.
    let hours: Vec<String> = (0..24).map(|hour| format!("2026-01-01 {hour:02}")).collect();
    let each = 20 * MIB / 24 / own + 1;
    for hour in &hours {
        for n in 0..each {
            fs::copy(&file, partition(&lake, hour).join(format!("old-{n}.parquet"))).unwrap();
        }
    }
    let before = partitions(&lake);
    let mut second = launch().set("sink.lake.max_bytes", MAX_BYTES).start();
    second.wait_for("room", SOON, |_| bytes(&lake) <= MAX_BYTES);
    second.wait_for("more rows", SOON, |_| {
        assert!(bytes(&lake) <= MAX_BYTES + MIB, "{} bytes", bytes(&lake));
        let runs = duckdb::query(&lake, "select count(distinct run) as runs from lake");
        runs[0]["runs"] == 2
    });
    stop(second);
    assert!(bytes(&lake) <= MAX_BYTES, "{} bytes", bytes(&lake));
    let after = partitions(&lake);
    let gone: Vec<_> = before.difference(&after).collect();
    assert!(!gone.is_empty());
    // The oldest went, and no more than was needed.
    assert!(before.iter().zip(&gone).all(|(oldest, gone)| oldest == *gone), "{gone:?}");
    let spare = MAX_BYTES - bytes(&lake);
    assert!(spare < MAX_BYTES / 10, "{spare} bytes are left free");
    println!("{} of 24 hours went, {} bytes are kept", gone.len(), bytes(&lake));
}

#[test]
fn files_that_are_none_of_its_own_are_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let old = partition(&lake, "2026-01-01 00");
    let foreign = partition(&lake, "2026-01-01 01").join("foreign.parquet");
    let mut first = agent(home.path()).start();
    first.wait_for("a file", SOON, |_| begun(&lake));
    stop(first);
    let whole = files(&lake).pop().unwrap();
    let folder = whole.parent().unwrap();
    let sql = format!("copy (select 1 as one) to '{}' (format parquet)", foreign.display());
    duckdb::query(&lake, &sql);
    let parquet = fs::read(&whole).unwrap();
    let damaged = [
        (old.join("empty.parquet"), Vec::new()),
        (old.join("text.parquet"), b"no parquet at all".to_vec()),
        (folder.join("cut.parquet"), parquet[..parquet.len() / 2].to_vec()),
        (folder.join("zeroes.parquet"), vec![0; by_tier(64, 1024, 1024) * 1024]),
        (folder.join("notes.txt"), b"mine".to_vec()),
        (lake.join("data/README"), b"mine too".to_vec()),
    ];
    for (path, content) in &damaged {
        fs::write(path, content).unwrap();
    }

    let rows_before = readable(&lake, &damaged);
    let mut second = agent(home.path()).start();
    second.wait_for("rows", SOON, |_| files(&lake).len() > damaged.len() + 2);
    let second = stop(second);
    let said = second.stderr();
    assert_eq!(said.matches("damaged or were not written by iot-agent").count(), 1, "{said}");
    assert!(!said.contains("nothing is delivered"), "{said}");
    for (path, content) in &damaged {
        assert_eq!(fs::read(path).unwrap(), *content, "{}", path.display());
    }
    assert!(readable(&lake, &damaged) > rows_before);
}

/// The rows of what can be read: DuckDB refuses a lake with a damaged file.
fn readable(lake: &Path, damaged: &[(PathBuf, Vec<u8>)]) -> u64 {
    let copy = tempfile::tempdir().unwrap();
    for file in files(lake) {
        if !damaged.iter().any(|(path, _)| *path == file) {
            let to = copy.path().join(file.strip_prefix(lake).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
    }
    count(copy.path())
}
