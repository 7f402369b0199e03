//! A stop while the service is slow.

use iot_agent_test_support::firehose::{Fault, Faults};
use iot_agent_test_support::rig::{Rig, SOON, assert_complete, stop};

use crate::AGENT;

#[test]
fn a_stop_sends_nothing_twice_that_may_have_arrived() {
    let rig = Rig::new(AGENT);
    let mut agent = rig.launch().start();
    agent.wait_for("samples", SOON, |_| rig.stand_in.stats().stored.samples >= 10);
    // Longer than a stop waits for an answer to what was stored.
    rig.stand_in.set_faults(Faults::Always(Fault::Slow(6000)));
    agent.wait_for("a slow answer", SOON, |_| rig.stand_in.stats().faults.contains_key("slow"));
    let first = stop(&mut agent);
    let stored = rig.stand_in.stored().totals();
    println!("{first:?}: {stored:?}, {} wait", rig.waiting());
    assert_eq!(stored.duplicates, 0, "{stored:?}");
    // What had no answer waits, beside what was not sent.
    assert!(rig.waiting() > first.samples - stored.samples, "{} wait", rig.waiting());

    rig.stand_in.set_faults(Faults::Never);
    let ended = rig.drain(|| rig.launch());
    let stored = rig.stand_in.stored();
    ended.iter().chain([&first]).for_each(|ended| assert_complete(&stored, *ended, 1));
}
