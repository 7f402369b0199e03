//! All is well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::{Fault, Faults};
use iot_agent_test_support::rig::{DEVICE, Rig, SOON, assert_complete, dates, ids, run_of, stop};
use serde_json::Value;

use crate::AGENT;

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("no {field} in {line}"))
}

#[test]
fn every_sample_arrives_once_and_is_what_the_contract_says() {
    let rig = Rig::new(AGENT);
    let begin = Utc::now();
    let mut agent = rig.launch().start();
    agent.wait_for("30 samples", SOON, |_| rig.stand_in.stats().stored.samples >= 30);
    let ended = stop(&mut agent);
    let end = Utc::now();
    assert_eq!(rig.waiting(), 0);

    let (stored, stats) = (rig.stand_in.stored(), rig.stand_in.stats());
    println!("{ended:?} {:?}", stats.stored);
    assert_complete(&stored, ended, 1);
    assert_eq!((stats.stored.duplicates, stats.stored.bad_lines, stats.refused), (0, 0, 0));
    assert_eq!(stats.connections, 1, "one connection serves all sends");
    assert!(stats.last_user_agent.contains("iot-agent/"), "{}", stats.last_user_agent);

    let hour = |at: DateTime<Utc>| at.format("%Y-%m-%d %H").to_string();
    let [said] = stored.markers() else { panic!("{:?}", stored.markers()) };
    let said = &said["marker"];
    assert_eq!((&said["kind"], &said["reason"]), (&"run_end".into(), &"clean".into()));
    assert_eq!(said["last_seq"], ended.samples - 1);
    for line in stored.samples() {
        assert_eq!(text(&line, "id_device"), DEVICE);
        assert_eq!((&line["simulated"], &line["run"]), (&false.into(), &ended.run.into()));
        assert!([hour(begin), hour(end)].contains(&text(&line, "timestamp_sent").to_owned()));
        assert_eq!(text(&line, "timestamp").len(), "2026-11-24T15:07:12.045Z".len());
        assert!(["synced", "corrected", "unsynced"].contains(&text(&line, "clock")));
        assert!((0.0..=1.0).contains(&line["ram"].as_f64().unwrap()), "{line}");
    }
    let dates = dates(&stored, DEVICE, ended.run);
    assert!(
        dates[&0] >= begin - TimeDelta::milliseconds(1) && *dates.values().last().unwrap() <= end
    );
    let steps = dates
        .values()
        .zip(dates.values().skip(1))
        .map(|(from, to)| (*to - *from).num_milliseconds());
    let mut steps: Vec<i64> = steps.collect();
    steps.sort_unstable();
    let median = steps[steps.len() / 2];
    assert!(steps[0] > 0 && (95..=105).contains(&median), "{steps:?}");
}

#[test]
fn a_stop_keeps_what_cannot_be_delivered_and_the_next_start_delivers_it() {
    let rig = Rig::new(AGENT);
    let launch = || rig.launch().args(["--simulate", "--devices", "3"]);
    let mut agent = launch().start();
    agent.wait_for("30 samples", SOON, |_| rig.stand_in.stats().stored.samples >= 30);
    rig.stand_in.set_faults(Faults::Always(Fault::Throttle));
    agent.wait_for("a failure", SOON, |_| !rig.stand_in.stats().faults.is_empty());
    let first = stop(&mut agent);
    let before = rig.stand_in.stored().distinct();
    assert!(before < first.samples, "{before} of {first:?}");
    assert_eq!(rig.waiting(), first.samples - before);

    rig.stand_in.set_faults(Faults::Never);
    let mut agent = launch().start();
    let run = run_of(&mut agent);
    let behind = || rig.stand_in.stored().distinct() < first.samples + 30;
    agent.wait_for("the rest", SOON, |_| !behind());
    let second = stop(&mut agent);
    assert_eq!((second.run, first.run != run), (run, true));

    let stored = rig.stand_in.stored();
    println!("{first:?}, {before} of it before the stop; {second:?}");
    for ended in [first, second] {
        assert_complete(&stored, ended, 3);
        assert_eq!(
            ids(&stored, ended.run).collect::<Vec<_>>(),
            ["sim-0001", "sim-0002", "sim-0003"]
        );
    }
    assert!(stored.lines().all(|line| line["simulated"] == true));
    assert_eq!(stored.totals().duplicates, 0);
}

#[test]
fn a_stop_before_an_endpoint_that_hangs_takes_five_seconds_at_most_and_loses_nothing() {
    let rig = Rig::new(AGENT);
    rig.stand_in.set_faults(Faults::Always(Fault::Hang));
    let mut agent = rig.launch().start();
    agent.wait_for("a hanging request", SOON, |_| !rig.stand_in.stats().faults.is_empty());
    let start = std::time::Instant::now();
    let first = stop(&mut agent);
    println!("{first:?} left within {:?}", start.elapsed());
    assert_eq!(rig.stand_in.stats().stored.samples, 0);

    rig.stand_in.set_faults(Faults::Never);
    let mut ended = rig.drain(|| rig.launch());
    ended.push(first);
    let stored = rig.stand_in.stored();
    ended.iter().for_each(|ended| assert_complete(&stored, *ended, 1));
    assert_eq!(stored.totals().duplicates, 0);
}

/// Sixty samples a send, as at one a second and the default of `send.interval`.
#[test]
fn what_is_billed_is_what_is_sent_and_the_tail_waits_one_more_interval_at_most() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let rig = Rig::new(AGENT);
    // When each record came, by its place.
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let noted = arrivals.clone();
    rig.stand_in.set_faults(Faults::with(move |call| {
        noted.lock().unwrap().extend(call.records.iter().map(|_| Utc::now()));
        Fault::None
    }));
    let mut agent = rig
        .launch()
        .args(["--simulate", "--devices", "3", "--late", "0"])
        .set("send.interval", "2s")
        .set("spool.max_loss", "1m")
        .start();
    let sends = by_tier(4, 8, 60);
    thread::sleep(INTERVAL * sends);
    let stored = rig.stand_in.stored();
    let ended = stop(&mut agent);
    assert_complete(&rig.stand_in.stored(), ended, 3);

    let totals = stored.totals();
    let ratio = totals.billed_bytes as f64 / totals.useful_bytes as f64;
    println!("billed ÷ useful bytes {ratio:.3}: {totals:?}");
    assert!(ratio <= 1.1, "{ratio}");

    let mut oldest = BTreeMap::new();
    let arrivals = arrivals.lock().unwrap();
    for (record, arrived) in stored.records().iter().zip(arrivals.iter()) {
        for line in record.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let taken: DateTime<Utc> = text(&line, "timestamp").parse().unwrap();
            let age_ms = (*arrived - taken).num_milliseconds();
            *oldest.entry(age_ms / 500 * 500).or_insert(0) += 1;
        }
    }
    println!("samples by age at arrival (ms): {oldest:?}");
    let slack_ms = 500;
    let limit_ms = 2 * INTERVAL.as_millis() as i64 + slack_ms;
    assert!(*oldest.last_key_value().unwrap().0 <= limit_ms, "{oldest:?}");
}
