//! The keeper: what the owner thread owns. Ledger and generations change only
//! here, in an order that a power cut may interrupt anywhere:
//!
//! frames durable → ledger says they are outstanding … ledger says they are
//! acknowledged → their generation is deleted.
//!
//! Numbers are given to chunks here, and none twice: a frame that was written
//! by a commit that failed is never mistaken for one that counts.

mod book;
mod fetch;
mod room;
mod salvage;
mod thin;
mod unread;
mod vanished;

pub use fetch::{Fetched, Found};

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ledger::{Ledger, Ranges};
use crate::record::{Gap, GapReason, Run, RunEnd};
use crate::spool::chunk::{Header, renumbered};
use crate::spool::ends::Ends;
use crate::spool::gaps::{Gaps, News, gap_of};
use crate::spool::generation::{Generations, Span, other_bytes};
use crate::spool::keeper::room::Room;
use crate::spool::keeper::thin::Thinning;
use crate::spool::keeper::unread::{Rest, Unread, is_medium};
use crate::spool::policy::Bounds;
use crate::spool::store::{Opener, StoreError};

/// Frames read at once while stock is taken or a generation is evicted.
const SCAN_BYTES: usize = 256 * 1024;

/// Numbers without a frame that may be chunks of which nothing is left; more
/// in a row were never given.
const MAX_HOLE: u64 = 4096;

/// What goes to disk together.
#[derive(Debug, Default)]
pub struct Commit {
    pub frames: Vec<Arc<[u8]>>,
    /// Numbers of chunks that were delivered, and their bytes.
    pub acked: (Ranges, u64),
    /// Those of chunks on disk that memory has too.
    pub busy: Ranges,
    pub news: News,
    /// What the next start is to say of this run once this is durable, unless
    /// this run says it itself.
    pub run_end: Option<RunEnd>,
    /// Boot ids and what their offsets (ms) turned out to be.
    pub offsets: Vec<(String, i64)>,
}

/// What the spool holds on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Chunks durable and not acknowledged.
    pub chunks: u64,
    /// Their frames' bytes.
    pub bytes: u64,
    /// Bytes of everything under the spool's folder.
    pub disk_bytes: u64,
    /// Bytes that the bounds leave for more.
    pub free_bytes: u64,
    /// Samples evicted since the start.
    pub evicted_samples: u64,
    /// Samples that thinning took from the disk since the start; memory may
    /// still have had a few of them.
    pub thinned_samples: u64,
    /// Chunks that the ledger promised and the disk no longer had, since the
    /// start.
    pub lost_chunks: u64,
    /// Those of them of which nothing could be declared.
    pub untold_chunks: u64,
    /// Chunks that could be read beside them, in damaged generations.
    pub salvaged_chunks: u64,
    /// Why the oldest samples go, or lose resolution, if they do.
    pub full: Option<&'static str>,
}

/// What has changed on disk since the last one.
#[derive(Debug, Default)]
pub struct Report {
    pub holding: Holding,
    pub gaps: Vec<Gap>,
    pub ends: Vec<RunEnd>,
    /// Chunks that were evicted, the gap that each leaves unless it is in RAM,
    /// and how many samples it had.
    pub evicted: Vec<(u64, Gap, u64)>,
    /// Chunks that are on disk no longer, and their bytes.
    pub gone: (Ranges, u64),
    /// Chunks on disk that thinning has made of others.
    pub made: Ranges,
}

impl Report {
    /// Chunks are `gone`, and others are `made`: what came last holds.
    fn moved(&mut self, gone: &Ranges, made: &Ranges) {
        for (first, last) in gone.iter() {
            self.made.remove_range(first, last);
            self.gone.0.insert_range(first, last);
        }
        for (first, last) in made.iter() {
            self.gone.0.remove_range(first, last);
            self.made.insert_range(first, last);
        }
    }
}

