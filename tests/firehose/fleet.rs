//! Several agents come back from one outage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::{Fault, Faults};
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, assert_complete, run_of, stop};
use serde_json::Value;

use crate::AGENT;

const AGENTS: usize = 8;

/// Requests that the service takes in one second, twice what the agents need;
/// more are throttled.
const TAKES: usize = 4;

/// Bytes a second of the backlog of each agent, and what its bucket holds.
const RATE: u64 = 1024;
const BUCKET: u64 = 10 * RATE;

/// Lines of one chunk at most, which goes as a whole.
const CHUNK: u64 = 96 * 1024;

/// One request as it came.
struct Arrival {
    after: Duration,
    device: String,
    throttled: bool,
    /// Bytes and dates of its samples.
    samples: Vec<(u64, DateTime<Utc>)>,
    at: DateTime<Utc>,
}

fn device(number: usize) -> String {
    format!("fleet-{number}")
}

fn start(rig: &Rig, relay: &Relay, number: usize) -> Agent {
    let mut agent = rig
        .launch()
        .set("device.id", device(number))
        .set("spool.path", rig.home().join(format!("spool-{number}")).display())
        .set("sample.interval", "500ms")
        .set("send.interval", "4s")
        .set("send.backlog_rate", format!("{RATE}B"))
        .set("sink.firehose.endpoint_url", relay.url())
        .start();
    run_of(&mut agent);
    agent
}

/// Throttles what comes too fast, and notes all that comes.
fn note(rig: &Rig) -> Arc<Mutex<Vec<Arrival>>> {
    let arrivals = Arc::new(Mutex::new(Vec::<Arrival>::new()));
    let (noted, start) = (arrivals.clone(), Instant::now());
    rig.stand_in.set_faults(Faults::with(move |call| {
        let lines = call.records.iter().flat_map(|record| record.split(|byte| *byte == b'\n'));
        let lines = lines.filter_map(|line| Some((line.len(), serde_json::from_slice(line).ok()?)));
        let lines: Vec<(usize, Value)> = lines.collect();
        let device = lines[0].1["id_device"].as_str().unwrap().to_owned();
        let samples = lines.iter().filter(|(_, line)| line["marker"].is_null());
        let samples = samples.map(|(bytes, line)| {
            (*bytes as u64 + 1, line["timestamp"].as_str().unwrap().parse().unwrap())
        });
        let mut arrivals = noted.lock().unwrap();
        let after = start.elapsed();
        let lately = arrivals
            .iter()
            .rev()
            .take_while(|before| after.saturating_sub(before.after) < Duration::from_secs(1));
        let throttled = lately.filter(|before| !before.throttled).count() >= TAKES;
        let samples = samples.collect();
        arrivals.push(Arrival { after, device, throttled, samples, at: Utc::now() });
        if throttled { Fault::Throttle } else { Fault::None }
    }));
    arrivals
}

#[test]
fn a_fleet_comes_back_spread_and_live_first_and_its_backlog_keeps_its_pace() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    let mut agents: Vec<Agent> = (0..AGENTS).map(|number| start(&rig, &relay, number)).collect();
    relay.pull();
    // Long enough for the waits between tries to reach their bound.
    thread::sleep(Duration::from_secs(by_tier(30, 30, 120)));
    let arrivals = note(&rig);
    let back = Utc::now();
    relay.mend();
    let done = |arrivals: &[Arrival]| {
        let heard = |number| arrivals.iter().any(|a| !a.throttled && a.device == device(number));
        if !(0..AGENTS).all(heard) {
            return false;
        }
        let old = |arrival: &Arrival| arrival.samples.iter().any(|(_, date)| *date < back);
        let last = arrivals.iter().filter(|a| !a.throttled && old(a)).map(|a| a.after).next_back();
        last.is_some_and(|last| arrivals.last().unwrap().after > last + Duration::from_secs(12))
    };
    iot_agent_test_support::eventually("the backlog arrives", SOON * 5, || {
        done(&arrivals.lock().unwrap())
    });
    let ended: Vec<_> = agents.iter_mut().map(stop).collect();
    // What waited for a throttled answer then is delivered by the next start.
    rig.stand_in.set_faults(Faults::Never);
    for (number, first) in ended.iter().enumerate() {
        let lacks = || rig.stand_in.stored().missing(&device(number), first.run, first.samples);
        if lacks().is_empty() {
            continue;
        }
        let mut agent = start(&rig, &relay, number);
        agent.wait_for("the rest", SOON * 2, |_| lacks().is_empty());
        stop(&mut agent);
    }
    let stored = rig.stand_in.stored();
    ended.iter().for_each(|ended| assert_complete(&stored, *ended, 1));
    println!("{:?}", stored.totals());

    let arrivals = arrivals.lock().unwrap();
    spread(&arrivals);
    for number in 0..AGENTS {
        let of_it = |a: &&Arrival| a.device == device(number);
        one(arrivals.iter().filter(of_it), back);
    }
}

/// The first requests of the agents do not come together, and who is throttled
/// comes less often.
fn spread(arrivals: &[Arrival]) {
    let mut firsts = BTreeMap::new();
    for arrival in arrivals {
        firsts.entry(&arrival.device).or_insert(arrival.after);
    }
    let mut firsts: Vec<Duration> = firsts.into_values().collect();
    firsts.sort_unstable();
    let throttled = arrivals.iter().filter(|arrival| arrival.throttled).count();
    let in_second = |second| arrivals.iter().filter(|a| a.after.as_secs() == second).count();
    let each: Vec<usize> = (0..15).map(in_second).collect();
    println!("first requests after {firsts:.1?}");
    println!("requests in each second: {each:?}; {throttled} of {} throttled", arrivals.len());
    assert_eq!(firsts.len(), AGENTS);
    let width = firsts[AGENTS - 1] - firsts[0];
    assert!(width > Duration::from_secs(1), "all within {width:?}");
    assert!(firsts[AGENTS - 1] < Duration::from_secs(30), "{firsts:?}");
    assert!(throttled * 2 < arrivals.len(), "{throttled} of {}", arrivals.len());
}

/// What one agent sent after the outage.
fn one<'a>(arrivals: impl Iterator<Item = &'a Arrival> + Clone, back: DateTime<Utc>) {
    let mut taken = arrivals.filter(|arrival| !arrival.throttled);
    let first = taken.next().unwrap();
    let newest = first.samples.iter().map(|(_, date)| *date).max().unwrap();
    let age = first.at - newest;
    // What is sealed in one interval goes in the next at the latest.
    assert!(age < TimeDelta::seconds(15), "the first that came was {age} old");
    let mut old_bytes = 0;
    let mut last = first.after;
    for arrival in taken {
        let old = arrival.samples.iter().filter(|(_, date)| *date < back);
        let bytes: u64 = old.map(|(bytes, _)| bytes).sum();
        old_bytes += bytes;
        if bytes > 0 {
            last = arrival.after;
        }
        let seconds = (arrival.after - first.after).as_secs() + 1;
        let most = BUCKET + CHUNK + seconds * RATE;
        assert!(old_bytes <= most, "{old_bytes} bytes within {seconds} s, {most} at most");
    }
    println!(
        "{}: the first sample is {} ms old, {old_bytes} bytes of backlog within {:.1?}",
        first.device,
        age.num_milliseconds(),
        last - first.after
    );
}
