//! The keeper: what the owner thread owns. Ledger and generations change only
//! here, in an order that a power cut may interrupt anywhere:
//!
//! frames durable → ledger says they are outstanding … ledger says they are
//! acknowledged → their generation is deleted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ledger::{Ledger, Ranges};
use crate::record::{Gap, GapReason};
use crate::spool::chunk::Header;
use crate::spool::dead::DeadLetters;
use crate::spool::generation::{Generations, Span};
use crate::spool::policy::Bounds;
use crate::spool::store::{Opener, StoreError};

/// A generation wholly acknowledged is given back from this size on; below it
/// the next frames go into it.
const WORN_BYTES: u64 = 4 * 1024 * 1024;

/// Where a generation that could not be opened is kept: at most one, and the
/// first to go when space is short.
const ASIDE: &str = "damaged";

/// What goes to disk together.
#[derive(Debug, Default)]
pub struct Commit {
    /// Chunk numbers and their frames.
    pub frames: Vec<(u64, Arc<[u8]>)>,
    pub acked: Ranges,
    /// Declarations that were delivered.
    pub declared: Vec<Gap>,
    /// New declarations.
    pub declare: Vec<Gap>,
    /// No chunk has this number or a higher one yet.
    pub next_chunk: u64,
    /// Boot ids and what their offsets turned out to be.
    pub offsets: Vec<(String, i64)>,
}

/// What the spool holds on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Chunks durable and not acknowledged.
    pub chunks: u64,
    /// Their frames' bytes, estimated from those seen.
    pub bytes: u64,
    /// Bytes of everything under the spool's folder.
    pub disk_bytes: u64,
    /// Samples evicted since the start.
    pub evicted_samples: u64,
    /// Chunks that the ledger promised and the disk no longer had.
    pub lost_chunks: u64,
    pub declarations: Vec<Gap>,
}

/// See the module.
pub struct Keeper {
    folder: PathBuf,
    bounds: Bounds,
    ledger: Ledger,
    generations: Generations,
    dead: DeadLetters,
    outstanding: Ranges,
    frames_seen: u64,
    frame_bytes_seen: u64,
    evicted_samples: u64,
    lost_chunks: u64,
}

impl Keeper {
    /// Opens what is there. The ledger has been opened first and is handed on.
    pub fn open(
        folder: PathBuf,
        bounds: Bounds,
        ledger: Ledger,
        opener: Box<dyn Opener>,
        dead_opener: Box<dyn Opener>,
    ) -> Result<Self, StoreError> {
        let generations = Generations::list(&folder, opener)
            .map_err(|e| StoreError::Io { path: folder.clone(), what: e.to_string() })?;
        let mut keeper = Self {
            dead: DeadLetters::new(&folder, dead_opener),
            outstanding: ledger.book().outstanding.clone(),
            folder,
            bounds,
            ledger,
            generations,
            frames_seen: 0,
            frame_bytes_seen: 0,
            evicted_samples: 0,
            lost_chunks: 0,
        };
        keeper.take_stock();
        Ok(keeper)
    }

    /// Takes in what became durable after the ledger's last edition, or
    /// everything where there was no ledger.
    fn take_stock(&mut self) {
        let from = if self.ledger.found() { self.ledger.book().next_chunk } else { 0 };
        for span in self.generations.spans() {
            if span.last < from {
                continue;
            }
            if let Err(error) = self.adopt(span, from.max(span.first)) {
                self.set_aside(span, &error);
            }
        }
        if let Some(last) = self.outstanding.iter().last().map(|(_, last)| last) {
            let book = self.ledger.book_mut();
            book.next_chunk = book.next_chunk.max(last + 1);
        }
    }

    fn adopt(&mut self, span: Span, mut from: u64) -> Result<(), StoreError> {
        let store = self.generations.reader(span)?;
        loop {
            let found = store.scan(from, span.last, self.bounds.scan_bytes)?;
            let Some((last, _)) = found.last() else {
                return Ok(());
            };
            from = last + 1;
            for (number, frame) in &found {
                self.outstanding.insert(*number);
                self.frames_seen += 1;
                self.frame_bytes_seen += frame.len() as u64;
            }
        }
    }

    fn set_aside(&mut self, span: Span, error: &StoreError) {
        let aside = self.folder.join(ASIDE);
        tracing::error!(%error, kept = %aside.display(), "a part of the spool cannot be read and is set aside");
        if let Err(error) = self.generations.set_aside(span.first, &aside) {
            tracing::error!(%error, "nor can it be moved");
        }
        let before = self.outstanding.count();
        self.outstanding.remove_range(span.first, span.last);
        self.lost_chunks += before - self.outstanding.count();
    }

