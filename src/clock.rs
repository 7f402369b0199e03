//! The only place that asks the time.

use std::time::Duration;

/// How long the drain waits for a synchronised clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub wait: Duration,
}
