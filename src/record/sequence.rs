//! Runs: which start of which agent a sample belongs to.

use serde::{Deserialize, Serialize};

/// Bits of the durable start counter; the 32 above them are random, so that
/// `run` stays below 2^53 and survives readers that hold numbers as doubles.
const COUNTER_BITS: u32 = 20;

/// One start of one agent: (`id_device`, `run`, `seq`) is a sample's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Run(pub u64);

impl Run {
    /// The first run of a new state: random high bits, counter 0.
    pub fn fresh() -> Self {
        Self(u64::from(rand::random::<u32>()) << COUNTER_BITS)
    }

    /// The run of the next start with the same state; fresh when the counter
    /// is used up.
    pub fn next(self) -> Self {
        let last = (1 << COUNTER_BITS) - 1;
        if self.0 & last == last { Self::fresh() } else { Self(self.0 + 1) }
    }

    /// Whether both are starts of the same state.
    pub fn is_kin(self, other: Self) -> bool {
        self.0 >> COUNTER_BITS == other.0 >> COUNTER_BITS
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stays_below_two_to_the_53() {
        assert!(Run(u64::from(u32::MAX) << COUNTER_BITS | ((1 << COUNTER_BITS) - 1)).0 < 1 << 53);
        assert_eq!(Run(5 << COUNTER_BITS).next(), Run(5 << COUNTER_BITS | 1));
    }

    #[test]
    fn a_used_up_counter_draws_anew() {
        let last = Run(5 << COUNTER_BITS | ((1 << COUNTER_BITS) - 1));
        assert_eq!(last.next().0 & ((1 << COUNTER_BITS) - 1), 0);
    }
}
