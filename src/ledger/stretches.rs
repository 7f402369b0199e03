//! What the chunks on disk spoke for: enough to say what was in one of which
//! nothing is left.

use serde::{Deserialize, Serialize};

use crate::ledger::Ranges;

/// Stretches kept at most, some 120 bytes each: one for each generation of a
/// full spool where a single device is sampled.
const MAX_STRETCHES: usize = 32;

/// Chunks of one device and run, in one generation, that speak for consecutive
/// seqs. Other devices' may lie between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub device: String,
    pub run: u64,
    pub simulated: bool,
    /// Numbers of the first and the last.
    pub chunks: (u64, u64),
    /// First and last seq.
    pub seqs: (u64, u64),
}

/// The newest stretches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stretches {
    list: Vec<Stretch>,
    /// Chunks from this number on are in one of them.
    described_from: u64,
}

impl Stretches {
    /// Takes in one chunk (its numbers and seqs: first = last) of the
    /// generation that begins at number `generation`.
    pub fn note(&mut self, generation: u64, chunk: Stretch) {
        let follows = |known: &&mut Stretch| {
            known.run == chunk.run
                && known.seqs.1.checked_add(1) == Some(chunk.seqs.0)
                && known.chunks.0 >= generation
                && known.chunks.1 < chunk.chunks.0
                && known.device == chunk.device
        };
        if let Some(known) = self.list.iter_mut().rev().find(follows) {
            known.chunks.1 = chunk.chunks.1;
            known.seqs.1 = chunk.seqs.1;
            return;
        }
        self.list.push(chunk);
        self.bound();
    }

    /// Forgets the oldest of too many.
    fn bound(&mut self) {
        while self.list.len() > MAX_STRETCHES {
            let gone = self.list.remove(0);
            self.described_from = self.described_from.max(gone.chunks.1.saturating_add(1));
        }
    }

    /// Takes in what is in the chunks of `first..=last` now that they were made
    /// anew: `chunks`, in the order of their numbers.
    pub fn replace(&mut self, first: u64, last: u64, chunks: impl Iterator<Item = Stretch>) {
        let (rest, mut list): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.list).into_iter().partition(|known| known.chunks.0 > last);
        list.retain(|known| known.chunks.0 < first);
        self.list = list;
        chunks.for_each(|chunk| self.note(first, chunk));
        self.list.extend(rest);
        self.bound();
    }

    /// Forgets those of which nothing is outstanding.
    pub fn keep(&mut self, outstanding: &Ranges) {
        self.list.retain(|stretch| outstanding.meets(stretch.chunks.0, stretch.chunks.1));
    }

    /// Whether such a chunk can be of this spool: a foreign file's numbers may
    /// be the same, but not what is in them.
    pub fn fits(&self, chunk: (u64, &str, u64), seqs: (u64, u64)) -> bool {
        let (number, device, run) = chunk;
        let covers = |stretch: &&Stretch| (stretch.chunks.0..=stretch.chunks.1).contains(&number);
        let mut covering = self.list.iter().filter(covers).peekable();
        number < self.described_from
            || covering.peek().is_none()
            || covering.any(|stretch| {
                let within = stretch.seqs.0 <= seqs.0 && seqs.1 <= stretch.seqs.1;
                stretch.device == device && stretch.run == run && within
            })
    }

    /// Chunks from this number on are in a stretch, if the ledger had any.
    pub fn described_from(&self) -> u64 {
        self.described_from
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stretch> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(device: &str, number: u64, seqs: (u64, u64)) -> Stretch {
        let chunks = (number, number);
        Stretch { device: device.into(), run: 7, simulated: false, chunks, seqs }
    }

    #[test]
    fn devices_take_turns_and_keep_their_stretches() {
        let mut stretches = Stretches::default();
        for n in 0..10 {
            stretches.note(0, chunk("a", n * 2, (n * 5, n * 5 + 4)));
            stretches.note(0, chunk("b", n * 2 + 1, (n, n)));
        }
        let told: Vec<_> = stretches.iter().map(|s| (&*s.device, s.chunks, s.seqs)).collect();
        assert_eq!(told, [("a", (0, 18), (0, 49)), ("b", (1, 19), (0, 9))]);
        assert!(stretches.fits((4, "a", 7), (10, 14)));
        assert!(!stretches.fits((4, "c", 7), (10, 14)), "a foreign device");
        assert!(!stretches.fits((4, "a", 8), (10, 14)), "a foreign run");
        assert!(stretches.fits((40, "c", 1), (0, 0)), "nothing is known of it");
        // What was delivered from memory is no part of a stretch, and neither
        // is another generation.
        stretches.note(0, chunk("a", 20, (60, 64)));
        stretches.note(21, chunk("a", 21, (65, 69)));
        assert_eq!(stretches.iter().count(), 4);
        let mut outstanding = Ranges::default();
        outstanding.insert(20);
        stretches.keep(&outstanding);
        assert_eq!(stretches.iter().map(|s| s.seqs).collect::<Vec<_>>(), [(60, 64)]);
    }

    #[test]
    fn what_was_made_anew_is_described_anew_in_its_place() {
        let mut stretches = Stretches::default();
        for (generation, number) in [(0, 0), (0, 1), (10, 10), (10, 11), (20, 20)] {
            stretches.note(generation, chunk("a", number, (number * 5, number * 5 + 4)));
        }
        let anew = [chunk("a", 0, (0, 9)), chunk("a", 1, (50, 59))];
        stretches.replace(0, 19, anew.into_iter());
        let told: Vec<_> = stretches.iter().map(|s| (s.chunks, s.seqs)).collect();
        assert_eq!(told, [((0, 0), (0, 9)), ((1, 1), (50, 59)), ((20, 20), (100, 104))]);
        assert_eq!(stretches.described_from(), 0);
        let many = (0..100).map(|n| chunk(&format!("{n}"), n, (0, 0)));
        stretches.replace(0, 19, many);
        assert_eq!(stretches.iter().count(), MAX_STRETCHES);
        assert_eq!(stretches.iter().last().unwrap().chunks, (20, 20), "the newest stays");
    }

    #[test]
    fn more_than_it_keeps_are_not_described() {
        let mut stretches = Stretches::default();
        (0..100).for_each(|n| stretches.note(0, chunk(&format!("{n}"), n, (0, 0))));
        assert_eq!(stretches.iter().count(), MAX_STRETCHES);
        assert_eq!(stretches.described_from(), 100 - MAX_STRETCHES as u64);
        assert!(stretches.fits((3, "x", 1), (0, 0)), "nothing is known of it");
        assert!(!stretches.fits((99, "x", 1), (0, 0)));
    }
}
