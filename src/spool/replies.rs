//! What the owner thread answers, and the way to a clean stop.

use crate::clock::{BootId, Moment};
use crate::record::{EndReason, RunEnd};
use crate::spool::Spool;
use crate::spool::keeper::Report;
use crate::spool::thread::{Command, Reply};
use crate::spool::trouble::Backoff;

impl Spool {
    /// The next answer of the owner thread; to be handed to [`Spool::heard`].
    /// Nothing is lost if it is dropped before it is ready; where there is no
    /// thread any more it never is.
    pub async fn hear(&mut self) -> Reply {
        if self.line.thread.is_none() {
            return std::future::pending().await;
        }
        self.line.replies.recv().await.unwrap_or(Reply::Ended)
    }

    /// Whether the owner thread owes an answer, and how many it has given. Its
    /// opening is none that it owes: that takes as long as there is to read.
    pub fn errand(&self) -> (bool, u64) {
        (self.committing.is_some() || self.fetching.is_under_way(), self.answers)
    }

    /// Takes the thread's answer in.
    pub fn heard(&mut self, reply: Reply) {
        self.answers += 1;
        match reply {
            Reply::Opened { outstanding, offsets, report } => {
                self.opened = true;
                (self.disk_only, self.disk_only_bytes) = (outstanding, report.holding.bytes);
                let parsed = offsets.into_iter();
                let known = parsed.filter_map(|(id, ms)| Some((BootId::parse(&id)?, ms)));
                known.for_each(|(id, ms)| {
                    self.offsets.entry(id).or_insert(ms);
                });
                self.writing.is(None);
                self.take_report(report);
                // Its oldest sample says how old the backlog is.
                self.prefetch();
            }
            Reply::OpenFailed(why) => self.writing.is(Some(why)),
            Reply::Found { chunks, bytes, report } => {
                chunks.iter().for_each(|(first, last)| self.disk_only.insert_range(first, last));
                self.disk_only_bytes += bytes;
                self.take_report(report);
            }
            Reply::Committed(result, report) => self.committed(result, report),
            Reply::Fetched(fetched, report) => self.fetched(fetched, report),
            Reply::Closed(result) => self.writing.is(result.err()),
            Reply::Ended => {
                self.line.thread = None;
                self.opened = false;
                self.writing.is(Some("its thread has ended: restart the agent".into()));
            }
        }
        self.settle();
    }

    fn committed(&mut self, result: Result<u64, String>, report: Report) {
        let (ids, _) = self.committing.take().unwrap_or_default();
        self.ram.committed(&ids, result.as_ref().ok().copied());
        match &result {
            Ok(_) => {
                self.stats.commits += 1;
                self.commit_backoff = Backoff::default();
            }
            Err(_) => self.commit_backoff.failed(self.now_ms),
        }
        self.writing.is(result.err());
        self.take_report(report);
    }

    pub(super) fn take_report(&mut self, report: Report) {
        self.stats.holding = report.holding;
        report.gaps.iter().for_each(|gap| self.declarations.learn(gap));
        report.ends.into_iter().for_each(|end| self.declarations.learn_end(end));
        let numbers: Vec<u64> = report.evicted.iter().map(|(number, ..)| *number).collect();
        for ((_, gap, samples), lost) in report.evicted.into_iter().zip(self.ram.evicted(&numbers))
        {
            if lost {
                self.declarations.learn(&gap);
            } else {
                self.saved_samples += samples;
                self.declarations.retract(gap);
            }
        }
        let (gone, bytes) = report.gone;
        let rescued = self.ram.rescue(&gone);
        self.saved_chunks += rescued.len() as u64;
        // What was inferred to have been in them is not lost.
        rescued.into_iter().for_each(|gap| self.declarations.unlearn(gap));
        gone.iter().for_each(|(first, last)| self.disk_only.remove_range(first, last));
        report.made.iter().for_each(|(first, last)| self.disk_only.insert_range(first, last));
        self.disk_only_bytes = self.disk_only_bytes.saturating_sub(bytes);
        if self.disk_only.is_empty() {
            (self.disk_only_bytes, self.disk_oldest) = (0, None);
        }
    }

    /// Declares what thinning took of chunks that have arrived: with their
    /// acknowledgement at the latest.
    pub(super) fn tell_thinned(&mut self) {
        self.ram.take_thinned().iter().for_each(|gap| self.declarations.declare(gap));
    }

    /// Ends the run if no sample of it is in RAM alone: whatever becomes of the
    /// disk then, what its end says holds. Whether it did; no sample may follow.
    pub fn end_run(&mut self) -> bool {
        self.settle();
        let safe = self.committing.is_none()
            && self.ram.lowest_seq().is_none()
            && self.declarations.news().declare.is_empty();
        if self.ended || !safe {
            return false;
        }
        if let Some(end) = self.run_end(EndReason::Clean) {
            self.declarations.end(end);
            self.ended = true;
            self.settle();
        }
        self.ended
    }

    /// What can be said of this run if what is on its way to disk gets there.
    pub(super) fn run_end(&self, reason: EndReason) -> Option<RunEnd> {
        let (device, run, simulated) = self.first.clone()?;
        let safe = self.ram.lowest_seq().map_or(Some(u64::MAX), |seq| seq.checked_sub(1))?;
        let last_seq = self.all_have?.min(safe);
        Some(RunEnd { device: device.to_string(), run, last_seq, reason, simulated })
    }

    /// Makes everything durable that is not delivered, and ends the thread.
    /// Takes as long as the disk; the caller bounds it. An error says why
    /// something may be lost.
    pub async fn close(&mut self, now: &Moment) -> Result<(), String> {
        self.now_ms = now.boot_ms;
        if !self.opened && self.writing.why.is_some() {
            return self.end(self.writing.why.clone()).await;
        }
        while !self.opened || self.committing.is_some() {
            let reply = self.hear().await;
            let failed = matches!(&reply, Reply::OpenFailed(_) | Reply::Ended);
            self.heard(reply);
            if failed {
                return self.end(self.writing.why.clone()).await;
            }
        }
        loop {
            self.settle();
            self.ram.rewrite_parts();
            self.seal();
            self.end_run();
            if !self.commit(self.ram.fresh_bytes() <= self.commit_bytes) {
                return self.end(None).await;
            }
            while self.committing.is_some() {
                let reply = self.hear().await;
                let failed = matches!(&reply, Reply::Committed(Err(_), _) | Reply::Ended);
                self.heard(reply);
                if failed {
                    return self.end(self.writing.why.clone()).await;
                }
            }
        }
    }

    /// Ends the thread; `lost` says why something may be lost.
    async fn end(&mut self, lost: Option<String>) -> Result<(), String> {
        self.send(Command::Close);
        let mut closed = Err("its thread has ended".into());
        while self.line.thread.is_some() {
            match self.hear().await {
                Reply::Closed(result) => {
                    closed = result;
                    if let Some(thread) = self.line.thread.take() {
                        let _ = thread.join();
                    }
                }
                reply => self.heard(reply),
            }
        }
        lost.map_or(closed, Err)
    }
}
