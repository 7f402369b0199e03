use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::clock::BootId;
use crate::clock::Moment;
use crate::drain::Parcel;
use crate::drain::{Outcome, TroubleKind, Verdict, Wire};
use crate::record::{ClockState, Line, Run, Sample};
use crate::spool::{self, Claim, KeepFree, WhenFull};

const LIMITS: Limits = Limits {
    parcel_samples: 7,
    parcel_bytes: 4000,
    batch_parcels: 5,
    batch_bytes: 12_000,
    billing_quantum_bytes: 1000,
    wire: Wire::PLAIN,
};
const SETTINGS: Settings = Settings {
    interval: Duration::from_secs(60),
    order: Order::FreshFirst,
    backlog_rate: None,
    daily_bytes: None,
};

fn spool(folder: &std::path::Path) -> Spool {
    let settings = spool::Settings {
        path: folder.join("spool"),
        max_loss: Some(Duration::from_secs(3600)),
        max_bytes: 64 << 20,
        keep_free: KeepFree::Bytes(0),
        when_full: WhenFull::DropOldest,
    };
    Spool::open(Claim::new(&settings).unwrap(), BootId::default()).unwrap()
}

fn sample(seq: u64, body_bytes: usize) -> Sample {
    Sample {
        device: "pi-attic".into(),
        run: Run(77),
        seq,
        at: Moment { wall_ms: 1_795_487_972_045, boot_ms: seq, synced: true },
        body: format!("\"pad\":\"{}\"", noise(seq, body_bytes)).into(),
    }
}

/// Text that does not compress: a chunk holds few lines of it.
fn noise(seed: u64, bytes: usize) -> String {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..bytes).map(|_| char::from(rng.random_range(b'#'..b'Z'))).collect()
}

fn handover(boot_ms: u64) -> Handover {
    Handover { hour: "2026-11-24 02".into(), wall_ms: 1_795_487_972_045, boot_ms }
}

fn seqs(parcel: &Parcel) -> Vec<u64> {
    let lines = parcel.ndjson().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let values = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
    values.map(|value| value["seq"].as_u64().unwrap()).collect()
}

fn trouble(kind: TroubleKind) -> Trouble {
    Trouble::new(kind, "said by the test".into())
}

#[test]
fn a_lines_length_is_known_before_it_is_rendered() {
    let line = Line {
        device: "pi-attic",
        run: Run(1234),
        seq: 56,
        timestamp_ms: 1_795_487_972_045,
        clock: ClockState::Corrected,
        timestamp_sent: "2026-11-24 02",
        body: "\"cpu\":0.5",
    };
    let mut rendered = Vec::new();
    line.render(&mut rendered);
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path());
    let body = line.body.into();
    spool.push(Sample { run: line.run, seq: line.seq, body, ..sample(0, 0) }, false, 0);
    let (drain, mut spool) = filled(spool);
    assert_eq!(drain.pending[0].line_bytes(), rendered.len());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        spool.close(&Moment { wall_ms: 0, boot_ms: 0, synced: true }).await.unwrap();
    });
}

/// A drain that has leased all that `spool` has.
fn filled(mut spool: Spool) -> (Drain, Spool) {
    opened(&mut spool);
    spool.seal();
    let mut drain = Drain::new(&SETTINGS, "test".into(), LIMITS);
    drain.begin(&mut spool);
    drain.fill(&mut spool, &handover(0), usize::MAX);
    (drain, spool)
}

fn opened(spool: &mut Spool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reply = runtime.block_on(spool.hear());
    spool.heard(reply);
}

#[test]
fn what_is_tried_after_a_failure_is_no_more_than_the_sink_takes() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path());
    (0..100).for_each(|seq| spool.push(sample(seq, 600), false, 0));
    let (mut drain, mut spool) = filled(spool);
    let _ = drain.next(&mut spool, &handover(0), true).unwrap();
    let failed = Verdict::Failed(trouble(TroubleKind::Unreachable));
    drain.settle(failed, &mut spool, 0, 0.0);
    let batch = drain.next(&mut spool, &handover(1), true).unwrap();
    let bytes: usize = batch.parcels.iter().map(|parcel| parcel.ndjson().len()).sum();
    assert!(bytes <= LIMITS.batch_bytes, "{bytes} bytes");
}

/// What the scripted sink does with a batch.
#[derive(Debug, Clone, Copy)]
enum Act {
    Take,
    Fail,
    Partly(usize),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![3 => Just(Act::Take), 1 => Just(Act::Fail), 2 => (1usize..4).prop_map(Act::Partly)]
}

