//! The ledger: the small file beside the spool that says what the spool must
//! still hold.
//!
//! Two slots of [`SLOT_BYTES`] are written in turn, each with a CRC32C and an
//! ever-growing edition, and made durable with `fdatasync`. A power cut in the
//! middle of a write leaves the other slot; of two good slots the higher
//! edition wins. With both unreadable the state counts as new, and everything
//! readable in the spool counts as outstanding. A slot of a newer agent is an
//! error: it is never guessed at. Whoever raises the version of the spool's
//! frames raises this one too.
//!
//! A slot: magic `iAL`, version (1 byte), length of the text (4, little-endian),
//! edition (8), the text (JSON), CRC32C of all before it (4).

#[cfg(test)]
pub mod faults;
mod ranges;
mod stretches;

pub use ranges::Ranges;
pub use stretches::{Stretch, Stretches};

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the file in the spool's folder.
pub const FILE_NAME: &str = "ledger";

/// Where the second slot begins, and so the longest text: 16,384 declarations.
/// Only what is used takes space, in most cases one 4 KiB page a slot.
const SLOT_BYTES: u64 = 4 * 1024 * 1024;

/// Written to each slot at creation: a commit then neither needs space on a
/// full disk nor changes the file's size, which would cost the file system's
/// journal a write.
const RESERVED_BYTES: usize = 16 * 1024;

/// Outstanding ranges that are written at most while the agent runs; more are
/// merged over the smallest gaps, which can only lead to duplicates.
pub const MAX_RANGES: usize = 128;

/// Boots whose clock offset is kept at most.
const MAX_BOOTS: usize = 256;

const MAGIC: [u8; 3] = *b"iAL";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3 + 1 + 4 + 8;
const CRC_BYTES: usize = 4;

/// Why the ledger could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the ledger {path} cannot be {verb}: {source}; check the folder's owner and free space"
    )]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the ledger {path} is of version {version}, which is newer than this agent: \
         install that agent again, or set spool.path to another folder"
    )]
    Newer { path: PathBuf, version: u8 },
    #[error("the ledger {path} would be too long with {declarations} declarations")]
    TooLong { path: PathBuf, declarations: usize },
}

/// What the ledger says. Unknown members are passed over, absent ones empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// CRC32C of the machine-id: a cloned card shows a foreign one.
    pub machine: u32,
    /// The run of the last start.
    pub run: u64,
    /// Every chunk on disk with a lower number is outstanding or done with.
    pub next_chunk: u64,
    /// Chunks durable in the spool and not acknowledged.
    pub outstanding: Ranges,
    /// How many there are, which may be fewer than the merged ranges hold, and
    /// bytes of their frames.
    pub outstanding_chunks: u64,
    pub outstanding_bytes: u64,
    /// What they spoke for.
    pub stretches: Stretches,
    /// How far parts of the spool are thinned, as the spool writes it.
    pub thinned: Vec<(u64, u8)>,
    /// Wall minus boot time of each boot that saw the right time, oldest first.
    pub boots: Vec<Boot>,
    /// Declarations not yet delivered, as the spool writes them.
    pub declarations: Vec<serde_json::Value>,
    /// The declaration that the next start makes of the run of this one, unless
    /// this one makes it itself.
    pub run_end: Option<serde_json::Value>,
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
        self.keep_boots(MAX_BOOTS);
    }

    /// Forgets all boots but the `count` newest.
    pub fn keep_boots(&mut self, count: usize) {
        let excess = self.boots.len().saturating_sub(count);
        self.boots.drain(..excess);
    }
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// None where the file could not be opened for writing so far.
    file: Option<File>,
    edition: u64,
    book: Book,
    /// The text of the newest slot.
    durable: Option<Vec<u8>>,
}

