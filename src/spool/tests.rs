//! Tests of the whole room, on real disks and on faulty ones.

mod crash;
mod damage;
mod disk;
mod ends;
mod faults;
mod memory;
mod model;
mod thin;
mod upkeep;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use crate::clock::{BootId, Moment};
use crate::record::{Gap, GapReason, Marker, Run, Sample};
use crate::spool::store::{Opener, SledOpener, Store, StoreError};
use crate::spool::{Claim, KeepFree, Lease, Settings, Spool, WhenFull};

const BOOT: BootId = BootId([7; 16]);

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        max_loss: Some(Duration::from_secs(10)),
        max_bytes: 64 * 1024 * 1024,
        keep_free: KeepFree::Bytes(0),
        when_full: WhenFull::DropOldest,
    }
}

fn at(ms: u64) -> Moment {
    Moment { wall_ms: 1_790_000_000_000 + ms.cast_signed(), boot_ms: ms, synced: true }
}

/// Text that does not compress: a body's size is then about a frame's.
static NOISE: LazyLock<String> = LazyLock::new(|| {
    let letters = std::iter::repeat_with(|| char::from(rand::random_range(b'#'..=b'~')));
    letters.filter(|letter| *letter != '\\').take(1 << 18).collect()
});

fn sample(device: &str, run: Run, seq: u64, at: Moment, body_bytes: usize) -> Sample {
    let from = (seq as usize).wrapping_mul(7919) % (NOISE.len() - body_bytes);
    let noise = NOISE.get(from..from + body_bytes).unwrap();
    let body = format!("\"simulated\":true,\"noise\":\"{noise}\"").into();
    Sample { device: device.into(), run, seq, at, body }
}

/// A spool, a clock that only tests move, and one device.
struct Rig {
    spool: Spool,
    run: Run,
    now: Moment,
    next_seq: u64,
}

impl Rig {
    fn open(settings: &Settings) -> Self {
        Self::open_on(settings, Box::new(SledOpener))
    }

    fn open_on(settings: &Settings, opener: Box<dyn Opener>) -> Self {
        let mut rig = Self::starting(settings, opener);
        rig.pump();
        assert!(rig.spool.opened, "{:?}", rig.spool.stats());
        rig
    }

    /// Does not wait until the spool is open.
    fn starting(settings: &Settings, opener: Box<dyn Opener>) -> Self {
        let claim = Claim::new(settings).unwrap();
        let run = claim.run();
        let spool = Spool::open_on(claim, BOOT, opener).unwrap();
        Self { spool, run, now: at(0), next_seq: 0 }
    }

    fn push(&mut self, body_bytes: usize) {
        let sample = sample("sim-0", self.run, self.next_seq, self.now, body_bytes);
        self.next_seq += 1;
        self.spool.push(sample, true, self.now.boot_ms);
    }

    fn push_many(&mut self, count: usize, body_bytes: usize) {
        (0..count).for_each(|_| self.push(body_bytes));
    }

    /// Lets `ms` pass, and hears what the thread has to say about it.
    fn pass(&mut self, ms: u64) {
        self.now = at(self.now.boot_ms + ms);
        self.spool.tick(&self.now);
        self.pump();
    }

    /// Hears until nothing is under way; a commit may follow a commit.
    fn pump(&mut self) {
        let busy = |spool: &Spool| {
            let opening = !spool.opened && spool.writing.why.is_none();
            opening || spool.committing.is_some() || spool.fetching.is_under_way()
        };
        while busy(&self.spool) {
            self.hear();
            self.spool.tick(&self.now);
        }
    }

    fn hear(&mut self) {
        let reply = block_on(self.spool.hear());
        self.spool.heard(reply);
    }

    /// Makes all that was pushed durable.
    fn commit(&mut self) {
        self.pass(10_000);
        assert_eq!(self.spool.stats().trouble, None);
        assert_eq!(self.spool.ram.oldest_ms(), None);
    }

    fn close(mut self) {
        block_on(self.spool.close(&self.now)).unwrap();
    }

    /// Ends as a kill would have it, at a moment when nothing is under way.
    fn crash(mut self) {
        let thread = self.spool.line.thread.take().unwrap();
        drop(self);
        thread.join().unwrap();
    }

    /// Leases and acknowledges all there is, the oldest first or the freshest;
    /// returns the seqs of this device's `run`.
    fn drain(&mut self, oldest_first: bool) -> Vec<(Run, u64)> {
        let mut drained = Vec::new();
        let until = Instant::now() + PATIENCE;
        loop {
            self.spool.prefetch();
            while let Some((chunk, lease)) = self.spool.lease(oldest_first) {
                for entry in &chunk.entries {
                    lease.ack(entry.seq);
                    drained.push((chunk.run, entry.seq));
                }
            }
            if !self.spool.more_to_come() {
                return drained;
            }
            assert!(Instant::now() < until, "{:?}", self.spool.stats());
            self.spool.prefetch();
            self.pump();
        }
    }

