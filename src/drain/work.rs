//! The drain's state: what waits for a batch, what is on its way, and what a
//! refusal is being narrowed down to.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::drain::budget::Budget;
use crate::drain::item::{Item, What, parcel};
use crate::drain::pace::Pace;
use crate::drain::parcel::cut;
use crate::drain::{Batch, Limits, Order, Settings, Trouble};
use crate::record::Marker;
use crate::spool::chunk::Chunk;
use crate::spool::{Lease, Spool};

/// Bytes of a batch at most, whatever the sink would take: the batch, its
/// encoded body and the lines it is made of are in memory together.
const BATCH_BYTES: usize = 512 * 1024;

/// The same while nothing gets through, one record as Firehose bills it: trying
/// must stay cheap.
pub(super) const TRIAL_BYTES: usize = 5 * 1024;

/// What was sampled within so many intervals is live: one may go by while a
/// batch is under way or waits to be filled.
const LIVE_INTERVALS: u64 = 2;

/// When a batch is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The partition: UTC `yyyy-MM-dd HH`.
    pub hour: String,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Milliseconds since boot.
    pub boot_ms: u64,
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Samples that the sink has.
    pub delivered: u64,
    /// NDJSON bytes of them.
    pub delivered_bytes: u64,
    /// Samples refused for good and set aside.
    pub buried: u64,
    pub batches: u64,
    pub failures: u64,
    /// Why nothing gets through, if nothing does.
    pub trouble: Option<Trouble>,
    /// Why nothing is sent, if today's bytes are spent.
    pub spent: Option<String>,
}

#[derive(Debug)]
pub(super) struct Outage {
    pub trouble: Trouble,
    pub since_ms: u64,
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub parcels: Vec<Vec<Item>>,
    /// Whether it is a part of what was refused.
    pub suspect: bool,
    /// Bytes that it takes on the wire.
    pub wire_bytes: u64,
}

/// See the module.
pub struct Drain {
    pub(super) sink: String,
    limits: Limits,
    oldest_first: bool,
    live_ms: u64,
    pace: Option<Pace>,
    pub(super) budget: Option<Budget>,
    pub(super) pending: VecDeque<Item>,
    pub(super) suspects: VecDeque<Vec<Item>>,
    pub(super) in_flight: Option<Flight>,
    /// Whether an interval's work is not done yet.
    pub(super) working: bool,
    /// Backlog waits for its pace.
    paced: bool,
    /// Bytes of the next batch at most.
    batch_bytes: usize,
    pub(super) failures: u32,
    pub(super) retry_at_ms: Option<u64>,
    pub(super) outage: Option<Outage>,
    pub(super) stats: Stats,
}

impl Drain {
    /// A drain into the sink of this name and these limits.
    pub fn new(settings: &Settings, sink: String, limits: Limits) -> Self {
        let batch_bytes = limits.batch_bytes.min(BATCH_BYTES);
        let grain_bytes = limits.billing_quantum_bytes;
        let interval_ms = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
        Self {
            sink,
            limits: Limits { batch_bytes, ..limits },
            oldest_first: settings.order == Order::OldestFirst,
            live_ms: interval_ms.saturating_mul(LIVE_INTERVALS),
            pace: settings.backlog_rate.map(|rate| Pace::new(rate, grain_bytes)),
            budget: settings.daily_bytes.map(Budget::new),
            pending: VecDeque::new(),
            suspects: VecDeque::new(),
            in_flight: None,
            working: false,
            paced: false,
            batch_bytes,
            failures: 0,
            retry_at_ms: None,
            outage: None,
            stats: Stats::default(),
        }
    }

    /// Goes on with other settings or into another sink. What it holds goes back
    /// to the spool; nothing may be on its way.
    pub fn renew(&mut self, settings: &Settings, sink: String, limits: Limits) {
        let stats = Stats { trouble: None, spent: None, ..self.stats.clone() };
        let budget = settings.daily_bytes.map(|limit_bytes| match self.budget.take() {
            Some(spent) => spent.limited_to(limit_bytes),
            None => Budget::new(limit_bytes),
        });
        *self = Self { stats, budget, ..Self::new(settings, sink, limits) };
    }

