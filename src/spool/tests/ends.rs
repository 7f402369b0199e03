//! What is said of a run when it has ended.

use super::*;
use crate::record::{EndReason, RunEnd};

impl Rig {
    fn take(&mut self, count: usize) {
        self.push_many(count, 500);
        self.spool.all_have(self.next_seq - 1);
    }

    /// What there is to say of ended runs.
    fn ends(&mut self) -> Vec<RunEnd> {
        let markers = self.spool.declarations().into_iter();
        let end = |marker| match marker {
            Marker::RunEnd(end) => end,
            gap => panic!("{gap:?}"),
        };
        markers.map(end).collect()
    }

    fn tell(&mut self) {
        self.ends().into_iter().for_each(|end| self.spool.declared(Marker::RunEnd(end)));
    }
}

fn end(run: Run, last_seq: u64, reason: EndReason) -> RunEnd {
    RunEnd { device: "sim-0".into(), run, last_seq, reason, simulated: true }
}

#[test]
fn a_clean_stop_says_so_at_the_next_start_until_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut rig = Rig::open(&settings);
    let run = rig.run;
    rig.take(5);
    rig.close();
    for _ in 0..2 {
        // A run without samples has nothing to say.
        let mut rig = Rig::open(&settings);
        assert_eq!(rig.ends(), [end(run, 4, EndReason::Clean)]);
        rig.close();
    }
    let mut rig = Rig::open(&settings);
    rig.tell();
    rig.close();
    assert_eq!(Rig::open(&settings).ends(), []);
}

#[test]
fn a_run_ends_before_its_stop_where_all_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut rig = Rig::open(&settings);
    rig.take(5);
    assert!(!rig.spool.end_run(), "it is in memory alone");
    rig.drain(false);
    rig.spool.seal();
    rig.drain(false);
    assert!(rig.spool.end_run());
    assert_eq!(rig.ends(), [end(rig.run, 4, EndReason::Clean)]);
    rig.tell();
    rig.close();
    assert_eq!(Rig::open(&settings).ends(), []);
}

#[test]
fn after_a_crash_the_next_start_says_what_the_last_commit_knew() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut rig = Rig::open(&settings);
    let first = rig.run;
    rig.take(5);
    rig.commit();
    rig.take(5);
    rig.crash();
    // Nothing is known of a run that committed nothing.
    let mut rig = Rig::open(&settings);
    rig.take(5);
    rig.crash();
    let mut rig = Rig::open(&settings);
    let third = rig.run;
    rig.take(3);
    // What one device lacks, none has.
    rig.push(500);
    rig.commit();
    assert_eq!(rig.ends(), [end(first, 4, EndReason::Crash)]);
    rig.crash();
    let mut rig = Rig::open(&settings);
    assert_eq!(rig.ends(), [end(first, 4, EndReason::Crash), end(third, 2, EndReason::Crash)]);
    rig.close();
}

#[test]
fn delivered_and_durable_samples_count_and_a_hole_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut rig = Rig::open(&settings);
    let run = rig.run;
    rig.take(4);
    rig.commit();
    rig.take(6);
    let leases = rig.lease_all();
    let [(_, durable), (fresh, lease)] = &leases[..] else { panic!("two chunks") };
    assert_eq!(*fresh, [4, 5, 6, 7, 8, 9]);
    // All but seq 6 are delivered; the commit is due for the first chunk alone.
    (0..4).for_each(|seq| durable.ack(seq));
    [4, 5, 7, 8, 9].into_iter().for_each(|seq| lease.ack(seq));
    drop(leases);
    rig.spool.tick(&rig.now);
    assert!(rig.spool.send_commit((Vec::new(), Vec::new()), true));
    rig.pump();
    rig.crash();
    let mut rig = Rig::open(&settings);
    assert_eq!(rig.ends(), [end(run, 5, EndReason::Crash)]);
    rig.close();
}

#[test]
fn a_commit_that_fails_says_nothing_new() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let faults = Arc::new(Faults::default());
    let mut rig = Rig::open_on(&settings, Box::new(FaultyOpener(Arc::clone(&faults))));
    let run = rig.run;
    rig.take(4);
    rig.commit();
    rig.take(4);
    faults.write.store(5, Ordering::SeqCst);
    rig.pass(10_000);
    assert!(rig.spool.stats().trouble.is_some());
    let stopped = block_on(rig.spool.close(&rig.now));
    assert!(stopped.is_err(), "the disk takes nothing");
    faults.write.store(0, Ordering::SeqCst);
    let mut rig = Rig::open(&settings);
    assert_eq!(rig.ends(), [end(run, 3, EndReason::Crash)]);
    rig.close();
}
