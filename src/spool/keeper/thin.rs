//! Thinning: a full spool takes half the resolution from its history instead
//! of dropping the oldest part of it.
//!
//! What is finest goes first, and of that the oldest: the whole backlog, but
//! for its freshest part, stays within a factor of two of one resolution. Each
//! rewriting leaves half of what it reads at most, or joins a small rest to a
//! generation that has room: so all of them together write about as much as
//! the samples themselves did.
//!
//! What is made anew keeps numbers of the chunks that it replaces, so that the
//! oldest stay the first. Chunks that memory has, or whose acknowledgement is
//! under way, keep their own, and are thinned each by itself: whatever becomes
//! of them there is right for what is here. What was taken is told when the
//! rest is delivered, from the frame itself; until then it may be thinned again.
//!
//! The order is that of a commit: frames durable → ledger says what is
//! outstanding → what they replace is deleted. In between lies a folder that
//! says what it replaces; a start brings it to its end.

mod maker;

use std::collections::BTreeSet;

use crate::ledger::Ranges;
use crate::spool::WhenFull;
use crate::spool::chunk::{Chunk, Header};
use crate::spool::generation::Span;
use crate::spool::keeper::{Keeper, SCAN_BYTES, given_up};
use crate::spool::policy::Bounds;
use crate::spool::store::StoreError;
use maker::{Made, Maker};

/// Every 4,096th sample at least stays: at one each 10 seconds, one each 11
/// hours.
const MAX_STRIDE_LOG2: u8 = 12;

/// Attempts that the disk may fail before the oldest goes instead.
const PATIENCE: u32 = 3;

/// What is known about thinning.
#[derive(Debug, Default)]
pub struct Thinning {
    /// Numbers of chunks that memory has, when the commit was sent.
    pub busy: Ranges,
    /// The same of the last fetch, of which it may not have heard yet.
    pub handed: Ranges,
    /// Generations, by where they begin, that cannot be thinned: something in
    /// them cannot be read, or what they hold does not get less.
    spent: BTreeSet<u64>,
    /// Attempts that the disk has failed.
    failures: u32,
}

/// What is to be made anew.
struct Plan {
    /// Neighbours.
    spans: Vec<Span>,
    /// How many of them, at the beginning, are as thin as the rest will be.
    thin: usize,
    stride_log2: u8,
}

impl Plan {
    fn first(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.first)
    }

    /// Where the last of them begins.
    fn last(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.first)
    }
}

impl Keeper {
    /// Halves the resolution of what is finest; false if nothing can be had
    /// that way.
    pub(super) fn thin(&mut self) -> Result<bool, StoreError> {
        if self.bounds.when_full != WhenFull::Thin {
            return Ok(false);
        }
        let Some(plan) = self.plan() else { return Ok(false) };
        self.note_full();
        let made = self.make(&plan);
        if !matches!(made, Ok(Some(_))) {
            self.generations.abandon();
        }
        match made {
            Ok(Some(made)) => self.put_in_place(&plan, made).map(|()| true),
            Ok(None) => Ok(true),
            // The oldest must make room.
            Err(StoreError::Full(_)) => Ok(false),
            Err(error) => {
                self.thinning.failures += 1;
                if self.thinning.failures.is_multiple_of(PATIENCE) { Ok(false) } else { Err(error) }
            }
        }
    }

    /// By where it begins, how far a generation is thinned.
    fn stride_of(&self, first: u64) -> u8 {
        let mut thinned = self.ledger.book().thinned.iter();
        thinned.find(|(known, _)| *known == first).map_or(0, |(_, stride_log2)| *stride_log2)
    }

    fn set_stride(&mut self, first: u64, stride_log2: u8) {
        let begins: BTreeSet<u64> = self.generations.spans().iter().map(|s| s.first).collect();
        let thinned = &mut self.ledger.book_mut().thinned;
        thinned.retain(|(known, _)| *known != first && begins.contains(known));
        thinned.extend((stride_log2 > 0).then_some((first, stride_log2)));
    }