impl Ledger {
    /// Opens or creates the ledger in `folder`, which must exist. Where the
    /// file system takes nothing it is read as it is, and each
    /// [`Ledger::commit`] tries again. With `patient` a slot that the medium
    /// fails to read is an error, without it counts as damaged.
    pub fn open(folder: &Path, patient: bool) -> Result<Self, Error> {
        let path = folder.join(FILE_NAME);
        let (file, found) = match for_writing(folder, &path) {
            Ok(file) => {
                let found = newest(&file, &path, patient)?;
                (Some(file), found)
            }
            Err(e) if takes_nothing(&e) => (None, read(&path, patient)?),
            Err(source) => return Err(Error::Io { verb: "opened", path, source }),
        };
        let (edition, text, book) = match found {
            Some(Found { edition, text, book, .. }) => (edition, Some(text), book),
            None => Default::default(),
        };
        Ok(Self { path, file, edition, book, durable: text })
    }

    /// A new one that is to be in `folder`, which cannot be had now.
    pub fn absent(folder: &Path) -> Self {
        let (path, book) = (folder.join(FILE_NAME), Book::default());
        Self { path, file: None, edition: 0, book, durable: None }
    }

    /// What the ledger in `folder` says; changes nothing. `None` if there is
    /// none, or none that can be read.
    pub fn peek(folder: &Path) -> Result<Option<Book>, Error> {
        Ok(read(&folder.join(FILE_NAME), false)?.map(|found| found.book))
    }

    pub fn book(&self) -> &Book {
        &self.book
    }

    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Writes the book into the other slot and makes it durable. A book that
    /// says what the durable one says is not written.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.write(MAX_RANGES)
    }

    /// The same with all ranges as they are, however many: for a clean stop,
    /// after which nothing may be delivered twice.
    pub fn commit_exactly(&mut self) -> Result<(), Error> {
        self.write(usize::MAX)
    }

    /// Whether the file that is open has been removed or replaced.
    pub fn is_gone(&self) -> bool {
        let Some(Ok(open)) = self.file.as_ref().map(File::metadata) else { return false };
        match fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) != (open.dev(), open.ino()),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// The next commit opens the file, creating it if need be, and writes to it
    /// whatever the book says.
    pub fn write_anew(&mut self) {
        (self.file, self.durable) = (None, None);
    }

    fn write(&mut self, max_ranges: usize) -> Result<(), Error> {
        let text = if self.book.outstanding.ranges() > max_ranges {
            let mut book = self.book.clone();
            book.outstanding.merge_to(max_ranges);
            serde_json::to_vec(&book)
        } else {
            serde_json::to_vec(&self.book)
        };
        let text = text.unwrap_or_default();
        if self.durable.as_ref() == Some(&text) {
            return Ok(());
        }
        let edition = self.edition + 1;
        let bytes = seal(edition, &text);
        if bytes.len() as u64 > SLOT_BYTES {
            let declarations = self.book.declarations.len();
            return Err(Error::TooLong { path: self.path.clone(), declarations });
        }
        self.put(&bytes, edition).map_err(|source| Error::Io {
            verb: "written",
            path: self.path.clone(),
            source,
        })?;
        (self.edition, self.durable) = (edition, Some(text));
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], edition: u64) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => for_writing(self.path.parent().unwrap_or(Path::new(".")), &self.path)?,
        };
        let file = self.file.insert(file);
        #[cfg(test)]
        faults::strike()?;
        file.write_all_at(bytes, (edition % 2) * SLOT_BYTES)?;
        #[cfg(test)]
        faults::strike()?;
        file.sync_data()
    }
}

