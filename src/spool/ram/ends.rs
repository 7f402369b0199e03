//! How a chunk leaves memory: delivered, wholly or in part.

use std::sync::Arc;

use crate::record::Gap;
use crate::spool::chunk::{Chunk, Entry, Header};
use crate::spool::gaps::thinned;
use crate::spool::held::{Held, Place};
use crate::spool::ram::Ram;

impl Ram {
    /// All of chunk `id` was delivered.
    pub(super) fn let_go(&mut self, id: u64) {
        // What thinning took of it is told once the rest of it has arrived.
        let held = self.held.get(&id).filter(|held| !held.gone);
        let gap = held.and_then(|held| thinned(&Header::head(&held.frame).ok()?));
        self.thinned.extend(gap);
        self.part_with(id);
    }

    fn part_with(&mut self, id: u64) {
        let Some(mut held) = self.take(id) else { return };
        if !held.gone {
            self.delivered += held.entries as u64;
        }
        match held.place {
            Place::Ram => {}
            Place::Committing => {
                held.gone = true;
                self.insert(id, held);
            }
            Place::Disk(number) => {
                self.acked.insert(number);
                self.acked_bytes += held.frame.len() as u64;
            }
        }
    }

    /// Takes what thinning took of chunks that were delivered since.
    pub fn take_thinned(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.thinned)
    }

    /// Makes chunks of what is left of those that were delivered in part, so
    /// that nothing is delivered twice after a clean stop.
    pub fn rewrite_parts(&mut self) {
        let in_part = |held: &Held| {
            !held.leased && held.place != Place::Committing && !held.delivered.seqs().is_empty()
        };
        let ids: Vec<u64> =
            self.held.iter().filter(|(_, held)| in_part(held)).map(|(&id, _)| id).collect();
        for id in ids {
            let Some(held) = self.held.get(&id) else { continue };
            let Ok(chunk) = Chunk::decode(&held.frame) else { continue };
            let (delivered, born_ms) = (held.delivered.clone(), held.born_ms);
            let rest = chunk.entries.iter().filter(|e| !delivered.seqs().contains(e.seq)).cloned();
            let mut rest = rest.collect::<Vec<_>>();
            if rest.is_empty() {
                self.let_go(id);
                continue;
            }
            self.part_with(id);
            if chunk.stride_log2 > 0 {
                // It goes on speaking for what thinning took.
                self.delivered -= rest.len() as u64;
                self.hold(Chunk { entries: rest, ..chunk }, born_ms, Vec::new());
                continue;
            }
            while let Some(first_seq) = rest.first().map(|entry| entry.seq) {
                let follow = rest.iter().zip(first_seq..).take_while(|(e, seq)| e.seq == *seq);
                let entries: Vec<Entry> = rest.drain(..follow.count()).collect();
                self.delivered -= entries.len() as u64;
                let last_seq = entries.last().map_or(first_seq, |entry| entry.seq);
                let (device, part) = (Arc::clone(&chunk.device), Vec::new());
                self.hold(Chunk { first_seq, last_seq, entries, device, ..chunk }, born_ms, part);
            }
        }
    }
}
