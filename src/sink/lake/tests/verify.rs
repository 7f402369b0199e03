//! Completeness of lakes made by hand; tests/completeness.rs has the agent's.

use super::*;
use crate::sink::lake::verify::{Tally, verify};

fn run_end(device: &str, run: u64, last_seq: u64, reason: &str) -> String {
    format!(
        "{{\"id_device\":\"{device}\",\"timestamp\":\"2026-11-24T14:00:00.000Z\",\
         \"simulated\":false,\"marker\":{{\"kind\":\"run_end\",\"last_seq\":{last_seq},\
         \"reason\":\"{reason}\",\"run\":{run}}}}}\n"
    )
}

fn tallies(lake: &Path) -> Vec<Tally> {
    let report = verify(lake, |_, _| {}).unwrap();
    assert_eq!(report.passed_over, []);
    report.runs
}

#[test]
fn each_seq_is_counted_once_however_often_it_is_spoken_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = large(folder.path());
    let samples = [3, 4, 5, 9, 21].map(|seq| sample("pi", 7, seq));
    let gaps = [gap("pi", 7, 4, 11), gap("pi", 7, 9, 13)];
    let ends = [run_end("pi", 7, 20, "crash"), run_end("other", 8, 4, "clean")];
    put(&mut writer, HOUR, [parcel(samples), parcel(gaps), parcel(ends)]);
    put(&mut writer, NEXT_HOUR, [parcel([run_end("pi", 7, 20, "clean"), sample("pi", 9, 2)])]);
    let twice = folder.path().join("data").join(format!("timestamp_sent={HOUR}"));
    let file = fs::read_dir(&twice).unwrap().next().unwrap().unwrap().path();
    fs::copy(file, twice.join("twice.parquet")).unwrap();

    let tally = |id_device: &str, run, last_seq, reason: Option<&'static str>, present| Tally {
        id_device: id_device.to_owned(),
        run,
        open: reason.is_none(),
        reason,
        last_seq: Some(last_seq),
        present,
        duplicated: 0,
        declared: 0,
        missing: 0,
        expired: 0,
        beyond_end: 0,
    };
    // 0 to 20 without 3 to 13.
    let missing = 21 - 11;
    let pi = tally("pi", 7, 20, Some("clean"), 5);
    let wanted = [
        Tally { missing: 5, ..tally("other", 8, 4, Some("clean"), 0) },
        Tally { duplicated: 5, declared: 7, missing, beyond_end: 1, ..pi },
        Tally { missing: 2, ..tally("pi", 9, 2, None, 1) },
    ];
    assert_eq!(tallies(folder.path()), wanted);
}

#[test]
fn what_may_have_been_in_files_that_went_has_expired() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = large(folder.path());
    // All are dated 14 h; what is dated later, and handed over when?
    let later = |run, seq| sample("pi", run, seq).replace("T14:00", "T15:00");
    put(&mut writer, HOUR, [parcel([sample("pi", 1, 5)])]);
    put(&mut writer, NEXT_HOUR, [parcel([later(1, 9), later(1, 12), later(2, 4)])]);
    put(&mut writer, "2026-11-24 16", [parcel([later(3, 4)])]);
    let counts = || {
        let counts = tallies(folder.path()).into_iter();
        counts.map(|tally| (tally.missing, tally.expired)).collect::<Vec<_>>()
    };
    assert_eq!(counts(), [(10, 0), (4, 0), (4, 0)]);
    fs::write(folder.path().join("expired"), HOUR).unwrap();
    assert_eq!(counts(), [(2, 8), (0, 4), (4, 0)]);
}

#[test]
fn whatever_damaged_a_file_it_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = large(folder.path());
    put(&mut writer, HOUR, [samples(0..200), parcel([gap("pi", 7, 200, 209)])]);
    let file = folder.path().join("data").join(files(folder.path()).remove(0));
    let whole = fs::read(&file).unwrap();
    let mut passed_over = 0;
    for round in 0..300 {
        let mut bytes = whole.clone();
        let at = rand::random_range(0..bytes.len());
        match round % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rand::random_range(0..8),
            _ => {
                let end = (at + 64).min(bytes.len());
                bytes[at..end].fill(0);
            }
        }
        fs::write(&file, &bytes).unwrap();
        let report = verify(folder.path(), |_, _| {}).unwrap();
        let damage = format!("round {round} at {at} of {}", whole.len());
        // What none of the columns says may be damaged and go unseen.
        passed_over += report.passed_over.len();
        assert!(report.passed_over.len() == 1 || report.rows == 201, "{damage}: {report:?}");
    }
    println!("{passed_over} of 300 were seen");
    assert!(passed_over > 100);
}
