//! A spool folder that somebody removed, or moved away, under a running agent.
//!
//! Open files outlive their names: what is written to them would be gone with
//! the process. So each write first sees that they are still where it opened
//! them, and otherwise begins the spool anew in its place.

use crate::spool::claim;
use crate::spool::keeper::Keeper;
use crate::spool::store::StoreError;

impl Keeper {
    /// Begins anew where the folder, or the part that is written to, is no
    /// longer there. Chunks with numbers below `next` that went with it are
    /// lost unless memory still has them.
    pub(super) fn see_that_it_is_there(&mut self, next: u64) -> Result<(), StoreError> {
        if !self.ledger.is_gone() && !self.generations.newest_is_gone() {
            return Ok(());
        }
        let io = |error: &dyn ToString| std::io::Error::other(error.to_string());
        let anew = claim::create(&self.folder).and_then(|()| claim::lock(&self.folder));
        let lock = anew.map_err(|e| StoreError::io(&self.folder, io(&e)))?;
        // The lock of the folder that is gone keeps nobody out of this one.
        self.lock = lock.or(self.lock.take());
        self.ledger.write_anew();
        self.generations.list().map_err(|e| StoreError::io(&self.folder, e))?;
        let kept = self.generations.spans().first().map_or(next, |span| span.first);
        let chunks = kept.checked_sub(1).map_or(0, |last| self.lost(0, last));
        let folder = self.folder.display();
        tracing::error!(%folder, chunks, "the spool was removed while in use, and is begun anew");
        Ok(())
    }
}
