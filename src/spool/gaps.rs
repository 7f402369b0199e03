//! Gaps: what will not arrive, until the sink has been told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::Ranges;
use crate::record::{Gap, GapReason, Marker, Run, RunEnd};
use crate::spool::chunk::Header;
use crate::spool::ends::Ends;

/// Gaps kept at most: those of 16,384 devices fill the ledger's slot. What
/// goes beyond is said in the log alone.
const MAX_GAPS: usize = 16 * 1024;

/// Gaps handed to the drain at once: they take their turn among the samples.
const MAX_HANDED: usize = 256;

/// Seqs that will not arrive, by device and run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    seqs: BTreeMap<Key, Ranges>,
    /// How many ranges there are in all.
    count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key {
    device: String,
    run: Run,
    reason: GapReason,
    simulated: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    stride_log2: u8,
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// What the ledger keeps of one [`Key`].
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    key: Key,
    seqs: Ranges,
}

impl Gaps {
    pub fn add(&mut self, gap: &Gap) {
        self.change(gap, |seqs| seqs.insert_range(gap.first_seq, gap.last_seq));
        if self.count > MAX_GAPS
            && let Some(gap) = self.pop()
        {
            tracing::error!(?gap, "too much is missing to tell the sink all of it; left out");
        }
    }

    pub fn remove(&mut self, gap: &Gap) {
        self.change(gap, |seqs| seqs.remove_range(gap.first_seq, gap.last_seq));
    }

    fn change(&mut self, gap: &Gap, change: impl FnOnce(&mut Ranges)) {
        let key = Key {
            device: gap.device.clone(),
            run: gap.run,
            reason: gap.reason,
            simulated: gap.simulated,
            stride_log2: gap.stride_log2,
        };
        let mut seqs = self.seqs.remove(&key).unwrap_or_default();
        let before = seqs.ranges();
        change(&mut seqs);
        self.count = self.count + seqs.ranges() - before;
        if !seqs.is_empty() {
            self.seqs.insert(key, seqs);
        }
    }

    /// Takes one out.
    pub fn pop(&mut self) -> Option<Gap> {
        let gap = self.iter().next()?;
        self.remove(&gap);
        Some(gap)
    }

    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Gap> {
        self.seqs.iter().flat_map(|(key, seqs)| {
            seqs.iter().map(|(first_seq, last_seq)| Gap {
                device: key.device.clone(),
                run: key.run,
                first_seq,
                last_seq,
                kept: match key.reason {
                    GapReason::Thinned => multiples(first_seq, last_seq, key.stride_log2),
                    _ => 0,
                },
                reason: key.reason,
                simulated: key.simulated,
                stride_log2: key.stride_log2,
            })
        })
    }

    /// As the ledger keeps them.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let kept =
            self.seqs.iter().map(|(key, seqs)| Kept { key: key.clone(), seqs: seqs.clone() });
        kept.filter_map(|kept| serde_json::to_value(kept).ok()).collect()
    }

    pub fn from_json(values: &[serde_json::Value]) -> Self {
        let kept = values.iter().filter_map(|value| Kept::deserialize(value).ok());
        let seqs: BTreeMap<_, _> = kept.map(|Kept { key, seqs }| (key, seqs)).collect();
        let count = seqs.values().map(Ranges::ranges).sum();
        Self { seqs, count }
    }
}

/// How many of `first..=last` are multiples of 2^`log2`.
fn multiples(first: u64, last: u64, log2: u8) -> u64 {
    let below = first.checked_sub(1).map_or(0, |below| (below >> log2) + 1);
    (last >> log2) + 1 - below
}

/// The gap that thinning left in the chunk of `header`, if it was thinned: all
/// that it speaks for, of which what it has will arrive.
pub fn thinned(header: &Header<'_>) -> Option<Gap> {
    let kept = multiples(header.first_seq, header.last_seq, header.stride_log2);
    let gap = gap_of(header, GapReason::Thinned);
    (header.stride_log2 > 0).then_some(Gap { kept, stride_log2: header.stride_log2, ..gap })
}

/// The gap that dropping the chunk of `header` leaves.
pub fn gap_of(header: &Header<'_>, reason: GapReason) -> Gap {
    Gap {
        device: header.device.to_owned(),
        run: header.run,
        first_seq: header.first_seq,
        last_seq: header.last_seq,
        kept: 0,
        reason,
        simulated: header.simulated,
        stride_log2: 0,
    }
}

/// What the ledger is yet to know.
#[derive(Debug, Default)]
pub struct News {
    pub declare: Gaps,
    /// This run has ended.
    pub ended: Option<RunEnd>,
    pub delivered: Vec<Marker>,
    /// Gaps that are none, for memory has their chunks: they are to be durable
    /// before these are forgotten.
    pub retracted: Vec<Gap>,
}

impl News {
    pub fn is_empty(&self) -> bool {
        self.declare.is_empty()
            && self.ended.is_none()
            && self.delivered.is_empty()
            && self.retracted.is_empty()
    }
}

/// The way of the declarations through RAM: known, handed to the drain,
/// delivered.
#[derive(Debug, Default)]
pub struct Declarations {
    known: Gaps,
    ends: Ends,
    /// A gap that is with the drain grows no more: it would be delivered as
    /// it was.
    handed: Vec<Marker>,
    news: News,
}

