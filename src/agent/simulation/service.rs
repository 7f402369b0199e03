//! The service: a sink that answers as its seed has it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::sleep;

use super::plan::{CALM, Ill, Phase, WEEK};
use super::truth::Row;
use super::world::{World, trace, with};
use crate::drain::{Batch, Limits, Outcome, Parcel, Trouble, TroubleKind, Verdict};
use crate::sink::{Delivering, Probing, Sink};

/// See the module.
pub struct Service {
    /// World time until which the agent waits for a clock that is not set.
    pub patient_until: u64,
}

/// What the service heard last: its time (ms), and the device's boot time.
pub type Heard = Option<(i64, u64)>;

fn trouble(kind: TroubleKind) -> Trouble {
    Trouble::new(kind, "said by the simulation".into())
}

impl Sink for Service {
    fn name(&self) -> String {
        "the simulated service".into()
    }

    fn limits(&self) -> Limits {
        with(|world| world.plan.limits)
    }

    fn deliver(&self, batch: Arc<Batch>) -> Delivering {
        let ill = with(|world| {
            world.abandoned();
            world.check_hour(&batch.timestamp_sent, world.now_ms() < self.patient_until);
            Phase::at(&world.plan.ills, world.now_ms()).map(|phase| phase.kind)
        });
        let limits = self.limits();
        let (verdict, wait_ms) = with(|world| match world.refuse_unread(ill) {
            Some(answer) => answer,
            None => world.serve(ill, &read(&batch, &limits)),
        });
        trace(|| format!("{}: {ill:?}, {} after {wait_ms} ms", describe(&batch), brief(&verdict)));
        let answer = sleep(Duration::from_millis(wait_ms));
        Box::pin(async move {
            answer.await;
            with(|world| {
                world.answered();
                if !matches!(ill, Some(Ill::Down(_) | Ill::Lost)) {
                    world.hear();
                }
            });
            verdict
        })
    }

    fn probe(&self) -> Probing {
        Box::pin(async {
            sleep(Duration::from_millis(200)).await;
            let down = with(|world| {
                let ill = Phase::at(&world.plan.ills, world.now_ms());
                let down = matches!(ill.map(|phase| phase.kind), Some(Ill::Down(_) | Ill::Lost));
                if !down {
                    world.hear();
                }
                down
            });
            if down { Err(trouble(TroubleKind::Unreachable)) } else { Ok(String::new()) }
        })
    }

    fn server_time(&self) -> Option<(i64, u64)> {
        with(|world| world.heard)
    }
}

fn describe(batch: &Batch) -> String {
    let lines: usize = batch.parcels.iter().map(Parcel::samples).sum();
    let first = batch.parcels.first().map(|parcel| (parcel.run(), parcel.first_seq()));
    format!("{lines} lines from {first:?}")
}

/// The rows of each parcel.
fn read(batch: &Batch, limits: &Limits) -> Vec<Vec<Row>> {
    let rows = batch.parcels.iter().map(|parcel| {
        let text = std::str::from_utf8(parcel.ndjson()).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(Row::parse).collect()
    });
    let rows: Vec<Vec<Row>> = rows.collect();
    check_limits(batch, &rows, limits);
    rows
}

fn check_limits(batch: &Batch, rows: &[Vec<Row>], limits: &Limits) {
    assert!(!batch.parcels.is_empty() && batch.parcels.len() <= limits.batch_parcels);
    let mut bytes = 0;
    for (parcel, rows) in batch.parcels.iter().zip(rows) {
        assert_eq!(parcel.samples(), rows.len());
        assert!(rows.len() <= limits.parcel_samples, "{} lines in a parcel", rows.len());
        assert!(rows.len() == 1 || parcel.ndjson().len() <= limits.parcel_bytes);
        bytes += parcel.ndjson().len();
    }
    let lines: Vec<usize> = rows.iter().map(Vec::len).collect();
    assert!(bytes <= limits.batch_bytes || lines == [1], "{bytes} bytes, {lines:?}: {limits:?}");
}

