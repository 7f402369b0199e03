//! The drain's state: what waits for a batch, what is on its way, and what a
//! refusal is being narrowed down to.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::drain::item::{Item, What, parcel};
use crate::drain::parcel::cut;
use crate::drain::{Batch, Limits, Order, Outcome, Settings, Trouble, TroubleKind, Verdict, retry};
use crate::record::Marker;
use crate::spool::Spool;
use crate::spool::chunk::Chunk;

/// Bytes of a batch at most, whatever the sink would take: the batch, its
/// encoded body and the lines it is made of are in memory together.
const BATCH_BYTES: usize = 512 * 1024;

/// The same while nothing gets through: trying must stay cheap.
const TRIAL_BYTES: usize = 32 * 1024;

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
}

#[derive(Debug)]
struct Outage {
    trouble: Trouble,
    since_ms: u64,
}

/// See the module.
pub struct Drain {
    sink: String,
    limits: Limits,
    oldest_first: bool,
    pending: VecDeque<Item>,
    suspects: VecDeque<Vec<Item>>,
    in_flight: Option<Vec<Vec<Item>>>,
    /// Whether an interval's work is not done yet.
    working: bool,
    failures: u32,
    retry_at_ms: Option<u64>,
    outage: Option<Outage>,
    stats: Stats,
}

