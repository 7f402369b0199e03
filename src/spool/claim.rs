//! Claiming a spool folder: one agent a folder, and a run of its own.
//!
//! What a start runs into is waited out where time or a disk's owner may cure
//! it without anybody touching the agent: a disk that is full, over its quota,
//! read-only, or that fails (ENOSPC, EDQUOT, EROFS, EIO). A folder that exists
//! is claimed all the same then, one that does not is [claimed late](begin),
//! and samples stay in RAM until the disk takes them. Anything else (a file in
//! the folder's place, a folder of another user, another agent in it, a newer
//! agent's ledger) is an error at start: somebody has to say where else. Root may
//! write to any folder, and is kept from that of another user all the same, who
//! could not remove what it leaves there.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::ledger::{self, Ledger};
use crate::record::Run;
use crate::spool::Settings;
use crate::spool::policy::Bounds;

const LOCK: &str = "lock";

/// How often and how long a folder that is held is waited for: an agent that
/// ends, or somebody who looks into it, holds it a moment longer.
const LOCK_TRIES: u32 = 10;
const LOCK_WAIT: Duration = Duration::from_millis(20);

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
    #[error(
        "the spool folder {path} belongs to user {uid}, whose agent could not use what root \
         leaves there: run it as that user, by its service or by \
         `setpriv --reuid={uid} --regid={gid} --clear-groups iot-agent run`, or set spool.path"
    )]
    Foreign { path: PathBuf, uid: u32, gid: u32 },
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// A folder that this process alone may use, with its ledger open.
pub struct Claim {
    pub(super) folder: PathBuf,
    pub(super) bounds: Bounds,
    pub(super) max_loss: Duration,
    pub(super) ledger: Ledger,
    /// None where there is no way to make a lock file now.
    pub(super) lock: Option<File>,
    /// Folder and ledger could not be had yet, for this may pass.
    pub(super) late: bool,
    run: Run,
}

impl Claim {
    /// Locks the folder, creating it if need be, and draws a run, durably. A
    /// ledger that cannot be written gives a run that no other start has.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let mut claim = match Self::of_folder(settings) {
            Err(error) if error.may_pass() => {
                let ledger = Ledger::absent(&settings.path);
                let claim = Self::with(settings, ledger, None);
                return Ok(Self { late: true, run: Run::fresh(), ..claim });
            }
            claim => claim?,
        };
        claim.run = match begin(&mut claim.ledger, None) {
            Ok(run) => run,
            Err(error) => {
                tracing::error!(%error, "the spool's state cannot be kept");
                Run::fresh()
            }
        };
        Ok(claim)
    }

    /// Locks the folder and opens its ledger, creating what is missing, and
    /// changes nothing else.
    pub fn of_folder(settings: &Settings) -> Result<Self, Error> {
        refuse_foreign(&settings.path)?;
        let (lock, ledger) = take(&settings.path, true)?;
        Ok(Self::with(settings, ledger, lock))
    }

    fn with(settings: &Settings, ledger: Ledger, lock: Option<File>) -> Self {
        Self {
            bounds: Bounds::new(settings),
            max_loss: max_loss(settings),
            folder: settings.path.clone(),
            late: false,
            run: Run(0),
            ledger,
            lock,
        }
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

impl Error {
    /// Whether no further start can change it: the spool is a newer agent's, or
    /// another user's.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Ledger(ledger::Error::Newer { .. }))
    }

    /// Whether waiting may cure it; see the module.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Ledger(ledger::Error::Io { source, .. }) => {
                ledger::takes_nothing(source) || ledger::is_bad(source)
            }
            _ => false,
        }
    }
}

/// An error where this is root and `folder`, or the one that it is to be made in,
/// is another user's.
fn refuse_foreign(folder: &Path) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let found = folder.ancestors().take(2).find_map(|path| fs::metadata(path).ok());
    match found.filter(|meta| meta.uid() != 0) {
        Some(meta) => Err(Error::Foreign { path: folder.into(), uid: meta.uid(), gid: meta.gid() }),
        None => Ok(()),
    }
}

