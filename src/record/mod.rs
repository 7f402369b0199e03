//! The record: one sample is one JSON object is one row.

pub mod schema;

use std::collections::BTreeMap;

/// What the operator says of this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// 1–64 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Column `labels`.
    pub labels: BTreeMap<String, String>,
}
