//! Parts of the spool that the medium fails to give when it is opened.
//!
//! They keep nobody waiting: the spool opens without them, and takes samples.
//! They stay where they are and are tried again, each for itself, until
//! [`PATIENCE`](crate::spool::trouble::PATIENCE) has run out; then what can be
//! read past the bad blocks counts.

use std::collections::BTreeMap;

use crate::ledger::{Ranges, is_bad};
use crate::spool::generation::Span;
use crate::spool::keeper::{Keeper, MAX_HOLE, SCAN_BYTES};
use crate::spool::store::StoreError;

/// Numbers that are left to the chunks of a generation whose last cannot be
/// read: more than one takes.
const NUMBERS: u64 = 1 << 20;

/// Which they are, by their first number.
#[derive(Debug, Default)]
pub struct Unread(BTreeMap<u64, Rest>);

/// What is yet to be taken in of one.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    /// Chunks from this number on.
    pub from: u64,
    /// And those between them, of which nothing may be left.
    pub holes: bool,
}

impl Unread {
    pub fn has(&self, first: u64) -> bool {
        self.0.contains_key(&first)
    }

    pub fn forget(&mut self, first: u64) {
        self.0.remove(&first);
    }
}

impl Keeper {
    /// Whether some could not be read so far.
    pub fn lacks_some(&self) -> bool {
        !self.unread.0.is_empty()
    }

    /// Takes in what became durable after the ledger's last edition: the `rest`
    /// of `span`, which is then what could not be read.
    pub(super) fn adopt(&mut self, span: Span, rest: &mut Rest) -> Result<(), StoreError> {
        let Some(last) = self.generations.reader(span)?.last()? else { return Ok(()) };
        self.next = self.next.max(last + 1);
        while rest.from <= last {
            let found = self.generations.reader(span)?.scan(rest.from, last, SCAN_BYTES)?;
            if found.is_empty() {
                break;
            }
            for (number, frame) in &found {
                if !self.outstanding.contains(*number) {
                    let hole = rest.holes && number - rest.from < MAX_HOLE;
                    let first = if hole { rest.from } else { *number };
                    self.outstanding.insert_range(first, *number);
                    self.bytes += frame.len() as u64;
                    self.note(*number, frame);
                }
                rest.from = number + 1;
            }
        }
        Ok(())
    }

    /// Puts off what is `rest` of `span`.
    pub(super) fn put_off(&mut self, span: Span, rest: Rest, error: &StoreError) {
        tracing::error!(%error, "a part of the spool cannot be read now, and is tried again");
        self.next = self.next.max(span.first + NUMBERS);
        self.unread.0.insert(span.first, rest);
    }

    /// Tries again what was put off; returns which chunks that brought, and
    /// their frames' bytes.
    pub fn adopt_rest(&mut self) -> (Ranges, u64) {
        let (before, bytes) = (self.outstanding.clone(), self.bytes);
        for span in self.generations.spans() {
            let Some(mut rest) = self.unread.0.remove(&span.first) else { continue };
            match self.adopt(span, &mut rest) {
                Ok(()) => {
                    if !self.generations.is_patient(span.first) {
                        // What could not be read may be of use to somebody yet.
                        self.generations.suspect(span.first);
                    }
                    tracing::info!("a part of the spool can be read after all");
                }
                Err(error) => {
                    if is_medium(&error) {
                        self.generations.misread(span.first);
                    }
                    self.unread.0.insert(span.first, rest);
                }
            }
        }
        // Of what is there no longer nothing can be had.
        let spans = self.generations.spans();
        self.unread.0.retain(|first, _| spans.iter().any(|span| span.first == *first));
        self.measure();
        (self.outstanding.without(&before), self.bytes - bytes)
    }
}

/// Whether the medium has failed.
pub fn is_medium(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if is_bad(source))
}