    /// Whether the newest generation holds what was thinned: nothing fresh is
    /// to join it.
    pub(super) fn newest_is_thinned(&self) -> bool {
        self.generations.spans().last().is_some_and(|span| self.stride_of(span.first) > 0)
    }

    fn spend(&mut self, plan: &Plan) {
        let spans = plan.spans.iter().skip(plan.thin);
        self.thinning.spent.extend(spans.map(|span| span.first));
    }

    fn plan(&self) -> Option<Plan> {
        let spans = self.generations.spans();
        let can = |span: &&Span| {
            !self.generations.takes_more(**span)
                && !self.thinning.spent.contains(&span.first)
                && !self.unread.has(span.first)
                && !self.generations.is_suspect(span.first)
        };
        let stride = |span: &Span| self.stride_of(span.first);
        let finest = spans.iter().filter(can).map(stride).min().filter(|&s| s < MAX_STRIDE_LOG2)?;
        let at = spans.iter().position(|span| can(&span) && stride(span) == finest)?;
        let (before, rest) = spans.split_at_checked(at)?;
        // What came before it may be thinner already.
        let thinner = before.iter().rev().filter(can).map(stride).find(|&s| s > finest);
        let stride_log2 = thinner.unwrap_or(finest + 1);
        let most = self.bounds.thinned_bytes();
        let (mut bytes, mut thin, mut taken) = (0, 0, Vec::new());
        for span in rest.iter().take_while(|span| can(span) && stride(span) == finest) {
            let will_be = self.generations.bytes_of(span.first) >> (stride_log2 - finest);
            if bytes + will_be > most && !taken.is_empty() {
                break;
            }
            bytes += will_be;
            taken.push(*span);
        }
        if let Some(span) = before.last().filter(|span| can(span) && stride(span) == stride_log2) {
            let more = self.generations.bytes_of(span.first);
            if bytes + more <= most {
                bytes += more;
                taken.insert(0, *span);
                thin = 1;
            }
        }
        // It grows beside what it replaces.
        let fits = |bytes: u64| self.fits_now(Bounds::growth(bytes / 2));
        while !fits(bytes) && taken.len() > 1 {
            let dropped = if thin > 0 {
                std::mem::take(&mut thin);
                taken.remove(0)
            } else {
                taken.pop()?
            };
            let was = self.generations.bytes_of(dropped.first);
            let fine = stride(&dropped) == finest;
            bytes -= if fine { was >> (stride_log2 - finest) } else { was };
        }
        fits(bytes).then_some(Plan { spans: taken, thin, stride_log2 })
    }

    /// Fills a database with what stays; `None` if that would be in vain, which
    /// is noted.
    fn make(&mut self, plan: &Plan) -> Result<Option<Made>, StoreError> {
        // Only a ledger that is up to date says what may be left out.
        self.commit_ledger()?;
        let busy = self.thinning.busy.clone();
        let busy = self.thinning.handed.iter().fold(busy, |mut busy, (first, last)| {
            busy.insert_range(first, last);
            busy
        });
        let end = plan.spans.last().map_or(0, |span| span.last.min(self.next.saturating_sub(1)));
        let mut maker =
            Maker::new(self.generations.rebuild()?, plan.stride_log2, (plan.first(), end), busy);
        for (nth, span) in plan.spans.iter().enumerate() {
            let held = self.outstanding.within(span.first, span.last);
            let (mut at, mut seen) = (held.first(), 0);
            while let Some(number) = at {
                let store = self.generations.reader(*span);
                let found = match store.and_then(|s| s.scan(number, end.min(span.last), SCAN_BYTES))
                {
                    Err(error) if given_up(&error, false) => Vec::new(),
                    found => found?,
                };
                let Some(last) = found.last().map(|(number, _)| *number) else { break };
                for (number, frame) in found.into_iter().filter(|(n, _)| held.contains(*n)) {
                    let header = Header::head(&frame).ok().filter(|header| self.fits(header));
                    let Some(chunk) = header.and_then(|_| Chunk::decode(&frame).ok()) else {
                        self.spend(plan);
                        return Ok(None);
                    };
                    if chunk.stride_log2 > plan.stride_log2 {
                        // The ledger does not know how thin it is.
                        self.set_stride(span.first, chunk.stride_log2);
                        return Ok(None);
                    }
                    maker.take(number, chunk, frame, nth >= plan.thin)?;
                    seen += 1;
                }
                at = last.checked_add(1).and_then(|next| held.at_or_after(next));
            }
            if seen != held.count() {
                // What is lost is declared when it is asked for, or goes.
                self.spend(plan);
                return Ok(None);
            }
        }
        let made = maker.finish()?;
        if made.as_ref().is_none_or(Made::is_vain) {
            self.spend(plan);
            return Ok(None);
        }
        Ok(made)
    }

