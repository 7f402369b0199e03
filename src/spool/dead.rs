//! Dead letters: records that the sink will never take, set aside and counted.

use std::path::{Path, PathBuf};

use crate::spool::chunk::MAX_FRAME_BYTES;
use crate::spool::store::{Opener, Store, StoreError};

const FOLDER: &str = "dead-letters";

/// Letters kept at most; then the oldest go.
const MAX_LETTERS: u64 = 1000;

/// Bytes of a reason at most: a service may answer with a page.
const MAX_REASON_BYTES: usize = 512;

/// The dead-letter store, opened at first need.
pub struct DeadLetters {
    folder: PathBuf,
    opener: Box<dyn Opener>,
    open: Option<(Box<dyn Store>, u64)>,
}

impl DeadLetters {
    pub fn new(spool: &Path, opener: Box<dyn Opener>) -> Self {
        Self { folder: spool.join(FOLDER), opener, open: None }
    }

    /// Sets `record` (one JSON object) aside with the `reason`, durably.
    pub fn bury(&mut self, reason: &str, record: &str) -> Result<(), StoreError> {
        let reason: String = reason.chars().take(MAX_REASON_BYTES / 4).collect();
        let letter = serde_json::json!({ "reason": reason, "record": record.trim_end() });
        let mut letter = letter.to_string().into_bytes();
        letter.truncate(MAX_FRAME_BYTES);
        let (store, next) = self.store()?;
        let number = *next;
        *next += 1;
        store.put(number, &letter)?;
        if let Some(oldest) = number.checked_sub(MAX_LETTERS) {
            store.remove(oldest)?;
        }
        store.flush()
    }

    /// All letters, oldest first; none if nothing was ever refused.
    pub fn list(&mut self) -> Result<Vec<serde_json::Value>, StoreError> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let (store, _) = self.store()?;
        let letters = store.scan(0, u64::MAX, usize::MAX)?.into_iter();
        Ok(letters.filter_map(|(_, text)| serde_json::from_slice(&text).ok()).collect())
    }

    fn store(&mut self) -> Result<&mut (Box<dyn Store>, u64), StoreError> {
        if self.open.is_none() {
            let store = self.opener.open(&self.folder)?;
            let next = store.last()?.map_or(0, |last| last + 1);
            self.open = Some((store, next));
        }
        let closed = || StoreError::Io { path: FOLDER.into(), what: "not open".into() };
        self.open.as_mut().ok_or_else(closed)
    }
}
