//! When to try again.

use std::time::Duration;

use crate::drain::{Trouble, TroubleKind};

/// The longest first wait; each further failure doubles it.
const BASE: Duration = Duration::from_secs(1);

/// The longest that a service is left alone at its own wish.
const MOST_PATIENCE: Duration = Duration::from_secs(300);

/// How long a wait may grow. Where nobody answers, asking is cheap and the
/// network may be back any second; where somebody says no, asking is noise.
fn cap(kind: TroubleKind) -> Duration {
    Duration::from_secs(match kind {
        TroubleKind::Unreachable | TroubleKind::Unanswered => 10,
        TroubleKind::Disk => 15,
        TroubleKind::Throttled | TroubleKind::BadAnswer | TroubleKind::Data => 60,
        TroubleKind::Credentials | TroubleKind::Configuration => 60,
    })
}

/// The wait before the next try after `failures` of them in a row: full jitter,
/// uniform between zero and an exponentially growing bound ("Exponential
/// Backoff And Jitter", AWS Architecture Blog, 2015), after what the service
/// asked for. `random` is 0..1.
pub fn delay(failures: u32, trouble: &Trouble, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let bound = BASE.saturating_mul(1 << doublings).min(cap(trouble.kind));
    let asked = trouble.retry_after.unwrap_or_default().min(MOST_PATIENCE);
    asked + bound.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(failures: u32, kind: TroubleKind, random: f64) -> Duration {
        delay(failures, &Trouble::new(kind, String::new()), random)
    }

    #[test]
    fn waits_double_up_to_the_cap_and_spread_over_all_of_it() {
        let longest = |failures| after(failures, TroubleKind::Unreachable, 1.0);
        assert_eq!(longest(1), Duration::from_secs(1));
        assert_eq!(longest(3), Duration::from_secs(4));
        assert_eq!(longest(1000), Duration::from_secs(10));
        assert_eq!(after(5, TroubleKind::Throttled, 0.0), Duration::ZERO);
        assert_eq!(after(6, TroubleKind::Throttled, 0.5), Duration::from_secs(16));
    }

    #[test]
    fn what_the_service_asks_for_comes_first_and_is_spread_as_well() {
        let asks = |seconds| Trouble {
            retry_after: Some(Duration::from_secs(seconds)),
            ..Trouble::new(TroubleKind::Throttled, String::new())
        };
        assert_eq!(delay(1, &asks(20), 0.5), Duration::from_millis(20_500));
        assert_eq!(delay(1, &asks(86_400), 0.0), MOST_PATIENCE);
    }
}