    /// An interval has passed: what is sealed goes, and what was left over
    /// last time waits no longer.
    pub fn begin(&mut self, spool: &mut Spool) {
        self.working = true;
        self.pending.iter_mut().for_each(|item| item.waited = true);
        for marker in spool.declarations() {
            if !self.holds_marker(&marker) {
                self.pending.push_back(Item { what: What::Marker(marker), waited: true });
            }
        }
    }

    fn holds_marker(&self, marker: &Marker) -> bool {
        let flying = self.in_flight.iter().flat_map(|flight| flight.parcels.iter().flatten());
        let all = self.pending.iter().chain(self.suspects.iter().flatten()).chain(flying);
        all.into_iter().any(|item| matches!(&item.what, What::Marker(known) if known == marker))
    }

    /// Whether a batch is on its way.
    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Boot time (ms) before which nothing is tried again.
    pub fn retry_at_ms(&self) -> Option<u64> {
        self.retry_at_ms
    }

    /// Boot time (ms) of the next try, or of the next of a paced backlog.
    pub fn due_ms(&self) -> Option<u64> {
        let paced = self.pace.as_ref().filter(|_| self.paced && !self.in_flight());
        self.retry_at_ms.or_else(|| paced?.opens_ms())
    }

    /// The next batch; `None` where one is on its way, a failure is being
    /// waited out, today's bytes are spent, or the interval's work is done.
    /// With `all`, nothing is left over for a better fit.
    pub fn next(&mut self, spool: &mut Spool, at: &Handover, all: bool) -> Option<Arc<Batch>> {
        let waiting = self.retry_at_ms.is_some_and(|retry| retry > at.boot_ms);
        if self.in_flight() || waiting || !(self.working || all) {
            return None;
        }
        let left = self.budget.as_mut().map_or(u64::MAX, |budget| budget.left(at.wall_ms));
        let lines_bytes = self.limits.wire.fits(left);
        if lines_bytes < TRIAL_BYTES {
            self.spent();
            return None;
        }
        let batch_bytes = self.batch_bytes.min(self.limits.batch_bytes).min(lines_bytes);
        let limits = Limits { batch_bytes, ..self.limits };
        let suspect = !self.suspects.is_empty();
        if !suspect {
            self.fill(spool, at, batch_bytes);
        }
        let (lines, must_go) = self.lines(all);
        let mut parcels = cut(&lines, must_go, &limits);
        if parcels.is_empty() {
            self.working = self.paced || spool.more_to_come();
            return None;
        }
        let wire_bytes = self.afford(&lines, &mut parcels, left);
        if parcels.is_empty() {
            self.spent();
            return None;
        }
        self.stats.spent = None;
        let parcels = self.take(parcels);
        let rendered = parcels.iter().map(|items| parcel(spool, items, at)).collect();
        self.in_flight = Some(Flight { parcels, suspect, wire_bytes });
        self.retry_at_ms = None;
        Some(Arc::new(Batch { timestamp_sent: at.hour.clone(), parcels: rendered }))
    }

    /// The lengths of the lines that are next, and how many of them wait no
    /// longer. What is tried does not wait to be filled.
    fn lines(&self, all: bool) -> (Vec<usize>, usize) {
        if let Some(group) = self.suspects.front() {
            return (group.iter().map(Item::line_bytes).collect(), group.len());
        }
        let waited = self.pending.iter().rposition(|item| item.waited).map_or(0, |last| last + 1);
        let must_go = if all || self.failures > 0 { self.pending.len() } else { waited };
        (self.pending.iter().map(Item::line_bytes).collect(), must_go)
    }

    /// Takes the next lines out, so many to each parcel. What a batch cannot
    /// hold goes first next time.
    fn take(&mut self, parcels: Vec<usize>) -> Vec<Vec<Item>> {
        let count: usize = parcels.iter().sum();
        let mut items: Vec<Item> = match self.suspects.pop_front() {
            Some(mut group) => {
                let rest = group.split_off(count.min(group.len()));
                if !rest.is_empty() {
                    self.suspects.push_front(rest);
                }
                group
            }
            None => self.pending.drain(..count.min(self.pending.len())).collect(),
        };
        let parcels = parcels.into_iter().rev();
        let mut taken: Vec<Vec<Item>> =
            parcels.map(|lines| items.split_off(items.len().saturating_sub(lines))).collect();
        taken.reverse();
        taken
    }

