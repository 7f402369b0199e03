//! What was stored, and how often.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Each record is billed rounded up to this (Amazon Data Firehose pricing).
pub const BILLING_QUANTUM_BYTES: usize = 5 * 1024;

/// More seqs than this in one run are taken for a mistake.
const MAX_SEQ: u64 = 1 << 28;

/// One device and one of its runs.
pub type RunOf = (String, u64);

/// Everything that was stored.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// How often each seq was stored, by place; up to 255 times.
    times: BTreeMap<RunOf, Vec<u8>>,
    /// Lines with a `marker`.
    markers: Vec<Value>,
    /// Bodies, unless only counts are kept.
    records: Vec<Arc<[u8]>>,
    keep_records: bool,
    totals: Totals,
}

/// Sums over everything that was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub records: u64,
    /// Samples, each as often as it was stored.
    pub samples: u64,
    /// Samples that had been stored before.
    pub duplicates: u64,
    pub markers: u64,
    /// Lines that are no JSON object with a device, a run and a seq or a marker.
    pub bad_lines: u64,
    pub useful_bytes: u64,
    pub billed_bytes: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id_device: Cow<'a, str>,
    run: Option<u64>,
    seq: Option<u64>,
    marker: Option<Value>,
}

impl Stored {
    pub(super) fn new(keep_records: bool) -> Self {
        Self { keep_records, ..Self::default() }
    }

    pub(super) fn add(&mut self, record: &[u8]) {
        self.totals.records += 1;
        self.totals.useful_bytes += record.len() as u64;
        let billed = record.len().div_ceil(BILLING_QUANTUM_BYTES) * BILLING_QUANTUM_BYTES;
        self.totals.billed_bytes += billed as u64;
        for line in record.split_inclusive(|byte| *byte == b'\n') {
            if !line.ends_with(b"\n") || self.add_line(line).is_none() {
                self.totals.bad_lines += 1;
            }
        }
        if self.keep_records {
            self.records.push(record.into());
        }
    }

    fn add_line(&mut self, line: &[u8]) -> Option<()> {
        let parsed: Line = serde_json::from_slice(line).ok()?;
        if parsed.marker.is_some() {
            self.totals.markers += 1;
            self.markers.push(serde_json::from_slice(line).ok()?);
            return Some(());
        }
        let seq = parsed.seq.filter(|seq| *seq < MAX_SEQ)? as usize;
        let times = self.times.entry((parsed.id_device.into_owned(), parsed.run?)).or_default();
        if times.len() <= seq {
            times.resize(seq + 1, 0);
        }
        self.totals.samples += 1;
        self.totals.duplicates += u64::from(times[seq] > 0);
        times[seq] = times[seq].saturating_add(1);
        Some(())
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Samples, each counted once.
    pub fn distinct(&self) -> u64 {
        self.totals.samples - self.totals.duplicates
    }

    /// Every device and run of which a sample was stored.
    pub fn runs(&self) -> impl Iterator<Item = &RunOf> {
        self.times.keys()
    }

    /// How often this sample was stored.
    pub fn times(&self, device: &str, run: u64, seq: u64) -> u8 {
        let times = self.times.get(&(device.to_owned(), run));
        times.and_then(|times| times.get(seq as usize)).copied().unwrap_or(0)
    }

    /// The seqs of a run that were not stored, out of 0..`end`.
    pub fn missing(&self, device: &str, run: u64, end: u64) -> Vec<u64> {
        (0..end).filter(|seq| self.times(device, run, *seq) == 0).collect()
    }

    /// The lines that are markers, in order of arrival.
    pub fn markers(&self) -> &[Value] {
        &self.markers
    }

    /// The records in order of arrival; none where only counts are kept.
    pub fn records(&self) -> &[Arc<[u8]>] {
        &self.records
    }

    /// Every line of every record, parsed, in order of arrival; none where
    /// only counts are kept.
    pub fn lines(&self) -> impl Iterator<Item = Value> {
        let lines = self.records.iter().flat_map(|record| record.split(|byte| *byte == b'\n'));
        lines.filter_map(|line| serde_json::from_slice(line).ok())
    }

    /// The same without markers.
    pub fn samples(&self) -> impl Iterator<Item = Value> {
        self.lines().filter(|line| line["marker"].is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_by_device_run_and_seq() {
        let mut stored = Stored::new(false);
        stored.add(b"{\"id_device\":\"a\",\"run\":7,\"seq\":0}\n{\"id_device\":\"a\",\"run\":7,\"seq\":2}\n");
        stored.add(b"{\"id_device\":\"a\",\"run\":7,\"seq\":2}\n{\"id_device\":\"a\",\"run\":8,\"marker\":{\"kind\":\"gap\"}}\n");
        assert_eq!(stored.missing("a", 7, 4), [1, 3]);
        assert_eq!(stored.times("a", 7, 2), 2);
        assert_eq!(stored.distinct(), 2);
        assert_eq!(stored.markers().len(), 1);
        let totals = stored.totals();
        assert_eq!((totals.samples, totals.duplicates, totals.bad_lines), (3, 1, 0));
        assert_eq!(totals.billed_bytes, 2 * 5120);
    }

    #[test]
    fn what_is_no_sample_is_a_bad_line() {
        let mut stored = Stored::new(true);
        stored.add(
            b"nonsense\n{\"id_device\":\"a\",\"run\":1}\n{\"id_device\":\"a\",\"run\":1,\"seq\":0}",
        );
        assert_eq!(stored.totals().bad_lines, 3);
        assert_eq!(stored.records().len(), 1);
    }
}