    /// The first number that no chunk has.
    pub fn next_chunk(&self) -> u64 {
        self.ledger.book().next_chunk
    }

    /// Boot ids and offsets (ms) that the ledger knows.
    pub fn offsets(&self) -> BTreeMap<String, i64> {
        self.ledger.book().boots.iter().map(|boot| (boot.id.clone(), boot.offset_ms)).collect()
    }

    pub fn holding(&self) -> Holding {
        let chunks = self.outstanding.count();
        let mean_bytes = self.frame_bytes_seen.checked_div(self.frames_seen).unwrap_or(1024);
        Holding {
            chunks,
            bytes: chunks * mean_bytes,
            disk_bytes: crate::spool::generation::disk_bytes(&self.folder),
            evicted_samples: self.evicted_samples,
            lost_chunks: self.lost_chunks,
            declarations: self.declarations(),
        }
    }

    fn declarations(&self) -> Vec<Gap> {
        let texts = self.ledger.book().declarations.iter();
        texts.filter_map(|text| serde_json::from_value(text.clone()).ok()).collect()
    }

    /// Chunks were delivered. Durable with the next commit.
    pub fn acknowledge(&mut self, acked: &Ranges) {
        for (first, last) in acked.iter() {
            self.outstanding.remove_range(first, last);
        }
    }

