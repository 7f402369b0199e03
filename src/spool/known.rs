//! What chunks that can be read say of those that cannot.
//!
//! Consecutive chunks of one device and run speak for consecutive seqs: what
//! is missing between the seqs of two of them was in the chunks between their
//! numbers. Where the ledger's stretches describe a number, this is exact but
//! for chunks that were acknowledged and are gone: a gap may speak of them too.
//! Elsewhere both neighbours must be there, and a chunk counts as explained
//! only if a single device is known: another device's may have been the last
//! of its run.

use std::collections::BTreeMap;

use crate::ledger::{Ranges, Stretch, Stretches};
use crate::record::{Gap, GapReason, Run};
use crate::spool::chunk::Header;

/// The seqs that chunks speak for, by device and run.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<(Box<str>, Run), Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    simulated: bool,
    /// By their first seq.
    by_seq: BTreeMap<u64, Piece>,
}

/// Seqs without a hole.
#[derive(Debug, Clone, Copy)]
struct Piece {
    last_seq: u64,
    /// The chunks of the first and of the last of them.
    chunks: (u64, u64),
}

/// What is inferred of missing chunks.
#[derive(Debug, Default)]
pub struct Inferred {
    pub gaps: Vec<Gap>,
    /// The chunks that the gaps speak of for certain.
    pub chunks: Ranges,
}

impl Known {
    pub fn learn(&mut self, header: &Header<'_>) {
        let pieces = self.0.entry((header.device.into(), header.run)).or_default();
        pieces.simulated = header.simulated;
        pieces.insert(header.first_seq, header.last_seq, header.number);
    }

    /// Infers what `missing` chunks held.
    pub fn infer(&self, missing: &Ranges, stretches: &Stretches) -> Inferred {
        let (mut inferred, mut described) = (Inferred::default(), Ranges::default());
        for stretch in stretches.iter() {
            let within = missing.within(stretch.chunks.0, stretch.chunks.1);
            let certain =
                within.iter().map(|(first, last)| (first.max(stretches.described_from()), last));
            certain.for_each(|(first, last)| described.insert_range(first, last));
            if !within.is_empty() {
                inferred.gaps.extend(self.holes_in(stretch, &within));
            }
        }
        let rest = missing.without(&described);
        inferred.chunks = described;
        let mut devices: Vec<&str> = self.0.keys().map(|(device, _)| device.as_ref()).collect();
        devices.dedup();
        for ((device, run), pieces) in &self.0 {
            for (first_seq, last_seq, (above, below)) in pieces.holes() {
                let within = rest.within(above, below);
                if within.is_empty() {
                    continue;
                }
                inferred.gaps.push(gap(device, *run, pieces.simulated, first_seq, last_seq));
                if devices.len() == 1 {
                    let certain = within.iter();
                    certain.for_each(|(first, last)| inferred.chunks.insert_range(first, last));
                }
            }
        }
        inferred
    }

    /// The seqs of `stretch` that no chunk speaks for and `missing` ones may.
    fn holes_in(&self, stretch: &Stretch, missing: &Ranges) -> Vec<Gap> {
        let run = Run(stretch.run);
        let pieces = self.0.get(&(stretch.device.as_str().into(), run));
        let pieces = pieces.into_iter().flat_map(|pieces| &pieces.by_seq);
        let ((mut next_seq, last_seq), (first, last)) = (stretch.seqs, stretch.chunks);
        let (mut holes, mut above) = (Vec::new(), first);
        let mut hole = |first_seq: u64, end_seq: u64, above: u64, below: u64| {
            if first_seq < end_seq && missing.meets(above, below) {
                holes.push(gap(&stretch.device, run, stretch.simulated, first_seq, end_seq - 1));
            }
        };
        for (&piece_seq, piece) in pieces {
            if piece.last_seq < next_seq || piece_seq > last_seq {
                continue;
            }
            // A part that was written anew lies elsewhere, and says nothing of
            // the numbers here.
            let inside = (first..=last).contains(&piece.chunks.0);
            hole(next_seq, piece_seq, above, if inside { piece.chunks.0 } else { last });
            next_seq = piece.last_seq.saturating_add(1);
            if (first..=last).contains(&piece.chunks.1) {
                above = piece.chunks.1;
            }
        }
        hole(next_seq, last_seq.saturating_add(1), above, last);
        holes
    }
}

