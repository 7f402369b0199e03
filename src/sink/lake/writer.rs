//! What becomes of a batch: which rows are new, which file they go to, and
//! which files go to make room.

use bytes::Bytes;

use crate::drain::{Batch, Outcome, Parcel, Trouble, TroubleKind, Verdict};
use crate::sink::lake::folder::{self, Folder, LakeFile};
use crate::sink::lake::held::Held;
use crate::sink::lake::rows::{self, Row, RowSet};
use crate::sink::lake::{Counters, Settings, table};

/// Raw lines at which a row group is sealed: they leave memory, and no later
/// delivery encodes them again. Some 800 samples.
const SEALED_LINES_BYTES: usize = 512 * 1024;

/// A file that has reached this takes no more rows. With one more batch it
/// stays below 1 MiB, for Parquet takes a seventh of the lines' bytes.
const FULL_FILE_BYTES: u64 = 768 * 1024;

/// What expiry clears beyond the need, as a part of `max_bytes`: a full lake
/// need not be listed at each delivery.
const CLEARED_PART: u64 = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] folder::Error),
    #[error("rows that are right one by one cannot be written as Parquet: {0}")]
    Encode(#[from] table::Error),
}

impl Error {
    pub fn trouble(&self) -> Trouble {
        let kind = match self {
            Self::Folder(_) => TroubleKind::Disk,
            Self::Encode(_) => TroubleKind::Data,
        };
        Trouble::new(kind, self.to_string())
    }
}

/// The one who writes.
#[derive(Debug)]
pub struct Writer {
    max_bytes: u64,
    folder: Folder,
    held: Held,
    surveyed: bool,
    open: Option<Open>,
    pub counters: Counters,
}

/// The file that still takes rows.
#[derive(Debug)]
struct Open {
    partition: String,
    name: String,
    /// The file when its last row group was sealed.
    sealed: Bytes,
    /// The lines after that.
    lines: Vec<u8>,
    rows: RowSet,
    /// Of the file as it stands.
    bytes: u64,
}

impl Writer {
    pub fn new(settings: &Settings, counters: Counters) -> Self {
        Self {
            max_bytes: settings.max_bytes,
            folder: Folder::new(&settings.path),
            held: Held::default(),
            surveyed: false,
            open: None,
            counters,
        }
    }

    /// Tries a write without adding rows, and reads what there is; the bytes
    /// free.
    pub fn try_out(&mut self) -> Result<u64, Error> {
        let free = self.folder.try_out()?;
        self.survey()?;
        Ok(free)
    }

    /// Takes in a batch.
    pub fn deliver(&mut self, batch: &Batch) -> Verdict {
        // Decoding is half of the work: each parcel is tried by itself only
        // where something in the batch cannot be written.
        let taken = match self.take(batch, false) {
            Err(Error::Encode(_)) => self.take(batch, true),
            taken => taken,
        };
        match taken {
            Ok(outcomes) => Verdict::Answered(outcomes),
            Err(error @ Error::Folder(_)) => Verdict::Failed(error.trouble()),
            Err(error @ Error::Encode(_)) => Verdict::Refused(error.trouble()),
        }
    }

    fn take(&mut self, batch: &Batch, check: bool) -> Result<Vec<Outcome>, Error> {
        self.folder.tidy()?;
        self.survey()?;
        let parcels: Vec<_> = batch.parcels.iter().map(|p| rows::read(p.ndjson())).collect();
        self.recall(parcels.iter().flatten().flatten().map(|row| row.run))?;

        let (mut fresh, mut fresh_set, mut duplicates) = (Vec::new(), RowSet::default(), 0);
        let mut outcomes = Vec::with_capacity(parcels.len());
        for (parcel, read) in batch.parcels.iter().zip(parcels) {
            let checked = read.and_then(|rows| if check { checked(rows) } else { Ok(rows) });
            let rows = match checked {
                Ok(rows) => rows,
                Err(why) => {
                    outcomes.push(Outcome::Refused(refusal(parcel, &why)));
                    continue;
                }
            };
            for row in rows {
                if self.held.contains(&row) || !fresh_set.insert(&row) {
                    duplicates += 1;
                } else {
                    fresh.push(row);
                }
            }
            outcomes.push(Outcome::Delivered);
        }
        self.store(&batch.timestamp_sent, &fresh, &fresh_set)?;
        // Also where every row was here already: the last try may have ended
        // between the rename and this.
        self.folder.sync()?;
        self.counters.update(|stats| stats.duplicates += duplicates);
        Ok(outcomes)
    }

    /// Reads what the lake holds from the footers of all its files, once.
    fn survey(&mut self) -> Result<(), Error> {
        if self.surveyed {
            return Ok(());
        }
        let (mut files, mut bytes, mut count) = (0, 0, 0);
        let (mut strange, mut example) = (0, String::new());
        let mut pass_over = |what: String| {
            strange += 1;
            example = what;
        };
        for partition in self.folder.partitions()? {
            let listed = match self.folder.files(&partition) {
                Ok(listed) => listed,
                Err(error) => {
                    pass_over(error.to_string());
                    continue;
                }
            };
            for file in listed {
                (files, bytes) = (files + 1, bytes + file.bytes);
                let path = self.folder.path(&partition, &file.name);
                match table::footer(&path) {
                    Ok(footer) => {
                        count += footer.count;
                        self.held.add(&partition, &footer.rows);
                    }
                    Err(error) => pass_over(format!("{}: {error}", path.display())),
                }
            }
        }
        if strange > 0 {
            tracing::warn!(
                files = strange,
                last = example,
                "the lake has files that are damaged or were not written by iot-agent: \
                 they are passed over, and go when they are the oldest"
            );
        }
        self.counters
            .update(|stats| (stats.files, stats.bytes, stats.rows) = (files, bytes, count));
        self.surveyed = true;
        Ok(())
    }

