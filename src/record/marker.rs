//! Markers: what the agent says about itself, as rows among the samples.

use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::record::Run;

/// A row that the agent says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Marker {
    Gap(Gap),
    RunEnd(RunEnd),
}

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
    /// Of a thinned one: the seqs that are multiples of 2 to this power are kept.
    #[serde(skip)]
    pub stride_log2: u8,
}

/// Why the rest of a gap will not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The spool was full.
    Evicted,
    /// The spool was full, and the history lost resolution.
    Thinned,
    /// The disk could not be written and the memory ring was full.
    RingOverflow,
    /// The bytes on disk could not be read back.
    Damaged,
}

/// Every seq up to `last_seq` of every device of `run` is delivered, in the
/// spool or declared by a [`Gap`]. What lies beyond it a crash may have taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The first device of the agent, which speaks for all of them.
    pub device: String,
    pub run: Run,
    pub last_seq: u64,
    pub reason: EndReason,
    pub simulated: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// It was stopped, and nothing lies beyond.
    Clean,
    /// Said by the next start: as far as the last commit knew.
    Crash,
}

impl Marker {
    /// Whose row it is.
    pub fn device(&self) -> &str {
        match self {
            Self::Gap(gap) => &gap.device,
            Self::RunEnd(end) => &end.device,
        }
    }

    /// The run that it speaks of.
    pub fn run(&self) -> Run {
        match self {
            Self::Gap(gap) => gap.run,
            Self::RunEnd(end) => end.run,
        }
    }

    /// Appends its JSON object and `\n`. `timestamp_ms` is when it is said,
    /// `timestamp_sent` the partition. What it says is the same text each time:
    /// by that a lake knows one that it has.
    pub fn render(&self, timestamp_ms: i64, timestamp_sent: &str, out: &mut Vec<u8>) {
        let mut marker = serde_json::json!(self);
        // These have columns of their own.
        let mut column = |name| marker.as_object_mut()?.remove(name);
        let (device, simulated) = (column("device"), column("simulated"));
        let (device, simulated) = (device.unwrap_or_default(), simulated.unwrap_or_default());
        let timestamp = clock::rfc3339(timestamp_ms);
        let version = env!("CARGO_PKG_VERSION");
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            out,
            "{{\"id_device\":{device},\"timestamp\":\"{timestamp}\",\
             \"timestamp_sent\":\"{timestamp_sent}\",\"simulated\":{simulated},\
             \"agent_version\":\"{version}\",\"marker\":{marker}}}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(marker: &Marker) -> serde_json::Value {
        let mut out = Vec::new();
        marker.render(0, "2026-11-24 02", &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_marker_is_a_row_without_seq() {
        let gap = Marker::Gap(Gap {
            device: "a".into(),
            run: Run(1),
            first_seq: 3,
            last_seq: 4,
            kept: 0,
            reason: GapReason::Evicted,
            simulated: false,
            stride_log2: 0,
        });
        let value = rendered(&gap);
        assert_eq!(value["marker"]["reason"], "evicted");
        assert_eq!(value["marker"]["last_seq"], 4);
        assert!(value.get("seq").is_none() && value.get("run").is_none());
    }

    #[test]
    fn a_run_end_says_the_run_and_how_far_it_is_safe() {
        let end = RunEnd {
            device: "a".into(),
            run: Run(7),
            last_seq: 9,
            reason: EndReason::Crash,
            simulated: true,
        };
        let value = rendered(&Marker::RunEnd(end));
        let said = serde_json::json!(
            {"kind": "run_end", "run": 7, "last_seq": 9, "reason": "crash"}
        );
        assert_eq!((&value["marker"], &value["simulated"]), (&said, &true.into()));
    }
}
