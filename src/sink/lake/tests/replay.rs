//! No row twice: kills between the disk's yes and the acknowledgement, which
//! leave a file in place and a spool that sends its rows again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn a_replay_in_other_cuts_and_another_hour_doubles_nothing() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    put(&mut writer, HOUR, [samples(0..10)]);
    put(&mut writer, HOUR, [samples(10..20), parcel([gap("pi", 7, 30, 39)])]);
    // Killed before the second acknowledgement.
    let mut writer = large(lake.path());
    put(&mut writer, NEXT_HOUR, [samples(15..25), samples(8..15)]);
    put(&mut writer, NEXT_HOUR, [parcel([gap("pi", 7, 30, 39), gap("pi", 7, 30, 41)])]);
    let stats = writer.counters.stats();
    assert_eq!((stats.written, stats.duplicates), (6, 13));
    let found = rows(lake.path());
    let markers = found.iter().filter(|row| row.3 < Some(0)).count();
    assert_eq!((found.len(), markers), (27, 2));
}

#[test]
fn a_row_twice_in_a_batch_is_written_once() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    let twice = parcel([sample("pi", 7, 3), sample("pi", 7, 3), gap("pi", 7, 0, 1)]);
    put(&mut writer, HOUR, [twice, samples(2..5), parcel([gap("pi", 7, 0, 1)])]);
    assert_eq!(seqs(lake.path()), [-1, 2, 3, 4].into());
}

#[test]
fn devices_and_runs_are_told_apart() {
    let lake = tempfile::tempdir().unwrap();
    put(&mut large(lake.path()), HOUR, [parcel([sample("a", 1, 0)])]);
    let others = [sample("a", 2, 0), sample("b", 1, 0), sample("a", 1, 1)];
    put(&mut large(lake.path()), HOUR, [parcel(others)]);
    assert_eq!(rows(lake.path()).len(), 4);
}

#[test]
fn a_kill_during_a_write_leaves_nothing_behind() {
    let lake = tempfile::tempdir().unwrap();
    put(&mut large(lake.path()), HOUR, [samples(0..3)]);
    let folder = lake.path().join("data").join(format!("timestamp_sent={HOUR}"));
    let whole = files(lake.path());
    let half = folder.join(".pi-7-000000000000.parquet.unfinished");
    fs::write(&half, "PAR1 and no more").unwrap();
    assert_eq!(globbed(&folder), 1);
    let mut writer = large(lake.path());
    put(&mut writer, HOUR, [samples(0..3)]);
    assert_eq!(files(lake.path()), whole);
    put(&mut writer, HOUR, [samples(0..5)]);
    assert_eq!(seqs(lake.path()), [0, 1, 2, 3, 4].into());
}

/// How many names `*.parquet` takes, hidden ones too.
fn globbed(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".parquet")).count()
}

/// A row by device, run and seq; a seq below zero is a marker.
type Key = (u8, u64, i64);

#[derive(Debug, Clone)]
enum Step {
    /// Parcels of rows; one with `false` has a line that is no row.
    Deliver(u8, Vec<(Vec<Key>, bool)>),
    /// The same while the folder cannot be written, then once more.
    Retry(u8, Vec<(Vec<Key>, bool)>),
    /// Everything in memory is gone.
    Kill,
}

fn keys() -> impl Strategy<Value = Vec<Key>> {
    // Runs of seqs, as chunks are.
    let chunk = (0u8..3, 1u64..4, -6i64..40, 1i64..12);
    chunk.prop_map(|(device, run, first, count)| {
        (first..first + count).map(|seq| (device, run, seq)).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let parcels = || prop::collection::vec((keys(), prop::bool::weighted(0.85)), 1..5);
    prop_oneof![
        6 => (10u8..13, parcels()).prop_map(|(hour, parcels)| Step::Deliver(hour, parcels)),
        1 => (10u8..13, parcels()).prop_map(|(hour, parcels)| Step::Retry(hour, parcels)),
        2 => Just(Step::Kill),
    ]
}

fn line(&(device, run, seq): &Key) -> String {
    let device = format!("d{device}");
    match u64::try_from(seq) {
        // Some are long, so that row groups are sealed and files fill.
        Ok(seq) if seq % 7 == 0 => padded(&device, run, seq, 150_000),
        Ok(seq) => sample(&device, run, seq),
        Err(_) => gap(&device, run, (-1 - seq) as u64, 99),
    }
}

fn batch_of(hour: u8, parcels: &[(Vec<Key>, bool)]) -> Batch {
    let parcels = parcels.iter().map(|(keys, good)| {
        let lines = keys.iter().map(|key| match good {
            true => line(key),
            false => line(key).replace("\"simulated\":false", "\"simulated\":\"perhaps\""),
        });
        parcel(lines)
    });
    batch(&format!("2026-11-24 {hour}"), parcels.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        ..ProptestConfig::default()
    })]

    /// The rows read back are those of the parcels that counted as delivered,
    /// each once.
    #[test]
    fn the_lake_holds_what_was_delivered_once(steps in prop::collection::vec(step(), 1..14)) {
        let lake = tempfile::tempdir().unwrap();
        let (data, away) = (lake.path().join("data"), lake.path().join("away"));
        let mut writer = large(lake.path());
        let mut expected: BTreeMap<Key, usize> = BTreeMap::new();
        for step in &steps {
            let (hour, parcels, broken) = match step {
                Step::Kill => {
                    writer = large(lake.path());
                    continue;
                }
                Step::Deliver(hour, parcels) => (*hour, parcels, false),
                Step::Retry(hour, parcels) => (*hour, parcels, data.exists()),
            };
            let batch = batch_of(hour, parcels);
            if broken {
                fs::rename(&data, &away).unwrap();
                fs::write(&data, "").unwrap();
                let new = |(keys, good): &(Vec<Key>, bool)| {
                    *good && keys.iter().any(|key| !expected.contains_key(key))
                };
                let verdict = writer.deliver(&batch);
                if parcels.iter().any(new) {
                    prop_assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
                }
                fs::remove_file(&data).unwrap();
                fs::rename(&away, &data).unwrap();
            }
            let Verdict::Answered(outcomes) = writer.deliver(&batch) else {
                panic!("the folder is whole again");
            };
            prop_assert_eq!(outcomes.len(), parcels.len());
            for (outcome, (keys, good)) in outcomes.iter().zip(parcels) {
                let known = keys.iter().all(|key| expected.contains_key(key));
                match outcome {
                    Outcome::Delivered => expected.extend(keys.iter().map(|key| (*key, 1))),
                    Outcome::Refused(_) => prop_assert!(!good),
                    Outcome::Retry(trouble) => panic!("{trouble:?}"),
                }
                // A bad version of rows that are here is as good as a replay.
                prop_assert!(*good || known || matches!(outcome, Outcome::Refused(_)));
            }
        }
        let mut found: BTreeMap<Key, usize> = BTreeMap::new();
        for (_, device, run, seq) in rows(lake.path()) {
            let device = device.get(1..).unwrap().parse().unwrap();
            *found.entry((device, run.unwrap() as u64, seq.unwrap())).or_default() += 1;
        }
        prop_assert_eq!(found, expected);
    }
}