    /// All that is to be said, which counts as said from now on.
    fn told(&mut self) -> Vec<Marker> {
        let mut told = Vec::new();
        loop {
            let markers = self.spool.declarations();
            if markers.is_empty() {
                return told;
            }
            told.extend(markers.iter().cloned());
            markers.into_iter().for_each(|marker| self.spool.declared(marker));
        }
    }

    /// The same, once what was delivered is durable: its gaps.
    fn gaps(&mut self) -> Vec<Gap> {
        self.pass(10_000);
        self.pass(10_000);
        let gap = |marker| if let Marker::Gap(gap) = marker { Some(gap) } else { None };
        self.told().into_iter().filter_map(gap).collect()
    }

    fn declared(&mut self) -> BTreeSet<u64> {
        let mut seqs = BTreeSet::new();
        for marker in self.told() {
            let Marker::Gap(gap) = &marker else { panic!("{marker:?}") };
            seqs.extend(seqs_of(gap));
        }
        seqs
    }

    fn lease_all(&mut self) -> Vec<(Vec<u64>, Lease)> {
        self.spool.seal();
        let leases = std::iter::from_fn(|| self.spool.lease(false));
        leases
            .map(|(chunk, lease)| (chunk.entries.iter().map(|e| e.seq).collect(), lease))
            .collect()
    }
}

fn seqs_of(gap: &Gap) -> std::ops::RangeInclusive<u64> {
    assert_eq!(gap.kept > 0, gap.reason == GapReason::Thinned, "{gap:?}");
    gap.first_seq..=gap.last_seq
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") })
}

/// Copies all of `from`, as a kill or a slow look would find it.
/// Holes stay holes: the copy takes no more of the disk than the original.
fn copy(from: &Path, to: &Path) {
    let mut cp = std::process::Command::new("cp");
    let status = cp.args(["-rT", "--sparse=always"]).args([from, to]).status();
    assert!(status.unwrap().success(), "cp of coreutils copies a folder");
}

/// What a [`FaultyStore`] does.
#[derive(Default)]
struct Faults {
    /// errno that puts and flushes, opens, and reads fail with; 0 for none.
    write: AtomicU64,
    open: AtomicU64,
    read: AtomicU64,
    /// Writes wait as long as it is set.
    hang: AtomicBool,
    opens: AtomicU64,
    /// Counts down at each put and flush; at zero the folder is copied.
    snapshot_in: Mutex<Option<(u64, std::path::PathBuf, std::path::PathBuf)>>,
}

impl Faults {
    fn check(kind: &AtomicU64, folder: &Path) -> Result<(), StoreError> {
        match kind.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(StoreError::io(folder, std::io::Error::from_raw_os_error(errno as i32))),
        }
    }

    fn before_write(&self, folder: &Path) -> Result<(), StoreError> {
        while self.hang.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut snapshot = self.snapshot_in.lock().unwrap();
        if let Some((left, from, to)) = &mut *snapshot {
            if *left == 0 {
                copy(from, to);
                *snapshot = None;
            } else {
                *left -= 1;
            }
        }
        Self::check(&self.write, folder)
    }
}

/// Opens sled and puts [`Faults`] before it.
struct FaultyOpener(Arc<Faults>);

struct FaultyStore {
    store: Box<dyn Store>,
    folder: std::path::PathBuf,
    faults: Arc<Faults>,
}

impl Opener for FaultyOpener {
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError> {
        self.0.opens.fetch_add(1, Ordering::SeqCst);
        Faults::check(&self.0.open, folder)?;
        let (store, faults) = (SledOpener.open(folder)?, Arc::clone(&self.0));
        Ok(Box::new(FaultyStore { store, folder: folder.to_owned(), faults }))
    }

    fn read(&self, folder: &Path, patient: bool) -> Result<Box<dyn Store>, StoreError> {
        self.0.opens.fetch_add(1, Ordering::SeqCst);
        Faults::check(&self.0.open, folder)?;
        let (store, faults) = (SledOpener.read(folder, patient)?, Arc::clone(&self.0));
        Ok(Box::new(FaultyStore { store, folder: folder.to_owned(), faults }))
    }
}

impl Store for FaultyStore {
    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError> {
        self.faults.before_write(&self.folder)?;
        self.store.put(number, value)
    }

    fn get(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Faults::check(&self.faults.read, &self.folder)?;
        self.store.get(number)
    }

    fn scan(
        &mut self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        Faults::check(&self.faults.read, &self.folder)?;
        self.store.scan(from, to, max_bytes)
    }

    fn last(&mut self) -> Result<Option<u64>, StoreError> {
        Faults::check(&self.faults.read, &self.folder)?;
        self.store.last()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.faults.before_write(&self.folder)?;
        self.store.flush()
    }
}
