//! Salvage: what the database no longer gives, its raw files still may.
//!
//! sled wipes what follows a damaged place when it opens a database, and
//! deletes what it can do without. So the raw files of a generation from
//! before this start are compared with what the ledger promises first; where
//! something is missing sled never sees them. What sled is most likely to wipe
//! although it can be read, the newest frames, is kept in memory until it has
//! opened. Where it then refuses, or lacks a chunk, all frames that can be read
//! are put into a new generation, which takes the place of the damaged one.
//! What is missing even so is declared as far as it can be inferred.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::ledger::{Ranges, Stretch, Stretches};
use crate::record::{Gap, Run};
use crate::spool::carve::{Index, NUMBERS_END, files};
use crate::spool::chunk::Header;
use crate::spool::generation::{Span, folder_of};
use crate::spool::keeper::{Keeper, given_up};
use crate::spool::policy::Bounds;
use crate::spool::store::{Store, StoreError};

/// The newest frames of a generation that are kept while sled opens it: sled
/// reads again, and may wipe, what was put since it was last opened (at most
/// 170 KiB, see `store.rs`).
const TAIL_BYTES: usize = 256 * 1024;

/// Frames put into a new generation between two flushes.
const FLUSH_BYTES: usize = 256 * 1024;

/// Numbers without a frame that may be chunks of which nothing is left; more
/// were never given.
const MAX_HOLE: u64 = 16 * 1024;

/// What is known about damage since the start.
#[derive(Debug, Default)]
pub struct Salvaging {
    /// Chunks from here on may be durable without the ledger's knowing; of
    /// interest while stock is taken.
    pub unknown_from: Option<u64>,
    /// Generations, by their first numbers, that sled may open, and those that
    /// were built anew: only once.
    looked: BTreeSet<u64>,
    salvaged: BTreeSet<u64>,
    tail: BTreeMap<u64, Vec<u8>>,
    /// The newest generation's frames, while stock is taken.
    newest: Option<(u64, Index)>,
}

impl Keeper {
    /// Whether the ledger is another spool's, by the runs in the newest
    /// generation: then it knows nothing of what is here, and whatever can be
    /// read counts as not delivered.
    pub(super) fn is_foreign(&mut self) -> Result<bool, StoreError> {
        let Some(newest) = self.generations.spans().pop() else { return Ok(false) };
        let book = self.ledger.book();
        let (ours, next) = (Run(book.run), book.next_chunk);
        let mut foreign = false;
        let index = self.index_of(&[newest], |header| {
            let done = header.number < next && !self.outstanding.contains(header.number);
            foreign |= done && !header.run.is_kin(ours);
        })?;
        if foreign {
            tracing::error!(
                "the ledger is not of this spool: whatever the spool holds counts as not delivered"
            );
            self.ledger.book_mut().stretches = Stretches::default();
        } else {
            self.salvaging.newest = Some((newest.first, index));
        }
        Ok(foreign)
    }

    /// Opens a generation from before this start, or what can be salvaged of
    /// it; does nothing the next time.
    pub(super) fn check(&mut self, span: Span) -> Result<(), StoreError> {
        if self.salvaging.looked.contains(&span.first) {
            return Ok(());
        }
        let index = match self.salvaging.newest.take() {
            Some((first, index)) if first == span.first => index,
            _ => self.index(&[span])?,
        };
        let found = index.numbers();
        self.believe(span, &found, &index);
        let promised = self.outstanding.within(span.first, span.last);
        let missing = promised.without(&found);
        if !self.excused(&missing, found.last()) {
            self.salvage(span, "chunks are missing in its files")?;
            return Ok(());
        }
        self.keep_tail(&promised, index);
        let last = self.generations.reader(span).and_then(Store::last);
        match last {
            Err(error) if given_up(&error, self.patient()) => {
                self.salvage(span, &error.to_string())?;
            }
            Err(error) => return Err(error),
            Ok(last) if last < promised.without(&missing).last() => {
                self.salvage(span, "the database has lost its newest chunks")?;
            }
            Ok(_) => self.looked(span),
        }
        Ok(())
    }

    /// `span` is as it should be.
    pub(super) fn looked(&mut self, span: Span) {
        self.salvaging.looked.insert(span.first);
        self.salvaging.tail.retain(|number, _| !(span.first..=span.last).contains(number));
    }

