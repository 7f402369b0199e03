//! Claiming a spool folder: one agent a folder, and a run of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::ledger::{self, Ledger};
use crate::record::Run;
use crate::spool::Settings;
use crate::spool::policy::Bounds;

const LOCK: &str = "lock";

/// What a power cut may take on a disk or an SSD.
const MAX_LOSS_DISK: Duration = Duration::from_secs(10);

/// The same on an SD card or eMMC, where every commit wears the flash: longer
/// than the default `send.interval`, so that a connected agent writes nothing.
const MAX_LOSS_CARD: Duration = Duration::from_secs(120);

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the spool folder {path} cannot be {verb}: {source}; \
         create it for this user, or set spool.path"
    )]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "the spool {path} is held by another iot-agent, pid {pid}: \
         stop that one, or set spool.path to another folder"
    )]
    Held { path: PathBuf, pid: String },
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// A folder that this process alone may use, with its ledger open.
pub struct Claim {
    pub(super) folder: PathBuf,
    pub(super) bounds: Bounds,
    pub(super) max_loss: Duration,
    pub(super) ledger: Ledger,
    run: Run,
    _lock: &'static File,
}

impl Claim {
    /// Locks the folder, creating it if need be, and draws a run, durably. A
    /// ledger that cannot be written gives a run that no other start has.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let mut claim = Self::of_folder(settings)?;
        let machine = machine();
        let book = claim.ledger.book_mut();
        let known = book.run != 0 && book.machine == machine;
        claim.run = if known { Run(book.run).next() } else { Run::fresh() };
        (book.run, book.machine) = (claim.run.0, machine);
        if let Err(error) = claim.ledger.commit() {
            tracing::error!(%error, "the spool's state cannot be kept");
            claim.run = Run::fresh();
        }
        Ok(claim)
    }

    /// Locks the folder and opens its ledger, changing nothing in it.
    pub fn of_folder(settings: &Settings) -> Result<Self, Error> {
        let folder = settings.path.clone();
        let fail = |verb| {
            let path = folder.clone();
            move |source| Error::Io { verb, path, source }
        };
        fs::create_dir_all(&folder).map_err(fail("created"))?;
        let lock = lock(&folder)?;
        Ok(Self {
            bounds: Bounds::new(settings),
            max_loss: max_loss(settings),
            ledger: Ledger::open(&folder)?,
            run: Run(0),
            folder,
            // Held until the process ends: the spool's thread may outlive its
            // handle by a commit.
            _lock: Box::leak(Box::new(lock)),
        })
    }

    /// The run of this start.
    pub fn run(&self) -> Run {
        self.run
    }

    /// What a power cut may take.
    pub fn max_loss(&self) -> Duration {
        self.max_loss
    }
}

fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let fail = |source: std::io::Error| Error::Io { verb: "written", path: folder.into(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fail)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = pid.trim().to_owned();
        let pid = if pid.is_empty() { "unknown".to_owned() } else { pid };
        return Err(Error::Held { path: folder.into(), pid });
    }
    let pid = format!("{}\n", std::process::id());
    // The lock is what counts; a full disk may leave the pid out.
    let _ =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
    Ok(file)
}

/// CRC32C of the machine-id; 0 where there is none.
fn machine() -> u32 {
    fs::read("/etc/machine-id").map_or(0, |id| crc32c::crc32c(id.trim_ascii()))
}

/// The `max_loss` that holds for the settings' folder.
pub fn max_loss(settings: &Settings) -> Duration {
    let auto = || {
        if on_card(&settings.path) { MAX_LOSS_CARD } else { MAX_LOSS_DISK }
    };
    settings.max_loss.unwrap_or_else(auto)
}

/// Whether `folder`, or what exists above it, lies on an SD card or eMMC.
fn on_card(folder: &Path) -> bool {
    let Some(meta) = folder.ancestors().find_map(|path| fs::metadata(path).ok()) else {
        return false;
    };
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let device = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    device.is_ok_and(|path| {
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("mmcblk"))
    })
}