/// Whether the file system refuses to be written to, by whomever.
pub fn takes_nothing(error: &io::Error) -> bool {
    let kinds = [ErrorKind::ReadOnlyFilesystem, ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
    kinds.contains(&error.kind())
}

/// Whether the medium has failed, rather than said no.
pub fn is_bad(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn for_writing(folder: &Path, path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if is_new && let Err(error) = reserve(&file).and_then(|()| File::open(folder)?.sync_all()) {
        // The next one to open it is to find no file that has no space.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

fn reserve(file: &File) -> io::Result<()> {
    let zeros = vec![0; RESERVED_BYTES];
    file.write_all_at(&zeros, 0)?;
    file.write_all_at(&zeros, SLOT_BYTES)?;
    file.sync_all()
}

fn read(path: &Path, patient: bool) -> Result<Option<Found>, Error> {
    match File::open(path) {
        Ok(file) => newest(&file, path, patient),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { verb: "read", path: path.to_owned(), source }),
    }
}

/// A slot that is as it was written.
struct Found {
    version: u8,
    edition: u64,
    text: Vec<u8>,
    book: Book,
}

fn newest(file: &File, path: &Path, patient: bool) -> Result<Option<Found>, Error> {
    let mut slots = [0, 1].map(|slot| read_slot(file, slot));
    let bad = |slot: &io::Result<Option<Found>>| slot.as_ref().is_err_and(is_bad);
    if let Some(slot) = slots.iter_mut().find(|slot| patient && bad(slot)) {
        let source = std::mem::replace(slot, Ok(None)).err().unwrap_or_else(damaged);
        return Err(Error::Io { verb: "read", path: path.to_owned(), source });
    }
    let written = slots.iter().any(|slot| !matches!(slot, Ok(None)));
    let newest = slots.into_iter().filter_map(|slot| slot.ok().flatten());
    match newest.max_by_key(|found| found.edition) {
        Some(Found { version, .. }) if version > VERSION => {
            Err(Error::Newer { path: path.to_owned(), version })
        }
        None if written => {
            tracing::error!(
                path = %path.display(),
                "the ledger cannot be read: whatever the spool holds counts as not delivered"
            );
            Ok(None)
        }
        found => Ok(found),
    }
}

fn seal(edition: u64, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + text.len() + CRC_BYTES);
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(edition.to_le_bytes());
    bytes.extend(text);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// A slot's bytes were written and are not what was written.
fn damaged() -> io::Error {
    ErrorKind::InvalidData.into()
}

/// `None` where nothing was ever written.
fn read_slot(file: &File, slot: u64) -> io::Result<Option<Found>> {
    let mut bytes = vec![0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_BYTES) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let [m, a, g, version, l0, l1, l2, l3, edition @ ..] =
        *bytes.first_chunk::<HEADER_BYTES>().ok_or_else(damaged)?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if [m, a, g] != MAGIC || u64::from(length) > SLOT_BYTES {
        return Err(damaged());
    }
    bytes.resize(HEADER_BYTES + length as usize + CRC_BYTES, 0);
    let rest = bytes.get_mut(HEADER_BYTES..).ok_or_else(damaged)?;
    file.read_exact_at(rest, slot * SLOT_BYTES + HEADER_BYTES as u64)?;
    let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(damaged());
    }
    let text = body.get(HEADER_BYTES..).ok_or_else(damaged)?.to_vec();
    let edition = u64::from_le_bytes(edition);
    let book = match serde_json::from_slice(&text) {
        Ok(book) => book,
        // A newer text need not be one of ours.
        Err(_) if version > VERSION => Book::default(),
        Err(_) => return Err(damaged()),
    };
    Ok(Some(Found { version, edition, text, book }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_run(folder: &Path, run: u64) {
        let mut ledger = Ledger::open(folder, false).unwrap();
        ledger.book_mut().run = run;
        ledger.book_mut().outstanding.insert(run);
        ledger.commit().unwrap();
    }

    #[test]
    fn the_newest_good_slot_wins() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(*Ledger::open(folder.path(), false).unwrap().book(), Book::default());
        (1..=3).for_each(|run| at_run(folder.path(), run));
        let ledger = Ledger::open(folder.path(), false).unwrap();
        assert_eq!(ledger.book().run, 3);
        assert!(ledger.book().outstanding.contains(2));
        assert_eq!(Ledger::peek(folder.path()).unwrap().as_ref(), Some(ledger.book()));
    }

    #[test]
    fn any_damaged_byte_of_one_slot_leaves_the_other() {
        let folder = tempfile::tempdir().unwrap();
        (1..=2).for_each(|run| at_run(folder.path(), run));
        let path = folder.path().join(FILE_NAME);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let text_bytes =
            serde_json::to_vec(Ledger::open(folder.path(), false).unwrap().book()).unwrap();
        for slot in [0, SLOT_BYTES] {
            for at in 0..(HEADER_BYTES + text_bytes.len()) as u64 {
                let mut byte = [0];
                file.read_exact_at(&mut byte, slot + at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x12], slot + at).unwrap();
                let run = Ledger::open(folder.path(), false).unwrap().book().run;
                assert!(run == 1 || run == 2, "byte {at} of slot at {slot}: run {run}");
                file.write_all_at(&byte, slot + at).unwrap();
            }
        }
    }

    #[test]
    fn a_cut_in_the_middle_of_a_write_leaves_the_other_slot() {
        let folder = tempfile::tempdir().unwrap();
        (1..=2).for_each(|run| at_run(folder.path(), run));
        let bytes = seal(3, &serde_json::to_vec(&Book { run: 3, ..Book::default() }).unwrap());
        let path = folder.path().join(FILE_NAME);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for cut in 0..bytes.len() {
            file.write_all_at(&bytes[..cut], SLOT_BYTES).unwrap();
            assert_eq!(Ledger::open(folder.path(), false).unwrap().book().run, 2, "cut at {cut}");
        }
        file.write_all_at(&bytes, SLOT_BYTES).unwrap();
        assert_eq!(Ledger::open(folder.path(), false).unwrap().book().run, 3);
    }

    #[test]
    fn noise_counts_as_new() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), [0xff; 200_000]).unwrap();
        let ledger = Ledger::open(folder.path(), false).unwrap();
        assert_eq!(*ledger.book(), Book::default());
    }

    #[test]
    fn a_newer_ledger_is_refused_and_a_flipped_version_bit_is_not_one() {
        let folder = tempfile::tempdir().unwrap();
        at_run(folder.path(), 1);
        let path = folder.path().join(FILE_NAME);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut newer = seal(2, b"something else");
        newer[3] = VERSION + 1;
        file.write_all_at(&newer, 0).unwrap();
        assert_eq!(Ledger::open(folder.path(), false).unwrap().book().run, 1);
        let body = newer.len() - CRC_BYTES;
        let crc = crc32c::crc32c(&newer[..body]);
        newer[body..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&newer, 0).unwrap();
        let error = Ledger::open(folder.path(), false).unwrap_err();
        assert!(matches!(error, Error::Newer { version: 2, .. }), "{error}");
    }

    #[test]
    fn what_is_durable_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        at_run(folder.path(), 1);
        let mut ledger = Ledger::open(folder.path(), false).unwrap();
        let before = ledger.edition;
        ledger.commit().unwrap();
        assert_eq!(ledger.edition, before);
        ledger.book_mut().run = 2;
        ledger.commit().unwrap();
        assert_eq!(ledger.edition, before + 1);
    }

    #[test]
    fn a_commit_changes_neither_size_nor_space() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        at_run(folder.path(), 1);
        let of_file = || {
            let meta = std::fs::metadata(folder.path().join(FILE_NAME)).unwrap();
            (meta.len(), meta.blocks())
        };
        let before = of_file();
        (2..20).for_each(|run| at_run(folder.path(), run));
        assert_eq!(of_file(), before);
    }

    #[test]
    fn many_ranges_are_merged_but_for_a_clean_stop() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path(), false).unwrap();
        (0..1000).for_each(|n| ledger.book_mut().outstanding.insert(n * 2));
        ledger.commit().unwrap();
        let merged = Ledger::open(folder.path(), false).unwrap().book().outstanding.clone();
        assert_eq!(merged.ranges(), MAX_RANGES);
        assert!((0..1000).all(|n| merged.contains(n * 2)));
        ledger.commit_exactly().unwrap();
        assert_eq!(Ledger::open(folder.path(), false).unwrap().book().outstanding.ranges(), 1000);
    }

    #[test]
    fn a_boot_keeps_its_last_offset() {
        let mut book = Book::default();
        (0..1000).for_each(|n| book.set_offset(&format!("{n}"), n));
        book.set_offset("999", -5);
        assert_eq!(book.boots.len(), MAX_BOOTS);
        assert_eq!(book.boots.last().unwrap().offset_ms, -5);
    }
}
