//! Looking into a spool that no agent holds.

use crate::ledger::Ranges;
use crate::spool::chunk::Chunk;
use crate::spool::keeper::{Holding, Keeper};
use crate::spool::store::{SledOpener, StoreError};
use crate::spool::{Claim, Error, Settings};

/// Frames read at once.
const FETCH_BYTES: usize = 256 * 1024;

/// Why a spool cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Claim(#[from] Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no spool at {0}: set spool.path, or --config FILE")]
    Absent(std::path::PathBuf),
}

/// A spool opened by hand. Nothing in it changes.
pub struct Inspection {
    keeper: Keeper,
    seen: Ranges,
}

impl Inspection {
    pub fn open(settings: &Settings) -> Result<Self, InspectError> {
        if !settings.path.is_dir() {
            return Err(InspectError::Absent(settings.path.clone()));
        }
        let Claim { folder, bounds, ledger, .. } = Claim::of_folder(settings)?;
        let keeper =
            Keeper::open(folder, bounds, ledger, Box::new(SledOpener), Box::new(SledOpener))?;
        Ok(Self { keeper, seen: Ranges::default() })
    }

    pub fn holding(&self) -> Holding {
        self.keeper.holding()
    }

    /// The offset (ms) of a boot, if it ever saw the right time.
    pub fn offset_ms(&self, boot: &str) -> Option<i64> {
        self.keeper.offsets().get(boot).copied()
    }

    /// The next outstanding chunks, oldest first; empty at the end.
    pub fn next(&mut self) -> Vec<Chunk> {
        let frames = self.keeper.fetch(&self.seen, FETCH_BYTES);
        frames.iter().for_each(|(number, _)| self.seen.insert(*number));
        frames.iter().filter_map(|(_, frame)| Chunk::decode(frame).ok()).collect()
    }

    /// Refused records, oldest first.
    pub fn dead_letters(&mut self) -> Result<Vec<serde_json::Value>, InspectError> {
        Ok(self.keeper.dead_letters()?)
    }
}
