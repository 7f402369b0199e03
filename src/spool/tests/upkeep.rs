//! What a long life costs: nothing that grows.

use super::*;
use crate::spool::generation::{disk_bytes, firsts};

#[test]
fn a_connected_agent_that_commits_every_ten_seconds_does_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&Settings { max_bytes: 8 << 20, ..settings(folder.path()) });
    let (mut most, mut born) = (0, BTreeSet::new());
    // Half an hour at ten samples a second is as many commits as it is, and
    // as many bytes as five hours at one a second.
    for second in 1..=1800 {
        rig.push_many(10, 150);
        rig.pass(1000);
        if second % 60 == 0 {
            for (seqs, lease) in rig.lease_all() {
                seqs.iter().for_each(|&seq| lease.ack(seq));
            }
        }
        if second % 10 == 0 {
            most = most.max(disk_bytes(folder.path()));
            born.extend(firsts(folder.path()).unwrap());
        }
    }
    let stats = rig.spool.stats();
    assert_eq!((stats.trouble, stats.holding.evicted_samples), (None, 0));
    assert!((179..=181).contains(&stats.commits), "{}", stats.commits);
    assert!(born.len() > 3, "generations come and go: {born:?}");
    assert!(most < 3 << 20, "{most} bytes");
    rig.close();
}

#[test]
fn the_offset_of_a_boot_is_kept_while_its_chunks_are_and_costs_no_commit_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.spool.set_offset(5);
    rig.pass(60_000);
    assert_eq!(rig.spool.stats().commits, 0, "nothing durable depends on it");
    rig.push(10);
    rig.commit();
    rig.spool.set_offset(7);
    rig.pass(0);
    rig.pass(10_000);
    assert_eq!(rig.spool.stats().commits, 2, "something durable does");
    rig.crash();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.spool.offset_ms(BOOT), Some(7));
    rig.drain(true);
    rig.close();
}

#[test]
fn acknowledgements_ride_on_the_next_commit() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push(10);
    rig.commit();
    assert_eq!(rig.spool.stats().commits, 1);
    rig.drain(false);
    rig.push(10);
    rig.pass(9_999);
    assert_eq!(rig.spool.stats().commits, 1);
    rig.pass(1);
    assert_eq!(rig.spool.stats().commits, 2);
    rig.crash();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.drain(true).len(), 1);
}

#[test]
fn acknowledgements_wait_for_frames_that_follow_soon() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push(10);
    rig.commit();
    rig.drain(false);
    rig.pass(5_000);
    rig.push(10);
    rig.pass(9_999);
    assert_eq!(rig.spool.stats().commits, 1);
    rig.pass(1);
    assert_eq!(rig.spool.stats().commits, 2);
    // Where none do, they go by themselves.
    rig.drain(false);
    rig.pass(0);
    rig.pass(10_000);
    assert_eq!(rig.spool.stats().commits, 3);
    rig.crash();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.drain(true), []);
}

#[test]
fn what_is_delivered_during_its_commit_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let mut rig = Rig::open_on(&settings(folder.path()), Box::new(FaultyOpener(faults.clone())));
    rig.push_many(3, 100);
    faults.hang.store(true, Ordering::SeqCst);
    rig.now = at(10_000);
    rig.spool.tick(&rig.now);
    assert!(rig.spool.committing.is_some());
    for (seqs, lease) in rig.lease_all() {
        seqs.iter().for_each(|&seq| lease.ack(seq));
    }
    rig.spool.tick(&rig.now);
    assert_eq!(rig.spool.backlog(), (0, None));
    faults.hang.store(false, Ordering::SeqCst);
    rig.pump();
    rig.close();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.drain(true), []);
    rig.close();
}
