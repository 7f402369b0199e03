//! A record that the service will never take.

use iot_agent_test_support::rig::{DEVICE, Rig, SOON, run_of, stop};
use serde_json::Value;

use crate::AGENT;

#[test]
fn one_refused_sample_becomes_one_dead_letter_and_the_rest_arrives() {
    const POISON: u64 = 25;
    let rig = Rig::new(AGENT);
    let mut agent = rig.launch().start();
    let run = run_of(&mut agent);
    rig.stand_in.refuse_marked(Some(&format!("\"run\":{run},\"seq\":{POISON},")));
    agent.wait_for("the samples behind it", SOON, |_| {
        rig.stand_in.stored().times(DEVICE, run, 2 * POISON) > 0
    });
    let ended = stop(&mut agent);
    assert_eq!(agent.stderr().matches("is refused for good").count(), 1, "{}", agent.stderr());

    let check = |waiting: u64| {
        let letters = rig.json(&["spool", "dead-letters", "--json"]);
        let [letter] = &letters[..] else { panic!("{letters:?}") };
        println!("{letter}");
        assert!(letter["reason"].as_str().unwrap().contains("InvalidArgumentException"));
        let record: Value = serde_json::from_str(letter["record"].as_str().unwrap()).unwrap();
        assert_eq!((&record["run"], &record["seq"]), (&run.into(), &POISON.into()));
        assert_eq!(rig.waiting(), waiting);
        let missing = rig.stand_in.stored().missing(DEVICE, run, ended.samples);
        assert_eq!(missing, [POISON]);
    };
    check(0);

    // Set aside is set aside: it is not tried again, though it would be taken.
    rig.stand_in.refuse_marked(None);
    let mut agent = rig.launch().start();
    let before = rig.stand_in.stats().stored.samples;
    agent.wait_for("new samples", SOON, |_| rig.stand_in.stats().stored.samples > before + 10);
    stop(&mut agent);
    check(0);
    assert_eq!(rig.stand_in.stored().totals().duplicates, 0);
}
