//! Disks that fail, fill up, or take nothing; folders that cannot be had.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::Ordering;

use super::*;
use crate::ledger::{self, Ranges};
use crate::spool::chunk::{Chunk, Entry};
use crate::spool::generation::disk_bytes;
use crate::spool::keeper::{Commit, Keeper};
use crate::spool::{Error, max_loss};

const EIO: u64 = 5;
const ENOSPC: u64 = 28;
const EROFS: u64 = 30;

/// A file system of its own, which goes with it.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn tmpfs(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(folder.path())
            .status();
        assert!(done.unwrap().success(), "this test mounts a tmpfs: run it as root");
        Self { folder }
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let done = Command::new("mount").args(["-o", &options]).arg(self.folder.path()).status();
        assert!(done.unwrap().success());
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn faulty(settings: &Settings) -> (Rig, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (Rig::open_on(settings, Box::new(FaultyOpener(Arc::clone(&faults)))), faults)
}

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing() {
    for errno in [EIO, ENOSPC, EROFS] {
        let folder = tempfile::tempdir().unwrap();
        let (mut rig, faults) = faulty(&settings(folder.path()));
        rig.push_many(20, 100);
        rig.commit();
        faults.write.store(errno, Ordering::SeqCst);
        for _ in 0..10 {
            rig.push_many(20, 100);
            rig.pass(10_000);
            assert!(rig.spool.stats().trouble.is_some());
        }
        assert_eq!(rig.spool.stats().commits, 1);
        // It is tried more and more seldom, and reopened each time.
        let opens = faults.opens.load(Ordering::SeqCst);
        assert!((3..12).contains(&opens), "{opens} opens");
        faults.write.store(0, Ordering::SeqCst);
        rig.pass(60_000);
        assert_eq!(rig.spool.stats().trouble, None);
        rig.crash();
        let mut rig = Rig::open(&settings(folder.path()));
        let seqs: Vec<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
        // A full disk evicts the oldest, a failing one nothing.
        let declared = rig.declared();
        let all: BTreeSet<u64> = seqs.iter().copied().chain(declared.iter().copied()).collect();
        assert_eq!(all, (0..220).collect(), "errno {errno}");
        assert_eq!(seqs.len() + declared.len(), 220, "errno {errno}");
        assert!(declared.is_empty() || errno == ENOSPC, "errno {errno}");
        assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
    }
}

#[test]
fn a_connected_agent_on_a_card_learns_that_the_disk_is_well_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut rig, faults) =
        faulty(&Settings { max_loss: Some(Duration::from_secs(120)), ..settings(folder.path()) });
    rig.push(10);
    faults.write.store(EIO, Ordering::SeqCst);
    rig.pass(120_000);
    assert!(rig.spool.stats().trouble.is_some());
    faults.write.store(0, Ordering::SeqCst);
    // Each sample is delivered long before a commit of it is due.
    for _ in 0..3 {
        rig.drain(false);
        rig.push(10);
        rig.pass(30_000);
    }
    assert_eq!(rig.spool.stats().trouble, None);
    let commits = rig.spool.stats().commits;
    rig.drain(false);
    rig.push(10);
    rig.pass(30_000);
    assert_eq!(rig.spool.stats().commits, commits, "the card is left alone again");
}

#[test]
fn a_failed_sync_is_not_trusted_with_the_next_frames() {
    let folder = tempfile::tempdir().unwrap();
    let (mut rig, faults) = faulty(&settings(folder.path()));
    rig.push(10);
    rig.commit();
    faults.write.store(EIO, Ordering::SeqCst);
    rig.push(10);
    rig.pass(10_000);
    faults.write.store(0, Ordering::SeqCst);
    rig.pass(60_000);
    assert_eq!(rig.spool.stats().trouble, None);
    let generations = crate::spool::generation::firsts(folder.path()).unwrap();
    assert_eq!(generations.len(), 2, "{generations:?}");
}

