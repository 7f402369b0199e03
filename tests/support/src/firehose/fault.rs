//! Faults: what goes wrong, and when.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    None,
    /// These records (by place in the batch) fail; the others are stored.
    FailRecords(Vec<usize>),
    /// Each record fails with this probability, 0..1.
    FailShare(f64),
    /// The whole request is throttled: ServiceUnavailableException.
    Throttle,
    /// The same with status 503, to come back after so many seconds.
    Busy(u64),
    /// An error answer of the service.
    Error {
        status: u16,
        code: String,
        message: String,
    },
    /// A bare status, without a body.
    Status(u16),
    /// The connection is cut and nothing is stored.
    Cut,
    /// Everything is stored and the connection is cut: the answer is lost.
    LoseAnswer,
    /// Stored, and answered after so many milliseconds.
    Slow(u64),
    /// Nothing is stored, and no answer comes.
    Hang,
    /// A captive portal's page, with status 200; nothing is stored.
    Html,
    /// Bytes that mean nothing, with status 200; nothing is stored.
    Garbage,
    /// Status 200 without a body; nothing is stored.
    Empty,
    /// Stored, but the answer has one outcome too few (or, where the batch
    /// holds one record, one too many).
    WrongCount,
}

impl Fault {
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Error { status, code: code.into(), message: message.into() }
    }
}

/// One request, as far as a fault may depend on it.
#[derive(Debug)]
pub struct Call<'a> {
    /// `PutRecordBatch`, `DescribeDeliveryStream` or `AssumeRole`.
    pub operation: &'a str,
    /// 0 for the first request since the faults were set.
    pub number: usize,
    pub records: &'a [Vec<u8>],
}

type Decide = Box<dyn FnMut(&Call) -> Fault + Send>;

/// When something goes wrong.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Faults {
    Never,
    Always(Fault),
    /// One fault a request; after the last all is well.
    Script(VecDeque<Fault>),
    /// At random, but the same for the same seed.
    Mix(Mix),
    #[serde(skip)]
    With(Decide),
}

/// Faults at random.
#[derive(Debug, Clone, Deserialize)]
pub struct Mix {
    pub seed: u64,
    /// Each fault with its share of the requests in percent; the rest is well.
    pub percent: Vec<(u32, Fault)>,
}

impl Faults {
    pub fn script(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self::Script(faults.into_iter().collect())
    }

    pub fn mix(seed: u64, percent: impl IntoIterator<Item = (u32, Fault)>) -> Self {
        Self::Mix(Mix { seed, percent: percent.into_iter().collect() })
    }

    pub fn with(decide: impl FnMut(&Call) -> Fault + Send + 'static) -> Self {
        Self::With(Box::new(decide))
    }
}

/// The faults in force.
pub(super) struct Plan {
    faults: Faults,
    random: StdRng,
    calls: usize,
}

impl Plan {
    pub(super) fn new(faults: Faults) -> Self {
        let seed = match &faults {
            Faults::Mix(mix) => mix.seed,
            _ => 0,
        };
        Self { faults, random: StdRng::seed_from_u64(seed), calls: 0 }
    }

    /// What goes wrong with this request; a share has become places by then.
    pub(super) fn next(&mut self, operation: &str, records: &[Vec<u8>]) -> Fault {
        let call = Call { operation, number: self.calls, records };
        self.calls += 1;
        let fault = match &mut self.faults {
            Faults::Never => Fault::None,
            Faults::Always(fault) => fault.clone(),
            Faults::Script(faults) => faults.pop_front().unwrap_or(Fault::None),
            Faults::Mix(mix) => draw(&mix.percent, self.random.random_range(0..100)),
            Faults::With(decide) => decide(&call),
        };
        match fault {
            Fault::FailShare(share) => {
                let fails = |_: &usize| self.random.random_bool(share);
                Fault::FailRecords((0..records.len()).filter(fails).collect())
            }
            fault => fault,
        }
    }
}

fn draw(percent: &[(u32, Fault)], mut at: u32) -> Fault {
    for (share, fault) in percent {
        match at.checked_sub(*share) {
            Some(beyond) => at = beyond,
            None => return fault.clone(),
        }
    }
    Fault::None
}

impl Fault {
    /// How long the answer is held back.
    pub(super) fn delay(&self) -> Option<Duration> {
        match self {
            Self::Slow(ms) => Some(Duration::from_millis(*ms)),
            _ => None,
        }
    }

    /// What the header `Retry-After` says.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Busy(seconds) => Some(*seconds),
            _ => None,
        }
    }

    /// Under which name it is counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FailRecords(_) | Self::FailShare(_) => "fail-records",
            Self::Throttle => "throttle",
            Self::Busy(_) => "busy",
            Self::Error { .. } => "error",
            Self::Status(_) => "status",
            Self::Cut => "cut",
            Self::LoseAnswer => "lose-answer",
            Self::Slow(_) => "slow",
            Self::Hang => "hang",
            Self::Html => "html",
            Self::Garbage => "garbage",
            Self::Empty => "empty",
            Self::WrongCount => "wrong-count",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_repeats_by_its_seed_and_keeps_its_shares() {
        let drawn = |seed| {
            let percent = [(10, Fault::Throttle), (20, Fault::FailShare(0.5))];
            let mut plan = Plan::new(Faults::mix(seed, percent));
            (0..1000).map(|_| plan.next("PutRecordBatch", &[vec![], vec![]])).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let count = |name| drawn(1).iter().filter(|fault| fault.name() == name).count();
        assert!((60..140).contains(&count("throttle")), "{} of 1000", count("throttle"));
        assert!((150..250).contains(&count("fail-records")), "{}", count("fail-records"));
    }

    #[test]
    fn faults_are_read_from_json() {
        let json = r#"{"mix": {"seed": 3, "percent": [[5, {"slow": 20}], [1, "lose-answer"]]}}"#;
        let Faults::Mix(mix) = serde_json::from_str(json).unwrap() else { panic!("no mix") };
        assert_eq!(mix.percent, [(5, Fault::Slow(20)), (1, Fault::LoseAnswer)]);
    }
}
