//! The spool: what was sampled and not yet delivered.
//!
//! Samples gather in RAM ([`ram`]). When the oldest that is not delivered has
//! waited for `max_loss`, all that is not yet durable goes to disk in one
//! commit, as [`chunk`] frames in the newest of a row of small databases
//! ([`generation`]). Those of earlier starts are only read, from their raw files
//! ([`carve`]). The drain takes chunks by [`lease`](Spool::lease), the
//! freshest from RAM, the backlog from disk; what it acknowledges before
//! `max_loss` never touches the disk at all.
//!
//! Promises: at most `max_loss`, one sample interval and one commit are lost
//! by a kill or a power cut, nothing by a clean stop; what was delivered is
//! delivered again only after one of those; everything under the folder stays
//! within its bounds, and what they evict, or thin, is declared as a [`Marker`]; memory
//! does not grow with the backlog. A disk that takes nothing, or hangs, leaves
//! the half in RAM working: it samples on, delivers, and declares what its
//! bounded ring must drop. What the disk has lost is counted and said, and
//! declared as far as what is left says what it was ([`known`]).
//!
//! One thread owns the disk ([`thread`], [`keeper`]); this half never blocks.

mod carve;
pub mod chunk;
mod claim;
mod dead;
#[cfg(test)]
pub mod driven;
mod ends;
mod fetching;
mod gaps;
mod gather;
mod generation;
mod held;
pub mod inspect;
mod keeper;
mod known;
mod lease;
mod policy;
mod ram;
mod replies;
mod store;
mod thread;
mod trouble;

#[cfg(test)]
mod tests;

pub use claim::{Claim, Error, max_loss};
pub use keeper::Holding;
pub use lease::Lease;
pub use thread::Reply;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{BootId, Moment};
use crate::ledger::Ranges;
use crate::record::{EndReason, GapReason, Marker, Run, Sample, dated};
use crate::spool::chunk::{Header, Stamp};
use crate::spool::dead::DeadLetters;
use crate::spool::fetching::Fetching;
use crate::spool::gaps::{Declarations, gap_of};
use crate::spool::keeper::{Commit, Keeper};
use crate::spool::policy::Bounds;
use crate::spool::ram::Ram;
use crate::spool::store::{Opener, SledOpener};
use crate::spool::thread::{Command, Letter, Line, Owner};
use crate::spool::trouble::{Backoff, Trouble};

/// Where, how much, and how safe.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub path: PathBuf,
    /// What a power cut may take; `None` is `auto`: 10 s, on an SD card or
    /// eMMC 2 min.
    pub max_loss: Option<Duration>,
    /// Everything under `path` stays below this.
    pub max_bytes: u64,
    pub keep_free: KeepFree,
    pub when_full: WhenFull,
}

/// What the spool leaves free on its file system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KeepFree {
    /// 0..1 of the file system.
    Share(f64),
    Bytes(u64),
}

/// What goes when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Half the resolution of the oldest history, again and again.
    Thin,
    /// The oldest samples.
    DropOldest,
}

/// How long acknowledgements wait for a commit to ride on.
const MARKS_WAIT_MS: u64 = 10_000;

/// A commit that takes longer is trouble.
const HANGING_MS: u64 = 30_000;

/// Counters since the start, and what is held now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub pushed: u64,
    pub delivered: u64,
    pub commits: u64,
    /// Samples that the RAM ring dropped.
    pub ring_dropped: u64,
    pub holding: Holding,
    /// Bytes undelivered in RAM.
    pub ram_bytes: u64,
    /// Why the disk does not take anything, or give, if it does not.
    pub trouble: Option<String>,
}

/// The half of the spool that never blocks.
pub struct Spool {
    max_loss_ms: u64,
    commit_bytes: usize,
    boot: BootId,
    line: Line,
    /// The thread knows what is on disk.
    opened: bool,
    now_ms: u64,
    ram: Ram,
    /// Chunks that are durable and not in RAM, their bytes, and the stamp of
    /// about the oldest of them.
    disk_only: Ranges,
    disk_only_bytes: u64,
    disk_oldest: Option<Stamp>,
    /// The chunks of the commit that is under way, and since when it is.
    committing: Option<(Vec<u64>, u64)>,
    commit_backoff: Backoff,
    /// Boot time (ms) from which on something beside frames waits to be
    /// committed.
    marks_since_ms: Option<u64>,
    fetching: Fetching,
    offsets: BTreeMap<BootId, i64>,
    new_offsets: Vec<(String, i64)>,
    declarations: Declarations,
    /// Device and run of the first sample, and whether it is simulated.
    first: Option<(Arc<str>, Run, bool)>,
    /// Up to where all devices have their samples.
    all_have: Option<u64>,
    /// It was said that this run has ended.
    ended: bool,
    /// Of chunks that were evicted from disk and were not lost.
    saved_samples: u64,
    /// Chunks that the disk lost and RAM still had.
    saved_chunks: u64,
    writing: Trouble,
    reading: Trouble,
    /// Of the owner thread.
    answers: u64,
    stats: Stats,
}

