//! What the running line says of itself.

use crate::drain;
use crate::spool;

/// The line at one moment; counters since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub sink: String,
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
    /// Why nothing is delivered, if nothing is.
    pub trouble: Option<String>,
    /// Why the spool takes nothing, if it does not.
    pub spool_trouble: Option<String>,
    /// Samples of the past made so far, and how many there will be.
    pub backfill: Option<(u64, u64)>,
}

impl Report {
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
        self.trouble = drain.trouble.as_ref().map(|trouble| trouble.text.clone());
        self.spool_trouble.clone_from(&spool.trouble);
    }
}
