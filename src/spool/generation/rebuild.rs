//! Putting a database that was made anew in place of a generation's.
//!
//! It is filled under one name, gets another once it is durable, then the old
//! one goes, and it takes that one's place. A power cut between two of these
//! leaves either the old one as it was, or what the next start brings to an
//! end.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{GOING, Generations, first_of, folder_of};
use crate::spool::store::{Store, StoreError};

/// One that is being filled.
pub const BUILDING: &str = "rebuilding";

/// One that is whole and durable, and has not yet taken its place.
const BUILT: &str = "rebuilt-";

impl Generations {
    /// An empty store beside the others, for [`Generations::replace`].
    pub fn rebuild(&mut self) -> Result<Box<dyn Store>, StoreError> {
        self.close();
        let building = self.folder.join(BUILDING);
        remove(&building).map_err(|e| StoreError::io(&building, e))?;
        self.opener.open(&building)
    }

    /// Gives up what was being filled.
    pub fn abandon(&mut self) {
        let _ = remove(&self.folder.join(BUILDING));
    }

    /// Puts what was filled, and is durable and closed, in place of the newest
    /// generation, which begins at `first`; it takes the next chunks.
    pub fn replace(&mut self, first: u64) -> io::Result<()> {
        self.close();
        let built = self.folder.join(format!("{BUILT}{first:020}"));
        remove(&built)?;
        fs::rename(self.folder.join(BUILDING), &built)?;
        sync(&self.folder)?;
        finish(&self.folder)?;
        self.bytes.remove(&first);
        self.ended = false;
        Ok(())
    }
}

/// Brings every replacement to its end.
pub fn finish(spool: &Path) -> io::Result<()> {
    for entry in fs::read_dir(spool)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(first) = name.to_str().and_then(|name| first_of(name, BUILT)) else { continue };
        let (place, going) = (folder_of(spool, first), spool.join(GOING));
        if place.exists() {
            remove(&going)?;
            fs::rename(&place, &going)?;
            sync(spool)?;
        }
        fs::rename(entry.path(), place)?;
        sync(spool)?;
        remove(&going)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
