//! Putting a database that was made anew in place of a generation's, or of
//! several neighbours'.
//!
//! It is filled under one name, gets another once it is durable, which says
//! what it replaces, then the old ones go, and it takes the first one's place.
//! A power cut between two of these leaves either the old ones as they were, or
//! what the next start brings to an end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{GOING, Generations, first_of, firsts, folder_of};
use crate::spool::store::{Store, StoreError};

/// One that is being filled.
pub const BUILDING: &str = "rebuilding";

/// One that is whole and durable, and has not yet taken its place.
const BUILT: &str = "rebuilt-";

impl Generations {
    /// An empty store beside the others, for [`Generations::stage`].
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

    /// What was filled, and is durable and closed, is to replace the
    /// generations that begin at `first` to `last`: if a power cut does not
    /// let [`Generations::replace`] do it, the next start will.
    pub fn stage(&mut self, first: u64, last: u64) -> io::Result<()> {
        let (building, built) = (self.folder.join(BUILDING), built(&self.folder, first, last));
        remove(&built)?;
        fs::rename(&building, &built)?;
        let synced = sync(&self.folder);
        if synced.is_err() {
            // The old ones count, and go on changing.
            let _ = fs::rename(&built, &building);
        }
        synced
    }

    /// Puts what was staged in the place of what it replaces. Until that
    /// succeeds nothing can be read or written.
    pub fn replace(&mut self, first: u64, last: u64) -> io::Result<()> {
        self.close();
        self.staged = Some((first, last));
        self.replace_staged()
    }

    /// The same of what [`Generations::replace`] left undone.
    pub(super) fn replace_staged(&mut self) -> io::Result<()> {
        let Some((first, last)) = self.staged else { return Ok(()) };
        finish(&self.folder)?;
        self.staged = None;
        let replaced = |other: u64| (first..=last).contains(&other);
        self.bytes.retain(|&other, _| !replaced(other));
        self.firsts.retain(|&other| other == first || !replaced(other));
        Ok(())
    }

    /// What replaces the newest generation takes the next chunks.
    pub fn replace_newest(&mut self, first: u64) -> io::Result<()> {
        self.close();
        self.stage(first, first)?;
        self.replace(first, first)?;
        self.ended = false;
        Ok(())
    }
}

/// Where the one that replaces the generations that begin at `first` to `last`
/// waits for it.
fn built(spool: &Path, first: u64, last: u64) -> PathBuf {
    spool.join(match last {
        last if last == first => format!("{BUILT}{first:020}"),
        last => format!("{BUILT}{first:020}-{last:020}"),
    })
}

/// The folders that wait to replace others, with the first and the last of
/// those.
fn waiting(spool: &Path) -> io::Result<Vec<(PathBuf, u64, u64)>> {
    let mut waiting = Vec::new();
    for entry in fs::read_dir(spool)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(numbers) = name.to_str().and_then(|name| name.strip_prefix(BUILT)) else {
            continue;
        };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        if let (Some(first), Some(last)) = (first_of(first, ""), first_of(last, "")) {
            waiting.push((entry.path(), first, last));
        }
    }
    Ok(waiting)
}

/// Brings every replacement to its end; returns where they begin.
pub fn finish(spool: &Path) -> io::Result<Vec<u64>> {
    let mut finished = Vec::new();
    for (built, first, last) in waiting(spool)? {
        let going = spool.join(GOING);
        for old in firsts(spool)?.into_iter().filter(|old| (first..=last).contains(old)) {
            remove(&going)?;
            fs::rename(folder_of(spool, old), &going)?;
            sync(spool)?;
        }
        fs::rename(built, folder_of(spool, first))?;
        sync(spool)?;
        remove(&going)?;
        finished.push(first);
    }
    Ok(finished)
}

/// The folders that hold the chunks of a spool that nobody uses, in order: what
/// waits to replace others counts in their stead.
pub fn folders(spool: &Path) -> io::Result<Vec<PathBuf>> {
    let waiting = waiting(spool)?;
    let mut folders: Vec<(u64, PathBuf)> = firsts(spool)?
        .into_iter()
        .filter(|old| !waiting.iter().any(|(_, first, last)| (first..=last).contains(&old)))
        .map(|first| (first, folder_of(spool, first)))
        .collect();
    folders.extend(waiting.into_iter().map(|(path, first, _)| (first, path)));
    folders.sort_unstable();
    Ok(folders.into_iter().map(|(_, path)| path).collect())
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