    /// Reads again what the lake holds of those of `runs` that were forgotten.
    fn recall(&mut self, runs: impl Iterator<Item = u64>) -> Result<(), Error> {
        let Some(forgotten) = self.held.forgotten(runs) else {
            return Ok(());
        };
        let mut found = RowSet::default();
        for partition in self.folder.partitions()? {
            if *partition < *forgotten.first || *partition > *forgotten.last {
                continue;
            }
            for file in self.folder.files(&partition)? {
                if let Ok(footer) = table::footer(&self.folder.path(&partition, &file.name)) {
                    let mut rows = footer.rows;
                    rows.keep_only(&forgotten.runs);
                    found.extend(&rows);
                }
            }
        }
        self.held.recall(&forgotten, found);
        Ok(())
    }

    /// Writes rows at the end of the open file, or of a new one: all of them or
    /// none.
    fn store(&mut self, partition: &str, rows: &[Row], set: &RowSet) -> Result<(), Error> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        // Where this fails, the file stays as it is on disk, and the next try
        // begins a new one.
        let open = self.open.take().filter(|open| open.partition == partition);
        let mut open = open.unwrap_or_else(|| Open {
            name: self.folder.new_name(partition, first),
            partition: partition.to_owned(),
            sealed: Bytes::new(),
            lines: Vec::new(),
            rows: RowSet::default(),
            bytes: 0,
        });
        for row in rows {
            open.lines.extend_from_slice(row.line);
            open.lines.push(b'\n');
        }
        open.rows.extend(set);
        let file = table::encode(&open.sealed, &open.lines, &open.rows)?;
        let bytes = file.len() as u64;
        self.make_room(&open, bytes)?;
        self.folder.put(partition, &open.name, &file)?;
        self.held.add(partition, set);
        self.counters.update(|stats| {
            stats.files += u64::from(open.bytes == 0);
            stats.bytes = stats.bytes.saturating_sub(open.bytes) + bytes;
            stats.rows += rows.len() as u64;
            stats.written += rows.len() as u64;
        });
        open.bytes = bytes;
        if open.lines.len() >= SEALED_LINES_BYTES {
            open.lines = Vec::new();
            open.sealed = file;
        }
        self.open = (bytes < FULL_FILE_BYTES).then_some(open);
        Ok(())
    }

    /// Removes the oldest files where `bytes` of the open one would make the
    /// lake too large; the open one itself stays.
    fn make_room(&mut self, open: &Open, bytes: u64) -> Result<(), Error> {
        let known = self.counters.stats().bytes.saturating_sub(open.bytes);
        if known + bytes <= self.max_bytes {
            return Ok(());
        }
        // Counted anew, for files may have been removed by hand.
        let partitions = self.folder.partitions()?;
        let (mut files, mut others) = (u64::from(open.bytes > 0), 0);
        for partition in &partitions {
            for file in self.others(open, partition)? {
                (files, others) = (files + 1, others + file.bytes);
            }
        }
        self.counters.update(|stats| (stats.files, stats.bytes) = (files, others + open.bytes));
        if others + bytes > self.max_bytes {
            let left = self.max_bytes - self.max_bytes / CLEARED_PART;
            self.expire(open, &partitions, (others + bytes).saturating_sub(left))?;
        }
        Ok(())
    }

    /// Removes the oldest files, `excess` bytes of them at least if there are.
    fn expire(&mut self, open: &Open, partitions: &[String], excess: u64) -> Result<(), Error> {
        let mut removed = 0;
        for partition in partitions {
            for file in self.others(open, partition)? {
                if removed >= excess {
                    self.held.expire_before(partition);
                    return Ok(());
                }
                let path = self.folder.path(partition, &file.name);
                let rows = table::footer(&path).map_or(0, |footer| footer.count);
                self.folder.note_expired(partition);
                self.folder.remove(&path)?;
                removed += file.bytes;
                self.counters.update(|stats| stats.expired(file.bytes, rows));
            }
            self.folder.remove_if_empty(partition);
        }
        self.held.expire_before(&open.partition);
        Ok(())
    }

    /// A partition's files but for the open one.
    fn others(&self, open: &Open, partition: &str) -> Result<Vec<LakeFile>, Error> {
        let mut files = self.folder.files(partition)?;
        files.retain(|file| open.partition != partition || open.name != file.name);
        Ok(files)
    }
}

/// The rows, if each has the columns' types.
fn checked(rows: Vec<Row>) -> Result<Vec<Row>, String> {
    let lines = rows.iter().map(|row| row.line);
    table::check(lines).map(|()| rows).map_err(|error| error.to_string())
}

fn refusal(parcel: &Parcel, why: &str) -> Trouble {
    let (device, run, seq) = (parcel.device(), parcel.run(), parcel.first_seq());
    let text = format!(
        "the lake cannot take a parcel of {device} (run {run}, from seq {seq}), for its lines \
         are not rows of infra/schema/sample.json: {why}"
    );
    Trouble::new(TroubleKind::Data, text)
}