impl Spool {
    /// Starts the owner thread on a claimed folder.
    pub fn open(claim: Claim, boot: BootId) -> Result<Self, Error> {
        Self::open_on(claim, boot, Box::new(SledOpener))
    }

    fn open_on(mut claim: Claim, boot: BootId, opener: Box<dyn Opener>) -> Result<Self, Error> {
        let (path, lock) = (claim.folder.clone(), claim.lock.take());
        let (mut spool, owner) = Self::with_owner(claim, boot, opener);
        let thread = owner.start(lock);
        let thread = thread.map_err(|source| Error::Io { verb: "opened", path, source })?;
        spool.line.thread = Some(thread);
        Ok(spool)
    }

    /// A spool and its owner, which is yet to run.
    fn with_owner(claim: Claim, boot: BootId, opener: Box<dyn Opener>) -> (Self, Owner) {
        let run = claim.run();
        let Claim { folder, bounds, max_loss, ledger, late, .. } = claim;
        let dead = DeadLetters::new(&folder);
        let commit_bytes = bounds.commit_bytes;
        let mut keeper = Keeper::new(folder, bounds, ledger, opener);
        if late {
            keeper.claims_late(run);
        }
        let (line, owner) = thread::line(keeper, dead);
        let spool = Self {
            max_loss_ms: u64::try_from(max_loss.as_millis()).unwrap_or(u64::MAX),
            commit_bytes,
            boot,
            line,
            opened: false,
            now_ms: 0,
            ram: Ram::new(boot),
            disk_only: Ranges::default(),
            disk_only_bytes: 0,
            disk_oldest: None,
            committing: None,
            commit_backoff: Backoff::default(),
            marks_since_ms: None,
            fetching: Fetching::default(),
            offsets: BTreeMap::new(),
            new_offsets: Vec::new(),
            declarations: Declarations::default(),
            first: None,
            all_have: None,
            ended: false,
            saved_samples: 0,
            saved_chunks: 0,
            writing: Trouble::of("takes no samples, they stay in memory", "takes samples again"),
            reading: Trouble::of("cannot read its backlog now", "reads its backlog again"),
            answers: 0,
            stats: Stats::default(),
        };
        (spool, owner)
    }

    /// Takes a sample in, at boot time `now_ms`.
    pub fn push(&mut self, sample: Sample, simulated: bool, now_ms: u64) {
        self.stats.pushed += 1;
        self.first.get_or_insert_with(|| (Arc::clone(&sample.device), sample.run, simulated));
        self.ram.push(sample, simulated, now_ms);
    }

    /// All devices of this start have their samples up to `seq`.
    pub fn all_have(&mut self, seq: u64) {
        self.all_have = Some(seq);
    }

    /// Makes chunks of all samples that are not one yet, so that they can be
    /// leased.
    pub fn seal(&mut self) {
        self.ram.seal();
    }

    /// Whether RAM has room. Who can wait (a backfill) had better, until a
    /// commit or a delivery has made some.
    pub fn room(&self) -> bool {
        self.ram.room()
    }

    /// Whether what RAM holds, and about a commit more, fits on disk without
    /// evicting anything.
    pub fn space(&self) -> bool {
        let held = &self.stats.holding;
        let pending = self.ram.undurable_bytes() + self.commit_bytes as u64;
        held.chunks == 0 || Bounds::growth(pending) <= held.free_bytes
    }

    /// Commits when it is time; to be called at each sample and at
    /// [`Spool::due_ms`].
    pub fn tick(&mut self, now: &Moment) {
        self.now_ms = now.boot_ms;
        self.settle();
        if let Some((_, since_ms)) = &self.committing
            && since_ms + HANGING_MS <= now.boot_ms
        {
            self.writing.is(Some("the disk does not answer; see the kernel's log".into()));
        }
        if self.due_ms().is_some_and(|due| due <= now.boot_ms) {
            let oldest = self.oldest_due_ms().is_some_and(|due| due <= now.boot_ms);
            // Frames alone do not wait for what is still open, nor cut it short.
            if oldest {
                self.seal();
            }
            if oldest || self.is_full() {
                self.commit(true);
            } else {
                // Frames that rode along would be acknowledged soon, and cause
                // the next commit: the disk would never be left alone again.
                self.send_commit((Vec::new(), Vec::new()), true);
            }
        }
    }

    /// Boot time (ms) of the next commit, if there is anything to commit.
    pub fn due_ms(&self) -> Option<u64> {
        if !self.opened || self.committing.is_some() {
            return None;
        }
        let oldest = self.oldest_due_ms();
        let marks = self.marks_since_ms.map(|ms| {
            let wait_ms = self.max_loss_ms.min(MARKS_WAIT_MS);
            // They ride along where frames follow soon.
            (ms + wait_ms).max(oldest.unwrap_or(0).min(ms + 2 * wait_ms))
        });
        let full = self.is_full().then_some(0);
        let due = [oldest, marks, full].into_iter().flatten().min()?;
        Some(due.max(self.commit_backoff.until_ms))
    }

    /// Whether there are frames for a commit whatever their age.
    fn is_full(&self) -> bool {
        self.ram.fresh_bytes() >= self.commit_bytes
    }