impl Pieces {
    fn insert(&mut self, mut first_seq: u64, mut last_seq: u64, number: u64) {
        let mut chunks = (number, number);
        if let Some((&before, piece)) = self.by_seq.range(..=first_seq).next_back() {
            if piece.last_seq >= last_seq {
                return;
            }
            if piece.last_seq.saturating_add(1) >= first_seq && piece.chunks.1 <= number {
                (first_seq, chunks.0) = (before, piece.chunks.0);
            }
        }
        while let Some((&after, &piece)) =
            self.by_seq.range(first_seq.saturating_add(1)..=last_seq.saturating_add(1)).next()
        {
            if piece.chunks.0 < chunks.1 {
                break;
            }
            self.by_seq.remove(&after);
            last_seq = last_seq.max(piece.last_seq);
            chunks.1 = piece.chunks.1;
        }
        self.by_seq.insert(first_seq, Piece { last_seq, chunks });
    }

    /// First and last seq of each hole, and the numbers about it.
    fn holes(&self) -> impl Iterator<Item = (u64, u64, (u64, u64))> {
        let pairs = self.by_seq.values().zip(self.by_seq.iter().skip(1));
        pairs.filter(|(before, (after, _))| before.last_seq.saturating_add(1) < **after).map(
            |(before, (after, piece))| {
                let (one, other) = (before.chunks.1, piece.chunks.0);
                (before.last_seq + 1, after - 1, (one.min(other), one.max(other)))
            },
        )
    }
}

fn gap(device: &str, run: Run, simulated: bool, first_seq: u64, last_seq: u64) -> Gap {
    let (device, reason) = (device.to_owned(), GapReason::Damaged);
    Gap { device, run, first_seq, last_seq, kept: 0, reason, simulated, stride_log2: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunk n of a device holds seqs 10 n to 10 n + 9.
    fn known(chunks: &[(&str, u64)]) -> Known {
        let mut known = Known::default();
        for (device, number) in chunks {
            let pieces = known.0.entry(((*device).into(), Run(1))).or_default();
            pieces.insert(number * 10, number * 10 + 9, *number);
        }
        known
    }

    fn missing(chunks: &[u64]) -> Ranges {
        let mut missing = Ranges::default();
        chunks.iter().for_each(|&number| missing.insert(number));
        missing
    }

    fn told(inferred: &Inferred) -> Vec<(&str, u64, u64)> {
        inferred.gaps.iter().map(|gap| (&*gap.device, gap.first_seq, gap.last_seq)).collect()
    }

    #[test]
    fn neighbours_say_what_was_between_them_and_no_more() {
        let none = Stretches::default();
        let alone = known(&[("a", 5), ("a", 2), ("a", 3), ("a", 9)]);
        let inferred = alone.infer(&missing(&[4, 6, 10]), &none);
        assert_eq!(told(&inferred), [("a", 40, 49), ("a", 60, 89)]);
        assert_eq!(inferred.chunks, missing(&[4, 6]), "of 10 nothing is known");
        // What is not on disk was delivered from memory.
        assert_eq!(told(&alone.infer(&missing(&[4]), &none)), [("a", 40, 49)]);
        // 4 may have been the last of a run of b.
        let both = known(&[("a", 3), ("a", 5), ("b", 1)]);
        let inferred = both.infer(&missing(&[4]), &none);
        assert_eq!(
            (told(&inferred), inferred.chunks.clone()),
            (vec![("a", 40, 49)], Ranges::default())
        );
    }

    #[test]
    fn the_ledgers_stretches_say_it_without_neighbours() {
        let mut stretches = Stretches::default();
        for number in 2..8 {
            let chunk = Stretch {
                device: "a".into(),
                run: 1,
                simulated: false,
                chunks: (number, number),
                seqs: (number * 10, number * 10 + 9),
            };
            stretches.note(0, chunk);
        }
        for (there, lost, gaps) in [
            (vec![], vec![2, 3, 4, 5, 6, 7], vec![("a", 20, 79)]),
            (vec![("a", 4), ("b", 1)], vec![2, 3, 7], vec![("a", 20, 39), ("a", 50, 79)]),
            (vec![("a", 2), ("a", 3)], vec![7], vec![("a", 40, 79)]),
        ] {
            let inferred = known(&there).infer(&missing(&lost), &stretches);
            assert_eq!((told(&inferred), inferred.chunks.clone()), (gaps, missing(&lost)));
        }
    }
}
