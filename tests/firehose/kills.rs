//! kill -9 at random moments: with faults of all kinds, and where the spool is
//! busiest.

use std::fs;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use iot_agent_test_support::firehose::{Fault, Faults, Stored};
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{DEVICE, Rig, assert_complete, dates, run_of};
use iot_agent_test_support::{by_tier, rng};
use rand::RngExt;
use rustix::process::Signal;
use serde_json::Value;

use crate::AGENT;

const INTERVAL: TimeDelta = TimeDelta::milliseconds(100);
const MAX_LOSS: TimeDelta = TimeDelta::seconds(1);

/// A commit on a busy machine's disk, and the start of one.
const COMMIT: TimeDelta = TimeDelta::milliseconds(500);

/// An agent that was killed.
struct Killed {
    run: u64,
    began: DateTime<Utc>,
    at: DateTime<Utc>,
}

impl Killed {
    /// How much of its time is lost: from its first sample that did not arrive
    /// on. Nothing before that one may be missing.
    fn loss(&self, stored: &Stored) -> TimeDelta {
        let dates = dates(stored, DEVICE, self.run);
        let arrived = dates.iter().enumerate().take_while(|(n, (seq, _))| *n as u64 == **seq);
        let last = arrived.last().map(|(_, (_, date))| *date);
        // The first one that did not arrive was due an interval after the last
        // that did.
        let lost_from = last.map_or(self.began, |last| last + INTERVAL);
        (self.at - lost_from).max(TimeDelta::zero())
    }
}

#[test]
fn a_kill_takes_max_loss_one_interval_and_one_commit_at_most() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    let launch = || rig.launch().set("sink.firehose.endpoint_url", relay.url());
    let mut random = rng();
    let mut killed = Vec::new();
    for _ in 0..by_tier(3, 15, 100) {
        let faults = match random.random_range(0..5) {
            0 => Faults::Never,
            1 => Faults::Always(Fault::Hang),
            2 => Faults::mix(random.random(), [(30, Fault::LoseAnswer), (30, Fault::Cut)]),
            3 => Faults::mix(random.random(), [(50, Fault::Throttle), (30, Fault::FailShare(0.5))]),
            _ => {
                relay.pull();
                Faults::Never
            }
        };
        rig.stand_in.set_faults(faults);
        let mut agent = launch().start();
        let run = run_of(&mut agent);
        let began = Utc::now();
        thread::sleep(Duration::from_millis(random.random_range(0..5000)));
        let at = Utc::now();
        agent.kill9();
        killed.push(Killed { run, began, at });
        relay.mend();
    }
    rig.stand_in.set_faults(Faults::Never);
    let ended = rig.drain(launch);

    let stored = rig.stand_in.stored();
    ended.iter().for_each(|ended| assert_complete(&stored, *ended, 1));
    let mut losses: Vec<TimeDelta> = killed.iter().map(|killed| killed.loss(&stored)).collect();
    losses.sort_unstable();
    let ms: Vec<i64> = losses.iter().map(TimeDelta::num_milliseconds).collect();
    println!("{} kills; lost (ms): {ms:?}; {:?}", killed.len(), stored.totals());
    assert!(*losses.last().unwrap() <= MAX_LOSS + INTERVAL + COMMIT, "{ms:?}");
}

const DEVICES: u64 = 10;

/// Samples a second of each device, ten times the real ones.
const RATE: i64 = 100;

/// A spool of a few small generations, one of which is full every few seconds.
fn busy(rig: &Rig) -> Launch {
    rig.launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--profile", "uniform"])
        .args(["--speed", "10x"])
        .set("spool.max_bytes", "8MiB")
        .set("spool.keep_free", "1MiB")
}

/// What of `run` arrived or was declared, from its first sample on; panics
/// where something is missing before the last that is there.
fn accounted(stored: &Stored, device: &str, run: u64) -> u64 {
    let gaps = stored.markers().iter().filter(|line| line["id_device"] == device);
    let gaps = gaps.map(|line| &line["marker"]);
    let gaps = gaps.filter(|marker| marker["kind"] == "gap" && marker["run"] == run);
    let seq = |marker: &Value, name: &str| marker[name].as_u64().unwrap();
    let gaps: Vec<(u64, u64)> =
        gaps.map(|marker| (seq(marker, "first_seq"), seq(marker, "last_seq"))).collect();
    let there = |seq: u64| {
        stored.times(device, run, seq) > 0
            || gaps.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    };
    let end = (0..).take_while(|seq| there(*seq)).count() as u64;
    // No run lasts for more than some seconds.
    let stray: Vec<u64> = (end..end + 10_000).filter(|seq| there(*seq)).collect();
    assert!(stray.is_empty(), "{device}, run {run}: {end} is missing, and not {stray:?}");
    end
}

#[test]
fn a_kill_in_a_start_a_drain_a_switch_of_generations_or_a_stop_is_like_any_other() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    let launch = || busy(&rig).set("sink.firehose.endpoint_url", relay.url());
    let mut random = rng();
    let (mut killed, mut kills, mut switches) = (Vec::new(), 0, 0);
    let mut newest = None;
    for round in 0..by_tier(5, 15, 100) {
        let moment = round % 5;
        match moment {
            // A backlog begins, and goes on through several switches.
            0 => relay.pull(),
            3 => relay.mend(),
            _ => {}
        }
        let mut agent = launch().start();
        if moment == 1 {
            thread::sleep(Duration::from_millis(random.random_range(0..50)));
        } else {
            let run = run_of(&mut agent);
            let began = Utc::now();
            let ms = if moment == 3 { 100..2000 } else { 1000..6000 };
            thread::sleep(Duration::from_millis(random.random_range(ms)));
            if moment == 4 {
                agent.signal(Signal::TERM);
                thread::sleep(Duration::from_millis(random.random_range(0..150)));
            }
            killed.push(Killed { run, began, at: Utc::now() });
        }
        agent.kill9();
        kills += 1;
        let now = newest_generation(&rig);
        switches += u32::from(newest.replace(now) != Some(now));
    }
    relay.mend();
    rig.drain(|| busy(&rig));

    let stored = rig.stand_in.stored();
    let mut worst = TimeDelta::zero();
    for Killed { run, began, at } in killed {
        for device in 1..=DEVICES {
            let end = accounted(&stored, &format!("sim-{device:04}"), run);
            let taken = TimeDelta::milliseconds(end as i64 * 1000 / RATE);
            worst = worst.max(at - began - taken);
        }
    }
    println!(
        "{kills} kills, {switches} with another newest generation than before; \
         at most {} ms lost; {:?}",
        worst.num_milliseconds(),
        stored.totals()
    );
    assert!(worst <= MAX_LOSS + INTERVAL + COMMIT, "{worst}");
}

/// The number in the name of the generation that is written to.
fn newest_generation(rig: &Rig) -> Option<u64> {
    let names = fs::read_dir(rig.spool()).into_iter().flatten().flatten();
    let numbers = names
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("gen-")?.parse::<u64>().ok());
    numbers.max()
}