/// See the module.
pub struct Keeper {
    folder: PathBuf,
    bounds: Bounds,
    ledger: Ledger,
    generations: Generations,
    outstanding: Ranges,
    /// How many of them are none, for the ledger has merged its ranges.
    surplus: u64,
    /// The bytes of the outstanding frames.
    bytes: u64,
    next: u64,
    gaps: Gaps,
    ends: Ends,
    /// Gaps that go with the next frames that become durable, the oldest in
    /// memory among them: theirs.
    retracted: Vec<Gap>,
    /// The ledger's book does not have them as they are.
    gaps_changed: bool,
    run_end: Option<RunEnd>,
    room: Room,
    thinning: Thinning,
    /// The newest generation is of an earlier start.
    may_join: bool,
    report: Report,
    unread: Unread,
    cannot_delete: bool,
    /// Of a folder that was begun anew, or claimed late.
    lock: Option<File>,
    /// This start's run, where the folder is yet to be claimed.
    late: Option<Run>,
}

impl Keeper {
    pub fn new(folder: PathBuf, bounds: Bounds, ledger: Ledger, opener: Box<dyn Opener>) -> Self {
        Self {
            late: None,
            generations: Generations::new(&folder, opener),
            folder,
            bounds,
            ledger,
            outstanding: Ranges::default(),
            surplus: 0,
            bytes: 0,
            next: 0,
            gaps: Gaps::default(),
            ends: Ends::default(),
            retracted: Vec::new(),
            gaps_changed: false,
            run_end: None,
            room: Room::default(),
            thinning: Thinning::default(),
            may_join: false,
            report: Report::default(),
            unread: Unread::default(),
            cannot_delete: false,
            lock: None,
        }
    }

    /// Takes stock. What a bad medium does not give now is put off; whatever
    /// else cannot be opened and may be later is an error. A ledger that cannot
    /// be read is one, too, as long as this is `patient`.
    pub fn open(&mut self, patient: bool) -> Result<(), StoreError> {
        self.claim_late(patient)?;
        let book = self.ledger.book();
        self.outstanding = book.outstanding.clone();
        self.surplus = self.outstanding.count().saturating_sub(book.outstanding_chunks);
        self.bytes = book.outstanding_bytes;
        self.gaps = Gaps::from_json(&book.declarations);
        self.ends = Ends::from_json(&book.declarations);
        let (gaps, ends) = (self.gaps.iter().collect(), self.ends.iter().cloned().collect());
        self.report = Report { gaps, ends, ..Report::default() };
        self.next = book.next_chunk;
        self.generations.list().map_err(|e| StoreError::io(&self.folder, e))?;
        match self.adopt_thinned() {
            Err(error) if !given_up(&error, patient) => return Err(error),
            _ => self.may_join = !self.newest_is_thinned(),
        }
        // Without a ledger this is 0, and everything counts as not delivered.
        let from = if self.is_foreign() { 0 } else { self.next };
        for span in self.generations.spans() {
            if span.last < from {
                continue;
            }
            self.next = self.next.max(span.first);
            let mut rest = Rest { from: from.max(span.first), holes: from == 0 };
            match self.adopt(span, &mut rest) {
                Err(error) if is_medium(&error) => self.put_off(span, rest, &error),
                Err(error @ StoreError::Damaged { .. }) => self.set_aside(span, &error),
                result => result?,
            }
        }
        if self.outstanding.is_empty() {
            // Only the boot that runs may still have use for its offset. Later
            // the drain may hold what is not outstanding, and hand it back.
            self.ledger.book_mut().keep_boots(1);
        }
        // Nobody has asked for any yet.
        self.report.gone = <(Ranges, u64)>::default();
        self.report.made = Ranges::default();
        self.measure();
        Ok(())
    }

    /// The bytes on disk, once they may have changed.
    fn measure(&mut self) {
        self.report.holding.disk_bytes = self.generations.disk_bytes() + other_bytes(&self.folder);
        self.report.holding.free_bytes = self.free_bytes();
    }

