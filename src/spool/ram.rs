//! The half of the spool in RAM: samples gather to chunks, and chunks wait
//! here to be delivered, to become durable, or for room.
//!
//! Nothing scans: with 10,000 devices and 100,000 samples a second every
//! question is answered from an [`Index`].

mod ends;
mod leases;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::clock::BootId;
use crate::ledger::Ranges;
use crate::record::{Gap, Sample};
use crate::spool::chunk::{Chunk, MAX_FRAME_BYTES, Stamp};
use crate::spool::gather::{Gathering, Open};
use crate::spool::held::{Held, Index, Place};
use crate::spool::keeper::Found;
use crate::spool::lease::Delivered;

/// Frames kept while the disk does not take them; the oldest beyond go and
/// are declared.
const RING_BYTES: usize = 4 * 1024 * 1024;

/// Durable frames of this start kept for the drain; the oldest beyond stay on
/// disk only.
const WARM_BYTES: usize = 256 * 1024;

/// What RAM gave up.
#[derive(Default)]
pub struct Trimmed {
    /// Frames that were nowhere else.
    pub dropped: Vec<Arc<[u8]>>,
    /// Numbers, bytes and stamps of those that now are on disk only.
    pub cooled: Vec<(u64, u64, Stamp)>,
}

/// See the module.
pub struct Ram {
    boot: BootId,
    open: Gathering,
    held: BTreeMap<u64, Held>,
    next_id: u64,
    index: Index,
    returns: (Sender<u64>, Receiver<u64>),
    acked: Ranges,
    acked_bytes: u64,
    delivered: u64,
    /// Of thinned chunks that were delivered.
    thinned: Vec<Gap>,
}

impl Ram {
    pub fn new(boot: BootId) -> Self {
        Self {
            boot,
            open: Gathering::default(),
            held: BTreeMap::new(),
            next_id: 0,
            index: Index::default(),
            returns: channel(),
            acked: Ranges::default(),
            acked_bytes: 0,
            delivered: 0,
            thinned: Vec::new(),
        }
    }

    /// Takes a sample in, at boot time `now_ms`.
    pub fn push(&mut self, sample: Sample, simulated: bool, now_ms: u64) {
        let sealed = self.open.push(sample, simulated, now_ms);
        sealed.into_iter().for_each(|open| self.hold_open(open));
    }

    /// Makes chunks of all samples that are not one yet.
    pub fn seal(&mut self) {
        while let Some(open) = self.open.seal_oldest() {
            self.hold_open(open);
        }
    }

    fn hold_open(&mut self, open: Open) {
        let (Some(first), Some(last)) = (open.entries.first(), open.entries.last()) else {
            return;
        };
        let chunk = Chunk {
            number: 0,
            device: open.device,
            run: open.run,
            boot: self.boot,
            simulated: open.simulated,
            foreign: false,
            stride_log2: 0,
            revision: 0,
            first_seq: first.seq,
            last_seq: last.seq,
            entries: open.entries,
        };
        self.hold(chunk, open.born_ms, open.pushed);
    }

    /// Keeps `chunk`, in as many frames as it takes.
    fn hold(&mut self, chunk: Chunk, born_ms: u64, mut pushed: Vec<u32>) {
        let frame = chunk.encode();
        if frame.len() > MAX_FRAME_BYTES && chunk.entries.len() > 1 {
            let (first, second) = chunk.split();
            let rest = pushed.split_off(first.entries.len().min(pushed.len()));
            self.hold(first, born_ms, pushed);
            if let Some(second) = second {
                self.hold(second, born_ms, rest);
            }
            return;
        }
        let Some(stamp) = chunk.stamp() else { return };
        self.add(Held {
            frame: frame.into(),
            entries: chunk.entries.len(),
            first_seq: chunk.first_seq,
            stamp,
            born_ms,
            due_ms: born_ms + pushed.first().map_or(0, |&later_ms| later_ms.into()),
            pushed: pushed.into(),
            place: Place::Ram,
            from_disk: false,
            leased: false,
            gone: false,
            delivered: Delivered::default(),
        });
    }

    /// Keeps what was found on disk.
    pub fn hold_found(&mut self, found: Found) {
        self.add(Held {
            frame: found.frame,
            entries: found.entries,
            first_seq: found.first_seq,
            stamp: found.stamp,
            born_ms: 0,
            due_ms: 0,
            pushed: Box::default(),
            place: Place::Disk(found.number),
            from_disk: true,
            leased: false,
            gone: false,
            delivered: Delivered::default(),
        });
    }

