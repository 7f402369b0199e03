//! The row of generations: small databases, of which only the newest and the
//! one being read are open.
//!
//! sled neither gives space back nor bounds its memory by itself; a generation
//! that goes as a whole does both. A folder bears the number of the first chunk
//! it may hold, so that a number finds its generation without opening any.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::spool::store::{Opener, Store, StoreError};

const PREFIX: &str = "gen-";

/// `stat` counts blocks of 512 bytes whatever the file system's own size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The generations under one spool folder, oldest first.
pub struct Generations {
    folder: PathBuf,
    opener: Box<dyn Opener>,
    firsts: Vec<u64>,
    newest: Option<Box<dyn Store>>,
    reader: Option<(u64, Box<dyn Store>)>,
}

/// The numbers one generation may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

impl Generations {
    /// Lists the generations of `folder`, which must exist; opens none.
    pub fn list(folder: &Path, opener: Box<dyn Opener>) -> std::io::Result<Self> {
        let mut firsts = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|n| n.strip_prefix(PREFIX));
            firsts.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        firsts.sort_unstable();
        Ok(Self { folder: folder.to_owned(), opener, firsts, newest: None, reader: None })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.firsts.len()
    }

    /// The spans of all, oldest first; the newest one's is open-ended.
    pub fn spans(&self) -> Vec<Span> {
        let ends = self.firsts.iter().skip(1).map(|next| next - 1).chain([u64::MAX]);
        self.firsts.iter().zip(ends).map(|(&first, last)| Span { first, last }).collect()
    }

    /// The generation that holds `number`.
    pub fn span_of(&self, number: u64) -> Option<Span> {
        self.spans().into_iter().rfind(|span| span.first <= number)
    }

    /// The newest generation, opened or, if there is none, made to start at
    /// `next`.
    pub fn newest(&mut self, next: u64) -> Result<&mut dyn Store, StoreError> {
        if self.firsts.is_empty() {
            self.firsts.push(next);
        }
        if self.newest.is_none() {
            let first = self.firsts.last().copied().unwrap_or(next);
            self.reader = self.reader.take().filter(|(open, _)| *open != first);
            self.newest = Some(self.opener.open(&self.path(first))?);
        }
        match &mut self.newest {
            Some(store) => Ok(store.as_mut()),
            None => Err(StoreError::Io { path: self.folder.clone(), what: "not open".into() }),
        }
    }

    /// The store that holds `span`, opened for reading if need be.
    pub fn reader(&mut self, span: Span) -> Result<&dyn Store, StoreError> {
        if self.firsts.last() == Some(&span.first) {
            return self.newest(span.first).map(|store| &*store);
        }
        if self.reader.as_ref().is_none_or(|(open, _)| *open != span.first) {
            self.reader = None;
            self.reader = Some((span.first, self.opener.open(&self.path(span.first))?));
        }
        match &self.reader {
            Some((_, store)) => Ok(store.as_ref()),
            None => Err(StoreError::Io { path: self.folder.clone(), what: "not open".into() }),
        }
    }

    /// Begins a new generation at `next`. The one before it is closed.
    pub fn rotate(&mut self, next: u64) {
        if self.firsts.last().is_none_or(|&first| first < next) {
            self.newest = None;
            self.firsts.push(next);
        }
    }

    /// Closes whatever is open: after an error sled must be opened anew.
    pub fn close(&mut self) {
        self.newest = None;
        self.reader = None;
    }

    /// Deletes the generation that begins at `first`.
    pub fn delete(&mut self, first: u64) -> Result<(), StoreError> {
        self.let_go(first);
        let path = self.path(first);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Io { path, what: e.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Moves the generation that begins at `first` to `aside`, replacing what
    /// was there.
    pub fn set_aside(&mut self, first: u64, aside: &Path) -> Result<(), StoreError> {
        self.let_go(first);
        let path = self.path(first);
        let _ = fs::remove_dir_all(aside);
        fs::rename(&path, aside).map_err(|e| StoreError::Io { path, what: e.to_string() })
    }

    fn let_go(&mut self, first: u64) {
        if self.firsts.last() == Some(&first) {
            self.newest = None;
        }
        self.reader = self.reader.take().filter(|(open, _)| *open != first);
        self.firsts.retain(|&other| other != first);
    }

    /// Bytes the newest generation takes on disk; 0 if there is none.
    pub fn newest_bytes(&self) -> u64 {
        self.firsts.last().map_or(0, |&first| disk_bytes(&self.path(first)))
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{first:020}"))
    }
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