    /// Chunks durable and not acknowledged.
    pub fn outstanding(&self) -> &Ranges {
        &self.outstanding
    }

    /// Boot ids and offsets (ms) that the ledger knows.
    pub fn offsets(&self) -> Vec<(String, i64)> {
        self.ledger.book().boots.iter().map(|boot| (boot.id.clone(), boot.offset_ms)).collect()
    }

    /// What has changed since the last call.
    pub fn report(&mut self) -> Report {
        let holding = &mut self.report.holding;
        (holding.chunks, holding.bytes) = (self.outstanding.count(), self.bytes);
        holding.full = self.room.full();
        let next = Report { holding: holding.clone(), ..Report::default() };
        std::mem::replace(&mut self.report, next)
    }

    /// Makes `commit` durable, and the room for it; returns the number of the
    /// first of its frames. What it says beside the frames holds even if it
    /// fails, and is durable with the next one that does not.
    pub fn commit(&mut self, commit: Commit) -> Result<u64, StoreError> {
        self.thinning.busy = commit.busy;
        let (acked, acked_bytes) = commit.acked;
        for (first, last) in acked.iter() {
            self.outstanding.remove_range(first, last);
        }
        self.bytes = self.bytes.saturating_sub(acked_bytes);
        for (boot, offset_ms) in &commit.offsets {
            self.ledger.book_mut().set_offset(boot, *offset_ms);
        }
        self.learn(commit.news);
        let first = self.next;
        self.next += commit.frames.len() as u64;
        let result = self.write(first, &commit.frames, commit.run_end);
        match &result {
            Ok(()) => self.tidy(),
            Err(error) => self.failed(error),
        }
        self.measure();
        result.map(|()| first)
    }

    fn write(
        &mut self,
        first: u64,
        frames: &[Arc<[u8]>],
        run_end: Option<RunEnd>,
    ) -> Result<(), StoreError> {
        let upto = |end: &Option<RunEnd>| end.as_ref().map(|end| end.last_seq);
        if upto(&run_end) < upto(&self.run_end) {
            // What does not hold is not said, whatever becomes of the frames.
            self.run_end.clone_from(&run_end);
        }
        self.see_that_it_is_there(first)?;
        let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        if bytes > 0 {
            self.make_room(bytes)?;
            self.join();
            let store = self.generations.newest(first)?;
            for (frame, number) in frames.iter().zip(first..) {
                // One that memory has damaged is kept as it is: its head may
                // still say what is missing.
                let frame = renumbered(frame, number).unwrap_or_else(|| frame.to_vec());
                store.put(number, &frame)?;
            }
            store.flush()?;
            self.accepted();
            self.outstanding.insert_range(first, first + frames.len() as u64 - 1);
            self.bytes += bytes;
            frames.iter().zip(first..).for_each(|(frame, number)| self.note(number, frame));
        }
        let before = std::mem::replace(&mut self.run_end, run_end);
        let retracted = std::mem::take(&mut self.retracted);
        self.gaps_changed |= !retracted.is_empty();
        retracted.iter().for_each(|gap| self.gaps.remove(gap));
        let result = self.commit_ledger();
        if result.is_err() {
            self.run_end = before;
            retracted.iter().for_each(|gap| self.gaps.add(gap));
            self.gaps_changed |= !retracted.is_empty();
            self.retracted = retracted;
        }
        if result.is_err() && bytes > 0 {
            self.outstanding.remove_range(first, first + frames.len() as u64 - 1);
            self.bytes -= bytes;
        }
        result
    }