/// Creates and locks `folder`, and opens its ledger. With `patient` a ledger
/// that the medium fails to read is an error, without it counts as damaged.
pub(super) fn take(folder: &Path, patient: bool) -> Result<(Option<File>, Ledger), Error> {
    create(folder)?;
    let lock = hold_lock(folder)?;
    let ledger = Ledger::open(folder, patient)?;
    // One of a newer agent is left as it is, to the last byte.
    lock.as_ref().inspect(|lock| sign(lock));
    Ok((lock, ledger))
}

/// Notes durably that a run has begun: the one after the last, or `own`, which
/// was drawn before there was a ledger and is no other start's.
pub(super) fn begin(ledger: &mut Ledger, own: Option<Run>) -> Result<Run, ledger::Error> {
    let machine = machine();
    let book = ledger.book_mut();
    let known = book.run != 0 && book.machine == machine;
    let next = if known { Run(book.run).next() } else { Run::fresh() };
    let run = own.unwrap_or(next);
    if own.is_none() || !known {
        book.run = run.0;
    }
    book.machine = machine;
    // The last run did not live to say so itself.
    book.declarations.extend(book.run_end.take());
    ledger.commit()?;
    Ok(run)
}

/// Creates `folder` and what is missing above it, each durably.
pub(super) fn create(folder: &Path) -> Result<(), Error> {
    match fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Err(source) if ledger::is_bad(&source) => {
            return Err(Error::Io { verb: "read", path: folder.into(), source });
        }
        _ => {}
    }
    let parent = match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => folder,
    };
    if parent != folder {
        create(parent)?;
    }
    let created = match fs::create_dir(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        created => created,
    };
    created.map_err(|source| Error::Io { verb: "created", path: folder.into(), source })?;
    // A parent that cannot be read can still be written to.
    let _ = File::open(parent).and_then(|parent| parent.sync_all());
    Ok(())
}

/// The lock, with our pid in it.
pub(super) fn lock(folder: &Path) -> Result<Option<File>, Error> {
    let lock = hold_lock(folder)?;
    lock.as_ref().inspect(|lock| sign(lock));
    Ok(lock)
}

fn hold_lock(folder: &Path) -> Result<Option<File>, Error> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = match file {
        // A spool that is there can be read all the same.
        Err(e) if ledger::takes_nothing(&e) && folder.join(ledger::FILE_NAME).exists() => {
            File::open(&path).ok()
        }
        file => {
            let fail = |source| Error::Io { verb: "written", path: folder.into(), source };
            Some(file.map_err(fail)?)
        }
    };
    if let Some(file) = &file {
        hold(file, FlockOperation::NonBlockingLockExclusive, folder)?;
    }
    Ok(file)
}

/// Says whose the lock is. The lock is what counts; a full disk may leave the
/// pid out.
fn sign(mut lock: &File) {
    let pid = format!("{}\n", std::process::id());
    let _ =
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(pid.as_bytes()));
}

fn hold(mut file: &File, how: FlockOperation, folder: &Path) -> Result<(), Error> {
    let mut locked = flock(file, how);
    for _ in 0..LOCK_TRIES {
        if locked != Err(Errno::WOULDBLOCK) {
            break;
        }
        std::thread::sleep(LOCK_WAIT);
        locked = flock(file, how);
    }
    match locked {
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim().to_owned();
            let pid = if pid.is_empty() { "unknown".to_owned() } else { pid };
            Err(Error::Held { path: folder.into(), pid })
        }
        Err(error) => {
            tracing::warn!(%error, "the spool folder cannot be locked: see that one agent uses it");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// An error if an agent holds `folder`; changes nothing.
pub(super) fn check_free(folder: &Path) -> Result<(), Error> {
    match File::open(folder.join(LOCK)) {
        Ok(file) => hold(&file, FlockOperation::NonBlockingLockShared, folder),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { verb: "read", path: folder.into(), source }),
    }
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
