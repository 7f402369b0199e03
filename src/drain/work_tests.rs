use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::BootId;
use crate::clock::Moment;
use crate::drain::Parcel;
use crate::record::{ClockState, Line, Run, Sample};
use crate::spool::{self, Claim, KeepFree, WhenFull};

const LIMITS: Limits = Limits {
    parcel_samples: 7,
    parcel_bytes: 4000,
    batch_parcels: 5,
    batch_bytes: 12_000,
    billing_quantum_bytes: 1000,
};
const SETTINGS: Settings = Settings { interval: Duration::from_secs(60), order: Order::FreshFirst };

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
        body: format!("\"pad\":\"{}\"", "x".repeat(body_bytes)).into(),
    }
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
    Trouble { kind, text: "said by the test".into() }
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
    drain.fill(&mut spool, usize::MAX);
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
        for round in 0..2000 {
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
            if bodies.peek().is_none() && drain.pending.is_empty() && drain.suspects.is_empty() {
                break;
            }
            prop_assert!(round < 1999, "it never drains");
        }
        let buried = (0..pushed).filter(|seq| poison.contains(seq)).count() as u64;
        prop_assert_eq!(drain.stats().buried, buried);
        prop_assert!(delivered.values().all(|&times| times == 1));
        prop_assert_eq!(delivered.len() as u64 + buried, pushed);
    }
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
