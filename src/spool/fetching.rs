//! Fetching the backlog from disk, past the parts that cannot be read now.

use crate::ledger::Ranges;
use crate::spool::Spool;
use crate::spool::keeper::{Fetched, Report};
use crate::spool::thread::Command;
use crate::spool::trouble::Backoff;

/// Backlog frames asked of the disk at once.
const FETCH_BYTES: usize = 256 * 1024;

/// The same in chunks, where they are tiny.
const FETCH_CHUNKS: u64 = 4096;

/// How far it is.
#[derive(Default)]
pub struct Fetching {
    /// What the fetch that is under way was asked for.
    asked: Option<Ranges>,
    backoff: Backoff,
    /// What the disk could not give at the last try.
    put_off: Ranges,
}

impl Fetching {
    pub fn is_under_way(&self) -> bool {
        self.asked.is_some()
    }
}

impl Spool {
    /// Asks the disk for more of the backlog if little is at hand.
    pub fn prefetch(&mut self) {
        self.settle();
        let enough = self.ram.backlog_bytes() > FETCH_BYTES / 2;
        if self.fetching.is_under_way() || !self.opened || enough {
            return;
        }
        if self.now_ms >= self.fetching.backoff.until_ms {
            self.fetching.put_off = Ranges::default();
        }
        let wanted = if self.fetching.put_off.is_empty() {
            self.disk_only.lowest(FETCH_CHUNKS)
        } else {
            // A part that cannot be read now does not hold the others up.
            self.disk_only.without(&self.fetching.put_off).lowest(FETCH_CHUNKS)
        };
        if wanted.is_empty() {
            return;
        }
        self.fetching.asked = Some(wanted.clone());
        self.send(Command::Fetch { wanted, max_bytes: FETCH_BYTES });
    }

    /// Whether a fetch is under way or due.
    pub fn more_to_come(&self) -> bool {
        !self.opened || self.fetching.is_under_way() || !self.disk_only.is_empty()
    }

    /// Takes in what a fetch brought.
    pub(super) fn fetched(&mut self, fetched: Fetched, report: Report) {
        let wanted = self.fetching.asked.take().unwrap_or_default().without(&fetched.put_off);
        if let Some(settled) = fetched.settled {
            for (first, last) in wanted.iter().take_while(|(first, _)| *first <= settled) {
                self.disk_only.remove_range(first, last.min(settled));
            }
        }
        self.disk_oldest = fetched.found.last().map(|found| found.stamp).or(self.disk_oldest);
        for found in fetched.found {
            self.disk_only_bytes = self.disk_only_bytes.saturating_sub(found.frame.len() as u64);
            self.ram.hold_found(found);
        }
        match fetched.error {
            Some(error) => {
                // Parts that fail one after the other are one failure.
                if self.fetching.put_off.is_empty() {
                    self.fetching.backoff.failed(self.now_ms);
                }
                let put_off = fetched.put_off.iter();
                put_off.for_each(|(first, last)| self.fetching.put_off.insert_range(first, last));
                self.reading.is(Some(error.to_string()));
            }
            None if self.fetching.put_off.is_empty() => {
                self.fetching.backoff = Backoff::default();
                self.reading.is(None);
            }
            None => {}
        }
        self.take_report(report);
    }
}
