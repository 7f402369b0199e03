//! The host's own sensors, through sysinfo.

use std::path::PathBuf;

/// What the operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file system of column `hd`: any path on it.
    pub disk: PathBuf,
    /// The label of the sensor of column `temperature`; chosen by us if absent.
    pub temperature_sensor: Option<String>,
}
