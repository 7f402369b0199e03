//! Looking into a spool that no agent holds, or into what is left of one.
//!
//! Nothing in the spool changes. sled writes whenever it opens a database, so
//! its frames are [carved](crate::spool::carve) out of the raw files, which also works where
//! they are damaged.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ledger::{self, Book, Ledger, Ranges};
use crate::record::{Gap, Marker, Run};
use crate::spool::carve::{Index, files};
use crate::spool::chunk::{Chunk, Header};
use crate::spool::claim::check_free;
use crate::spool::dead::DeadLetters;
use crate::spool::ends::Ends;
use crate::spool::gaps::{Gaps, thinned};
use crate::spool::generation::{disk_bytes, folders};
use crate::spool::{Error, Settings};

/// Frames read at once.
const FETCH_BYTES: usize = 256 * 1024;

/// Why a spool cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Claim(#[from] Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error("{path} cannot be read: {source}; run as the agent's user, or as root")]
    Io { path: PathBuf, source: io::Error },
    #[error("there is no spool at {0}: set spool.path, or --config FILE")]
    Absent(PathBuf),
    #[error("there is no folder {0}: name a copy of a spool's folder")]
    NoFolder(PathBuf),
}

impl InspectError {
    /// Whether the spool is a newer agent's.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Ledger(ledger::Error::Newer { .. }))
    }
}

/// What the ledger and the folder say of the spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Chunks durable and not acknowledged.
    pub chunks: u64,
    /// Their frames' bytes.
    pub bytes: u64,
    /// Bytes of everything under the spool's folder.
    pub disk_bytes: u64,
    /// What the sink has not been told of.
    pub declarations: Vec<Marker>,
}

/// What the ledger says, if it can be read.
struct Promise {
    book: Book,
    /// Numbers from here on are outstanding too: the ledger does not know them.
    unknown_from: u64,
}

impl Promise {
    fn of(book: Option<Book>) -> Self {
        let unknown_from = book.as_ref().map_or(0, |book| book.next_chunk);
        Self { book: book.unwrap_or_default(), unknown_from }
    }

    fn holds(&self, number: u64) -> bool {
        number >= self.unknown_from || self.book.outstanding.contains(number)
    }

    /// The offset (ms) of a boot, if it ever saw the right time.
    fn offset_ms(&self, chunk: &Chunk) -> Option<i64> {
        let boot = chunk.boot.to_string();
        let mut boots = self.book.boots.iter();
        boots.find(|known| known.id == boot).map(|known| known.offset_ms)
    }
}

/// The frames of some files, in the order of their numbers.
#[derive(Default)]
struct Frames {
    index: Index,
    left: Ranges,
    thinned: Gaps,
}

impl Frames {
    fn next(&mut self) -> Vec<Chunk> {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while let Some(number) = self.left.first()
            && (bytes < FETCH_BYTES || chunks.is_empty())
        {
            self.left.remove(number);
            for frame in self.index.read(number).unwrap_or_default() {
                bytes += frame.len();
                let Ok(chunk) = Chunk::decode(&frame) else { continue };
                let gap = Header::head(&frame).ok().and_then(|header| thinned(&header));
                gap.iter().for_each(|gap| self.thinned.add(gap));
                chunks.push(chunk);
            }
        }
        chunks
    }

    fn thinned(&self) -> Vec<Marker> {
        self.thinned.iter().map(Marker::Gap).collect()
    }
}

/// Chunks to be read, whatever they are read from.
pub trait Source {
    /// The next ones; empty at the end.
    fn chunks(&mut self) -> Vec<Chunk>;

    /// The offset (ms) of a chunk's boot, if it ever saw the right time.
    fn offset_ms(&self, chunk: &Chunk) -> Option<i64>;

    /// What thinning took from the chunks that were read so far.
    fn thinned(&self) -> Vec<Marker>;
}

/// A spool looked at by hand.
pub struct Inspection {
    folder: PathBuf,
    promise: Promise,
    folders: VecDeque<PathBuf>,
    frames: Frames,
}

impl Inspection {
    pub fn open(settings: &Settings) -> Result<Self, InspectError> {
        let folder = settings.path.clone();
        if !folder.is_dir() {
            return Err(InspectError::Absent(folder));
        }
        check_free(&folder)?;
        let promise = Promise::of(Ledger::peek(&folder)?);
        let folders =
            folders(&folder).map_err(|source| InspectError::Io { path: folder.clone(), source })?;
        Ok(Self { folder, promise, folders: folders.into(), frames: Frames::default() })
    }

    pub fn holding(&self) -> Holding {
        let book = &self.promise.book;
        Holding {
            chunks: book.outstanding.count(),
            bytes: book.outstanding_bytes,
            disk_bytes: disk_bytes(&self.folder),
            declarations: declarations(book),
        }
    }

