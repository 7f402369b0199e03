//! Leases: the right to deliver a chunk, and the duty to say what became of it.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::Ranges;
use crate::spool::Spool;
use crate::spool::chunk::Chunk;

/// The seqs of one chunk that were delivered, whoever holds its lease.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivered(Arc<Mutex<Ranges>>);

impl Delivered {
    pub fn seqs(&self) -> MutexGuard<'_, Ranges> {
        // A set of numbers is sound wherever a panic left it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share in one chunk's lease. Clones share it. When the last one goes
/// before every entry was acknowledged, the chunk returns to the spool, which
/// leases the rest of it again.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    chunk: u64,
    delivered: Delivered,
    returns: Sender<u64>,
}

impl Lease {
    pub(super) fn new(chunk: u64, delivered: Delivered, returns: Sender<u64>) -> Self {
        Self(Arc::new(Shared { chunk, delivered, returns }))
    }

    /// The chunk's entry of this `seq` was delivered. The order does not
    /// matter: of a batch, what comes later may be taken first.
    pub fn ack(&self, seq: u64) {
        self.0.delivered.seqs().insert(seq);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The spool is gone only when the agent ends; what was not
        // acknowledged by then is on disk.
        let _ = self.returns.send(self.chunk);
    }
}

impl Spool {
    /// The next chunk to deliver: the oldest of the fresh ones, then the
    /// oldest of the backlog, or with `oldest_first` the other way round.
    /// `None` where nothing is at hand; see [`Spool::more_to_come`].
    pub fn lease(&mut self, oldest_first: bool) -> Option<(Chunk, Lease)> {
        self.settle();
        let coming = self.more_to_come() && self.trouble().is_none();
        self.ram.lease(oldest_first, coming)
    }

    /// The same of samples that came in at boot time `since_ms` or later.
    pub fn lease_since(&mut self, since_ms: u64) -> Option<(Chunk, Lease)> {
        self.settle();
        self.ram.lease_since(since_ms)
    }

    /// Whether anything older waits to be leased, here or on disk.
    pub fn any_before(&mut self, since_ms: u64) -> bool {
        self.settle();
        self.ram.any_before(since_ms) || self.more_to_come()
    }
}
