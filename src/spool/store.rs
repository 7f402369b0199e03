//! One generation's database, and the only file that knows sled.
//!
//! sled 0.34.7's `flush` is `sync_file_range`, so durable here means `flush`
//! and then `fdatasync` on a handle of our own. Its errors stick until it is
//! reopened; it can panic where a file is damaged; a snapshot that was left
//! half made keeps it from opening; its I/O threads wake once a second; and
//! whatever its cache's capacity it keeps a page for each of 256 shards, which
//! is all of a small database. When it opens a damaged one it wipes what
//! follows the damage, so a database of an earlier start is [read](Index)
//! without it. Each of these is dealt with here and nowhere else.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ledger::takes_nothing;
use crate::spool::carve::Index;
use crate::spool::chunk::MAX_FRAME_BYTES;

/// sled keeps at least this much; more would only hold what is written once
/// and read once.
const CACHE_BYTES: u64 = 1024 * 1024;

/// Memory that a store may gather before it is closed and opened anew, and
/// what a byte that was put takes of it (measured: 2.7; one that was read 1.1).
const MEMORY_BYTES: usize = 512 * 1024;
const BYTES_A_PUT_BYTE: usize = 3;

/// What opening may take: a snapshot, and a new segment.
const OPENING_BYTES: u64 = 2 * 1024 * 1024;

/// sled's file grows by whole segments, at each opening at the latest.
pub const SEGMENT_BYTES: u64 = 512 * 1024;

/// sled's file with all the records.
const DATA_FILE: &str = "db";

/// A database is made under this name beside its place, and moved there whole.
pub const MAKING: &str = "making";

/// How often and how long a database that is locked is waited for.
const LOCK_TRIES: u32 = 200;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// Slack for sled's idle threads, which otherwise wake each second for
/// nothing. They inherit that of the thread whose call starts them.
const IDLE_TIMER_SLACK_NS: u64 = 60_000_000_000;

/// What the disk or the database said.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no space is left for {0}: free some, or lower spool.keep_free")]
    Full(PathBuf),
    #[error("{path} cannot be read or written: {source}; check the disk and the folder's owner")]
    Io { path: PathBuf, source: io::Error },
    #[error("the database {path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
}

impl StoreError {
    pub fn io(path: &Path, source: io::Error) -> Self {
        if takes_nothing(&source) && source.kind() != io::ErrorKind::ReadOnlyFilesystem {
            return Self::Full(path.to_owned());
        }
        Self::Io { path: path.to_owned(), source }
    }
}

/// Numbered values on disk. Nothing is durable before [`Store::flush`].
pub trait Store: Send {
    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError>;
    fn get(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError>;
    /// Values with numbers of `from..=to` in order, as many as fit in
    /// `max_bytes`, at least one if there is one.
    fn scan(
        &mut self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    /// The highest number.
    fn last(&mut self) -> Result<Option<u64>, StoreError>;
    /// Makes everything put so far durable.
    fn flush(&mut self) -> Result<(), StoreError>;
}

/// Opens stores, so that tests can put a faulty one in.
pub trait Opener: Send {
    /// Opens the store in `folder`, or makes one durably.
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError>;

    /// Opens the store in `folder` to be read only, which changes nothing. With
    /// `patient` a bad block is an error, without it is passed over.
    fn read(&self, folder: &Path, _patient: bool) -> Result<Box<dyn Store>, StoreError> {
        self.open(folder)
    }
}

/// Opens sled.
#[derive(Debug, Default)]
pub struct SledOpener;

impl Opener for SledOpener {
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError> {
        if !folder.exists() {
            make(folder)?;
        }
        remove_files(folder, |name| name.ends_with(".generating"));
        Ok(Box::new(SledStore::open(folder)?))
    }

    fn read(&self, folder: &Path, patient: bool) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(Index::of(folder, patient)?))
    }
}

