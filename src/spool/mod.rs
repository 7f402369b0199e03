//! The spool: what was sampled and not yet delivered.
//!
//! Samples gather in RAM. When the oldest has waited for `max_loss`, all that
//! is not yet durable goes to disk in one commit, as [`chunk`] frames in the
//! newest of a row of small databases ([`generation`]). The drain takes chunks
//! by [`lease`](Spool::lease), the freshest from RAM, the backlog from disk;
//! what it acknowledges before `max_loss` never touches the disk at all.
//!
//! Promises: at most `max_loss`, one sample interval and one commit are lost
//! by a kill or a power cut, nothing by a clean stop; everything under the
//! folder stays within its bounds, and what they evict is declared as a
//! [`Gap`]; memory does not grow with the backlog.
//!
//! One thread owns the disk ([`thread`]); this half never blocks.

pub mod chunk;
mod claim;
mod dead;
mod generation;
pub mod inspect;
mod keeper;
mod lease;
mod policy;
mod store;
mod thread;

pub use claim::{Claim, Error, max_loss};
pub use lease::Lease;
pub use thread::Reply;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::clock::{BootId, Moment};
use crate::ledger::Ranges;
use crate::record::{Gap, GapReason, Run, Sample};
use crate::spool::chunk::{Chunk, Entry, Header, MAX_FRAME_BYTES};
use crate::spool::keeper::{Commit, Holding, gap_of};
use crate::spool::lease::Return;
use crate::spool::thread::{Command, Line};

/// Where, how much, and how safe.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub path: PathBuf,
    /// What a power cut may take; `None` is `auto`: 10 s, on an SD card or
    /// eMMC 2 min.
    pub max_loss: Option<Duration>,
    /// Everything under `path` stays below this.
    pub max_bytes: u64,
    pub keep_free: KeepFree,
    pub when_full: WhenFull,
}

/// What the spool leaves free on its file system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KeepFree {
    /// 0..1 of the file system.
    Share(f64),
    Bytes(u64),
}

/// What goes when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    DropOldest,
}

/// Raw bytes of a chunk that is still open at most: about eight times what
/// fits a frame, which is how well samples compress.
const OPEN_BYTES: usize = 48 * 1024;

/// Frames not yet durable at which a commit does not wait for `max_loss`.
const COMMIT_BYTES: usize = 256 * 1024;

/// Frames kept in RAM while the disk does not take them; the oldest beyond go
/// and are declared.
const RING_BYTES: usize = 2 * 1024 * 1024;

/// Durable frames kept in RAM for the drain; the oldest beyond stay on disk
/// only.
const WARM_BYTES: usize = 256 * 1024;

/// Backlog frames asked of the disk at once.
const FETCH_BYTES: usize = 256 * 1024;

/// How long a failed commit waits before it is tried again.
const COMMIT_RETRY_MS: u64 = 5_000;

/// A chunk in RAM.
struct Held {
    frame: Arc<[u8]>,
    entries: usize,
    /// Boot time (ms) when its oldest sample came in.
    born_ms: u64,
    /// Wall time (ms) of its oldest sample.
    wall_ms: i64,
    durable: bool,
    leased: bool,
    from_disk: bool,
    /// Delivered, but a commit that makes it durable is under way.
    acked: bool,
}

/// Samples of one device that are not yet a chunk.
struct Open {
    run: Run,
    simulated: bool,
    entries: Vec<Entry>,
    bytes: usize,
    born_ms: u64,
}

/// Counters since the start, and what is held now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub pushed: u64,
    pub delivered: u64,
    pub commits: u64,
    /// Samples that the RAM ring dropped.
    pub ring_dropped: u64,
    pub holding: Holding,
    /// Bytes undelivered in RAM.
    pub ram_bytes: u64,
    /// Why the disk does not take anything, if it does not.
    pub trouble: Option<String>,
}

