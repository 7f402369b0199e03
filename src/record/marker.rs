//! Markers: what the agent says about itself, as rows among the samples.

use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::record::Run;

/// Of `run`'s seqs `first_seq..=last_seq` only `kept` will arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub device: String,
    pub run: Run,
    pub first_seq: u64,
    pub last_seq: u64,
    pub kept: u64,
    pub reason: GapReason,
    pub simulated: bool,
}

/// Why the rest of a gap will not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The spool was full.
    Evicted,
    /// The disk could not be written and the memory ring was full.
    RingOverflow,
    /// The bytes on disk could not be read back.
    Damaged,
}

impl Gap {
    /// Appends the marker's JSON object and `\n`. `timestamp_ms` is when it is
    /// said, `timestamp_sent` the partition.
    pub fn render(&self, timestamp_ms: i64, timestamp_sent: &str, out: &mut Vec<u8>) {
        let marker = serde_json::json!({
            "kind": "gap",
            "run": self.run,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "kept": self.kept,
            "reason": self.reason,
        });
        let (device, simulated) = (&self.device, self.simulated);
        let timestamp = clock::rfc3339(timestamp_ms);
        let version = env!("CARGO_PKG_VERSION");
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            out,
            "{{\"id_device\":\"{device}\",\"timestamp\":\"{timestamp}\",\
             \"timestamp_sent\":\"{timestamp_sent}\",\"simulated\":{simulated},\
             \"agent_version\":\"{version}\",\"marker\":{marker}}}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_row_without_seq() {
        let mut out = Vec::new();
        let gap = Gap {
            device: "a".into(),
            run: Run(1),
            first_seq: 3,
            last_seq: 4,
            kept: 0,
            reason: GapReason::Evicted,
            simulated: false,
        };
        gap.render(0, "2026-11-24 02", &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["marker"]["reason"], "evicted");
        assert_eq!(value["marker"]["last_seq"], 4);
        assert!(value.get("seq").is_none());
    }
}
