//! What happens in RAM: when a commit is due, what it costs, what is bounded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use crate::spool::ram::Ram;

fn minutes(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(60 * n))
}

/// Samples each second and delivers each minute, but for a tail that would pay
/// for padding: that goes with the next.
fn connected(rig: &mut Rig, seconds: u64, waiting: &mut Vec<(Vec<u64>, Lease)>) {
    for second in 0..seconds {
        rig.push(150);
        if second % 60 == 59 {
            for (seqs, lease) in std::mem::take(waiting) {
                seqs.iter().for_each(|&seq| lease.ack(seq));
            }
            for (seqs, lease) in rig.lease_all() {
                let (now, later) = seqs.split_at(seqs.len() - seqs.len().min(20));
                now.iter().for_each(|&seq| lease.ack(seq));
                waiting.push((later.to_vec(), lease));
            }
        }
        rig.pass(1000);
    }
}

#[test]
fn a_connected_agent_on_a_card_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&Settings { max_loss: minutes(2), ..settings(folder.path()) });
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let (files_before, ledger) = (files(), std::fs::read(folder.path().join("ledger")).unwrap());
    connected(&mut rig, 1200, &mut Vec::new());
    assert_eq!(rig.spool.stats().commits, 0);
    assert_eq!(files(), files_before);
    assert_eq!(std::fs::read(folder.path().join("ledger")).unwrap(), ledger);
    assert_eq!(rig.spool.stats().trouble, None);
}

#[test]
fn after_an_outage_the_card_is_left_alone_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&Settings { max_loss: minutes(2), ..settings(folder.path()) });
    for _ in 0..300 {
        rig.push(150);
        rig.pass(1000);
    }
    // The first deliveries acknowledge what the outage made durable.
    let mut waiting = Vec::new();
    connected(&mut rig, 300, &mut waiting);
    let commits = rig.spool.stats().commits;
    connected(&mut rig, 1200, &mut waiting);
    assert_eq!(rig.spool.stats().commits, commits);
}

#[test]
fn a_commit_is_due_by_the_oldest_sample_that_is_not_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    for _ in 0..5 {
        rig.push(100);
        rig.pass(1000);
    }
    assert_eq!(rig.spool.due_ms(), Some(10_000));
    let (seqs, lease) = rig.lease_all().pop().unwrap();
    assert_eq!(seqs, [0, 1, 2, 3, 4]);
    [0, 1].iter().for_each(|&seq| lease.ack(seq));
    assert_eq!(rig.spool.due_ms(), Some(12_000));
    // Delivered out of order: the third is still the oldest.
    [3, 4].iter().for_each(|&seq| lease.ack(seq));
    assert_eq!(rig.spool.due_ms(), Some(12_000));
    lease.ack(2);
    assert_eq!(rig.spool.due_ms(), None);
    rig.push(100);
    assert_eq!(rig.spool.due_ms(), Some(15_000));
    drop(lease);
    rig.pass(9_999);
    assert_eq!(rig.spool.stats().commits, 0);
    rig.pass(1);
    assert_eq!(rig.spool.stats().commits, 1);
}

#[test]
fn a_released_lease_brings_the_rest_again_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push_many(6, 100);
    let (_, lease) = rig.lease_all().pop().unwrap();
    [0, 4].iter().for_each(|&seq| lease.ack(seq));
    let clone = lease.clone();
    drop(lease);
    assert!(rig.spool.lease(false).is_none(), "a clone still holds it");
    drop(clone);
    let (seqs, lease) = rig.lease_all().pop().unwrap();
    assert_eq!(seqs, [1, 2, 3, 5]);
    seqs.iter().for_each(|&seq| lease.ack(seq));
    drop(lease);
    assert_eq!(rig.drain(false), []);
    assert_eq!(rig.spool.stats().delivered, 6);
    assert_eq!(rig.spool.backlog(), (0, None));
}

