//! One generation's database, and the only file that knows sled.
//!
//! sled 0.34.7's `flush` is `sync_file_range`, so durable here means `flush`
//! and then `fdatasync` on a handle of our own. Its errors stick until it is
//! reopened, it can panic where a file is damaged, and its I/O threads wake
//! once a second: each of the three is dealt with here and nowhere else.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::spool::chunk::MAX_FRAME_BYTES;

/// sled keeps at least this much; more would only hold what is written once
/// and read once.
const CACHE_BYTES: u64 = 1024 * 1024;

/// sled's file with all the records.
const DATA_FILE: &str = "db";

/// Slack for sled's idle threads, which otherwise wake each second for
/// nothing. They inherit that of the thread which uses sled first.
const IDLE_TIMER_SLACK_NS: u64 = 60_000_000_000;

/// What the disk or the database said.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no space is left under {0}: free some, or lower spool.max_bytes")]
    Full(PathBuf),
    #[error("{path} cannot be read or written: {what}; check the disk and the folder's owner")]
    Io { path: PathBuf, what: String },
    #[error("the database {path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
}

/// Numbered values on disk. Nothing is durable before [`Store::flush`].
pub trait Store: Send {
    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError>;
    fn remove(&mut self, number: u64) -> Result<(), StoreError>;
    fn get(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError>;
    /// Values with numbers of `from..=to` in order, as many as fit in
    /// `max_bytes`, at least one if there is one.
    fn scan(&self, from: u64, to: u64, max_bytes: usize)
    -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    fn last(&self) -> Result<Option<u64>, StoreError>;
    /// Makes everything put so far durable.
    fn flush(&mut self) -> Result<(), StoreError>;
}

/// Opens stores, so that tests can put a faulty one in.
pub trait Opener: Send {
    /// Opens the store in `folder`, or makes one durably.
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError>;
}

/// Opens sled.
#[derive(Debug, Default)]
pub struct SledOpener;

impl Opener for SledOpener {
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError> {
        let is_new = !folder.join(DATA_FILE).exists();
        if is_new {
            std::fs::create_dir_all(folder).map_err(|e| io_error(folder, &e))?;
            // With a snapshot from a first open and close, damage to the
            // records costs records and not the database.
            drop(SledStore::open(folder)?);
            sync_new(folder)?;
        }
        Ok(Box::new(SledStore::open(folder)?))
    }
}

struct SledStore {
    db: Option<sled::Db>,
    data: File,
    folder: PathBuf,
}

impl SledStore {
    fn open(folder: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            // Nothing is cleaned or synced behind our back: a generation is
            // short and goes as a whole.
            .flush_every_ms(None);
        let db = with_slack(|| guarded(folder, || config.open()))?;
        let data = File::open(folder.join(DATA_FILE)).map_err(|e| io_error(folder, &e))?;
        Ok(Self { db: Some(db), data, folder: folder.to_owned() })
    }

    fn with<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        match &self.db {
            Some(db) => guarded(&self.folder, || call(db)),
            None => Err(StoreError::Io { path: self.folder.clone(), what: "closed".into() }),
        }
    }
}

impl Store for SledStore {
    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError> {
        debug_assert!(value.len() <= MAX_FRAME_BYTES, "a blob file would be made");
        self.with(|db| db.insert(number.to_be_bytes(), value).map(drop))
    }

    fn remove(&mut self, number: u64) -> Result<(), StoreError> {
        self.with(|db| db.remove(number.to_be_bytes()).map(drop))
    }

    fn get(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| Ok(db.get(number.to_be_bytes())?.map(|value| value.to_vec())))
    }

    fn scan(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.with(|db| {
            let (mut found, mut bytes) = (Vec::new(), 0);
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
        })
    }

    fn last(&self) -> Result<Option<u64>, StoreError> {
        self.with(|db| {
            let last = db.last()?;
            Ok(last.and_then(|(key, _)| key.as_ref().try_into().ok().map(u64::from_be_bytes)))
        })
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.with(|db| db.flush().map(drop))?;
        self.data.sync_data().map_err(|e| io_error(&self.folder, &e))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // sled's log unwraps a failed sync when it is dropped.
        let db = self.db.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::warn!(folder = %self.folder.display(), "the database could not be closed cleanly");
        }
    }
}

/// Calls sled so that neither its panics nor its errors reach further.
fn guarded<T>(folder: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: folder.to_owned(), what };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(e))) => Err(io_error(folder, &e)),
        Ok(Err(e)) => Err(damaged(e.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(damaged(text.unwrap_or_else(|| "it gave up".into())))
        }
    }
}

fn io_error(folder: &Path, error: &std::io::Error) -> StoreError {
    let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
    if full.contains(&error.kind()) {
        return StoreError::Full(folder.to_owned());
    }
    StoreError::Io { path: folder.to_owned(), what: error.to_string() }
}

/// fsync of a new database's files, its folder and the folder above.
fn sync_new(folder: &Path) -> Result<(), StoreError> {
    let sync = || {
        for file in [DATA_FILE, "conf"] {
            File::open(folder.join(file))?.sync_all()?;
        }
        File::open(folder)?.sync_all()?;
        folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    sync().map_err(|e| io_error(folder, &e))
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
        store.remove(10).unwrap();
        let found = store.scan(9, 50, 2500).unwrap();
        assert_eq!(found.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [9, 11]);
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
}
