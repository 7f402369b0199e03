//! A chunk in RAM, and the index of all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::record::{Gap, GapReason};
use crate::spool::chunk::{Header, Stamp};
use crate::spool::gaps::gap_of;
use crate::spool::lease::Delivered;

/// Where the bytes of a chunk are, beside here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Ram,
    /// A commit is under way.
    Committing,
    /// Durable, under this number.
    Disk(u64),
}

/// A chunk.
pub struct Held {
    pub frame: Arc<[u8]>,
    pub entries: usize,
    pub first_seq: u64,
    /// Of its first entry.
    pub stamp: Stamp,
    /// Boot time (ms) when its oldest sample came in, and how much later each
    /// of its samples did; empty where it came from disk.
    pub born_ms: u64,
    pub pushed: Box<[u32]>,
    /// Its key in [`Index::due`]: not later than [`Held::oldest_ms`].
    pub due_ms: u64,
    pub place: Place,
    pub from_disk: bool,
    pub leased: bool,
    /// Delivered, but the commit that is under way has it.
    pub gone: bool,
    pub delivered: Delivered,
}

impl Held {
    /// The gap that it leaves if the disk loses it and nobody else has it.
    pub fn gap(&self) -> Option<Gap> {
        let header = Header::head(&self.frame).ok()?;
        Some(gap_of(&header, GapReason::Damaged))
    }

    /// How long after its first sample the first one that is not delivered
    /// came in; `None` if all are delivered.
    pub fn later_ms(&self) -> Option<u64> {
        let seqs = self.delivered.seqs();
        if seqs.count() >= self.entries as u64 {
            return None;
        }
        let index = usize::try_from(seqs.absent_from(self.first_seq) - self.first_seq);
        Some(index.ok().and_then(|index| self.pushed.get(index)).copied().unwrap_or(0).into())
    }

    /// Boot time (ms) when its oldest undelivered sample came in.
    pub fn oldest_ms(&self) -> u64 {
        self.later_ms().map_or(u64::MAX, |later_ms| self.born_ms + later_ms)
    }
}

/// Chunks by what is asked about them, and sums of their frames' bytes.
#[derive(Default)]
pub struct Index {
    /// Chunks in RAM only, by the age of their oldest undelivered sample.
    pub due: BTreeSet<(u64, u64)>,
    /// Chunks in RAM only, by their first seq.
    pub seqs: BTreeSet<(u64, u64)>,
    /// Chunks that may be leased: of this start, by when their oldest sample
    /// came in, and from disk.
    pub live: BTreeSet<(u64, u64)>,
    pub backlog: BTreeSet<u64>,
    /// Those of `live` that are durable. What was delivered in part is none:
    /// only here it is known which part.
    pub warm: BTreeSet<u64>,
    /// Numbers of those that are durable.
    pub numbers: BTreeSet<u64>,
    /// All that is not delivered, by the wall time of the first sample.
    pub ages: BTreeSet<(i64, u64)>,
    pub fresh_bytes: usize,
    pub warm_bytes: usize,
    pub backlog_bytes: usize,
    pub durable: (u64, u64),
    pub bytes: usize,
}

impl Index {
    /// Takes in chunk `id` as it is.
    pub fn enter(&mut self, id: u64, held: &Held) {
        let bytes = held.frame.len();
        match held.place {
            Place::Ram => {
                self.fresh_bytes += bytes;
                self.due.insert((held.due_ms, id));
                self.seqs.insert((held.first_seq, id));
            }
            Place::Committing => {}
            Place::Disk(number) => {
                self.numbers.insert(number);
                self.durable = (self.durable.0 + 1, self.durable.1 + bytes as u64);
                if !held.from_disk {
                    self.warm_bytes += bytes;
                }
            }
        }
        let idle = !held.leased && !held.gone;
        if idle && held.from_disk {
            self.backlog_bytes += bytes;
            self.backlog.insert(id);
        } else if idle {
            self.live.insert((held.born_ms, id));
            if matches!(held.place, Place::Disk(_)) && held.delivered.seqs().is_empty() {
                self.warm.insert(id);
            }
        }
        if !held.gone {
            self.bytes += bytes;
            self.ages.insert((held.stamp.at.wall_ms, id));
        }
    }

    /// Takes chunk `id` out, which is as it was when it entered.
    pub fn leave(&mut self, id: u64, held: &Held) {
        let bytes = held.frame.len();
        match held.place {
            Place::Ram => {
                self.fresh_bytes -= bytes;
                self.due.remove(&(held.due_ms, id));
                self.seqs.remove(&(held.first_seq, id));
            }
            Place::Committing => {}
            Place::Disk(number) => {
                self.numbers.remove(&number);
                self.durable = (self.durable.0 - 1, self.durable.1 - bytes as u64);
                if !held.from_disk {
                    self.warm_bytes -= bytes;
                }
            }
        }
        if self.backlog.remove(&id) {
            self.backlog_bytes -= bytes;
        }
        self.live.remove(&(held.born_ms, id));
        self.warm.remove(&id);
        if !held.gone {
            self.bytes -= bytes;
            self.ages.remove(&(held.stamp.at.wall_ms, id));
        }
    }
}