/// The half of the spool that never blocks.
pub struct Spool {
    max_loss_ms: u64,
    boot: BootId,
    line: Line,
    next: Option<u64>,
    open: BTreeMap<Arc<str>, Open>,
    held: BTreeMap<u64, Held>,
    returns: (Sender<Return>, Receiver<Return>),
    acked: Ranges,
    committing: Option<Ranges>,
    retry_ms: u64,
    fetching: bool,
    offsets: BTreeMap<String, i64>,
    new_offsets: Vec<(String, i64)>,
    declared: Vec<Gap>,
    declare: Vec<Gap>,
    disk_oldest_wall_ms: Option<i64>,
    stats: Stats,
}

impl Spool {
    /// Starts the owner thread on a claimed folder.
    pub fn open(claim: Claim, boot: BootId) -> Result<Self, Error> {
        let Claim { folder, bounds, max_loss, ledger, .. } = claim;
        let path = folder.clone();
        let line = thread::start(folder, bounds, ledger).map_err(|source| Error::Io {
            verb: "opened",
            path,
            source,
        })?;
        Ok(Self {
            max_loss_ms: u64::try_from(max_loss.as_millis()).unwrap_or(u64::MAX),
            boot,
            line,
            next: None,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            returns: channel(),
            acked: Ranges::default(),
            committing: None,
            retry_ms: 0,
            fetching: false,
            offsets: BTreeMap::new(),
            new_offsets: Vec::new(),
            declared: Vec::new(),
            declare: Vec::new(),
            disk_oldest_wall_ms: None,
            stats: Stats::default(),
        })
    }

    /// Takes a sample in, at boot time `now_ms`.
    pub fn push(&mut self, sample: Sample, simulated: bool, now_ms: u64) {
        self.stats.pushed += 1;
        let Sample { device, run, seq, at, body } = sample;
        let entry = Entry { seq, at, body };
        let open = self.open.entry(Arc::clone(&device)).or_insert_with(|| Open {
            run,
            simulated,
            entries: Vec::new(),
            bytes: 0,
            born_ms: now_ms,
        });
        open.bytes += entry.payload_bytes();
        open.entries.push(entry);
        if open.bytes >= OPEN_BYTES {
            self.seal_device(&device);
        }
    }

    /// Makes chunks of all samples that are not one yet.
    pub fn seal(&mut self) {
        let devices: Vec<_> = self.open.keys().cloned().collect();
        devices.iter().for_each(|device| self.seal_device(device));
    }