#[test]
fn what_memory_saved_from_an_eviction_stays_declared_until_it_is_durable_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 8 << 20, ..settings(folder.path()) };
    let (mut rig, faults) = faulty(&settings);
    rig.push_many(50, 1000);
    rig.commit();
    let held = rig.lease_all();
    let commit_once = |rig: &mut Rig| {
        rig.now = at(rig.now.boot_ms + 10_000);
        rig.spool.tick(&rig.now);
        while rig.spool.committing.is_some() {
            rig.hear();
        }
    };
    while rig.spool.saved_samples == 0 {
        rig.push_many(50, 1000);
        commit_once(&mut rig);
    }
    let saved: BTreeSet<u64> = held.iter().flat_map(|(seqs, _)| seqs).copied().collect();
    faults.write.store(ENOSPC, Ordering::SeqCst);
    commit_once(&mut rig);
    assert!(rig.spool.stats().trouble.is_some());
    drop(held);
    rig.crash();

    let mut rig = Rig::open(&settings);
    assert_eq!(rig.declared().intersection(&saved).count(), saved.len());
}

#[test]
fn a_backlog_that_cannot_be_read_now_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push_many(100, 5000);
    rig.close();
    let (rig, faults) = faulty(&settings(folder.path()));
    rig.crash();
    faults.read.store(EROFS, Ordering::SeqCst);
    let mut rig =
        Rig::starting(&settings(folder.path()), Box::new(FaultyOpener(Arc::clone(&faults))));
    rig.hear();
    assert!(!rig.spool.opened && rig.spool.stats().trouble.is_some());
    faults.read.store(0, Ordering::SeqCst);
    rig.hear();
    rig.pump();
    faults.read.store(EIO, Ordering::SeqCst);
    let mut leased = Vec::new();
    while let Some((chunk, lease)) = rig.spool.lease(true) {
        chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
        leased.extend(chunk.entries.iter().map(|entry| entry.seq));
        drop(lease);
        rig.spool.prefetch();
        rig.pump();
    }
    assert!(rig.spool.stats().trouble.is_some() && rig.spool.more_to_come());
    faults.read.store(0, Ordering::SeqCst);
    rig.pass(60_000);
    leased.extend(rig.drain(true).into_iter().map(|(_, seq)| seq));
    assert_eq!(leased, (0..100).collect::<Vec<_>>());
    assert_eq!(rig.spool.stats().trouble, None);
    assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
}

#[test]
fn what_a_bad_medium_never_gives_is_counted_as_lost_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push_many(100, 5000);
    rig.close();
    let (mut rig, faults) = faulty(&settings(folder.path()));
    faults.read.store(EIO, Ordering::SeqCst);
    let mut drained = 0;
    for minutes in 0..40 {
        assert!(minutes > 10 || rig.spool.stats().holding.lost_chunks == 0, "it may come back");
        while let Some((chunk, lease)) = rig.spool.lease(true) {
            chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
            drained += chunk.entries.len() as u64;
        }
        rig.spool.prefetch();
        rig.pass(60_000);
    }
    let stats = rig.spool.stats();
    assert!(!rig.spool.more_to_come(), "{stats:?}");
    assert_eq!(stats.holding.lost_chunks + drained, 100);
    assert!(drained > 0 && drained < 100);
}

#[test]
fn evictions_that_do_not_help_are_few_whatever_the_file_system_says() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 8 << 20, ..settings(folder.path()) };
    let (mut rig, faults) = faulty(&settings);
    let generations = || crate::spool::generation::firsts(folder.path()).unwrap().len();
    while generations() < 5 {
        rig.push_many(50, 1000);
        rig.commit();
    }
    // A quota: it is full, and statvfs knows nothing of it.
    faults.write.store(ENOSPC, Ordering::SeqCst);
    for _ in 0..40 {
        rig.push(100);
        rig.pass(60_000);
        assert!(rig.spool.stats().trouble.is_some());
    }
    assert!((3..5).contains(&generations()), "{} are left", generations());
    faults.write.store(0, Ordering::SeqCst);
    rig.pass(60_000);
    assert_eq!(rig.spool.stats().trouble, None);
    rig.crash();
    let mut rig = Rig::open(&settings);
    let mut seqs: BTreeSet<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    seqs.extend(rig.declared());
    assert_eq!(seqs.len() as u64, seqs.last().unwrap() + 1);
}

