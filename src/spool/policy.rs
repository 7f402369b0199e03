//! Bounds: how much the spool may take.

use std::path::Path;

use crate::spool::{KeepFree, Settings};

/// A generation's size at most: what one piece of damage can touch, and what
/// is given back at once. A smaller one wastes more of its file (measured: 16
/// MiB hold half of it, 4 MiB a third).
const MAX_GENERATION_BYTES: u64 = 16 * 1024 * 1024;

/// sled's file grows in segments of 512 KiB; a smaller generation would be
/// mostly air.
const MIN_GENERATION_BYTES: u64 = 1024 * 1024;

/// Generations in a full spool at least: dropping the oldest costs an eighth
/// of it.
const GENERATIONS: u64 = 8;

/// Frames that go to disk in one commit at most: it bounds what a commit can
/// take beyond a generation's size, and how long it lasts.
const MAX_COMMIT_BYTES: u64 = 1024 * 1024;

/// What frames of n bytes may make the folder grow by: a new segment of
/// sled's file and what belongs to it, and twice the bytes for the rewritten
/// leaves (measured: 1.9 to 2.1 ×).
const SEGMENT_BYTES: u64 = (512 + 64) * 1024;

/// Left for dead letters and for what sled writes when it opens an old
/// generation.
const RESERVED_BYTES: u64 = 1024 * 1024;

/// The spool's bounds, worked out once.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub max_bytes: u64,
    pub keep_free: KeepFree,
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
            generation_bytes,
            commit_bytes: (generation_bytes / 2).min(MAX_COMMIT_BYTES) as usize,
        }
    }

    /// What generations, ledger and the rest may take together.
    pub fn usable_bytes(&self) -> u64 {
        self.max_bytes.saturating_sub(RESERVED_BYTES)
    }

    /// Bytes that putting `bytes` may take.
    pub fn growth(bytes: u64) -> u64 {
        SEGMENT_BYTES + 2 * bytes
    }

    /// Whether the file system of `folder` has room for `growth` bytes more
    /// beside what it is to keep free. One that cannot be asked has.
    pub fn leaves_free(&self, folder: &Path, growth: u64) -> bool {
        let Ok(fs) = rustix::fs::statvfs(folder) else {
            return true;
        };
        let keep = match self.keep_free {
            KeepFree::Bytes(bytes) => bytes,
            KeepFree::Share(share) => ((fs.f_blocks * fs.f_frsize) as f64 * share) as u64,
        };
        fs.f_bavail * fs.f_frsize >= keep.saturating_add(growth)
    }
}