    /// When the oldest undelivered sample that is only in RAM has waited for
    /// `max_loss`. In trouble the first there is tells whether it has passed.
    fn oldest_due_ms(&self) -> Option<u64> {
        let wait_ms = if self.writing.why.is_some() { 0 } else { self.max_loss_ms };
        self.ram.oldest_ms().map(|ms| ms.saturating_add(wait_ms))
    }

    /// Takes in what leases became, and keeps RAM within its bounds.
    fn settle(&mut self) {
        self.ram.settle();
        self.tell_thinned();
        let trimmed = self.ram.trim();
        for (number, bytes, stamp) in trimmed.cooled {
            if self.disk_only.is_empty() {
                self.disk_oldest = Some(stamp);
            }
            self.disk_only.insert(number);
            self.disk_only_bytes += bytes;
        }
        for frame in &trimmed.dropped {
            if let Ok(header) = Header::head(frame) {
                self.stats.ring_dropped += header.entries as u64;
                self.declarations.declare(&gap_of(&header, GapReason::RingOverflow));
            }
        }
        let durable = self.ram.durable().0 > 0 || !self.disk_only.is_empty();
        let offsets = !self.new_offsets.is_empty() && durable;
        if self.ram.any_acked() || !self.declarations.news().is_empty() || offsets {
            self.marks_since_ms.get_or_insert(self.now_ms);
        }
    }

    /// Sends what is fresh, the oldest first, as far as one commit takes it;
    /// whether there was anything to send. `with_acked` false keeps
    /// acknowledgements back: what replaces an acknowledged chunk must be
    /// durable first.
    fn commit(&mut self, with_acked: bool) -> bool {
        let fresh = self.ram.take_fresh(self.commit_bytes);
        self.send_commit(fresh, with_acked)
    }

    fn send_commit(&mut self, fresh: (Vec<u64>, Vec<Arc<[u8]>>), with_acked: bool) -> bool {
        let (ids, frames) = fresh;
        let marks = self.marks_since_ms.take().is_some();
        if frames.is_empty() && !marks {
            return false;
        }
        let acked = if with_acked { self.ram.take_acked() } else { Default::default() };
        let busy = self.ram.busy();
        let news = self.declarations.take_news();
        let run_end = if self.ended { None } else { self.run_end(EndReason::Crash) };
        let offsets = std::mem::take(&mut self.new_offsets);
        self.committing = Some((ids, self.now_ms));
        let commit = Commit { frames, acked, busy, news, run_end, offsets };
        self.send(Command::Commit(Box::new(commit)));
        true
    }

    fn send(&mut self, command: Command) {
        // A thread that has ended says so through its replies.
        let _ = self.line.commands.send(command);
    }

    /// Sets a refused record aside; the entry of that seq is acknowledged once
    /// that is durable.
    pub fn bury(&mut self, reason: String, record: String, lease: Option<(Lease, u64)>) {
        self.send(Command::Bury(Letter { reason, record, lease }));
    }

    /// Some of the declarations not yet delivered: none grows or goes until it
    /// is [`declared`](Spool::declared).
    pub fn declarations(&mut self) -> Vec<Marker> {
        self.declarations.hand()
    }

    /// `marker` was delivered.
    pub fn declared(&mut self, marker: Marker) {
        self.declarations.delivered(marker);
    }

    /// What the offset (wall minus boot time, ms) of this boot is.
    pub fn set_offset(&mut self, offset_ms: i64) {
        if self.offsets.insert(self.boot, offset_ms) != Some(offset_ms) {
            self.new_offsets.push((self.boot.to_string(), offset_ms));
        }
    }

    /// The offset of `boot`, if that boot ever saw the right time.
    pub fn offset_ms(&self, boot: BootId) -> Option<i64> {
        self.offsets.get(&boot).copied()
    }

    /// Undelivered bytes, and the wall time (ms) of the oldest sample of them.
    pub fn backlog(&self) -> (u64, Option<i64>) {
        let oldest = [self.ram.oldest(), self.disk_oldest].into_iter().flatten();
        let dates = oldest.map(|stamp| dated(&stamp.at, self.offset_ms(stamp.boot)).0);
        (self.ram.bytes() + self.disk_only_bytes, dates.min())
    }

    fn trouble(&self) -> Option<&String> {
        self.writing.why.as_ref().or(self.reading.why.as_ref())
    }

    pub fn stats(&self) -> Stats {
        let (chunks, bytes) = self.ram.durable();
        let mut stats = self.stats.clone();
        stats.delivered = self.ram.delivered();
        stats.ram_bytes = self.ram.bytes();
        stats.trouble = self.trouble().cloned();
        let evicted = stats.holding.evicted_samples.saturating_sub(self.saved_samples);
        stats.holding.evicted_samples = evicted;
        let lost = stats.holding.lost_chunks.saturating_sub(self.saved_chunks);
        stats.holding.lost_chunks = lost;
        stats.holding.chunks = chunks + self.disk_only.count();
        stats.holding.bytes = bytes + self.disk_only_bytes;
        stats
    }
}
