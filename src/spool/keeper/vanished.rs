//! A spool folder that could not be had at the start, or that somebody removed,
//! or moved away, under a running agent.
//!
//! Open files outlive their names: what is written to them would be gone with
//! the process. So each write first sees that they are still where it opened
//! them, and otherwise begins the spool anew in its place.

use std::path::Path;

use crate::record::Run;
use crate::spool::claim;
use crate::spool::keeper::Keeper;
use crate::spool::store::StoreError;

impl Keeper {
    /// The folder is yet to be claimed for `run`.
    pub fn claims_late(&mut self, run: Run) {
        self.late = Some(run);
    }

    /// Claims the folder if that could not be done at the start.
    pub(super) fn claim_late(&mut self, patient: bool) -> Result<(), StoreError> {
        let Some(run) = self.late else { return Ok(()) };
        let claimed = claim::take(&self.folder, patient);
        let (lock, mut ledger) = claimed.map_err(|e| store_error(&self.folder, e))?;
        claim::begin(&mut ledger, Some(run)).map_err(|e| self.ledger_error(e))?;
        (self.lock, self.ledger, self.late) = (lock, ledger, None);
        Ok(())
    }

    /// Begins anew where the folder, or the part that is written to, is no
    /// longer there. Chunks with numbers below `next` that went with it are
    /// lost unless memory still has them.
    pub(super) fn see_that_it_is_there(&mut self, next: u64) -> Result<(), StoreError> {
        if !self.ledger.is_gone() && !self.generations.newest_is_gone() {
            return Ok(());
        }
        let anew = claim::create(&self.folder).and_then(|()| claim::lock(&self.folder));
        let lock = anew.map_err(|e| store_error(&self.folder, e))?;
        // The lock of the folder that is gone keeps nobody out of this one.
        self.lock = lock.or(self.lock.take());
        self.ledger.write_anew();
        self.generations.list().map_err(|e| StoreError::io(&self.folder, e))?;
        let kept = self.generations.spans().first().map_or(next, |span| span.first);
        let lost = kept.checked_sub(1).map(|last| self.outstanding.within(0, last));
        let (lost, folder) = (lost.unwrap_or_default(), self.folder.display());
        let chunks = lost.count();
        tracing::error!(%folder, chunks, "the spool was removed while in use, and is begun anew");
        self.give_up(None, &lost);
        Ok(())
    }
}

fn store_error(folder: &Path, error: claim::Error) -> StoreError {
    match error {
        claim::Error::Io { path, source, .. } => StoreError::io(&path, source),
        other => StoreError::io(folder, std::io::Error::other(other.to_string())),
    }
}
