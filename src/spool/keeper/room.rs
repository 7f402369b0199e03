//! Room: the spool stays within its bounds, and what that costs is declared.

use crate::ledger::Ranges;
use crate::record::GapReason;
use crate::spool::WhenFull;
use crate::spool::chunk::Header;
use crate::spool::generation::Span;
use crate::spool::keeper::{Holding, Keeper, SCAN_BYTES, given_up};
use crate::spool::policy::Bounds;
use crate::spool::store::StoreError;

/// An eviction in vain is followed by the next one after so many times as many
/// refused commits: with a minute between them the third comes after an hour,
/// the fourth after eight.
const EVICT_EACH: u32 = 8;

/// What is known about being full.
#[derive(Debug, Default)]
pub struct Room {
    /// What the spool took when its file system became short of space: it
    /// takes no more than that until there is space again.
    squeezed: Option<u64>,
    /// Commits in a row that found no space, whatever the file system says: a
    /// quota, perhaps.
    refusals: u32,
    /// The next one is to be preceded by an eviction.
    refused: bool,
    /// Why the oldest samples go, or lose resolution, if they do.
    full: Option<&'static str>,
}

impl Room {
    pub fn full(&self) -> Option<&'static str> {
        self.full
    }
}

impl Keeper {
    /// Thins, or evicts, until `bytes` more fit the bounds.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let growth = Bounds::growth(bytes);
        let wanted = self.with_reserve(growth);
        let mut short = self.is_short(wanted) || std::mem::take(&mut self.room.refused);
        if !short {
            self.note_room(growth);
            return Ok(());
        }
        self.release()?;
        while short {
            if !self.generations.drop_aside() && !self.thin()? {
                let oldest = self.generations.spans().first().copied();
                let Some(span) = oldest.filter(|_| self.may_fit(growth)) else {
                    self.note_full();
                    return Err(StoreError::Full(self.folder.clone()));
                };
                self.evict(span)?;
            }
            self.measure();
            short = self.is_short(wanted);
        }
        Ok(())
    }

    /// With room to thin in, where there can be any.
    fn with_reserve(&self, growth: u64) -> u64 {
        let reserved = growth + self.bounds.reserve_bytes();
        if reserved > self.most_bytes() / 2 { growth } else { reserved }
    }

    /// Whether `growth` bytes more keep the bounds.
    pub(super) fn fits_now(&self, growth: u64) -> bool {
        self.report.holding.disk_bytes + growth <= self.most_bytes()
    }

    /// Whether an empty spool could take `growth` bytes: if not, nothing is
    /// dropped for it.
    fn may_fit(&self, growth: u64) -> bool {
        growth <= self.most_bytes()
    }

    /// Bytes that the spool may take.
    fn most_bytes(&self) -> u64 {
        self.room.squeezed.unwrap_or(u64::MAX).min(self.bounds.usable_bytes())
    }

    /// The disk had no space for a commit. What the file system tells of is
    /// dealt with already. Otherwise an eviction may help; where it did not,
    /// the next one would only lose more, and comes ever more seldom.
    pub(super) fn refused(&mut self) {
        self.room.refusals = self.room.refusals.saturating_add(1);
        let its_turn = self.room.refusals.checked_ilog(EVICT_EACH);
        let its_turn = its_turn.is_some_and(|n| EVICT_EACH.pow(n) == self.room.refusals);
        self.room.refused = its_turn
            && !self.generations.spans().is_empty()
            && self.bounds.free_bytes(&self.folder) > 0;
    }

    /// The disk had space for a commit's frames.
    pub(super) fn accepted(&mut self) {
        self.room.refusals = 0;
    }

    /// Whether `growth` bytes more would break a bound. A file system with too
    /// little free space acts as a full spool: dropping all that the spool has
    /// would not cure what others fill.
    pub(super) fn is_short(&mut self, growth: u64) -> bool {
        let disk_bytes = self.report.holding.disk_bytes;
        if self.bounds.free_bytes(&self.folder) > growth {
            self.room.squeezed = None;
        } else {
            self.room.squeezed.get_or_insert(disk_bytes);
        }
        !self.fits_now(growth)
    }

    /// Bytes that the bounds leave for more.
    pub(super) fn free_bytes(&self) -> u64 {
        let taken = self.report.holding.disk_bytes + self.with_reserve(0);
        self.most_bytes().saturating_sub(taken).min(self.bounds.free_bytes(&self.folder))
    }

    pub(super) fn note_full(&mut self) {
        let full = match self.room.squeezed {
            Some(_) => "its file system has less free space than spool.keep_free",
            None if self.room.refusals > 0 => "its file system takes no more, perhaps for a quota",
            None => "spool.max_bytes is reached",
        };
        if self.room.full.replace(full).is_none() {
            let what = match self.bounds.when_full {
                WhenFull::Thin => "its history loses resolution",
                WhenFull::DropOldest => "the oldest samples go",
            };
            tracing::warn!("the spool is full, {what}, and that is declared: {full}");
        }
    }

    /// An eviction makes room for a generation: full ends where there is more.
    fn note_room(&mut self, growth: u64) {
        let slack = self.with_reserve(growth) + 2 * self.bounds.generation_bytes;
        if self.room.full.is_some()
            && self.report.holding.disk_bytes + slack < self.bounds.usable_bytes()
            && self.bounds.free_bytes(&self.folder) > slack
        {
            self.room.full = None;
            let Holding { evicted_samples, thinned_samples, .. } = self.report.holding;
            tracing::info!(evicted_samples, thinned_samples, "the spool has room again");
        }
    }

    /// Declares what the oldest generation still holds, durably, and deletes it.
    fn evict(&mut self, span: Span) -> Result<(), StoreError> {
        self.note_full();
        let (mut from, mut declared, mut samples) = (span.first, Ranges::default(), 0);
        while let Some(number) = self.outstanding.at_or_after(from).filter(|&n| n <= span.last) {
            let store = self.generations.reader(span);
            let scanned = store.and_then(|store| store.scan(number, span.last, SCAN_BYTES));
            let found = match scanned {
                Ok(found) => found,
                // Of the rest of it, what lies past the bad blocks.
                Err(error) if given_up(&error, false) => {
                    if !self.generations.lose_patience(span.first) {
                        break;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some((last, _)) = found.last() else { break };
            from = last.saturating_add(1);
            for (number, frame) in &found {
                let Ok(header) = Header::head(frame) else { continue };
                if self.outstanding.contains(*number) && self.fits(&header) {
                    let gap = self.declare(&header, GapReason::Evicted);
                    self.report.evicted.push((*number, gap, header.entries as u64));
                    declared.insert(*number);
                    samples += header.entries as u64;
                }
            }
        }
        self.report.holding.evicted_samples += samples;
        let held = self.outstanding.within(span.first, span.last);
        for (first, last) in declared.iter() {
            self.forget(first, last);
        }
        self.give_up(Some(span), &held.without(&declared));
        self.commit_ledger()?;
        self.unread.forget(span.first);
        self.generations.delete(span.first).map_err(|e| StoreError::io(&self.folder, e))
    }
}
