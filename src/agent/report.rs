//! What the running line says of itself.

use crate::agent::sampler::Sampler;
use crate::clock::Moment;
use crate::drain;
use crate::health::watchdog::Stuck;
use crate::spool;

/// The line at one moment; counters since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Empty until it is open.
    pub sink: String,
    /// Boot time of this report, in milliseconds.
    pub boot_ms: u64,
    /// Wall time (ms) of the last sample, and of the last delivery.
    pub last_sample_ms: Option<i64>,
    pub last_delivery_ms: Option<i64>,
    pub samples: u64,
    pub delivered: u64,
    /// Undelivered bytes that are durable in the spool.
    pub spooled_bytes: u64,
    /// Undelivered bytes in all.
    pub backlog_bytes: u64,
    /// Age of the oldest undelivered sample, in seconds.
    pub backlog_age_s: u64,
    /// Samples that the spool's bounds took, each declared.
    pub dropped: u64,
    /// Records refused for good and set aside since the start.
    pub dead_letters: u64,
    /// °C, of the last sample of this host or of the first simulated device.
    pub temperature: Option<f64>,
    /// Why nothing is delivered, if nothing is: trouble, or a day's bytes are
    /// spent.
    pub trouble: Option<String>,
    /// Why the spool takes nothing, if it does not.
    pub spool_trouble: Option<String>,
    /// What does not go on, if anything does not: only a new start may help.
    pub stuck: Option<Stuck>,
    /// Samples of the past made so far, and how many there will be.
    pub backfill: Option<(u64, u64)>,
}

impl Report {
    /// That the first sample was taken, and no more.
    pub(super) fn of_a_start(now: &Moment, sampler: &Sampler, spool: &spool::Stats) -> Self {
        let mut report = Self { samples: spool.pushed, ..Self::default() };
        report.date(now, sampler);
        report
    }

    /// Takes in what was sampled.
    pub(super) fn date(&mut self, now: &Moment, sampler: &Sampler) {
        self.boot_ms = now.boot_ms;
        self.last_sample_ms = sampler.last_ms();
        self.temperature = sampler.temperature();
        self.backfill = sampler.backfill();
    }

    /// Whether the line lives; a change is said once.
    pub(super) fn live(&mut self, stuck: Option<Stuck>) {
        match (self.stuck, stuck) {
            (None, Some(why)) => {
                tracing::error!("stuck, so the watchdog is not fed any more: {why}");
            }
            (Some(_), None) => tracing::info!("not stuck any more"),
            _ => {}
        }
        self.stuck = stuck;
    }

    /// What it does with what it samples, in a few words.
    pub fn state(&self) -> String {
        let sending = match &self.trouble {
            _ if self.sink.is_empty() => "starting".to_owned(),
            Some(trouble) => format!("nothing is delivered: {trouble}"),
            None => format!("delivering to {}", self.sink),
        };
        match (&self.spool_trouble, self.stuck) {
            (Some(trouble), _) => {
                format!("degraded, the spool takes nothing: {trouble}; {sending}")
            }
            (None, Some(stuck)) => format!("stuck: {stuck}"),
            (None, None) => sending,
        }
    }

    pub(super) fn fill(
        &mut self,
        spool: &spool::Stats,
        drain: &drain::Stats,
        (backlog_bytes, age_s): (u64, u64),
    ) {
        self.samples = spool.pushed;
        self.delivered = drain.delivered;
        self.spooled_bytes = spool.holding.bytes;
        self.backlog_bytes = backlog_bytes;
        self.backlog_age_s = age_s;
        let held = &spool.holding;
        self.dropped = spool.ring_dropped + held.evicted_samples + held.thinned_samples;
        self.dead_letters = drain.buried;
        let trouble = drain.trouble.as_ref().map(|trouble| &trouble.text);
        self.trouble = trouble.or(drain.spent.as_ref()).cloned();
        self.spool_trouble.clone_from(&spool.trouble);
    }
}
