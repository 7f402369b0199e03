//! The ledger: the small file beside the spool that says what the spool must
//! still hold.
//!
//! Two slots of [`SLOT_BYTES`] are written in turn, each with a CRC32C and an
//! ever-growing edition, and made durable with `fdatasync`. A power cut in the
//! middle of a write leaves the other slot; of two good slots the higher
//! edition wins. With both unreadable the state counts as new, and everything
//! readable in the spool counts as outstanding.

mod ranges;

pub use ranges::Ranges;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the file in the spool's folder.
pub const FILE_NAME: &str = "ledger";

/// Bytes of one slot: [`MAX_RANGES`] of 41 digits each and 64 declarations
/// fit; what is written is only what is used, in most cases one 4 KiB page.
const SLOT_BYTES: u64 = 64 * 1024;

/// Outstanding ranges that are written at most; more are merged over the
/// smallest gaps, which can only lead to duplicates.
pub const MAX_RANGES: usize = 128;

/// Boots whose clock offset is kept at most.
const MAX_BOOTS: usize = 32;

const MAGIC: [u8; 4] = *b"iAL1";

/// magic, CRC32C of the rest, length of the text, edition.
const HEADER_BYTES: usize = 4 + 4 + 4 + 8;

/// Why the ledger could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the ledger {path} cannot be {verb}: {source}; check the folder's owner and free space"
    )]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("the ledger of {devices} outstanding declarations is too long to be written")]
    TooLong { devices: usize },
}

/// What the ledger says. Unknown members are passed over, absent ones empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// CRC32C of the machine-id: a cloned card shows a foreign one.
    pub machine: u32,
    /// The run of the last start.
    pub run: u64,
    /// No chunk in use has this number or a higher one.
    pub next_chunk: u64,
    /// Chunks durable in the spool and not acknowledged.
    pub outstanding: Ranges,
    /// Wall minus boot time of each boot that saw the right time, oldest first.
    pub boots: Vec<Boot>,
    /// Declarations not yet delivered, as the record room writes them.
    pub declarations: Vec<serde_json::Value>,
}

/// One boot whose wall clock became known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// 32 hexadecimal digits.
    pub id: String,
    pub offset_ms: i64,
}

impl Book {
    /// Notes what `boot`'s offset turned out to be; forgets the oldest boots.
    pub fn set_offset(&mut self, boot: &str, offset_ms: i64) {
        match self.boots.iter_mut().find(|b| b.id == boot) {
            Some(known) => known.offset_ms = offset_ms,
            None => self.boots.push(Boot { id: boot.to_owned(), offset_ms }),
        }
        let excess = self.boots.len().saturating_sub(MAX_BOOTS);
        self.boots.drain(..excess);
    }
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    edition: u64,
    book: Book,
    found: bool,
}

impl Ledger {
    /// Opens or creates the ledger in `folder`, which must exist.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| Error::Io { verb: "opened", path: path.clone(), source })?;
        let newest =
            [0, 1].into_iter().filter_map(|slot| read_slot(&file, slot)).max_by_key(|r| r.0);
        let found = newest.is_some();
        let (edition, book) = newest.unwrap_or_default();
        Ok(Self { file, path, edition, book, found })
    }

    /// Whether a readable slot was there when it was opened.
    pub fn found(&self) -> bool {
        self.found
    }

    pub fn book(&self) -> &Book {
        &self.book
    }

    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Writes the book into the other slot and makes it durable.
    pub fn commit(&mut self) -> Result<(), Error> {
        let mut book = self.book.clone();
        book.outstanding.merge_to(MAX_RANGES);
        let text = serde_json::to_vec(&book).unwrap_or_default();
        let bytes = seal(self.edition + 1, &text);
        if bytes.len() as u64 > SLOT_BYTES {
            return Err(Error::TooLong { devices: book.declarations.len() });
        }
        let at = ((self.edition + 1) % 2) * SLOT_BYTES;
        let write = self.file.write_all_at(&bytes, at).and_then(|()| self.file.sync_data());
        write.map_err(|source| Error::Io { verb: "written", path: self.path.clone(), source })?;
        self.edition += 1;
        Ok(())
    }
}

fn seal(edition: u64, text: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(HEADER_BYTES + text.len());
    rest.extend((text.len() as u32).to_le_bytes());
    rest.extend(edition.to_le_bytes());
    rest.extend(text);
    let mut bytes = Vec::with_capacity(rest.len() + 8);
    bytes.extend(MAGIC);
    bytes.extend(crc32c::crc32c(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Book)> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, slot * SLOT_BYTES).ok()?;
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (length, edition) = rest.split_first_chunk::<4>()?;
    let length_bytes = u32::from_le_bytes(*length) as usize;
    if *magic != MAGIC || length_bytes as u64 > SLOT_BYTES {
        return None;
    }
    let mut body = rest.to_vec();
    body.resize(rest.len() + length_bytes, 0);
    let text = body.get_mut(rest.len()..)?;
    file.read_exact_at(text, slot * SLOT_BYTES + HEADER_BYTES as u64).ok()?;
    if crc32c::crc32c(&body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let book = serde_json::from_slice(body.get(rest.len()..)?).ok()?;
    Some((u64::from_le_bytes(*edition.first_chunk::<8>()?), book))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_run(folder: &Path, run: u64) {
        let mut ledger = Ledger::open(folder).unwrap();
        ledger.book_mut().run = run;
        ledger.book_mut().outstanding.insert(run);
        ledger.commit().unwrap();
    }

    #[test]
    fn the_newest_good_slot_wins() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!Ledger::open(folder.path()).unwrap().found());
        (1..=3).for_each(|run| at_run(folder.path(), run));
        let ledger = Ledger::open(folder.path()).unwrap();
        assert!(ledger.found());
        assert_eq!(ledger.book().run, 3);
        assert!(ledger.book().outstanding.contains(2));
    }

    #[test]
    fn any_damaged_byte_of_one_slot_leaves_the_other() {
        let folder = tempfile::tempdir().unwrap();
        (1..=2).for_each(|run| at_run(folder.path(), run));
        let path = folder.path().join(FILE_NAME);
        let good = std::fs::read(&path).unwrap();
        let second_slot_ends = good.len();
        let first_text = HEADER_BYTES + 40;
        for at in (0..first_text).chain(SLOT_BYTES as usize..second_slot_ends) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let run = Ledger::open(folder.path()).unwrap().book().run;
            assert!(run == 1 || run == 2, "byte {at}: run {run}");
        }
    }

    #[test]
    fn noise_counts_as_new() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), [0xff; 200_000]).unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        assert!(!ledger.found());
        assert_eq!(*ledger.book(), Book::default());
    }

    #[test]
    fn a_boot_keeps_its_last_offset() {
        let mut book = Book::default();
        (0..100).for_each(|n| book.set_offset(&format!("{n}"), n));
        book.set_offset("99", -5);
        assert_eq!(book.boots.len(), MAX_BOOTS);
        assert_eq!(book.boots.last().unwrap().offset_ms, -5);
    }
}
