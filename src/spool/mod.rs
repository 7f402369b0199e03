//! The spool.

pub mod chunk;

use std::path::PathBuf;
use std::time::Duration;

/// Where, how much, and how safe.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub path: PathBuf,
    /// What a power cut may take; `None` is `auto`: 10 s, on an SD card or
    /// eMMC 2 min.
    pub max_loss: Option<Duration>,
    /// Everything under `path` stays below this.
    pub max_bytes: u64,
    pub keep_free: KeepFree,
    pub when_full: WhenFull,
}

/// What the spool leaves free on its file system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KeepFree {
    /// 0..1 of the file system.
    Share(f64),
    Bytes(u64),
}

/// What goes when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    DropOldest,
}