/// Makes a database in `folder` so that after a power cut it is there whole or
/// not at all.
fn make(folder: &Path) -> Result<(), StoreError> {
    let parent = folder.parent().unwrap_or(folder);
    let making = parent.join(MAKING);
    let io = |source| StoreError::io(folder, source);
    if making.exists() {
        fs::remove_dir_all(&making).map_err(io)?;
    }
    fs::create_dir(&making).map_err(io)?;
    let made = (|| {
        drop(SledStore::open(&making)?);
        sync_all(&making).map_err(io)?;
        fs::rename(&making, folder).map_err(io)?;
        sync_all(parent).map_err(io)
    })();
    if made.is_err() {
        let _ = fs::remove_dir_all(&making);
    }
    made
}

/// fsync of a folder and of the files in it.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

fn remove_files(folder: &Path, doomed: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(&doomed) {
            // sled says what is wrong if one stays.
            let _ = fs::remove_file(entry.path());
        }
    }
}

struct SledStore {
    db: Option<sled::Db>,
    data: File,
    folder: PathBuf,
    /// About what sled has gathered in memory since it was opened.
    memory_bytes: usize,
    /// Something was put and not flushed.
    dirty: bool,
}

impl SledStore {
    fn open(folder: &Path) -> Result<Self, StoreError> {
        let db = open_db(folder)?;
        let data = File::open(folder.join(DATA_FILE)).map_err(|e| StoreError::io(folder, e))?;
        let folder = folder.to_owned();
        Ok(Self { db: Some(db), data, folder, memory_bytes: 0, dirty: false })
    }

    fn with<T>(
        &mut self,
        call: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        if self.memory_bytes > MEMORY_BYTES && !self.dirty && can_open(&self.folder) {
            self.close();
        }
        let db = match self.db.take() {
            Some(db) => db,
            None => open_db(&self.folder)?,
        };
        let db = self.db.insert(db);
        guarded(&self.folder, || call(db))
    }

    fn close(&mut self) {
        // sled's log unwraps a failed sync when it is dropped; what the sync
        // was for, our own has said.
        let db = self.db.take();
        let _ = with_slack(|| catch_unwind(AssertUnwindSafe(|| drop(db))));
        self.memory_bytes = 0;
    }
}

/// Whether there is space to open a database in: sled writes when it does, and
/// on a full disk one that is open can still be drained.
fn can_open(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= OPENING_BYTES)
}

fn open_db(folder: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(CACHE_BYTES)
        // Nothing is cleaned or synced behind our back: a generation is short
        // and goes as a whole.
        .flush_every_ms(None);
    let mut tries = 0;
    loop {
        match guarded(folder, || config.open()) {
            // One that was just closed may be locked for a moment: sled's
            // threads let go of it in their own time.
            Err(StoreError::Io { source, .. }) if is_locked(&source) && tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_WAIT);
            }
            opened => return opened,
        }
    }
}

impl Store for SledStore {
    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError> {
        debug_assert!(value.len() <= MAX_FRAME_BYTES, "a blob file would be made");
        self.with(|db| db.insert(number.to_be_bytes(), value).map(drop))?;
        self.dirty = true;
        self.memory_bytes += BYTES_A_PUT_BYTE * value.len();
        Ok(())
    }

    fn get(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let value =
            self.with(|db| Ok(db.get(number.to_be_bytes())?.map(|value| value.to_vec())))?;
        self.memory_bytes += value.as_ref().map_or(0, Vec::len);
        Ok(value)
    }

    fn scan(
        &mut self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let mut bytes = 0;
        let found = self.with(|db| {
            let mut found = Vec::new();
            for item in db.range(from.to_be_bytes()..=to.to_be_bytes()) {
                let (key, value) = item?;
                let Ok(key) = key.as_ref().try_into() else {
                    continue;
                };
                bytes += value.len();
                if bytes > max_bytes && !found.is_empty() {
                    break;
                }
                found.push((u64::from_be_bytes(key), value.to_vec()));
            }
            Ok(found)
        });
        self.memory_bytes += bytes;
        found
    }

