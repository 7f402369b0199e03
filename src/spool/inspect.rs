//! Looking into a spool that no agent holds.
//!
//! Nothing in the spool changes. sled writes whenever it opens a database, so
//! each generation is copied to the system's temporary folder and read there,
//! one at a time. What cannot be read is said and passed over.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ledger::{self, Book, Ledger, Ranges};
use crate::record::Marker;
use crate::spool::chunk::Chunk;
use crate::spool::claim::check_free;
use crate::spool::dead::DeadLetters;
use crate::spool::ends::Ends;
use crate::spool::gaps::Gaps;
use crate::spool::generation::{Span, disk_bytes, firsts, folder_of, spans};
use crate::spool::store::{Opener, SledOpener, Store, StoreError};
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

/// A spool looked at by hand.
pub struct Inspection {
    folder: PathBuf,
    book: Book,
    /// Numbers from here on are outstanding too: the ledger does not know them.
    unknown_from: u64,
    spans: VecDeque<Span>,
    current: Option<Copied>,
}

impl Inspection {
    pub fn open(settings: &Settings) -> Result<Self, InspectError> {
        let folder = settings.path.clone();
        if !folder.is_dir() {
            return Err(InspectError::Absent(folder));
        }
        check_free(&folder)?;
        let book = Ledger::peek(&folder)?;
        let unknown_from = book.as_ref().map_or(0, |book| book.next_chunk);
        let firsts =
            firsts(&folder).map_err(|source| InspectError::Io { path: folder.clone(), source })?;
        let spans = spans(&firsts).into();
        Ok(Self { folder, book: book.unwrap_or_default(), unknown_from, spans, current: None })
    }

    pub fn holding(&self) -> Holding {
        Holding {
            chunks: self.book.outstanding.count(),
            bytes: self.book.outstanding_bytes,
            disk_bytes: disk_bytes(&self.folder),
            declarations: self.declarations(),
        }
    }

    /// What the ledger says, and what the next start would say of the last run.
    fn declarations(&self) -> Vec<Marker> {
        let mut values = self.book.declarations.clone();
        values.extend(self.book.run_end.clone());
        let ends = Ends::from_json(&values);
        let gaps = Gaps::from_json(&values);
        let ends = ends.iter().cloned().map(Marker::RunEnd);
        gaps.iter().map(Marker::Gap).chain(ends).collect()
    }

    /// The offset (ms) of a boot, if it ever saw the right time.
    pub fn offset_ms(&self, boot: &str) -> Option<i64> {
        let mut boots = self.book.boots.iter();
        boots.find(|known| known.id == boot).map(|known| known.offset_ms)
    }

    /// The next outstanding chunks, oldest first; empty at the end.
    pub fn chunks(&mut self) -> Vec<Chunk> {
        loop {
            if self.current.is_none() {
                let Some(span) = self.spans.pop_front() else { return Vec::new() };
                let mut wanted = self.book.outstanding.within(span.first, span.last);
                wanted.insert_range(self.unknown_from.max(span.first), span.last);
                if wanted.is_empty() {
                    continue;
                }
                match Copied::new(&folder_of(&self.folder, span.first), wanted) {
                    Ok(copied) => self.current = Some(copied),
                    Err(error) => tracing::error!(%error, "a part of the spool cannot be read"),
                }
            }
            let chunks = self.current.as_mut().map(Copied::chunks).unwrap_or_default();
            if !chunks.is_empty() {
                return chunks;
            }
            self.current = None;
        }
    }

    /// Refused records, oldest first.
    pub fn dead_letters(&self) -> Result<Vec<serde_json::Value>, InspectError> {
        let letters = DeadLetters::new(&self.folder).list();
        letters.map_err(|source| InspectError::Io { path: self.folder.clone(), source })
    }
}

/// A generation's copy.
struct Copied {
    /// Closed before its folder goes.
    store: Option<Box<dyn Store>>,
    folder: PathBuf,
    wanted: Ranges,
    from: Option<u64>,
}

impl Copied {
    fn new(generation: &Path, wanted: Ranges) -> Result<Self, StoreError> {
        let name = format!("iot-agent-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let folder = std::env::temp_dir().join(name);
        let from = wanted.first();
        let mut copied = Self { store: None, folder, wanted, from };
        copy(generation, &copied.folder).map_err(|e| StoreError::io(generation, e))?;
        copied.store = Some(SledOpener.open(&copied.folder)?);
        Ok(copied)
    }

    fn chunks(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        while chunks.is_empty()
            && let (Some(store), Some(from)) = (&mut self.store, self.from)
        {
            let last = self.wanted.around(from).map_or(from, |(_, last)| last);
            let frames = store.scan(from, last, FETCH_BYTES).or_else(|_| {
                // Past the damaged page, one by one, as far as anything is known.
                let known = last.min(store.last()?.unwrap_or(from));
                let each = (from..=known).map(|n| (n, store.get(n).ok().flatten()));
                Ok::<_, StoreError>(each.filter_map(|(n, frame)| Some((n, frame?))).collect())
            });
            let frames = frames.unwrap_or_default();
            let upto = frames.last().map_or(last, |&(number, _)| number);
            self.from = upto.checked_add(1).and_then(|next| self.wanted.at_or_after(next));
            chunks.extend(frames.iter().filter_map(|(_, frame)| Chunk::decode(frame).ok()));
        }
        chunks
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.store = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Copies the files of `from` and of the folders in it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
