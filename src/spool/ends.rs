//! Ends of runs, until the sink has been told.

use serde::Deserialize;

use crate::record::RunEnd;

/// Ends kept at most, about as many bytes of the ledger as its ranges take. An
/// agent that crashes again and again while it is offline says no more of the
/// oldest: those runs stay open.
const MAX_ENDS: usize = 128;

/// Ends not told yet, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends(Vec<RunEnd>);

impl Ends {
    pub fn add(&mut self, end: RunEnd) {
        self.0.push(end);
        if self.0.len() > MAX_ENDS {
            let end = self.0.remove(0);
            tracing::error!(?end, "too many runs ended to tell the sink of all; left out");
        }
    }

    pub fn remove(&mut self, end: &RunEnd) {
        self.0.retain(|known| known != end);
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<RunEnd> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    pub fn iter(&self) -> impl Iterator<Item = &RunEnd> {
        self.0.iter()
    }

    /// As the ledger keeps them among its declarations.
    pub fn to_json(&self) -> impl Iterator<Item = serde_json::Value> {
        self.0.iter().filter_map(|end| serde_json::to_value(end).ok())
    }

    pub fn from_json(values: &[serde_json::Value]) -> Self {
        let mut ends = Self::default();
        let known = values.iter().filter_map(|value| RunEnd::deserialize(value).ok());
        known.for_each(|end| ends.add(end));
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EndReason, Gap, GapReason, Run};
    use crate::spool::gaps::Gaps;

    fn end(run: u64) -> RunEnd {
        let (device, reason) = ("a".into(), EndReason::Crash);
        RunEnd { device, run: Run(run), last_seq: 9, reason, simulated: false }
    }

    #[test]
    fn ends_and_gaps_share_the_ledgers_declarations() {
        let (mut ends, mut gaps) = (Ends::default(), Gaps::default());
        (0..200).for_each(|run| ends.add(end(run)));
        gaps.add(&Gap {
            device: "a".into(),
            run: Run(7),
            first_seq: 0,
            last_seq: 9,
            kept: 0,
            reason: GapReason::Evicted,
            simulated: false,
            stride_log2: 0,
        });
        let mut values = gaps.to_json();
        values.extend(ends.to_json());
        assert_eq!(values.len(), 1 + MAX_ENDS);
        assert_eq!((Ends::from_json(&values), Gaps::from_json(&values)), (ends.clone(), gaps));
        let oldest = end(200 - MAX_ENDS as u64);
        ends.remove(&end(199));
        assert_eq!((ends.iter().count(), ends.pop()), (MAX_ENDS - 1, Some(oldest)));
    }
}
