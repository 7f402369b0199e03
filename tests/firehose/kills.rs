//! kill -9 at random moments, with faults of all kinds.

use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use iot_agent_test_support::firehose::{Fault, Faults, Stored};
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{DEVICE, Rig, assert_complete, dates, run_of};
use iot_agent_test_support::{by_tier, rng};
use rand::RngExt;

use crate::AGENT;

pub const INTERVAL: TimeDelta = TimeDelta::milliseconds(100);
pub const MAX_LOSS: TimeDelta = TimeDelta::seconds(1);

/// A commit on a busy machine's disk, and the start of one.
pub const COMMIT: TimeDelta = TimeDelta::milliseconds(500);

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
