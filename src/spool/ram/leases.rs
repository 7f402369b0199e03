//! What the drain takes, and in which order.

use crate::spool::chunk::Chunk;
use crate::spool::lease::Lease;
use crate::spool::ram::Ram;

impl Ram {
    /// The next chunk to deliver, without what was delivered of it: the
    /// oldest of this start, then the oldest from disk, or with
    /// `oldest_first` the other way round, unless more from disk is `coming`.
    pub fn lease(&mut self, oldest_first: bool, coming: bool) -> Option<(Chunk, Lease)> {
        let live = self.index.live.first().map(|&(_, id)| id);
        let backlog = self.index.backlog.first().copied();
        let id = match oldest_first {
            true => backlog.or(live.filter(|_| !coming)),
            false => live.or(backlog),
        }?;
        self.grant(id)
    }

    /// The next chunk to deliver of those whose samples came in at boot time
    /// `since_ms` or later.
    pub fn lease_since(&mut self, since_ms: u64) -> Option<(Chunk, Lease)> {
        let &(_, id) = self.index.live.range((since_ms, 0)..).next()?;
        self.grant(id)
    }

    /// Whether there is a chunk to lease that is older.
    pub fn any_before(&self, since_ms: u64) -> bool {
        let older = |&(born_ms, _): &(u64, u64)| born_ms < since_ms;
        !self.index.backlog.is_empty() || self.index.live.first().is_some_and(older)
    }

    fn grant(&mut self, id: u64) -> Option<(Chunk, Lease)> {
        let held = self.held.get(&id)?;
        let mut chunk = Chunk::decode(&held.frame).ok()?;
        let delivered = held.delivered.clone();
        chunk.entries.retain(|entry| !delivered.seqs().contains(entry.seq));
        self.change(id, |held| held.leased = true);
        Some((chunk, Lease::new(id, delivered, self.returns.0.clone())))
    }
}
