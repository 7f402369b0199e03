//! A local Parquet lake.

use std::path::PathBuf;

/// Where, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub path: PathBuf,
    /// The oldest files go when the lake would exceed it.
    pub max_bytes: u64,
}
