//! Which rows the lake holds, as far as memory allows.
//!
//! Every file says in its footer which rows it has, so anything forgotten
//! here can be read again. What is never forgotten is which runs there are
//! and in which partitions: a run that is in no file needs no reading, and
//! that is every run that began with this process.

use std::collections::{BTreeMap, BTreeSet};

use crate::sink::lake::rows::{Row, RowSet, RunRows};

/// Devices, ranges and markers remembered, about 200 bytes each. Three starts
/// of 10,000 devices; a single host does not get near it in years.
const MAX_WEIGHT: usize = 64 * 1024;

/// Row identities by run.
#[derive(Debug, Default)]
pub struct Held {
    runs: BTreeMap<u64, Run>,
    weight: usize,
    clock: u64,
}

#[derive(Debug)]
struct Run {
    /// The partitions its rows are in lie within these.
    first: Box<str>,
    last: Box<str>,
    /// When it was last spoken of.
    used: u64,
    /// All its rows; `None` once forgotten.
    rows: Option<RunRows>,
}

/// Runs that must be read again, and the partitions to read.
#[derive(Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub runs: BTreeSet<u64>,
    pub first: Box<str>,
    pub last: Box<str>,
}

impl Held {
    /// A file of `partition` has these rows.
    pub fn add(&mut self, partition: &str, rows: &RowSet) {
        self.clock += 1;
        for (number, more) in rows.runs() {
            let run = self.runs.entry(number).or_insert_with(|| Run {
                first: partition.into(),
                last: partition.into(),
                used: 0,
                rows: Some(RunRows::default()),
            });
            run.used = self.clock;
            if partition < &*run.first {
                run.first = partition.into();
            }
            if partition > &*run.last {
                run.last = partition.into();
            }
            if let Some(known) = &mut run.rows {
                self.weight -= known.weight();
                known.extend(more);
                self.weight += known.weight();
            }
        }
        if self.weight > MAX_WEIGHT {
            self.forget();
        }
    }

    /// Forgets the rows of the runs that were not spoken of for longest.
    fn forget(&mut self) {
        let mut by_use: Vec<_> = self.runs.values_mut().filter(|run| run.rows.is_some()).collect();
        by_use.sort_unstable_by_key(|run| run.used);
        for run in by_use {
            if self.weight <= MAX_WEIGHT / 2 || run.used == self.clock {
                break;
            }
            let weight = run.rows.take().map_or(0, |rows| rows.weight());
            self.weight -= weight;
        }
    }

    /// Those of `runs` that are in the lake but forgotten here.
    pub fn forgotten(&self, runs: impl Iterator<Item = u64>) -> Option<Forgotten> {
        let mut found: Option<Forgotten> = None;
        for number in runs {
            let run = self.runs.get(&number).filter(|run| run.rows.is_none());
            let Some(Run { first, last, .. }) = run else { continue };
            let all = found.get_or_insert_with(|| Forgotten {
                runs: BTreeSet::new(),
                first: first.clone(),
                last: last.clone(),
            });
            all.runs.insert(number);
            all.first = all.first.clone().min(first.clone());
            all.last = all.last.clone().max(last.clone());
        }
        found
    }

    /// Takes in all that the files say of the forgotten runs.
    pub fn recall(&mut self, forgotten: &Forgotten, mut rows: RowSet) {
        self.clock += 1;
        for number in &forgotten.runs {
            let Some(run) = self.runs.get_mut(number) else { continue };
            let found = rows.take(*number);
            self.weight += found.weight();
            run.used = self.clock;
            run.rows = Some(found);
        }
    }

    pub fn contains(&self, row: &Row) -> bool {
        let run = self.runs.get(&row.run);
        run.and_then(|run| run.rows.as_ref()).is_some_and(|rows| rows.contains(row))
    }

    /// Every file of an earlier partition is gone.
    pub fn expire_before(&mut self, partition: &str) {
        let weight = &mut self.weight;
        self.runs.retain(|_, run| {
            let stays = &*run.last >= partition;
            if !stays {
                *weight -= run.rows.as_ref().map_or(0, RunRows::weight);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::lake::rows::What;

    fn row(run: u64, seq: u64) -> Row<'static> {
        Row { device: "a".into(), run, what: What::Sample(seq), line: b"" }
    }

    fn rows(run: u64, mut seqs: impl Iterator<Item = u64>) -> RowSet {
        let mut set = RowSet::default();
        assert!(seqs.all(|seq| set.insert(&row(run, seq))));
        set
    }

    #[test]
    fn the_longest_unused_runs_are_forgotten_and_recalled() {
        let mut held = Held::default();
        // Every other seq: each is a range of its own.
        let many = |run| rows(run, (0..30_000).step_by(2));
        (1..=6).for_each(|run| held.add(&format!("2026-11-24 0{run}"), &many(run)));
        assert!(held.weight <= MAX_WEIGHT);
        assert!(held.contains(&row(6, 0)) && !held.contains(&row(1, 0)));
        let forgotten = held.forgotten([1, 2, 6, 77].into_iter()).unwrap();
        assert_eq!(forgotten.runs, [1, 2].into());
        assert_eq!((&*forgotten.first, &*forgotten.last), ("2026-11-24 01", "2026-11-24 02"));
        held.recall(&forgotten, many(1));
        assert!(held.contains(&row(1, 28_000)) && !held.contains(&row(1, 1)));
        assert_eq!(held.forgotten([1, 2, 6, 77].into_iter()), None);
    }

    #[test]
    fn a_run_goes_with_its_last_partition() {
        let mut held = Held::default();
        held.add("2026-11-24 01", &rows(1, 0..9));
        held.add("2026-11-24 02", &rows(1, 9..12));
        held.add("2026-11-24 01", &rows(2, 0..9));
        held.expire_before("2026-11-24 02");
        assert!(held.contains(&row(1, 0)) && !held.contains(&row(2, 0)));
        held.expire_before("2026-11-24 03");
        assert_eq!((held.runs.len(), held.weight), (0, 0));
    }
}