impl Drain {
    /// A drain into the sink of this name and these limits.
    pub fn new(settings: &Settings, sink: String, limits: Limits) -> Self {
        let batch_bytes = limits.batch_bytes.min(BATCH_BYTES);
        Self {
            sink,
            limits: Limits { batch_bytes, ..limits },
            oldest_first: settings.order == Order::OldestFirst,
            pending: VecDeque::new(),
            suspects: VecDeque::new(),
            in_flight: None,
            working: false,
            failures: 0,
            retry_at_ms: None,
            outage: None,
            stats: Stats::default(),
        }
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
        let flying = self.in_flight.iter().flatten().flatten();
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

    /// The next batch; `None` where one is on its way, a failure is being
    /// waited out, or the interval's work is done. With `all`, nothing is left
    /// over for a better fit.
    pub fn next(&mut self, spool: &mut Spool, at: &Handover, all: bool) -> Option<Arc<Batch>> {
        let waiting = self.retry_at_ms.is_some_and(|retry| retry > at.boot_ms);
        if self.in_flight() || waiting || !(self.working || all) {
            return None;
        }
        if let Some(group) = self.suspects.pop_front() {
            return Some(self.send(spool, group, at));
        }
        let most_bytes = if self.failures > 0 { TRIAL_BYTES } else { usize::MAX };
        let batch_bytes = self.limits.batch_bytes.min(most_bytes);
        let limits = Limits { batch_bytes, ..self.limits };
        self.fill(spool, batch_bytes);
        let lengths: Vec<usize> = self.pending.iter().map(Item::line_bytes).collect();
        let must_go = match all {
            true => lengths.len(),
            false => self.pending.iter().rposition(|item| item.waited).map_or(0, |last| last + 1),
        };
        let parcels = cut(&lengths, must_go, &limits);
        if parcels.is_empty() {
            self.working = spool.more_to_come();
            return None;
        }
        let parcels = parcels.into_iter().map(|lines| self.pending.drain(..lines).collect());
        let parcels: Vec<Vec<Item>> = parcels.collect();
        Some(self.send_parcels(spool, parcels, at))
    }

    /// Leases until a batch is at hand or nothing is left to lease.
    fn fill(&mut self, spool: &mut Spool, batch_bytes: usize) {
        let mut bytes: usize = self.pending.iter().map(Item::line_bytes).sum();
        while bytes < batch_bytes {
            let Some((chunk, lease)) = spool.lease(self.oldest_first) else { break };
            let Chunk { device, run, boot, entries, .. } = chunk;
            for entry in entries {
                let (device, lease) = (Arc::clone(&device), lease.clone());
                let what = What::Sample { device, run, boot, entry, lease };
                let item = Item { what, waited: false };
                bytes += item.line_bytes();
                self.pending.push_back(item);
            }
        }
        spool.prefetch();
    }

    fn send(&mut self, spool: &Spool, group: Vec<Item>, at: &Handover) -> Arc<Batch> {
        let lengths: Vec<usize> = group.iter().map(Item::line_bytes).collect();
        let parcels = cut(&lengths, lengths.len(), &self.limits);
        let mut group = group.into_iter();
        let parcels = parcels.into_iter().map(|lines| group.by_ref().take(lines).collect());
        let parcels: Vec<Vec<Item>> = parcels.collect();
        // What a batch cannot hold goes first next time.
        let rest: Vec<Item> = group.collect();
        if !rest.is_empty() {
            self.suspects.push_front(rest);
        }
        self.send_parcels(spool, parcels, at)
    }

    fn send_parcels(
        &mut self,
        spool: &Spool,
        parcels: Vec<Vec<Item>>,
        at: &Handover,
    ) -> Arc<Batch> {
        let rendered = parcels.iter().map(|items| parcel(spool, items, at)).collect();
        self.in_flight = Some(parcels);
        self.retry_at_ms = None;
        Arc::new(Batch { timestamp_sent: at.hour.clone(), parcels: rendered })
    }

    /// Takes the sink's answer in, at boot time `now_ms`. `random` is 0..1.
    pub fn settle(&mut self, verdict: Verdict, spool: &mut Spool, now_ms: u64, random: f64) {
        let Some(parcels) = self.in_flight.take() else { return };
        self.stats.batches += 1;
        let before = self.stats.delivered;
        let trouble = match verdict {
            Verdict::Answered(outcomes) if outcomes.len() == parcels.len() => {
                self.answered(parcels, outcomes, spool)
            }
            Verdict::Answered(outcomes) => {
                let text = format!(
                    "{} answered for {} parcels of {}: nothing counts as delivered",
                    self.sink,
                    outcomes.len(),
                    parcels.len()
                );
                self.give_back(parcels);
                Some(Trouble { kind: TroubleKind::BadAnswer, text })
            }
            Verdict::Failed(trouble) => {
                self.give_back(parcels);
                Some(trouble)
            }
            Verdict::Refused(trouble) => {
                self.bisect(parcels.into_iter().flatten().collect(), &trouble, spool);
                None
            }
        };
        // The answer to a part of a batch is an answer: the way is open.
        if trouble.is_none() || self.stats.delivered > before {
            self.recovered(spool, now_ms);
        }
        if let Some(trouble) = trouble {
            self.failed(trouble, self.stats.delivered > before, spool, now_ms, random);
        }
    }

    /// Acknowledges what was delivered; says what stood in the way of the rest.
    fn answered(
        &mut self,
        parcels: Vec<Vec<Item>>,
        outcomes: Vec<Outcome>,
        spool: &mut Spool,
    ) -> Option<Trouble> {
        let (mut trouble, mut again) = (None, Vec::new());
        for (items, outcome) in parcels.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered => items.into_iter().for_each(|item| self.done(item, spool)),
                Outcome::Retry(why) => {
                    again.push(items);
                    trouble.get_or_insert(why);
                }
                Outcome::Refused(why) => self.bisect(items, &why, spool),
            }
        }
        self.give_back(again);
        trouble
    }

    fn done(&mut self, item: Item, spool: &mut Spool) {
        let bytes = item.line_bytes() as u64;
        match item.what {
            What::Sample { entry, lease, .. } => {
                lease.ack(entry.seq);
                self.stats.delivered += 1;
                self.stats.delivered_bytes += bytes;
            }
            What::Marker(marker) => spool.declared(marker),
        }
    }

    /// Failed lines wait no longer, whatever their fit.
    fn give_back(&mut self, parcels: Vec<Vec<Item>>) {
        for item in parcels.into_iter().flatten().rev() {
            self.pending.push_front(Item { waited: true, ..item });
        }
    }

    /// Halves what was refused; a single line is set aside.
    fn bisect(&mut self, mut group: Vec<Item>, why: &Trouble, spool: &mut Spool) {
        if group.len() > 1 {
            let second = group.split_off(group.len() / 2);
            self.suspects.push_front(second);
            self.suspects.push_front(group);
            return;
        }
        for item in group {
            self.stats.buried += 1;
            tracing::error!(
                sink = self.sink,
                reason = why.text,
                "a record is refused for good and set aside; see: iot-agent spool dead-letters"
            );
            let record = item.plain_line(spool);
            match item.what {
                What::Sample { entry, lease, .. } => {
                    spool.bury(why.text.clone(), record, Some((lease, entry.seq)));
                }
                What::Marker(marker) => {
                    spool.bury(why.text.clone(), record, None);
                    spool.declared(marker);
                }
            }
        }
    }

    fn recovered(&mut self, spool: &Spool, now_ms: u64) {
        self.failures = 0;
        self.retry_at_ms = None;
        self.stats.trouble = None;
        if let Some(outage) = self.outage.take() {
            let seconds = now_ms.saturating_sub(outage.since_ms) / 1000;
            let (backlog_bytes, _) = spool.backlog();
            tracing::info!(
                sink = self.sink,
                backlog_bytes,
                "delivering again after {}",
                humantime::format_duration(std::time::Duration::from_secs(seconds))
            );
        }
    }

    fn failed(&mut self, trouble: Trouble, partial: bool, spool: &Spool, now_ms: u64, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.stats.failures += 1;
        let delay = retry::delay(self.failures, trouble.kind, random);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.retry_at_ms = Some(now_ms.saturating_add(delay_ms));
        self.working = true;
        if partial {
            return;
        }
        let since_ms = self.outage.as_ref().map_or(now_ms, |outage| outage.since_ms);
        let known = self.outage.as_ref().is_some_and(|outage| outage.trouble.kind == trouble.kind);
        if !known {
            let (backlog_bytes, _) = spool.backlog();
            tracing::warn!(
                sink = self.sink,
                backlog_bytes,
                "nothing is delivered, samples are kept: {}",
                trouble.text
            );
            self.outage = Some(Outage { trouble: trouble.clone(), since_ms });
        }
        self.stats.trouble = Some(trouble);
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