#[test]
fn a_bad_part_keeps_neither_the_spool_nor_the_other_parts_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 8 << 20, ..settings(folder.path()) };
    let mut rig = Rig::open(&settings);
    let generations = || crate::spool::generation::firsts(folder.path()).unwrap();
    while generations().len() < 4 {
        rig.push_many(50, 1000);
        rig.commit();
    }
    let (old_run, taken) = (rig.run, rig.next_seq);
    rig.crash();
    // Without it every part is asked what it holds.
    fs::remove_file(folder.path().join("ledger")).unwrap();
    let bad = Arc::new(Mutex::new(generations()));
    let mut rig = Rig::open_on(&settings, Box::new(BadParts(Arc::clone(&bad))));
    rig.push_many(3, 100);
    rig.commit();
    assert_eq!(rig.drain(false).len(), 3, "of its own");
    // They come back one by one.
    let mut drained = Vec::new();
    while !bad.lock().unwrap().is_empty() {
        bad.lock().unwrap().remove(0);
        let before = drained.len();
        let until = Instant::now() + PATIENCE;
        while drained.len() == before {
            assert!(Instant::now() < until, "{:?}", rig.spool.stats());
            let heard = async {
                tokio::time::timeout(Duration::from_millis(50), rig.spool.hear()).await.ok()
            };
            if let Some(reply) = block_on(heard) {
                rig.spool.heard(reply);
            }
            rig.pass(1000);
            rig.spool.prefetch();
            rig.pump();
            while let Some((chunk, lease)) = rig.spool.lease(true) {
                chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
                drained.extend(chunk.entries.iter().map(|entry| (chunk.run, entry.seq)));
            }
        }
    }
    drained.extend(rig.drain(true));
    drained.sort_unstable();
    assert_eq!(drained, (0..taken).map(|seq| (old_run, seq)).collect::<Vec<_>>());
    let stats = rig.spool.stats();
    assert_eq!((stats.holding.lost_chunks, stats.trouble), (0, None));
    assert!(!folder.path().join("damaged").exists());
}

/// Fails to read the generations that begin with these numbers.
struct BadParts(Arc<Mutex<Vec<u64>>>);

impl Opener for BadParts {
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError> {
        SledOpener.open(folder)
    }

    fn read(&self, folder: &Path, patient: bool) -> Result<Box<dyn Store>, StoreError> {
        let bad = self.0.lock().unwrap();
        let spool = folder.parent().unwrap();
        if bad.iter().any(|first| crate::spool::generation::folder_of(spool, *first) == folder) {
            let error = std::io::Error::from_raw_os_error(EIO as i32);
            return Err(StoreError::io(folder, error));
        }
        SledOpener.read(folder, patient)
    }
}

#[test]
fn a_disk_that_others_fill_costs_no_durable_sample_before_it_must() {
    let disk = Mounted::tmpfs(6 << 20);
    let settings = Settings { max_bytes: 64 << 20, ..settings(&disk.path().join("spool")) };
    let mut rig = Rig::open(&settings);
    rig.push_many(100, 2000);
    rig.commit();
    // Somebody takes all that is left.
    let hog = disk.path().join("hog");
    let _ = fs::write(&hog, vec![1; 6 << 20]);
    let mut durable = 100;
    for _ in 0..20 {
        rig.push_many(20, 2000);
        durable += 20;
        rig.pass(10_000);
    }
    let stats = rig.spool.stats();
    let said = stats.trouble.is_some() || stats.holding.full.is_some();
    assert!(said, "{stats:?}");
    fs::remove_file(&hog).unwrap();
    rig.pass(60_000);
    rig.push_many(20, 2000);
    rig.pass(60_000);
    assert_eq!(rig.spool.stats().trouble, None);
    rig.crash();
    let mut rig = Rig::open(&settings);
    let drained: BTreeSet<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    let declared = rig.declared();
    assert_eq!(
        drained.union(&declared).copied().collect::<BTreeSet<_>>(),
        (0..durable + 20).collect()
    );
    assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
    rig.close();
}