    /// Without a ledger whatever is there is promised, and what lies between.
    fn believe(&mut self, span: Span, found: &Ranges, index: &Index) {
        if self.salvaging.unknown_from != Some(0) {
            return;
        }
        let mut before = span.first;
        for (first, last) in found.within(span.first, span.last).iter() {
            self.bytes += (first..=last).map(|number| index.bytes(number) as u64).sum::<u64>();
            let follows = first - before < MAX_HOLE;
            self.outstanding.insert_range(if follows { before } else { first }, last);
            before = last + 1;
            self.next = self.next.max(before);
        }
    }

    /// Whether `missing` chunks were only seemingly promised: the ledger's
    /// merged ranges span generations that are gone, above `last`.
    pub(super) fn excused(&self, missing: &Ranges, last: Option<u64>) -> bool {
        missing.is_empty() || (missing.count() <= self.surplus && missing.first() > last)
    }

    fn keep_tail(&mut self, promised: &Ranges, mut index: Index) {
        let (mut bytes, mut below) = (0, promised.last());
        while let Some(number) = below.filter(|_| bytes < TAIL_BYTES) {
            for frame in index.read(number) {
                bytes += frame.len();
                self.salvaging.tail.insert(number, frame);
            }
            below = number.checked_sub(1).and_then(|below| promised.at_or_before(below));
        }
    }

    /// The frames in the raw files of `spans` that belong to this spool.
    pub(super) fn index(&self, spans: &[Span]) -> Result<Index, StoreError> {
        self.index_of(spans, |_| {})
    }

