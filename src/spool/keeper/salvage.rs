//! Salvage: what can be said of chunks that the disk no longer has, and how a
//! database is left for good without giving up its frames.
//!
//! sled wipes what follows a damaged place when it opens a database. So it
//! never opens one of an earlier start: the frames are read from the raw files,
//! as they are. A damaged generation needs no repair then. It gives what can be
//! read, the rest is declared as far as it can be inferred, and when all of it
//! is delivered it is kept aside.

use crate::ledger::{Ranges, Stretch, Stretches};
use crate::record::Run;
use crate::spool::carve::{Index, files};
use crate::spool::chunk::Header;
use crate::spool::generation::{Span, folder_of};
use crate::spool::keeper::Keeper;
use crate::spool::policy::Bounds;
use crate::spool::store::StoreError;

/// Frames of the last start that move to the first generation of this one: a
/// generation for each start would be mostly air.
const JOIN_BYTES: usize = 512 * 1024;

impl Keeper {
    /// Whether the ledger is another spool's, by the runs of the chunks that it
    /// must know: then it knows nothing of what is here, and whatever can be
    /// read counts as not delivered.
    pub(super) fn is_foreign(&mut self) -> bool {
        let spans = self.generations.spans();
        if self.ledger.book().next_chunk == 0 {
            return false;
        }
        let newest = spans.last().copied();
        let (kin, strangers) = self.survey(newest.as_slice());
        // Where others are kin, it is the newest database that is foreign.
        let foreign = strangers && !kin && !self.survey(&spans).0;
        if foreign {
            tracing::error!(
                "the ledger is not of this spool: whatever the spool holds counts as not delivered"
            );
            // It may be the other way round, all databases being foreign: then
            // what the ledger promises is lost.
            let promised = self.outstanding.clone();
            self.give_up(None, &promised);
            self.ledger.book_mut().stretches = Stretches::default();
        }
        foreign
    }

    /// Whether `spans` have chunks of this state's runs, and others that cannot
    /// be ours if the ledger is.
    fn survey(&self, spans: &[Span]) -> (bool, bool) {
        let book = self.ledger.book();
        let (mut kin, mut strangers) = (false, false);
        self.index(spans, Index::default(), |header| {
            // What it does not know yet is of its last run.
            let new = header.number >= book.next_chunk;
            let done = !self.outstanding.contains(header.number);
            let is_kin = header.run.is_kin(Run(book.run));
            kin |= is_kin;
            strangers |= !is_kin && (new || done || !self.fits(header));
            false
        });
        (kin, strangers)
    }