    fn last(&mut self) -> Result<Option<u64>, StoreError> {
        self.with(|db| {
            let last = db.last()?;
            Ok(last.and_then(|(key, _)| key.as_ref().try_into().ok().map(u64::from_be_bytes)))
        })
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.with(|db| db.flush().map(drop))?;
        self.data.sync_data().map_err(|e| StoreError::io(&self.folder, e))?;
        self.dirty = false;
        Ok(())
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Calls sled so that neither its panics nor its errors reach further, and
/// with the slack that threads it may start are to have.
fn guarded<T>(folder: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: folder.to_owned(), what };
    match with_slack(|| catch_unwind(AssertUnwindSafe(call))) {
        Ok(Ok(value)) => Ok(value),
        // What the system did not say, sled found wrong with the file.
        Ok(Err(sled::Error::Io(e))) if e.raw_os_error().is_some() || is_locked(&e) => {
            Err(StoreError::io(folder, e))
        }
        Ok(Err(e)) => Err(damaged(e.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(damaged(text.unwrap_or_else(|| "it gave up".into())))
        }
    }
}

/// Whether sled says that somebody has the database open.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

fn with_slack<T>(call: impl FnOnce() -> T) -> T {
    use rustix::thread::{current_timer_slack, set_current_timer_slack};
    let own = current_timer_slack().ok().and_then(std::num::NonZeroU64::new);
    let _ = set_current_timer_slack(std::num::NonZeroU64::new(IDLE_TIMER_SLACK_NS));
    let result = call();
    let _ = set_current_timer_slack(own);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut store = SledOpener.open(&path).unwrap();
        for number in 0..100 {
            store.put(number, &[number as u8; 1000]).unwrap();
        }
        store.flush().unwrap();
        drop(store);
        let mut store = SledOpener.open(&path).unwrap();
        assert_eq!(store.last().unwrap(), Some(99));
        let found = store.scan(9, 50, 2500).unwrap();
        assert_eq!(found.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [9, 10]);
        assert_eq!(store.get(12).unwrap(), Some(vec![12; 1000]));
        assert_eq!(store.scan(200, 300, 10).unwrap(), []);
    }

    #[test]
    fn the_largest_frames_make_no_blob_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut store = SledOpener.open(&path).unwrap();
        let value: Vec<u8> = (0..MAX_FRAME_BYTES).map(|_| rand::random()).collect();
        for number in (0..400).chain((0..400).rev()) {
            store.put(number, &value).unwrap();
        }
        store.flush().unwrap();
        let blobs = std::fs::read_dir(path.join("blobs")).unwrap().count();
        assert_eq!(blobs, 0);
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(SledOpener.open(file.path()).is_err());
    }

    #[test]
    fn the_caller_keeps_its_own_timer_slack() {
        let before = rustix::thread::current_timer_slack().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let _store = SledOpener.open(&folder.path().join("a")).unwrap();
        assert_eq!(rustix::thread::current_timer_slack().unwrap(), before);
    }

    #[test]
    fn idle_threads_of_sled_do_not_wake_each_second() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = SledOpener.open(&folder.path().join("a")).unwrap();
        // Enough at once that sled starts threads beside its first seven.
        let value = vec![7; MAX_FRAME_BYTES];
        (0..2000).for_each(|number| store.put(number, &value).unwrap());
        store.flush().unwrap();
        let mut threads = 0;
        for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
            let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
            let slack = Path::new("/proc").join(task.file_name()).join("timerslack_ns");
            if name.starts_with("sled-io")
                && let Ok(slack) = fs::read_to_string(slack)
            {
                assert_eq!(slack.trim(), IDLE_TIMER_SLACK_NS.to_string(), "{name}");
                threads += 1;
            }
        }
        assert!(threads >= 7, "{threads} threads");
    }
}
