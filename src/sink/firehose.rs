//! Amazon Data Firehose.

use std::path::PathBuf;

/// Which stream, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub stream: String,
    /// From the environment or the profile if absent.
    pub region: Option<String>,
    pub endpoint_url: Option<String>,
    pub profile: Option<String>,
    pub role_arn: Option<String>,
    /// PEM file with the only certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
}