    /// Has what was made count instead of what it replaces.
    fn put_in_place(&mut self, plan: &Plan, made: Made) -> Result<(), StoreError> {
        let (first, last) = (plan.first(), plan.last());
        let fail = |source| StoreError::io(&self.folder, source);
        self.generations.stage(first, last).map_err(fail)?;
        let end = plan.spans.last().map_or(first, |span| span.last);
        let before = self.outstanding.within(first, end);
        let numbers = made.numbers();
        self.outstanding.remove_range(first, end);
        numbers.iter().for_each(|(first, last)| self.outstanding.insert_range(first, last));
        // What memory has of them it goes on having.
        self.report.moved(&before.without(&numbers), &numbers.without(&before));
        self.report.gone.1 += made.bytes_less;
        self.bytes = self.bytes.saturating_sub(made.bytes_less);
        self.report.holding.thinned_samples += made.samples_less;
        let stretches = &mut self.ledger.book_mut().stretches;
        stretches.replace(first, end.min(self.next), made.stretches.into_iter());
        self.set_stride(first, plan.stride_log2);
        // What is not told now is told by the next commit: only a crash before it
        // counts as lost what this has made superfluous.
        let told = self.commit_ledger();
        let replaced = self.generations.replace(first, last);
        tracing::debug!(
            samples = made.samples_less,
            bytes = made.bytes,
            stride_log2 = plan.stride_log2,
            "the spool has thinned its history"
        );
        replaced.map_err(|e| StoreError::io(&self.folder, e))?;
        self.set_stride(first, plan.stride_log2);
        told
    }

    /// Takes stock of what the start of this agent has put in the place of
    /// others. The ledger may not know of it yet: of what that has, some numbers
    /// were of chunks delivered long ago, and what it lacks is in others.
    pub(super) fn adopt_thinned(&mut self) -> Result<(), StoreError> {
        for first in self.generations.finished().to_vec() {
            let Some(span) = self.generations.span_of(first).filter(|s| s.first == first) else {
                continue;
            };
            let held = self.outstanding.within(span.first, span.last);
            let (mut there, mut stretches, mut stride_log2) = (Ranges::default(), Vec::new(), 0);
            let (mut at, mut bytes) = (Some(span.first), 0);
            while let Some(number) = at {
                let found = self.generations.reader(span)?.scan(number, span.last, SCAN_BYTES)?;
                let Some(last) = found.last().map(|(number, _)| *number) else { break };
                for (number, frame) in &found {
                    let Ok(header) = Header::head(frame) else { continue };
                    there.insert(*number);
                    bytes += if held.contains(*number) { 0 } else { frame.len() as u64 };
                    stride_log2 = stride_log2.max(header.stride_log2);
                    stretches.push(maker::stretch(*number, &header));
                }
                at = last.checked_add(1).filter(|next| *next <= span.last);
            }
            if stride_log2 == 0 {
                // One that holds all that it replaced.
                continue;
            }
            let gone = held.without(&there);
            self.surplus = self.surplus.saturating_sub(gone.count());
            for (first, last) in gone.iter() {
                self.forget(first, last);
            }
            there.iter().for_each(|(first, last)| self.outstanding.insert_range(first, last));
            self.bytes += bytes;
            let book = self.ledger.book_mut();
            book.stretches.replace(first, span.last.min(self.next), stretches.into_iter());
            self.set_stride(first, stride_log2);
        }
        Ok(())
    }
}
