//! The row of generations: small databases, of which only the newest and the
//! one being read are open.
//!
//! sled neither gives space back nor bounds its memory by itself; a generation
//! that goes as a whole does both. A folder bears the number of the first chunk
//! it may hold, so that a number finds its generation without opening any. It
//! appears and disappears by a rename: a power cut leaves it whole or gone.

mod rebuild;

pub use rebuild::folders;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::spool::carve::NUMBERS_END;
use crate::spool::store::{MAKING, Opener, Store, StoreError};
use crate::spool::trouble::PATIENCE;

const PREFIX: &str = "gen-";

/// A generation that is being deleted.
const GOING: &str = "going";

/// Where a generation that could not be read is kept: at most one, and the
/// first to go when space is short.
const ASIDE: &str = "damaged";

/// `stat` counts blocks of 512 bytes whatever the file system's own size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The generations under one spool folder, oldest first.
pub struct Generations {
    folder: PathBuf,
    opener: Box<dyn Opener>,
    firsts: Vec<u64>,
    newest: Option<Box<dyn Store>>,
    /// How often the medium has failed to give each, not counted further once
    /// patience has run out.
    misreads: BTreeMap<u64, u32>,
    /// The newest takes nothing more.
    ended: bool,
    /// Those that have lost something: not deleted, but set aside.
    suspects: BTreeSet<u64>,
    /// Bytes on disk of those that nothing is written to.
    bytes: BTreeMap<u64, u64>,
    reader: Option<(u64, Box<dyn Store>)>,
    /// A replacement that was begun: these do not count any more.
    staged: Option<(u64, u64)>,
    /// Those that [`Generations::list`] has put in the place of others.
    finished: Vec<u64>,
}

/// The numbers one generation may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

impl Generations {
    pub fn new(folder: &Path, opener: Box<dyn Opener>) -> Self {
        let folder = folder.to_owned();
        Self {
            folder,
            opener,
            firsts: Vec::new(),
            newest: None,
            misreads: BTreeMap::new(),
            ended: false,
            suspects: BTreeSet::new(),
            bytes: BTreeMap::new(),
            reader: None,
            staged: None,
            finished: Vec::new(),
        }
    }

    /// Lists what is there, opens none, and ends what a kill interrupted.
    pub fn list(&mut self) -> io::Result<()> {
        self.close();
        self.finished.extend(rebuild::finish(&self.folder)?);
        self.staged = None;
        self.firsts = firsts(&self.folder)?;
        // sled would wipe what follows damage.
        self.ended = !self.firsts.is_empty();
        self.bytes.clear();
        for name in [MAKING, GOING, rebuild::BUILDING] {
            // In the way only of the next one, which tries again.
            let _ = fs::remove_dir_all(self.folder.join(name));
        }
        Ok(())
    }

    /// The spans of all, oldest first; the newest one's is open-ended.
    pub fn spans(&self) -> Vec<Span> {
        spans(&self.firsts)
    }

    /// Where those begin that a start has put in the place of others.
    pub fn finished(&self) -> &[u64] {
        &self.finished
    }

    /// The generation that holds `number`.
    pub fn span_of(&self, number: u64) -> Option<Span> {
        let next = self.firsts.partition_point(|&first| first <= number);
        let first = *self.firsts.get(next.checked_sub(1)?)?;
        Some(Span { first, last: self.firsts.get(next).map_or(u64::MAX, |next| next - 1) })
    }

    /// The store for chunks from `next` on: the newest generation, or one made
    /// for them.
    pub fn newest(&mut self, next: u64) -> Result<&mut dyn Store, StoreError> {
        self.replace_staged().map_err(|e| StoreError::io(&self.folder, e))?;
        let first = self.firsts.last().copied().filter(|_| !self.ended);
        let store = match (first, self.newest.take()) {
            (Some(_), Some(store)) => store,
            (Some(first), None) => {
                self.reader = self.reader.take().filter(|(open, _)| *open != first);
                self.opener.open(&self.path(first))?
            }
            (None, ended) => {
                drop(ended);
                if self.firsts.last() == Some(&next) {
                    // A crash left it empty.
                    let deleted = self.delete(next);
                    deleted.map_err(|e| StoreError::io(&self.path(next), e))?;
                }
                let store = self.opener.open(&self.path(next))?;
                self.firsts.push(next);
                self.ended = false;
                store
            }
        };
        Ok(self.newest.insert(store).as_mut())
    }

    /// Whether a bad block in the generation that begins at `first` is an error
    /// that may pass, rather than lost.
    pub fn is_patient(&self, first: u64) -> bool {
        self.misreads.get(&first).is_none_or(|times| *times < PATIENCE)
    }

    /// The medium has failed to give some of the generation that begins at
    /// `first`.
    pub fn misread(&mut self, first: u64) {
        self.reader = None;
        *self.misreads.entry(first).or_default() += u32::from(self.is_patient(first));
    }

    /// What it has not given so far of that generation is lost; whether that is
    /// news.
    pub fn lose_patience(&mut self, first: u64) -> bool {
        self.close();
        self.misreads.insert(first, PATIENCE).is_none_or(|times| times < PATIENCE)
    }

    /// The medium has given what was asked of that generation.
    pub fn read_well(&mut self, first: u64) {
        if self.is_patient(first) {
            self.misreads.remove(&first);
        }
    }

