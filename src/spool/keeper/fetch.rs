//! Reading chunks back, past whatever is damaged.

use std::sync::Arc;

use crate::ledger::Ranges;
use crate::record::GapReason;
use crate::spool::chunk::{Chunk, FrameError, Header, Stamp};
use crate::spool::generation::Span;
use crate::spool::keeper::{Keeper, given_up};
use crate::spool::store::StoreError;

/// Fetches in a row that a medium may fail before what it fails on is lost.
const PATIENCE: u32 = 3;

/// A chunk read from disk, sound.
#[derive(Debug)]
pub struct Found {
    pub number: u64,
    pub frame: Arc<[u8]>,
    pub entries: usize,
    pub first_seq: u64,
    pub stamp: Stamp,
}

/// What a fetch brought.
#[derive(Debug, Default)]
pub struct Fetched {
    pub found: Vec<Found>,
    /// What was wanted up to this number is found, or gone for good.
    pub settled: Option<u64>,
    /// Why the rest cannot be read now.
    pub error: Option<StoreError>,
}

impl Keeper {
    /// The lowest of the `wanted` chunks, as many as fit in `max_bytes`.
    pub fn fetch(&mut self, wanted: &Ranges, max_bytes: usize) -> Fetched {
        let mut fetched = Fetched::default();
        let (mut at, mut bytes, lost) = (wanted.first(), 0, self.report.holding.lost_chunks);
        while let Some(number) = at.filter(|_| bytes < max_bytes) {
            let upto = match (self.outstanding.around(number), wanted.around(number)) {
                (Some((_, last)), Some((_, end))) => {
                    self.read(number, last.min(end), max_bytes - bytes, &mut fetched.found)
                }
                _ => Ok(number),
            };
            match upto {
                Ok(upto) => {
                    fetched.settled = Some(upto);
                    at = upto.checked_add(1).and_then(|next| wanted.at_or_after(next));
                }
                Err(error) => {
                    self.misreads += 1;
                    self.generations.close();
                    // If it was removed the next fetch finds what is left.
                    let there = self.see_that_it_is_there(self.next);
                    fetched.error = Some(there.err().unwrap_or(error));
                    break;
                }
            }
            bytes = fetched.found.iter().map(|found| found.frame.len()).sum();
        }
        if fetched.error.is_none() {
            self.misreads = 0;
        }
        let chunks = self.report.holding.lost_chunks - lost;
        if chunks > 0 {
            tracing::error!(chunks, "the disk no longer has all that was written to it");
        }
        fetched
    }

    /// Reads on from `first`; returns up to which number it came.
    fn read(
        &mut self,
        first: u64,
        last: u64,
        max_bytes: usize,
        found: &mut Vec<Found>,
    ) -> Result<u64, StoreError> {
        let Some(span) = self.generations.span_of(first) else {
            // Its generation is gone; the next one may not be.
            let next = self.generations.spans().first().map_or(u64::MAX, |span| span.first);
            let last = last.min(next - 1);
            self.lose(first, last);
            return Ok(last);
        };
        let last = last.min(span.last);
        let scanned =
            self.generations.reader(span).and_then(|store| store.scan(first, last, max_bytes));
        let frames = match scanned {
            Err(error) if given_up(&error, self.patient()) => {
                return self.probe(span, first, last, max_bytes, found);
            }
            frames => frames?,
        };
        let upto = frames.last().map_or(last, |&(number, _)| number);
        let mut expected = first;
        for (number, frame) in frames {
            if expected < number {
                self.lose(expected, number - 1);
            }
            expected = number + 1;
            self.take_in(number, frame, found);
        }
        if expected <= upto {
            self.lose(expected, upto);
        }
        Ok(upto)
    }

    /// Reads chunk by chunk where a scan ends at the first damaged page.
    fn probe(
        &mut self,
        span: Span,
        first: u64,
        last: u64,
        max_bytes: usize,
        found: &mut Vec<Found>,
    ) -> Result<u64, StoreError> {
        self.generations.close();
        let patient = self.patient();
        let mut bytes = 0;
        for number in first..=last {
            let store = match self.generations.reader(span) {
                Err(error) if given_up(&error, patient) => {
                    self.set_aside(span, &error);
                    return Ok(last);
                }
                store => store?,
            };
            match store.get(number) {
                Ok(Some(frame)) => {
                    bytes += frame.len();
                    self.take_in(number, frame, found);
                }
                Ok(None) => self.lose(number, number),
                Err(error) if given_up(&error, patient) => self.lose(number, number),
                Err(error) => return Err(error),
            }
            if bytes >= max_bytes {
                return Ok(number);
            }
        }
        Ok(last)
    }

    fn take_in(&mut self, number: u64, frame: Vec<u8>, found: &mut Vec<Found>) {
        let chunk = match Chunk::decode(&frame) {
            Ok(chunk) => chunk,
            Err(error @ FrameError::Newer(_)) => {
                // It stays where it is, for that agent.
                return tracing::error!(number, %error, "a chunk cannot be read");
            }
            Err(error) => {
                tracing::error!(number, %error, "a chunk is damaged");
                if let Ok(header) = Header::head(&frame) {
                    let gap = self.declare(&header, GapReason::Damaged);
                    self.report.gaps.push(gap);
                }
                return self.lose(number, number);
            }
        };
        if let Some(stamp) = chunk.stamp() {
            let (entries, first_seq) = (chunk.entries.len(), chunk.first_seq);
            found.push(Found { number, frame: frame.into(), entries, first_seq, stamp });
        }
    }

    fn lose(&mut self, first: u64, last: u64) {
        if self.lost(first, last) > 0
            && let Some(span) = self.generations.span_of(first)
        {
            self.generations.suspect(span.first);
        }
    }

    fn patient(&self) -> bool {
        self.misreads < PATIENCE
    }
}
