//! Completeness of a local lake: which samples of each device and run are
//! here, and which are not.
//!
//! It answers what `infra/queries/completeness.sql` asks, and says what each
//! figure means; the two are held to each other by a test. Memory grows with
//! the ranges of seqs, and with the rows of the largest file. A file that
//! cannot be read is named and counts as not being there.
//!
//! One thing more is known here than the query can know: up to which hour the
//! lake has deleted its oldest files (the cut). What a run lacks below its first
//! sample that is dated after that hour counts as expired, for it may have been
//! in them. Where that is the first sample of all, it must also have been handed
//! over in the next hour that the lake has: a later run is not excused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::ledger::Ranges;
use crate::sink::lake::folder::{self, Folder};
use crate::sink::lake::identities::{self, Identity, Said};

/// Why nothing can be said of a lake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] folder::Error),
    #[error("there is no lake at {0}: it would have a folder data/timestamp_sent=…")]
    Absent(PathBuf),
}

/// The answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub files: u64,
    pub rows: u64,
    /// The latest hour of which the lake has deleted files.
    pub expired_upto: Option<String>,
    /// Files that are damaged or none of a lake's, and why.
    pub passed_over: Vec<(PathBuf, String)>,
    pub runs: Vec<Tally>,
}

/// One device and run, in the words of the query.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub id_device: String,
    pub run: u64,
    pub open: bool,
    /// `clean` or `crash`.
    pub reason: Option<&'static str>,
    /// `None` where no sample is present and the run is open.
    pub last_seq: Option<u64>,
    pub present: u64,
    pub duplicated: u64,
    pub declared: u64,
    pub missing: u64,
    /// The missing ones that went with files that the lake deleted; not among
    /// `missing`.
    pub expired: u64,
    pub beyond_end: u64,
}

impl Report {
    /// Whether nothing is missing, doubled or unreadable.
    pub fn is_complete(&self) -> bool {
        let bad = |tally: &Tally| tally.missing > 0 || tally.duplicated > 0;
        self.passed_over.is_empty() && !self.runs.iter().any(bad)
    }
}

/// Reads the lake at `path`; `progress` hears of files read and files in all.
pub fn verify(path: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Report, Error> {
    let folder = Folder::new(path);
    let partitions = folder.partitions()?;
    if partitions.is_empty() {
        return Err(Error::Absent(path.to_owned()));
    }
    let mut files = Vec::new();
    for partition in &partitions {
        let listed = folder.files(partition)?;
        files
            .extend(listed.into_iter().map(|file| (partition, folder.path(partition, &file.name))));
    }
    let upto = folder.expired_upto();
    let next = upto.as_ref().map(|upto| {
        let next = partitions.iter().find(|partition| *partition > upto);
        next.unwrap_or(upto).as_str()
    });
    let (mut lake, mut report) = (Known::default(), Report::default());
    for (partition, path) in &files {
        match identities::read(path, upto.as_deref()) {
            Ok(rows) => {
                report.rows += rows.len() as u64;
                rows.iter().for_each(|row| lake.add(row, partition));
            }
            Err(error) => report.passed_over.push((path.clone(), error.to_string())),
        }
        report.files += 1;
        progress(report.files, files.len() as u64);
    }
    report.runs = lake.tallies(next);
    report.expired_upto = upto;
    Ok(report)
}

/// What the rows say, taken together.
#[derive(Default)]
struct Known<'a> {
    runs: BTreeMap<(Arc<str>, u64), Seqs<'a>>,
    /// By run: its last seq, and whether it ended cleanly.
    ends: BTreeMap<u64, (u64, bool)>,
}

#[derive(Default)]
struct Seqs<'a> {
    present: Ranges,
    gaps: Ranges,
    duplicated: u64,
    /// The partition of the lowest seq.
    lowest_in: Option<&'a str>,
    /// The lowest seq that is dated after the cut.
    first_later: Option<u64>,
}

impl<'a> Known<'a> {
    fn add(&mut self, row: &Identity, partition: &'a str) {
        let seqs = self.runs.entry((row.device.clone(), row.run)).or_default();
        match row.what {
            Said::Sample(seq) => {
                if row.later && seqs.first_later.is_none_or(|first| seq < first) {
                    seqs.first_later = Some(seq);
                }
                if seqs.present.first().is_none_or(|first| seq < first) {
                    seqs.lowest_in = Some(partition);
                }
                if seqs.present.contains(seq) {
                    seqs.duplicated += 1;
                } else {
                    seqs.present.insert(seq);
                }
            }
            Said::Gap(first, last) => seqs.gaps.insert_range(first, last),
            Said::RunEnd(last, clean) => {
                let end = self.ends.entry(row.run).or_insert((last, clean));
                *end = (end.0.max(last), end.1 || clean);
            }
            Said::Other => {}
        }
    }

    /// `cut` is the first partition after those of which files went, if any.
    fn tallies(self, cut: Option<&str>) -> Vec<Tally> {
        let Self { runs, ends } = self;
        let tally = |((device, run), seqs): ((Arc<str>, u64), Seqs)| {
            let end = ends.get(&run).copied();
            let last_seq = end.map(|(last, _)| last).or(seqs.present.last());
            let mut absent = last_seq.map_or_else(Ranges::default, |last| vec![(0, last)].into());
            let mut declared = seqs.gaps.clone();
            for (first, last) in seqs.present.iter() {
                absent.remove_range(first, last);
                declared.remove_range(first, last);
            }
            declared.iter().for_each(|(first, last)| absent.remove_range(first, last));
            let expired = match cut.map_or(0, |next| seqs.expired_below(next)) {
                0 => 0,
                below => absent.within(0, below - 1).count(),
            };
            let above = end.and_then(|(last, _)| last.checked_add(1));
            Tally {
                id_device: device.to_string(),
                run,
                open: end.is_none(),
                reason: end.map(|(_, clean)| if clean { "clean" } else { "crash" }),
                last_seq,
                present: seqs.present.count(),
                duplicated: seqs.duplicated,
                declared: declared.count(),
                missing: absent.count() - expired,
                expired,
                beyond_end: above.map_or(0, |above| seqs.present.within(above, u64::MAX).count()),
            }
        };
        runs.into_iter().map(tally).collect()
    }
}

impl Seqs<'_> {
    /// What is absent below this seq may have been in a file that went, `next`
    /// being the first partition after those.
    fn expired_below(&self, next: &str) -> u64 {
        let Some(first_later) = self.first_later else { return u64::MAX };
        let began_later = self.present.first() == Some(first_later)
            && self.lowest_in.is_some_and(|lowest| *lowest > *next);
        if began_later { 0 } else { first_later }
    }
}