#[test]
fn what_was_delivered_in_part_is_not_delivered_twice_after_a_clean_stop() {
    for durable in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(&settings(folder.path()));
        let run = rig.run;
        rig.push_many(6, 100);
        if durable {
            rig.commit();
        }
        let (_, lease) = rig.lease_all().pop().unwrap();
        [0, 3].iter().for_each(|&seq| lease.ack(seq));
        drop(lease);
        rig.close();
        let mut rig = Rig::open(&settings(folder.path()));
        let rest = [1, 2, 4, 5].map(|seq| (run, seq));
        assert_eq!(rig.drain(false), rest, "durable before: {durable}");
        rig.close();
    }
}

#[test]
fn what_was_delivered_in_part_is_not_forgotten_however_much_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push_many(3, 100);
    let (_, lease) = rig.lease_all().pop().unwrap();
    lease.ack(1);
    drop(lease);
    rig.push_many(100, 5000);
    rig.commit();
    rig.spool.tick(&rig.now);
    assert!(!rig.spool.disk_only.is_empty(), "RAM has let go of what is on disk");
    let drained: Vec<u64> = rig.drain(false).into_iter().map(|(_, seq)| seq).collect();
    let once: BTreeSet<u64> = drained.iter().copied().collect();
    assert_eq!(once, (0..103).filter(|&seq| seq != 1).collect());
    assert_eq!(drained.len(), once.len());
}

#[test]
fn samples_wait_in_ram_for_a_thread_that_cannot_open_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    Rig::open(&settings(folder.path())).close();
    let faults = Arc::new(Faults::default());
    let mut rig = Rig::open_on(&settings(folder.path()), Box::new(FaultyOpener(faults.clone())));
    rig.push(100);
    rig.commit();
    rig.crash();
    faults.open.store(30, Ordering::SeqCst);
    let mut rig = Rig::starting(&settings(folder.path()), Box::new(FaultyOpener(faults.clone())));
    rig.push_many(3, 100);
    rig.hear();
    assert!(rig.spool.stats().trouble.unwrap().contains("check the disk"));
    // What is in RAM goes out all the same, whatever the order.
    rig.spool.seal();
    let (chunk, lease) = rig.spool.lease(true).unwrap();
    assert_eq!(chunk.entries.len(), 3);
    lease.ack(0);
    drop(lease);
    faults.open.store(0, Ordering::SeqCst);
    rig.hear();
    assert!(rig.spool.opened);
    assert_eq!(rig.spool.stats().trouble, None);
    assert_eq!(rig.drain(true).len(), 3);
}

#[test]
fn the_ring_is_bounded_whatever_hangs_and_what_it_drops_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let mut rig = Rig::open_on(&settings(folder.path()), Box::new(FaultyOpener(faults.clone())));
    faults.hang.store(true, Ordering::SeqCst);
    rig.push(5000);
    rig.now = at(10_000);
    rig.spool.tick(&rig.now);
    assert!(rig.spool.committing.is_some());
    for _ in 0..3000 {
        rig.push(5000);
        rig.now = at(rig.now.boot_ms + 100);
        rig.spool.tick(&rig.now);
    }
    let stats = rig.spool.stats();
    assert!(stats.trouble.unwrap().contains("does not answer"));
    assert!(stats.ram_bytes < 5 << 20, "{}", stats.ram_bytes);
    assert!(!rig.spool.room());
    assert!(stats.ring_dropped > 1000);
    // The oldest went; the newest and what the disk has in hand did not.
    let declared: Vec<u64> = rig.declared().into_iter().collect();
    assert_eq!(declared.len() as u64, stats.ring_dropped);
    assert_eq!(declared, (1..=stats.ring_dropped).collect::<Vec<_>>());
    faults.hang.store(false, Ordering::SeqCst);
    rig.pump();
    assert_eq!(rig.spool.stats().trouble, None);
    assert!(rig.spool.room());
    let drained: BTreeSet<u64> = rig.drain(false).into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(drained.len() + declared.len(), 3001);
    assert_eq!(drained.intersection(&declared.iter().copied().collect()).count(), 0);
}