#[test]
fn a_full_disk_is_drained_without_any_space() {
    let disk = Mounted::tmpfs(6 << 20);
    let settings = settings(&disk.path().join("spool"));
    let mut rig = Rig::open(&settings);
    rig.push_many(300, 5000);
    rig.commit();
    let hog = disk.path().join("hog");
    let _ = fs::write(&hog, vec![1; 6 << 20]);
    let before = disk_bytes(&settings.path);
    assert_eq!(rig.drain(true).len(), 300);
    rig.pass(10_000);
    rig.pass(60_000);
    assert_eq!(rig.spool.stats().trouble, None);
    assert!(disk_bytes(&settings.path) < before);
    rig.crash();
    let mut rig = Rig::open(&settings);
    assert_eq!(rig.drain(true), []);
    rig.close();
}

#[test]
fn a_start_on_a_full_or_read_only_disk_samples_in_ram_until_it_can_write() {
    for (how, back) in [("ro", "rw"), ("size=1", "size=64m")] {
        let disk = Mounted::tmpfs(64 << 20);
        let settings = settings(&disk.path().join("spool"));
        let mut rig = Rig::open(&settings);
        let run = rig.run;
        rig.push_many(10, 100);
        rig.commit();
        rig.crash();
        let hog = disk.path().join("hog");
        if how != "ro" {
            let file = fs::File::create(&hog).unwrap();
            let left = rustix::fs::statvfs(disk.path()).unwrap();
            let length = left.f_bavail * left.f_frsize;
            let allocated =
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length);
            allocated.unwrap();
        } else {
            disk.remount(how);
        }
        let mut rig = Rig::starting(&settings, Box::new(SledOpener));
        let new_run = rig.run;
        assert_ne!(new_run, run);
        rig.push_many(10, 100);
        rig.pump();
        rig.pass(10_000);
        rig.pass(60_000);
        // What is new goes out though nothing can be written.
        rig.spool.seal();
        let (chunk, _) = rig.spool.lease(false).unwrap();
        assert_eq!(chunk.run, new_run);
        drop(fs::remove_file(&hog));
        disk.remount(back);
        let until = Instant::now() + PATIENCE;
        while rig.spool.stats().trouble.is_some() || rig.spool.stats().commits == 0 {
            assert!(Instant::now() < until, "{how}: {:?}", rig.spool.stats());
            let heard = rig.spool.hear();
            let heard = async { tokio::time::timeout(Duration::from_millis(50), heard).await.ok() };
            if let Some(reply) = block_on(heard) {
                rig.spool.heard(reply);
            }
            rig.now = at(rig.now.boot_ms + 10_000);
            rig.spool.tick(&rig.now);
        }
        rig.crash();
        let mut rig = Rig::open(&settings);
        assert_eq!(rig.drain(true).len(), 20, "{how}");
        rig.close();
    }
}

#[test]
fn a_folder_that_cannot_be_had_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Claim::new(&settings(&file.join("spool"))).err().unwrap();
    assert!(matches!(error, Error::Io { verb: "created", .. }), "{error}");
    assert!(error.to_string().contains("set spool.path"), "{error}");
    let error = Claim::new(&settings(&file)).err().unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_folder_of_somebody_else_is_an_error() {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let spool = folder.path().join("spool");
    fs::create_dir(&spool).unwrap();
    if std::env::var_os("SPOOL_OF_SOMEBODY_ELSE").is_some() {
        let spool = std::env::var("SPOOL_OF_SOMEBODY_ELSE").unwrap();
        let error = Claim::new(&settings(Path::new(&spool))).err().unwrap();
        println!("{error}");
        return;
    }
    // root may do everything: a child that is nobody asks.
    let exe = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let said = Command::new(&exe)
        .args(["--exact", "spool::tests::faults::a_folder_of_somebody_else_is_an_error"])
        .arg("--nocapture")
        .env("SPOOL_OF_SOMEBODY_ELSE", &spool)
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .expect("this test becomes another user: run it as root");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("Permission denied"), "{said}");
    assert!(said.contains("set spool.path"), "{said}");
}

#[test]
fn one_agent_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let claim = Claim::new(&settings(folder.path())).unwrap();
    let error = Claim::new(&settings(folder.path())).err().unwrap();
    assert!(matches!(error, Error::Held { .. }), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    drop(claim);
    Claim::new(&settings(folder.path())).unwrap();
}