    /// The same; `see` sees all, ours or not.
    fn index_of(
        &self,
        spans: &[Span],
        mut see: impl FnMut(&Header<'_>),
    ) -> Result<Index, StoreError> {
        let mut index = Index::default();
        let stretches = &self.ledger.book().stretches;
        for span in spans {
            let folder = folder_of(&self.folder, span.first);
            let mut add = |index: &mut Index| {
                files(&folder)?.iter().try_for_each(|path| {
                    index.add(path, |header| {
                        see(header);
                        let chunk = (header.number, header.device, header.run.0);
                        stretches.fits(chunk, (header.first_seq, header.last_seq))
                    })
                })
            };
            match add(&mut index) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io(&folder, e));
                }
                _ => {}
            }
        }
        Ok(index)
    }

    /// The same with the generations before and after, which know what was
    /// between.
    fn index_about(&self, span: Span) -> Result<Index, StoreError> {
        let mut spans = self.generations.spans();
        let at = spans.iter().position(|other| other.first >= span.first).unwrap_or(spans.len());
        spans.truncate(at + 2);
        self.index(spans.get(at.saturating_sub(1)..).unwrap_or_default())
    }

    /// Puts what can be read of `span`'s raw files in its place, and declares
    /// the rest. False if that was done before.
    pub(super) fn salvage(&mut self, span: Span, why: &str) -> Result<bool, StoreError> {
        if self.salvaging.salvaged.contains(&span.first) {
            return Ok(false);
        }
        if self.generations.takes_more(span) {
            self.generations.end_newest();
        }
        self.generations.close();
        let mut index = self.index_about(span)?;
        let numbers = self.take_stock(span, &index);
        let mut salvaged = Ranges::default();
        if !numbers.is_empty() {
            let bytes = numbers.iter().flat_map(|(first, last)| first..=last);
            let bytes = bytes.map(|number| index.bytes(number) as u64).sum();
            if !self.make_room_for(bytes, span)? {
                return self.evict(span).map(|()| true);
            }
            salvaged = self.refill(&numbers, &mut index).inspect_err(|_| {
                self.generations.abandon();
            })?;
        }
        let lost = self.outstanding.within(span.first, span.last).without(&salvaged);
        let (lost, untold) = self.give_up(&lost, &index);
        // What was inferred must be durable before the files that it was
        // inferred from are out of reach.
        self.commit_ledger()?;
        let kept = match salvaged.is_empty() {
            true => self.generations.set_aside(span.first).map(drop),
            false => self.generations.replace(span.first),
        };
        kept.map_err(|e| StoreError::io(&self.folder, e))?;
        self.report.holding.salvaged_chunks += salvaged.count();
        self.salvaging.salvaged.insert(span.first);
        self.looked(span);
        tracing::error!(
            why,
            salvaged = salvaged.count(),
            declared = lost - untold,
            lost = untold,
            kept = %self.folder.join("damaged").display(),
            "a part of the spool was damaged: what could be read is kept, the rest declared"
        );
        Ok(true)
    }

    /// The numbers of `span` that are to be salvaged; what the ledger did not
    /// know is outstanding from now on.
    fn take_stock(&mut self, span: Span, index: &Index) -> Ranges {
        let found = index.numbers().within(span.first, span.last);
        if let Some(unknown_from) = self.salvaging.unknown_from {
            let new = found.within(unknown_from, NUMBERS_END).without(&self.outstanding);
            for number in new.iter().flat_map(|(first, last)| first..=last) {
                self.outstanding.insert(number);
                self.bytes += index.bytes(number) as u64;
            }
            self.next = self.next.max(found.last().map_or(0, |last| last + 1));
        }
        let mut numbers = Ranges::default();
        let tail = self.salvaging.tail.keys().copied();
        let found = found.iter().flat_map(|(first, last)| first..=last);
        for number in found.chain(tail).filter(|number| self.outstanding.contains(*number)) {
            numbers.insert(number);
        }
        numbers.within(span.first, span.last)
    }

    /// Puts the frames of `numbers` into a new generation, durably; returns
    /// which could be read.
    fn refill(&mut self, numbers: &Ranges, index: &mut Index) -> Result<Ranges, StoreError> {
        let mut store = self.generations.rebuild()?;
        let (mut put, mut bytes) = (Ranges::default(), 0);
        for number in numbers.iter().flat_map(|(first, last)| first..=last) {
            let read = index.read(number).into_iter().next();
            let Some(frame) = read.or_else(|| self.salvaging.tail.get(&number).cloned()) else {
                continue;
            };
            store.put(number, &frame)?;
            put.insert(number);
            bytes += frame.len();
            if bytes > FLUSH_BYTES {
                store.flush()?;
                bytes = 0;
            }
        }
        store.flush()?;
        Ok(put)
    }

    /// Room for a second copy of `span`'s frames, older generations being
    /// evicted for it if need be. False if there is none without `span` itself.
    fn make_room_for(&mut self, bytes: u64, span: Span) -> Result<bool, StoreError> {
        let growth = Bounds::growth(bytes);
        self.measure();
        while self.is_short(growth) {
            if !self.generations.drop_aside() {
                match self.generations.spans().first() {
                    Some(oldest) if oldest.first < span.first => self.evict(*oldest)?,
                    _ => return Ok(false),
                }
            }
            self.measure();
        }
        Ok(true)
    }

    /// Chunks that can be had nowhere: declares what can be inferred of them.
    /// Returns how many are lost, and of how many nothing is known.
    pub(super) fn give_up(&mut self, lost: &Ranges, index: &Index) -> (u64, u64) {
        let chunks: u64 = lost.iter().map(|(first, last)| self.lost(first, last)).sum();
        if chunks == 0 {
            return (0, 0);
        }
        let (mut gaps, mut told) = (Vec::new(), Ranges::default());
        for (number, gap) in index.heads().filter(|(number, _)| lost.contains(*number)) {
            gaps.push(gap.clone());
            told.insert(number);
        }
        let untold = lost.without(&told);
        let inferred = index.known().infer(&untold, &self.ledger.book().stretches);
        gaps.extend(inferred.gaps);
        let untold = untold.without(&inferred.chunks).count().min(chunks);
        gaps.into_iter().for_each(|gap| self.tell(gap));
        self.report.holding.untold_chunks += untold;
        (chunks, untold)
    }

    /// [`Keeper::give_up`] of chunks that were read for in vain in `span`.
    pub(super) fn give_up_in(&mut self, span: Option<Span>, lost: &Ranges) {
        if lost.is_empty() {
            return;
        }
        let span = span.or_else(|| self.generations.spans().first().copied());
        let index = span.map(|span| self.index_about(span)).transpose();
        let (chunks, untold) = self.give_up(lost, &index.ok().flatten().unwrap_or_default());
        if chunks > 0 {
            span.into_iter().for_each(|span| self.generations.suspect(span.first));
            tracing::error!(
                declared = chunks - untold,
                lost = untold,
                "the disk no longer has all that was written to it"
            );
        }
    }

    fn tell(&mut self, gap: Gap) {
        self.gaps.add(&gap);
        self.gaps_changed = true;
        self.report.gaps.push(gap);
    }

    /// Notes what a chunk speaks for, should it be lost.
    pub(super) fn note(&mut self, number: u64, frame: &[u8]) {
        let Some(span) = self.generations.span_of(number) else { return };
        if let Ok(header) = Header::head(frame) {
            let chunk = Stretch {
                device: header.device.to_owned(),
                run: header.run.0,
                simulated: header.simulated,
                chunks: (number, number),
                seqs: (header.first_seq, header.last_seq),
            };
            self.ledger.book_mut().stretches.note(span.first, chunk);
        }
    }
}