fn brief(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Answered(outcomes) => {
            let delivered = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered);
            format!("{} of {} parcels delivered", delivered.count(), outcomes.len())
        }
        Verdict::Failed(trouble) => format!("{:?}", trouble.kind),
        Verdict::Refused(_) => "refused".into(),
    }
}

impl World {
    fn hear(&mut self) {
        if self.plan.tells_time {
            self.heard = Some((self.true_wall_ms(self.now_ms()), self.moment().boot_ms));
        }
    }

    fn store(&mut self, rows: &[Row], answers: bool) {
        rows.iter().for_each(|row| self.arrived(row, answers));
    }

    fn is_poisoned(&self, rows: &[Row]) -> bool {
        let fates = rows.iter().filter_map(|row| self.truth.samples.get(&row.key()?));
        fates.into_iter().any(|fate| fate.poison)
    }

    fn wait_ms(&mut self) -> u64 {
        let slow = self.now_ms() < WEEK - CALM && self.rng.random_ratio(1, 50);
        let most_ms = if slow { 3000 } else { 200 };
        self.rng.random_range(20..most_ms)
    }

    /// The answer of a service that looks at nothing, and how long (ms) it
    /// takes to come.
    fn refuse_unread(&mut self, ill: Option<Ill>) -> Option<(Verdict, u64)> {
        self.figures.add("batches", 1);
        let (kind, what) = match ill {
            Some(Ill::Down(_)) => (TroubleKind::Unreachable, "batches without answer"),
            Some(Ill::Denied) => (TroubleKind::Credentials, "batches denied"),
            Some(Ill::Throttled) if self.rng.random() => {
                (TroubleKind::Throttled, "batches throttled")
            }
            _ => return None,
        };
        self.figures.add(what, 1);
        let wait_ms = if let Some(Ill::Down(wait_ms)) = ill { wait_ms } else { self.wait_ms() };
        Some((Verdict::Failed(trouble(kind)), wait_ms))
    }

    /// The same of one that reads.
    fn serve(&mut self, ill: Option<Ill>, rows: &[Vec<Row>]) -> (Verdict, u64) {
        let wait_ms = self.wait_ms();
        let share = match ill {
            Some(Ill::Lost) => 1.0,
            Some(Ill::Garbage) => 0.5,
            _ => 0.0,
        };
        if share > 0.0 {
            self.figures
                .add(if ill == Some(Ill::Lost) { "answers lost" } else { "answers garbled" }, 1);
            for rows in rows {
                if !self.is_poisoned(rows) && self.rng.random_bool(share) {
                    self.store(rows, false);
                }
            }
            let verdict = match ill {
                Some(Ill::Lost) => Verdict::Failed(trouble(TroubleKind::Unanswered)),
                _ if self.rng.random() => {
                    Verdict::Answered(vec![Outcome::Delivered; rows.len() + 1])
                }
                _ => Verdict::Answered(Vec::new()),
            };
            return (verdict, wait_ms);
        }
        if self.plan.refuses_batches && rows.iter().any(|rows| self.is_poisoned(rows)) {
            self.figures.add("batches refused", 1);
            return (Verdict::Refused(trouble(TroubleKind::Data)), wait_ms);
        }
        let outcomes = rows.iter().map(|rows| self.take(ill, rows)).collect();
        (Verdict::Answered(outcomes), wait_ms)
    }

    fn take(&mut self, ill: Option<Ill>, rows: &[Row]) -> Outcome {
        let throttled =
            ill == Some(Ill::Throttled) || ill == Some(Ill::Partial) && self.rng.random_ratio(1, 3);
        if throttled {
            self.figures.add("parcels throttled", 1);
            return Outcome::Retry(trouble(TroubleKind::Throttled));
        }
        if self.is_poisoned(rows) {
            self.figures.add("parcels refused", 1);
            return Outcome::Refused(trouble(TroubleKind::Data));
        }
        self.store(rows, true);
        Outcome::Delivered
    }
}
