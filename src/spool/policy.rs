//! Bounds: how much the spool may take.

use std::path::Path;

use crate::spool::store::SEGMENT_BYTES;
use crate::spool::{KeepFree, Settings, WhenFull};

/// A generation's size at most: what one piece of damage can touch, and what
/// is given back at once. A smaller one wastes more of its file (measured: 16
/// MiB hold half of it, 4 MiB a third).
const MAX_GENERATION_BYTES: u64 = 16 * 1024 * 1024;

/// Two segments: a smaller generation would be mostly air.
const MIN_GENERATION_BYTES: u64 = 1024 * 1024;

/// Generations in a full spool at least: dropping the oldest costs an eighth
/// of it.
const GENERATIONS: u64 = 8;

/// Frames that go to disk in one commit at most: it bounds what a commit can
/// take beyond a generation's size, and how long it lasts.
const MAX_COMMIT_BYTES: u64 = 1024 * 1024;

/// What belongs to a database beside its segments.
const OVERHEAD_BYTES: u64 = 64 * 1024;

/// Left for dead letters, and for the snapshots that sled writes.
const RESERVED_BYTES: u64 = 1024 * 1024;

/// The spool's bounds, worked out once.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub max_bytes: u64,
    pub keep_free: KeepFree,
    pub when_full: WhenFull,
    /// From this size on a generation takes nothing more.
    pub generation_bytes: u64,
    /// Frames of one commit at most.
    pub commit_bytes: usize,
}

impl Bounds {
    pub fn new(settings: &Settings) -> Self {
        let generation_bytes =
            (settings.max_bytes / GENERATIONS).clamp(MIN_GENERATION_BYTES, MAX_GENERATION_BYTES);
        Self {
            max_bytes: settings.max_bytes,
            keep_free: settings.keep_free,
            when_full: settings.when_full,
            generation_bytes,
            commit_bytes: (generation_bytes / 2).min(MAX_COMMIT_BYTES) as usize,
        }
    }

    /// What generations, ledger and the rest may take together.
    pub fn usable_bytes(&self) -> u64 {
        self.max_bytes.saturating_sub(RESERVED_BYTES)
    }

    /// Bytes on disk of a database that thinning makes, at most: it lies beside
    /// those that it replaces until it is whole.
    pub fn thinned_bytes(&self) -> u64 {
        self.generation_bytes * 5 / 4
    }

    /// What is left free, so that there is room to thin in.
    pub fn reserve_bytes(&self) -> u64 {
        match self.when_full {
            WhenFull::Thin => Self::growth(self.thinned_bytes() / 2),
            WhenFull::DropOldest => 0,
        }
    }

    /// Bytes that putting `bytes` may take: a new segment, and twice the bytes
    /// for leaves that are written again (measured: 1.9 to 2.1 times).
    pub fn growth(bytes: u64) -> u64 {
        SEGMENT_BYTES + OVERHEAD_BYTES + 2 * bytes
    }

    /// Bytes that the file system of `folder` has beside what it is to keep
    /// free; no bound where it cannot be asked.
    pub fn free_bytes(&self, folder: &Path) -> u64 {
        let Ok(fs) = rustix::fs::statvfs(folder) else {
            return u64::MAX;
        };
        let keep = match self.keep_free {
            KeepFree::Bytes(bytes) => bytes,
            KeepFree::Share(share) => ((fs.f_blocks * fs.f_frsize) as f64 * share) as u64,
        };
        (fs.f_bavail * fs.f_frsize).saturating_sub(keep)
    }
}
