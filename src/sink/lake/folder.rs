//! The lake's folders and files: `<path>/data/timestamp_sent=<hour>/<name>.parquet`.
//!
//! A file appears whole or not at all: written under a name that no glob
//! takes for Parquet, made durable, renamed, and its folder made durable.
//! Every `*.parquet` in a partition's folder counts as the lake's own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::sink::lake::rows::{Row, What};

const PARTITION_PREFIX: &str = "timestamp_sent=";
const SUFFIX: &str = ".parquet";
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// Beside `data`: the latest partition of which files were deleted to make room.
const EXPIRED: &str = "expired";

/// What went wrong with which file or folder.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be {verb}: {source}; {}", remedy(source.kind()))]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space there or lower sink.lake.max_bytes"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "mount the file system writable; if it became read-only by itself, \
             `dmesg` says what the disk reported"
        }
        ErrorKind::PermissionDenied => "give the folder to the user that runs iot-agent",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file stands where a folder should: move it away or change sink.lake.path"
        }
        _ => "check the disk under sink.lake.path",
    }
}

/// Says which file or folder an I/O error is about.
trait At<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error { verb, path: path.to_owned(), source })
    }
}

/// A file of the lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    pub name: String,
    pub bytes: u64,
}

/// The folder `<path>/data`.
#[derive(Debug)]
pub struct Folder {
    data: PathBuf,
    /// Folders with entries that a power cut could undo.
    unsynced: BTreeSet<PathBuf>,
    tidied: bool,
}

impl Folder {
    pub fn new(lake: &Path) -> Self {
        Self { data: lake.join("data"), unsynced: BTreeSet::new(), tidied: false }
    }

    fn partition(&self, partition: &str) -> PathBuf {
        self.data.join(format!("{PARTITION_PREFIX}{partition}"))
    }

    pub fn path(&self, partition: &str, name: &str) -> PathBuf {
        self.partition(partition).join(name)
    }

    /// The partitions, oldest first.
    pub fn partitions(&self) -> Result<Vec<String>, Error> {
        let names = names(&self.data)?.into_iter();
        let folders = names.filter(|name| self.data.join(name).is_dir());
        let mut partitions: Vec<String> =
            folders.filter_map(|name| Some(name.strip_prefix(PARTITION_PREFIX)?.into())).collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// A partition's files, by name.
    pub fn files(&self, partition: &str) -> Result<Vec<LakeFile>, Error> {
        let mut files = Vec::new();
        for name in names(&self.partition(partition))? {
            let path = self.path(partition, &name);
            if !name.ends_with(SUFFIX) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) => files.push(LakeFile { name, bytes: metadata.len() }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("read", &path),
            }
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// A name for a new file of `partition` that begins with this row.
    pub fn new_name(&self, partition: &str, first: &Row) -> String {
        let (run, device) = (first.run, &first.device);
        let seq = match first.what {
            What::Sample(seq) => seq,
            What::Marker(_) => 0,
        };
        let tame = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let device: String = device.chars().take(64).map(tame).collect();
        // Spark and Athena pass over names that begin with these.
        let device = device.trim_start_matches(['.', '_']);
        // Twelve digits: names sort as seqs do.
        let stem = format!("{device}-{run}-{seq:012}");
        let mut name = format!("{stem}{SUFFIX}");
        let mut count = 1;
        while self.path(partition, &name).exists() {
            count += 1;
            name = format!("{stem}-{count}{SUFFIX}");
        }
        name
    }

    /// Writes a file, in place of the one of this name if there is one. When
    /// it fails, no part of the new file is left. It is durable only after
    /// [`Folder::sync`].
    pub fn put(&mut self, partition: &str, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let folder = self.partition(partition);
        self.create(&folder)?;
        let unfinished = folder.join(format!(".{name}{UNFINISHED_SUFFIX}"));
        let path = folder.join(name);
        let written = write(&unfinished, bytes)
            .at("written", &unfinished)
            .and_then(|()| fs::rename(&unfinished, &path).at("put in place", &path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        self.unsynced.insert(folder);
        written
    }

    /// Creates `folder` and those above it.
    fn create(&mut self, folder: &Path) -> Result<(), Error> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        self.create(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            created => created.at("created", folder)?,
        }
        self.unsynced.insert(parent.to_owned());
        Ok(())
    }

    /// Makes every entry durable that was made since the last time.
    pub fn sync(&mut self) -> Result<(), Error> {
        while let Some(folder) = self.unsynced.first() {
            match File::open(folder).and_then(|handle| handle.sync_all()) {
                // It was removed by hand, or is on a file system that does not
                // sync folders (some of FUSE and CIFS).
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {}
                synced => synced.at("made durable", folder)?,
            }
            self.unsynced.pop_first();
        }
        Ok(())
    }

    /// What an earlier process left: its last rename is made durable, its
    /// unfinished files are removed. Once; only for who writes.
    pub fn tidy(&mut self) -> Result<(), Error> {
        if self.tidied {
            return Ok(());
        }
        self.create(&self.data.clone())?;
        let synced = File::open(&self.data).and_then(|data| Ok(rustix::fs::syncfs(data)?));
        synced.at("made durable", &self.data)?;
        for partition in self.partitions()? {
            let folder = self.partition(&partition);
            let unfinished = names(&folder).unwrap_or_default();
            for name in unfinished.iter().filter(|name| name.ends_with(UNFINISHED_SUFFIX)) {
                // One that stays costs space and hides nothing.
                let _ = fs::remove_file(folder.join(name));
            }
        }
        self.tidied = true;
        Ok(())
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.at("removed", path),
        }
    }

    /// Removes the folder of a partition unless something is in it.
    pub fn remove_if_empty(&self, partition: &str) {
        let _ = fs::remove_dir(self.partition(partition));
    }

    /// Notes that files of `partition` go to make room. Where it cannot be
    /// noted, [`super::verify`] will call missing what has expired.
    pub fn note_expired(&self, partition: &str) {
        if self.expired_upto().is_none_or(|upto| *upto < *partition) {
            let path = self.data.with_file_name(EXPIRED);
            let unfinished = path.with_extension("unfinished");
            let _ = write(&unfinished, partition.as_bytes())
                .and_then(|()| fs::rename(&unfinished, &path));
        }
    }

    /// The latest partition of which files were deleted to make room.
    pub fn expired_upto(&self) -> Option<String> {
        fs::read_to_string(self.data.with_file_name(EXPIRED)).ok()
    }

    /// Creates the folder, writes and removes a small file; the bytes free.
    pub fn try_out(&mut self) -> Result<u64, Error> {
        self.create(&self.data.clone())?;
        let path = self.data.join(format!(".{}{UNFINISHED_SUFFIX}", std::process::id()));
        let written = write(&path, b"iot-agent").at("written", &path);
        let removed = fs::remove_file(&path).at("removed", &path);
        written.and(removed)?;
        self.sync()?;
        let fs = rustix::fs::statvfs(&self.data).map_err(io::Error::from);
        let fs = fs.at("measured", &self.data)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The names in a folder; none where the folder is not. Names that are not
/// UTF-8 are not ours.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", folder)?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    let names: io::Result<Vec<Option<String>>> = names.collect();
    Ok(names.at("read", folder)?.into_iter().flatten().collect())
}