    /// Makes `commit` durable, and the room for it.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        self.acknowledge(&commit.acked);
        let book = self.ledger.book_mut();
        book.next_chunk = book.next_chunk.max(commit.next_chunk);
        for (boot, offset_ms) in &commit.offsets {
            book.set_offset(boot, *offset_ms);
        }
        let done = commit.declared.iter().filter_map(|gap| serde_json::to_value(gap).ok());
        let done: Vec<_> = done.collect();
        book.declarations.retain(|gap| !done.contains(gap));
        commit.declare.iter().for_each(|gap| self.declare(gap.clone()));
        let bytes = commit.frames.iter().map(|(_, frame)| frame.len() as u64).sum();
        self.make_room(bytes)?;
        let result = self.write(&commit.frames);
        if result.is_err() {
            self.generations.close();
        }
        result?;
        self.tidy();
        Ok(())
    }

    fn write(&mut self, frames: &[(u64, Arc<[u8]>)]) -> Result<(), StoreError> {
        if let Some((first, _)) = frames.first() {
            let store = self.generations.newest(*first)?;
            for (number, frame) in frames {
                store.put(*number, frame)?;
            }
            store.flush()?;
            for (number, frame) in frames {
                self.outstanding.insert(*number);
                self.frames_seen += 1;
                self.frame_bytes_seen += frame.len() as u64;
            }
        }
        self.commit_ledger()
    }

    fn commit_ledger(&mut self) -> Result<(), StoreError> {
        self.ledger.book_mut().outstanding = self.outstanding.clone();
        self.ledger
            .commit()
            .map_err(|e| StoreError::Io { path: self.folder.clone(), what: e.to_string() })
    }

    /// Deletes what is wholly acknowledged; begins a new generation when the
    /// newest one is full or worn.
    fn tidy(&mut self) {
        for span in self.generations.spans() {
            let newest = span.last == u64::MAX;
            if !newest && !self.outstanding.meets(span.first, span.last) {
                self.delete(span);
            }
        }
        let bytes = self.generations.newest_bytes();
        let idle = self.outstanding.is_empty();
        if idle && bytes >= WORN_BYTES {
            self.spans_newest().into_iter().for_each(|span| self.delete(span));
        } else if bytes >= self.bounds.generation_bytes {
            self.generations.rotate(self.next_chunk());
        }
    }

    fn spans_newest(&self) -> Option<Span> {
        self.generations.spans().pop()
    }

    fn delete(&mut self, span: Span) {
        if let Err(error) = self.generations.delete(span.first) {
            tracing::warn!(%error, "a finished part of the spool cannot be deleted");
        }
    }

    /// Evicts until `bytes` more fit the bounds.
    fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        while bytes > 0 && self.bounds.exceeded(&self.folder, bytes) {
            let aside = self.folder.join(ASIDE);
            if aside.exists() {
                let _ = std::fs::remove_dir_all(&aside);
                continue;
            }
            let Some(span) = self.generations.spans().first().copied() else {
                return Err(StoreError::Full(self.folder.clone()));
            };
            if self.generations.count() == 1 {
                self.generations.rotate(self.next_chunk());
            }
            self.evict(span)?;
        }
        Ok(())
    }

    /// Declares what the oldest generation still holds, durably, and deletes it.
    fn evict(&mut self, span: Span) -> Result<(), StoreError> {
        let mut samples = 0;
        let mut from = span.first;
        while let Some(number) = self.outstanding.at_or_after(from).filter(|&n| n <= span.last) {
            let found =
                self.generations.reader(span)?.scan(number, span.last, self.bounds.scan_bytes)?;
            let Some((last, _)) = found.last() else { break };
            from = last.saturating_add(1);
            for (number, frame) in &found {
                let Ok((header, _)) = Header::read(frame) else { continue };
                if !self.outstanding.contains(*number) {
                    continue;
                }
                samples += header.entries as u64;
                self.declare(gap_of(&header, GapReason::Evicted));
            }
        }
        self.outstanding.remove_range(span.first, span.last);
        self.evicted_samples += samples;
        tracing::warn!(samples, "the spool is full: its oldest samples were dropped and declared");
        self.commit_ledger()?;
        self.generations.delete(span.first)
    }

    fn declare(&mut self, gap: Gap) {
        let mut gaps = self.declarations();
        let taken = gaps.iter_mut().rev().any(|known| known.absorb(&gap));
        if !taken {
            gaps.push(gap);
        }
        let texts = gaps.iter().filter_map(|gap| serde_json::to_value(gap).ok());
        self.ledger.book_mut().declarations = texts.collect();
    }

    /// The lowest outstanding chunks outside `except`, as many as fit in
    /// `max_bytes`.
    pub fn fetch(&mut self, except: &Ranges, max_bytes: usize) -> Vec<(u64, Vec<u8>)> {
        let (mut frames, mut bytes, mut from) = (Vec::new(), 0, 0);
        while let Some(number) = self.outstanding.at_or_after(from) {
            if let Some((_, last)) = except.iter().find(|&(a, b)| a <= number && number <= b) {
                from = last.saturating_add(1);
                continue;
            }
            if bytes >= max_bytes {
                break;
            }
            let end = self.end_of_stretch(number, except);
            from = match self.read(number, end, max_bytes - bytes) {
                Ok(found) => {
                    bytes += found.iter().map(|(_, frame)| frame.len()).sum::<usize>();
                    let next = found.last().map_or(end.saturating_add(1), |(last, _)| last + 1);
                    frames.extend(found);
                    next
                }
                Err(error) => {
                    let span = self.generations.span_of(number);
                    span.into_iter().for_each(|span| self.set_aside(span, &error));
                    end.saturating_add(1)
                }
            };
        }
        frames
    }

    /// The last number that is outstanding without a break from `number` on,
    /// before the next of `except` and within one generation.
    fn end_of_stretch(&self, number: u64, except: &Ranges) -> u64 {
        let range = self.outstanding.iter().find(|&(a, b)| a <= number && number <= b);
        let end = range.map_or(number, |(_, last)| last);
        let end = except.at_or_after(number).map_or(end, |next| end.min(next - 1));
        self.generations.span_of(number).map_or(end, |span| end.min(span.last))
    }

    /// Frames of `first..=last`; numbers that the disk no longer has are
    /// counted as lost and no longer outstanding.
    fn read(
        &mut self,
        first: u64,
        last: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let Some(span) = self.generations.span_of(first) else {
            self.lose(first, last);
            return Ok(Vec::new());
        };
        let found = self.generations.reader(span)?.scan(first, last, max_bytes)?;
        let mut expected = first;
        for (number, _) in &found {
            if expected < *number {
                self.lose(expected, number - 1);
            }
            expected = number + 1;
        }
        if found.is_empty() {
            self.lose(first, last);
        }
        Ok(found)
    }

    fn lose(&mut self, first: u64, last: u64) {
        let before = self.outstanding.count();
        self.outstanding.remove_range(first, last);
        let chunks = before - self.outstanding.count();
        self.lost_chunks += chunks;
        tracing::error!(chunks, "the ledger promises chunks that the disk no longer has");
    }

    /// Sets one refused record aside, durably.
    pub fn bury(&mut self, reason: &str, record: &str) -> Result<(), StoreError> {
        self.dead.bury(reason, record)
    }

    /// Refused records, oldest first.
    pub fn dead_letters(&mut self) -> Result<Vec<serde_json::Value>, StoreError> {
        self.dead.list()
    }

    /// Commits what is acknowledged and closes. A spool that holds nothing
    /// leaves nothing but its ledger behind.
    pub fn close(mut self) -> Result<(), StoreError> {
        let result = self.commit_ledger();
        if self.outstanding.is_empty() {
            self.generations.spans().into_iter().for_each(|span| self.delete(span));
        }
        result
    }
}

/// The gap that dropping the chunk of `header` leaves.
pub fn gap_of(header: &Header<'_>, reason: GapReason) -> Gap {
    Gap {
        device: header.device.to_owned(),
        run: header.run,
        first_seq: header.first_seq,
        last_seq: header.last_seq,
        kept: 0,
        reason,
        simulated: header.simulated,
    }
}
