//! How fast the backlog follows live data: a token bucket in boot time.

/// The bucket holds what the rate brings in this time: enough for full records
/// and few requests, short enough to be a rate.
const BURST_MS: u64 = 10_000;

/// Bytes at a rate. Once it has run dry nothing goes until it is full again:
/// little by little, each bit would cost a request.
#[derive(Debug, Clone)]
pub struct Pace {
    bytes_per_s: u64,
    /// In thousandths of a byte, as what follows: at most, and now; below zero
    /// after more was taken than there was.
    burst: i128,
    level: i128,
    at_ms: u64,
    flows: bool,
}

impl Pace {
    /// A full bucket, at least `grain_bytes` wide.
    pub fn new(bytes_per_s: u64, grain_bytes: usize) -> Self {
        let grain = grain_bytes as i128 * 1000;
        let burst = (i128::from(bytes_per_s) * i128::from(BURST_MS)).max(grain).max(1);
        Self { bytes_per_s: bytes_per_s.max(1), burst, level: burst, at_ms: 0, flows: true }
    }

    /// Whether anything may go at boot time `now_ms`.
    pub fn flows(&mut self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let brought = i128::from(passed_ms) * i128::from(self.bytes_per_s);
        self.level = (self.level + brought).min(self.burst);
        self.flows = self.level >= self.burst || (self.flows && self.level > 0);
        self.flows
    }

    /// `bytes` go.
    pub fn take(&mut self, bytes: usize) {
        self.level -= bytes as i128 * 1000;
    }

    /// The boot time (ms) at which it flows again, if it does not.
    pub fn opens_ms(&self) -> Option<u64> {
        let lacking = u64::try_from(self.burst - self.level).unwrap_or(0);
        (!self.flows).then(|| self.at_ms.saturating_add(lacking.div_ceil(self.bytes_per_s)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_that_ran_dry_opens_once_it_is_full() {
        let mut pace = Pace::new(1000, 5120);
        assert!(pace.flows(50_000));
        assert_eq!(pace.opens_ms(), None);
        pace.take(9_999);
        assert!(pace.flows(50_000), "one byte is left");
        pace.take(2_001);
        assert!(!pace.flows(50_000));
        assert_eq!(pace.opens_ms(), Some(62_000));
        assert!(!pace.flows(61_999));
        assert!(pace.flows(62_000));
    }

    #[test]
    fn a_slow_rate_still_fills_a_record() {
        let mut pace = Pace::new(100, 5120);
        pace.take(5120);
        assert!(!pace.flows(0));
        assert_eq!(pace.opens_ms(), Some(51_200));
    }

    proptest! {
        /// Between any two moments no more goes than the bucket held, the rate
        /// brought, and was overdrawn by the last one; and what waits until the
        /// bucket says so may go then, and not a millisecond earlier.
        #[test]
        fn the_rate_holds_over_any_span(
            rate in 1u64..1_000_000,
            grain in 0usize..20_000,
            steps in prop::collection::vec((0u64..30_000, 0usize..60_000), 1..60),
        ) {
            let mut pace = Pace::new(rate, grain);
            let burst = (rate * BURST_MS / 1000).max(grain as u64).max(1);
            let (mut now_ms, mut went) = (1_000_000, Vec::<(u64, u64)>::new());
            for (wait_ms, bytes) in steps {
                now_ms += wait_ms;
                if !pace.flows(now_ms) {
                    let opens_ms = pace.opens_ms().unwrap();
                    prop_assert!(opens_ms > now_ms);
                    prop_assert!(!pace.clone().flows(opens_ms - 1));
                    prop_assert!(pace.clone().flows(opens_ms));
                    continue;
                }
                pace.take(bytes);
                went.push((now_ms, bytes as u64));
            }
            for from in 0..went.len() {
                let mut sum = 0;
                for &(at_ms, bytes) in &went[from..] {
                    let brought = (at_ms - went[from].0) * rate / 1000;
                    prop_assert!(sum <= burst + brought + 1, "{sum} before {bytes} at {at_ms}");
                    sum += bytes;
                }
            }
        }
    }
}
