//! The database that thinning makes: what stays of many chunks, in few.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ledger::{Ranges, Stretch};
use crate::record::Run;
use crate::spool::chunk::{Chunk, Entry, Header, MAX_FRAME_BYTES};
use crate::spool::store::{Store, StoreError};

/// Below this what is gathered for one frame is not worth a look whether it
/// still fits.
const NEARLY_FULL_BYTES: usize = MAX_FRAME_BYTES * 7 / 8;

/// Samples gathered at once, of all devices, before compression.
const MAX_GATHERED_BYTES: usize = 1024 * 1024;

/// Bytes put between two flushes: sled keeps in memory what was not flushed.
const FLUSH_BYTES: usize = 256 * 1024;

/// Chunks of one device and run that follow each other, on their way to become
/// one.
struct Group {
    /// With what stays of them.
    chunk: Chunk,
    /// Where nothing stays, what would at the lowest stride that leaves some.
    spare: Option<Entry>,
    /// About what its frame has.
    frame_bytes: usize,
    payload_bytes: usize,
}

/// See the module.
pub struct Maker {
    store: Box<dyn Store>,
    stride_log2: u8,
    /// Numbers up to the last that is to be given.
    next: u64,
    end: u64,
    busy: Ranges,
    groups: BTreeMap<(Arc<str>, Run), Group>,
    gathered_bytes: usize,
    unflushed_bytes: usize,
    /// Samples before and after; those of what is not yet as thin as it is to
    /// be; and bytes of the frames that memory has not, before and after.
    samples: (u64, u64),
    samples_to_thin: u64,
    bytes: (u64, u64),
    put_bytes: u64,
    stretches: Vec<Stretch>,
    failed: bool,
}

/// A database that is whole and durable.
pub struct Made {
    /// What its chunks speak for, by their numbers.
    pub stretches: Vec<Stretch>,
    pub samples_less: u64,
    /// Of the frames that count as outstanding.
    pub bytes_less: u64,
    /// Of all its frames.
    pub bytes: u64,
    samples_to_thin: u64,
}

impl Made {
    pub fn numbers(&self) -> Ranges {
        let mut numbers = Ranges::default();
        self.stretches.iter().for_each(|chunk| numbers.insert(chunk.chunks.0));
        numbers
    }

    /// Whether there is next to nothing less, for runs of few samples each
    /// keep one.
    pub fn is_vain(&self) -> bool {
        self.samples_less * 8 < self.samples_to_thin
    }
}

/// What the chunk of `header` speaks for.
pub fn stretch(number: u64, header: &Header<'_>) -> Stretch {
    Stretch {
        device: header.device.to_owned(),
        run: header.run.0,
        simulated: header.simulated,
        chunks: (number, number),
        seqs: (header.first_seq, header.last_seq),
    }
}

impl Maker {
    /// Fills `store` with what has a seq that is a multiple of 2^`stride_log2`,
    /// under `numbers` (first and last) but those that are `busy`.
    pub fn new(
        store: Box<dyn Store>,
        stride_log2: u8,
        (next, end): (u64, u64),
        busy: Ranges,
    ) -> Self {
        Self {
            store,
            stride_log2,
            next,
            end,
            busy,
            groups: BTreeMap::new(),
            gathered_bytes: 0,
            unflushed_bytes: 0,
            samples: (0, 0),
            samples_to_thin: 0,
            bytes: (0, 0),
            put_bytes: 0,
            stretches: Vec::new(),
            failed: false,
        }
    }

    /// Takes one of the chunks, in the order of their numbers; `counts` if it
    /// is not yet as thin as it is to be.
    pub fn take(
        &mut self,
        number: u64,
        chunk: Chunk,
        frame: Vec<u8>,
        counts: bool,
    ) -> Result<(), StoreError> {
        let before = chunk.entries.len() as u64;
        self.samples.0 += before;
        self.samples_to_thin += if counts { before } else { 0 };
        if chunk.foreign {
            return self.put(number, &frame);
        }
        let frame_bytes = frame.len() * self.stays(&chunk.entries) / chunk.entries.len().max(1);
        let group = Group::new(chunk, self.stride_log2, frame_bytes);
        if self.busy.contains(number) {
            // Memory counts its bytes as they were.
            let thinned = group.finish(self.stride_log2, number).encode();
            let fits = thinned.len() <= MAX_FRAME_BYTES;
            return self.put(number, if fits { &thinned } else { &frame });
        }
        self.bytes.0 += frame.len() as u64;
        self.gather(group)
    }

    fn stays(&self, entries: &[Entry]) -> usize {
        entries.iter().filter(|entry| stays(entry.seq, self.stride_log2)).count()
    }

    fn gather(&mut self, group: Group) -> Result<(), StoreError> {
        let key = (Arc::clone(&group.chunk.device), group.chunk.run);
        let known = self.groups.remove(&key);
        self.gathered_bytes += group.payload_bytes;
        let group = match known {
            Some(known) if known.takes(&group) => known.with(group),
            Some(full) => {
                self.put_group(full)?;
                group
            }
            None => group,
        };
        self.groups.insert(key, group);
        while self.gathered_bytes > MAX_GATHERED_BYTES
            && let Some(key) = self.largest()
            && let Some(group) = self.groups.remove(&key)
        {
            self.put_group(group)?;
        }
        Ok(())
    }

