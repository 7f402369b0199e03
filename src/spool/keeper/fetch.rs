//! Reading chunks back, past whatever is damaged.

use std::sync::Arc;

use crate::ledger::Ranges;
use crate::spool::chunk::{Chunk, FrameError, Header, Stamp};
use crate::spool::generation::Span;
use crate::spool::keeper::unread::is_medium;
use crate::spool::keeper::{Keeper, given_up};
use crate::spool::store::StoreError;

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
    /// What was wanted up to this number is found, or gone for good, but for
    /// what was put off.
    pub settled: Option<u64>,
    /// What cannot be read now, and more that will not be either.
    pub put_off: Ranges,
    /// Why.
    pub error: Option<StoreError>,
}

/// Where no generation is to be blamed.
const EVERYTHING: Span = Span { first: 0, last: u64::MAX };

impl Keeper {
    /// The lowest of the `wanted` chunks, as many as fit in `max_bytes`.
    pub fn fetch(&mut self, wanted: &Ranges, max_bytes: usize) -> Fetched {
        let mut fetched = Fetched::default();
        let (mut at, mut bytes) = (wanted.first(), 0);
        while let Some(number) = at.filter(|_| bytes < max_bytes) {
            let upto = match (self.outstanding.around(number), wanted.around(number)) {
                (Some((_, last)), Some((_, end))) => {
                    self.read(number, last.min(end), max_bytes - bytes, &mut fetched.found)
                }
                _ => Ok(number),
            };
            let upto = match upto {
                Ok(upto) => upto,
                Err(error) => {
                    let span = self.generations.span_of(number).unwrap_or(EVERYTHING);
                    self.generations.close();
                    // What cannot be taken in yet has tries of its own.
                    if is_medium(&error) && !self.unread.has(span.first) {
                        self.generations.misread(span.first);
                    }
                    fetched.put_off.insert_range(number, span.last);
                    // If it was removed the next fetch finds what is left.
                    let there = self.see_that_it_is_there(self.next);
                    fetched.error = Some(there.err().unwrap_or(error));
                    span.last
                }
            };
            fetched.settled = Some(upto);
            at = upto.checked_add(1).and_then(|next| wanted.at_or_after(next));
            bytes = fetched.found.iter().map(|found| found.frame.len()).sum();
        }
        self.thinning.handed = Ranges::default();
        fetched.found.iter().for_each(|found| self.thinning.handed.insert(found.number));
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
            self.give_up(None, &Ranges::from(vec![(first, last)]));
            return Ok(last);
        };
        let last = last.min(span.last);
        let scanned =
            self.generations.reader(span).and_then(|store| store.scan(first, last, max_bytes));
        let frames = match scanned {
            Err(error) if given_up(&error, self.generations.is_patient(span.first)) => {
                // Its files may still be read where the database gives up.
                if self.generations.takes_more(span) {
                    self.generations.end_newest();
                }
                return self.probe(span, first, last, max_bytes, found);
            }
            frames => frames?,
        };
        self.generations.read_well(span.first);
        let upto = frames.last().map_or(last, |&(number, _)| number);
        let mut lost = Ranges::from(vec![(first, upto)]);
        for (number, frame) in frames {
            if self.take_in(number, frame, found) {
                lost.remove(number);
            }
        }
        for (number, frame) in self.strayed(span, &lost) {
            if lost.contains(number) && self.take_in(number, frame, found) {
                lost.remove(number);
            }
        }
        self.give_up(Some(span), &lost);
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
        let patient = self.generations.is_patient(span.first);
        let (mut bytes, mut upto, mut lost) = (0, last, Ranges::default());
        for number in first..=last {
            let store = match self.generations.reader(span) {
                Err(error) if given_up(&error, patient) => {
                    self.set_aside(span, &error);
                    return Ok(last);
                }
                store => store?,
            };
            let there = match store.get(number) {
                Ok(Some(frame)) => {
                    bytes += frame.len();
                    self.take_in(number, frame, found)
                }
                Ok(None) => false,
                Err(error) if given_up(&error, patient) => false,
                Err(error) => return Err(error),
            };
            if !there {
                lost.insert(number);
            }
            if bytes >= max_bytes {
                upto = number;
                break;
            }
        }
        self.give_up(Some(span), &lost);
        Ok(upto)
    }

    /// Whether a chunk is as it was written.
    fn take_in(&mut self, number: u64, frame: Vec<u8>, found: &mut Vec<Found>) -> bool {
        let chunk = match Chunk::decode(&frame) {
            Ok(chunk) => chunk,
            Err(error @ FrameError::Newer(_)) => {
                // It stays where it is, for that agent.
                tracing::error!(number, %error, "a chunk cannot be read");
                return true;
            }
            Err(_) => return false,
        };
        if !Header::head(&frame).is_ok_and(|header| self.fits(&header)) {
            return false;
        }
        if let Some(stamp) = chunk.stamp() {
            let (entries, first_seq) = (chunk.entries.len(), chunk.first_seq);
            found.push(Found { number, frame: frame.into(), entries, first_seq, stamp });
        }
        true
    }
}
