//! The watchdog follows sampler and drain: an outage and a hung disk do not fire
//! it, for the agent samples on; a disk that hangs for five minutes does.
//!
//! Needs: root

#![cfg(test)]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::manager::Manager;
use iot_agent_test_support::mounts::Mounted;
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, run_of};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// How often it is to be fed.
const PERIOD: Duration = Duration::from_secs(4);

/// What the watchdog bears of a hung disk.
const PATIENCE: Duration = Duration::from_secs(300);

#[track_caller]
fn assert_fed(manager: &Manager, agent: &mut Agent) {
    let before = manager.times("WATCHDOG").len();
    agent.wait_for("pings", SOON, |_| manager.times("WATCHDOG").len() >= before + 3);
}

#[test]
fn a_service_that_takes_connections_and_never_answers_does_not_fire_it() {
    let (manager, rig) = (Manager::new(), Rig::new(AGENT));
    // The kernel takes the connections.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let launch = rig.launch().set("sink.firehose.endpoint_url", url);
    let mut agent = manager.service(launch, Some(PERIOD)).start();
    let outage = |line: &str| line.starts_with("nothing is delivered: ");
    manager.wait_for(&mut agent, "STATUS", SOON * 2, outage);
    assert_fed(&manager, &mut agent);
}

/// The five minutes themselves are waited for at the full tier, and pass in
/// virtual time in `src/agent/simulation.rs`.
#[test]
fn a_disk_that_hangs_is_a_degraded_state_before_it_fires_it() {
    let disk = Mounted::ext4(32 << 20);
    let home = tempfile::tempdir_in(disk.path()).unwrap();
    let (manager, rig) = (Manager::new(), Rig::at(AGENT, Default::default(), home));
    let relay = Relay::to(rig.address());
    relay.pull();
    let launch = rig.launch().set("sink.firehose.endpoint_url", relay.url());
    let mut agent = manager.service(launch, Some(PERIOD)).start();
    run_of(&mut agent);
    agent.wait_for("a commit", SOON, |_| rig.spool_bytes() > 100 << 10);
    let frozen = disk.freeze();
    let begun = Instant::now();
    // Without the network every second brings a commit, and one of them hangs.
    let degraded = |line: &str| line.starts_with("degraded, ");
    manager.wait_for(&mut agent, "STATUS", SOON * 2, degraded);
    relay.mend();
    let arrived = || rig.stand_in.stats().stored.samples;
    agent.wait_for("deliveries", SOON, |_| arrived() > 20);
    assert_fed(&manager, &mut agent);
    if by_tier(false, false, true) {
        let stuck = |agent: &Agent| agent.stderr().contains("the watchdog is not fed any more");
        agent.wait_for("an end of patience", PATIENCE + SOON, stuck);
        assert!(begun.elapsed() > PATIENCE, "{:?}", begun.elapsed());
        let (pings, samples) = (manager.times("WATCHDOG").len(), arrived());
        // Long enough for a few pings.
        agent.wait_for("deliveries", SOON * 2, |_| arrived() > samples + 200);
        assert_eq!(manager.times("WATCHDOG").len(), pings);
    }
    drop(frozen);
    agent.wait_for("the end of it", SOON, |agent| {
        agent.stderr().contains("the spool takes samples again")
    });
    assert_fed(&manager, &mut agent);
}
