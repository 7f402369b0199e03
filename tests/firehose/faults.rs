//! Every fault of the stand-in, alone and mixed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use iot_agent_test_support::firehose::{Fault, Faults, Stats};
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::rig::{Rig, SOON, assert_complete, run_of, stop};
use iot_agent_test_support::{by_tier, rng};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::AGENT;

/// A fault, how often it strikes, and whether it loses an answer to what was
/// stored.
type Case = (&'static str, Fault, usize, bool);

fn cases() -> Vec<Case> {
    let denied = Fault::error(400, "AccessDeniedException", "no");
    let mut cases = vec![
        ("fail-records", Fault::FailRecords(vec![0]), 3, false),
        ("throttle", Fault::Throttle, 3, false),
        ("error 500", Fault::error(500, "InternalFailure", "ill"), 3, false),
        ("denied", denied, 3, false),
        ("status 503", Fault::Status(503), 3, false),
        ("status 404", Fault::Status(404), 3, false),
        ("cut", Fault::Cut, 3, false),
        ("lose-answer", Fault::LoseAnswer, 3, true),
        ("slow", Fault::Slow(2500), 3, false),
        ("html", Fault::Html, 3, false),
        ("garbage", Fault::Garbage, 3, false),
        ("empty", Fault::Empty, 3, false),
        ("wrong-count", Fault::WrongCount, 3, true),
    ];
    // An answer is waited for for 10 s.
    if by_tier(false, true, true) {
        cases.push(("hang", Fault::Hang, 1, false));
    }
    cases
}

#[test]
fn no_fault_loses_a_sample_and_only_a_lost_answer_doubles_one() {
    thread::scope(|scope| {
        for case in cases() {
            scope.spawn(move || alone(case));
        }
    });
}

fn alone((name, fault, times, lossy): Case) {
    let rig = Rig::new(AGENT);
    rig.stand_in.set_faults(Faults::script(std::iter::repeat_n(fault, times)));
    let mut agent = rig.launch().start();
    agent.wait_for(name, SOON * 2, |_| {
        let stats = rig.stand_in.stats();
        let struck: u64 = stats.faults.values().sum();
        struck == times as u64 && stats.put_requests >= times as u64 + 2
    });
    let ended = stop(&mut agent);
    let stored = rig.stand_in.stored();
    let duplicates = stored.totals().duplicates;
    println!("{name}: {} samples, {duplicates} doubled", ended.samples);
    assert_complete(&stored, ended, 1);
    assert_eq!(duplicates > 0, lossy, "{name}: {duplicates} doubled");
    assert_eq!(stored.totals().bad_lines, 0);
}

/// Shares in percent.
fn mix() -> Vec<(u32, Fault)> {
    let mut mix = vec![
        (10, Fault::FailShare(0.5)),
        (5, Fault::Throttle),
        (4, Fault::error(500, "InternalFailure", "ill")),
        (2, Fault::error(400, "ExpiredTokenException", "expired")),
        (3, Fault::Status(503)),
        (5, Fault::Cut),
        (5, Fault::LoseAnswer),
        (5, Fault::Slow(300)),
        (2, Fault::Html),
        (2, Fault::Garbage),
        (2, Fault::Empty),
        (5, Fault::WrongCount),
    ];
    if by_tier(false, false, true) {
        mix.push((1, Fault::Hang));
    }
    mix
}

/// What one agent takes of the machine.
#[derive(Debug)]
struct Footprint {
    rss_kib: u64,
    anonymous_kib: u64,
    threads: u64,
    files: usize,
}

fn footprint(agent: &Agent) -> Footprint {
    Footprint {
        rss_kib: agent.status("VmRSS"),
        anonymous_kib: agent.status("RssAnon"),
        threads: agent.status("Threads"),
        files: agent.open_files(),
    }
}

#[test]
fn faults_at_random_lose_nothing_and_leave_memory_threads_and_files_alone() {
    let mut random = rng();
    thread::scope(|scope| {
        // One agent sends once a second: several meet more faults.
        for _ in 0..by_tier(4, 8, 8) {
            let seed = random.random();
            scope.spawn(move || mixed(seed));
        }
    });
}

fn mixed(seed: u64) {
    const DEVICES: u64 = 3;
    let rig = Rig::new(AGENT);
    let unanswered = set_mixed_faults(&rig, seed);
    let simulate = ["--simulate", "--devices", &DEVICES.to_string()];
    // A backlog makes full batches at once: memory has seen them when it is
    // first looked at.
    let mut agent = rig.launch().args(simulate).args(["--backfill", "2m"]).start();
    run_of(&mut agent);
    let quarter = Duration::from_secs(by_tier(8, 32, 300)) / 4;
    thread::sleep(quarter);
    let early = footprint(&agent);
    thread::sleep(3 * quarter);
    let late = footprint(&agent);
    let Stats { put_requests, faults, stored: met, .. } = rig.stand_in.stats();
    rig.stand_in.set_faults(Faults::Never);
    // The last failure's wait, and a round after it.
    let enough = met.samples + 2 * 10 * DEVICES;
    let arrived = || rig.stand_in.stats().stored.samples;
    agent.wait_for("deliveries again", SOON * 2, |_| arrived() > enough);
    let ended = stop(&mut agent);
    let stored = rig.stand_in.stored();
    let totals = stored.totals();
    println!(
        "seed {seed}: {put_requests} requests, faults {faults:?}\n{totals:?}\n\
         after a quarter {early:?}\nat the end      {late:?}"
    );
    assert_complete(&stored, ended, DEVICES);
    assert_eq!(totals.duplicates, unanswered.load(Ordering::Relaxed), "by lost answers alone");
    assert_eq!(totals.bad_lines, 0);
    // The line's, the spool's, and while it has a store open sled's seven.
    assert!(late.threads <= 9, "{late:?}");
    // A connection may just have been made.
    assert!(late.files <= 18, "{late:?}");
    assert!(late.anonymous_kib <= early.anonymous_kib + 1536, "{early:?} {late:?}");
    assert!(late.rss_kib <= early.rss_kib + 1536, "{early:?} {late:?}");
}

/// Returns how many lines of batches were stored whose answer did not come.
fn set_mixed_faults(rig: &Rig, seed: u64) -> Arc<AtomicU64> {
    let (mix, mut random) = (mix(), StdRng::seed_from_u64(seed));
    let unanswered = Arc::new(AtomicU64::new(0));
    let counter = unanswered.clone();
    rig.stand_in.set_faults(Faults::with(move |call| {
        let mut at = random.random_range(0..100);
        for (share, fault) in &mix {
            if at < *share {
                if matches!(fault, Fault::LoseAnswer | Fault::WrongCount) {
                    let lines = call.records.iter().flatten().filter(|byte| **byte == b'\n');
                    counter.fetch_add(lines.count() as u64, Ordering::Relaxed);
                }
                return fault.clone();
            }
            at -= share;
        }
        Fault::None
    }));
    unanswered
}

#[test]
fn after_a_partial_failure_only_what_failed_is_sent_again() {
    const DEVICES: u64 = 10;
    let rounds = by_tier(10, 50, 250);
    let rig = Rig::new(AGENT);
    let mut random = rng();
    let partial = Arc::new(AtomicU64::new(0));
    let counter = partial.clone();
    rig.stand_in.set_faults(Faults::with(move |call| {
        if call.records.len() < 2 || counter.load(Ordering::Relaxed) == rounds {
            return Fault::None;
        }
        // One at least fails, and one at least does not.
        let (fails, passes) = (random.random_range(0..call.records.len()), random.random_bool(0.5));
        counter.fetch_add(1, Ordering::Relaxed);
        match passes {
            true => Fault::FailRecords(vec![fails]),
            false => Fault::FailRecords((0..call.records.len()).filter(|n| *n != fails).collect()),
        }
    }));
    // A batch of two records takes more than a thousand samples.
    let seconds = 150 * rounds;
    let mut agent = rig
        .launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--profile", "uniform"])
        .args(["--backfill", &format!("{seconds}s")])
        .set("sample.interval", "1s")
        .start();
    agent.wait_for("all of the backlog", SOON * 10, |_| {
        rig.stand_in.stats().stored.samples >= DEVICES * seconds
    });
    let ended = stop(&mut agent);
    let stored = rig.stand_in.stored();
    let met = partial.load(Ordering::Relaxed);
    println!("{met} partial failures: {:?}", rig.stand_in.stats());
    assert!(met >= rounds, "only {met} batches had more than one record");
    assert_complete(&stored, ended, DEVICES);
    assert_eq!(stored.totals().duplicates, 0);
}
