//! The lake on a real disk, read back through the parquet crate.

mod columns;
mod faults;
mod layout;
mod replay;
mod verify;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::drain::{Outcome, Parcel};

const HOUR: &str = "2026-11-24 14";
const NEXT_HOUR: &str = "2026-11-24 15";

/// A row as it is read back: the folder it is in, and which row it is.
type Found = (String, String, Option<i64>, Option<i64>);

fn lake_writer(path: &Path, max_bytes: u64) -> Writer {
    Writer::new(&Settings { path: path.to_owned(), max_bytes }, Counters::default())
}

/// A lake that nothing expires from.
fn large(path: &Path) -> Writer {
    lake_writer(path, u64::MAX)
}

fn sample(device: &str, run: u64, seq: u64) -> String {
    format!(
        "{{\"id_device\":\"{device}\",\"timestamp\":\"2026-11-24T14:00:00.000Z\",\
         \"timestamp_sent\":\"{HOUR}\",\"run\":{run},\"seq\":{seq},\"clock\":\"synced\",\
         \"simulated\":false,\"cpu\":0.5}}\n"
    )
}

fn gap(device: &str, run: u64, first_seq: u64, last_seq: u64) -> String {
    format!(
        "{{\"id_device\":\"{device}\",\"timestamp\":\"2026-11-24T14:00:00.000Z\",\
         \"simulated\":false,\"marker\":{{\"first_seq\":{first_seq},\"kept\":0,\"kind\":\"gap\",\
         \"last_seq\":{last_seq},\"reason\":\"evicted\",\"run\":{run}}}}}\n"
    )
}

/// A sample whose line is `bytes` longer, by a member that is no column.
fn padded(device: &str, run: u64, seq: u64, bytes: usize) -> String {
    let pad = "x".repeat(bytes);
    sample(device, run, seq).replacen('{', &format!("{{\"pad\":\"{pad}\","), 1)
}

fn parcel(lines: impl IntoIterator<Item = String>) -> Parcel {
    let lines: Vec<String> = lines.into_iter().collect();
    Parcel::new(lines.concat().into_bytes(), lines.len(), "pi".into(), 7, 0)
}

fn samples(seqs: std::ops::Range<u64>) -> Parcel {
    parcel(seqs.map(|seq| sample("pi", 7, seq)))
}

fn batch(hour: &str, parcels: impl Into<Vec<Parcel>>) -> Batch {
    Batch { timestamp_sent: hour.to_owned(), parcels: parcels.into() }
}

/// Delivers, and expects every parcel to be.
fn put(writer: &mut Writer, hour: &str, parcels: impl Into<Vec<Parcel>>) {
    let batch = batch(hour, parcels);
    let all = vec![Outcome::Delivered; batch.parcels.len()];
    assert_eq!(writer.deliver(&batch), Verdict::Answered(all));
}

fn failure(verdict: Verdict) -> Trouble {
    match verdict {
        Verdict::Failed(trouble) => trouble,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Every file below the lake, relative to its `data`, in order.
fn files(lake: &Path) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let (data, mut found) = (lake.join("data"), Vec::new());
    walk(&data, &mut found);
    let relative = found.iter().map(|path| path.strip_prefix(&data).unwrap());
    let mut names: Vec<String> = relative.map(|path| path.display().to_string()).collect();
    names.sort_unstable();
    names
}

fn record_batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

/// Every row of the lake, sorted. A marker shows its run and first seq.
fn rows(lake: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for name in files(lake) {
        let (folder, _) = name.split_once('/').unwrap();
        for batch in record_batches(&lake.join("data").join(&name)) {
            let column = |name: &str| batch.column_by_name(name).unwrap();
            let device = column("id_device").as_string::<i32>();
            let marker = column("marker").as_struct();
            let of_marker = |name: &str| marker.column_by_name(name).unwrap();
            let number = |array: &dyn Array, at: usize| {
                array.is_valid(at).then(|| array.as_primitive::<Int64Type>().value(at))
            };
            for at in 0..batch.num_rows() {
                let run = number(column("run"), at).or(number(of_marker("run"), at));
                let seq = number(column("seq"), at);
                // Below zero, so that no marker is taken for a sample.
                let first = number(of_marker("first_seq"), at).map(|first| -1 - first);
                found.push((folder.into(), device.value(at).into(), run, seq.or(first)));
            }
        }
    }
    found.sort_unstable();
    found
}

/// The seqs of device `pi`, run 7, each of which must be there once.
fn seqs(lake: &Path) -> BTreeSet<i64> {
    let found = rows(lake);
    let seqs: BTreeSet<i64> = found.iter().filter_map(|row| row.3).collect();
    assert_eq!(seqs.len(), found.len(), "a row is there twice: {found:?}");
    seqs
}
