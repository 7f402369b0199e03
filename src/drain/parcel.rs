//! Cutting lines into parcels, so that what is billed is what is sent.

use crate::drain::Limits;

/// A parcel whose padding is at most this share of it goes as it is: waiting
/// for a better fit would cost freshness and save nothing.
const GOOD_FIT: f64 = 1.05;

/// One record of the sink: NDJSON, each line ended by `\n`.
#[derive(Debug)]
pub struct Parcel {
    ndjson: Vec<u8>,
    samples: usize,
    device: String,
    run: u64,
    first_seq: u64,
}

impl Parcel {
    /// `ndjson` holds `samples` lines; `device`, `run` and `first_seq` are
    /// those of its first line.
    pub fn new(ndjson: Vec<u8>, samples: usize, device: String, run: u64, first_seq: u64) -> Self {
        Self { ndjson, samples, device, run, first_seq }
    }

    /// The lines, one JSON object each, every line ended by `\n`.
    pub fn ndjson(&self) -> &[u8] {
        &self.ndjson
    }

    /// How many lines.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The device of the first line.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The run of the first line.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The seq of the first line; 0 where it is a marker.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }
}

/// Cuts lines of the given `lengths` (bytes) into the parcels of one batch, in
/// order; returns how many lines each takes. Lines that are left over wait:
/// what exceeds the batch, and the tail that would only pay for padding, unless
/// it holds one of the first `must_go` lines.
pub fn cut(lengths: &[usize], must_go: usize, limits: &Limits) -> Vec<usize> {
    let mut parcels = Vec::new();
    let (mut at, mut batch_left) = (0, limits.batch_bytes);
    while parcels.len() < limits.batch_parcels {
        let rest = lengths.get(at..).unwrap_or_default();
        let room = limits.parcel_bytes.min(batch_left);
        let (mut lines, bytes) = fill(rest, limits.parcel_samples, room);
        if lines == 0 && at == 0 && !rest.is_empty() {
            // A line longer than a parcel may be goes alone: the sink says why
            // it does not take it.
            return vec![1];
        }
        if lines == rest.len() {
            lines = trim(rest, bytes, must_go.saturating_sub(at), limits.billing_quantum_bytes);
        }
        if lines == 0 {
            break;
        }
        parcels.push(lines);
        at += lines;
        batch_left = batch_left.saturating_sub(bytes);
    }
    parcels
}

/// How many of the lines fit, and their bytes.
fn fill(lengths: &[usize], max_lines: usize, max_bytes: usize) -> (usize, usize) {
    let (mut lines, mut bytes) = (0, 0);
    for length in lengths.iter().take(max_lines) {
        if bytes + length > max_bytes {
            break;
        }
        lines += 1;
        bytes += length;
    }
    (lines, bytes)
}

/// How many of the last parcel's lines go now.
fn trim(lengths: &[usize], bytes: usize, must_go: usize, quantum: usize) -> usize {
    let quantum = quantum.max(1);
    let billed = bytes.div_ceil(quantum) * quantum;
    if billed as f64 <= bytes as f64 * GOOD_FIT {
        return lengths.len();
    }
    let (fitting, _) = fill(lengths, lengths.len(), bytes / quantum * quantum);
    if fitting >= must_go { fitting } else { lengths.len() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::drain::Wire;

    const FIREHOSE: Limits = Limits {
        parcel_samples: 500,
        parcel_bytes: 1_024_000,
        batch_parcels: 500,
        batch_bytes: 4 * 1024 * 1024,
        billing_quantum_bytes: 5120,
        wire: Wire::PLAIN,
    };

    #[test]
    fn six_short_lines_wait_once_and_then_go() {
        assert!(cut(&[450; 6], 0, &FIREHOSE).is_empty());
        assert_eq!(cut(&[450; 12], 6, &FIREHOSE), [11]);
        assert_eq!(cut(&[450; 7], 1, &FIREHOSE), [7]);
    }

    #[test]
    fn a_good_fit_does_not_wait() {
        assert_eq!(cut(&[500; 10], 0, &FIREHOSE), [10]);
        assert_eq!(cut(&[500; 60], 0, &FIREHOSE), [60]);
    }

    #[test]
    fn a_line_longer_than_a_parcel_goes_alone() {
        assert_eq!(cut(&[2_000_000, 500], 2, &FIREHOSE), [1]);
    }

    proptest! {
        #[test]
        fn parcels_keep_every_limit_and_waste_little(
            lengths in prop::collection::vec(1usize..3000, 0..400),
            must_go in 0usize..400,
            parcel_samples in 1usize..50,
            parcel_bytes in 3000usize..40_000,
            batch_parcels in 1usize..20,
            batch_bytes in 3000usize..200_000,
            quantum in prop::sample::select(vec![1usize, 1000, 5120]),
        ) {
            let limits = Limits { parcel_samples, parcel_bytes, batch_parcels, batch_bytes, billing_quantum_bytes: quantum, wire: Wire::PLAIN };
            let must_go = must_go.min(lengths.len());
            let parcels = cut(&lengths, must_go, &limits);
            prop_assert!(parcels.len() <= batch_parcels);
            let (mut at, mut total) = (0, 0);
            for &lines in &parcels {
                let bytes: usize = lengths[at..at + lines].iter().sum();
                prop_assert!(lines >= 1 && lines <= parcel_samples && bytes <= parcel_bytes);
                (at, total) = (at + lines, total + bytes);
            }
            prop_assert!(total <= batch_bytes);
            let waiting: usize = lengths[at..].iter().sum();
            let full = parcels.len() == batch_parcels
                || lengths.get(at).is_some_and(|next| total + next > batch_bytes);
            // What waits without need is less than a quantum and one line.
            prop_assert!(full || at >= must_go);
            prop_assert!(full || waiting < quantum + 3000, "{waiting} bytes wait");
        }
    }
}
