//! Bounds: how much the spool may take, and of what.

use std::path::Path;

use crate::spool::generation::disk_bytes;
use crate::spool::{KeepFree, Settings};

/// A generation's size at most: what one piece of damage can touch, and what
/// is given back at once.
const MAX_GENERATION_BYTES: u64 = 16 * 1024 * 1024;

/// sled's file grows in segments of 512 KiB; a smaller generation would be
/// mostly air.
const MIN_GENERATION_BYTES: u64 = 1024 * 1024;

/// What a put of n bytes may make sled's file grow by: a new segment, and
/// twice the bytes for the rewritten leaves (measured: 1.9 ×).
const SEGMENT_BYTES: u64 = 512 * 1024;

/// Frames read at once while stock is taken.
const SCAN_BYTES: usize = 256 * 1024;

/// The spool's bounds, worked out once.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub max_bytes: u64,
    pub keep_free: KeepFree,
    pub generation_bytes: u64,
    pub scan_bytes: usize,
}

impl Bounds {
    pub fn new(settings: &Settings) -> Self {
        Self {
            max_bytes: settings.max_bytes,
            keep_free: settings.keep_free,
            generation_bytes: (settings.max_bytes / 8)
                .clamp(MIN_GENERATION_BYTES, MAX_GENERATION_BYTES),
            scan_bytes: SCAN_BYTES,
        }
    }

    /// Whether putting `bytes` more under `folder` could break a bound.
    pub fn exceeded(&self, folder: &Path, bytes: u64) -> bool {
        let growth = SEGMENT_BYTES + 2 * bytes;
        if disk_bytes(folder) + growth > self.max_bytes {
            return true;
        }
        let Ok(fs) = rustix::fs::statvfs(folder) else {
            return false;
        };
        let keep = match self.keep_free {
            KeepFree::Bytes(bytes) => bytes,
            KeepFree::Share(share) => ((fs.f_blocks * fs.f_frsize) as f64 * share) as u64,
        };
        (fs.f_bavail * fs.f_frsize) < keep.saturating_add(growth)
    }
}
