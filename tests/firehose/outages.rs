//! Nobody answers for a while.

use std::thread;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::{Fault, Faults};
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{DEVICE, Rig, SOON, assert_complete, dates, run_of, stop};

use crate::AGENT;

/// Asserts that the agent samples through an outage, and delivers again within
/// `limit` of its end, with all of what was sampled meanwhile.
fn survives(
    rig: &Rig,
    mut agent: Agent,
    lasts: Duration,
    limit: Duration,
    (cut, mend): (impl FnOnce(), impl FnOnce()),
) {
    run_of(&mut agent);
    agent.wait_for("samples", SOON, |_| rig.stand_in.stats().stored.samples >= 10);
    cut();
    thread::sleep(lasts);
    let before = rig.stand_in.stats().stored.samples;
    mend();
    let back = Instant::now();
    agent.wait_for("deliveries", SOON, |_| rig.stand_in.stats().stored.samples > before);
    let after = back.elapsed();
    let ended = stop(&mut agent);
    let stored = rig.stand_in.stored();
    let dates = dates(&stored, DEVICE, ended.run);
    let steps = dates.values().zip(dates.values().skip(1)).map(|(from, to)| *to - *from);
    let longest = steps.max().unwrap();
    println!("offline {lasts:?}, again after {after:?}, {longest} at most between samples");
    assert_complete(&stored, ended, 1);
    // The cut may have hit the answer to one batch.
    assert!(stored.totals().duplicates <= 20, "{:?}", stored.totals());
    assert!(after <= limit, "{after:?}");
    assert!(longest.num_milliseconds() < 1500, "{longest}");
    let log = agent.stderr();
    assert_eq!(log.matches("nothing is delivered").count(), 1, "{log}");
    assert_eq!(log.matches("delivering again after").count(), 1, "{log}");
}

#[test]
fn a_refused_connection_delays_and_loses_nothing() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    let agent = rig.launch().set("sink.firehose.endpoint_url", relay.url()).start();
    let ends = (|| relay.pull(), || relay.mend());
    let lasts = Duration::from_secs(by_tier(4, 10, 120));
    survives(&rig, agent, lasts, Duration::from_secs(20), ends);
}

#[test]
fn answers_that_never_come_delay_and_lose_nothing() {
    if by_tier(true, false, false) {
        return println!("an answer is waited for for 30 s: not in the quick tier");
    }
    let rig = Rig::new(AGENT);
    let agent = rig.launch().start();
    let hang = || rig.stand_in.set_faults(Faults::Always(Fault::Hang));
    let ends = (hang, || rig.stand_in.set_faults(Faults::Never));
    // The request under way is given up after 30 s; then a first failure's wait.
    let limit = Duration::from_secs(32);
    survives(&rig, agent, Duration::from_secs(5), limit, ends);
}
