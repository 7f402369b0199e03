//! What the sink's answer makes of a batch.

use crate::drain::item::{Item, What};
use crate::drain::work::{Drain, Flight, Outage};
use crate::drain::{Outcome, Trouble, TroubleKind, Verdict, retry};
use crate::spool::Spool;

/// Failures that count on where trouble of another kind takes over: enough that
/// kinds in turn are not asked every second.
const FAILURES_KEPT: u32 = 2;

impl Drain {
    /// Takes the sink's answer in, at boot time `now_ms`. `random` is 0..1.
    pub fn settle(&mut self, verdict: Verdict, spool: &mut Spool, now_ms: u64, random: f64) {
        let Some(Flight { parcels, suspect, wire_bytes }) = self.in_flight.take() else { return };
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
                self.back_off(parcels, suspect);
                Some(Trouble::new(TroubleKind::BadAnswer, text))
            }
            Verdict::Failed(trouble) => {
                self.back_off(parcels, suspect);
                if let Some(budget) = &mut self.budget
                    && trouble.kind == TroubleKind::Unreachable
                {
                    budget.give_back(wire_bytes);
                }
                Some(trouble)
            }
            Verdict::Refused(trouble) => {
                self.bisect(parcels.into_iter().flatten().collect(), &trouble, spool);
                None
            }
        };
        let delivered = self.stats.delivered > before;
        self.resize(delivered, trouble.is_some());
        // The answer to a part of a batch is an answer: the way is open.
        if trouble.is_none() || delivered {
            self.recovered(spool, now_ms);
        }
        if let Some(trouble) = trouble {
            self.failed(trouble, delivered, spool, now_ms, random);
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

    /// Nothing got through: what was on its way and what was to follow goes
    /// back, so that the next try has the freshest there is. What was refused
    /// before stays apart from it.
    fn back_off(&mut self, parcels: Vec<Vec<Item>>, suspect: bool) {
        if suspect {
            self.suspects.push_front(parcels.into_iter().flatten().collect());
        } else {
            self.give_back(parcels);
        }
        self.pending.retain(|item| matches!(item.what, What::Marker(_)));
    }

    /// Samples go back to the spool with their leases; markers, which it hands
    /// out once an interval, wait here.
    fn give_back(&mut self, parcels: Vec<Vec<Item>>) {
        for item in parcels.into_iter().flatten().rev() {
            if matches!(item.what, What::Marker(_)) {
                self.pending.push_front(Item { waited: true, ..item });
            }
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
        let same = |outage: &Outage| outage.trouble.kind.is_the_same_to_people(trouble.kind);
        let known = self.outage.as_ref().is_some_and(same);
        if self.outage.is_some() && !known {
            // Who answers at last, if only with a no, is asked again soon.
            self.failures = self.failures.min(FAILURES_KEPT);
        }
        self.failures = self.failures.saturating_add(1);
        self.stats.failures += 1;
        let delay = retry::delay(self.failures, &trouble, random);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.retry_at_ms = Some(now_ms.saturating_add(delay_ms));
        self.working = true;
        if partial {
            return;
        }
        let since_ms = self.outage.as_ref().map_or(now_ms, |outage| outage.since_ms);
        if !known {
            let (backlog_bytes, _) = spool.backlog();
            tracing::warn!(
                sink = self.sink,
                reason = ?trouble.kind,
                backlog_bytes,
                "nothing is delivered, samples are kept: {}",
                trouble.text
            );
            self.outage = Some(Outage { trouble: trouble.clone(), since_ms });
        }
        self.stats.trouble = Some(trouble);
    }
}