    /// Refused records, oldest first.
    pub fn dead_letters(&self) -> Result<Vec<serde_json::Value>, InspectError> {
        let letters = DeadLetters::new(&self.folder).list();
        letters.map_err(|source| InspectError::Io { path: self.folder.clone(), source })
    }
}

/// The outstanding chunks, oldest first.
impl Source for Inspection {
    fn offset_ms(&self, chunk: &Chunk) -> Option<i64> {
        self.promise.offset_ms(chunk)
    }

    fn thinned(&self) -> Vec<Marker> {
        self.frames.thinned()
    }

    fn chunks(&mut self) -> Vec<Chunk> {
        loop {
            let chunks = self.frames.next();
            if !chunks.is_empty() {
                return chunks;
            }
            let Some(folder) = self.folders.pop_front() else { return chunks };
            let (mut index, promise) = (Index::default(), &self.promise);
            let added = index.add_all(&folder, false, |header| promise.holds(header.number));
            if let Err(error) = added {
                let folder = folder.display();
                tracing::error!(%error, %folder, "a part of the spool cannot be read");
            }
            (self.frames.left, self.frames.index) = (index.numbers(), index);
        }
    }
}

/// What was salvaged by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    pub chunks: u64,
    /// Samples that were found more than once.
    pub duplicates: u64,
    /// Files that cannot be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Whatever can be read in a folder that was a spool, or a copy of one.
pub struct Salvage {
    promise: Promise,
    /// The ledger could be read.
    pub has_ledger: bool,
    files: VecDeque<PathBuf>,
    frames: Frames,
    seen: BTreeMap<(Arc<str>, Run), Ranges>,
    pub salvaged: Salvaged,
}

impl Salvage {
    pub fn open(folder: &Path) -> Result<Self, InspectError> {
        if !folder.is_dir() {
            return Err(InspectError::NoFolder(folder.to_owned()));
        }
        let files =
            files(folder).map_err(|source| InspectError::Io { path: folder.to_owned(), source })?;
        // One of a newer agent is none that this one can go by.
        let book = Ledger::peek(folder).unwrap_or_default();
        Ok(Self {
            has_ledger: book.is_some(),
            promise: Promise::of(book),
            files: files.into(),
            frames: Frames::default(),
            seen: BTreeMap::new(),
            salvaged: Salvaged::default(),
        })
    }

    /// Bytes of the files that are still to be carved.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum()
    }

    /// Carves the next file; the bytes it had, or `None` after the last.
    pub fn carve(&mut self) -> Option<u64> {
        let path = self.files.pop_front()?;
        let promise = &self.promise;
        let added = self.frames.index.add(&path, false, |header| promise.holds(header.number));
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
        if let Err(error) = added {
            self.salvaged.unreadable.push((path, error.to_string()));
        }
        self.frames.left = self.frames.index.numbers();
        Some(bytes)
    }

    /// The chunks found that are still to be read.
    pub fn left(&self) -> u64 {
        self.frames.left.count()
    }

    /// What was declared, and what chunks held whose head alone can be read.
    pub fn declarations(&self) -> (Vec<Marker>, Vec<Gap>) {
        let known = declarations(&self.promise.book);
        (known, self.frames.index.heads().map(|(_, gap)| gap.clone()).collect())
    }
}

/// What was found, by number, with what no earlier chunk held.
impl Source for Salvage {
    fn chunks(&mut self) -> Vec<Chunk> {
        let mut chunks = self.frames.next();
        for chunk in &mut chunks {
            let key = (Arc::clone(&chunk.device), chunk.run);
            let seen = self.seen.entry(key).or_default();
            let before = chunk.entries.len();
            chunk.entries.retain(|entry| !seen.contains(entry.seq));
            chunk.entries.iter().for_each(|entry| seen.insert(entry.seq));
            self.salvaged.duplicates += (before - chunk.entries.len()) as u64;
            self.salvaged.chunks += 1;
        }
        chunks
    }

    fn offset_ms(&self, chunk: &Chunk) -> Option<i64> {
        self.promise.offset_ms(chunk)
    }

    fn thinned(&self) -> Vec<Marker> {
        self.frames.thinned()
    }
}

/// What the ledger says, and what the next start would say of the last run.
fn declarations(book: &Book) -> Vec<Marker> {
    let mut values = book.declarations.clone();
    values.extend(book.run_end.clone());
    let ends = Ends::from_json(&values);
    let gaps = Gaps::from_json(&values);
    let ends = ends.iter().cloned().map(Marker::RunEnd);
    gaps.iter().map(Marker::Gap).chain(ends).collect()
}
