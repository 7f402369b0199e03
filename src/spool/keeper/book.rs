//! What the keeper tells the ledger.

use crate::record::Marker;
use crate::spool::gaps::News;
use crate::spool::keeper::Keeper;
use crate::spool::store::StoreError;

impl Keeper {
    /// Takes in what RAM has to tell.
    pub(super) fn learn(&mut self, news: News) {
        self.gaps_changed |= !news.is_empty();
        self.retracted.extend(news.retracted);
        news.declare.iter().for_each(|gap| self.gaps.add(&gap));
        news.ended.into_iter().for_each(|end| self.ends.add(end));
        for marker in &news.delivered {
            match marker {
                Marker::Gap(gap) => self.gaps.remove(gap),
                Marker::RunEnd(end) => self.ends.remove(end),
            }
        }
    }

    pub(super) fn commit_ledger(&mut self) -> Result<(), StoreError> {
        self.fill_book();
        self.ledger.commit().map_err(|e| self.ledger_error(e))
    }

    /// Brings the ledger's book up to date.
    pub(super) fn fill_book(&mut self) {
        let book = self.ledger.book_mut();
        if self.outstanding.is_empty() {
            self.bytes = 0;
        }
        book.outstanding.clone_from(&self.outstanding);
        book.stretches.keep(&self.outstanding);
        book.outstanding_chunks = self.outstanding.count();
        book.outstanding_bytes = self.bytes;
        book.next_chunk = self.next;
        if std::mem::take(&mut self.gaps_changed) {
            book.declarations = self.gaps.to_json();
            book.declarations.extend(self.ends.to_json());
        }
        book.run_end = self.run_end.as_ref().and_then(|end| serde_json::to_value(end).ok());
    }

    pub(super) fn ledger_error(&self, error: crate::ledger::Error) -> StoreError {
        match error {
            crate::ledger::Error::Io { path, source, .. } => StoreError::io(&path, source),
            other => StoreError::io(&self.folder, std::io::Error::other(other.to_string())),
        }
    }
}
