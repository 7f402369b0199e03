//! Gathering: samples of each device until they are a chunk's worth.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::clock::Moment;
use crate::record::{Run, Sample};
use crate::spool::chunk::Entry;

/// Bytes of one device's open samples at most: about eight times what fits a
/// frame, which is how well samples compress.
const OPEN_BYTES: usize = 48 * 1024;

/// The same of all devices; then the one that was opened first is sealed.
const ALL_OPEN_BYTES: usize = 8 * 1024 * 1024;

/// Consecutive samples of one device and run.
pub struct Open {
    pub device: Arc<str>,
    pub run: Run,
    pub simulated: bool,
    /// Boot time (ms) when the first of them came in, and how much later each
    /// of them did.
    pub born_ms: u64,
    pub pushed: Vec<u32>,
    pub entries: Vec<Entry>,
    order: u64,
    bytes: usize,
}

/// The open samples of all devices.
#[derive(Default)]
pub struct Gathering {
    open: HashMap<Arc<str>, Open>,
    /// The devices in the order in which they were opened.
    order: BTreeMap<u64, Arc<str>>,
    next_order: u64,
    bytes: usize,
}

impl Gathering {
    /// Takes a sample in, at boot time `now_ms`; returns what has become
    /// chunks by it.
    pub fn push(&mut self, sample: Sample, simulated: bool, now_ms: u64) -> Vec<Open> {
        let Sample { device, run, seq, at, body } = sample;
        let mut sealed = Vec::new();
        let follows = |open: &Open| {
            open.run == run && open.entries.last().is_none_or(|last| last.seq + 1 == seq)
        };
        if self.open.get(&device).is_some_and(|open| !follows(open)) {
            sealed.extend(self.seal_device(&device));
        }
        let open = self.open.entry(Arc::clone(&device)).or_insert_with(|| {
            let order = self.next_order;
            self.next_order += 1;
            self.order.insert(order, Arc::clone(&device));
            let (entries, pushed) = (Vec::new(), Vec::new());
            let device = Arc::clone(&device);
            Open { device, run, simulated, born_ms: now_ms, pushed, entries, order, bytes: 0 }
        });
        let entry = Entry { seq, at, body };
        open.bytes += entry.payload_bytes();
        self.bytes += entry.payload_bytes();
        open.pushed.push(u32::try_from(now_ms.saturating_sub(open.born_ms)).unwrap_or(u32::MAX));
        open.entries.push(entry);
        if open.bytes >= OPEN_BYTES {
            sealed.extend(self.seal_device(&device));
        }
        if self.bytes > ALL_OPEN_BYTES {
            sealed.extend(self.seal_oldest());
        }
        sealed
    }

    /// What was opened first.
    pub fn seal_oldest(&mut self) -> Option<Open> {
        let device = self.order.values().next().cloned()?;
        self.seal_device(&device)
    }

    fn seal_device(&mut self, device: &Arc<str>) -> Option<Open> {
        let open = self.open.remove(device)?;
        self.order.remove(&open.order);
        self.bytes -= open.bytes;
        Some(open)
    }

    /// Boot time (ms) when the oldest of the samples came in, and its moment.
    pub fn oldest(&self) -> Option<(u64, Moment)> {
        let open = self.open.get(self.order.values().next()?)?;
        open.entries.first().map(|entry| (open.born_ms, entry.at))
    }

    /// The lowest seq: samples come in the order of their seqs.
    pub fn lowest_seq(&self) -> Option<u64> {
        let open = self.open.get(self.order.values().next()?)?;
        open.entries.first().map(|entry| entry.seq)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