#[test]
fn a_run_is_durable_before_it_is_used_and_never_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let runs: Vec<Run> =
        (0..5).map(|_| Claim::new(&settings(folder.path())).unwrap().run()).collect();
    assert!(runs.windows(2).all(|pair| pair[1] == pair[0].next()), "{runs:?}");
    // A copied card is another device.
    let mut ledger = crate::ledger::Ledger::open(folder.path(), false).unwrap();
    ledger.book_mut().machine ^= 1;
    ledger.commit().unwrap();
    let run = Claim::new(&settings(folder.path())).unwrap().run();
    assert_ne!(run.0 >> 20, runs[0].0 >> 20);
}

#[test]
fn a_folder_that_nothing_can_be_written_to_gives_a_run_that_nobody_else_has() {
    let disk = Mounted::tmpfs(1 << 20);
    let settings = settings(&disk.path().join("spool"));
    let first = Claim::new(&settings).unwrap().run();
    disk.remount("ro");
    let runs = [0, 1].map(|_| Claim::new(&settings).unwrap().run().0 >> 20);
    assert!(runs[0] != runs[1] && !runs.contains(&(first.0 >> 20)), "{runs:?}");
}

#[test]
fn a_spool_of_a_newer_agent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Claim::new(&settings(folder.path())).unwrap());
    let path = folder.path().join("ledger");
    let mut bytes = vec![b'i', b'A', b'L', 2, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    fs::write(path, bytes).unwrap();
    let error = Claim::new(&settings(folder.path())).err().unwrap();
    assert!(error.to_string().contains("newer than this agent"), "{error}");
}

#[test]
fn max_loss_is_what_is_set_or_fits_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let set = Settings { max_loss: Some(Duration::from_secs(3)), ..settings(folder.path()) };
    assert_eq!(max_loss(&set), Duration::from_secs(3));
    let auto = Settings { max_loss: None, ..set };
    assert_eq!(max_loss(&auto), Duration::from_secs(10));
}

#[test]
fn a_chunk_that_the_drain_holds_keeps_the_offset_of_its_boot_when_the_disk_evicts_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.spool.set_offset(5);
    rig.push(10);
    rig.commit();
    rig.close();
    let faults = Arc::new(Faults::default());
    let mut rig =
        Rig::open_on(&settings(folder.path()), Box::new(FaultyOpener(Arc::clone(&faults))));
    rig.spool.boot = BootId([8; 16]);
    rig.spool.set_offset(7);
    let leases = rig.lease_all();
    assert_eq!(leases.len(), 1);
    faults.write.store(ENOSPC, Ordering::SeqCst);
    rig.push(10);
    rig.pass(10_000);
    rig.pass(60_000);
    faults.write.store(0, Ordering::SeqCst);
    drop(leases);
    rig.pass(60_000);
    assert_eq!(rig.spool.stats().trouble, None);
    rig.crash();
    let rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.spool.stats().holding.chunks, 2);
    assert_eq!(rig.spool.offset_ms(BOOT), Some(5));
}

#[test]
fn what_the_ledger_still_promises_is_not_deleted_after_a_write_of_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = || {
        let Claim { folder, bounds, ledger, .. } = Claim::new(&settings(folder.path())).unwrap();
        let mut keeper = Keeper::new(folder, bounds, ledger, Box::new(SledOpener));
        keeper.open(true).unwrap();
        keeper
    };
    let at = at(0);
    let frame = Chunk {
        number: 0,
        device: "sim-0".into(),
        run: Run(1),
        boot: BOOT,
        simulated: true,
        foreign: false,
        stride_log2: 0,
        revision: 0,
        first_seq: 0,
        last_seq: 0,
        entries: vec![Entry { seq: 0, at, body: "\"simulated\":true".into() }],
    };
    let frames = vec![frame.encode().into()];
    let mut first = keeper();
    let number = first.commit(Commit { frames, ..Commit::default() }).unwrap();
    let mut acked = Ranges::default();
    acked.insert(number);
    ledger::faults::set(|| Err(std::io::Error::from_raw_os_error(EIO as i32)));
    let refused = first.commit(Commit { acked: (acked.clone(), 1), ..Commit::default() });
    ledger::faults::set(|| Ok(()));
    refused.unwrap_err();
    drop(first);
    let mut second = keeper();
    assert_eq!(second.fetch(&acked, 1).found.len(), 1);
    assert_eq!(second.report().holding.lost_chunks, 0);
}