    fn seal_device(&mut self, device: &Arc<str>) {
        let Some(next) = self.next else { return };
        let Some(open) = self.open.remove(device) else {
            return;
        };
        let (Some(first), Some(last)) = (open.entries.first(), open.entries.last()) else {
            return;
        };
        let chunk = Chunk {
            number: next,
            device: Arc::clone(device),
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
        self.next = Some(self.hold(chunk, open.born_ms));
    }

    /// Keeps `chunk` in RAM, in as many frames as it takes; returns the next
    /// free number.
    fn hold(&mut self, chunk: Chunk, born_ms: u64) -> u64 {
        let mut todo = VecDeque::from([chunk]);
        let mut next = todo.front().map_or(0, |chunk| chunk.number);
        while let Some(mut chunk) = todo.pop_front() {
            chunk.number = next;
            let frame = chunk.encode();
            if frame.len() > MAX_FRAME_BYTES && chunk.entries.len() > 1 {
                let (first, second) = chunk.split();
                second.into_iter().for_each(|second| todo.push_front(second));
                todo.push_front(first);
                continue;
            }
            let held = Held {
                frame: frame.into(),
                entries: chunk.entries.len(),
                born_ms,
                wall_ms: chunk.entries.iter().map(|e| e.at.wall_ms).min().unwrap_or_default(),
                durable: false,
                leased: false,
                from_disk: false,
                acked: false,
            };
            self.held.insert(next, held);
            next += 1;
        }
        next
    }

    /// Commits when it is time; to be called at each sample and at
    /// [`Spool::due_ms`].
    pub fn tick(&mut self, now: &Moment) {
        self.take_returns();
        self.trim();
        if self.due_ms().is_some_and(|due| due <= now.boot_ms) {
            self.seal();
            self.commit(now.boot_ms);
        }
    }

    /// Boot time (ms) of the next commit, if there is anything to commit.
    pub fn due_ms(&self) -> Option<u64> {
        if self.next.is_none() || self.committing.is_some() {
            return None;
        }
        let fresh = self.held.values().filter(|held| !held.durable);
        let (oldest, bytes) = fresh.fold((None, 0), |(oldest, bytes), held| {
            let oldest = oldest.map_or(held.born_ms, |o: u64| o.min(held.born_ms));
            (Some(oldest), bytes + held.frame.len())
        });
        let open = self.open.values().map(|open| open.born_ms).min();
        let oldest = oldest.into_iter().chain(open).min();
        let due =
            if bytes >= COMMIT_BYTES { Some(0) } else { oldest.map(|ms| ms + self.max_loss_ms) };
        let marks = !self.acked.is_empty() || !self.declared.is_empty() || !self.declare.is_empty();
        let due = due.or(marks.then_some(self.retry_ms));
        due.map(|due| due.max(self.retry_ms))
    }

    fn commit(&mut self, now_ms: u64) {
        let fresh = self.held.iter().filter(|(_, held)| !held.durable);
        let frames: Vec<_> = fresh.map(|(&n, held)| (n, Arc::clone(&held.frame))).collect();
        let mut numbers = Ranges::default();
        frames.iter().for_each(|(number, _)| numbers.insert(*number));
        let commit = Commit {
            frames,
            acked: std::mem::take(&mut self.acked),
            declared: std::mem::take(&mut self.declared),
            declare: std::mem::take(&mut self.declare),
            next_chunk: self.next.unwrap_or_default(),
            offsets: std::mem::take(&mut self.new_offsets),
        };
        self.committing = Some(numbers);
        // The next one waits its turn even if nothing fresh comes.
        self.retry_ms = now_ms.saturating_add(self.max_loss_ms.min(COMMIT_RETRY_MS));
        self.send(Command::Commit(commit));
    }

    fn send(&mut self, command: Command) {
        if self.line.commands.send(command).is_err() {
            self.stats.trouble = Some("the spool's thread has ended".into());
            self.fetching = false;
            self.committing = None;
        }
    }

    /// The next answer of the owner thread; to be handed to [`Spool::heard`].
    pub async fn hear(&mut self) -> Option<Reply> {
        self.line.replies.recv().await
    }

    /// Takes the thread's answer in.
    pub fn heard(&mut self, reply: Reply) {
        match reply {
            Reply::Opened { next_chunk, offsets, holding } => {
                self.next = Some(next_chunk);
                self.offsets.extend(offsets);
                self.stats.holding = holding;
            }
            Reply::OpenFailed(why) => self.in_trouble(Some(why)),
            Reply::Committed(result, holding) => self.committed(result, holding),
            Reply::Fetched { frames, holding } => self.fetched(frames, holding),
            Reply::Closed(result) => self.in_trouble(result.err()),
        }
    }

    fn in_trouble(&mut self, trouble: Option<String>) {
        match (&self.stats.trouble, &trouble) {
            (None, Some(why)) => {
                tracing::error!("the spool takes nothing, samples stay in memory: {why}");
            }
            (Some(_), None) => tracing::info!("the spool takes samples again"),
            _ => {}
        }
        self.stats.trouble = trouble;
    }

    fn committed(&mut self, result: Result<(), String>, holding: Holding) {
        let numbers = self.committing.take().unwrap_or_default();
        self.stats.holding = holding;
        self.stats.commits += 1;
        let failed = result.is_err();
        self.in_trouble(result.err());
        for (first, last) in numbers.iter() {
            for (_, held) in self.held.range_mut(first..=last) {
                held.durable = !failed;
            }
        }
        let done: Vec<u64> =
            self.held.iter().filter(|(_, held)| held.acked).map(|(&n, _)| n).collect();
        for number in done {
            let held = self.held.remove(&number);
            if held.is_some_and(|held| held.durable) {
                self.acked.insert(number);
            }
        }
        self.trim();
    }

    fn fetched(&mut self, frames: Vec<(u64, Vec<u8>)>, holding: Holding) {
        self.fetching = false;
        self.stats.holding = holding;
        if frames.is_empty() {
            self.disk_oldest_wall_ms = None;
        }
        for (number, frame) in frames {
            match Chunk::decode(&frame) {
                Ok(chunk) => {
                    let wall_ms = chunk.entries.iter().map(|e| e.at.wall_ms).min();
                    let held = Held {
                        frame: frame.into(),
                        entries: chunk.entries.len(),
                        born_ms: 0,
                        wall_ms: wall_ms.unwrap_or_default(),
                        durable: true,
                        leased: false,
                        from_disk: true,
                        acked: false,
                    };
                    self.held.insert(number, held);
                }
                Err(error) => {
                    tracing::error!(chunk = number, %error, "a chunk on disk cannot be read");
                    self.acked.insert(number);
                }
            }
        }
    }

    /// Keeps RAM within its bounds.
    fn trim(&mut self) {
        let (mut ring, mut warm) = (0, 0);
        let mut drop_ring = Vec::new();
        let mut drop_warm = Vec::new();
        for (&number, held) in self.held.iter().rev() {
            let idle = !held.leased && !held.acked;
            if !held.durable {
                ring += held.frame.len();
                let busy = self.committing.as_ref().is_some_and(|c| c.contains(number));
                if ring > RING_BYTES && idle && !busy {
                    drop_ring.push(number);
                }
            } else if !held.from_disk {
                warm += held.frame.len();
                if warm > WARM_BYTES && idle {
                    drop_warm.push(number);
                }
            }
        }
        for number in drop_warm {
            if let Some(held) = self.held.remove(&number) {
                let oldest = self.disk_oldest_wall_ms.unwrap_or(i64::MAX);
                self.disk_oldest_wall_ms = Some(oldest.min(held.wall_ms));
            }
        }
        for number in drop_ring {
            let Some(held) = self.held.remove(&number) else {
                continue;
            };
            self.stats.ring_dropped += held.entries as u64;
            let Ok((header, _)) = Header::read(&held.frame) else {
                continue;
            };
            let gap = gap_of(&header, GapReason::RingOverflow);
            if !self.declare.iter_mut().any(|known| known.absorb(&gap)) {
                self.declare.push(gap);
            }
        }
    }

    fn take_returns(&mut self) {
        while let Ok(end) = self.returns.1.try_recv() {
            match end {
                Return::Acked(number) => self.acknowledged(number),
                Return::Released(number) => {
                    if let Some(held) = self.held.get_mut(&number) {
                        held.leased = false;
                    }
                }
            }
        }
    }

    fn acknowledged(&mut self, number: u64) {
        let committing = self.committing.as_ref().is_some_and(|c| c.contains(number));
        let Some(held) = self.held.get_mut(&number) else {
            return;
        };
        self.stats.delivered += held.entries as u64;
        if committing {
            held.acked = true;
        } else if let Some(held) = self.held.remove(&number)
            && held.durable
        {
            self.acked.insert(number);
        }
    }

    /// The next chunk to deliver: the oldest of the fresh ones, then the
    /// oldest of the backlog, or with `oldest_first` the other way round.
    /// `None` where nothing is at hand; see [`Spool::more_to_come`].
    pub fn lease(&mut self, oldest_first: bool) -> Option<(Chunk, Lease)> {
        self.take_returns();
        let idle = |backlog: bool| {
            let mut all = self.held.iter();
            let found = all.find(|(_, h)| !h.leased && !h.acked && h.from_disk == backlog);
            found.map(|(&number, _)| number)
        };
        let backlog = idle(true);
        if backlog.is_none() && oldest_first && self.more_to_come() {
            return None;
        }
        let number = if oldest_first { backlog.or(idle(false)) } else { idle(false).or(backlog) }?;
        let held = self.held.get_mut(&number)?;
        held.leased = true;
        let chunk = Chunk::decode(&held.frame).ok()?;
        Some((chunk, Lease::new(number, held.entries, self.returns.0.clone())))
    }

    /// Asks the disk for more of the backlog if little is at hand.
    pub fn prefetch(&mut self) {
        self.take_returns();
        let at_hand = self.held.values().filter(|held| held.from_disk && !held.leased);
        let bytes: usize = at_hand.map(|held| held.frame.len()).sum();
        if self.fetching || self.next.is_none() || bytes > FETCH_BYTES / 2 || !self.on_disk_only() {
            return;
        }
        let mut except = Ranges::default();
        self.held.keys().for_each(|&number| except.insert(number));
        self.fetching = true;
        let acked = std::mem::take(&mut self.acked);
        // Told now, durable with the next commit.
        self.send(Command::Fetch { acked: acked.clone(), except, max_bytes: FETCH_BYTES });
        self.acked = acked;
    }

    /// Whether the disk holds chunks that are not in RAM.
    fn on_disk_only(&self) -> bool {
        let durable = self.held.values().filter(|held| held.durable).count() as u64;
        self.stats.holding.chunks > durable
    }

    /// Whether a fetch is under way or due.
    pub fn more_to_come(&self) -> bool {
        self.fetching || self.next.is_none() || self.on_disk_only()
    }

    /// Sets a refused record aside; its lease is acknowledged once that is
    /// durable.
    pub fn bury(&mut self, reason: String, record: String, lease: Option<Lease>) {
        self.send(Command::Bury { reason, record, lease });
    }

    /// Declarations not yet delivered.
    pub fn declarations(&self) -> Vec<Gap> {
        let all = self.stats.holding.declarations.iter();
        all.filter(|gap| !self.declared.contains(gap)).cloned().collect()
    }

    /// `gap` was delivered.
    pub fn declared(&mut self, gap: Gap) {
        self.stats.holding.declarations.retain(|known| *known != gap);
        self.declared.push(gap);
    }

    /// What the offset (wall minus boot time, ms) of this boot is.
    pub fn set_offset(&mut self, offset_ms: i64) {
        let boot = self.boot.to_string();
        let known = self.offsets.insert(boot.clone(), offset_ms);
        if known != Some(offset_ms) {
            self.new_offsets.push((boot, offset_ms));
        }
    }

    /// The offset of `boot`, if that boot ever saw the right time.
    pub fn offset_ms(&self, boot: BootId) -> Option<i64> {
        self.offsets.get(&boot.to_string()).copied()
    }

    /// Undelivered bytes, and the wall time (ms) of the oldest sample of them.
    pub fn backlog(&self) -> (u64, Option<i64>) {
        let held = self.held.values().filter(|held| !held.acked);
        let oldest_held = held.clone().map(|held| held.wall_ms).min();
        let opened = self.open.values().flat_map(|open| open.entries.first());
        let oldest_open = opened.map(|entry| entry.at.wall_ms).min();
        let oldest = [oldest_held, oldest_open, self.disk_oldest_wall_ms];
        let durable: u64 =
            held.filter(|held| held.durable).map(|held| held.frame.len() as u64).sum();
        let disk = self.stats.holding.bytes.saturating_sub(durable);
        (self.ram_bytes() + disk, oldest.into_iter().flatten().min())
    }

    fn ram_bytes(&self) -> u64 {
        let held = self.held.values().filter(|h| !h.acked).map(|h| h.frame.len()).sum::<usize>();
        let open = self.open.values().map(|open| open.bytes).sum::<usize>();
        (held + open) as u64
    }

    pub fn stats(&self) -> Stats {
        Stats { ram_bytes: self.ram_bytes(), ..self.stats.clone() }
    }

    /// Makes everything durable that is not delivered, and ends the thread.
    /// Takes as long as the disk; the caller bounds it.
    pub async fn close(&mut self, now: &Moment) -> Result<(), String> {
        while self.next.is_none() || self.committing.is_some() {
            let Some(reply) = self.hear().await else {
                break;
            };
            let failed = matches!(reply, Reply::OpenFailed(_));
            self.heard(reply);
            if failed {
                break;
            }
        }
        self.take_returns();
        self.seal();
        self.commit(now.boot_ms);
        self.send(Command::Close);
        while let Some(reply) = self.hear().await {
            self.heard(reply);
        }
        if let Some(thread) = self.line.thread.take() {
            let _ = thread.join();
        }
        self.stats.trouble.take().map_or(Ok(()), Err)
    }
}
