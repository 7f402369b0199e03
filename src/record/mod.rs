//! The record: one sample is one JSON object is one row.
//!
//! A [`Sample`] is stored with its JSON body already rendered but for the
//! three things only the drain knows: the date (a clock may be corrected
//! later), the clock's state, and the hour of sending. [`Line`] puts them in.

mod marker;
mod recorder;
pub mod schema;
mod sequence;

pub use marker::{EndReason, Gap, GapReason, Marker, RunEnd};
pub use recorder::{Backlog, MAX_BODY_BYTES, Recorder};
pub use sequence::Run;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use crate::clock::{self, Moment};

/// What the operator says of this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// 1–64 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Column `labels`.
    pub labels: BTreeMap<String, String>,
}

/// One sample of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub device: Arc<str>,
    pub run: Run,
    pub seq: u64,
    pub at: Moment,
    /// The JSON members from `simulated` on, without braces; at most
    /// [`MAX_BODY_BYTES`].
    pub body: Box<str>,
}

/// How far the wall clock of a sample can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    Synced,
    /// Dated afterwards, by the boot time, once the wall clock was known.
    Corrected,
    Unsynced,
}

impl ClockState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Corrected => "corrected",
            Self::Unsynced => "unsynced",
        }
    }
}

/// The date of a sample taken `at`, given what its boot's offset (wall minus
/// boot time, ms) turned out to be, if it did.
pub fn dated(at: &Moment, offset_ms: Option<i64>) -> (i64, ClockState) {
    match (at.synced, offset_ms) {
        (true, _) => (at.wall_ms, ClockState::Synced),
        (false, Some(offset)) => {
            let boot_ms = i64::try_from(at.boot_ms).unwrap_or(i64::MAX);
            (boot_ms.saturating_add(offset), ClockState::Corrected)
        }
        (false, None) => (at.wall_ms, ClockState::Unsynced),
    }
}

/// One sample as it is handed to a sink.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub device: &'a str,
    pub run: Run,
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    pub clock: ClockState,
    /// UTC `yyyy-MM-dd HH`.
    pub timestamp_sent: &'a str,
    pub body: &'a str,
}

impl Line<'_> {
    /// Appends the JSON object and `\n`.
    pub fn render(&self, out: &mut Vec<u8>) {
        let Self { device, run, seq, body, timestamp_sent, .. } = self;
        let (timestamp, clock) = (clock::rfc3339(self.timestamp_ms), self.clock.name());
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            out,
            "{{\"id_device\":\"{device}\",\"timestamp\":\"{timestamp}\",\
             \"timestamp_sent\":\"{timestamp_sent}\",\"run\":{run},\"seq\":{seq},\
             \"clock\":\"{clock}\",{body}}}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment { wall_ms: 5_000, boot_ms: 4_000, synced: false };

    #[test]
    fn an_unsynced_sample_is_dated_by_its_boot_once_the_offset_is_known() {
        assert_eq!(dated(&AT, None), (5_000, ClockState::Unsynced));
        assert_eq!(dated(&AT, Some(1_000_000)), (1_004_000, ClockState::Corrected));
        let synced = Moment { synced: true, ..AT };
        assert_eq!(dated(&synced, Some(1_000_000)), (5_000, ClockState::Synced));
    }

    #[test]
    fn a_line_is_one_json_object() {
        let mut out = Vec::new();
        let line = Line {
            device: "pi-attic",
            run: Run(7),
            seq: 3,
            timestamp_ms: 0,
            clock: ClockState::Synced,
            timestamp_sent: "2026-11-24 02",
            body: "\"simulated\":false,\"cpu\":0.5",
        };
        line.render(&mut out);
        assert_eq!(out.last(), Some(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(value["run"], 7);
        assert_eq!(value["cpu"], 0.5);
    }
}
