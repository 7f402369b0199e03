//! Leases: the right to deliver a chunk, and the duty to say what became of it.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// What a lease's end means for its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// All its entries were delivered.
    Acked(u64),
    /// Some were not, and nobody holds the lease any more.
    Released(u64),
}

/// A share in one chunk's lease. Clones share it; when the last one goes
/// before every entry was acknowledged, the chunk returns to the spool.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    number: u64,
    entries: usize,
    acked: Mutex<usize>,
    returns: Sender<Return>,
}

impl Lease {
    pub(super) fn new(number: u64, entries: usize, returns: Sender<Return>) -> Self {
        Self(Arc::new(Shared { number, entries, acked: Mutex::new(0), returns }))
    }

    /// One entry of the chunk was delivered.
    pub fn ack(&self) {
        *self.0.acked.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Whether any entry of the chunk was delivered: then giving it back would
    /// deliver that entry twice.
    pub fn begun(&self) -> bool {
        *self.0.acked.lock().unwrap_or_else(PoisonError::into_inner) > 0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let acked = *self.acked.get_mut().unwrap_or_else(PoisonError::into_inner);
        let end = if acked >= self.entries {
            Return::Acked(self.number)
        } else {
            Return::Released(self.number)
        };
        // The spool is gone only when the agent ends; what was not
        // acknowledged by then is still on disk.
        let _ = self.returns.send(end);
    }
}