impl Declarations {
    /// Takes in what the ledger knows.
    pub fn learn(&mut self, gap: &Gap) {
        self.known.add(gap);
    }

    /// The same of a run that has ended.
    pub fn learn_end(&mut self, end: RunEnd) {
        self.ends.add(end);
    }

    /// Takes in what the ledger is yet to know.
    pub fn declare(&mut self, gap: &Gap) {
        self.known.add(gap);
        self.news.declare.add(gap);
    }

    /// The same of this run.
    pub fn end(&mut self, end: RunEnd) {
        self.ends.add(end.clone());
        self.news.ended = Some(end);
    }

    /// `gap`, which the ledger knows, is none after all.
    pub fn retract(&mut self, gap: Gap) {
        self.news.retracted.push(gap);
    }

    /// The same of one that was learnt.
    pub fn unlearn(&mut self, gap: Gap) {
        self.known.remove(&gap);
        self.retract(gap);
    }

    /// What to deliver now: gaps first, for the end of a run relies on them.
    pub fn hand(&mut self) -> Vec<Marker> {
        while self.handed.len() < MAX_HANDED
            && let Some(marker) = self.pop()
        {
            self.handed.push(marker);
        }
        self.handed.clone()
    }

    fn pop(&mut self) -> Option<Marker> {
        let gap = self.known.pop().map(Marker::Gap);
        gap.or_else(|| self.ends.pop().map(Marker::RunEnd))
    }

    pub fn delivered(&mut self, marker: Marker) {
        self.handed.retain(|handed| *handed != marker);
        self.news.delivered.push(marker);
    }

    /// What to tell the ledger.
    pub fn news(&self) -> &News {
        &self.news
    }

    pub fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(device: &str, first_seq: u64, last_seq: u64) -> Gap {
        Gap {
            device: device.into(),
            run: Run(1),
            first_seq,
            last_seq,
            kept: 0,
            reason: GapReason::Evicted,
            simulated: false,
            stride_log2: 0,
        }
    }

    #[test]
    fn neighbours_become_one_and_others_stay_apart() {
        let mut gaps = Gaps::default();
        gaps.add(&gap("a", 10, 19));
        gaps.add(&gap("b", 0, 9));
        gaps.add(&gap("a", 0, 9));
        gaps.add(&Gap { run: Run(2), ..gap("a", 20, 29) });
        let all: Vec<_> = gaps.iter().collect();
        let of_run_2 = Gap { run: Run(2), ..gap("a", 20, 29) };
        assert_eq!(all, [gap("a", 0, 19), of_run_2, gap("b", 0, 9)]);
        assert_eq!(Gaps::from_json(&gaps.to_json()), gaps);
        gaps.remove(&gap("a", 5, 7));
        assert_eq!(gaps.count, 4);
    }

    #[test]
    fn what_was_thinned_says_how_much_of_it_arrives() {
        let mut gaps = Gaps::default();
        let thinned = |first_seq, last_seq, stride_log2| Gap {
            reason: GapReason::Thinned,
            stride_log2,
            ..gap("a", first_seq, last_seq)
        };
        gaps.add(&thinned(0, 7, 2));
        gaps.add(&thinned(8, 12, 2));
        gaps.add(&thinned(13, 15, 1));
        let kept = |gaps: &Gaps| gaps.iter().map(|gap| gap.kept).collect::<Vec<_>>();
        assert_eq!(kept(&gaps), [1, 4]);
        assert_eq!(kept(&Gaps::from_json(&gaps.to_json())), [1, 4]);
        for (first, last, log2) in [(0, 0, 3), (1, 7, 3), (1, 8, 3), (5, 23, 0), (3, 90, 4)] {
            let counted = (first..=last).filter(|n| n % (1 << log2) == 0).count();
            assert_eq!(multiples(first, last, log2), counted as u64);
        }
    }

    #[test]
    fn ten_thousand_devices_fit_a_ledger_and_what_is_beyond_the_bound_goes() {
        let mut gaps = Gaps::default();
        (0..20_000).for_each(|n| gaps.add(&gap(&format!("{n:064}"), 0, u64::from(u32::MAX))));
        assert_eq!(gaps.iter().count(), MAX_GAPS);
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = crate::ledger::Ledger::open(folder.path(), false).unwrap();
        ledger.book_mut().declarations = gaps.to_json();
        ledger.commit().unwrap();
    }

    #[test]
    fn what_is_with_the_drain_does_not_grow_and_is_bounded() {
        let mut declarations = Declarations::default();
        let [first, second] = [gap("a", 0, 9), gap("a", 10, 19)].map(Marker::Gap);
        declarations.learn(&gap("a", 0, 9));
        assert_eq!(declarations.hand(), std::slice::from_ref(&first));
        declarations.declare(&gap("a", 10, 19));
        assert_eq!(declarations.hand(), [first.clone(), second.clone()]);
        declarations.delivered(first.clone());
        assert_eq!(declarations.hand(), [second]);
        let news = declarations.take_news();
        assert_eq!(news.declare.iter().collect::<Vec<_>>(), [gap("a", 10, 19)]);
        assert_eq!(news.delivered, [first]);
        assert!(declarations.news().is_empty());
        (0..1000).for_each(|n| declarations.learn(&gap("c", n * 2, n * 2)));
        assert_eq!(declarations.hand().len(), MAX_HANDED);
        assert_eq!(declarations.hand().len(), MAX_HANDED);
    }
}