    fn largest(&self) -> Option<(Arc<str>, Run)> {
        let largest = self.groups.iter().max_by_key(|(_, group)| group.payload_bytes);
        largest.map(|(key, _)| key.clone())
    }

    fn put_group(&mut self, group: Group) -> Result<(), StoreError> {
        self.gathered_bytes = self.gathered_bytes.saturating_sub(group.payload_bytes);
        let mut waiting = vec![group.finish(self.stride_log2, 0)];
        while let Some(mut chunk) = waiting.pop() {
            chunk.number = self.busy.absent_from(self.next);
            let frame = chunk.encode();
            if frame.len() > MAX_FRAME_BYTES && chunk.entries.len() > 1 {
                let (first, second) = chunk.split();
                waiting.extend(second);
                waiting.push(first);
                continue;
            }
            // There are as many numbers as there were chunks.
            self.failed |= chunk.number > self.end || frame.len() > MAX_FRAME_BYTES;
            self.next = chunk.number + 1;
            self.bytes.1 += frame.len() as u64;
            if !self.failed {
                self.put(chunk.number, &frame)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, number: u64, frame: &[u8]) -> Result<(), StoreError> {
        let Ok(header) = Header::head(frame) else {
            self.failed = true;
            return Ok(());
        };
        self.samples.1 += header.entries as u64;
        self.stretches.push(stretch(number, &header));
        self.store.put(number, frame)?;
        self.put_bytes += frame.len() as u64;
        self.unflushed_bytes += frame.len();
        if self.unflushed_bytes > FLUSH_BYTES {
            self.unflushed_bytes = 0;
            self.store.flush()?;
        }
        Ok(())
    }

    /// Makes all durable; `None` if it cannot be done.
    pub fn finish(mut self) -> Result<Option<Made>, StoreError> {
        while let Some((_, group)) = self.groups.pop_first() {
            self.put_group(group)?;
        }
        self.store.flush()?;
        if self.failed {
            return Ok(None);
        }
        self.stretches.sort_by_key(|chunk| chunk.chunks);
        Ok(Some(Made {
            samples_less: self.samples.0.saturating_sub(self.samples.1),
            samples_to_thin: self.samples_to_thin,
            bytes_less: self.bytes.0.saturating_sub(self.bytes.1),
            bytes: self.put_bytes,
            stretches: self.stretches,
        }))
    }
}

fn stays(seq: u64, stride_log2: u8) -> bool {
    seq.trailing_zeros() >= u32::from(stride_log2)
}

impl Group {
    fn new(mut chunk: Chunk, stride_log2: u8, frame_bytes: usize) -> Self {
        let spare = chunk.entries.iter().max_by_key(|entry| entry.seq.trailing_zeros());
        let spare = spare.filter(|entry| !stays(entry.seq, stride_log2)).cloned();
        chunk.entries.retain(|entry| stays(entry.seq, stride_log2));
        let entries = chunk.entries.iter().chain(&spare);
        let payload_bytes = entries.map(Entry::payload_bytes).sum();
        Self { chunk, spare, frame_bytes, payload_bytes }
    }

    /// Whether `next` follows, and both fit one frame.
    fn takes(&self, next: &Self) -> bool {
        let (one, two) = (&self.chunk, &next.chunk);
        if one.last_seq.checked_add(1) != Some(two.first_seq)
            || (one.boot, one.simulated) != (two.boot, two.simulated)
        {
            return false;
        }
        if self.frame_bytes + next.frame_bytes <= NEARLY_FULL_BYTES {
            return true;
        }
        let mut both = one.clone();
        both.entries.extend(two.entries.iter().cloned());
        both.encode().len() <= MAX_FRAME_BYTES
    }

    fn with(mut self, next: Self) -> Self {
        self.chunk.last_seq = next.chunk.last_seq;
        self.chunk.entries.extend(next.chunk.entries);
        self.chunk.revision = self.chunk.revision.max(next.chunk.revision);
        let spares = self.spare.into_iter().chain(next.spare);
        // Of two the earlier.
        self.spare = spares.reduce(|best, spare| {
            let better = spare.seq.trailing_zeros() > best.seq.trailing_zeros();
            if better { spare } else { best }
        });
        self.frame_bytes += next.frame_bytes;
        self.payload_bytes += next.payload_bytes;
        self
    }

    /// The chunk that speaks for all of them: as thin as `stride_log2` says, or
    /// less so where nothing would be left.
    fn finish(mut self, stride_log2: u8, number: u64) -> Chunk {
        self.chunk.stride_log2 = stride_log2;
        if let (true, Some(spare)) = (self.chunk.entries.is_empty(), self.spare) {
            self.chunk.stride_log2 = spare.seq.trailing_zeros() as u8;
            self.chunk.entries.push(spare);
        }
        self.chunk.revision = self.chunk.revision.saturating_add(1);
        self.chunk.number = number;
        self.chunk
    }
}