    fn add(&mut self, held: Held) {
        let id = self.next_id;
        self.next_id += 1;
        self.insert(id, held);
    }

    fn insert(&mut self, id: u64, held: Held) {
        self.index.enter(id, &held);
        self.held.insert(id, held);
    }

    fn take(&mut self, id: u64) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.index.leave(id, &held);
        Some(held)
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Held)) {
        if let Some(mut held) = self.take(id) {
            change(&mut held);
            self.insert(id, held);
        }
    }

    /// Boot time (ms) when the oldest sample came in that is neither durable
    /// nor delivered.
    pub fn oldest_ms(&self) -> Option<u64> {
        let mut oldest = self.open.oldest().map_or(u64::MAX, |(born_ms, _)| born_ms);
        // A key may lag behind what the drain has delivered since.
        for &(due_ms, id) in &self.index.due {
            if due_ms >= oldest {
                break;
            }
            oldest = oldest.min(self.held.get(&id).map_or(u64::MAX, Held::oldest_ms));
        }
        (oldest < u64::MAX).then_some(oldest)
    }

    /// The lowest seq of what is neither durable, nor on its way to disk, nor
    /// delivered.
    pub fn lowest_seq(&self) -> Option<u64> {
        let mut lowest = self.open.lowest_seq();
        for &(first_seq, id) in &self.index.seqs {
            if lowest.is_some_and(|lowest| lowest <= first_seq) {
                break;
            }
            let Some(held) = self.held.get(&id) else { continue };
            let seqs = held.delivered.seqs();
            if seqs.count() < held.entries as u64 {
                let seq = seqs.absent_from(first_seq);
                lowest = Some(lowest.map_or(seq, |lowest| lowest.min(seq)));
            }
        }
        lowest
    }

    /// Marks chunks as on their way to disk, the oldest first, up to
    /// `max_bytes`.
    pub fn take_fresh(&mut self, max_bytes: usize) -> (Vec<u64>, Vec<Arc<[u8]>>) {
        let (mut ids, mut frames, mut bytes) = (Vec::new(), Vec::new(), 0);
        for &(_, id) in &self.index.due {
            let Some(held) = self.held.get(&id) else { continue };
            if held.oldest_ms() == u64::MAX {
                continue;
            }
            bytes += held.frame.len();
            if bytes > max_bytes && !ids.is_empty() {
                break;
            }
            ids.push(id);
            frames.push(Arc::clone(&held.frame));
        }
        ids.iter().for_each(|&id| self.change(id, |held| held.place = Place::Committing));
        (ids, frames)
    }

    /// The commit of `ids` has ended: durable under the numbers from `first`
    /// on, or not at all.
    pub fn committed(&mut self, ids: &[u64], first: Option<u64>) {
        for (&id, nth) in ids.iter().zip(0..) {
            let place = first.map_or(Place::Ram, |first| Place::Disk(first + nth));
            self.change(id, |held| held.place = place);
            if self.held.get(&id).is_some_and(|held| held.gone) {
                self.let_go(id);
            }
        }
    }

    /// Takes in which leases have ended, and what was delivered under those
    /// that have not.
    pub fn settle(&mut self) {
        while let Ok(id) = self.returns.1.try_recv() {
            match self.held.get(&id).map(Held::later_ms) {
                Some(None) => self.let_go(id),
                Some(_) => self.change(id, |held| held.leased = false),
                None => {}
            }
        }
        while let Some(&(due_ms, id)) = self.index.due.first()
            && let Some(oldest_ms) = self.held.get(&id).map(Held::oldest_ms)
            && oldest_ms > due_ms
        {
            self.change(id, |held| held.due_ms = oldest_ms);
        }
    }

    /// The disk has evicted the chunks of these numbers; says of each whether
    /// it is lost. What was delivered, if only in part, or is with the drain is
    /// not: that stays here. The rest is let go, too: it is among the oldest.
    pub fn evicted(&mut self, numbers: &[u64]) -> Vec<bool> {
        self.settle();
        let ids = self.held.iter().filter_map(|(&id, held)| match held.place {
            Place::Disk(number) => Some((number, id)),
            Place::Ram | Place::Committing => None,
        });
        let ids: HashMap<u64, u64> = ids.filter(|_| !numbers.is_empty()).collect();
        let mut lost = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some((&id, held)) = ids.get(number).and_then(|id| self.held.get_key_value(id))
            else {
                lost.push(!self.acked.contains(*number));
                continue;
            };
            let idle = !held.leased && held.delivered.seqs().is_empty();
            if idle {
                self.take(id);
            } else {
                self.change(id, |held| held.place = Place::Ram);
            }
            lost.push(idle);
        }
        lost
    }

    /// The disk no longer has the chunks of these numbers: those that are here
    /// are to be made durable once more. Returns the gaps that they would have
    /// left.
    pub fn rescue(&mut self, gone: &Ranges) -> Vec<Gap> {
        let on_disk = |held: &Held| matches!(held.place, Place::Disk(n) if gone.contains(n));
        if gone.is_empty() {
            return Vec::new();
        }
        let ids: Vec<u64> =
            self.held.iter().filter(|(_, held)| on_disk(held)).map(|(&id, _)| id).collect();
        ids.iter().for_each(|&id| self.change(id, |held| held.place = Place::Ram));
        ids.iter().filter_map(|id| self.held.get(id)?.gap()).collect()
    }

    /// Keeps RAM within its bounds.
    pub fn trim(&mut self) -> Trimmed {
        let mut trimmed = Trimmed::default();
        while self.index.warm_bytes > WARM_BYTES
            && let Some(id) = self.index.warm.first().copied()
            && let Some(held) = self.take(id)
        {
            if let Place::Disk(number) = held.place {
                trimmed.cooled.push((number, held.frame.len() as u64, held.stamp));
            }
        }
        let mut excess = self.index.fresh_bytes.saturating_sub(RING_BYTES);
        let mut drop = Vec::new();
        for &(_, id) in &self.index.due {
            if excess == 0 {
                break;
            }
            if let Some(held) = self.held.get(&id).filter(|held| !held.leased) {
                excess = excess.saturating_sub(held.frame.len());
                drop.push(id);
            }
        }
        let dropped = drop.into_iter().filter_map(|id| self.take(id));
        trimmed.dropped = dropped.map(|held| held.frame).collect();
        trimmed
    }

    /// Takes the numbers of durable chunks that were delivered, and their
    /// bytes.
    pub fn take_acked(&mut self) -> (Ranges, u64) {
        (std::mem::take(&mut self.acked), std::mem::take(&mut self.acked_bytes))
    }

    /// Numbers of chunks on disk that are here too, or were until they were
    /// delivered, which the disk does not know yet.
    pub fn busy(&self) -> Ranges {
        let mut busy = self.acked.clone();
        self.index.numbers.iter().for_each(|&number| busy.insert(number));
        busy
    }

    pub fn any_acked(&self) -> bool {
        !self.acked.is_empty()
    }

    /// The stamp of the oldest sample that is not delivered.
    pub fn oldest(&self) -> Option<Stamp> {
        let mut oldest = self.open.oldest().map(|(_, at)| Stamp { boot: self.boot, at });
        for &(wall_ms, id) in &self.index.ages {
            if oldest.is_some_and(|oldest| oldest.at.wall_ms <= wall_ms) {
                break;
            }
            let Some(held) = self.held.get(&id) else { continue };
            let Some(later_ms) = held.later_ms() else { continue };
            let mut stamp = held.stamp;
            stamp.at.wall_ms = stamp.at.wall_ms.saturating_add_unsigned(later_ms);
            stamp.at.boot_ms = stamp.at.boot_ms.saturating_add(later_ms);
            if oldest.is_none_or(|oldest| stamp.at.wall_ms < oldest.at.wall_ms) {
                oldest = Some(stamp);
            }
        }
        oldest
    }

    /// Whether it takes more without dropping anything soon.
    pub fn room(&self) -> bool {
        self.index.fresh_bytes < RING_BYTES / 2
    }

    /// Bytes of the frames that are in RAM only and not on their way to disk.
    pub fn fresh_bytes(&self) -> usize {
        self.index.fresh_bytes
    }

    /// About how many bytes a commit of all that is in RAM only, or on its way
    /// to disk, has; samples that are not yet a chunk shrink when they become
    /// one.
    pub fn undurable_bytes(&self) -> u64 {
        (self.index.bytes as u64).saturating_sub(self.index.durable.1)
            + self.open.bytes() as u64 / 4
    }

    /// Bytes from disk that are not leased.
    pub fn backlog_bytes(&self) -> usize {
        self.index.backlog_bytes
    }

    /// How many chunks here are durable too, and their bytes.
    pub fn durable(&self) -> (u64, u64) {
        self.index.durable
    }

    /// Bytes not delivered, samples that are not yet a chunk included.
    pub fn bytes(&self) -> u64 {
        (self.index.bytes + self.open.bytes()) as u64
    }

    /// Samples delivered.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }
}
