//! A local Parquet lake: `<path>/data/timestamp_sent=2026-11-24 14/….parquet`,
//! the columns, folders and types that Firehose writes to S3.
//!
//! Promises: a row is durable before its parcel counts as delivered; no row
//! is there twice, also where a kill between the two lets the drain send it
//! again, in other batches and in another hour; a reader finds whole files
//! only; the lake stays below `max_bytes`, the oldest files going first,
//! and says up to which hour they went.
//!
//! Limits: one process writes a lake at a time. The file being written stays
//! whatever its size. A marker counts as the same if it says the same. A row
//! in a file that is damaged, removed or expired may be written once more by
//! another process.
//!
//! Rows gather in one open file, which is rewritten as a whole at each
//! delivery ([`writer`]), atomically ([`folder`]). Which rows a file has
//! stands in its footer ([`table`]); all footers are read before the first
//! batch ([`held`]).

mod columns;
mod folder;
mod held;
mod identities;
mod rows;
mod table;
pub mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;

use crate::drain::{Batch, Limits, Trouble, TroubleKind, Verdict, Wire};
use crate::sink::lake::writer::Writer;
use crate::sink::{Delivering, Probing, Sink};

/// Where, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub path: PathBuf,
    /// The oldest files go when the lake would exceed it.
    pub max_bytes: u64,
}

/// What the lake holds, known from the first batch or probe on, and what was
/// done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub files: u64,
    pub bytes: u64,
    /// Rows in these files.
    pub rows: u64,
    /// Rows written since the start.
    pub written: u64,
    /// Rows not written since the start, for they were there.
    pub duplicates: u64,
    /// Files and rows that went for `max_bytes` since the start.
    pub expired_files: u64,
    pub expired_rows: u64,
}

impl Stats {
    fn expired(&mut self, bytes: u64, rows: u64) {
        self.files = self.files.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.rows = self.rows.saturating_sub(rows);
        self.expired_files += 1;
        self.expired_rows += rows;
    }
}

/// The counters, readable while the writer is at work.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<Stats>>);

impl Counters {
    pub fn stats(&self) -> Stats {
        *lock(&self.0)
    }

    fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.0));
    }
}

/// What a panic interrupted is right all the same: the writer changes its
/// state only after the disk has changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sink.
#[derive(Debug)]
pub struct Lake {
    path: PathBuf,
    writer: Arc<Mutex<Writer>>,
    counters: Counters,
}

impl Lake {
    /// Touches nothing; the folder is created by the first batch or probe.
    pub fn new(settings: Settings) -> Self {
        let counters = Counters::default();
        let writer = Writer::new(&settings, counters.clone());
        Self { path: settings.path, writer: Arc::new(Mutex::new(writer)), counters }
    }

    /// To be kept by whoever shows them.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

impl Sink for Lake {
    fn name(&self) -> String {
        format!("lake {}", self.path.display())
    }

    /// Small, for a batch is in memory as lines, as Arrow and as Parquet.
    fn limits(&self) -> Limits {
        Limits {
            parcel_samples: 500,
            parcel_bytes: 256 * 1024,
            batch_parcels: 64,
            batch_bytes: 1024 * 1024,
            billing_quantum_bytes: 1,
            wire: Wire::PLAIN,
        }
    }

    fn deliver(&self, batch: Arc<Batch>) -> Delivering {
        let writer = Arc::clone(&self.writer);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || lock(&writer).deliver(&batch)).await;
            done.unwrap_or_else(|error| Verdict::Failed(ended(&error)))
        })
    }

    fn probe(&self) -> Probing {
        let writer = Arc::clone(&self.writer);
        let counters = self.counters();
        let path = self.path.clone();
        Box::pin(async move {
            let tried = tokio::task::spawn_blocking(move || lock(&writer).try_out()).await;
            let free = tried.map_err(|error| ended(&error))?.map_err(|error| error.trouble())?;
            let Stats { files, bytes, rows, .. } = counters.stats();
            let (bytes, free) = (ByteSize(bytes), ByteSize(free));
            let lake = path.display();
            Ok(format!("{lake} holds {rows} rows in {files} files ({bytes}); {free} are free"))
        })
    }
}

fn ended(error: &tokio::task::JoinError) -> Trouble {
    let text = format!("writing to the lake ended in an error of iot-agent itself: {error}");
    Trouble::new(TroubleKind::BadAnswer, text)
}

/// A query for DuckDB that shows what is in the lake at `path`.
pub fn query_hint(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let path = path.display().to_string().replace('\'', "''");
    // What means something in a glob means itself within brackets.
    let path = path.replace('[', "[[]").replace('*', "[*]").replace('?', "[?]");
    format!(
        "select id_device, timestamp_sent, avg(temperature) as temperature, avg(cpu) as cpu, \
         count(*) as samples from read_parquet('{path}/data/*/*.parquet', hive_partitioning=true) \
         where marker is null group by all order by all;"
    )
}

#[cfg(test)]
mod tests;
