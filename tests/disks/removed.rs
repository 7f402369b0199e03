//! A spool folder that somebody takes away.

use std::fs;

use iot_agent_test_support::eventually;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{DEVICE, Rig, SOON, assert_complete, run_of, stop};
use serde_json::json;

use crate::{
    AGENT, DEVICES, assert_delivers, assert_nothing_missing, assert_unbroken, devices, undeclared,
};
use crate::{launch, offline, wait_for_commit};

const BEGUN_ANEW: &str = "the spool was removed while in use, and is begun anew";

fn remove(rig: &Rig, moved: bool) {
    match moved {
        true => fs::rename(rig.spool(), rig.home().join("elsewhere")).unwrap(),
        // It may come back while it is being removed.
        false => eventually("it is removed", SOON, || fs::remove_dir_all(rig.spool()).is_ok()),
    }
}

#[test]
fn a_folder_that_is_removed_or_moved_away_comes_back_and_is_used() {
    for moved in [false, true] {
        let rig = Rig::new(AGENT);
        let relay = Relay::to(rig.address());
        let mut agent = launch(&rig, &relay).start();
        run_of(&mut agent);
        assert_delivers(&rig, &mut agent);
        remove(&rig, moved);
        assert_delivers(&rig, &mut agent);
        relay.pull();
        let offline = "nothing is delivered";
        agent.wait_for("an outage", SOON, |agent| agent.stderr().contains(offline));
        wait_for_commit(&rig, &mut agent);
        let ended = stop(&mut agent);
        assert!(rig.waiting() > 0);
        assert_eq!(agent.stderr().matches(BEGUN_ANEW).count(), 1, "{}", agent.stderr());
        assert_nothing_missing(&rig, ended);
    }
}

#[test]
fn what_memory_still_has_of_a_spool_that_was_removed_becomes_durable_again() {
    let rig = Rig::new(AGENT);
    let (relay, mut agent) = offline(&rig);
    let run = run_of(&mut agent);
    remove(&rig, false);
    agent.wait_for("a new one", SOON, |agent| agent.stderr().contains(BEGUN_ANEW));
    wait_for_commit(&rig, &mut agent);
    // What was rescued goes with the next commit.
    std::thread::sleep(std::time::Duration::from_secs(3));
    agent.kill9();
    relay.mend();
    let mut agent = launch(&rig, &relay).start();
    assert_ne!(run_of(&mut agent), run);
    assert_delivers(&rig, &mut agent);
    let ended = stop(&mut agent);
    assert_nothing_missing(&rig, ended);
    assert_unbroken(&rig);
    let stored = rig.stand_in.stored();
    assert_eq!((0..20).find(|seq| stored.times(DEVICE, run, *seq) == 0), None);
}

#[test]
fn what_went_with_a_spool_that_was_removed_is_declared_and_no_more() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    relay.pull();
    let mut agent = devices(launch(&rig, &relay)).args(["--speed", "20x"]).start();
    run_of(&mut agent);
    agent.wait_for("a backlog", SOON * 2, |_| rig.spool_bytes() > 4 << 20);
    let before = stop(&mut agent);
    let mut agent = devices(launch(&rig, &relay)).start();
    run_of(&mut agent);
    remove(&rig, false);
    agent.wait_for("a new one", SOON, |agent| agent.stderr().contains(BEGUN_ANEW));
    relay.mend();
    let left = || undeclared(&rig.stand_in.stored(), before);
    agent.wait_for("all that is left, or a word about it", SOON * 2, |_| left() == Some(0));
    let ended = stop(&mut agent);
    rig.drain(|| devices(launch(&rig, &relay)));
    let stored = rig.stand_in.stored();
    assert_complete(&stored, ended, DEVICES);
    let gaps = stored.markers().iter().filter(|line| line["marker"]["kind"] == "gap");
    let gaps: Vec<_> = gaps.map(|line| line["marker"].clone()).collect();
    println!("{before:?}: {} gaps", gaps.len());
    assert!(!gaps.is_empty());
    for gap in gaps {
        assert_eq!((&gap["reason"], &gap["run"]), (&json!("damaged"), &json!(before.run)), "{gap}");
    }
}