    /// Keeps of `parcels`, which take so many of the `lines`, those that `left`
    /// bytes are enough for, and counts them as spent. Returns the bytes.
    fn afford(&mut self, lines: &[usize], parcels: &mut Vec<usize>, left: u64) -> u64 {
        let wire = self.limits.wire;
        let (mut at, mut bytes, mut kept) = (0, wire.request_bytes as u64, 0);
        for &count in parcels.iter() {
            let ndjson = lines.iter().skip(at).take(count).sum();
            if bytes + wire.parcel(ndjson) > left {
                break;
            }
            (at, bytes, kept) = (at + count, bytes + wire.parcel(ndjson), kept + 1);
        }
        parcels.truncate(kept);
        if let Some(budget) = self.budget.as_mut().filter(|_| kept > 0) {
            budget.spend(bytes);
        }
        bytes
    }

    /// Today's bytes are spent: nothing goes before the next day.
    fn spent(&mut self) {
        self.working = false;
        let Some(budget) = &mut self.budget else { return };
        let limit = budget.limit_bytes();
        if budget.is_news() {
            let text = format!(
                "the {limit} bytes of send.daily_bytes are spent: samples are kept, and delivery \
                 goes on at 00:00 UTC"
            );
            tracing::warn!(sink = self.sink, "{text}");
            self.stats.spent = Some(text);
        }
    }

    /// Leases until a batch is at hand or nothing is left to lease: live data,
    /// and then as much of the backlog as may follow now.
    fn fill(&mut self, spool: &mut Spool, at: &Handover, batch_bytes: usize) {
        let live_ms = at.boot_ms.saturating_sub(self.live_ms);
        let live_waits = self.oldest_first && spool.any_before(live_ms);
        let mut bytes: usize = self.pending.iter().map(Item::line_bytes).sum();
        self.paced = false;
        while bytes < batch_bytes {
            let live = if live_waits { None } else { spool.lease_since(live_ms) };
            if let Some((chunk, lease)) = live {
                bytes += self.hold(chunk, &lease);
                continue;
            }
            let Some((chunk, lease)) = self.backlog(spool, at, bytes) else { break };
            let held = self.hold(chunk, &lease);
            bytes += held;
            if let Some(pace) = &mut self.pace {
                pace.take(held);
            }
        }
        spool.prefetch();
    }

    /// The next chunk of the backlog, if any may now follow the bytes that are
    /// pending.
    fn backlog(
        &mut self,
        spool: &mut Spool,
        at: &Handover,
        pending: usize,
    ) -> Option<(Chunk, Lease)> {
        let wire = &self.limits.wire;
        let bytes = wire.request_bytes as u64 + wire.parcel(pending);
        if self.budget.as_mut().is_some_and(|budget| !budget.spares(at.wall_ms, bytes)) {
            return None;
        }
        if self.pace.as_mut().is_some_and(|pace| !pace.flows(at.boot_ms)) {
            self.paced = spool.any_before(at.boot_ms.saturating_sub(self.live_ms));
            return None;
        }
        spool.lease(self.oldest_first)
    }

    /// Takes the chunk's lines in; returns their bytes.
    fn hold(&mut self, chunk: Chunk, lease: &Lease) -> usize {
        let Chunk { device, run, boot, entries, .. } = chunk;
        let mut bytes = 0;
        for entry in entries {
            let (device, lease) = (Arc::clone(&device), lease.clone());
            let what = What::Sample { device, run, boot, entry, lease };
            let item = Item { what, waited: false };
            bytes += item.line_bytes();
            self.pending.push_back(item);
        }
        bytes
    }

    /// What a batch may have next: little after a failure, less after one in
    /// part, and more after each success.
    pub(super) fn resize(&mut self, delivered: bool, failed: bool) {
        self.batch_bytes = match (delivered, failed) {
            (false, true) => TRIAL_BYTES,
            (true, true) => self.batch_bytes / 2,
            (_, false) => self.batch_bytes.saturating_mul(4),
        }
        .clamp(TRIAL_BYTES, BATCH_BYTES);
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