    /// `index` with the frames in the raw files of `spans` that `ours` accepts.
    fn index(
        &self,
        spans: &[Span],
        mut index: Index,
        mut ours: impl FnMut(&Header<'_>) -> bool,
    ) -> Index {
        for span in spans {
            let folder = folder_of(&self.folder, span.first);
            for path in files(&folder).unwrap_or_default() {
                // What cannot be read has nothing to say.
                let _ = index.add(&path, false, &mut ours);
            }
        }
        index
    }

    /// Those that belong to this spool and that `wanted` accepts, of `span` and
    /// of the generations before and after, which know what was between.
    fn index_about(&self, span: Option<Span>, index: Index, wanted: impl Fn(u64) -> bool) -> Index {
        let mut spans = self.generations.spans();
        let at = spans.iter().position(|other| span.is_none_or(|span| other.first >= span.first));
        let at = at.unwrap_or(spans.len());
        spans.truncate(at + 2);
        let about = spans.get(at.saturating_sub(1)..).unwrap_or_default();
        self.index(about, index, |header| wanted(header.number) && self.fits(header))
    }

    /// Whether a frame can be of this spool, as far as the ledger knows.
    pub(super) fn fits(&self, header: &Header<'_>) -> bool {
        let chunk = (header.number, header.device, header.run.0);
        self.ledger.book().stretches.fits(chunk, (header.first_seq, header.last_seq))
    }

    /// Frames of `lost` chunks of `span` that lie elsewhere: a folder that
    /// should not be there hides what the one before it holds.
    pub(super) fn strayed(&self, span: Span, lost: &Ranges) -> Vec<(u64, Vec<u8>)> {
        if lost.is_empty() {
            return Vec::new();
        }
        let wanted = |number| lost.contains(number);
        let mut index = self.index_about(Some(span), Index::default(), wanted);
        let numbers = index.numbers();
        let numbers = numbers.iter().flat_map(|(first, last)| first..=last);
        let frames = numbers.flat_map(|n| Some((n, index.read(n).ok()?)));
        frames.flat_map(|(n, frames)| frames.into_iter().map(move |frame| (n, frame))).collect()
    }

    /// `lost` chunks of `span` can be had nowhere: declares what can be
    /// inferred of them, and counts them.
    pub(super) fn give_up(&mut self, span: Option<Span>, lost: &Ranges) {
        let chunks: u64 = lost.iter().map(|(first, last)| self.lost(first, last)).sum();
        if chunks == 0 {
            return;
        }
        let index = self.index_about(span, Index::about(lost), |_| true);
        let (mut gaps, mut told) = (Vec::new(), Ranges::default());
        for (number, gap) in index.heads().filter(|(number, _)| lost.contains(*number)) {
            gaps.push(gap.clone());
            told.insert(number);
        }
        let untold = lost.without(&told);
        let inferred = index.known().infer(&untold, &self.ledger.book().stretches);
        gaps.extend(inferred.gaps);
        for gap in gaps {
            self.gaps.add(&gap);
            self.gaps_changed = true;
            self.report.gaps.push(gap);
        }
        let untold = untold.without(&inferred.chunks).count().min(chunks);
        let salvaged = span.map_or(0, |span| self.salvaged(span, &index));
        let holding = &mut self.report.holding;
        holding.untold_chunks += untold;
        holding.salvaged_chunks += salvaged;
        let declared = chunks - untold;
        tracing::error!(
            salvaged,
            declared,
            lost = untold,
            "the disk no longer has all that was written to it"
        );
    }

    /// How many chunks a generation that turns out to be damaged still has.
    fn salvaged(&mut self, span: Span, index: &Index) -> u64 {
        if !self.generations.suspect(span.first) {
            return 0;
        }
        let there = index.numbers();
        let held = self.outstanding.within(span.first, span.last);
        held.count() - held.without(&there).count()
    }

    /// Lets this start's first frames join the few of the last one's newest
    /// generation, in a database that is new. Where that cannot be, they get a
    /// generation of their own.
    pub(super) fn join(&mut self) {
        if !std::mem::take(&mut self.may_join) {
            return;
        }
        let newest = self.generations.spans().pop();
        let Some(span) = newest.filter(|span| !self.unread.has(span.first)) else { return };
        if self.is_short(Bounds::growth(JOIN_BYTES as u64)) {
            return;
        }
        if let Err(error) = self.try_join(span) {
            self.generations.abandon();
            tracing::debug!(%error, "the newest part of the spool stays as it is");
        }
    }

    fn try_join(&mut self, span: Span) -> Result<(), StoreError> {
        let held = self.outstanding.within(span.first, span.last);
        let (Some(first), Some(last)) = (held.first(), held.last()) else { return Ok(()) };
        let mut found = self.generations.reader(span)?.scan(first, last, JOIN_BYTES)?;
        found.retain(|(number, _)| held.contains(*number));
        if found.len() as u64 != held.count() {
            return Ok(());
        }
        // The ledger must not promise what does not move.
        self.commit_ledger()?;
        let mut store = self.generations.rebuild()?;
        found.iter().try_for_each(|(number, frame)| store.put(*number, frame))?;
        store.flush()?;
        drop(store);
        self.generations.replace_newest(span.first).map_err(|e| StoreError::io(&self.folder, e))
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