#[test]
fn fresh_goes_first_or_the_oldest_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    let first_run = rig.run;
    rig.push_many(50, 1000);
    rig.close();
    for oldest_first in [false, true] {
        let mut rig = Rig::open(&settings(folder.path()));
        rig.push(10);
        rig.spool.seal();
        let (chunk, _) = rig.spool.lease(oldest_first).unwrap();
        assert_eq!(chunk.run == first_run, oldest_first);
        rig.crash();
    }
}

#[test]
fn ten_thousand_devices_cost_nothing_that_grows() {
    let mut ram = Ram::new(BOOT);
    let devices: Vec<Arc<str>> = (0..10_000).map(|n| format!("sim-{n}").into()).collect();
    let begun = Instant::now();
    let mut leases = Vec::new();
    for second in 0..10u64 {
        for (n, device) in devices.iter().enumerate() {
            let sample =
                Sample { device: Arc::clone(device), ..sample("", Run(1), second, at(0), 120) };
            ram.push(sample, true, second * 1000);
            // An agent asks all of this once in some hundred samples.
            if n % 100 == 0 {
                ram.settle();
                ram.trim();
                std::hint::black_box((ram.oldest_ms(), ram.oldest(), ram.room(), ram.bytes()));
            }
        }
        let (ids, _) = ram.take_fresh(1 << 20);
        ram.committed(&ids, Some(second * 100_000));
        while let Some((chunk, lease)) = ram.lease(false, false) {
            chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
            leases.push(lease);
            if leases.len() > 1000 {
                leases.clear();
            }
        }
    }
    let per_sample = begun.elapsed() / 100_000;
    println!("{per_sample:?} a sample, dev profile");
    assert!(per_sample < Duration::from_micros(400), "{per_sample:?} a sample");
    ram.seal();
    assert!(ram.bytes() < 64 << 20);
}

#[test]
fn open_samples_are_bounded_over_all_devices() {
    let mut ram = Ram::new(BOOT);
    for n in 0..40_000u64 {
        let device = format!("sim-{}", n % 4000);
        ram.push(sample(&device, Run(1), n / 4000, at(n), 400), true, n);
    }
    // 40,000 times 400 bytes are twice what may be open.
    assert!(ram.bytes() - ram.fresh_bytes() as u64 <= 8 << 20, "{}", ram.bytes());
    assert!(ram.fresh_bytes() > 0);
    assert!(!ram.room());
}

#[test]
fn backlog_bytes_and_age_are_right_through_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    for _ in 0..300 {
        rig.push(2000);
        rig.pass(1000);
    }
    let (bytes, oldest) = rig.spool.backlog();
    assert!((600_000..800_000).contains(&bytes), "{bytes}");
    assert_eq!(oldest, Some(at(0).wall_ms));
    rig.commit();
    let (durable, _) = rig.spool.backlog();
    assert_eq!(rig.spool.stats().holding.bytes, durable);
    rig.close();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.spool.backlog(), (durable, Some(at(0).wall_ms)));
    // It grows younger as it is delivered.
    let mut before = at(0).wall_ms;
    while let Some((chunk, lease)) = rig.spool.lease(true) {
        chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
        drop(lease);
        rig.spool.prefetch();
        rig.pump();
        let (left, oldest) = rig.spool.backlog();
        assert!(left < durable);
        let oldest = oldest.unwrap_or(i64::MAX);
        assert!(oldest > before, "{oldest} {before}");
        before = oldest;
    }
    assert_eq!(rig.spool.backlog(), (0, None));
}

#[test]
fn the_age_of_an_early_boot_is_told_in_the_time_that_was_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    let in_1970 = Moment { wall_ms: 500, boot_ms: 500, synced: false };
    rig.spool.push(sample("a", rig.run, 0, in_1970, 10), false, 500);
    assert_eq!(rig.spool.backlog().1, Some(500));
    rig.spool.set_offset(1_000_000);
    assert_eq!(rig.spool.backlog().1, Some(1_000_500));
    rig.pass(500);
    rig.commit();
    rig.close();
    let rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.spool.backlog().1, Some(1_000_500));
}