/// A sink that takes no batch, or no parcel, with one of `poison` in it.
fn verdict(batch: &Batch, act: Act, poison: &[u64], whole: bool) -> Verdict {
    let bad = |parcel: &Parcel| seqs(parcel).iter().any(|seq| poison.contains(seq));
    let refusal = trouble(TroubleKind::Data);
    match act {
        Act::Fail => Verdict::Failed(trouble(TroubleKind::Unreachable)),
        _ if whole && batch.parcels.iter().any(bad) => Verdict::Refused(refusal),
        _ => Verdict::Answered(
            batch
                .parcels
                .iter()
                .enumerate()
                .map(|(at, parcel)| match act {
                    _ if bad(parcel) => Outcome::Refused(refusal.clone()),
                    Act::Partly(every) if at % every == 0 => {
                        Outcome::Retry(trouble(TroubleKind::Throttled))
                    }
                    _ => Outcome::Delivered,
                })
                .collect(),
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_sample_is_delivered_once_or_set_aside(
        bodies in prop::collection::vec(0usize..700, 1..120),
        script in prop::collection::vec(acts(), 0..30),
        poison in prop::collection::vec(0u64..120, 0..4),
        whole in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(folder.path());
        opened(&mut spool);
        let mut drain = Drain::new(&SETTINGS, "test".into(), LIMITS);
        let (mut bodies, mut script) = (bodies.into_iter().enumerate().peekable(), script.into_iter());
        let (mut delivered, mut now_ms) = (BTreeMap::<u64, usize>::new(), 0);
        let mut pushed = 0;
        let start = Instant::now();
        loop {
            for (seq, bytes) in bodies.by_ref().take(9) {
                spool.push(sample(seq as u64, bytes), false, now_ms);
                pushed += 1;
            }
            spool.seal();
            drain.begin(&mut spool);
            now_ms += 61_000;
            while let Some(batch) = drain.next(&mut spool, &handover(now_ms), bodies.peek().is_none()) {
                prop_assert!(batch.parcels.len() <= LIMITS.batch_parcels);
                let act = script.next().unwrap_or(Act::Take);
                let verdict = verdict(&batch, act, &poison, whole);
                if let Verdict::Answered(outcomes) = &verdict {
                    for (parcel, outcome) in batch.parcels.iter().zip(outcomes) {
                        if *outcome == Outcome::Delivered {
                            seqs(parcel).into_iter().for_each(|seq| *delivered.entry(seq).or_default() += 1);
                        }
                    }
                }
                drain.settle(verdict, &mut spool, now_ms, 0.5);
            }
            if bodies.peek().is_none() && delivered.len() as u64 + drain.stats().buried == pushed {
                break;
            }
            // What shares a chunk with a dead letter waits until that is written.
            prop_assert!(start.elapsed() < Duration::from_secs(60), "it never drains");
        }
        let buried = (0..pushed).filter(|seq| poison.contains(seq)).count() as u64;
        prop_assert_eq!(drain.stats().buried, buried);
        prop_assert!(delivered.values().all(|&times| times == 1));
        prop_assert_eq!(delivered.len() as u64 + buried, pushed);
    }
}

/// A spool with so many samples of each of these ages (boot time, ms), each in
/// chunks of its own.
fn aged(folder: &std::path::Path, ages: &[(u64, u64)]) -> Spool {
    let mut spool = spool(folder);
    opened(&mut spool);
    let mut seq = 0;
    for &(count, at_ms) in ages {
        for _ in 0..count {
            spool.push(sample(seq, 600), false, at_ms);
            seq += 1;
        }
        spool.seal();
    }
    spool
}

fn all_seqs(batch: &Batch) -> Vec<u64> {
    batch.parcels.iter().flat_map(seqs).collect()
}

const LARGE: Limits = Limits {
    parcel_samples: 500,
    parcel_bytes: 100_000,
    batch_parcels: 500,
    batch_bytes: 100_000,
    billing_quantum_bytes: 5120,
    wire: Wire { request_bytes: 1000, parcel_bytes: 12, base64: true },
};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn after_an_outage_the_first_try_is_small_and_has_the_freshest_and_then_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = aged(folder.path(), &[(1000, 0), (3, HOUR_MS)]);
    let mut drain = Drain::new(&SETTINGS, "test".into(), LARGE);
    drain.begin(&mut spool);
    let first = drain.next(&mut spool, &handover(1000), false).unwrap();
    drain.settle(Verdict::Failed(trouble(TroubleKind::Unanswered)), &mut spool, 1000, 0.0);
    drain.begin(&mut spool);
    let trial = drain.next(&mut spool, &handover(HOUR_MS), false).unwrap();
    assert_eq!(all_seqs(&trial)[..3], [1000, 1001, 1002], "live ones first");
    let mut sizes = vec![all_seqs(&first).len(), all_seqs(&trial).len()];
    drain.settle(verdict(&trial, Act::Take, &[], false), &mut spool, HOUR_MS, 0.0);
    for _ in 0..3 {
        let batch = drain.next(&mut spool, &handover(HOUR_MS), false).unwrap();
        sizes.push(all_seqs(&batch).len());
        drain.settle(verdict(&batch, Act::Take, &[], false), &mut spool, HOUR_MS, 0.0);
    }
    println!("samples in a batch: {sizes:?}");
    let [full, trial, second, third, fourth] = sizes[..] else { panic!("{sizes:?}") };
    assert!(trial <= TRIAL_BYTES / 600 && full > 100, "{sizes:?}");
    assert!(second > 2 * trial && third > 2 * second && fourth > third, "{sizes:?}");
}

#[test]
fn who_answers_at_last_with_a_no_is_asked_again_soon_and_then_less_often() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = aged(folder.path(), &[(10, 0)]);
    let mut drain = Drain::new(&SETTINGS, "test".into(), LARGE);
    let mut now_ms = HOUR_MS;
    let silent = [TroubleKind::Unreachable, TroubleKind::Unanswered].into_iter().cycle().take(20);
    let kinds = silent.chain([TroubleKind::Throttled; 6]);
    let mut waits = Vec::new();
    for kind in kinds {
        drain.next(&mut spool, &handover(now_ms), true).unwrap();
        drain.settle(Verdict::Failed(trouble(kind)), &mut spool, now_ms, 1.0);
        let retry_ms = drain.retry_at_ms().unwrap();
        waits.push((retry_ms - now_ms) / 1000);
        now_ms = retry_ms;
    }
    assert_eq!(waits[..6], [1, 2, 4, 8, 10, 10]);
    assert_eq!(waits[19..], [10, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn a_paced_backlog_takes_its_time_and_live_samples_do_not_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = aged(folder.path(), &[(400, 0)]);
    let settings = Settings { backlog_rate: Some(1000), ..SETTINGS };
    let mut drain = Drain::new(&settings, "test".into(), LARGE);
    let (mut now_ms, mut seq, mut waits) = (HOUR_MS, 400, 0);
    let (mut old, mut old_bytes) = (0, 0);
    while old < 400 {
        if now_ms.is_multiple_of(60_000) {
            spool.push(sample(seq, 600), false, now_ms);
            spool.seal();
            drain.begin(&mut spool);
        }
        let mut live = false;
        while let Some(batch) = drain.next(&mut spool, &handover(now_ms), false) {
            let bytes: usize = batch.parcels.iter().map(|parcel| parcel.ndjson().len()).sum();
            let here = all_seqs(&batch);
            live |= here.contains(&seq);
            old += here.iter().filter(|seq| **seq < 400).count();
            old_bytes += bytes;
            drain.settle(verdict(&batch, Act::Take, &[], false), &mut spool, now_ms, 0.0);
        }
        if now_ms.is_multiple_of(60_000) {
            // A tail that fits no record may wait for one more interval.
            waits = if live { 0 } else { waits + 1 };
            assert!(waits < 2, "a live sample waits behind the backlog");
            seq += 1;
        }
        let next_ms = (now_ms / 60_000 + 1) * 60_000;
        now_ms = drain.due_ms().map_or(next_ms, |due_ms| due_ms.min(next_ms));
    }
    let seconds = (now_ms - HOUR_MS) / 1000;
    println!("{old_bytes} bytes within {seconds} s");
    // One bucket of 10 s and one chunk at most go ahead of the rate.
    assert!(old_bytes as u64 <= (seconds + 10) * 1000 + 60_000, "{old_bytes} in {seconds} s");
    assert!(seconds < old_bytes as u64 / 1000 + 120, "{old_bytes} in {seconds} s");
    // Nothing is left to pace.
    spool.push(sample(seq, 600), false, now_ms);
    assert_eq!(drain.due_ms(), None);
}

#[test]
fn a_days_bytes_are_for_live_samples_first_and_the_next_day_brings_new_ones() {
    const LIMIT: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut spool = aged(folder.path(), &[(1000, 0)]);
    let settings = Settings { daily_bytes: Some(LIMIT), ..SETTINGS };
    let mut drain = Drain::new(&settings, "test".into(), LARGE);
    let midnight = 20_000 * 86_400_000i64;
    let (mut live, mut old, mut spent) = (0, 0, 0);
    for minute in 0..2880u64 {
        let now_ms = HOUR_MS + minute * 60_000;
        if minute.is_multiple_of(5) {
            spool.push(sample(1000 + minute / 5, 600), false, now_ms);
        }
        spool.seal();
        drain.begin(&mut spool);
        let at = Handover { wall_ms: midnight + (minute * 60_000) as i64, ..handover(now_ms) };
        while let Some(batch) = drain.next(&mut spool, &at, false) {
            let parcels = batch.parcels.iter().map(|parcel| parcel.ndjson().len());
            spent += 1000 + parcels.map(|bytes| LARGE.wire.parcel(bytes)).sum::<u64>();
            let (now, then): (Vec<u64>, _) = all_seqs(&batch).into_iter().partition(|s| *s >= 1000);
            (live, old) = (live + now.len(), old + then.len());
            drain.settle(verdict(&batch, Act::Take, &[], false), &mut spool, now_ms, 0.0);
        }
        let due = usize::try_from(minute / 5).unwrap();
        // A tail that fits no record may wait for one more interval.
        assert!(
            live + 1 >= due,
            "{live} of {due} live samples, {old} old ones, in minute {minute}"
        );
        if minute == 1439 {
            println!("the first day: {live} live, {old} of the backlog, {spent} bytes");
            assert!(spent <= LIMIT && spent > LIMIT * 8 / 10, "{spent}");
            spent = 0;
        }
    }
    println!("in two days: {live} live, {old} of the backlog; the second had {spent} bytes");
    assert!(spent <= LIMIT, "{spent}");
}

#[test]
fn when_a_days_bytes_are_spent_it_is_said_once_and_what_never_left_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = aged(folder.path(), &[(100, HOUR_MS)]);
    let settings = Settings { daily_bytes: Some(30_000), ..SETTINGS };
    let mut drain = Drain::new(&settings, "test".into(), LARGE);
    let at = handover(HOUR_MS);
    for kind in [TroubleKind::Unreachable; 100].into_iter().chain([TroubleKind::Unanswered; 4]) {
        assert_eq!(drain.stats().spent, None);
        drain.begin(&mut spool);
        drain.next(&mut spool, &at, true).unwrap();
        drain.settle(Verdict::Failed(trouble(kind)), &mut spool, HOUR_MS, 0.0);
    }
    drain.begin(&mut spool);
    assert!(drain.next(&mut spool, &at, true).is_none());
    let said = drain.stats().spent.clone().unwrap();
    assert!(said.contains("30000 bytes") && said.contains("00:00 UTC"), "{said}");
    let tomorrow = Handover { wall_ms: at.wall_ms + 86_400_000, ..at };
    assert!(drain.next(&mut spool, &tomorrow, true).is_some());
    assert_eq!(drain.stats().spent, None);
}

#[test]
fn a_marker_that_is_refused_is_set_aside_and_not_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path());
    opened(&mut spool);
    spool.push(sample(0, 10), false, 0);
    spool.all_have(0);
    spool.seal();
    let mut drain = Drain::new(&SETTINGS, "test".into(), LIMITS);
    drain.begin(&mut spool);
    let batch = drain.next(&mut spool, &handover(0), true).unwrap();
    drain.settle(verdict(&batch, Act::Take, &[], false), &mut spool, 0, 0.5);
    assert!(spool.end_run());
    drain.begin(&mut spool);
    let batch = drain.next(&mut spool, &handover(0), true).unwrap();
    let line = String::from_utf8_lossy(batch.parcels[0].ndjson()).into_owned();
    assert!(line.contains("\"kind\":\"run_end\""), "{line}");
    drain.settle(Verdict::Refused(trouble(TroubleKind::Data)), &mut spool, 0, 0.5);
    assert_eq!((drain.stats().buried, spool.declarations()), (1, Vec::new()));
    let now = Moment { wall_ms: 0, boot_ms: 0, synced: true };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(spool.close(&now)).unwrap();
    let letters = std::fs::read_to_string(folder.path().join("spool/dead-letters.ndjson")).unwrap();
    assert!(letters.contains("run_end"), "{letters}");
}