    /// After a write that failed nothing that was open is relied on. A sync
    /// that failed may have dropped what it should have written, so the next
    /// frames go elsewhere.
    fn failed(&mut self, error: &StoreError) {
        self.generations.close();
        if matches!(error, StoreError::Full(_)) {
            self.refused();
            // What was delivered makes room without taking any.
            let _ = self.release();
        } else if let Some(newest) = self.generations.spans().pop() {
            self.generations.end_newest();
            // What was acknowledged by this commit the durable ledger may still
            // promise.
            if !self.outstanding.meets(newest.first, newest.last) && self.commit_ledger().is_ok() {
                self.delete(newest);
            }
        }
    }

    /// Makes durable what is acknowledged, and deletes what that frees.
    fn release(&mut self) -> Result<(), StoreError> {
        self.commit_ledger()?;
        self.tidy();
        self.measure();
        Ok(())
    }

    /// Deletes what is wholly acknowledged; begins a new generation when the
    /// newest one is full.
    fn tidy(&mut self) {
        let newest_bytes = self.generations.newest_bytes();
        if newest_bytes >= self.bounds.generation_bytes {
            self.generations.end_newest();
        }
        for span in self.generations.spans() {
            // One that holds nothing and is small takes the next frames.
            let in_use = self.generations.takes_more(span)
                && newest_bytes < self.bounds.generation_bytes / 2;
            if !in_use && !self.outstanding.meets(span.first, span.last) {
                self.delete(span);
            }
        }
    }

    fn delete(&mut self, span: Span) {
        if self.unread.has(span.first) {
            return;
        }
        let result = self.generations.finish(span.first);
        if let (Err(error), false) = (&result, self.cannot_delete) {
            tracing::warn!(%error, "a finished part of the spool cannot be deleted");
        }
        self.cannot_delete = result.is_err();
    }

    /// Chunks of `first..=last` are no longer on disk. Says how many of them
    /// were outstanding.
    fn forget(&mut self, first: u64, last: u64) -> u64 {
        // Not the numbers beyond, which chunks may bear that are being written.
        let gone = self.outstanding.within(first, last);
        let mean_bytes = self.bytes.checked_div(self.outstanding.count()).unwrap_or(0);
        let bytes = gone.count() * mean_bytes;
        self.outstanding.remove_range(first, last);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.report.moved(&gone, &Ranges::default());
        self.report.gone.1 += bytes;
        gone.count()
    }

    /// [`Keeper::forget`]s and counts what is lost. What the ledger only seemed
    /// to promise is not.
    fn lost(&mut self, first: u64, last: u64) -> u64 {
        let chunks = self.forget(first, last);
        let excused = chunks.min(self.surplus);
        self.surplus -= excused;
        self.report.holding.lost_chunks += chunks - excused;
        chunks - excused
    }

    fn declare(&mut self, header: &Header<'_>, reason: GapReason) -> Gap {
        let gap = gap_of(header, reason);
        self.gaps.add(&gap);
        self.gaps_changed = true;
        gap
    }

    fn set_aside(&mut self, span: Span, error: &StoreError) {
        let lost = self.outstanding.within(span.first, span.last);
        self.give_up(Some(span), &lost);
        self.unread.forget(span.first);
        let kept = self.generations.set_aside(span.first);
        let kept = kept.map_or_else(|e| e.to_string(), |path| path.display().to_string());
        tracing::error!(%error, chunks = lost.count(), kept, "a part of the spool cannot be read and is set aside");
    }

    /// Commits what is acknowledged, and closes. A spool that holds nothing
    /// leaves little more than its ledger behind.
    pub fn close(&mut self) -> Result<(), StoreError> {
        self.fill_book();
        self.ledger.commit_exactly().map_err(|e| self.ledger_error(e))?;
        if self.outstanding.is_empty() {
            self.generations.spans().into_iter().for_each(|span| self.delete(span));
        }
        Ok(())
    }
}

/// Whether what gave `error` is lost, rather than out of reach: a bad medium
/// counts as that once patience has run out.
fn given_up(error: &StoreError, patient: bool) -> bool {
    matches!(error, StoreError::Damaged { .. }) || !patient && is_medium(error)
}