    /// The store that holds `span`, opened for reading if need be.
    pub fn reader(&mut self, span: Span) -> Result<&mut dyn Store, StoreError> {
        self.replace_staged().map_err(|e| StoreError::io(&self.folder, e))?;
        if self.firsts.last() == Some(&span.first) && !self.ended {
            return self.newest(span.first);
        }
        let store = match self.reader.take() {
            Some((open, store)) if open == span.first => store,
            other => {
                drop(other);
                self.opener.read(&self.path(span.first), self.is_patient(span.first))?
            }
        };
        Ok(self.reader.insert((span.first, store)).1.as_mut())
    }

    /// Whether `span` is the newest and the next chunks go there.
    pub fn takes_more(&self, span: Span) -> bool {
        span.last == u64::MAX && !self.ended
    }

    /// The next chunks begin a new generation.
    pub fn end_newest(&mut self) {
        self.newest = None;
        self.ended = true;
    }

    /// Closes whatever is open: after an error sled must be opened anew.
    pub fn close(&mut self) {
        self.newest = None;
        self.reader = None;
    }

    /// The generation that begins at `first` has lost something; whether that
    /// is news.
    pub fn suspect(&mut self, first: u64) -> bool {
        self.suspects.insert(first)
    }

    /// Whether the generation that begins at `first` has lost something.
    pub fn is_suspect(&self, first: u64) -> bool {
        self.suspects.contains(&first)
    }

    /// Deletes the generation that begins at `first`; sets it aside if it is
    /// suspect.
    pub fn finish(&mut self, first: u64) -> io::Result<()> {
        match self.suspects.contains(&first) {
            true => self.set_aside(first).map(drop),
            false => self.delete(first),
        }
    }

    /// Deletes the generation that begins at `first`.
    pub fn delete(&mut self, first: u64) -> io::Result<()> {
        let going = self.folder.join(GOING);
        self.let_go(first, &going)?;
        fs::remove_dir_all(going)
    }

    /// Keeps the generation that begins at `first` aside, in place of the one
    /// that was; returns where.
    pub fn set_aside(&mut self, first: u64) -> io::Result<PathBuf> {
        let aside = self.folder.join(ASIDE);
        self.let_go(first, &aside)?;
        Ok(aside)
    }

    /// Deletes what was set aside; whether there was any.
    pub fn drop_aside(&self) -> bool {
        fs::remove_dir_all(self.folder.join(ASIDE)).is_ok()
    }

    fn let_go(&mut self, first: u64, to: &Path) -> io::Result<()> {
        if self.firsts.last() == Some(&first) {
            self.newest = None;
        }
        self.reader = self.reader.take().filter(|(open, _)| *open != first);
        match fs::remove_dir_all(to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::rename(self.path(first), to)?;
        if self.firsts.last() == Some(&first) {
            self.ended = false;
        }
        self.firsts.retain(|&other| other != first);
        self.suspects.remove(&first);
        self.misreads.remove(&first);
        self.bytes.remove(&first);
        Ok(())
    }

    /// Whether somebody has removed the newest generation.
    pub fn newest_is_gone(&self) -> bool {
        self.firsts.last().is_some_and(|&first| !self.path(first).exists())
    }

    /// Bytes the newest generation takes on disk; 0 if there is none.
    pub fn newest_bytes(&self) -> u64 {
        self.firsts.last().map_or(0, |&first| disk_bytes(&self.path(first)))
    }

    /// Bytes that the generation that begins at `first` took on disk when they
    /// were last measured; the newest is not.
    pub fn bytes_of(&self, first: u64) -> u64 {
        self.bytes.get(&first).copied().unwrap_or_else(|| disk_bytes(&self.path(first)))
    }

    /// Bytes that all generations take on disk.
    pub fn disk_bytes(&mut self) -> u64 {
        let newest_bytes = self.newest_bytes();
        let (_, closed) = self.firsts.split_last().unwrap_or((&0, &[]));
        let of_folder = |first| disk_bytes(&folder_of(&self.folder, first));
        let known = |&first| *self.bytes.entry(first).or_insert_with(|| of_folder(first));
        newest_bytes + closed.iter().map(known).sum::<u64>()
    }

    fn path(&self, first: u64) -> PathBuf {
        folder_of(&self.folder, first)
    }
}

/// The first numbers of the generations in `folder`, in order.
pub fn firsts(folder: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let first = entry.file_name().to_str().and_then(|name| first_of(name, PREFIX));
        firsts.extend(first.filter(|_| entry.path().is_dir()));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// The number in a folder's name, if it is one of ours.
fn first_of(name: &str, prefix: &str) -> Option<u64> {
    let first = name.strip_prefix(prefix)?.parse().ok()?;
    (first < NUMBERS_END && name == format!("{prefix}{first:020}")).then_some(first)
}

/// The spans of generations that begin at `firsts`.
pub fn spans(firsts: &[u64]) -> Vec<Span> {
    let ends = firsts.iter().skip(1).map(|next| next - 1).chain([u64::MAX]);
    firsts.iter().zip(ends).map(|(&first, last)| Span { first, last }).collect()
}

/// The folder of the generation that begins at `first`.
pub fn folder_of(spool: &Path, first: u64) -> PathBuf {
    spool.join(format!("{PREFIX}{first:020}"))
}

/// Bytes that `spool` takes on disk without its generations.
pub fn other_bytes(spool: &Path) -> u64 {
    let own = fs::symlink_metadata(spool).map_or(0, |meta| meta.blocks() * STAT_BLOCK_BYTES);
    let Ok(entries) = fs::read_dir(spool) else { return own };
    let others = entries
        .flatten()
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    own + others.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}

/// Bytes that everything under `path` takes on disk. What vanishes meanwhile
/// counts nothing.
pub fn disk_bytes(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = meta.blocks() * STAT_BLOCK_BYTES;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = fs::read_dir(path) else {
        return own;
    };
    own + entries.flatten().map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}
